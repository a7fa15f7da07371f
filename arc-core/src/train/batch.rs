//! One batch on the host: which tokens are encoded, and what each decoder row is made of.
//!
//! Shapes: `b` rows, `s` positions of the longest row, `n` latents, `d` decoder width.

use burn::tensor::{Device, Int, Tensor, TensorData};

/// A run of positions of one decoder row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SampleSpan {
    /// Decoder tokens; with `is_target` the decoder is asked to predict each of them.
    Tokens {
        /// Token ids of the decoder.
        ids: Vec<u32>,
        /// Whether the loss is taken at them.
        is_target: bool,
    },
    /// The latents of one context of the sample, and the special vector after them.
    Context(usize),
    /// The latents of one context whose document goes on in the next: nothing follows them.
    Chunk(usize),
}

/// One row: the contexts to compress, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Encoder token ids of each context, none empty.
    pub contexts: Vec<Vec<u32>>,
    /// The same contexts as decoder tokens, for a reader of the plain text.
    pub plain_contexts: Vec<Vec<u32>>,
    /// The decoder's row in order.
    pub spans: Vec<SampleSpan>,
    /// Where the text comes from, for messages.
    pub origin: String,
}

/// The spans of a document's contexts, one after the other.
pub(super) fn document_spans(contexts: std::ops::Range<usize>) -> impl Iterator<Item = SampleSpan> {
    let last = contexts.end.saturating_sub(1);
    contexts.map(move |context| match context < last {
        true => SampleSpan::Chunk(context),
        false => SampleSpan::Context(context),
    })
}

impl Sample {
    /// The row of a decoder that reads each context as plain tokens.
    pub(super) fn with_plain_contexts(&self) -> Self {
        self.with_contexts(&self.plain_contexts)
    }

    /// The number of tokens to predict.
    pub(super) fn target_count(&self) -> usize {
        let count = |span: &SampleSpan| match span {
            SampleSpan::Tokens { ids, is_target: true } => ids.len(),
            _ => 0,
        };
        self.spans.iter().map(count).sum()
    }

    /// The row with other tokens in place of its contexts.
    pub(super) fn with_contexts(&self, contexts: &[Vec<u32>]) -> Self {
        let spans = self.spans.iter().map(|span| match span {
            SampleSpan::Context(context) | SampleSpan::Chunk(context) => {
                SampleSpan::Tokens { ids: contexts[*context].clone(), is_target: false }
            }
            SampleSpan::Tokens { .. } => span.clone(),
        });
        Self {
            contexts: Vec::new(),
            plain_contexts: Vec::new(),
            spans: spans.collect(),
            origin: self.origin.clone(),
        }
    }
}

/// Where each position of a batch's rows comes from, as places in one table: first the embeddings
/// of all tokens, then the projected latents, then the projected special vector, then a zero row.
#[derive(Debug)]
pub(super) struct Layout {
    /// All token ids of the batch, in order.
    pub(super) tokens: Vec<u32>,
    /// `[b · s]` places in the table.
    places: Vec<i64>,
    /// The hidden states, as places in `[b · s]`, that predict `targets`.
    pub(super) predicting: Vec<usize>,
    /// What they predict.
    pub(super) targets: Vec<u32>,
    /// The positions of each row, without padding.
    pub(super) lengths: Vec<usize>,
    /// The first position of each row that is a latent, or its length if none is: earlier ones
    /// depend on nothing that is trained.
    pub(super) first_latents: Vec<usize>,
    rows: usize,
    longest: usize,
    filled: usize,
}

