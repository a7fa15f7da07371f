//! Everything that computes on host memory: inference on the CPU, and training there.
//!
//! [`crate::nn`] is the same networks in burn, for GPUs and for gradients of everything else;
//! [`crate::weights`] is the files that weights lie in. Shapes have the legend of [`crate::nn`].

mod attention;
mod block;
mod kernels;
mod loss;
mod packed_matrix;
mod quantised_rows;
mod stack;

pub use attention::HostKeyValue;
pub(crate) use attention::attend;
pub(crate) use block::{HostBlock, HostFrame, HostLinear, HostMatrix, HostNorm, HostVisibility, Keep};
pub(crate) use kernels::{gelu_tanh_gate, silu_gate};
pub(crate) use loss::host_loss;
pub use packed_matrix::PackedMatrix;
pub(crate) use quantised_rows::InstructionSet;
pub(crate) use stack::{HostStack, StackTape};
