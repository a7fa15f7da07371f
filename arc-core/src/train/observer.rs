//! Who watches a run or a registration.

use super::evaluation::Evaluation;
use super::metrics::StepMetrics;

/// Who watches a run.
pub trait Observer {
    /// A step whose loss was read, of so many.
    fn step(&mut self, metrics: &StepMetrics, steps: u64);
    /// A measurement on held-out text, after so many steps.
    fn evaluation(&mut self, step: u64, evaluation: &Evaluation);
    /// Something that takes a while begins, or went wrong without stopping the run.
    fn message(&mut self, text: &str);
    /// Whether the run should do one more step, write a checkpoint and leave.
    fn should_stop(&self) -> bool;
}
