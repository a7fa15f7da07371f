//! Code plugins: what is checked before one runs, and where it runs.

mod abi;
mod checks;
mod in_process;
mod isolated;
mod load;

pub use isolated::{Isolation, serve_plugin};
pub use load::PluginPolicy;
