//! Choosing the next token from logits.
//!
//! The steps and their order are those of Hugging Face transformers' `generate`: repetition
//! penalty, temperature, top-k, top-p, min-p. (llama.cpp applies the temperature last, so the same
//! top-p and min-p keep other tokens there.) Where equal logits straddle the edge of the top k,
//! those with the lowest ids are kept, so that exactly k remain.

use std::cmp::Ordering;
use std::collections::HashSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::{Error, Result};
use arc_adapters::setters;

/// How to choose. The default is greedy: no randomness, nothing cut, nothing penalised.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SamplingOptions {
    /// Logits are divided by this: below 1 sharpens, above 1 flattens. 0 is greedy: always the
    /// largest logit, of equal ones the lowest id.
    pub temperature: f32,
    /// Only the k most likely tokens can be chosen. 0 keeps all.
    pub top_k: usize,
    /// Only the most likely tokens that together have at least this probability can be chosen.
    /// 1 keeps all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the most likely one can be chosen.
    /// 0 keeps all.
    pub min_p: f32,
    /// Positive logits of tokens that have occurred are divided by this, negative ones multiplied,
    /// once however often they occurred. 1 changes nothing. Source: CTRL, arXiv 1909.05858.
    pub repetition_penalty: f32,
    /// The same seed, options and logits choose the same tokens.
    pub seed: u64,
}

setters!(SamplingOptions {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    seed: u64,
});

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl SamplingOptions {
    /// Checks that every option is in its range.
    ///
    /// # Errors
    /// [`Error::InvalidValue`] names the option, what it is and what it may be.
    pub fn validate(&self) -> Result<()> {
        let check = |good: bool, name: &str, value: f32, range: &str| {
            if good {
                return Ok(());
            }
            Err(Error::InvalidValue {
                what: name.to_owned(),
                found: value.to_string(),
                expected: range.to_owned(),
            })
        };
        let Self { temperature, top_p, min_p, repetition_penalty, .. } = *self;
        check(
            temperature >= 0.0 && temperature.is_finite(),
            "temperature",
            temperature,
            "a number of at least 0",
        )?;
        check(top_p > 0.0 && top_p <= 1.0, "top-p", top_p, "a number above 0 and at most 1")?;
        check((0.0..=1.0).contains(&min_p), "min-p", min_p, "a number from 0 to 1")?;
        check(
            repetition_penalty > 0.0 && repetition_penalty.is_finite(),
            "repetition penalty",
            repetition_penalty,
            "a number above 0",
        )
    }

    /// Whether the choice is without randomness.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

/// Chooses tokens, with the random numbers of one seed.
#[derive(Debug)]
pub struct Sampler {
    options: SamplingOptions,
    random: StdRng,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// `exp` of what the logit is below the largest, after the temperature.
    weight: f64,
}

impl Candidate {
    /// The most likely first, of equal ones the lowest id.
    fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// How many candidates are put in order at first; more only if they do not reach top-p.
const FIRST_SORTED: usize = 256;

impl Sampler {
    /// A sampler at the beginning of its random numbers.
    ///
    /// # Errors
    /// As [`SamplingOptions::validate`].
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self { options, random: StdRng::seed_from_u64(options.seed), candidates: Vec::new() })
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Chooses the next token from `logits`, one for each id. `history` holds the tokens that the
    /// repetition penalty counts: usually prompt and text so far. The penalty is applied to
    /// `logits` in place. A logit of minus infinity is never chosen.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if `logits` has NaN or plus infinity, or nothing finite: the model's
    /// computation has gone wrong.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32> {
        penalise(logits, history, self.options.repetition_penalty);
        let best = greedy(logits)?;
        if self.options.is_greedy() {
            return Ok(best.id);
        }
        let temperature = f64::from(self.options.temperature);
        let largest = f64::from(best.logit);
        self.candidates.clear();
        self.candidates.extend(
            (0..).zip(logits.iter()).filter(|(_, logit)| **logit > f32::NEG_INFINITY).map(|(id, &logit)| {
                Candidate { id, logit, weight: ((f64::from(logit) - largest) / temperature).exp() }
            }),
        );
        self.keep_top_k();
        self.keep_top_p();
        let least = f64::from(self.options.min_p);
        self.candidates.retain(|candidate| candidate.weight >= least);

        let total: f64 = self.candidates.iter().map(|candidate| candidate.weight).sum();
        let mut left = self.random.random::<f64>() * total;
        for candidate in &self.candidates {
            left -= candidate.weight;
            if left < 0.0 {
                return Ok(candidate.id);
            }
        }
        // Rounding may leave a last bit of the total over.
        Ok(self.candidates.last().map_or(best.id, |candidate| candidate.id))
    }

    fn keep_top_k(&mut self) {
        let k = self.options.top_k;
        if k == 0 || k >= self.candidates.len() {
            return;
        }
        self.candidates.select_nth_unstable_by(k - 1, Candidate::rank);
        self.candidates.truncate(k);
    }

    /// Keeps a token if those before it have less than `top_p` of the probability.
    fn keep_top_p(&mut self) {
        let top_p = f64::from(self.options.top_p);
        if top_p >= 1.0 {
            return;
        }
        let enough = top_p * self.candidates.iter().map(|candidate| candidate.weight).sum::<f64>();
        let (mut sorted, mut sum) = (0, 0.0);
        while sorted < self.candidates.len() {
            let rest = &mut self.candidates[sorted..];
            let next = (sorted.max(FIRST_SORTED)).min(rest.len());
            if next < rest.len() {
                rest.select_nth_unstable_by(next - 1, Candidate::rank);
            }
            rest[..next].sort_unstable_by(Candidate::rank);
            for index in sorted..sorted + next {
                sum += self.candidates[index].weight;
                if sum >= enough {
                    self.candidates.truncate(index + 1);
                    return;
                }
            }
            sorted += next;
        }
    }
}

