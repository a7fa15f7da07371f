//! `arc adapters`: what the registry holds, whether it works, and changes to it. One file per
//! command.

mod add;
mod alias;
mod doctor;
mod inspect;
mod list;
mod models;
mod new;
mod pack;
mod remove;
mod subject;
mod verify;

use std::path::Path;

use comfy_table::{Table, presets};

use crate::Failure;
use crate::args::Global;
use crate::args::adapters::{Adapters, AdaptersCommand};
use crate::output::Output;
use crate::terminal;

pub(crate) fn run(global: &Global, adapters: &Adapters, output: &Output) -> Result<(), Failure> {
    match &adapters.command {
        AdaptersCommand::List => list::run(global, output),
        AdaptersCommand::Inspect(inspect) => inspect::run(global, inspect, output),
        AdaptersCommand::Verify(verify) => verify::run(global, verify, output),
        AdaptersCommand::Add(add) => add::run(global, add, output),
        AdaptersCommand::Remove(remove) => remove::run(global, remove, output),
        AdaptersCommand::Alias(alias) => alias::run(global, alias, output),
        AdaptersCommand::New(new) => new::run(global, new, output),
        AdaptersCommand::Pack(pack) => pack::run(global, pack, output),
        AdaptersCommand::Doctor => doctor::run(global, output),
    }
}

/// Rows under a header, in columns.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    let rows = rows.into_iter().map(|row| row.map(|cell| terminal::in_line(&cell).into_owned()));
    table.load_style(presets::NOTHING).set_header(header.to_vec()).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// A path as people know it: relative where it lies under this folder.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| path.strip_prefix(here).ok()).filter(|p| !p.as_os_str().is_empty());
    short.unwrap_or(path).display().to_string()
}
