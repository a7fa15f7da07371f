//! What to do about an error, for a library's user and for a program that has options for it.

use std::fmt;

use serde::{Serialize, Serializer};

/// What to do about an error or a failed check.
///
/// As text it is advice to somebody who calls this crate. A program with options of its own matches what it
/// can say better, as the command line `arc` does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Advice that holds whoever asked.
    Advice(String),
    /// A registry has to be named.
    NameRegistry,
    /// An encoder has to be named, by the call or by a registry.
    NameEncoder,
    /// A name of this kind is taken: choose another.
    OtherName {
        /// `encoder`, `decoder`, …
        kind: &'static str,
    },
    /// The weights of an encoder that is only described have to be imported.
    Import {
        /// The encoder's name.
        encoder: String,
    },
    /// An adapter has to be fitted, or added.
    Fit {
        /// For which decoder.
        decoder: String,
    },
    /// The model that an encoder was cut from has to be added to a registry.
    AddBackbone {
        /// The name that it has to have.
        decoder: String,
        /// The digest that it has to be pinned by.
        sha256: String,
    },
    /// Code plugins are off, and would have to be allowed.
    AllowPlugins,
    /// A plugin failed in a process of its own.
    IsolatedPlugin,
    /// A package was changed since it was pinned: pin it anew, or override the pin.
    PinAnew,
    /// What an adapter pins is not what is there: use that, or override the pin.
    OverridePin,
    /// As the first, or another default encoder has to be set.
    OrOtherDefault(Box<Hint>),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Advice(advice) => advice,
            Self::NameRegistry => "no registry was read: name a `registry.toml`",
            Self::NameEncoder => "name one, or set `default_encoder` in a registry",
            // It may be an alias, and what has it may be in use: nothing is to be removed unseen.
            Self::OtherName { .. } => "choose another name: `arc adapters list` shows what has this one",
            Self::Import { encoder } => {
                return write!(f, "import the checkpoint of `{encoder}`, which its makers publish");
            }
            Self::Fit { decoder } => return write!(f, "fit one for `{decoder}`, or add a package"),
            Self::AddBackbone { decoder, sha256 } => {
                return write!(f, "add decoder `{decoder}`, pinned as `{sha256}`, to the registry");
            }
            Self::AllowPlugins => {
                "it runs foreign code with your rights: if you trust it, allow it, or have the registry \
                 that names it, and your own, say `allow_code_plugins = true` and none `false`"
            }
            Self::IsolatedPlugin => "this is a bug in the plugin, contained by its process: tell its maker",
            Self::PinAnew => {
                "if the change is yours, pin it anew by adding its folder again; overridden pins let it pass"
            }
            Self::OverridePin => "use what the adapter was made for; overridden pins let it pass",
            Self::OrOtherDefault(hint) => return write!(f, "{hint}, or set another `default_encoder`"),
        })
    }
}

/// As its text.
impl Serialize for Hint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl From<&str> for Hint {
    fn from(advice: &str) -> Self {
        Self::Advice(advice.to_owned())
    }
}

impl From<String> for Hint {
    fn from(advice: String) -> Self {
        Self::Advice(advice)
    }
}
