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
mod readiness;
mod remove;
mod subject;
mod verify;

use std::path::Path;

use crate::Failure;
use crate::args::Global;
use crate::args::adapters::{Adapters, AdaptersCommand};
use crate::commands::table::rows_under;
use crate::output::Output;

pub(crate) fn run(global: &Global, adapters: &Adapters, output: &Output) -> Result<(), Failure> {
    match &adapters.command {
        AdaptersCommand::List { all } => list::run(global, *all, output),
        AdaptersCommand::Inspect(inspect) => inspect::run(global, inspect, output),
        AdaptersCommand::Verify(verify) => verify::run(global, verify, output),
        AdaptersCommand::Add(add) => add::run(global, add, output),
        AdaptersCommand::Remove(remove) => remove::run(global, remove, output),
        AdaptersCommand::Alias(alias) => alias::run(global, alias, output),
        AdaptersCommand::New(new) => new::run(global, new, output),
        AdaptersCommand::Pack(pack) => pack::run(global, pack, output),
        AdaptersCommand::Doctor { all } => doctor::run(global, *all, output),
    }
}

/// Rows under a header, in columns.
fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    rows_under(header.map(str::to_owned).to_vec(), rows.into_iter().map(Vec::from))
}

/// A path as people know it: relative where it lies under this folder.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let short = here.and_then(|here| path.strip_prefix(here).ok()).filter(|p| !p.as_os_str().is_empty());
    short.unwrap_or(path).display().to_string()
}
