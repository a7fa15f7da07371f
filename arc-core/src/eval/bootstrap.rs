//! Confidence intervals by paired bootstrap: questions are drawn with replacement, the same for
//! all arms (Koehn, 2004; Efron and Tibshirani, 1993).

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

/// How often questions are drawn.
const RESAMPLES: usize = 2000;

/// A value, and the interval that holds it in 95 % of the draws.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Interval {
    /// On the questions as they are.
    pub value: f64,
    /// The 2.5th percentile of the draws.
    pub low: f64,
    /// The 97.5th percentile of the draws.
    pub high: f64,
}

/// Draws of question numbers, shared by everything that is compared.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    questions: usize,
    draws: Vec<Vec<u32>>,
}

impl Bootstrap {
    /// Draws of so many questions, fixed by the seed.
    #[must_use]
    pub fn new(questions: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let count = u32::try_from(questions).unwrap_or(u32::MAX);
        let mut draw = || (0..questions).map(|_| random.random_range(0..count)).collect();
        let draws = if questions == 0 { Vec::new() } else { (0..RESAMPLES).map(|_| draw()).collect() };
        Self { questions, draws }
    }

    /// The interval of a function of added numbers, where `statistics[question]` are a question's
    /// and all are of one length.
    #[must_use]
    pub fn interval(&self, statistics: &[Vec<f64>], score: impl Fn(&[f64]) -> f64) -> Interval {
        let width = statistics.first().map_or(0, Vec::len);
        let total = |questions: &mut dyn Iterator<Item = usize>| {
            let mut sums = vec![0.0; width];
            for row in questions.filter_map(|question| statistics.get(question)) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            score(&sums)
        };
        let value = total(&mut (0..self.questions));
        let mut scores: Vec<f64> = self
            .draws
            .iter()
            .map(|draw| total(&mut draw.iter().map(|&question| question as usize)))
            // A draw of questions that could not be asked alone has no score.
            .filter(|score| score.is_finite())
            .collect();
        scores.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = (share * scores.len().saturating_sub(1) as f64).round() as usize;
            scores.get(place).copied().unwrap_or(value)
        };
        Interval { value, low: at(0.025), high: at(0.975) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_approximation() {
        // 1,000 questions, 40 % right: the standard error is √(0.4 · 0.6 / 1000) = 0.0155.
        let statistics: Vec<Vec<f64>> =
            (0..1000).map(|question| vec![f64::from(u8::from(question % 5 < 2))]).collect();
        let interval = Bootstrap::new(1000, 1).interval(&statistics, |sums| sums[0] / 1000.0);
        assert!((interval.value - 0.4).abs() < 1e-12);
        assert!((interval.low - (0.4 - 1.96 * 0.0155)).abs() < 0.004, "{interval:?}");
        assert!((interval.high - (0.4 + 1.96 * 0.0155)).abs() < 0.004, "{interval:?}");
    }

    #[test]
    fn draws_are_paired_so_that_a_constant_difference_has_no_spread() {
        let bootstrap = Bootstrap::new(50, 3);
        // Two arms side by side: the second is always 0.25 better.
        let statistics: Vec<Vec<f64>> =
            (0..50).map(|question| vec![f64::from(question), f64::from(question) + 0.25]).collect();
        let difference = bootstrap.interval(&statistics, |sums| (sums[1] - sums[0]) / 50.0);
        assert!((difference.low - 0.25).abs() < 1e-9 && (difference.high - 0.25).abs() < 1e-9);
        let alone = bootstrap.interval(&statistics, |sums| sums[0] / 50.0);
        assert!(alone.high - alone.low > 1.0);
    }

    #[test]
    fn no_questions_have_no_draws() {
        let interval = Bootstrap::new(0, 0).interval(&[], |_| 0.0);
        assert_eq!((interval.low, interval.high), (0.0, 0.0));
    }
}
