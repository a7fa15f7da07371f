//! How a checkpoint stores the weights of a model.

use super::fields::ConfigFields;
use crate::Result;
use crate::weights::TensorNames;

/// How a checkpoint stores the weights of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct StoredForm {
    /// The names of the tensors.
    pub names: TensorNames,
    /// What to add to normalisation weights.
    pub norm_offset: f32,
    /// Whether the embedding table serves as the head where there is none.
    pub tied_head: bool,
}

impl StoredForm {
    /// GGUF, whose names do not depend on the architecture; it leaves out a head that is tied.
    pub(super) const GGUF: Self = Self { names: TensorNames::GGUF, norm_offset: 0.0, tied_head: true };
    /// Meta's names, which OLMo's own are mapped to as well.
    pub(super) const META: Self = Self { names: TensorNames::META, norm_offset: 0.0, tied_head: false };

    /// Hugging Face's, where every architecture has its own default for a field that is left out.
    pub(super) fn hugging_face(
        names: TensorNames,
        fields: &ConfigFields,
        tied_by_default: bool,
    ) -> Result<Self> {
        let tied_head = fields.optional_bool("tie_word_embeddings")?.unwrap_or(tied_by_default);
        Ok(Self { names, norm_offset: 0.0, tied_head })
    }
}
