//! What the author of an adapter plugin for arc-encoder depends on: the C ABI and a macro that exports
//! it. There is nothing else in here, and no dependency, so that a plugin builds in seconds.
//!
//! A plugin is a `cdylib` with one symbol. It carries the description of an adapter and its weights,
//! and code of its own only where no description says what its projector does. `ABI.md` beside this
//! crate has the rules, `include/arc_adapter.h` is the same for C.
//!
//! ```
//! # const JSON: &[u8] = b"{}";
//! # const WEIGHTS: &[u8] = b"";
//! arc_plugin::export_adapter! {
//!     manifest: JSON,   // include_bytes!("../adapter.json")
//!     weights: WEIGHTS, // include_bytes!("../adapter.safetensors")
//! }
//! # fn main() {}
//! ```

pub mod abi;
pub mod export;
