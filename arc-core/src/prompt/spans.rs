//! A prompt: spans of tokens and spans of latents, in any order.

use burn::tensor::Tensor;
use sha2::{Digest as _, Sha256};

/// A run of positions of a prompt.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a prompt has a handful of spans")]
pub enum Span {
    /// Token ids of the decoder.
    Tokens(Vec<u32>),
    /// Projected latents, `[n, d]`, in the space of the decoder's token embeddings.
    Latents(Tensor<2>),
}

impl Span {
    /// The number of positions.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Tokens(ids) => ids.len(),
            Self::Latents(latents) => latents.dims()[0],
        }
    }

    /// Whether the span is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a decoder reads before it writes.
///
/// To the decoder every position is alike: ordinary causal attention, ordinary rotary positions.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    spans: Vec<Span>,
}

impl Prompt {
    /// An empty prompt.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A prompt of tokens alone.
    #[must_use]
    pub fn from_tokens(ids: Vec<u32>) -> Self {
        Self::new().tokens(ids)
    }

    /// Adds tokens.
    #[must_use]
    pub fn tokens(mut self, ids: Vec<u32>) -> Self {
        self.push(Span::Tokens(ids));
        self
    }

    /// Adds projected latents, `[n, d]`.
    #[must_use]
    pub fn latents(mut self, latents: Tensor<2>) -> Self {
        self.push(Span::Latents(latents));
        self
    }

    /// Adds a span, unless it is empty.
    pub fn push(&mut self, span: Span) {
        if !span.is_empty() {
            self.spans.push(span);
        }
    }

    /// The spans in order; none is empty.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The number of positions, tokens and latents together.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.iter().map(Span::len).sum()
    }

    /// Whether there is no position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The number of latents.
    #[must_use]
    pub fn latent_count(&self) -> usize {
        self.spans.iter().filter(|span| matches!(span, Span::Latents(_))).map(Span::len).sum()
    }

    /// The token ids in order, latents left out.
    #[must_use]
    pub fn token_ids(&self) -> Vec<u32> {
        self.spans
            .iter()
            .filter_map(|span| match span {
                Span::Tokens(ids) => Some(ids.as_slice()),
                Span::Latents(_) => None,
            })
            .flatten()
            .copied()
            .collect()
    }

    /// The token id at each position; latents have none. Losses are taken where there is one.
    #[must_use]
    pub fn token_at_positions(&self) -> Vec<Option<u32>> {
        self.spans
            .iter()
            .flat_map(|span| match span {
                Span::Tokens(ids) => ids.iter().copied().map(Some).collect(),
                Span::Latents(latents) => vec![None; latents.dims()[0]],
            })
            .collect()
    }

    /// The prompt up to its last span of tokens, and that span: what is asked behind documents. A prompt that
    /// ends in latents has nothing behind them.
    #[must_use]
    pub fn split_last_tokens(self) -> (Self, Self) {
        let mut before = self.spans;
        let last = before.pop_if(|span| matches!(span, Span::Tokens(_)));
        (Self { spans: before }, Self { spans: last.into_iter().collect() })
    }

    /// The sha256, in hexadecimal, of everything that a decoder reads: token ids, and the values of latents.
    #[must_use]
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for span in &self.spans {
            hash.update([u8::from(matches!(span, Span::Latents(_)))]);
            hash.update((span.len() as u64).to_le_bytes());
            match span {
                Span::Tokens(ids) => hash.update(bytemuck::cast_slice::<u32, u8>(ids)),
                Span::Latents(latents) => {
                    let data = latents.clone().into_data().convert::<f32>();
                    let values = data.as_slice::<f32>().expect("converted to f32");
                    hash.update(bytemuck::cast_slice::<f32, u8>(values));
                }
            }
        }
        arc_adapters::hexadecimal(&hash.finalize())
    }

    /// What the decoder's first block reads, `[len, d]`, where `embed` looks tokens up.
    ///
    /// # Panics
    ///
    /// Panics if the prompt is empty, or if latents are not of the decoder's width.
    #[must_use]
    pub fn embed(&self, embed: impl Fn(&[u32]) -> Tensor<2>) -> Tensor<2> {
        let parts = self
            .spans
            .iter()
            .map(|span| match span {
                Span::Tokens(ids) => embed(ids),
                Span::Latents(latents) => latents.clone(),
            })
            .collect();
        Tensor::cat(parts, 0)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn latents(values: [[f32; 2]; 2]) -> Tensor<2> {
        Tensor::from_data(values, &Device::flex())
    }

    #[test]
    fn a_digest_is_of_all_that_is_read_and_of_how_it_is_parted() {
        let prompt = || Prompt::from_tokens(vec![1, 2]).latents(latents([[1.0, 2.0], [3.0, 4.0]]));
        let digest = prompt().sha256();
        assert_eq!(prompt().sha256(), digest);
        let others = [
            Prompt::from_tokens(vec![1, 3]).latents(latents([[1.0, 2.0], [3.0, 4.0]])),
            Prompt::from_tokens(vec![1, 2]).latents(latents([[1.0, 2.0], [3.0, -4.0]])),
            prompt().tokens(vec![1]),
            Prompt::new().latents(latents([[1.0, 2.0], [3.0, 4.0]])).tokens(vec![1, 2]),
            // The bits of 1.0, as a token.
            Prompt::from_tokens(vec![1, 2, 0x3f80_0000, 0x4000_0000, 0x4040_0000, 0x4080_0000]),
        ];
        for other in others {
            assert_ne!(other.sha256(), digest);
        }
    }

    #[test]
    fn what_follows_the_documents_is_the_last_span_of_tokens() {
        let prompt = Prompt::from_tokens(vec![1]).latents(latents([[0.0; 2]; 2])).tokens(vec![2, 3]);
        let (before, question) = prompt.clone().split_last_tokens();
        assert_eq!((before.len(), question.token_ids()), (3, vec![2, 3]));
        let (all, nothing) = before.split_last_tokens();
        assert_eq!((all.len(), nothing.is_empty()), (3, true));
    }
}
