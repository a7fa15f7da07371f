//! The gated feed-forward layer (Shazeer, 2020).

use burn::module::Module;
use burn::tensor::{Tensor, TensorData, activation};
use rayon::prelude::*;

use super::Linear;
use crate::host::{gelu_tanh_gate, silu_gate};

/// What the gate passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu,
    /// GELU in its tanh approximation (Gemma).
    GeluTanh,
}

/// `down(activation(gate(x)) · up(x))`
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[d, f]`
    pub gate: Linear,
    /// `[d, f]`
    pub up: Linear,
    /// `[f, d]`
    pub down: Linear,
    #[module(skip)]
    activation: Activation,
}

impl FeedForward {
    /// Puts a layer together from its projections.
    #[must_use]
    pub fn new([gate, up, down]: [Linear; 3], activation: Activation) -> Self {
        Self { gate, up, down, activation }
    }

    /// What the gate passes through.
    #[must_use]
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// `[b, s, d] → [b, s, d]`
    #[must_use]
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = self.gate.forward(x.clone());
        if self.down.is_packed() {
            return self.down.forward(gate_on_host(self.activation, gate, self.up.forward(x)));
        }
        let gate = match self.activation {
            Activation::Silu => activation::silu(gate),
            Activation::GeluTanh => activation::gelu_approximate(gate),
        };
        self.down.forward(gate * self.up.forward(x))
    }
}

/// Values that one job takes: enough to be worth another thread.
const JOB: usize = 16 * 1024;

/// `activation(gate) · up` in one pass over host memory, `[b, s, f]`.
fn gate_on_host(activation: Activation, gate: Tensor<3>, up: Tensor<3>) -> Tensor<3> {
    let (shape, device) = (gate.shape(), gate.device());
    let (gate, up) = (gate.into_data(), up.into_data());
    let mut gate = gate.try_into_vec::<f32>().expect("activations are f32 on the CPU device");
    let up = up.as_slice::<f32>().expect("activations are f32 on the CPU device");
    let run = match activation {
        Activation::Silu => silu_gate,
        Activation::GeluTanh => gelu_tanh_gate,
    };
    if gate.len() <= JOB {
        run(&mut gate, up);
    } else {
        gate.par_chunks_mut(JOB).zip(up.par_chunks(JOB)).for_each(|(gate, up)| run(gate, up));
    }
    Tensor::from_data(TensorData::new(gate, shape), &device)
}
