//! What the backward pass of a block finds for its parameters.

use std::sync::Arc;

use super::kernels::add;
use super::linear::{HostLinear, HostNorm};
use super::product::{View, multiply_into};
use super::tiles::{Part, TileKernel, Tiles, multiply_tiles};

/// What a forward pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: there is no backward pass.
    Nothing,
    /// What the gradient at the input takes.
    ForInput,
    /// What the gradients of the weights take besides.
    ForWeights,
}

/// The input of a linear map and the gradient at its output: what its weight's gradient is made of.
#[derive(Debug)]
pub(super) struct LinearGradient {
    name: &'static str,
    /// `[l, d_in]`; maps of one input share it.
    x: Arc<Vec<f32>>,
    /// `[l, d_out]`
    dy: Vec<f32>,
    d_in: usize,
    d_out: usize,
    has_bias: bool,
    /// What multiplies them, if in bfloat16.
    kernel: Option<TileKernel>,
}

impl LinearGradient {
    pub(super) fn new(name: &'static str, linear: &HostLinear, x: &Arc<Vec<f32>>, dy: Vec<f32>) -> Self {
        let [d_in, d_out] = linear.dims();
        Self {
            name,
            x: Arc::clone(x),
            dy,
            d_in,
            d_out,
            has_bias: linear.has_bias(),
            kernel: linear.tile_kernel(),
        }
    }
}

/// What a block's backward pass finds for its parameters, by the parameter's name.
#[derive(Debug, Default)]
pub(crate) struct BlockGradients {
    pub(super) linear: Vec<LinearGradient>,
    norm: Vec<(&'static str, Vec<f32>)>,
}

impl BlockGradients {
    pub(super) fn add_norm(&mut self, name: &'static str, norm: &HostNorm, x: &[f32], dy: &[f32]) {
        self.norm.extend(norm.weight_gradient(x, dy).map(|gradient| (name, gradient)));
    }

    /// How many linear maps there are.
    pub(crate) fn maps(&self) -> usize {
        self.linear.len()
    }

    /// The gradients of one linear map, summed over the parts of a batch: of the weight,
    /// `[d_in, d_out]`, and of the bias.
    pub(crate) fn of_map(parts: &[&Self], map: usize) -> Vec<(String, Vec<f32>)> {
        let Some(&LinearGradient { name, d_in, d_out, has_bias, kernel, .. }) =
            parts.first().and_then(|part| part.linear.get(map))
        else {
            return Vec::new();
        };
        let mut weight = vec![0.0; d_in * d_out];
        let mut bias = vec![0.0; if has_bias { d_out } else { 0 }];
        let linear = || parts.iter().map(|part| &part.linear[map]);
        let (inputs, outputs): (Vec<View<'_>>, Vec<View<'_>>) = linear()
            .map(|LinearGradient { x, dy, .. }| {
                let rows = dy.len() / d_out;
                (View::rows_of(x, rows, d_in).transposed(), View::rows_of(dy, rows, d_out))
            })
            .unzip();
        if let Some(kernel) = kernel {
            let (inputs, outputs) = Tiles::joined(&inputs, &outputs);
            multiply_tiles(kernel, &inputs, &Part::all(&outputs), false, &mut weight, d_out);
        } else {
            for (number, (inputs, outputs)) in inputs.into_iter().zip(outputs).enumerate() {
                multiply_into(inputs, outputs, 1.0, number > 0, &mut weight, d_out);
            }
        }
        if has_bias {
            linear().for_each(|part| part.dy.chunks_exact(d_out).for_each(|row| add(&mut bias, row)));
        }
        let mut sums = vec![(format!("{name}.weight"), weight)];
        if has_bias {
            sums.push((format!("{name}.bias"), bias));
        }
        sums
    }

    /// The gradients of the normalisations, summed over the parts of a batch.
    pub(crate) fn of_norms(parts: &[&Self]) -> Vec<(String, Vec<f32>)> {
        let Some((first, others)) = parts.split_first() else { return Vec::new() };
        let mut sums: Vec<(String, Vec<f32>)> =
            first.norm.iter().map(|(name, gradient)| (format!("{name}.weight"), gradient.clone())).collect();
        for other in others {
            for ((_, sum), (_, part)) in sums.iter_mut().zip(&other.norm) {
                add(sum, part);
            }
        }
        sums
    }
}
