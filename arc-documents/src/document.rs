//! A text and its name.

use crate::Format;

/// A text with the name that it is shown by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Document {
    /// Where it came from: the path as given, or `standard input`; of a line of JSONL with `:` and its
    /// number, or what the line says in `id`.
    pub name: String,
    /// Its text, without a byte order mark; not blank.
    pub text: String,
    /// What it was written in.
    pub format: Format,
}
