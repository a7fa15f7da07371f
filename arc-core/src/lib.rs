#![doc = include_str!("../README.md")]
//!
//! Data moves one way: text → token ids → hidden states → latents → projected latents → spans of a
//! prompt → logits → text. Each arrow is one function with one home.

mod adapted;
mod bounded_file;
pub mod decoder;
pub mod device;
pub mod document;
pub mod document_cache;
pub mod encoder;
mod error;
pub mod eval;
pub mod export;
pub mod fit;
mod flops;
mod hint;
pub mod host;
pub mod hub;
pub mod import;
pub mod json_lines;
pub mod nearest_chunks;
pub mod nn;
pub mod plan;
pub mod prelude;
pub mod projector;
pub mod prompt;
pub mod sampling;
mod session;
pub mod tokenizer;
pub mod train;
pub mod weights;

/// The library example of the project's front page is compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct FrontPage;

#[cfg(test)]
#[path = "../../tests/harness/notice.rs"]
mod notice;

pub use burn;

pub use adapted::{AdaptedDecoder, OverriddenPin, Pins, SpecialVector};
pub use error::{Error, Result};
pub use hint::Hint;
pub use session::{LoadedModel, Locate, Reloaded, Session};
