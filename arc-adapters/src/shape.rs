//! The sizes of a transformer: what its memory and work follow from, without its weights.

use serde::{Deserialize, Serialize};

use crate::setters;

/// No size of a model is larger; products of two of them fit in 64 bits.
const MAX_SIZE: usize = 1 << 24;

/// The sizes of a transformer of llama's kind: grouped-query attention, and a feed-forward part
/// with a gate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelShape {
    /// Blocks.
    pub n_layers: usize,
    /// The width of the hidden states.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// The width of a head.
    pub d_head: usize,
    /// The width inside the feed-forward part.
    pub d_ff: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Whether the output head is the embedding table.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tied_head: bool,
    /// What norms add to the mean square.
    pub norm_eps: f64,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// The longest context in positions, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<usize>,
}

// Zeros are no model's: they are set before anything checks them.
setters!(ModelShape {
    n_layers: usize,
    d_model: usize,
    n_heads: usize,
    n_kv_heads: usize,
    d_head: usize,
    d_ff: usize,
    vocab_size: usize,
    tied_head: bool,
    norm_eps: f64,
    rope_theta: f64,
    context_length: Option<usize>,
});

impl ModelShape {
    /// Refuses sizes that no model has; `at` is put before the field in the reason.
    pub(crate) fn check(&self, at: &str) -> Result<(), String> {
        for (field, size) in [
            ("n_layers", self.n_layers),
            ("d_model", self.d_model),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("d_head", self.d_head),
            ("d_ff", self.d_ff),
            ("vocab_size", self.vocab_size),
            ("context_length", self.context_length.unwrap_or(1)),
        ] {
            if !(1..=MAX_SIZE).contains(&size) {
                return Err(format!("`{at}.{field}` is {size}, expected 1 to {MAX_SIZE}"));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(format!(
                "`{at}.n_heads` is {}, expected a multiple of `n_kv_heads`, which is {}",
                self.n_heads, self.n_kv_heads
            ));
        }
        if !self.d_head.is_multiple_of(2) {
            return Err(format!("`{at}.d_head` is {}, expected an even number", self.d_head));
        }
        for (field, value) in [("norm_eps", self.norm_eps), ("rope_theta", self.rope_theta)] {
            if !value.is_finite() || value <= 0.0 {
                return Err(format!("`{at}.{field}` is {value}, expected a positive number"));
            }
        }
        Ok(())
    }
}
