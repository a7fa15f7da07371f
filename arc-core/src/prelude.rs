//! What a first program needs.

pub use crate::decoder::GenerateOptions;
pub use crate::device::DeviceName;
pub use crate::encoder::CompressOptions;
pub use crate::{AdaptedDecoder, Error, Session};
