//! What a registry holds, and whether it works, as Python sees it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arc_adapters::{ListedDecoder, Outcome, PluginPolicy};
use arc_core::hub::Cache;
use arc_core::prompt::PromptTemplate;
use arc_core::{Result, Session};
use pyo3::prelude::*;

use crate::errors;

/// A decoder of the registry, and the adapter that its name resolves to.
#[pyclass(frozen, get_all, module = "arc_encoder")]
pub(crate) struct DecoderEntry {
    /// Its name.
    name: String,
    /// Other names for it.
    aliases: Vec<String>,
    /// The architecture, where the registry says so.
    architecture: Option<String>,
    /// Where the model comes from: one source, or its parts in order.
    source: Vec<String>,
    /// `"package"`, `"plugin"` or `"none"`: the adapter that is used where no encoder is named.
    adapter_kind: &'static str,
    /// Its package folder or plugin file.
    adapter: Option<PathBuf>,
    /// The encoder that it is used with where none is named.
    encoder: Option<String>,
    /// Package folders for encoders, by the encoder's name.
    adapters: BTreeMap<String, PathBuf>,
    /// Why the name resolves to nothing, where it does not.
    fault: Option<String>,
    /// The registry file that defines it.
    origin: PathBuf,
}

impl From<ListedDecoder> for DecoderEntry {
    fn from(listed: ListedDecoder) -> Self {
        Self {
            source: listed.source.to_texts(),
            name: listed.name,
            aliases: listed.aliases,
            architecture: listed.architecture,
            adapter_kind: listed.adapter_kind,
            adapter: listed.adapter,
            encoder: listed.encoder,
            adapters: listed.adapters,
            fault: listed.fault,
            origin: listed.origin,
        }
    }
}

#[pymethods]
impl DecoderEntry {
    fn __repr__(&self) -> String {
        let encoder = self.encoder.as_deref().unwrap_or("none");
        format!("DecoderEntry('{}', adapter {}, encoder {encoder})", self.name, self.adapter_kind)
    }
}

/// One thing that was looked at, and how it went.
#[pyclass(frozen, get_all, module = "arc_encoder")]
pub(crate) struct Check {
    /// What it is about.
    what: String,
    /// `"passed"`, `"failed"` or `"skipped"`.
    outcome: &'static str,
    /// What is wrong, or why it was not looked at.
    message: Option<String>,
    /// What to do about it.
    hint: Option<String>,
}

impl From<arc_adapters::Check> for Check {
    fn from(check: arc_adapters::Check) -> Self {
        let worded = |hint: Option<arc_adapters::Hint>| hint.as_ref().map(errors::of_adapter);
        let (outcome, message, hint) = match check.outcome {
            Outcome::Passed => ("passed", None, None),
            Outcome::Failed { message, hint } => ("failed", Some(message), worded(hint)),
            Outcome::Skipped { reason, hint } => ("skipped", Some(reason), worded(hint)),
        };
        Self { what: check.what, outcome, message, hint }
    }
}

#[pymethods]
impl Check {
    fn __repr__(&self) -> String {
        let message = self.message.as_ref().map_or_else(String::new, |message| format!(": {message}"));
        format!("Check({}, {}{message})", self.what, self.outcome)
    }
}

/// Checks all that can be checked of a decoder's adapters without generating: what `arc adapters verify` does.
pub(crate) fn verify(
    session: &Session,
    name: &str,
    policy: &PluginPolicy,
) -> Result<Vec<arc_adapters::Check>> {
    const PINS: &str = "adapter: embedding table and tokenizer are the model's";
    let registry = session.registry();
    let entry = registry.decoder(name)?;
    let cache = Cache::from_env()?;
    let model = cache.find(&entry.model, &entry.name);
    let template = |source: &str| PromptTemplate::parse(source).err().map(|error| error.to_string());
    let mut checks = arc_adapters::verify(&registry, name, policy, model.as_deref(), &template)?;
    if model.is_none() {
        checks.push(arc_adapters::Check::skipped(PINS, "the model is not in the cache"));
        return Ok(checks);
    }
    let decoder = match session.decoder(name) {
        Ok(decoder) => decoder,
        Err(error) => {
            let hint = errors::hint_of(&error).map(Into::into);
            checks.push(arc_adapters::Check::failed_with(PINS, error.to_string(), hint));
            return Ok(checks);
        }
    };
    let network = &decoder.network;
    for pair in registry.pairs(name)? {
        // What cannot be opened has a check of its own that says so.
        let Ok(adapter) = pair.open(policy) else { continue };
        let (architecture, manifest) = (network.config().architecture.name(), &adapter.manifest);
        let pins =
            manifest.check_decoder(architecture, decoder.embedding_sha256(), decoder.tokenizer.sha256());
        checks.push(arc_adapters::Check::of(PINS, pins).0);
        checks.push(arc_adapters::check_embeddings(manifest, network.config().d_model()));
    }
    Ok(checks)
}
