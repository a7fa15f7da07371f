//! A decoder's weights as its checkpoint has them.

use super::config::DecoderConfig;
use super::llama::ROPE_DIVISORS;
use super::stored_form::StoredForm;
use crate::Result;
use crate::nn::{Loader, Residence, StoredBlock, StoredLinear, StoredNorm};
use crate::weights::{RawTensor, TensorSource};

/// Views of the mapped file.
#[derive(Debug)]
pub(super) struct StoredDecoder {
    /// `[vocabulary, d]`
    pub(super) embedding: RawTensor,
    pub(super) blocks: Vec<StoredBlock>,
    pub(super) norm: StoredNorm,
    /// `None` where the embedding table is the head.
    pub(super) head: Option<StoredLinear>,
    /// What they take in memory, once they are resident so.
    pub(super) bytes: u64,
}

impl StoredDecoder {
    /// Finds all weights of a configuration.
    ///
    /// # Errors
    ///
    /// An error for each tensor that is missing or misshapen, and for tensors that the architecture
    /// has no place for.
    pub(super) fn find(
        config: &DecoderConfig,
        source: &dyn TensorSource,
        form: &StoredForm,
        residence: Residence,
    ) -> Result<Self> {
        let loader = Loader::new(source, &form.names, residence).with_norm_offset(form.norm_offset);
        let d = config.d_model();
        let embedding = loader.embedding(form.names.embedding, d)?;
        let vocabulary = embedding.shape()[0];
        let blocks =
            (0..config.n_layers).map(|layer| loader.block(layer, &config.block)).collect::<Result<_>>()?;
        let norm = loader.norm(form.names.output_norm, d, config.block.norm)?;
        let head = if form.tied_head && !loader.has(form.names.head) {
            None
        } else {
            let name = form.names.head.trim_end_matches(".weight");
            Some(loader.linear(name, [d, vocabulary], false)?)
        };
        loader.expect_all_read(config.rope.divisors.as_ref().map(|_| ROPE_DIVISORS))?;
        Ok(Self { embedding, blocks, norm, head, bytes: loader.loaded_bytes() })
    }
}
