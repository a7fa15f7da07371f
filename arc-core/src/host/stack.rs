//! Blocks one after another on host memory, with the sequences of a batch shared out to threads.
//!
//! Sequences do not meet in a block, so each thread takes some of them through all blocks, forward
//! and later backward, and no thread waits for another in between.

use std::ops::Range;

use rayon::prelude::*;

use super::block::{BlockTape, HostBlock};
use super::frame::{BatchFrame, HostFrame, NextFrame};
use super::gradients::{BlockGradients, Keep};
use super::key_value::HostKeyValue;
use super::sequences::Sequences;

/// The positions that are worth being multiplied together: with so many, packing a weight for the
/// product takes a few hundredths of it. With fewer, threads that are held up are waited for less.
const POSITIONS_TOGETHER: usize = 320;
/// Where gradients of weights are summed over the parts of a batch, the number of parts is a multiple of
/// this and not of the threads: a run has the same losses on every machine.
const SUMMED_PARTS: usize = 8;

/// Blocks, each with the frame of its kind.
#[derive(Debug)]
pub(crate) struct HostStack<'a, F> {
    /// From the first to the last.
    pub(crate) blocks: &'a [HostBlock],
    /// One for each kind of layer.
    pub(crate) frames: &'a [F],
    /// The kind of each layer, a place in `frames`.
    pub(crate) kinds: &'a [usize],
}

/// What a forward pass keeps for the backward pass.
#[derive(Debug)]
pub(crate) struct StackTape {
    parts: Vec<PartTape>,
}

/// What is kept of the sequences that one thread takes together.
#[derive(Debug)]
struct PartTape {
    sequences: Sequences,
    /// Its positions among all.
    rows: Range<usize>,
    /// Of the blocks from the first that has a backward pass on.
    layers: Vec<BlockTape>,
}

/// The gradients of the trained blocks' parameters by name, the last block's first.
pub(crate) type StackGradients = Vec<Vec<(String, Vec<f32>)>>;

impl HostStack<'_, BatchFrame> {
    /// Takes the next positions of a batch through the blocks, `[b·s, d] → [b·s, d]`. Each has a
    /// context, which has room for them behind its first `from`.
    pub(crate) fn read(&self, x: Vec<f32>, contexts: &mut [HostKeyValue], from: usize) -> Vec<f32> {
        let layers = self.blocks.iter().zip(self.kinds).zip(contexts);
        layers.fold(x, |x, ((block, &kind), context)| block.read(x, &self.frames[kind], context, from))
    }
}

impl HostStack<'_, NextFrame> {
    /// Takes the next position of each of several sequences through the blocks, `[b, d] → [b, d]`. Each sequence
    /// has a context for each block, which has room for it behind its first `froms[row]`.
    pub(crate) fn read_next(
        &self,
        x: Vec<f32>,
        contexts: &mut [&mut [HostKeyValue]],
        froms: &[usize],
    ) -> Vec<f32> {
        let layers = self.blocks.iter().zip(self.kinds).enumerate();
        layers.fold(x, |x, (layer, (block, &kind))| {
            let mut of_layer: Vec<_> = contexts.iter_mut().map(|context| &mut context[layer]).collect();
            block.read_next(x, &self.frames[kind], &mut of_layer, froms)
        })
    }
}

