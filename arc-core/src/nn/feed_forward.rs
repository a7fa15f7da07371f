//! The gated feed-forward layer (Shazeer, 2020).

use burn::module::Module;
use burn::tensor::{Tensor, activation};

use super::Linear;

/// What the gate passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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
        let gate = match self.activation {
            Activation::Silu => activation::silu(gate),
            Activation::GeluTanh => activation::gelu_approximate(gate),
        };
        self.down.forward(gate * self.up.forward(x))
    }
}
