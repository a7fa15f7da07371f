//! Loads code plugins: checked before anything runs, from a copy that cannot change, for good.
//!
//! The order is the point. Whether plugins are allowed at all, where the file lies and who may
//! write there, and its SHA-256 are checked before the system's loader sees a byte, since loading
//! already runs the library's constructors. What is loaded is the very bytes that were hashed.
//! Nothing here contains a crash in foreign code: that is what [`crate::Isolation`] is for.

use std::path::PathBuf;

use super::checks::read_checked;
use super::in_process::{Loaded, from_plugin_parts};
use super::isolated::{Isolated, Isolation};
use crate::setters;
use crate::{Adapter, PluginEntry, Result};

/// What the user of this process lets plugins do, beside what the registries say.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PluginPolicy {
    /// Run plugins even though their registry does not allow it.
    pub allow: bool,
    /// Folders that plugins may lie in, beside those that their registry lists.
    pub folders: Vec<PathBuf>,
    /// Run plugins in a process of their own.
    pub isolation: Option<Isolation>,
}

setters!(PluginPolicy {
    allow: bool,
    folders: Vec<PathBuf>,
    isolation: Option<Isolation>,
});

impl Adapter {
    /// Loads a code plugin, in this process or in one of its own.
    ///
    /// # Errors
    /// The `Plugin…` errors when it may not or cannot be loaded, and those of [`Adapter::open`]
    /// for its manifest and weights.
    pub fn load_plugin(plugin: &PluginEntry, policy: &PluginPolicy) -> Result<Self> {
        let bytes = read_checked(plugin, policy.allow, &policy.folders)?;
        if let Some(isolation) = &policy.isolation {
            let mut folders = plugin.folders.clone();
            folders.extend(policy.folders.iter().cloned());
            return Isolated::load(PluginEntry { folders, ..plugin.clone() }, isolation.clone());
        }
        let loaded = Loaded::load(&bytes, plugin)?;
        drop(bytes);
        let manifest = loaded.manifest()?;
        let weights = loaded.weights()?;
        from_plugin_parts(&manifest, weights, &plugin.path, |manifest| {
            loaded.projector(manifest.d_encoder, manifest.d_decoder)
        })
    }
}
