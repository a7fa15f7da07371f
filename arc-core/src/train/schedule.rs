//! How the learning rates go over a run: one cycle (Smith and Topin, 2018), or warm-up, constant and decay
//! (Hu et al., 2024), whose decay may be begun at any time.

use serde::{Deserialize, Serialize};

use super::config::{ScheduleConfig, ScheduleShape};

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
        let (start, end) = (1.0 / self.start_divisor, 1.0 / self.end_divisor);
        if step < self.warmup {
            return cosine(start, 1.0, step as f64 / self.warmup as f64);
        }
        let falling = self.steps.saturating_sub(self.warmup).saturating_sub(1).max(1);
        cosine(1.0, end, (step - self.warmup) as f64 / falling as f64)
    }
}

fn cosine(from: f64, to: f64, share: f64) -> f64 {
    to + (from - to) * f64::midpoint(1.0, (std::f64::consts::PI * share.clamp(0.0, 1.0)).cos())
}

/// The schedule of a run, as far as it is known: where the decay of an open-ended run begins may be said
/// while it goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule<'a> {
    config: &'a ScheduleConfig,
    decay_from: Option<u64>,
}

impl<'a> Schedule<'a> {
    /// `decay_from` is the first step of the decay of [`ScheduleShape::WarmupStableDecay`], where it has
    /// been begun.
    pub(super) fn new(config: &'a ScheduleConfig, decay_from: Option<u64>) -> Self {
        Self { config, decay_from }
    }

    /// The first step of the decay: at the latest the one from which on it fits into the run's steps.
    /// `None` for a schedule that has none.
    pub(super) fn decay_from(&self) -> Option<u64> {
        let ScheduleConfig { shape, steps, decay_steps, .. } = *self.config;
        let latest = steps.saturating_sub(decay_steps);
        (shape == ScheduleShape::WarmupStableDecay).then(|| self.decay_from.unwrap_or(latest))
    }

    /// The steps of the whole run.
    pub(super) fn steps(&self) -> u64 {
        self.decay_from().map_or(self.config.steps, |from| from.saturating_add(self.config.decay_steps))
    }

    /// Whether a step is of the decay.
    pub(super) fn decays(&self, step: u64) -> bool {
        self.decay_from().is_some_and(|from| step >= from)
    }

    /// What the full rate is multiplied by in a step, counted from 0.
    pub(super) fn factor(&self, step: u64) -> f64 {
        let &ScheduleConfig { steps, warmup, start_divisor, end_divisor, decay_steps, .. } = self.config;
        let Some(from) = self.decay_from() else {
            return OneCycle { steps, warmup, start_divisor, end_divisor }.factor(step);
        };
        // The rate that the decay comes down from: a run may be told to end within its warm-up.
        let risen = |step: u64| match step < warmup {
            true => cosine(1.0 / start_divisor, 1.0, step as f64 / warmup as f64),
            false => 1.0,
        };
        if step < from {
            return risen(step);
        }
        // One less the square root of the share ends lower than a line or a cosine does (Hägele et al.,
        // 2024, section 3.1).
        let share = (step - from + 1) as f64 / decay_steps.max(1) as f64;
        let full = risen(from);
        let end = full.min(1.0 / end_divisor);
        end + (full - end) * (1.0 - share.min(1.0).sqrt())
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

    fn config(shape: &str) -> ScheduleConfig {
        let more = if shape == "one_cycle" { "" } else { "decay_steps = 20" };
        let text =
            format!("steps = 100\nbatch = 1\nwarmup = 10\nend_divisor = 10.0\nshape = \"{shape}\"\n{more}");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn one_cycle_is_what_it_was() {
        let config = config("one_cycle");
        let schedule = Schedule::new(&config, None);
        let cycle = OneCycle { steps: 100, warmup: 10, start_divisor: 25.0, end_divisor: 10.0 };
        assert!((0..100).all(|step| schedule.factor(step).to_bits() == cycle.factor(step).to_bits()));
        assert_eq!((schedule.steps(), schedule.decays(99)), (100, false));
    }

    #[test]
    fn a_constant_rate_comes_down_at_the_end_or_when_it_is_told_to() {
        let config = config("warmup_stable_decay");
        for (told, from) in [(None, 80), (Some(30), 30), (Some(95), 95)] {
            let schedule = Schedule::new(&config, told);
            assert_eq!(schedule.steps(), from + 20);
            let factors: Vec<f64> = (0..schedule.steps()).map(|step| schedule.factor(step)).collect();
            let from = from as usize;
            assert!(factors[..11].is_sorted());
            assert!(factors[10..from].iter().all(|&factor| factor == 1.0));
            assert!(factors[from - 1..].windows(2).all(|pair| pair[0] > pair[1]));
            assert!((factors[from + 19] - 0.1).abs() < 1e-12);
            assert!(!schedule.decays(from as u64 - 1) && schedule.decays(from as u64));
        }
        // What is learned before does not depend on how long the run will be.
        let longer = ScheduleConfig { steps: 1000, ..config.clone() };
        let (short, long) = (Schedule::new(&config, None), Schedule::new(&longer, None));
        assert!((0..80).all(|step| short.factor(step).to_bits() == long.factor(step).to_bits()));
    }

    #[test]
    fn a_run_that_is_told_to_end_within_its_warm_up_never_rises_again() {
        let config = config("warmup_stable_decay");
        let schedule = Schedule::new(&config, Some(4));
        let factors: Vec<f64> = (4..24).map(|step| schedule.factor(step)).collect();
        assert!(factors.is_sorted_by(|a, b| a >= b), "{factors:?}");
    }
}
