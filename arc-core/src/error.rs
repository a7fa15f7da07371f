//! What can go wrong in this crate, each with what was found, what was expected, and a hint.

use std::path::PathBuf;

use crate::hint::Hint;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in this crate.
///
/// The text of an error is one lowercase line with values in backticks; [`Error::hint`] says what
/// to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write a file.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `open`, `create`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// A file is not what its format says it must be: cut off, corrupt, or something else.
    #[error("`{}` is not a valid {format} file: {reason}", path.display())]
    InvalidFile {
        /// The file.
        path: PathBuf,
        /// The format's name: `GGUF`, `safetensors`, `config.json`, …
        format: &'static str,
        /// What was found, and where.
        reason: String,
    },

    /// A checkpoint lacks a tensor.
    #[error("`{}` has no tensor `{tensor}`{}", path.display(), nearest(nearest_name))]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor looked for.
        tensor: String,
        /// The most similar name that is there.
        nearest_name: Option<String>,
    },

    /// A checkpoint has tensors that its architecture has no place for.
    #[error("`{}`: the model does not use its tensors {named}", path.display())]
    UnusedTensors {
        /// The checkpoint.
        path: PathBuf,
        /// The first few of them, each in backticks, and how many more there are.
        named: String,
    },

    /// A tensor does not have the shape that the configuration asks for.
    #[error("tensor `{tensor}` in `{}` has shape {found:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shape that the configuration asks for, outermost dimension first.
        expected: Vec<usize>,
        /// The shape that the file has, outermost dimension first.
        found: Vec<usize>,
    },

    /// A tensor is stored in a quantisation that this build cannot read.
    #[error("tensor `{tensor}` in `{}` is stored as {found}, which is not supported", path.display())]
    UnsupportedQuantisation {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The name or number of the quantisation.
        found: String,
    },

    /// A model is stored in a format that is not read here.
    #[error("`{}` is {found}, which is not supported", path.display())]
    UnsupportedFormat {
        /// The file or folder.
        path: PathBuf,
        /// What it is, by its name: `a PyTorch checkpoint`, `quantised by GPTQ`.
        found: String,
    },

    /// A model is of an architecture that no decoder here implements.
    #[error("`{}` holds a model of architecture `{found}`, which is not supported", path.display())]
    UnsupportedArchitecture {
        /// The model file or folder.
        path: PathBuf,
        /// The architecture that the file names.
        found: String,
    },

    /// A configuration value is missing, unknown, or contradicts another.
    #[error("`{}`: {reason}", path.display())]
    InvalidConfig {
        /// The file that holds the value.
        path: PathBuf,
        /// The field, what was found and what was expected.
        reason: String,
    },

    /// A tokenizer could not be built or refused its input.
    #[error("tokenizer of `{}`: {reason}", path.display())]
    Tokenizer {
        /// Where the tokenizer came from.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },

    /// A chat or prompt template failed to render.
    #[error("the {what} template failed: {reason}")]
    Template {
        /// Which template.
        what: String,
        /// The engine's reason, in one line.
        reason: String,
    },

    /// A device name is unknown, not in this build, or not on this machine.
    #[error("device `{name}` is not available: {reason}")]
    Device {
        /// The name as given.
        name: String,
        /// Why not.
        reason: String,
        /// What to do.
        hint: Hint,
    },

    /// A document cannot be compressed as it is.
    #[error("document `{name}` {reason}")]
    Document {
        /// The document's name, usually its path.
        name: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: Hint,
    },

    /// A row of a data file is malformed.
    #[error("`{}`, line {line}: {reason}", path.display())]
    DataRow {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },

    /// A prompt does not fit the decoder's window.
    #[error(
        "the prompt takes {positions} positions and {max_new} more are asked for, \
         but `{decoder}` has a window of {window}"
    )]
    WindowExceeded {
        /// The decoder's name.
        decoder: String,
        /// Positions of the prompt, tokens and latents together.
        positions: usize,
        /// New tokens asked for.
        max_new: usize,
        /// The decoder's window.
        window: usize,
    },

    /// A downloaded or cached file is not the one that the registry pins.
    #[error("checksum of `{}` is {found}, but {expected} is pinned", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// The pinned sha256, hexadecimal.
        expected: String,
        /// The file's sha256, hexadecimal.
        found: String,
    },

    /// A model could not be pulled from its source.
    #[error("cannot pull `{what}`: {reason}")]
    Pull {
        /// The source, as the registry spells it.
        what: String,
        /// What happened.
        reason: String,
        /// What to do.
        hint: Hint,
    },

    /// A model's source can be reached and has no such file.
    #[error("cannot pull `{what}`: the server answers `404 Not Found`")]
    NotAtSource {
        /// The source, as the registry spells it.
        what: String,
    },

    /// Latents and what they meet do not belong together.
    #[error("{what} expects `{expected}`, found `{found}`")]
    Mismatch {
        /// Who expects it, and of what: ``adapter `x` (encoder_id)``.
        what: String,
        /// The value expected.
        expected: String,
        /// The value found.
        found: String,
        /// What to do.
        hint: Hint,
    },

    /// A training run met a loss that is not a number, or far above what it was.
    #[error(
        "the loss of step {step} is {loss:.3}, its task's running mean is {mean:.3}; the step's text: {data}"
    )]
    Diverged {
        /// The step, from 0.
        step: u64,
        /// The loss, nats per token.
        loss: f64,
        /// What it was before, on average.
        mean: f64,
        /// Where the step's samples come from.
        data: String,
    },

    /// The processes that share a training run lost one another, or disagree.
    #[error("rank {rank} of a shared run: {reason}")]
    Ranks {
        /// The process that noticed, from 0.
        rank: usize,
        /// What happened.
        reason: String,
    },

    /// A model computed something that is no number.
    #[error("{reason}")]
    NotFinite {
        /// What was found, and where.
        reason: String,
    },

    /// The caller had it end before it was done; nothing is left half-made.
    #[error("it was interrupted")]
    Interrupted,

    /// A value is not one of those that are accepted.
    #[error("{what} is `{found}`, expected {expected}")]
    InvalidValue {
        /// Which value: `temperature`, `` `schedule.steps` ``, `the name of a decoder`.
        what: String,
        /// The value.
        found: String,
        /// What it may be.
        expected: String,
    },

    /// Nothing has the name that was given.
    #[error("there is no {kind} `{name}` {place}{}", listed(known))]
    NotFound {
        /// What was looked for: `task`, `decoder`, `model`.
        kind: &'static str,
        /// The name.
        name: String,
        /// Where it was looked for, beginning with a preposition: ``in the cache `/…` ``.
        place: String,
        /// The names that are there, where they are few.
        known: Vec<String>,
    },

    /// A file or folder that is to be written, or removed, is in use or holds something.
    #[error("`{}` {state}", path.display())]
    Occupied {
        /// The file or folder.
        path: PathBuf,
        /// What was found there.
        state: String,
        /// What to do.
        hint: Hint,
    },

    /// There is less of something than a computation needs.
    #[error("found {found} {what}, expected at least {needed}")]
    NotEnough {
        /// What is counted, and where: ``examples in task `squad` ``.
        what: String,
        /// How many there are.
        found: usize,
        /// How many are needed.
        needed: usize,
    },

    /// Two things that go one with the other are not equally many.
    #[error("found {found} {what}, expected {expected}")]
    WrongCount {
        /// What is counted.
        what: String,
        /// How many there are.
        found: usize,
        /// How many there have to be.
        expected: usize,
    },

    /// An encoder's description contradicts itself, its backbone, or what is asked of it.
    #[error("encoder `{encoder}`: {reason}")]
    InvalidEncoder {
        /// The encoder's name.
        encoder: String,
        /// What it is or has, and what was expected.
        reason: String,
    },

    /// Something that no gradient passes through, or that has no weights, is to be trained.
    #[error("{what} cannot be trained: {reason}")]
    NotTrainable {
        /// What: ``the projector of adapter `x` ``.
        what: String,
        /// Why not.
        reason: &'static str,
    },

    /// A weight is larger than the format that it is to be stored in can express.
    #[error("tensor `{tensor}` has a weight of {value}, which does not fit into {bits} bits")]
    DoesNotFit {
        /// The tensor.
        tensor: String,
        /// The weight, or the largest of its block.
        value: f32,
        /// The bits of a weight in that format.
        bits: u32,
    },

    /// A regression has no answer.
    #[error("the regression has no solution: {reason}")]
    Regression {
        /// Why not.
        reason: &'static str,
    },

    /// What a device computed cannot be read, or is not what was asked for.
    #[error("cannot read {what} from the device: {reason}")]
    DeviceData {
        /// What was to be read.
        what: &'static str,
        /// The backend's reason.
        reason: String,
    },

    /// The user has no home folder that a cache could lie in.
    #[error("there is no folder for caches, since the user has no home folder")]
    NoCacheFolder,

    /// The registry, an adapter package or a plugin is at fault.
    #[error(transparent)]
    Adapter(arc_adapters::Error),
}