impl Layout {
    /// The layout of `samples`, whose contexts, all of them in order, have `latents[i]` latents in
    /// rows of `stride` of the projected table. `has_special` says whether a special vector follows
    /// each context.
    ///
    /// The row's first position predicts nothing, so a target there is left out.
    pub(super) fn new(samples: &[Sample], latents: &[usize], stride: usize, has_special: bool) -> Self {
        let token_count = samples
            .iter()
            .flat_map(|sample| &sample.spans)
            .map(|span| if let SampleSpan::Tokens { ids, .. } = span { ids.len() } else { 0 })
            .sum::<usize>();
        let special = token_count + latents.len() * stride;
        let zero = special + usize::from(has_special);

        let mut tokens = Vec::with_capacity(token_count);
        let mut rows: Vec<Vec<i64>> = Vec::with_capacity(samples.len());
        let mut predictions = Vec::new();
        let mut first_context = 0;
        for (row, sample) in samples.iter().enumerate() {
            let mut places = Vec::new();
            for span in &sample.spans {
                match span {
                    SampleSpan::Tokens { ids, is_target } => {
                        for &id in ids {
                            if *is_target && !places.is_empty() {
                                predictions.push((row, places.len() - 1, id));
                            }
                            places.push(tokens.len() as i64);
                            tokens.push(id);
                        }
                    }
                    SampleSpan::Context(context) | SampleSpan::Chunk(context) => {
                        let context = first_context + context;
                        let start = token_count + context * stride;
                        places.extend((start..start + latents[context]).map(|place| place as i64));
                        if has_special && matches!(span, SampleSpan::Context(_)) {
                            places.push(special as i64);
                        }
                    }
                }
            }
            first_context += sample.contexts.len();
            rows.push(places);
        }

        let lengths: Vec<usize> = rows.iter().map(Vec::len).collect();
        let is_latent = |&place: &i64| (token_count as i64..zero as i64).contains(&place);
        let first_latents =
            rows.iter().map(|row| row.iter().position(is_latent).unwrap_or(row.len())).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let filled = rows.iter().map(Vec::len).sum();
        let places = rows
            .iter()
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(zero as i64, longest - row.len())))
            .collect();
        Self {
            tokens,
            places,
            predicting: predictions.iter().map(|&(row, at, _)| row * longest + at).collect(),
            targets: predictions.iter().map(|&(_, _, id)| id).collect(),
            lengths,
            first_latents,
            rows: rows.len(),
            longest,
            filled,
        }
    }

    /// What the decoder's first block reads, `[b, s, d]`, from the table's three parts.
    pub(super) fn assemble(
        &self,
        tokens: Tensor<2>,
        projected: Tensor<2>,
        special: Option<Tensor<2>>,
        device: &Device,
    ) -> Tensor<3> {
        let d = projected.dims()[1];
        let zero = Tensor::zeros([1, d], device);
        let table = Tensor::cat(
            [Some(tokens), Some(projected), special, Some(zero)].into_iter().flatten().collect(),
            0,
        );
        let places = TensorData::new(self.places.clone(), [self.places.len()]);
        table.select(0, Tensor::<1, Int>::from_data(places, device)).reshape([self.rows, self.longest, d])
    }

    /// The positions of the decoder's rows, padding included.
    pub(super) fn positions(&self) -> usize {
        self.rows * self.longest
    }

    /// How many of the positions are padding.
    pub(super) fn padding(&self) -> usize {
        self.positions() - self.filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32], is_target: bool) -> SampleSpan {
        SampleSpan::Tokens { ids: ids.to_vec(), is_target }
    }

    #[test]
    fn rows_are_laid_out_as_their_spans_say_and_padded_at_the_right() {
        let first = Sample {
            contexts: vec![vec![1; 8]],
            plain_contexts: vec![vec![]],
            spans: vec![tokens(&[7], false), SampleSpan::Context(0), tokens(&[8, 9], true)],
            origin: String::new(),
        };
        let second = Sample {
            contexts: vec![vec![1; 4], vec![1; 4]],
            plain_contexts: vec![vec![], vec![]],
            spans: vec![SampleSpan::Context(0), SampleSpan::Context(1), tokens(&[6], true)],
            origin: String::new(),
        };
        let layout = Layout::new(&[first, second], &[2, 1, 1], 2, true);
        assert_eq!(layout.tokens, [7, 8, 9, 6]);
        // Tokens 0..4, latents 4..10 in threes of stride 2, the special vector 10, zero 11.
        assert_eq!(layout.places, [0, 4, 5, 10, 1, 2, 6, 10, 8, 10, 3, 11]);
        // The special vector predicts the first target, the last target predicts nothing.
        assert_eq!(layout.predicting, [3, 4, 9]);
        assert_eq!(layout.targets, [8, 9, 6]);
        assert_eq!((layout.positions(), layout.padding()), (12, 1));
        assert_eq!((layout.lengths.as_slice(), layout.first_latents.as_slice()), (&[6, 5][..], &[1, 0][..]));
    }

    #[test]
    fn the_chunks_of_a_document_are_followed_by_one_special_vector() {
        let sample = Sample {
            contexts: vec![vec![1; 4], vec![1; 4]],
            plain_contexts: vec![vec![2], vec![3]],
            spans: vec![SampleSpan::Chunk(0), SampleSpan::Context(1), tokens(&[6], true)],
            origin: String::new(),
        };
        let layout = Layout::new(std::slice::from_ref(&sample), &[2, 1], 2, true);
        // The token 0, latents 1..5 in twos, the special vector 5.
        assert_eq!(layout.places, [1, 2, 3, 5, 0]);
        let plain = sample.with_plain_contexts();
        assert_eq!(plain.spans, [tokens(&[2], false), tokens(&[3], false), tokens(&[6], true)]);
    }

    #[test]
    fn a_target_with_nothing_before_it_is_left_out() {
        let sample = Sample {
            contexts: vec![],
            plain_contexts: vec![],
            spans: vec![tokens(&[5, 6], true)],
            origin: String::new(),
        };
        let layout = Layout::new(&[sample], &[], 0, false);
        assert_eq!((layout.predicting, layout.targets), (vec![0], vec![6]));
    }
}
