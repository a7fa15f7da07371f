//! What can go wrong with a store: what was found, what was expected, where, and what to do about it.

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
///
/// The text of an error is one lowercase line with values in backticks; [`Error::hint`] says what to do
/// about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A place does not look like one.
    #[error("`{place}` is no place for a store: {reason}")]
    Place {
        /// The place as given.
        place: String,
        /// Why not.
        reason: String,
    },

    /// There is no store at a place.
    #[error("there is no store at `{place}`")]
    NoStore {
        /// The place as given.
        place: String,
    },

    /// There is a store already where a new one was to be made.
    #[error("there is a store at `{place}` already")]
    Exists {
        /// The place as given.
        place: String,
    },

    /// The place refused to read or write an object.
    #[error("cannot {action} `{object}`: {reason}")]
    Object {
        /// What was tried: `read`, `write`, `list`, `delete`.
        action: &'static str,
        /// The object, with the place that it is in.
        object: String,
        /// The reason that the place gave, in one line.
        reason: String,
        /// What kind of a failure it is.
        kind: ObjectErrorKind,
    },

    /// The place has no conditional writes, by which several writers keep out of each other's way.
    #[error("`{place}` does not refuse to write over an object that is there: {reason}")]
    NoConditionalPut {
        /// The place.
        place: String,
        /// What it said.
        reason: String,
    },

    /// A file of a store does not hold what it should.
    #[error("`{file}` is damaged: {reason}")]
    Damaged {
        /// The file, with the place that it is in.
        file: String,
        /// What was found, and what was expected.
        reason: String,
    },

    /// A store was written by a version of this project with another format.
    #[error("`{file}` has schema {found} of the store's format, this version reads schema {supported}")]
    UnsupportedSchema {
        /// The manifest.
        file: String,
        /// Its schema.
        found: u32,
        /// The schema that this build reads.
        supported: u32,
    },

    /// A store belongs to another encoder than what meets it.
    #[error("the store at `{place}` holds latents of encoder `{expected}`, not of `{found}`")]
    OtherEncoder {
        /// The place.
        place: String,
        /// The `encoder_id` of the store.
        expected: String,
        /// The `encoder_id` that was given.
        found: String,
    },

    /// A document cannot be stored as it is.
    #[error("document `{id}` {reason}")]
    Document {
        /// Its id.
        id: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: String,
    },

    /// A store has no document of that id.
    #[error("the store has no document `{id}`")]
    NoDocument {
        /// The id as given.
        id: String,
    },

    /// Other writers committed first, again and again.
    #[error("{attempts} attempts to commit to `{place}` all met a commit of another writer")]
    Contended {
        /// The place.
        place: String,
        /// How often it was tried.
        attempts: u32,
    },

    /// The store was rewritten while it was read.
    #[error("the store at `{place}` was compacted while it was read")]
    Moved {
        /// The place.
        place: String,
    },

    /// A search asks for something that the store does not keep.
    #[error("the store at `{place}` {reason}")]
    Search {
        /// The place.
        place: String,
        /// What is missing.
        reason: String,
        /// What to do.
        hint: String,
    },

    /// An argument is outside what the function accepts.
    #[error("{0}")]
    InvalidArgument(String),
}

/// What kind of a failure a place reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ObjectErrorKind {
    /// There is no such object.
    NotFound,
    /// There is one already.
    Exists,
    /// The disk, or the share of it, is full.
    Full,
    /// Who asks may not.
    Denied,
    /// Anything else.
    Other,
}

impl Error {
    /// What to do about it, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Place { .. } => {
                "name a folder, or `file://…`, `s3://BUCKET/…`, `gs://BUCKET/…`, `az://CONTAINER/…`"
            }
            Self::NoStore { .. } => "make one first",
            Self::Exists { .. } => "add to it, or name another place",
            Self::Object { kind: ObjectErrorKind::NotFound, .. } => {
                "verifying the store lists what is missing; the rest can be read"
            }
            Self::Object { kind: ObjectErrorKind::Full, .. } => {
                "free some space: what was committed is kept, and going on repeats nothing"
            }
            Self::Object { kind: ObjectErrorKind::Denied, .. } => "check who may read and write there",
            Self::Object { .. } => "check the place, and that it can be reached",
            Self::NoConditionalPut { .. } => {
                "open it for one writer if nobody else writes to this store at the same time"
            }
            Self::Damaged { .. } => {
                "verifying the store lists what is damaged; add those documents again, the rest can be read"
            }
            Self::UnsupportedSchema { .. } => {
                "read it with the version of `arc` that wrote it, or a later one"
            }
            Self::OtherEncoder { .. } => "use the store's encoder, or make another store for this one",
            Self::Document { hint, .. } | Self::Search { hint, .. } => hint,
            Self::NoDocument { .. } => "the store lists its documents with their ids",
            Self::Contended { .. } => "run it again: what was committed before is kept",
            Self::Moved { .. } => "run it again",
            Self::InvalidArgument(_) => "correct that argument: the documentation says what each one takes",
        };
        Some(hint.to_owned())
    }

    /// Whether a file has gone or is damaged, so that what it held cannot be had.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_not_found() || matches!(self, Self::Damaged { .. })
    }

    /// Whether an object is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Object { kind: ObjectErrorKind::NotFound, .. })
    }
}
