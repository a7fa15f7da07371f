//! What a decoder is, as its checkpoint states it.

use super::architecture::Architecture;
use crate::nn::{BlockConfig, RopeConfig};

/// Layers that differ from the others: they see only the nearest keys, or are rotated otherwise.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LocalLayers {
    /// A query sees the keys less than this many positions back, itself included; with
    /// [`LocalLayers::NO_WINDOW`] all of them.
    pub window: usize,
    /// Every `period`-th layer is global, the others are local; `1` makes none local, and
    /// [`LocalLayers::ALL`] makes all local.
    pub period: usize,
    /// The rotation of local layers.
    pub rope: RopeConfig,
}

impl LocalLayers {
    /// The window of layers that differ in their rotation alone.
    pub const NO_WINDOW: usize = usize::MAX;

    /// The period of a model without global layers.
    pub const ALL: usize = usize::MAX;

    /// The period of which layers are global, one for each layer; nothing where they do not repeat with one.
    pub(super) fn period_of(is_global: &[bool]) -> Option<usize> {
        let first = is_global.iter().position(|&is_global| is_global);
        let period = first.map_or(Self::ALL, |first| first + 1);
        let is_regular = is_global.iter().enumerate().all(|(layer, &is_global)| {
            is_global == (period != Self::ALL && (layer + 1).is_multiple_of(period))
        });
        is_regular.then_some(period)
    }

    /// Whether a layer is local.
    #[must_use]
    pub fn contains(&self, layer: usize) -> bool {
        self.period == Self::ALL || !(layer + 1).is_multiple_of(self.period)
    }
}

/// What layers of one kind share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerKind<'a> {
    pub(crate) rope: &'a RopeConfig,
    /// A query sees the keys less than this many positions back, itself included; all without one.
    pub(crate) window: Option<usize>,
}

/// Everything that a forward pass needs to know besides the weights.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// The architecture.
    pub architecture: Architecture,
    /// The number of blocks.
    pub n_layers: usize,
    /// The shape of each block.
    pub block: BlockConfig,
    /// The rotation of global layers.
    pub rope: RopeConfig,
    /// Layers with a sliding window, if any.
    pub local: Option<LocalLayers>,
    /// What token embeddings are multiplied by (`√d` for Gemma).
    pub embedding_scale: Option<f64>,
    /// The longest context, in positions.
    pub context_length: usize,
}

impl DecoderConfig {
    /// The kinds of layers: global ones, then local ones where there are any.
    pub(crate) fn layer_kinds(&self) -> Vec<LayerKind<'_>> {
        let local = self.local.as_ref();
        let local = local.map(|local| LayerKind {
            rope: &local.rope,
            window: (local.window != LocalLayers::NO_WINDOW).then_some(local.window),
        });
        [LayerKind { rope: &self.rope, window: None }].into_iter().chain(local).collect()
    }

    /// The kind of each layer, a place in [`DecoderConfig::layer_kinds`].
    pub(crate) fn kinds_of_layers(&self) -> Vec<usize> {
        let is_local = |layer| self.local.as_ref().is_some_and(|local| local.contains(layer));
        (0..self.n_layers).map(|layer| usize::from(is_local(layer))).collect()
    }

    /// The width of the model, and of the embeddings that it reads.
    #[must_use]
    pub fn d_model(&self) -> usize {
        self.block.d_model
    }
}
