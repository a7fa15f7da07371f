//! What can go wrong with a template.

use std::fmt;

use crate::python_text::is_printable;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// It is not Jinja.
    Syntax,
    /// It refuses what it is given, in its own words.
    Raised,
    /// It takes too many steps, or writes, nests or counts too much.
    Limit,
    /// Python would raise an exception, or what is asked for is not known here.
    Failed,
}

/// Why a template could not be read or rendered, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    reason: String,
    line: usize,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into(), line: 0 }
    }

    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, reason)
    }

    pub(crate) fn syntax(line: usize, reason: impl fmt::Display) -> Self {
        Self { kind: ErrorKind::Syntax, reason: format!("syntax error: {reason}"), line }
    }

    /// Says where it was, if that is not known already.
    pub(crate) fn at(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }

    /// What kind of thing went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The line of the template, from 1; 0 where it is about all of it.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A template's own words may have lines, and what would move a terminal's cursor or turn its text.
        for (index, word) in self.reason.split_whitespace().enumerate() {
            if index > 0 {
                formatter.write_str(" ")?;
            }
            for character in word.chars() {
                if is_printable(character) {
                    write!(formatter, "{character}")?;
                } else {
                    write!(formatter, "{}", character.escape_unicode())?;
                }
            }
        }
        if self.line > 0 {
            write!(formatter, " (line {})", self.line)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

pub(crate) type Result<T> = std::result::Result<T, Error>;
