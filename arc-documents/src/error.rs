//! What can be wrong with a document.

use std::path::PathBuf;

use crate::plain::Refusal;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a document is not read: one lowercase line with values in backticks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refuses to read a file.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A file holds no text that could be read.
    #[error("document `{name}` {reason}")]
    Unreadable {
        /// The document's name, usually its path.
        name: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: String,
    },

    /// A folder or a pattern leads to no document.
    #[error("there is no document in `{name}`")]
    NoDocument {
        /// The folder or pattern, as given.
        name: String,
    },

    /// A pattern cannot be understood.
    #[error("`{pattern}` is no pattern of files: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// What to do about it, in one line; nothing where the system's reason says it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => None,
            Self::Unreadable { hint, .. } => Some(hint.clone()),
            Self::NoDocument { .. } => Some(format!(
                "read are files that end in `{}`: name another one itself",
                crate::Format::EXTENSIONS.join("`, `")
            )),
            Self::Pattern { .. } => {
                Some("`*` and `?` stand for characters, `**` for folders, `[…]` for a choice".into())
            }
        }
    }
}

/// The error of a document that is refused.
pub(crate) fn refused(name: &str, refusal: Refusal) -> Error {
    Error::Unreadable { name: name.to_owned(), reason: refusal.reason, hint: refusal.hint }
}
