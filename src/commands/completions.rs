//! `arc completions` and `arc man`: from the same source as the command line itself.

use std::io::Write as _;
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::destination::check_folder;
use crate::Failure;
use crate::args::Arguments;
use crate::output::{Output, check_open};

pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "arc", &mut script);
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(&script).and_then(|()| stdout.flush()).and_then(|()| check_open());
    written.map_err(|error| Failure::output(&error))
}

/// Writes `arc.1`, and a page for each command.
pub(crate) fn man(folder: &Path, output: &Output) -> Result<(), Failure> {
    check_folder(folder)?;
    std::fs::create_dir_all(folder).map_err(arc_core::Error::io("create", folder))?;
    clap_mangen::generate_to(Arguments::command(), folder)
        .map_err(arc_core::Error::io("write in", folder))?;
    output.line(format!("written to {}", folder.display()))?;
    output.json(&serde_json::json!({ "folder": folder.to_string_lossy() }))
}