/// What the system refuses is [`Error::Io`], whichever crate was refused.
impl From<arc_adapters::Error> for Error {
    fn from(error: arc_adapters::Error) -> Self {
        match error {
            arc_adapters::Error::Io { action, path, source } => Self::Io { action, path, source },
            error => Self::Adapter(error),
        }
    }
}

/// A trailing “; there are `x`, `y`”, or nothing.
fn listed(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!("; there are `{}`", known.join("`, `")) }
}

/// A trailing “, the nearest is `x`”, or nothing.
fn nearest(name: &Option<String>) -> String {
    name.as_ref().map_or_else(String::new, |name| format!(", the nearest is `{name}`"))
}

impl Error {
    /// A pooling factor of 0 leaves nothing of a text.
    pub(crate) fn factor_of_0() -> Self {
        Self::InvalidValue {
            what: "the pooling factor".into(),
            found: "0".into(),
            expected: "1 or more".into(),
        }
    }

    /// Wraps an I/O error with the path and what was tried.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether there was no room for what was to be written: the disk is full, or the user's share of
    /// it, or the file is as long as files may be here.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), FileTooLarge | QuotaExceeded | StorageFull))
    }

    /// What to do about it, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        Some(match self {
            Self::Device { hint, .. }
            | Self::Document { hint, .. }
            | Self::Pull { hint, .. }
            | Self::Occupied { hint, .. }
            | Self::Mismatch { hint, .. } => hint.clone(),
            Self::Io { action, source, .. } => arc_adapters::io_hint(action, source).into(),
            Self::InvalidFile { format: "latents", .. } => {
                "make the latents again with `arc compress`".into()
            }
            Self::InvalidFile { format: "answers", .. } => "delete it: what it holds is asked again".into(),
            Self::InvalidFile { format: "JSONL", .. } => {
                "each line is one JSON object with the text in its field `text`".into()
            }
            Self::InvalidFile { format: "checkpoint", .. } => {
                "a run goes on from an older one where there is a sound one, else it has to begin again"
                    .into()
            }
            Self::InvalidFile { .. } => {
                "the file may be cut off or corrupt: make or fetch it again (`arc pull` fetches models)"
                    .into()
            }
            Self::InvalidConfig { .. } => "correct that field, or name another file".into(),
            Self::Tokenizer { .. } => {
                "the tokenizer may belong to another model: name the file that came with this one".into()
            }
            Self::MissingTensor { .. } | Self::TensorShape { .. } => {
                "the file may hold another model than its configuration says".into()
            }
            Self::UnusedTensors { .. } => {
                "the model is of a variant that is not supported: it would run without them".into()
            }
            Self::UnsupportedQuantisation { .. } => {
                "supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K".into()
            }
            Self::UnsupportedFormat { .. } => {
                "read are safetensors with a `config.json`, unquantised, and GGUF: name a file in one of them"
                    .into()
            }
            Self::UnsupportedArchitecture { .. } => {
                "supported are llama (Llama 2 and 3, Mistral, SmolLM2), qwen2, qwen3, smollm3, gemma3 and olmo".into()
            }
            Self::WindowExceeded { .. } => {
                "fewer new tokens, a shorter prompt or a larger pooling factor take fewer positions".into()
            }
            Self::Checksum { .. } => {
                "delete the file and pull again; if it differs again, the source has changed".into()
            }
            Self::DataRow { .. } => Hint::CorrectRow,
            Self::Diverged { .. } => {
                "the last checkpoint is as it was: look at the text named, or lower the learning rates".into()
            }
            Self::Ranks { .. } => Hint::ResumeAllRanks,
            Self::NotAtSource { .. } => "check the repository, the revision and the file's name".into(),
            Self::Template { what, .. } if what == "chat" => Hint::OtherForm,
            Self::Template { .. } => {
                "correct the template: it is Jinja, with `document` and `question`".into()
            }
            Self::NotFinite { .. } => {
                "the weights may be damaged: delete the model's file and run `arc pull` again".into()
            }
            Self::Interrupted => "begin it again".into(),
            Self::InvalidValue { .. } | Self::WrongCount { .. } => Hint::CorrectValue,
            Self::NotFound { known, .. } if known.is_empty() => "correct that name".into(),
            Self::NotFound { .. } => "name one of those".into(),
            Self::NotEnough { .. } => "give more, or ask for less".into(),
            Self::InvalidEncoder { .. } => "correct its description, or name another encoder".into(),
            Self::NotTrainable { .. } => "train something else".into(),
            Self::DoesNotFit { .. } => {
                "store them as `f32` (`encoder.weights` of a run's configuration)".into()
            }
            Self::Regression { .. } => "give other texts, or more of them".into(),
            Self::DeviceData { .. } => "the device failed: try again, or compute on the CPU".into(),
            Self::NoCacheFolder => "set `ARC_HOME` to a folder for them".into(),
            Self::Adapter(error) => Hint::Adapter(Box::new(error.hint()?)),
        })
    }
}
