//! Compressing a text of any length: memory does not grow with it, but for its tokens.

use std::ops::Range;

use arc_adapters::sha256_hex;
use burn::tensor::Tensor;

use super::package::CHUNKS_AT_ONCE;
use super::{CompressOptions, Encoder, Latents, PoolingGroups, PoolingKind, PoolingRate};
use crate::{Error, Result};

/// A text in the tokens of an encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenisedText {
    /// Its token ids, at least one.
    pub ids: Vec<u32>,
    /// The sha256 of its UTF-8 bytes.
    pub text_sha256: String,
}

impl Encoder {
    /// A text in this encoder's tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Document`] if it has none; [`Error::Tokenizer`].
    pub fn tokenise(&self, text: &str) -> Result<TokenisedText> {
        self.tokenise_hashed(text, sha256_hex(text.as_bytes()))
    }

    /// The same of a text whose sha256 is known, such as from [`DocumentKey`](crate::document_cache::DocumentKey).
    ///
    /// # Errors
    ///
    /// As [`Encoder::tokenise`].
    pub fn tokenise_hashed(&self, text: &str, text_sha256: String) -> Result<TokenisedText> {
        let ids = self.tokenizer.encode_ids(text)?;
        if ids.is_empty() {
            return Err(Error::Document {
                name: "text".into(),
                reason: "is empty".into(),
                hint: "give a text with at least one character".into(),
            });
        }
        Ok(TokenisedText { ids, text_sha256 })
    }

    /// The latents that each chunk of a text of so many tokens gets, in order; where pooling merges by
    /// similarity, at most so many.
    ///
    /// # Errors
    ///
    /// As [`Encoder::compress_tokens`].
    pub fn chunk_latents(&self, tokens: usize, options: CompressOptions) -> Result<Vec<usize>> {
        let config = self.network.config().at_factor(options.factor)?;
        let (whole, rest) = (tokens / self.chunk_tokens(), tokens % self.chunk_tokens());
        let mut chunks = vec![config.latents(self.chunk_tokens()); whole];
        chunks.extend((rest > 0).then(|| config.latents(rest)));
        Ok(chunks)
    }

    /// Compresses a text.
    ///
    /// The text is cut into chunks of at most [`Encoder::chunk_tokens`] tokens, of which a few at a time
    /// are encoded as a batch; their latents follow each other. A text may be of any length: who has no
    /// room for all of its latents takes them as they come, from [`Encoder::compress_tokens`].
    ///
    /// # Errors
    ///
    /// As [`Encoder::tokenise`] and [`Encoder::compress_tokens`].
    pub fn compress(&self, text: &str, options: CompressOptions) -> Result<Latents> {
        self.compress_tokenised(&self.tokenise(text)?, options, |_| Ok(()))
    }

