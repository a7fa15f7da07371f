//! What compression costs and keeps, measured.

mod continuation;

pub use continuation::{ContinuationArms, ContinuationTask};
