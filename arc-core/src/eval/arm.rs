//! Arms: the ways in which a decoder may be shown a document.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a decoder sees of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Arm {
    /// Nothing.
    ClosedBook,
    /// All of its tokens.
    OpenBook,
    /// As many of its first or last tokens as there are latents at this factor.
    Truncation(usize),
    /// As many of its tokens, those with the most self-information under the decoder, in order
    /// (token-level selective context: Li et al., 2023, arXiv 2310.06201).
    Pruning(usize),
    /// As many of its tokens, those of the words that are rarest in the task's documents, in their order
    /// ([`TokenRarity`](crate::encoder::TokenRarity)): no model has a part in the choice.
    RareWords(usize),
    /// Its latents at this factor.
    Arc(usize),
    /// The latents of the next question's document in its place: what is gained by knowing only what
    /// kind of document it is.
    Control(usize),
}

/// A family of arms, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ArmFamily {
    /// [`Arm::ClosedBook`].
    ClosedBook,
    /// [`Arm::OpenBook`].
    OpenBook,
    /// [`Arm::Truncation`] at every factor.
    Truncation,
    /// [`Arm::Pruning`] at every factor.
    Pruning,
    /// [`Arm::RareWords`] at every factor.
    RareWords,
    /// [`Arm::Arc`] at every factor.
    Arc,
    /// [`Arm::Control`] at every factor.
    Control,
}

impl ArmFamily {
    /// Every family.
    pub const ALL: [Self; 7] = [
        Self::ClosedBook,
        Self::OpenBook,
        Self::Truncation,
        Self::Pruning,
        Self::RareWords,
        Self::Arc,
        Self::Control,
    ];

    /// Those that are run where none are named. The other two say where a score comes from: they are for
    /// whoever asks that.
    pub const USUAL: [Self; 5] =
        [Self::ClosedBook, Self::OpenBook, Self::Truncation, Self::Pruning, Self::Arc];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ClosedBook => "closed-book",
            Self::OpenBook => "open-book",
            Self::Truncation => "truncation",
            Self::Pruning => "pruning",
            Self::RareWords => "rare-words",
            Self::Arc => "arc",
            Self::Control => "control",
        }
    }

    /// The arms of the family.
    fn arms(self, factors: &[usize]) -> Vec<Arm> {
        let each = |arm: fn(usize) -> Arm| factors.iter().map(|&factor| arm(factor)).collect();
        match self {
            Self::ClosedBook => vec![Arm::ClosedBook],
            Self::OpenBook => vec![Arm::OpenBook],
            Self::Truncation => each(Arm::Truncation),
            Self::Pruning => each(Arm::Pruning),
            Self::RareWords => each(Arm::RareWords),
            Self::Arc => each(Arm::Arc),
            Self::Control => each(Arm::Control),
        }
    }
}

impl Arm {
    /// Stands in a factor's place for an encoder whose number of latents follows from none: one that
    /// pools to a fixed count, or has memory tokens.
    pub const OWN_COUNT: usize = 0;

    /// The arms of these families, in the families' order.
    #[must_use]
    pub fn of(families: &[ArmFamily], factors: &[usize]) -> Vec<Self> {
        ArmFamily::ALL
            .into_iter()
            .filter(|family| families.contains(family))
            .flat_map(|family| family.arms(factors))
            .collect()
    }

    /// The factor that sets the arm's budget of positions.
    #[must_use]
    pub fn factor(self) -> Option<usize> {
        match self {
            Self::ClosedBook | Self::OpenBook => None,
            Self::Truncation(factor)
            | Self::Pruning(factor)
            | Self::RareWords(factor)
            | Self::Arc(factor)
            | Self::Control(factor) => Some(factor),
        }
    }

    /// Whether the decoder reads latents, which takes an adapter.
    #[must_use]
    pub fn reads_latents(self) -> bool {
        matches!(self, Self::Arc(_) | Self::Control(_))
    }

    /// What reports call it: `arc-N` (`arc` for [`Arm::OWN_COUNT`]), and where there are several budgets
    /// `truncation-N`, `pruning-N`, `rare-words-N` and `control-N` too.
    #[must_use]
    pub fn label(self, several_factors: bool) -> String {
        match self {
            Self::ClosedBook => "closed-book".into(),
            Self::OpenBook => "open-book".into(),
            Self::Truncation(factor) if several_factors => format!("truncation-{factor}"),
            Self::Truncation(_) => "truncation".into(),
            Self::Pruning(factor) if several_factors => format!("pruning-{factor}"),
            Self::Pruning(_) => "pruning".into(),
            Self::RareWords(factor) if several_factors => format!("rare-words-{factor}"),
            Self::RareWords(_) => "rare-words".into(),
            Self::Control(factor) if several_factors => format!("control-{factor}"),
            Self::Control(_) => "control".into(),
            Self::Arc(Self::OWN_COUNT) => "arc".into(),
            Self::Arc(factor) => format!("arc-{factor}"),
        }
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label(true))
    }
}
