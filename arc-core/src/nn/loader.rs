//! Builds the parts of this module from a checkpoint, one tensor at a time.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;

use burn::tensor::{Device, Tensor, TensorData};

use super::{Attention, Block, BlockConfig, Embedding, FeedForward, Linear, Norm, NormConfig};
use crate::host::PackedMatrix;
use crate::weights::{RawTensor, TensorNames, TensorSource};
use crate::{Error, Result};

/// Whether weights become tensors of the device or stay in the mapped file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// As stored, read in place: inference on the CPU.
    Packed,
    /// As `f32` tensors on the device: GPUs, and training.
    Dense,
}

impl Residence {
    /// What inference on a device does best with.
    #[must_use]
    pub fn for_inference(device: &Device) -> Self {
        if !device.is_autodiff() && *device == Device::flex() { Self::Packed } else { Self::Dense }
    }
}

/// Reads tensors of one checkpoint onto one device.
pub struct Loader<'a> {
    source: &'a dyn TensorSource,
    names: &'a TensorNames,
    device: &'a Device,
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
    pub fn new(
        source: &'a dyn TensorSource,
        names: &'a TensorNames,
        device: &'a Device,
        residence: Residence,
    ) -> Self {
        Self {
            source,
            names,
            device,
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
            Residence::Packed => matrix.bytes().len(),
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
    pub fn vector(&self, name: &str, len: usize) -> Result<Tensor<1>> {
        let values = self.tensor_of_shape(name, &[len])?.to_f32();
        self.count(size_of::<f32>() * len);
        Ok(Tensor::from_data(TensorData::new(values, [len]), self.device))
    }

    /// A linear map from `name.weight`, `[d_out, d_in]`, and `name.bias` where `bias` is set.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn linear(&self, name: &str, [d_in, d_out]: [usize; 2], bias: bool) -> Result<Linear> {
        let weight = self.tensor_of_shape(&format!("{name}.weight"), &[d_out, d_in])?;
        let bias = bias.then(|| self.vector(&format!("{name}.bias"), d_out)).transpose()?;
        self.count_matrix(&weight);
        Ok(match self.residence {
            Residence::Packed => Linear::packed(PackedMatrix::new(weight)?, bias),
            Residence::Dense => {
                let weight = TensorData::new(weight.to_f32(), [d_out, d_in]);
                let weight: Tensor<2> = Tensor::from_data(weight, self.device);
                Linear::dense(weight.transpose(), bias)
            }
        })
    }

    /// A table of `[vocabulary, d]`; the vocabulary's size is the file's.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn embedding(&self, name: &str, d: usize) -> Result<Embedding> {
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
        Ok(match self.residence {
            Residence::Packed => Embedding::packed(PackedMatrix::new(table)?),
            Residence::Dense => {
                let table = TensorData::new(table.to_f32(), [vocabulary, d]);
                Embedding::dense(Tensor::from_data(table, self.device))
            }
        })
    }

    /// A normalisation over `d`; a kind without weights reads nothing.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn norm(&self, name: &str, d: usize, config: NormConfig) -> Result<Norm> {
        Ok(match config {
            NormConfig::NonParametricLayer { epsilon } => Norm::non_parametric_layer(epsilon),
            NormConfig::Rms { epsilon } => Norm::rms(self.vector(name, d)? + self.norm_offset, epsilon),
        })
    }

    /// The block of a layer.
    ///
    /// # Errors
    ///
    /// As [`Loader::vector`].
    pub fn block(&self, layer: usize, config: &BlockConfig) -> Result<Block> {
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
        Ok(Block {
            attention_norm: self.norm(&of(names.attention_norm), d, config.norm)?,
            attention: Attention::new(
                config.attention,
                [
                    self.linear(&of(names.query), [d, heads], config.qkv_bias)?,
                    self.linear(&of(names.key), [d, kv_heads], config.qkv_bias)?,
                    self.linear(&of(names.value), [d, kv_heads], config.qkv_bias)?,
                    self.linear(&of(names.output), [heads, d], false)?,
                ],
                [head_norm(names.query_norm)?, head_norm(names.key_norm)?],
            ),
            post_attention_norm: sandwich_norm(names.post_attention_norm)?,
            feed_forward_norm: self.norm(&of(names.feed_forward_norm), d, config.norm)?,
            feed_forward: FeedForward::new(
                [
                    self.linear(&of(names.gate), [d, f], false)?,
                    self.linear(&of(names.up), [d, f], false)?,
                    self.linear(&of(names.down), [f, d], false)?,
                ],
                config.activation,
            ),
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
