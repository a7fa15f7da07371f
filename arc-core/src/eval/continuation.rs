//! Continuation: how much of a context's help for predicting what follows survives compression.

use burn::tensor::Tensor;

use crate::decoder::Decoder;
use crate::prompt::Prompt;
use crate::{Error, Result};

/// Contexts and what follows them, cut from running text in the decoder's own tokens.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ContinuationTask {
    /// Tokens of context.
    pub context_tokens: usize,
    /// Tokens to predict. The first has nothing before it in the arm without context, so no arm is
    /// scored on it.
    pub continuation_tokens: usize,
}

impl ContinuationTask {
    /// Contexts of so many tokens, each followed by so many to predict.
    #[must_use]
    pub const fn new(context_tokens: usize, continuation_tokens: usize) -> Self {
        Self { context_tokens, continuation_tokens }
    }
}

/// For each of so many samples another one, whose context stands in for its own: what latents of that are
/// worth they tell of the kind of text alone. It is the first that `differs` (the second place from the
/// first), from half of the samples away on: a neighbour's context may end where this one's begins. `None` if
/// a sample has no other.
pub(crate) fn strangers(samples: usize, differs: impl Fn(usize, usize) -> bool) -> Option<Vec<usize>> {
    let away = samples / 2;
    let stranger = |own: usize| {
        (0..samples).map(|step| (own + away + step) % samples).find(|&other| differs(own, other))
    };
    (0..samples).map(stranger).collect()
}

/// The tokens that are kept of a context where it is cut to as many positions as its latents take, the
/// special vector included: the last ones, which stand nearest to what follows.
pub(crate) fn truncated(context: &[u32], positions: usize) -> &[u32] {
    &context[context.len().saturating_sub(positions)..]
}

/// What is summed over samples. Tokens are weighted alike, whichever sample they are of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ContinuationSums {
    pub(crate) samples: usize,
    /// Tokens that the losses are of.
    pub(crate) tokens: usize,
    /// Positions that latents and special vectors take.
    pub(crate) positions: usize,
    pub(crate) no_context: f64,
    pub(crate) full_context: f64,
    pub(crate) latents: f64,
    pub(crate) truncation: f64,
    /// `None` where a sample has no stranger.
    pub(crate) another: Option<f64>,
}

impl ContinuationSums {
    /// The means.
    pub(crate) fn arms(&self) -> ContinuationArms {
        let mean = |sum: f64| sum / self.tokens.max(1) as f64;
        ContinuationArms {
            samples: self.samples,
            no_context: mean(self.no_context),
            full_context: mean(self.full_context),
            latents: mean(self.latents),
            truncation: mean(self.truncation),
            another: self.another.map(mean),
            mean_latents: self.positions as f64 / self.samples.max(1) as f64,
        }
    }
}

/// Mean negative log-likelihoods of the continuations, in nats per token. `arc fit`, `arc register` and
/// `arc train` measure them alike, so that the cards of their adapters can be compared at contexts and
/// continuations of the same lengths.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ContinuationArms {
    /// Samples measured.
    pub samples: usize,
    /// With nothing before the continuation.
    pub no_context: f64,
    /// With the whole context as tokens.
    pub full_context: f64,
    /// With the context as latents.
    pub latents: f64,
    /// With as many of the context's last tokens as there were latents.
    pub truncation: f64,
    /// With the latents of another sample's context, which tell only what kind of text it is; `None` for
    /// a single sample.
    pub another: Option<f64>,
    /// Latents per sample, on average.
    pub mean_latents: f64,
}

impl ContinuationArms {
    /// The share of the gap between no context and full context that the latents recover; 1 is all
    /// of it, below 0 is worse than no context.
    #[must_use]
    pub fn recovered(&self) -> f64 {
        (self.no_context - self.latents) / (self.no_context - self.full_context)
    }

    /// The losses and shares as they stand in metrics and in an adapter's card.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "samples": self.samples,
            "mean_latents": self.mean_latents,
            "loss_no_context": self.no_context,
            "loss_full_context": self.full_context,
            "loss_latents": self.latents,
            "loss_truncation": self.truncation,
            "loss_another": self.another,
            "recovered": self.recovered(),
            "recovered_by_truncation": self.recovered_by_truncation(),
            "recovered_by_another": self.recovered_by_another(),
        })
    }

    /// The share that the latents of another context recover.
    #[must_use]
    pub fn recovered_by_another(&self) -> Option<f64> {
        let gap = self.no_context - self.full_context;
        self.another.map(|another| (self.no_context - another) / gap)
    }

    /// The share that truncation to the same number of positions recovers.
    #[must_use]
    pub fn recovered_by_truncation(&self) -> f64 {
        (self.no_context - self.truncation) / (self.no_context - self.full_context)
    }
}

