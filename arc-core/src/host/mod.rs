//! Everything that computes on host memory: inference on the CPU, and training there.
//!
//! [`crate::nn`] is the same networks in burn, for GPUs and for gradients of everything else;
//! [`crate::weights`] is the files that weights lie in. Shapes have the legend of [`crate::nn`].
//!
//! | | |
//! | --- | --- |
//! | `instructions` | which vector instructions there are |
//! | `kernels`, `quantised_rows`, `integer_rows` | loops over slices, for each of them |
//! | `block_formats` | the storage types as vector instructions read them |
//! | `product`, `packed_matrix` | products of dense matrices, and with weights as they are stored |
//! | `panels` | weights of up to 8 bits, laid out for products of bytes |
//! | `tiles`, `amx` | products in bfloat16 |
//! | `linear`, `attend`, `attention`, `block` | the parts of a block, for inference and for training |
//! | `frame`, `sequences`, `key_value` | positions, what sees what, and what was read before |
//! | `stack`, `pool` | blocks one after another, forward and backward, and the threads they run on |
//! | `gradients`, `loss` | what training asks for besides |

#[cfg(target_arch = "x86_64")]
mod amx;
mod attend;
mod attention;
mod block;
#[cfg(target_arch = "x86_64")]
mod block_formats;
mod frame;
mod gradients;
mod halves;
mod instructions;
mod integer_rows;
mod kernels;
mod key_value;
mod linear;
mod loss;
#[cfg(test)]
mod noise;
mod packed_matrix;
#[cfg(target_arch = "x86_64")]
mod panels;
mod pool;
mod product;
mod quantised_rows;
mod sequences;
mod stack;
mod tiles;

pub(crate) use block::HostBlock;
pub(crate) use frame::{BatchFrame, HostFrame, HostVisibility, NextFrame};
pub(crate) use gradients::Keep;
pub(crate) use instructions::{InstructionSet, Vectors};
pub(crate) use key_value::HostKeyValue;
pub(crate) use linear::{HostLinear, HostMatrix, HostNorm, HostTable, HostWeight};
pub(crate) use loss::{HostLoss, TiledHead, host_loss};
pub use packed_matrix::PackedMatrix;
pub(crate) use packed_matrix::integer_products;
pub(crate) use pool::on_pool;
pub(crate) use sequences::{padded, without_padding};
pub(crate) use stack::{HostStack, StackTape};
pub(crate) use tiles::{bfloat16_products, multiplies_bfloat16};

/// Values that one elementwise job takes: enough to be worth another thread.
const VALUES_OF_A_JOB: usize = 16 * 1024;
