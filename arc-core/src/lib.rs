//! The engine of arc-encoder: text is compressed once by a shared encoder, and any decoder of the
//! registry reads the latents through its adapter.
//!
//! ```no_run
//! use arc_core::Session;
//! use arc_core::decoder::GenerateOptions;
//! use arc_core::device::DeviceName;
//! use arc_core::encoder::CompressOptions;
//!
//! # fn main() -> arc_core::Result<()> {
//! let session = Session::open("registry.toml".as_ref(), DeviceName::CPU)?;
//! let latents = session.encoder()?.compress("A long text …", CompressOptions::default())?;
//! for name in ["smollm2-135m", "gemma3-270m"] {
//!     let documents = std::slice::from_ref(&latents);
//!     let answers = session.decoder(name)?.ask(documents, "Who …?", &GenerateOptions::default())?;
//!     println!("{name}: {}", answers.rows[0].text);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Data moves one way: text → token ids → hidden states → latents → projected latents → spans of a
//! prompt → logits → text. Each arrow is one function with one home.

mod adapted;
pub mod atomic_file;
mod bounded_file;
pub mod chat_template;
pub mod decoder;
pub mod device;
pub mod document;
pub mod encoder;
mod error;
pub mod eval;
pub mod export;
pub mod fit;
pub mod host;
pub mod hub;
pub mod import;
pub mod json_lines;
pub mod nn;
pub mod plan;
pub mod projector;
pub mod prompt;
pub mod prompt_forms;
pub mod prompt_template;
pub mod sampling;
mod session;
mod stand_in;
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

pub use adapted::{AdaptedDecoder, OverriddenPin, Pins, SpecialVector};
pub use error::{Error, Result};
pub use session::{LoadedModel, Locate, Reloaded, Session};
