//! Reads what a network is built of from a checkpoint, one tensor at a time.
//!
//! What is read is a description: matrices are views of the mapped file, whichever engine they are for.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use burn::tensor::Device;

use super::{BlockConfig, NormConfig, Precision};
use crate::weights::{RawTensor, TensorNames, TensorSource};
use crate::{Error, Result};

/// Whether weights stay in the mapped file or become `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Residence {
    /// As stored, read in place and multiplied in a precision: inference on the CPU.
    Packed(Precision),
    /// As `f32` in memory: GPUs, and training.
    Dense,
}

impl Residence {
    /// What inference on a device does best with.
    #[must_use]
    pub fn for_inference(device: &Device, precision: Precision) -> Self {
        let is_on_cpu = !device.is_autodiff() && *device == Device::flex();
        if is_on_cpu { Self::Packed(precision) } else { Self::Dense }
    }
}

/// A linear map as a checkpoint has it.
#[derive(Clone, Debug)]
pub(crate) struct StoredLinear {
    /// `[d_out, d_in]`
    pub(crate) weight: RawTensor,
    /// `[d_out]`
    pub(crate) bias: Option<Vec<f32>>,
}

impl StoredLinear {
    /// `[d_in, d_out]` of the map.
    pub(crate) fn dims(&self) -> [usize; 2] {
        let shape = self.weight.shape();
        [shape[1], shape[0]]
    }
}

/// A normalisation as a checkpoint has it.
#[derive(Clone, Debug)]
pub(crate) struct StoredNorm {
    /// `[d]` of RMS normalisation; layer normalisation without parameters has none.
    pub(crate) weight: Option<Vec<f32>>,
    pub(crate) epsilon: f64,
}

/// A block as a checkpoint has it; the parts are those of [`Block`](super::Block).
#[derive(Clone, Debug)]
pub(crate) struct StoredBlock {
    pub(crate) config: BlockConfig,
    pub(crate) attention_norm: StoredNorm,
    pub(crate) query: StoredLinear,
    pub(crate) key: StoredLinear,
    pub(crate) value: StoredLinear,
    pub(crate) output: StoredLinear,
    pub(crate) query_norm: Option<StoredNorm>,
    pub(crate) key_norm: Option<StoredNorm>,
    pub(crate) post_attention_norm: Option<StoredNorm>,
    pub(crate) feed_forward_norm: StoredNorm,
    pub(crate) gate: StoredLinear,
    pub(crate) up: StoredLinear,
    pub(crate) down: StoredLinear,
    pub(crate) post_feed_forward_norm: Option<StoredNorm>,
}

/// Reads tensors of one checkpoint.
pub struct Loader<'a> {
    source: &'a dyn TensorSource,
    names: &'a TensorNames,
    residence: Residence,
    /// Added to every normalisation weight: Hugging Face's Gemma stores them less one.
    norm_offset: f32,
    /// Put before every tensor's name: encoders lie in a sub-tree of their checkpoints.
    prefix: String,
    /// What was loaded so far, in bytes.
    bytes: Cell<u64>,
    /// The full names of the tensors that were loaded so far.
    read: RefCell<HashSet<String>>,
}

impl<'a> Loader<'a> {
    /// A loader of the tensors of `source`, which calls them by `names`.
    #[must_use]
    pub fn new(source: &'a dyn TensorSource, names: &'a TensorNames, residence: Residence) -> Self {
        Self {
            source,
            names,
            residence,
            norm_offset: 0.0,
            prefix: String::new(),
            bytes: Cell::new(0),
            read: RefCell::default(),
        }
    }

    /// Adds `offset` to every normalisation weight.
    #[must_use]
    pub fn with_norm_offset(mut self, offset: f32) -> Self {
        self.norm_offset = offset;
        self
    }

    /// Puts `prefix` before every name.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The checkpoint's names.
    #[must_use]
    pub fn names(&self) -> &TensorNames {
        self.names
    }

    /// What the tensors that were loaded so far take in memory, in bytes: as stored where they
    /// stay packed, four for each value where they became tensors of the device.
    #[must_use]
    pub fn loaded_bytes(&self) -> u64 {
        self.bytes.get()
    }

    fn count(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    fn count_matrix(&self, matrix: &RawTensor) {
        self.count(match self.residence {
            Residence::Packed(_) => matrix.bytes().len(),
            Residence::Dense => size_of::<f32>() * matrix.shape().iter().product::<usize>(),
        });
    }

    /// Whether the checkpoint has a tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.source.has(&self.full_name(name))
    }

