//! The native part of the Python package `arc_encoder`: classes over `arc-core`, and the command line.
//!
//! What Python sees is documented in its docstrings, which are the comments here, and typed in
//! `python/arc_encoder/_native.pyi`.

mod adapters;
mod answer;
mod arrays;
mod calls;
mod command_line;
mod decoder;
mod errors;
mod latents;
mod prompt;
mod registering;
mod sampling;
mod session;

use pyo3::prelude::*;

/// The native part of `arc_encoder`, which re-exports all of it.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<session::Session>()?;
    module.add_class::<latents::Latents>()?;
    module.add_class::<decoder::Decoder>()?;
    module.add_class::<prompt::Prompt>()?;
    module.add_class::<answer::Answer>()?;
    module.add_class::<answer::AnswerStream>()?;
    module.add_class::<adapters::DecoderEntry>()?;
    module.add_class::<adapters::Check>()?;
    module.add_class::<registering::Registration>()?;
    module.add_function(wrap_pyfunction!(session::devices, module)?)?;
    module.add_function(wrap_pyfunction!(command_line::command_line, module)?)
}
