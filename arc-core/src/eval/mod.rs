//! What compression costs and keeps, measured.
//!
//! A [`Task`] is a TOML file beside JSONL data. It is loaded with its questions and examples
//! ([`LoadedTask`]) and run in several [`Arm`]s, on the same questions, by a [`Contestant`]: a
//! decoder with its encoder and adapter. The [`Answers`] are kept by content hash, and the
//! [`Report`] is made of them.

mod answers;
mod arm;
mod bootstrap;
mod chart;
mod continuation;
mod data;
mod html;
mod markdown;
pub mod metrics;
mod needle;
mod prompting;
mod reference;
mod report;
mod run;
mod task;

pub use answers::{Answer, AnswerOutcome, Answers, Times};
pub use arm::{Arm, ArmFamily};
pub use bootstrap::{Bootstrap, Interval};
pub use continuation::{ContinuationArms, ContinuationTask};
pub(crate) use continuation::{ContinuationSums, strangers, truncated};
pub use data::{Fields, NeedlePlace, Row, Rows};
pub use needle::Needle;
pub use prompting::Contestant;
pub use reference::{CaseReport, Deviation, check_reference};
pub use report::{ArmResult, BreakEven, Cost, Example, Provenance, Report, Seconds, TaskResult};
pub use run::{ArmAnswers, EvalOptions, LoadedTask, OnProgress};
pub use task::{ContinuationSpec, GenerateTask, KeptEnd, Kind, ReconstructionSpec, Task};
