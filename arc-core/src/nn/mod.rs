//! The parts that encoders and decoders are built of, in burn: on GPUs, and wherever a gradient goes
//! through its graph. [`crate::host`] is the same on host memory.
//!
//! Shapes in this module use one legend: `b` batch, `s` sequence, `n` keys (cached and new),
//! `d` model width, `h` query heads, `g` key/value heads, `k` head width, `f` feed-forward width.

mod attention;
mod block;
mod embedding;
mod feed_forward;
mod flops;
mod linear;
mod loader;
mod norm;
mod precision;
mod rope;

pub(crate) use attention::Visible;
pub use attention::{Attention, AttentionConfig, KeyValue, Visibility};
pub use block::{Block, BlockConfig};
pub use embedding::Embedding;
pub use feed_forward::{Activation, FeedForward};
pub use flops::trace_flops;
pub(crate) use flops::{count_flops, count_products};
pub use linear::Linear;
pub(crate) use linear::product_in;
pub use loader::{Loader, Residence};
pub(crate) use loader::{StoredBlock, StoredLinear, StoredNorm};
pub use norm::{Norm, NormConfig};
pub use precision::Precision;
pub use rope::{RopeConfig, RopeLayout, RopeScaling, Rotation};
