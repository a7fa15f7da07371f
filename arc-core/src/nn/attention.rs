//! Grouped-query attention (Ainslie et al., 2023) with rotary positions.

use burn::module::Module;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Bool, Device, Tensor, TensorData};

use super::{Linear, Norm, Rotation, count_products};

/// The widths of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionConfig {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
    /// What scores are multiplied by; `1/√head_dim` where a model says nothing else.
    pub scale: f64,
}

/// Which keys a query may see.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one for all layers of a forward pass")]
#[non_exhaustive]
pub enum Visibility {
    /// All of them: an encoder on sequences of one length.
    All,
    /// Those up to its own place; the last query sees the last key.
    Causal,
    /// Those that the mask does not hide: `[b, 1, s, n]`, `true` hides.
    Masked(Tensor<4, Bool>),
}

/// Which keys a query may see, before it is on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Visible {
    /// All of them.
    All,
    /// Those up to its own place; the last query sees the last key.
    Causal,
    /// Those that are not hidden, `[b, s, n]`.
    Masked(Vec<bool>),
}

impl Visible {
    /// The same for `s` queries of each of `b` rows, on a device.
    pub(crate) fn on(self, [b, s]: [usize; 2], device: &Device) -> Visibility {
        match self {
            Self::All => Visibility::All,
            Self::Causal => Visibility::Causal,
            Self::Masked(hidden) => {
                let n = hidden.len() / (b * s).max(1);
                Visibility::Masked(Tensor::from_data(TensorData::new(hidden, [b, 1, s, n]), device))
            }
        }
    }
}

/// Rotated keys and values of one layer.
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// `[b, g, n, k]`
    pub keys: Tensor<4>,
    /// `[b, g, n, k]`
    pub values: Tensor<4>,
}

/// Projections to queries, keys and values, attention, and the projection back.
#[derive(Module, Debug)]
pub struct Attention {
    /// `[d, h·k]`
    pub query: Linear,
    /// `[d, g·k]`
    pub key: Linear,
    /// `[d, g·k]`
    pub value: Linear,
    /// `[h·k, d]`
    pub output: Linear,
    /// Normalises each query head before the rotation (Gemma 3).
    pub query_norm: Option<Norm>,
    /// Normalises each key head before the rotation (Gemma 3).
    pub key_norm: Option<Norm>,
    #[module(skip)]
    config: AttentionConfig,
}

impl Attention {
    /// Puts a layer together from its projections.
    #[must_use]
    pub fn new(
        config: AttentionConfig,
        [query, key, value, output]: [Linear; 4],
        [query_norm, key_norm]: [Option<Norm>; 2],
    ) -> Self {
        Self { query, key, value, output, query_norm, key_norm, config }
    }

    /// The layer's widths.
    #[must_use]
    pub fn config(&self) -> AttentionConfig {
        self.config
    }

    /// Rotated and scaled queries, `[b, s, d] → [b, h, s, k]`.
    #[must_use]
    pub fn queries(&self, x: Tensor<3>, rotation: &Rotation) -> Tensor<4> {
        let heads = split_heads(self.query.forward(x), self.config.n_heads);
        let heads = match &self.query_norm {
            Some(norm) => norm.forward(heads),
            None => heads,
        };
        // The kernels scale by 1/√k. Another scale is folded into the queries, since asking the
        // kernel for it leaves the fast path on GPUs.
        let natural = 1.0 / (self.config.head_dim as f64).sqrt();
        let rotated = rotation.apply(heads);
        if (self.config.scale - natural).abs() < 1e-12 {
            rotated
        } else {
            rotated * (self.config.scale / natural)
        }
    }

    /// Rotated keys, and values, `[b, s, d] → [b, g, s, k]`.
    #[must_use]
    pub fn keys_values(&self, x: Tensor<3>, rotation: &Rotation) -> KeyValue {
        let keys = split_heads(self.key.forward(x.clone()), self.config.n_kv_heads);
        let keys = match &self.key_norm {
            Some(norm) => norm.forward(keys),
            None => keys,
        };
        KeyValue {
            keys: rotation.apply(keys),
            values: split_heads(self.value.forward(x), self.config.n_kv_heads),
        }
    }

    /// Attends and projects back.
    ///
    /// # Shapes
    ///
    /// - queries: `[b, h, s, k]`
    /// - keys, values: `[b, g, n, k]`
    /// - output: `[b, s, d]`
    #[must_use]
    pub fn attend(&self, queries: Tensor<4>, context: KeyValue, visibility: &Visibility) -> Tensor<3> {
        let AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, .. } = self.config;
        let [b, _, s, _] = queries.dims();
        let n = context.keys.dims()[2];
        let group = h / g;
        // The scores, and the sum of values that they weigh.
        count_products(b * h, [s, k, n]);
        count_products(b * h, [s, n, k]);

        let attended = if s == 1 && group > 1 {
            // The heads that share keys take the place of the sequence: nothing is expanded.
            let mask = match visibility {
                Visibility::All | Visibility::Causal => None,
                Visibility::Masked(mask) => Some(mask.clone().expand([b, g, group, n])),
            };
            let queries = queries.reshape([b, g, group, k]);
            scaled_dot_product(queries, context, mask, false).reshape([b, h, 1, k])
        } else {
            let mask = match visibility {
                Visibility::All | Visibility::Causal => None,
                Visibility::Masked(mask) => Some(mask.clone().expand([b, h, s, n])),
            };
            let context = KeyValue {
                keys: repeat_heads(context.keys, group),
                values: repeat_heads(context.values, group),
            };
            let causal = matches!(visibility, Visibility::Causal) && s > 1;
            scaled_dot_product(queries, context, mask, causal)
        };
        let joined = attended.swap_dims(1, 2).reshape([b, s, h * k]);
        self.output.forward(joined)
    }
}

/// burn's attention; it expects as many key heads as query heads.
fn scaled_dot_product(
    queries: Tensor<4>,
    context: KeyValue,
    mask: Option<Tensor<4, Bool>>,
    is_causal: bool,
) -> Tensor<4> {
    let options = AttentionModuleOptions { is_causal, ..Default::default() };
    attention(queries, context.keys, context.values, mask, None, options)
}

/// `[b, s, heads·k] → [b, heads, s, k]`
fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [b, s, width] = x.dims();
    x.reshape([b, s, heads, width / heads]).swap_dims(1, 2)
}

/// `[b, g, n, k] → [b, g·times, n, k]`, each head `times` times in a row.
fn repeat_heads(x: Tensor<4>, times: usize) -> Tensor<4> {
    if times == 1 {
        return x;
    }
    let [b, g, n, k] = x.dims();
    x.unsqueeze_dim::<5>(2).expand([b, g, times, n, k]).reshape([b, g * times, n, k])
}
