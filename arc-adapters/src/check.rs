//! What was looked at in a setup, and how it went.

use serde::Serialize;

use crate::{Error, Hint, Result};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Check {
    /// What it is about.
    pub what: String,
    /// How it went.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// What could be done beside what the outcome's hint says.
    #[serde(skip)]
    pub remedy: Option<Remedy>,
    /// What `doctor` says about it.
    #[serde(skip)]
    pub(crate) symptom: Option<Symptom>,
}

/// How an adapter that does not fit where it is to be added could be added.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// To the decoder that it was made for, or with its pins overridden.
    OtherDecoder,
    /// For this encoder, which it was made for, or with its pins overridden.
    ForEncoder(String),
    /// With its pins overridden.
    Override,
}

/// How a check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// Not as it should be.
    Failed {
        /// The error.
        message: String,
        /// What to do about it.
        hint: Option<Hint>,
    },
    /// Not looked at.
    Skipped {
        /// Why.
        reason: String,
        /// What to do to have it looked at.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<Hint>,
    },
}

/// How likely a finding is to be the cause of a user's trouble; the likeliest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Likelihood {
    /// Nothing works before this is put right.
    Certain,
    /// What it is about does not work.
    Likely,
    /// It works, but perhaps not as meant.
    Possible,
}

/// What a check tells of a setup in which something does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Symptom {
    pub(crate) likelihood: Likelihood,
    pub(crate) problem: String,
    pub(crate) hint: Option<Hint>,
}

impl Check {
    pub(crate) fn passed(what: impl Into<String>) -> Self {
        Self { what: what.into(), outcome: Outcome::Passed, remedy: None, symptom: None }
    }

    pub(crate) fn failed_as(
        likelihood: Likelihood,
        what: impl Into<String>,
        message: String,
        hint: Option<Hint>,
    ) -> Self {
        let symptom = Symptom { likelihood, problem: message.clone(), hint: hint.clone() };
        let outcome = Outcome::Failed { message, hint };
        Self { what: what.into(), outcome, remedy: None, symptom: Some(symptom) }
    }

    /// The check that failed if there is a fault, which comes with what to do about it.
    pub(crate) fn unless(what: impl Into<String>, fault: Option<(String, Hint)>) -> Self {
        match fault {
            None => Self::passed(what),
            Some((message, hint)) => Self::failed_as(Likelihood::Likely, what, message, Some(hint)),
        }
    }

    /// The check that a result is, and its value.
    pub fn of<T>(what: impl Into<String>, result: Result<T>) -> (Self, Option<T>) {
        match result {
            Ok(value) => (Self::passed(what), Some(value)),
            Err(error) => {
                let likelihood = match &error {
                    // It was never more than a model to be used without latents.
                    Error::NoAdapter { .. } => Likelihood::Possible,
                    _ => Likelihood::Likely,
                };
                (Self::failed_as(likelihood, what, error.to_string(), error.hint()), None)
            }
        }
    }

    /// A check that failed for a reason that is no [`Error`].
    #[must_use]
    pub fn failed_with(what: &str, message: String, hint: Option<Hint>) -> Self {
        Self::failed_as(Likelihood::Likely, what, message, hint)
    }

    /// A check that was left out.
    #[must_use]
    pub fn skipped(what: &str, reason: impl Into<String>) -> Self {
        let outcome = Outcome::Skipped { reason: reason.into(), hint: None };
        Self { what: what.to_owned(), outcome, remedy: None, symptom: None }
    }

    /// A check that was left out for a reason that may be what the user came about.
    pub(crate) fn skipped_for(what: &str, problem: String, hint: impl Into<Hint>) -> Self {
        let hint = Some(hint.into());
        let outcome = Outcome::Skipped { reason: problem.clone(), hint: hint.clone() };
        let symptom = Symptom { likelihood: Likelihood::Possible, problem, hint };
        Self { what: what.to_owned(), outcome, remedy: None, symptom: Some(symptom) }
    }

    /// Whether it failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed { .. })
    }
}
