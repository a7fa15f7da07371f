//! The trained encoder's blocks before the first that pools, on host memory.
//!
//! Their weights take most of a step's arithmetic beside the decoder's. The embeddings below and
//! the pooling block above stay in burn's graph, which ends at a leaf where this pass begins, and
//! begins again where it ends.

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor, TensorData};

use super::parameters::{flat, named_gradients, named_parameters};
use crate::encoder::{ArcEncoder, EncodedBatch};
use crate::host::{HostBlock, HostFrame, HostStack, HostVisibility, Keep, StackTape};

/// A forward pass through the blocks, and what its backward pass needs.
#[derive(Debug)]
pub(super) struct EncoderPass {
    blocks: Vec<HostBlock>,
    frame: HostFrame,
    tape: StackTape,
    /// What the first block read, `[b, s, d]`; with a graph if embeddings or memory are trained.
    input: Tensor<3>,
    /// What the last block gave, `[b, s, d]`, a leaf.
    output: Tensor<3>,
    lengths: Vec<usize>,
    /// The names of the parameters with a gradient, of each block.
    trained: Vec<Vec<String>>,
}

impl EncoderPass {
    /// Encodes contexts, or leaves it to burn: where nothing of these blocks is trained, where they
    /// have LoRA deltas, or where they are not on the CPU.
    pub(super) fn encode(
        encoder: &ArcEncoder,
        contexts: &[Vec<u32>],
        device: &Device,
        checkpointing: &Tensor<2>,
    ) -> Option<(EncodedBatch, Self)> {
        if *device != Device::flex() || device.is_autodiff() || contexts.is_empty() {
            return None;
        }
        let plain = &encoder.blocks[..encoder.layers_before_pooling()];
        let trained: Vec<Vec<String>> =
            plain.iter().map(|block| named_parameters(block).into_keys().collect()).collect();
        let (input, lengths) = encoder.embed(contexts, device);
        let from =
            if input.is_autodiff() { Some(0) } else { trained.iter().position(|names| !names.is_empty()) };
        let from = from.filter(|&from| from < plain.len())?;
        let blocks: Vec<HostBlock> = plain.iter().map(HostBlock::copied).collect::<Option<_>>()?;

        let config = encoder.config();
        let [b, s, d] = input.dims();
        let visibility = if config.causal { HostVisibility::Causal } else { HostVisibility::All };
        let frame = HostFrame::new(&config.rope, s, visibility);
        let stack = HostStack {
            blocks: &blocks,
            frames: std::slice::from_ref(&frame),
            kinds: &vec![0; blocks.len()],
        };
        let x = without_padding(input.clone().inner(), &lengths);
        let (states, tape) = stack.forward(&x, &lengths, &vec![0; b], from, Keep::ForWeights);
        let output = padded(states, &lengths, [b, s, d], device).autodiff();
        // A graph has one strategy, and that of the adapter's parameters is already chosen.
        let output = match checkpointing.gradient_checkpointing_strategy() {
            Some(strategy) => output.with_gradient_checkpointing_strategy(strategy),
            None => output,
        };
        let output = output.require_grad();
        let encoded = encoder.forward_from(blocks.len(), output.clone(), lengths.clone(), contexts, device);
        Some((encoded, Self { blocks, frame, tape, input, output, lengths, trained }))
    }

    /// The gradients of the encoder's parameters in and below these blocks, by their names in
    /// [`TrainedModel`](super::TrainedModel), from those that the rest of the graph gave.
    pub(super) fn gradients<M: burn::module::Module>(
        &self,
        model: &M,
        gradients: &Gradients,
    ) -> BTreeMap<String, Tensor<1>> {
        let Some(dy) = self.output.grad(gradients) else { return BTreeMap::new() };
        let device = dy.device();
        let kinds = vec![0; self.blocks.len()];
        let stack =
            HostStack { blocks: &self.blocks, frames: std::slice::from_ref(&self.frame), kinds: &kinds };
        let dy = without_padding(dy, &self.lengths);
        let (dx, found) = stack.backward(&self.tape, &dy, Keep::ForWeights);
        let mut named = if self.input.is_autodiff() {
            let dx = padded(dx, &self.lengths, self.input.dims(), &device);
            let surrogate = (self.input.clone() * dx).sum();
            named_gradients(model, &surrogate.backward())
        } else {
            BTreeMap::new()
        };
        for (layer, found) in (0..self.blocks.len()).rev().zip(found) {
            for (name, gradient) in found {
                if self.trained[layer].contains(&name) {
                    named.insert(format!("encoder.blocks.{layer}.{name}"), flat(gradient, &device));
                }
            }
        }
        named
    }
}

/// `[b, s, d]` without what lies behind each row's own positions, `[r, d]`.
pub(super) fn without_padding(x: Tensor<3>, lengths: &[usize]) -> Vec<f32> {
    let [_, s, d] = x.dims();
    let values: Vec<f32> = x.into_data().try_into_vec().expect("activations are f32 on the CPU device");
    if lengths.iter().all(|&length| length == s) {
        return values;
    }
    let rows = values.chunks_exact((s * d).max(1)).zip(lengths);
    rows.flat_map(|(row, length)| &row[..length * d]).copied().collect()
}

/// The other way, with zeros behind.
pub(super) fn padded(values: Vec<f32>, lengths: &[usize], shape: [usize; 3], device: &Device) -> Tensor<3> {
    let [_, s, d] = shape;
    let values = if lengths.iter().all(|&length| length == s) {
        values
    } else {
        let mut all = Vec::with_capacity(shape.iter().product());
        let mut rest = &values[..];
        for length in lengths {
            let (own, others) = rest.split_at(length * d);
            all.extend_from_slice(own);
            all.resize(all.len() + (s - length) * d, 0.0);
            rest = others;
        }
        all
    };
    Tensor::from_data(TensorData::new(values, shape), device)
}
