//! What an earlier run ended with, as the start of another: its encoder, and the adapters for it.

use std::path::{Path, PathBuf};

use arc_adapters::{Adapter, ENCODER_FILE, EncoderManifest, REGISTRY_FILE, Registry};

use super::config::{RunConfig, Start, StartFrom};
use crate::{Error, Result, Session};

/// A configuration with the packages that `start_from` stands for in the place of what it says of the
/// beginning.
#[derive(Debug)]
pub(super) struct Started {
    /// The run. Decoders that have an adapter for the encoder start from it.
    pub(super) config: RunConfig,
    /// The encoder's package, where it is not what `config.encoder` says.
    pub(super) package: Option<PathBuf>,
}

impl RunConfig {
    /// Finds what a run starts from.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the packages; [`Error::Mismatch`] for an encoder of another shape than the
    /// configuration asks for.
    pub(super) fn with_starts(&self, session: &Session) -> Result<Started> {
        let Some(start) = &self.start_from else {
            return Ok(Started { config: self.clone(), package: None });
        };
        let (package, adapters) = match start {
            StartFrom::Encoder(name) => in_registry(&session.registry(), name)?,
            StartFrom::Folder(folder) if folder.join(REGISTRY_FILE).is_file() => {
                let registry = Registry::open(&folder.join(REGISTRY_FILE))?;
                let name = registry.default_encoder().ok_or_else(|| no_encoder(folder))?.to_owned();
                in_registry(&registry, &name)?
            }
            StartFrom::Folder(folder) if folder.join(ENCODER_FILE).is_file() => (folder.clone(), Vec::new()),
            StartFrom::Folder(folder) => return Err(no_encoder(folder)),
        };
        let manifest = EncoderManifest::open(&package)?;
        self.check_shape(&manifest, &package)?;
        let mut config = self.clone();
        for (name, folder) in adapters {
            // A decoder's usual adapter may be for another encoder.
            let is_for_it =
                || Ok::<_, Error>(Adapter::open(&folder)?.manifest.encoder.encoder_id == manifest.encoder_id);
            let same = |decoder: &&mut super::DecoderConfig| decoder.name == name;
            if let Some(decoder) = config.decoders.iter_mut().find(same)
                && is_for_it()?
            {
                decoder.start = Start::Package(folder);
                decoder.hidden = None;
            }
        }
        Ok(Started { config, package: Some(package) })
    }

    /// A configuration that began from a backbone goes on from a package with nothing else changed, so it
    /// may say again what the package is.
    fn check_shape(&self, manifest: &EncoderManifest, package: &Path) -> Result<()> {
        let says = &self.encoder;
        let other = [
            ("pool_type", says.pool_type.clone(), manifest.pool_type.clone()),
            ("causal", says.causal.map(|causal| causal.to_string()), manifest.causal.to_string()),
            (
                "chunk_tokens",
                says.chunk_tokens.map(|tokens| tokens.to_string()),
                manifest.chunk_tokens.to_string(),
            ),
        ];
        for (name, expected, found) in other {
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                return Err(Error::Mismatch {
                    what: format!("encoder package `{}` (`{name}`)", package.display()),
                    expected,
                    found,
                    hint: format!("leave out `encoder.{name}`: it is that of what the run starts from"),
                });
            }
        }
        Ok(())
    }
}

/// An encoder's package, and the adapters that the registry has for it, by the decoders' names.
fn in_registry(registry: &Registry, name: &str) -> Result<(PathBuf, Vec<(String, PathBuf)>)> {
    let encoder = registry.encoder(name)?;
    let adapters = registry
        .decoders()
        .filter_map(|decoder| Some((decoder.name.clone(), decoder.adapter_for(&encoder.name)?.to_owned())));
    Ok((encoder.package.clone(), adapters.collect()))
}

fn no_encoder(folder: &Path) -> Error {
    Error::Mismatch {
        what: format!("`{}`", folder.display()),
        expected: format!("{REGISTRY_FILE} with a default encoder, or {ENCODER_FILE}"),
        found: "neither".into(),
        hint: "name the `final/` of a run, an encoder's package, or an encoder of the registry".into(),
    }
}
