//! Which vector instructions the kernels use.

use std::sync::OnceLock;

use crate::{Error, Result};

/// The variable that names a lesser set than the best, for tests and reports of faults.
const VARIABLE: &str = "ARC_INSTRUCTIONS";

/// Which vector instructions the kernels use.
///
/// A set to come (AVX-512 VNNI and BF16, AMX) is a variant here, its name, how it is detected, and
/// arms where kernels are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InstructionSet {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl InstructionSet {
    /// Those that this CPU has, best last.
    pub(crate) fn available() -> Vec<Self> {
        let mut sets = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
        {
            sets.push(Self::Avx2);
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                sets.push(Self::Avx512);
            }
        }
        sets
    }

    /// The name that [`VARIABLE`] takes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
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
                hint: format!("this machine has {}; leave it out for the best", names.join(", ")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_found_by_its_name_and_another_name_is_refused_with_those_that_are_there() {
        for set in InstructionSet::available() {
            assert_eq!(InstructionSet::named(set.name()).unwrap(), set);
        }
        for name in ["avx", "AVX2", "amx", ""] {
            let error = InstructionSet::named(name).unwrap_err();
            assert!(error.to_string().contains("`ARC_INSTRUCTIONS`"), "{error}");
            let hint = error.hint().unwrap();
            assert!(InstructionSet::available().iter().all(|set| hint.contains(set.name())), "{hint}");
        }
    }
}
