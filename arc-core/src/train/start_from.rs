//! What an earlier run ended with, as the start of another: its encoder, and the adapters for it.

use std::path::{Path, PathBuf};

use arc_adapters::{Adapter, AdapterPlace, ENCODER_FILE, EncoderManifest, REGISTRY_FILE, Registry};

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
        let here = session.registry();
        let there;
        let (registry, package) = match start {
            StartFrom::Encoder(name) => (Some(&*here), here.encoder(name)?.package.clone()),
            StartFrom::Folder(folder) if folder.join(REGISTRY_FILE).is_file() => {
                there = Registry::open(&folder.join(REGISTRY_FILE))?;
                let encoder = there.default_encoder()?.ok_or_else(|| no_encoder(folder))?;
                (Some(&there), encoder.package.clone())
            }
            StartFrom::Folder(folder) if folder.join(ENCODER_FILE).is_file() => (None, folder.clone()),
            StartFrom::Folder(folder) => return Err(no_encoder(folder)),
        };
        let manifest = EncoderManifest::open(&package)?;
        self.check_shape(&manifest, &package)?;
        let mut config = self.clone();
        for decoder in &mut config.decoders {
            let adapter = registry.map(|registry| adapter_for(registry, &decoder.name, &package, &manifest));
            if let Some(folder) = adapter.transpose()?.flatten() {
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
                    hint: format!("leave out `encoder.{name}`: it is that of what the run starts from")
                        .into(),
                });
            }
        }
        Ok(())
    }
}

/// The adapter package that a registry has for a decoder and the encoder of a package, if it has one: the
/// decoder's usual adapter may be for another encoder.
fn adapter_for(
    registry: &Registry,
    decoder: &str,
    package: &Path,
    manifest: &EncoderManifest,
) -> Result<Option<PathBuf>> {
    let Some(encoder) = registry.encoders().find(|encoder| encoder.package == package) else {
        return Ok(None);
    };
    if registry.decoder(decoder).is_err() {
        return Ok(None);
    }
    let pair = registry.resolve(decoder, Some(&encoder.name))?;
    let Some(AdapterPlace::Package { folder, .. }) = pair.adapter else { return Ok(None) };
    let adapter = Adapter::open(folder)?;
    if adapter.manifest.encoder.encoder_id != manifest.encoder_id {
        return Ok(None);
    }
    pair.check_pin(&adapter)?;
    Ok(Some(folder.to_owned()))
}

fn no_encoder(folder: &Path) -> Error {
    Error::Mismatch {
        what: format!("`{}`", folder.display()),
        expected: format!("{REGISTRY_FILE} with a default encoder, or {ENCODER_FILE}"),
        found: "neither".into(),
        hint: "name the `final/` of a run, an encoder's package, or an encoder of the registry".into(),
    }
}