    /// Compresses a text that is in tokens already. `on_chunk` is told how many tokens are compressed
    /// after each chunk, and what it returns as an error ends it.
    ///
    /// # Errors
    ///
    /// As [`Encoder::compress_tokens`].
    pub fn compress_tokenised(
        &self,
        text: &TokenisedText,
        options: CompressOptions,
        mut on_chunk: impl FnMut(usize) -> Result<()>,
    ) -> Result<Latents> {
        let mut chunks = Vec::new();
        self.compress_tokens(&text.ids, options, |chunk| {
            chunks.push(chunk);
            on_chunk(text.ids.len().min(chunks.len() * self.chunk_tokens()))
        })?;
        let chunk_lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.dims()[0]).collect();
        Ok(Latents {
            values: Tensor::cat(chunks, 0),
            factor: self.factor_of(text.ids.len(), &chunk_lengths, options),
            chunk_lengths,
            encoder_id: self.id.clone(),
            source_tokens: text.ids.len(),
            text_sha256: text.text_sha256.clone(),
            merged: self.merges(),
        })
    }

    /// Which tokens of a text each latent stands for, in order: together they are all of them. Nothing
    /// where latents stand for no tokens in a row: with memory tokens, and where pooling merges by
    /// similarity.
    ///
    /// # Errors
    ///
    /// As [`Encoder::compress_tokens`].
    pub fn tokens_of_latents(
        &self,
        ids: &[u32],
        options: CompressOptions,
    ) -> Result<Option<Vec<Range<usize>>>> {
        let config = self.network.config().at_factor(options.factor)?;
        if config.memory_tokens > 0 || matches!(config.pooling.pool_type.kind, PoolingKind::KMeans(_)) {
            return Ok(None);
        }
        let mut all = Vec::new();
        for (index, chunk) in ids.chunks(self.chunk_tokens()).enumerate() {
            let mut spans: Vec<Range<usize>> = (0..chunk.len()).map(|at| at..at + 1).collect();
            for &rate in config.compress_rates.iter().filter(|&&rate| rate != PoolingRate::Off) {
                // Groups that end at rare words are of tokens: one layer pools there.
                let groups = match (spans.len() == chunk.len(), rate) {
                    (true, rate) => self.network.groups(chunk, rate),
                    (false, rate) => PoolingGroups::new(spans.len(), rate),
                };
                let joined = groups.ranges().map(|group| spans[group.start].start..spans[group.end - 1].end);
                spans = joined.collect();
            }
            let start = index * self.chunk_tokens();
            all.extend(spans.into_iter().map(|span| start + span.start..start + span.end));
        }
        Ok(Some(all))
    }

    /// How many tokens of a text a latent stands for, at most: what was asked for, else the encoder's own
    /// rate, else, with a fixed count for each chunk, what came of it.
    pub(super) fn factor_of(&self, tokens: usize, chunks: &[usize], options: CompressOptions) -> usize {
        if let Some(factor) = options.factor {
            return factor;
        }
        if self.pools_by_factor() {
            return self.default_factor();
        }
        let lengths = (0..tokens).step_by(self.chunk_tokens());
        let lengths = lengths.map(|start| self.chunk_tokens().min(tokens - start));
        let factors = lengths.zip(chunks).map(|(tokens, &latents)| tokens.div_ceil(latents.max(1)));
        factors.max().unwrap_or(1)
    }

    /// The latents of each chunk of a sequence of token ids, `[n, d_encoder]` each.
    ///
    /// # Errors
    ///
    /// As [`Encoder::compress_tokens`].
    pub fn encode_chunks(&self, ids: &[u32], options: CompressOptions) -> Result<Vec<Tensor<2>>> {
        let mut latents = Vec::new();
        self.compress_tokens(ids, options, |chunk| {
            latents.push(chunk);
            Ok(())
        })?;
        Ok(latents)
    }

    /// Hands over the latents of each chunk of a sequence of token ids, `[n, d_encoder]`, in order, as soon
    /// as they are there; what `on_chunk` returns as an error ends it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] for factor 0, and for any factor of an encoder with memory tokens;
    /// otherwise what `on_chunk` returns.
    pub fn compress_tokens(
        &self,
        ids: &[u32],
        options: CompressOptions,
        mut on_chunk: impl FnMut(Tensor<2>) -> Result<()>,
    ) -> Result<()> {
        let rates = self.network.config().at_factor(options.factor)?.compress_rates;
        let network = self.network.with_rates(rates);
        // Whole chunks are of one length, so that only the last batch can need a mask.
        let (whole, rest) = ids.split_at(ids.len() - ids.len() % self.chunk_tokens());
        let batches =
            whole.chunks(self.chunk_tokens() * CHUNKS_AT_ONCE).chain(rest.chunks(rest.len().max(1)));
        for batch in batches {
            let batch: Vec<Vec<u32>> = batch.chunks(self.chunk_tokens()).map(<[u32]>::to_vec).collect();
            let encoded = network.forward(&batch, self.device());
            for row in 0..batch.len() {
                on_chunk(encoded.row(row))?;
            }
        }
        Ok(())
    }
}
