//! What this user has set once: `config.toml` beside the user's own registry. A setting stands below the
//! environment and the command line, and above what is built in and what a registry says.

use std::path::{Path, PathBuf};

use arc_adapters::write_atomically;
use arc_core::device::DeviceName;
use arc_core::nn::Precision;
use bytesize::ByteSize;
use clap::{Command, ValueEnum};
use std::io::Write as _;
use toml_edit::{DocumentMut, Item, Value};

use crate::Failure;

/// The name of the file.
const FILE: &str = "config.toml";

/// More than anybody sets.
const MAX_BYTES: u64 = 1 << 20;

/// What can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Key {
    /// Who answers where no decoder is named
    Decoder,
    /// Where to run
    Device,
    /// How inference on the CPU multiplies
    Precision,
    /// How many tokens an answer may have
    MaxTokens,
    /// How much the cache of compressed documents may hold, such as `2GiB`; 0 keeps nothing
    CacheLimit,
}

impl Key {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Decoder, Self::Device, Self::Precision, Self::MaxTokens, Self::CacheLimit];

    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Decoder => "decoder",
            Self::Device => "device",
            Self::Precision => "precision",
            Self::MaxTokens => "max-tokens",
            Self::CacheLimit => "cache-limit",
        }
    }

    /// The environment variable that goes before the file.
    pub(crate) fn variable(self) -> &'static str {
        match self {
            Self::Decoder => "ARC_DECODER",
            Self::Device => "ARC_DEVICE",
            Self::Precision => "ARC_PRECISION",
            Self::MaxTokens => "ARC_MAX_TOKENS",
            Self::CacheLimit => "ARC_CACHE_LIMIT",
        }
    }

    /// Refuses what is no value of this key.
    fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Decoder if value.trim().is_empty() => Err("a name is expected".into()),
            Self::Decoder => Ok(()),
            Self::Device => value.parse::<DeviceName>().map(drop).map_err(|error| error.to_string()),
            Self::Precision => value.parse::<Precision>().map(drop).map_err(|error| error.to_string()),
            Self::MaxTokens => match value.parse::<usize>() {
                Ok(1..) => Ok(()),
                _ => Err(format!("`{value}` is no whole number of at least 1")),
            },
            Self::CacheLimit => value
                .parse::<ByteSize>()
                .map(drop)
                .map_err(|_| format!("`{value}` is no size, such as `500M` or `2GiB`")),
        }
    }
}

/// The settings of this user's file.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    path: Option<PathBuf>,
    document: DocumentMut,
}

/// Where a setting's value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Environment,
    File,
    Nowhere,
}

impl Settings {
    /// Reads this user's file; one that is not there sets nothing.
    pub(crate) fn read() -> Result<Self, Failure> {
        let Some(folders) = directories::ProjectDirs::from("", "", "arc-encoder") else {
            return Ok(Self::default());
        };
        Self::open(&folders.config_dir().join(FILE))
    }

    fn open(path: &Path) -> Result<Self, Failure> {
        if !path.try_exists().unwrap_or(true) {
            return Ok(Self { path: Some(path.to_owned()), document: DocumentMut::new() });
        }
        let wrong = |reason: String| {
            Failure::failed(
                format!("`{}` cannot be read: {reason}", path.display()),
                "correct it, or delete it: `arc config set` makes it anew",
            )
        };
        let bytes =
            arc_adapters::read_bytes(path, FILE, MAX_BYTES).map_err(|error| wrong(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            wrong(error.to_string().lines().next().unwrap_or_default().to_owned())
        })?;
        let settings = Self { path: Some(path.to_owned()), document };
        for (name, item) in settings.document.iter() {
            let Some(key) = Key::ALL.into_iter().find(|key| key.name() == name) else {
                let known = Key::ALL.map(Key::name).join("`, `");
                return Err(wrong(format!("there is no setting `{name}`, there are `{known}`")));
            };
            let value = text_of(item).ok_or_else(|| wrong(format!("`{name}` is no text or number")))?;
            key.check(&value).map_err(|reason| wrong(format!("`{name}`: {reason}")))?;
        }
        Ok(settings)
    }

    /// The file, whether or not it is there; none where the user has no home folder.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// What the file sets.
    pub(crate) fn in_file(&self, key: Key) -> Option<String> {
        self.document.get(key.name()).and_then(text_of)
    }

    /// The value that counts where the command line says nothing, and where it comes from.
    pub(crate) fn value(&self, key: Key) -> (Option<String>, From) {
        let variable = std::env::var(key.variable()).ok().filter(|value| !value.is_empty());
        match (variable, self.in_file(key)) {
            (Some(value), _) => (Some(value), From::Environment),
            (None, Some(value)) => (Some(value), From::File),
            (None, None) => (None, From::Nowhere),
        }
    }