impl HostStack<'_, HostFrame> {
    /// Takes sequences of `lengths` through the blocks, `[r, d] → [r, d]`. Gradients are asked for
    /// from position `firsts[i]` of a sequence on, and `keep` is for the blocks from `from` on.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        lengths: &[usize],
        firsts: &[usize],
        from: usize,
        keep: Keep,
    ) -> (Vec<f32>, StackTape) {
        let Some(d) = self.blocks.first().map(HostBlock::width) else {
            return (x.to_vec(), StackTape { parts: Vec::new() });
        };
        let together = match keep {
            Keep::ForWeights => SUMMED_PARTS,
            // A position comes out the same whichever part it is in.
            Keep::Nothing | Keep::ForInput => rayon::current_num_threads(),
        };
        let parts: Vec<(Vec<f32>, PartTape)> = parts(lengths, together)
            .into_par_iter()
            .map(|BatchPart { sequences: own, rows }| {
                let sequences = Sequences::new(&lengths[own.clone()], &firsts[own]);
                let mut x = x[rows.start * d..rows.end * d].to_vec();
                let mut layers = Vec::new();
                for (layer, block) in self.blocks.iter().enumerate() {
                    let keep = if layer < from { Keep::Nothing } else { keep };
                    let (y, tape) = block.forward(x, &sequences, &self.frames[self.kinds[layer]], keep);
                    x = y;
                    layers.extend(tape);
                }
                (x, PartTape { sequences, rows, layers })
            })
            .collect();
        let (states, parts): (Vec<Vec<f32>>, _) = parts.into_iter().unzip();
        (states.concat(), StackTape { parts })
    }

    /// The gradient at the input of the first block with a tape from that at the output of the
    /// last, `[r, d] → [r, d]`; and where `Keep::ForWeights` was asked for, those of the weights.
    pub(crate) fn backward(&self, tape: &StackTape, dy: &[f32], keep: Keep) -> (Vec<f32>, StackGradients) {
        let Some(d) = self.blocks.first().map(HostBlock::width) else { return (dy.to_vec(), Vec::new()) };
        let parts: Vec<(Vec<f32>, Vec<BlockGradients>)> = tape
            .parts
            .par_iter()
            .map(|PartTape { sequences, rows, layers }| {
                let mut dy = sequences.later(dy[rows.start * d..rows.end * d].to_vec(), d);
                let mut found = Vec::new();
                let first = self.blocks.len() - layers.len();
                for (layer, tape) in (first..self.blocks.len()).zip(layers).rev() {
                    let mut gradients = (keep == Keep::ForWeights).then(BlockGradients::default);
                    let frame = &self.frames[self.kinds[layer]];
                    dy = self.blocks[layer].backward(tape, dy, sequences, frame, gradients.as_mut());
                    found.extend(gradients);
                }
                (sequences.all(dy, d), found)
            })
            .collect();
        let (dx, found): (Vec<Vec<f32>>, Vec<Vec<BlockGradients>>) = parts.into_iter().unzip();
        (dx.concat(), summed(&found))
    }
}

/// Sums what the parts of a batch found, always in the same order.
fn summed(parts: &[Vec<BlockGradients>]) -> StackGradients {
    let layers = parts.first().map_or(0, Vec::len);
    (0..layers)
        .into_par_iter()
        .map(|layer| {
            let parts: Vec<&BlockGradients> = parts.iter().map(|part| &part[layer]).collect();
            let mut sums: Vec<(String, Vec<f32>)> = (0..parts[0].maps())
                .into_par_iter()
                .flat_map_iter(|map| BlockGradients::of_map(&parts, map))
                .collect();
            sums.extend(BlockGradients::of_norms(&parts));
            sums
        })
        .collect()
}

/// Sequences that one thread takes together, and their positions.
struct BatchPart {
    sequences: Range<usize>,
    rows: Range<usize>,
}

/// Cuts a batch where parts become about equally long, into a multiple of `together` if it is long and has
/// so many sequences.
fn parts(lengths: &[usize], together: usize) -> Vec<BatchPart> {
    let total: usize = lengths.iter().sum();
    let count = (total / POSITIONS_TOGETHER).next_multiple_of(together).clamp(1, lengths.len().max(1));
    let mut parts: Vec<BatchPart> = Vec::with_capacity(count);
    let (mut start, mut middle_of_last) = (0, 0);
    for (sequence, &length) in lengths.iter().enumerate() {
        // A sequence belongs where its middle lies.
        let place = (2 * start + length) * count / (2 * total).max(1);
        match parts.last_mut() {
            Some(part) if place == middle_of_last => {
                part.sequences.end = sequence + 1;
                part.rows.end = start + length;
            }
            _ => parts.push(BatchPart { sequences: sequence..sequence + 1, rows: start..start + length }),
        }
        middle_of_last = place;
        start += length;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_all_sequences_in_order() {
        for lengths in [vec![], vec![0], vec![5], vec![200, 1, 0, 300, 300, 20, 700], vec![81; 8]] {
            let parts = parts(&lengths, 4);
            let sequences: Vec<usize> = parts.iter().flat_map(|part| part.sequences.clone()).collect();
            assert_eq!(sequences, (0..lengths.len()).collect::<Vec<_>>());
            for part in &parts {
                let length: usize = lengths[part.sequences.clone()].iter().sum();
                let before: usize = lengths[..part.sequences.start].iter().sum();
                assert_eq!(part.rows, before..before + length);
            }
        }
    }
}
