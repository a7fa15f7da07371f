//! How far the probabilities of one way to compute a decoder are from those of another.

use std::num::NonZeroUsize;

use serde::Serialize;

use super::Decoder;
use crate::{Error, Result};

/// What one distribution after each token says of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Divergence {
    /// How many positions were compared.
    pub positions: usize,
    /// The mean Kullback-Leibler divergence from the exact distribution, in nats.
    pub mean_kl: f64,
    /// The share of positions whose most likely token is the same.
    pub same_top: f64,
}

impl Divergence {
    /// Counts one position in: exact logits, and others, `[vocabulary]`.
    fn add(&mut self, exact: &[f32], other: &[f32]) {
        let (a, b) = (Summary::of(exact), Summary::of(other));
        let difference = |(&x, &y): (&f32, &f32)| {
            let (log_p, log_q) = (f64::from(x) - a.log_sum, f64::from(y) - b.log_sum);
            log_p.exp() * (log_p - log_q)
        };
        self.positions += 1;
        self.mean_kl += exact.iter().zip(other).map(difference).sum::<f64>();
        self.same_top += f64::from(u8::from(a.top == b.top));
    }

    fn divided(self) -> Self {
        let count = self.positions.max(1) as f64;
        Self { mean_kl: self.mean_kl / count, same_top: self.same_top / count, ..self }
    }
}

/// What is to be known of a row of logits.
struct Summary {
    log_sum: f64,
    top: usize,
}

impl Summary {
    fn of(logits: &[f32]) -> Self {
        let best = |best: (usize, f32), (id, &logit): (usize, &f32)| {
            if logit > best.1 { (id, logit) } else { best }
        };
        let (top, highest) = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), best);
        let highest = f64::from(highest);
        let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
        Self { log_sum: highest + sum.ln(), top }
    }
}

impl Decoder {
    /// How far `other`'s distribution after each token is from this decoder's. `other` is shown the
    /// place of each piece of `at_once` positions, and gives their logits, `[positions, vocabulary]`: a
    /// vocabulary of 262,144 takes a megabyte for each. One at a time is how decoders write.
    ///
    /// # Errors
    ///
    /// As [`Decoder::loss`], what `other` gives, and [`Error::WrongCount`] if it gives another
    /// number of logits.
    pub fn divergence_of(
        &self,
        token_ids: &[u32],
        at_once: NonZeroUsize,
        mut other: impl FnMut(std::ops::Range<usize>) -> Result<Vec<f32>>,
    ) -> Result<Divergence> {
        let mut found = Divergence::default();
        let mut own = self.logits_by_pieces(token_ids)?;
        for start in (0..token_ids.len()).step_by(at_once.get()) {
            let piece = start..(start + at_once.get()).min(token_ids.len());
            let (exact, other) = (own(piece.clone())?, other(piece)?);
            if exact.len() != other.len() {
                return Err(Error::WrongCount {
                    what: "logits to compare".into(),
                    found: other.len(),
                    expected: exact.len(),
                });
            }
            let vocabulary = self.network.vocabulary();
            for (exact, other) in exact.chunks_exact(vocabulary).zip(other.chunks_exact(vocabulary)) {
                found.add(exact, other);
            }
        }
        Ok(found.divided())
    }

    /// The logits of one piece of positions after another, each asked for once and in order,
    /// `[positions, vocabulary]`.
    ///
    /// # Errors
    ///
    /// As [`Decoder::loss`].
    pub fn logits_by_pieces<'a>(
        &'a self,
        token_ids: &'a [u32],
    ) -> Result<impl FnMut(std::ops::Range<usize>) -> Result<Vec<f32>> + 'a> {
        self.check_window(&crate::prompt::Prompt::from_tokens(token_ids.to_vec()), 0, 0)?;
        let mut cache = self.network.new_cache(vec![0]);
        Ok(move |piece: std::ops::Range<usize>| {
            let embedded = self.network.embed(&token_ids[piece]).unsqueeze();
            let logits = self.network.logits(self.network.forward(embedded, &mut cache));
            logits
                .into_data()
                .convert::<f32>()
                .try_into_vec()
                .map_err(|error| Error::DeviceData { what: "logits", reason: format!("{error:?}") })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergence_is_that_of_the_formula() {
        let mut found = Divergence::default();
        // Probabilities 1/2, 1/4, 1/4 and 1/4, 1/2, 1/4, shifted.
        found.add(&[2.0_f32.ln() + 5.0, 5.0, 5.0], &[-1.0, 2.0_f32.ln() - 1.0, -1.0]);
        found.add(&[1.0, 3.0, 2.0], &[0.0, 2.0, 1.0]);
        let found = found.divided();
        let expected = (0.5 * 2.0_f64.ln() - 0.25 * 2.0_f64.ln()) / 2.0;
        assert!((found.mean_kl - expected).abs() < 1e-6, "{}", found.mean_kl);
        assert_eq!((found.positions, found.same_top), (2, 0.5));
    }
}
