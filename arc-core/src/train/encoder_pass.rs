//! The trained encoder's blocks before the first that pools, on host memory.
//!
//! Their weights take most of a step's arithmetic beside the decoder's. The embeddings below and
//! the pooling block above stay in burn's graph, which ends at a leaf where this pass begins, and
//! begins again where it ends.

use std::collections::BTreeMap;

use burn::tensor::{Device, Gradients, Tensor};

use super::parameters::{flat, named_gradients, named_parameters};
use crate::decoder::Transformer;
use crate::encoder::{ArcEncoder, EncodedBatch};
use crate::host::{
    HostBlock, HostFrame, HostStack, HostVisibility, Keep, StackTape, padded, without_padding,
};

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
    /// Encodes contexts on the engine that their decoder is on; on host memory with what the backward
    /// pass of the blocks there needs.
    pub(super) fn encode(
        encoder: &ArcEncoder,
        contexts: &[Vec<u32>],
        decoder: &Transformer,
        checkpointing: &Tensor<2>,
    ) -> (EncodedBatch, Option<Self>) {
        let device = decoder.device();
        let on_host = decoder.host().filter(|_| !contexts.is_empty());
        match on_host.and_then(|_| Self::on_host(encoder, contexts, device, checkpointing)) {
            Some((encoded, pass)) => (encoded, Some(pass)),
            None => (encoder.forward(contexts, device), None),
        }
    }

    /// `None` leaves it to burn: where nothing of these blocks is trained, or they have LoRA deltas.
    fn on_host(
        encoder: &ArcEncoder,
        contexts: &[Vec<u32>],
        device: &Device,
        checkpointing: &Tensor<2>,
    ) -> Option<(EncodedBatch, Self)> {
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
