//! The engine of arc-encoder.

mod adapted;
mod atomic_file;
pub mod chat_template;
pub mod decoder;
pub mod device;
pub mod document;
pub mod encoder;
mod error;
pub mod eval;
pub mod fit;
pub mod hub;
pub mod nn;
pub mod projector;
pub mod prompt;
pub mod prompt_template;
pub mod sampling;
mod session;
pub mod tokenizer;
pub mod weights;

pub use adapted::AdaptedDecoder;
pub use error::{Error, Result};
pub use session::{Locate, Session};