impl std::fmt::Display for ContinuationArms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "without context {:.3}, full {:.3}, {:.0} latents {:.3} ({:.0} % of the gap), as many tokens {:.3} \
             ({:.0} %)",
            self.no_context,
            self.full_context,
            self.mean_latents,
            self.latents,
            100.0 * self.recovered(),
            self.truncation,
            100.0 * self.recovered_by_truncation(),
        )?;
        match self.another.zip(self.recovered_by_another()) {
            Some((loss, share)) => write!(f, ", another text's latents {loss:.3} ({:.0} %)", 100.0 * share),
            None => Ok(()),
        }
    }
}

impl ContinuationTask {
    /// Refuses a text that is too short to measure on, without measuring.
    ///
    /// # Errors
    ///
    /// [`Error::NotEnough`] if it is too short for one sample.
    pub fn check(&self, decoder: &Decoder, text: &str) -> Result<()> {
        let tokens = decoder.tokenizer.encode(text)?.ids.len();
        if tokens < self.context_tokens + self.continuation_tokens {
            return Err(self.too_short(tokens));
        }
        Ok(())
    }

    fn too_short(&self, tokens: usize) -> Error {
        let length = self.context_tokens + self.continuation_tokens;
        Error::NotEnough { what: "tokens in the text for a sample".into(), found: tokens, needed: length }
    }

    /// Measures all arms on at most `limit` samples of `text`, which is cut from its beginning on.
    /// `project` turns a context's text into projected latents, `[n, d]`.
    ///
    /// # Errors
    ///
    /// [`Error::NotEnough`] if the text is too short for one sample, and what `project`
    /// returns.
    pub fn measure(
        &self,
        decoder: &Decoder,
        text: &str,
        limit: usize,
        mut project: impl FnMut(&str) -> Result<Tensor<2>>,
    ) -> Result<ContinuationArms> {
        let encoding = decoder.tokenizer.encode(text)?;
        let length = self.context_tokens + self.continuation_tokens;
        let beginning = decoder.tokenizer.beginning();
        let mut sums = ContinuationSums::default();
        let mut seen: Vec<(Tensor<2>, Vec<u32>)> = Vec::new();
        let loss = |prompt: Prompt, continuation: &[u32]| -> Result<f64> {
            let losses = decoder.token_losses(&prompt.tokens(continuation.to_vec()))?;
            let scored = &losses[losses.len() - (continuation.len() - 1)..];
            Ok(scored.iter().flatten().map(|&loss| f64::from(loss)).sum())
        };
        let begin = || Prompt::from_tokens(beginning.clone());
        for start in (0..encoding.ids.len()).step_by(length.max(1)).take(limit) {
            let Some(ids) = encoding.ids.get(start..start + length) else { break };
            let (context, continuation) = ids.split_at(self.context_tokens);
            let bytes = encoding.offsets[start].0..encoding.offsets[start + self.context_tokens - 1].1;
            // Tokens that split a character leave a context that is no text.
            let Some(context_text) = text.get(bytes) else { continue };
            let latents = project(context_text)?;
            let positions = latents.dims()[0];
            sums.samples += 1;
            sums.tokens += continuation.len() - 1;
            sums.positions += positions;
            sums.no_context += loss(begin(), continuation)?;
            sums.full_context += loss(begin().tokens(context.to_vec()), continuation)?;
            sums.truncation += loss(begin().tokens(truncated(context, positions).to_vec()), continuation)?;
            sums.latents += loss(begin().latents(latents.clone()), continuation)?;
            seen.push((latents, continuation.to_vec()));
        }
        if sums.samples == 0 {
            return Err(self.too_short(encoding.ids.len()));
        }
        if let Some(strangers) = strangers(seen.len(), |own, other| own != other) {
            let mut another = 0.0;
            for ((_, continuation), stranger) in seen.iter().zip(strangers) {
                another += loss(begin().latents(seen[stranger].0.clone()), continuation)?;
            }
            sums.another = Some(another);
        }
        Ok(sums.arms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_is_half_of_the_samples_away_or_the_next_that_differs() {
        let of = |own: &[u32]| strangers(own.len(), |a, b| own[a] != own[b]);
        assert_eq!(of(&[1, 2, 3, 4]), Some(vec![2, 3, 0, 1]));
        assert_eq!(of(&[1, 1, 1, 2, 2]), Some(vec![3, 3, 4, 0, 1]));
        assert_eq!(of(&[1, 1]), None);
        assert_eq!(of(&[1]), None);
        assert_eq!(of(&[]), Some(vec![]));
    }

    #[test]
    fn truncation_keeps_as_many_of_the_last_tokens_as_there_are_positions() {
        assert_eq!(truncated(&[1, 2, 3, 4], 3), [2, 3, 4]);
        assert_eq!(truncated(&[1, 2], 3), [1, 2]);
    }
}
