//! The command `arc`, in this process.

use std::ffi::OsString;

use arc_encoder::Invocation;
use pyo3::prelude::*;

/// Does what a command line says, and returns the exit code that the process is to end with.
///
/// `words` are those after the program's name; `program` starts the command line in another process.
#[pyfunction]
pub(crate) fn command_line(py: Python<'_>, words: Vec<OsString>, program: Vec<OsString>) -> u8 {
    py.detach(|| arc_encoder::run(Invocation::of_words(words, program)))
}
