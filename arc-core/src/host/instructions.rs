//! Which vector instructions the kernels use.

use std::sync::OnceLock;

use crate::{Error, Result};

/// The variable that names a lesser set than the best, for tests and reports of faults.
const VARIABLE: &str = "ARC_INSTRUCTIONS";

/// What products are computed with: each set has what those before it have.
///
/// A set to come is a variant here, its name, how it is detected, and arms where kernels are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum InstructionSet {
    /// What the compiler makes of plain Rust.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Products of bytes, of 256 bits.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Products of bytes, of 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// Products of bfloat16, of 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// Tiles of bytes and of bfloat16.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// The vectors that everything but products of narrow numbers is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl InstructionSet {
    /// All, best last.
    const ALL: &[Self] = &[
        Self::Portable,
        #[cfg(target_arch = "x86_64")]
        Self::Avx2,
        #[cfg(target_arch = "x86_64")]
        Self::AvxVnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Vnni,
        #[cfg(target_arch = "x86_64")]
        Self::Avx512Bf16,
        #[cfg(target_arch = "x86_64")]
        Self::Amx,
    ];

    /// Those that can be used here, best last. Processors with AVX-512 VNNI need not have the narrower
    /// AVX-VNNI, which is then left out, as is whatever stands on a set that is missing otherwise.
    pub(crate) fn available() -> Vec<Self> {
        static AVAILABLE: OnceLock<Vec<InstructionSet>> = OnceLock::new();
        let find = || {
            let mut found: Vec<Self> = Vec::new();
            for &set in Self::ALL {
                if set.is_here() && set.stands_on().is_none_or(|other| found.contains(&other)) {
                    found.push(set);
                }
            }
            found
        };
        AVAILABLE.get_or_init(find).clone()
    }

    /// The set that one needs besides its own instructions.
    fn stands_on(self) -> Option<Self> {
        match self {
            Self::Portable => None,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => None,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni | Self::Avx512 => Some(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Some(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Some(Self::Avx512Vnni),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Some(Self::Avx512Bf16),
        }
    }

    /// Whether its own instructions are there, and the system lets this process use them.
    fn is_here(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Self::Amx => super::amx::is_granted(),
        }
    }

    /// The name that [`VARIABLE`] takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
        }
    }

    /// The vectors that come with it.
    pub(crate) fn vectors(self) -> Vectors {
        match self {
            Self::Portable => Vectors::Portable,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::AvxVnni => Vectors::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 | Self::Avx512Vnni | Self::Avx512Bf16 | Self::Amx => Vectors::Avx512,
        }
    }

    /// The set of a name, if this CPU has it.
    fn named(name: &str) -> Result<Self> {
        let available = Self::available();
        available.iter().copied().find(|set| set.name() == name).ok_or_else(|| {
            let names: Vec<String> = available.iter().map(|set| format!("`{}`", set.name())).collect();
            Error::Device {
                name: name.to_owned(),
                reason: format!("`{VARIABLE}` asks for instructions that are unknown or not here"),
                hint: format!("this machine has {}; leave it out for the best", names.join(", ")).into(),
            }
        })
    }

    /// The set that the environment names, or the best that this CPU has.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] for a name that is unknown or whose instructions are not there.
    pub(crate) fn chosen() -> Result<Self> {
        match std::env::var(VARIABLE) {
            Ok(name) if !name.is_empty() => Self::named(&name),
            _ => Ok(Self::available().pop().unwrap_or(Self::Portable)),
        }
    }

    /// The same, where the environment was checked when a device was opened; the best otherwise.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| {
            let best = || Self::available().pop().unwrap_or(Self::Portable);
            Self::chosen().unwrap_or_else(|_| best())
        })
    }
}

impl Vectors {
    /// Those of [`InstructionSet::best`].
    pub(crate) fn best() -> Self {
        InstructionSet::best().vectors()
    }

    /// Those that this CPU has, best last.
    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let mut found: Vec<Self> =
            InstructionSet::available().into_iter().map(InstructionSet::vectors).collect();
        found.dedup();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_found_by_its_name_and_another_name_is_refused_with_those_that_are_there() {
        for set in InstructionSet::available() {
            assert_eq!(InstructionSet::named(set.name()).unwrap(), set);
        }
        for name in ["avx", "AVX2", "amx-fp16", ""] {
            let error = InstructionSet::named(name).unwrap_err();
            assert!(error.to_string().contains("`ARC_INSTRUCTIONS`"), "{error}");
            let hint = error.hint().unwrap().to_string();
            assert!(InstructionSet::available().iter().all(|set| hint.contains(set.name())), "{hint}");
        }
    }

    #[test]
    fn sets_are_in_order_and_what_they_stand_on_is_there() {
        let available = InstructionSet::available();
        assert!(available.is_sorted() && available.contains(&InstructionSet::Portable));
        for set in &available {
            assert!(set.stands_on().is_none_or(|other| available.contains(&other)), "{set:?}");
        }
        assert_eq!(Vectors::available().first(), Some(&Vectors::Portable));
    }
}
