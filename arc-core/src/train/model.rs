//! What a run trains: the encoder, and for each decoder a projector and two special vectors.

use arc_adapters::{Adapter, ProjectorLayer, ProjectorSpec, TensorF32};
use burn::module::{Lora, Module, ModuleMapper, Param};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::TrainedPart;
use crate::encoder::ArcEncoder;
use crate::nn::Block;
use crate::projector::Projector;
use crate::{Error, Result};

/// The adapter of one decoder.
#[derive(Module, Debug)]
pub struct TrainedAdapter {
    /// Latents into the decoder's embedding space.
    pub projector: Projector,
    /// `<Cont>`, `[1, d_encoder]`: follows the latents when the decoder is to continue.
    pub cont: Param<Tensor<2>>,
    /// `<Rec>`, `[1, d_encoder]`: follows them when it is to repeat the text.
    pub rec: Param<Tensor<2>>,
    /// The logarithm of what the projector's output is multiplied by, `[1]`, where it is learned.
    pub log_scale: Option<Param<Tensor<1>>>,
}

/// Everything that can have a gradient.
#[derive(Module, Debug)]
pub struct TrainedModel {
    /// Shared by all decoders.
    pub encoder: ArcEncoder,
    /// One for each decoder of the run, in its order.
    pub adapters: Vec<TrainedAdapter>,
}

impl TrainedAdapter {
    /// The paper's start: Kaiming-uniform linear layers, special vectors of ones.
    ///
    /// # Errors
    ///
    /// [`Error::NotTrainable`] for a projector that is not made of linear layers.
    pub fn from_scratch(spec: ProjectorSpec, d_encoder: usize, seed: u64, device: &Device) -> Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let slots = spec.weight_slots();
        let random = std::cell::RefCell::new(&mut random);
        let load = |name: &str| {
            let slot = slots.iter().find(|slot| slot.name == name);
            let Some(&[d_out, d_in]) = slot.map(|slot| slot.shape.as_slice()) else {
                return Err(Error::NotTrainable {
                    what: format!("`{name}` of the projector"),
                    reason: "it has no start of its own, only linear layers have",
                });
            };
            // Kaiming-uniform with a = √5, as torch initialises a linear layer.
            let bound = 1.0 / (d_in.max(1) as f32).sqrt();
            let mut random = random.borrow_mut();
            let values = (0..d_out * d_in).map(|_| random.random_range(-bound..bound)).collect();
            Ok(TensorF32 { shape: vec![d_out, d_in], values })
        };
        let projector = Projector::from_weights(spec.clone(), &load, device)?;
        let ones = || Param::from_tensor(Tensor::ones([1, d_encoder], device));
        Ok(Self { projector, cont: ones(), rec: ones(), log_scale: None })
    }

    /// The adapter of a package.
    ///
    /// # Errors
    ///
    /// [`Error::NotTrainable`] if its projector is a plugin's code, and an error of the adapter
    /// if a weight is missing.
    pub fn from_package(adapter: &Adapter, device: &Device) -> Result<Self> {
        if !adapter.is_trainable() {
            return Err(Error::NotTrainable {
                what: format!("the projector of adapter `{}`", adapter.manifest.name),
                reason: "it is a plugin's code",
            });
        }
        let vector = |name: &str| -> Result<Param<Tensor<2>>> {
            let tensor = adapter.weights.tensor(name)?;
            let shape = [1, tensor.values.len()];
            Ok(Param::from_tensor(Tensor::from_data(TensorData::new(tensor.values, shape), device)))
        };
        let d_encoder = adapter.manifest.d_encoder;
        let special = |name: &str| match adapter.weights.has(name) {
            true => vector(name),
            false => Ok(Param::from_tensor(Tensor::ones([1, d_encoder], device))),
        };
        Ok(Self {
            projector: Projector::from_adapter(adapter, device)?,
            cont: special("tokens.cont")?,
            rec: special("tokens.rec")?,
            log_scale: None,
        })
    }

    /// The same with a scale of its output to be learned, 1 at first.
    ///
    /// # Errors
    ///
    /// [`Error::NotTrainable`] for a projector that does not end with a linear layer, which alone takes
    /// the scale up when it is stored.
    pub fn with_scale(self) -> Result<Self> {
        match self.projector.spec().layers.last() {
            Some(ProjectorLayer::Linear { .. }) => {
                let zero = Tensor::zeros([1], &self.cont.val().device());
                Ok(Self { log_scale: Some(Param::from_tensor(zero)), ..self })
            }
            _ => Err(Error::NotTrainable {
                what: "the scale of a projector, as `optimizer.scale_rate` asks,".into(),
                reason: "the projector does not end with a linear layer",
            }),
        }
    }

    /// Latents in the decoder's embedding space, `[n, d_encoder] → [n, d_decoder]`.
    ///
    /// # Errors
    ///
    /// As [`Projector::forward`].
    pub fn project(&self, latents: Tensor<2>) -> Result<Tensor<2>> {
        let projected = self.projector.forward(latents)?;
        Ok(match &self.log_scale {
            Some(log_scale) => projected * log_scale.val().exp().unsqueeze(),
            None => projected,
        })
    }

    /// What the projector's last layer is multiplied by when it is stored.
    pub(super) fn scale(&self) -> f32 {
        let log_scale = self.log_scale.as_ref().map(|log_scale| log_scale.val().into_scalar::<f32>());
        log_scale.map_or(1.0, f32::exp)
    }
}

