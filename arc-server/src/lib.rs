#![doc = include_str!("../README.md")]
//!
//! [`engine`] and [`latents`] know nothing of HTTP; all that does is in `http`, which the feature of that name builds.

pub mod engine;
#[cfg(feature = "http")]
pub mod http;
pub mod latents;
