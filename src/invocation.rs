//! How the command line was started: its words, and how to start it again.

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};

use arc_core::Error;

use crate::Failure;

/// A command line, and how the program that carries it is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invocation {
    arguments: Vec<OsString>,
    /// The program and its first arguments, before those of the command line; nothing where this process's
    /// program is it.
    program: Vec<OsString>,
}

impl Invocation {
    /// What this process was started with.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self { arguments: std::env::args_os().collect(), program: Vec::new() }
    }

    /// A command line of these words, its name left out, in a program that `program` starts: code plugins that
    /// are isolated run in another process of it.
    #[must_use]
    pub fn of_words(
        words: impl IntoIterator<Item = OsString>,
        program: impl IntoIterator<Item = OsString>,
    ) -> Self {
        let arguments = std::iter::once("arc".into()).chain(words).collect();
        Self { arguments, program: program.into_iter().collect() }
    }
}

/// The command line that runs.
static RUNNING: Mutex<Option<Invocation>> = Mutex::new(None);

pub(crate) fn begin(invocation: Invocation) {
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(invocation);
}

fn running() -> Invocation {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
}

/// The words of the command line, with the program's name before them.
pub(crate) fn arguments() -> Vec<OsString> {
    running().arguments
}

/// The program and its first arguments that start the command line again.
pub(crate) fn program() -> Result<(OsString, Vec<OsString>), Failure> {
    let mut program = running().program.into_iter();
    match program.next() {
        Some(name) => Ok((name, program.collect())),
        None => {
            let this = std::env::current_exe().map_err(Error::io("find", "arc"))?;
            Ok((this.into_os_string(), Vec::new()))
        }
    }
}
