//! A prompt: spans of tokens and spans of latents, in any order.

use burn::tensor::Tensor;

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