impl TrainedModel {
    /// Puts gradients on what a run trains and leaves the rest as constants.
    ///
    /// `part` is of the encoder; adapters are trained whole.
    #[must_use]
    pub fn with_gradients(self, part: &TrainedPart, train_embedding: bool, seed: u64) -> Self {
        let Self { mut encoder, adapters } = self;
        let layers = encoder.blocks.len();
        let first = match *part {
            TrainedPart::None => layers,
            TrainedPart::All | TrainedPart::Lora { .. } => 0,
            TrainedPart::LastLayers(count) => layers.saturating_sub(count),
        };
        if let Some(device) = encoder.devices().first() {
            // The factors of a LoRA delta are drawn on the device.
            device.seed(seed);
        }
        encoder.blocks = encoder
            .blocks
            .into_iter()
            .enumerate()
            .map(|(layer, block)| match *part {
                _ if layer < first => block,
                TrainedPart::Lora { rank, alpha } => block.apply_lora(Lora::new(rank, alpha)).train(),
                _ => block.train(),
            })
            .collect();
        if train_embedding {
            encoder.embedding = encoder.embedding.train();
        }
        if !matches!(part, TrainedPart::None) {
            encoder.memory = encoder.memory.map(Module::train);
        }
        Self { encoder, adapters: adapters.into_iter().map(Module::train).collect() }
    }

    /// Computes the encoder's products in another type; its weights stay as they are. Projectors are
    /// small, and stay in `f32`.
    #[must_use]
    pub fn with_products_in(mut self, products: FloatDType) -> Self {
        let linears = self.encoder.blocks.iter_mut().flat_map(Block::linears_mut);
        linears.for_each(|linear| linear.multiply_in(products));
        self
    }

    /// The same for the blocks that run outside burn's graph, on host memory, where the machine has
    /// instructions for it.
    #[must_use]
    pub fn with_products_on_host_in(mut self, products: FloatDType) -> Self {
        let plain = self.encoder.layers_before_pooling();
        let linears = self.encoder.blocks[..plain].iter_mut().flat_map(Block::linears_mut);
        linears.for_each(|linear| linear.multiply_in(products));
        self
    }

    /// Lets the backward pass compute activations of cheap operations again instead of keeping
    /// them.
    #[must_use]
    pub fn with_gradient_checkpointing(self) -> Self {
        struct Checkpointing;
        impl ModuleMapper for Checkpointing {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                if !param.base().is_autodiff() {
                    return param;
                }
                let device = param.base().device().inner().autodiff().gradient_checkpointing();
                let strategy = device.gradient_checkpointing_strategy().expect("set just above");
                param.map(|tensor| {
                    let is_trained = tensor.is_require_grad();
                    tensor
                        .inner()
                        .autodiff()
                        .with_gradient_checkpointing_strategy(strategy)
                        .set_require_grad(is_trained)
                })
            }
        }
        self.map(&mut Checkpointing)
    }
}
