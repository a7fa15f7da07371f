//! What compression costs and keeps, measured.

mod continuation;
pub mod metrics;
mod reference;

pub use continuation::{ContinuationArms, ContinuationTask};
pub use reference::{CaseReport, Deviation, check_reference};
