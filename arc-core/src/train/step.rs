//! One forward pass from token ids to a loss whose gradient reaches encoder and adapter.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::batch::{Layout, Sample};
use super::encoder_pass::EncoderPass;
use super::loss::{TargetLoss, Targets, decoder_loss};
use super::model::{TrainedAdapter, TrainedModel};
use super::objective::Objective;
use super::parameters::named_gradients;
use crate::decoder::Transformer;
use crate::encoder::{ArcEncoder, EncodedBatch, PoolingRate};
use crate::{Error, Hint, Result};

/// A batch's loss before its backward pass.
#[derive(Debug)]
#[non_exhaustive]
pub struct BatchLoss {
    /// The loss, and its gradient at the decoder's hidden states.
    pub loss: TargetLoss,
    /// A scalar whose gradient is that of the loss, `[1]`; its value means nothing.
    pub surrogate: Tensor<1>,
    /// Tokens predicted.
    pub targets: usize,
    /// Encoder tokens read.
    pub context_tokens: usize,
    /// Positions that the decoder read, padding included.
    pub positions: usize,
    /// Positions that were padding, in the encoder and in the decoder.
    pub padding: usize,
    /// The encoder's blocks that ran outside the graph.
    encoder: Option<EncoderPass>,
}

/// How a batch is run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepOptions {
    /// How many tokens a latent stands for; 1 pools nothing.
    pub factor: usize,
    /// The share of the loss that is the divergence from the decoder reading the full text.
    pub distillation: f64,
    /// Whether right predictions are counted, which takes a pass over the logits.
    pub count_correct: bool,
}

impl StepOptions {
    /// At a pooling factor, without distillation and without counting.
    #[must_use]
    pub const fn new(factor: usize) -> Self {
        Self { factor, distillation: 0.0, count_correct: false }
    }

    /// The same with another weight of distillation.
    #[must_use]
    pub const fn distillation(self, distillation: f64) -> Self {
        Self { distillation, ..self }
    }

    /// The same, counting the targets that are the most likely tokens.
    #[must_use]
    pub const fn counting_correct(self) -> Self {
        Self { count_correct: true, ..self }
    }
}

/// The encoder of a model with one pooling factor; an encoder with memory tokens pools nothing.
pub(super) fn at_factor(encoder: &ArcEncoder, factor: usize) -> ArcEncoder {
    if encoder.memory.is_some() {
        return encoder.clone();
    }
    let rate = if factor <= 1 { PoolingRate::Off } else { PoolingRate::Factor(factor) };
    encoder.with_rates(vec![rate])
}

/// Runs a batch for one decoder up to its loss.
///
/// # Errors
///
/// [`Error::NotEnough`] for a batch without targets, [`Error::NotTrainable`] for a decoder whose weights
/// are packed.
pub fn training_loss(
    model: &TrainedModel,
    decoder: &Transformer,
    adapter: usize,
    objective: Objective,
    samples: &[Sample],
    options: StepOptions,
) -> Result<BatchLoss> {
    let contexts: Vec<Vec<u32>> = samples.iter().flat_map(|sample| sample.contexts.clone()).collect();
    let context_tokens: usize = contexts.iter().map(Vec::len).sum();
    let longest = contexts.iter().map(Vec::len).max().unwrap_or(0);
    let encoder_padding = contexts.len() * longest - context_tokens;

    let encoder = at_factor(&model.encoder, options.factor);
    let special = model.adapters[adapter].cont.val();
    let (encoded, pass) = EncoderPass::encode(&encoder, &contexts, decoder, &special);
    let mut loss = adapter_loss(&model.adapters[adapter], decoder, objective, samples, encoded, options)?;
    loss.encoder = pass;
    loss.context_tokens = context_tokens;
    loss.padding += encoder_padding;
    Ok(loss)
}

/// Runs a batch whose contexts are encoded already, all contexts of all samples in order.
///
/// # Errors
///
/// As [`training_loss`].
pub(super) fn adapter_loss(
    adapter: &TrainedAdapter,
    decoder: &Transformer,
    objective: Objective,
    samples: &[Sample],
    encoded: EncodedBatch,
    options: StepOptions,
) -> Result<BatchLoss> {
    let device = decoder.device();
    let special = match objective {
        Objective::Reconstruction => &adapter.rec,
        Objective::Continuation | Objective::Answer => &adapter.cont,
    };
    let [b, stride, d_encoder] = encoded.states.dims();
    let rows = Tensor::cat(vec![encoded.states.reshape([b * stride, d_encoder]), special.val()], 0);
    let projected = adapter.project(rows)?;
    let latents = projected.clone().narrow(0, 0, b * stride);
    let special = projected.narrow(0, b * stride, 1);

    let layout = Layout::new(samples, &encoded.lengths, stride, true);
    if layout.targets.is_empty() {
        return Err(Error::NotEnough { what: "tokens to predict in a batch".into(), found: 0, needed: 1 });
    }
    let embedded = layout.assemble(decoder.embed(&layout.tokens), latents, Some(special), device);

    let teacher = (options.distillation > 0.0).then(|| {
        let rows: Vec<Sample> = samples.iter().map(Sample::with_plain_contexts).collect();
        let layout = Layout::new(&rows, &[], 0, false);
        let nothing = Tensor::zeros([1, decoder.config().d_model()], device);
        let embedded = layout.assemble(decoder.embed(&layout.tokens), nothing, None, device);
        (predicting_states(decoder, &layout, embedded), options.distillation)
    });
    let targets = Targets { ids: &layout.targets, teacher, count_correct: options.count_correct };
    let reading = decoder.read(embedded, &layout.lengths, &layout.first_latents);
    let loss = decoder_loss(decoder, reading.states_at(&layout.predicting), &targets)?;
    let surrogate = reading.surrogate(&layout.predicting, loss.gradient.clone());
    Ok(BatchLoss {
        loss,
        surrogate,
        targets: layout.targets.len(),
        context_tokens: 0,
        positions: layout.positions(),
        padding: layout.padding(),
        encoder: None,
    })
}

/// The hidden states that predict the targets, without a graph, `[targets, d]`.
pub(super) fn predicting_states(decoder: &Transformer, layout: &Layout, embedded: Tensor<3>) -> Tensor<2> {
    let reading = decoder.read(embedded.inner(), &layout.lengths, &layout.first_latents);
    reading.states_at(&layout.predicting)
}

impl BatchLoss {
    /// The gradients of the mean loss over `targets` predicted tokens, times `share`.
    #[must_use]
    pub fn gradients<M: Module>(&self, model: &M, share: f64) -> BTreeMap<String, Tensor<1>> {
        let scaled = self.surrogate.clone() * (share / self.targets as f64);
        let gradients = scaled.backward();
        let mut named = named_gradients(model, &gradients);
        if let Some(encoder) = &self.encoder {
            named.extend(encoder.gradients(model, &gradients));
        }
        named
    }
}

/// The model without a graph, for evaluation.
pub(super) fn without_graph(model: &TrainedModel) -> TrainedModel {
    model.valid()
}

/// Waits for a device.
pub(super) fn synchronise(device: &Device) -> Result<()> {
    device.sync().map_err(|error| Error::Device {
        name: format!("{device:?}"),
        reason: error.to_string(),
        hint: Hint::ResumeAfterFailure,
    })
}