/// Applies the repetition penalty, once to each token of `history`.
fn penalise(logits: &mut [f32], history: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    for &id in &history.iter().collect::<HashSet<_>>() {
        if let Some(logit) = usize::try_from(*id).ok().and_then(|id| logits.get_mut(id)) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
}

/// The largest logit, of equal ones that with the lowest id.
fn greedy(logits: &[f32]) -> Result<Candidate> {
    let mut best: Option<Candidate> = None;
    for (id, &logit) in (0..).zip(logits) {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(Error::NotFinite { reason: format!("the logit of token {id} is {logit}") });
        }
        if logit > best.map_or(f32::NEG_INFINITY, |best| best.logit) {
            best = Some(Candidate { id, logit, weight: 1.0 });
        }
    }
    best.ok_or_else(|| Error::NotFinite { reason: "no logit is finite, nothing can be chosen".into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, 3.0, -2.0, 3.0, 0.5, 2.0];

    fn sampler(options: SamplingOptions) -> Sampler {
        Sampler::new(options).unwrap()
    }

    /// How often each token is chosen of 40,000 times.
    fn frequencies(options: SamplingOptions, logits: &[f32], history: &[u32]) -> Vec<f64> {
        const DRAWS: u32 = 40_000;
        let mut sampler = sampler(options);
        let mut counts = vec![0_u32; logits.len()];
        for _ in 0..DRAWS {
            let id = sampler.sample(&mut logits.to_vec(), history).unwrap();
            counts[id as usize] += 1;
        }
        counts.into_iter().map(|count| f64::from(count) / f64::from(DRAWS)).collect()
    }

    /// Softmax of `logits / temperature` over `kept`, computed the plain way.
    fn expected(logits: &[f32], temperature: f64, kept: &[usize]) -> Vec<f64> {
        let weights: Vec<f64> = logits
            .iter()
            .enumerate()
            .map(|(id, &logit)| if kept.contains(&id) { (f64::from(logit) / temperature).exp() } else { 0.0 })
            .collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        for (id, (found, expected)) in found.iter().zip(expected).enumerate() {
            // Five standard deviations of the mean of 40,000 draws are at most 0.0125.
            assert!((found - expected).abs() < 0.0125, "token {id}: {found}, expected {expected}");
            assert!(*expected > 0.0 || *found == 0.0, "token {id} was cut but chosen");
        }
    }

    const ALL: [usize; 6] = [0, 1, 2, 3, 4, 5];

    #[test]
    fn frequencies_are_the_softmax_at_the_temperature() {
        for temperature in [0.5, 1.0, 2.0] {
            let options = SamplingOptions { temperature, ..Default::default() };
            let expected = expected(&LOGITS, f64::from(temperature), &ALL);
            assert_close(&frequencies(options, &LOGITS, &[]), &expected);
        }
    }

    #[test]
    fn top_k_keeps_exactly_k_and_of_equals_the_lowest_id() {
        for (top_k, kept) in [(1, &[1][..]), (2, &[1, 3]), (3, &[1, 3, 5]), (6, &ALL), (99, &ALL)] {
            let options = SamplingOptions { temperature: 1.0, top_k, ..Default::default() };
            assert_close(&frequencies(options, &LOGITS, &[]), &expected(&LOGITS, 1.0, kept));
        }
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_it() {
        // Probabilities in order: 0.386 (1), 0.386 (3), 0.142 (5), 0.052 (0), 0.032 (4), 0.003 (2).
        for (top_p, kept) in
            [(0.01, &[1][..]), (0.38, &[1]), (0.40, &[1, 3]), (0.78, &[1, 3, 5]), (1.0, &ALL)]
        {
            let options = SamplingOptions { temperature: 1.0, top_p, ..Default::default() };
            assert_close(&frequencies(options, &LOGITS, &[]), &expected(&LOGITS, 1.0, kept));
        }
    }

    #[test]
    fn top_p_is_right_beyond_the_part_that_is_sorted_first() {
        // Equal logits: top-p 0.5 must keep the first half of the ids, which is more than
        // `FIRST_SORTED`.
        let logits = vec![0.0; 4 * FIRST_SORTED];
        let options = SamplingOptions { temperature: 1.0, top_p: 0.5, ..Default::default() };
        let mut sampler = sampler(options);
        let mut largest = 0;
        for _ in 0..20_000 {
            largest = largest.max(sampler.sample(&mut logits.clone(), &[]).unwrap());
        }
        assert_eq!(largest as usize, 2 * FIRST_SORTED - 1);
    }

    #[test]
    fn min_p_is_relative_to_the_most_likely() {
        // Ratios to the most likely: exp(2 - 3) = 0.37 for 5, exp(1 - 3) = 0.14 for 0.
        for (min_p, kept) in [(0.4, &[1, 3][..]), (0.3, &[1, 3, 5]), (0.13, &[0, 1, 3, 5]), (1.0, &[1, 3])] {
            let options = SamplingOptions { temperature: 1.0, min_p, ..Default::default() };
            assert_close(&frequencies(options, &LOGITS, &[]), &expected(&LOGITS, 1.0, kept));
        }
    }

    #[test]
    fn temperature_comes_before_top_p() {
        // At temperature 4 the distribution is flat enough that 0.5 needs three tokens; before the
        // temperature two would do.
        let options = SamplingOptions { temperature: 4.0, top_p: 0.5, ..Default::default() };
        assert_close(&frequencies(options, &LOGITS, &[]), &expected(&LOGITS, 4.0, &[1, 3, 5]));
    }

    #[test]
    fn the_penalty_is_applied_once_and_always_makes_less_likely() {
        let mut logits = [2.0, -2.0, 4.0];
        penalise(&mut logits, &[0, 1, 0, 7, 0], 2.0);
        assert_eq!(logits, [1.0, -4.0, 4.0]);
        let options = SamplingOptions { repetition_penalty: 4.0, ..Default::default() };
        assert_eq!(sampler(options).sample(&mut LOGITS.to_vec(), &[1, 3]).unwrap(), 5);
    }

    #[test]
    fn temperature_zero_takes_the_largest_and_of_equals_the_lowest_id() {
        let mut sampler = sampler(SamplingOptions::default());
        assert_eq!(sampler.sample(&mut LOGITS.to_vec(), &[]).unwrap(), 1);
        assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY, -5.0, -5.0], &[]).unwrap(), 1);
    }

    #[test]
    fn a_seed_gives_one_sequence_and_another_seed_another() {
        let draw = |seed| {
            let options = SamplingOptions { temperature: 1.0, seed, ..Default::default() };
            let mut sampler = sampler(options);
            (0..64).map(|_| sampler.sample(&mut LOGITS.to_vec(), &[]).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error_and_minus_infinity_is_never_chosen() {
        let options = SamplingOptions { temperature: 1.0, ..Default::default() };
        let mut sampler = sampler(options);
        let message = sampler.sample(&mut [0.0, f32::NAN], &[]).unwrap_err().to_string();
        assert_eq!(message, "the logit of token 1 is NaN");
        assert!(sampler.sample(&mut [f32::NEG_INFINITY], &[]).is_err());
        assert!(sampler.sample(&mut [], &[]).is_err());
        for _ in 0..100 {
            assert_eq!(sampler.sample(&mut [f32::NEG_INFINITY, 0.0], &[]).unwrap(), 1);
        }
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let default = SamplingOptions::default();
        for (options, message) in [
            (
                SamplingOptions { temperature: -1.0, ..default },
                "temperature is `-1`, expected a number of at least 0",
            ),
            (
                SamplingOptions { top_p: 0.0, ..default },
                "top-p is `0`, expected a number above 0 and at most 1",
            ),
            (
                SamplingOptions { top_p: f32::NAN, ..default },
                "top-p is `NaN`, expected a number above 0 and at most 1",
            ),
            (SamplingOptions { min_p: 1.5, ..default }, "min-p is `1.5`, expected a number from 0 to 1"),
            (
                SamplingOptions { repetition_penalty: 0.0, ..default },
                "repetition penalty is `0`, expected a number above 0",
            ),
        ] {
            assert_eq!(Sampler::new(options).unwrap_err().to_string(), message);
        }
    }
}