    /// Writes a value into the file, or takes it out.
    pub(crate) fn set(&mut self, key: Key, value: Option<&str>) -> Result<(), Failure> {
        let Some(path) = &self.path else {
            return Err(Failure::failed(
                "this user has no home folder, and so no settings",
                format!("set `{}` in the environment", key.variable()),
            ));
        };
        match value {
            None => drop(self.document.remove(key.name())),
            Some(value) => {
                let checked = key.check(value);
                checked.map_err(|reason| Failure::usage(format!("`{}`: {reason}", key.name()), HELP))?;
                let value = match (key, value.parse::<i64>()) {
                    (Key::MaxTokens, Ok(number)) => Value::from(number),
                    _ => Value::from(value),
                };
                self.document.insert(key.name(), Item::Value(value));
            }
        }
        let text = self.document.to_string();
        write_atomically(path, |file| {
            file.write_all(text.as_bytes()).map_err(arc_core::Error::io("write", path))
        })?;
        Ok(())
    }

    /// How much the cache of compressed documents may hold, in bytes.
    pub(crate) fn cache_limit(&self) -> Result<u64, Failure> {
        let (value, from) = self.value(Key::CacheLimit);
        let Some(value) = value else { return Ok(arc_core::document_cache::DocumentCache::USUAL_LIMIT) };
        // What the file says was checked.
        Key::CacheLimit.check(&value).map_err(|reason| {
            debug_assert_eq!(from, From::Environment);
            Failure::usage(format!("`{}`: {reason}", Key::CacheLimit.variable()), HELP)
        })?;
        Ok(value.parse::<ByteSize>().map_or(0, |size| size.as_u64()))
    }

    /// The command line with what the file sets as defaults: the environment goes before a default, and the
    /// command line before both.
    pub(crate) fn as_defaults(&self, mut command: Command) -> Command {
        for key in Key::ALL {
            if let Some(value) = self.in_file(key) {
                command = with_default(command, key, &value);
            }
        }
        command
    }
}

const HELP: &str = "`arc config list` shows what can be set";

fn with_default(command: Command, key: Key, value: &str) -> Command {
    let id = match key {
        Key::Device => "device",
        Key::Precision => "precision",
        Key::Decoder => "decoder",
        Key::MaxTokens => "max_tokens",
        Key::CacheLimit => return command,
    };
    // clap holds defaults for as long as the command line is read.
    let value: &'static str = Box::leak(value.to_owned().into_boxed_str());
    if matches!(key, Key::Device | Key::Precision) {
        return command.mut_arg(id, |argument| argument.default_value(value));
    }
    let takes = |command: &Command| {
        // Where it has to be named it is not left to a setting.
        let argument = command.get_arguments().find(|argument| argument.get_id() == id);
        argument.is_some_and(|argument| !argument.is_required_set())
    };
    let asking = ["ask", "chat", "generate"];
    command.mut_subcommands(|subcommand| {
        match asking.contains(&subcommand.get_name()) && takes(&subcommand) {
            true => subcommand.mut_arg(id, |argument| argument.default_value(value)),
            false => subcommand,
        }
    })
}

/// A text or a number as text.
fn text_of(item: &Item) -> Option<String> {
    item.as_str().map(str::to_owned).or_else(|| item.as_integer().map(|number| number.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read_again_beside_what_a_person_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, "# mine\ndevice = \"cpu\" # here\n").unwrap();
        let mut settings = Settings::open(&path).unwrap();
        settings.set(Key::MaxTokens, Some("64")).unwrap();
        settings.set(Key::Decoder, Some("a,b")).unwrap();
        settings.set(Key::CacheLimit, Some("2GiB")).unwrap();
        let again = Settings::open(&path).unwrap();
        let values = Key::ALL.map(|key| again.in_file(key));
        let expected = [Some("a,b"), Some("cpu"), None, Some("64"), Some("2GiB")];
        assert_eq!(values, expected.map(|value| value.map(str::to_owned)));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.starts_with("# mine\ndevice = \"cpu\" # here\n") && text.contains("max-tokens = 64"),
            "{text}"
        );
        settings.set(Key::Decoder, None).unwrap();
        assert_eq!(Settings::open(&path).unwrap().in_file(Key::Decoder), None);
    }

    #[test]
    fn what_cannot_be_is_refused_in_the_file_and_where_it_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        for text in [
            "device = \"toaster\"",
            "colour = 1",
            "max-tokens = 0",
            "cache-limit = \"big\"",
            "x",
            "device = []",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(Settings::open(&path).is_err(), "{text}");
        }
        std::fs::write(&path, "").unwrap();
        let mut settings = Settings::open(&path).unwrap();
        assert!(settings.set(Key::Precision, Some("vague")).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
