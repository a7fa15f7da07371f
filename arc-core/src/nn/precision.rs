//! How exactly weights that are stored in few bits are multiplied.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::{Error, Result};

/// How inference on the CPU multiplies by stored weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// In float32, by exactly what the stored weights stand for: the same but for roundings on every
    /// machine.
    Exact,
    /// As 8-bit integers, by activations that are rounded to 8 bits in blocks of 32, and many activations in
    /// bfloat16 where the processor multiplies it: nearer to [`Precision::Exact`] than other programs are,
    /// see `docs/cpu-engine.md`. It depends on the processor's instructions, and is [`Precision::Exact`] where
    /// there are none for it.
    #[default]
    Fast,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Fast];

    /// The name users write.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|precision| precision.name() == text);
        known.ok_or_else(|| Error::InvalidValue {
            what: "precision".into(),
            found: text.to_owned(),
            expected: "`exact` or `fast`".into(),
        })
    }
}