    /// A vector of `len` values.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`], [`Error::TensorShape`] or [`Error::UnsupportedQuantisation`].
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let values = self.tensor_of_shape(name, &[len])?.to_f32();
        self.count(size_of::<f32>() * len);
        Ok(values)
    }

    /// A linear map from `name.weight`, `[d_out, d_in]`, and `name.bias` where `bias` is set.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub(crate) fn linear(&self, name: &str, [d_in, d_out]: [usize; 2], bias: bool) -> Result<StoredLinear> {
        let weight = self.tensor_of_shape(&format!("{name}.weight"), &[d_out, d_in])?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), d_out)).transpose()?;
        self.count_matrix(&weight);
        Ok(StoredLinear { weight, bias })
    }

    /// A table of `[vocabulary, d]`; the vocabulary's size is the file's.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub(crate) fn embedding(&self, name: &str, d: usize) -> Result<RawTensor> {
        let table = self.tensor(name)?;
        let (vocabulary, width) = match table.shape() {
            &[vocabulary, width] => (vocabulary, width),
            _ => (0, 0),
        };
        if width != d || vocabulary == 0 {
            return Err(Error::TensorShape {
                path: self.source.path().to_owned(),
                tensor: table.name().to_owned(),
                expected: vec![vocabulary, d],
                found: table.shape().to_vec(),
            });
        }
        self.count_matrix(&table);
        Ok(table)
    }

    /// A normalisation over `d`; a kind without weights reads nothing.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub(crate) fn norm(&self, name: &str, d: usize, config: NormConfig) -> Result<StoredNorm> {
        Ok(match config {
            NormConfig::NonParametricLayer { epsilon } => StoredNorm { weight: None, epsilon },
            NormConfig::Rms { epsilon } => {
                let mut weight = self.vector(name, d)?;
                weight.iter_mut().for_each(|weight| *weight += self.norm_offset);
                StoredNorm { weight: Some(weight), epsilon }
            }
        })
    }

    /// The block of a layer.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub(crate) fn block(&self, layer: usize, config: &BlockConfig) -> Result<StoredBlock> {
        let names = self.names;
        let of = |pattern: &str| TensorNames::of_layer(pattern, layer);
        let (d, f) = (config.d_model, config.d_ff);
        let heads = config.attention.n_heads * config.attention.head_dim;
        let kv_heads = config.attention.n_kv_heads * config.attention.head_dim;
        let head_norm = |name: &str| {
            config.qk_norm.then(|| self.norm(&of(name), config.attention.head_dim, config.norm)).transpose()
        };
        let sandwich_norm =
            |name: &str| config.sandwich.then(|| self.norm(&of(name), d, config.norm)).transpose();
        Ok(StoredBlock {
            config: *config,
            attention_norm: self.norm(&of(names.attention_norm), d, config.norm)?,
            query: self.linear(&of(names.query), [d, heads], config.qkv_bias)?,
            key: self.linear(&of(names.key), [d, kv_heads], config.qkv_bias)?,
            value: self.linear(&of(names.value), [d, kv_heads], config.qkv_bias)?,
            output: self.linear(&of(names.output), [heads, d], false)?,
            query_norm: head_norm(names.query_norm)?,
            key_norm: head_norm(names.key_norm)?,
            post_attention_norm: sandwich_norm(names.post_attention_norm)?,
            feed_forward_norm: self.norm(&of(names.feed_forward_norm), d, config.norm)?,
            gate: self.linear(&of(names.gate), [d, f], false)?,
            up: self.linear(&of(names.up), [d, f], false)?,
            down: self.linear(&of(names.down), [f, d], false)?,
            post_feed_forward_norm: sandwich_norm(names.post_feed_forward_norm)?,
        })
    }

    /// Refuses a checkpoint that holds tensors which were not loaded, save the one that was
    /// `read_before` this loader: each is a bias or a norm that the model would run without.
    ///
    /// # Errors
    ///
    /// [`Error::UnusedTensors`].
    pub fn expect_all_read(&self, read_before: Option<&str>) -> Result<()> {
        self.read.borrow_mut().extend(read_before.map(str::to_owned));
        self.source.expect_all_read(&self.read.borrow())
    }

    fn tensor(&self, name: &str) -> Result<RawTensor> {
        let name = self.full_name(name);
        let tensor = self.source.tensor(&name)?;
        self.read.borrow_mut().insert(name);
        Ok(tensor)
    }

    fn tensor_of_shape(&self, name: &str, shape: &[usize]) -> Result<RawTensor> {
        let tensor = self.tensor(name)?;
        tensor.expect_shape(shape)?;
        Ok(tensor)
    }

    fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
