//! The one-cycle learning-rate schedule (Smith and Topin, 2018).

use serde::{Deserialize, Serialize};

/// The rate rises along a cosine over the warm-up and falls along another over the rest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneCycle {
    /// All steps of the run.
    pub steps: u64,
    /// Steps until the full rate.
    pub warmup: u64,
    /// The first rate is the full one divided by this.
    pub start_divisor: f64,
    /// The last rate is the full one divided by this.
    pub end_divisor: f64,
}

impl OneCycle {
    /// What the full rate is multiplied by in a step, counted from 0.
    #[must_use]
    pub fn factor(&self, step: u64) -> f64 {
        let cosine = |from: f64, to: f64, share: f64| {
            to + (from - to) * f64::midpoint(1.0, (std::f64::consts::PI * share.clamp(0.0, 1.0)).cos())
        };
        let (start, end) = (1.0 / self.start_divisor, 1.0 / self.end_divisor);
        if step < self.warmup {
            return cosine(start, 1.0, step as f64 / self.warmup as f64);
        }
        let falling = self.steps.saturating_sub(self.warmup).saturating_sub(1).max(1);
        cosine(1.0, end, (step - self.warmup) as f64 / falling as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_one_and_falls_to_its_end() {
        let cycle = OneCycle { steps: 100, warmup: 10, start_divisor: 25.0, end_divisor: 1e4 };
        assert!((cycle.factor(0) - 0.04).abs() < 1e-12);
        assert!((cycle.factor(10) - 1.0).abs() < 1e-12);
        assert!((cycle.factor(99) - 1e-4).abs() < 1e-12);
        let factors: Vec<f64> = (0..100).map(|step| cycle.factor(step)).collect();
        assert!(factors[..11].is_sorted());
        assert!(factors[10..].is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn a_run_without_warm_up_starts_at_the_full_rate() {
        let cycle = OneCycle { steps: 1, warmup: 0, start_divisor: 25.0, end_divisor: 10.0 };
        assert_eq!(cycle.factor(0), 1.0);
    }
}
