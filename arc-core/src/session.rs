//! One open registry: encoders and decoders by name, loaded when they are first asked for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_adapters::{Adapter, EncoderManifest, ModelFile, Registry};
use burn::tensor::Device;

use crate::adapted::AdaptedDecoder;
use crate::decoder::Decoder;
use crate::device::DeviceName;
use crate::encoder::Encoder;
use crate::hub::{self, Cache, Consent, Silent};
use crate::{Error, Result};

/// Finds a model's file, pulling it where needed: the model and the name of its cache folder in,
/// a path out.
pub type Locate = dyn Fn(&ModelFile, &str) -> Result<PathBuf> + Send + Sync;

/// A registry on a device. Cheap to share between threads: everything loads once, on first use.
pub struct Session {
    registry: Registry,
    device: Device,
    locate: Box<Locate>,
    encoders: Loaded<Encoder>,
    decoders: Loaded<Decoder>,
    adapted: Loaded<AdaptedDecoder>,
}

impl Session {
    /// Opens a registry file on a device. Models that are not there are pulled without asking.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] if the registry cannot be read, [`Error::Device`] if there is no such
    /// device.
    pub fn open(registry: &Path, device: DeviceName) -> Result<Self> {
        let cache = Cache::from_env()?;
        let locate =
            move |model: &ModelFile, name: &str| hub::pull(model, name, &cache, &Silent, Consent::Given);
        Self::new(Registry::open(registry)?, device, Box::new(locate))
    }

    /// Opens a registry that was read already, with a way of its own to find models.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] if there is no such device.
    pub fn new(registry: Registry, device: DeviceName, locate: Box<Locate>) -> Result<Self> {
        Ok(Self {
            registry,
            device: device.open()?,
            locate,
            encoders: Loaded::default(),
            decoders: Loaded::default(),
            adapted: Loaded::default(),
        })
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Where everything runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The registry's default encoder.
    ///
    /// # Errors
    ///
    /// As [`Session::encoder_named`], and [`Error::InvalidArgument`] if there is no default.
    pub fn encoder(&self) -> Result<Arc<Encoder>> {
        let name = self.registry.default_encoder().ok_or_else(|| {
            Error::InvalidArgument("the registry names no default encoder; name one".into())
        })?;
        self.encoder_named(name)
    }

    /// An encoder, by its name or an alias.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] for an unknown name or a bad package, and whatever stops its model from
    /// being pulled and loaded.
    pub fn encoder_named(&self, name: &str) -> Result<Arc<Encoder>> {
        let entry = self.registry.encoder(name)?;
        self.encoders.get_or_load(&entry.name, || {
            let manifest = EncoderManifest::open(&entry.package)?;
            let backbone = self.backbone(&manifest)?;
            Encoder::open(&manifest, &entry.package, &backbone, &self.device)
        })
    }

    /// The file of an encoder's backbone.
    ///
    /// # Errors
    ///
    /// As [`Session::encoder_named`].
    pub fn backbone(&self, manifest: &EncoderManifest) -> Result<PathBuf> {
        let backbone = &manifest.backbone;
        match (&backbone.decoder, &backbone.source) {
            (Some(name), _) => {
                let entry = self.registry.decoder(name)?;
                // The registry's file must be the one that the encoder was made from.
                let mut model = entry.model.clone();
                if model.sha256.as_ref().is_some_and(|pinned| *pinned != backbone.sha256) {
                    return Err(Error::Mismatch {
                        what: format!("encoder `{}` (sha256 of its backbone)", manifest.name),
                        expected: backbone.sha256.clone(),
                        found: model.sha256.unwrap_or_default(),
                        hint: format!(
                            "the registry's `{name}` is another file than the encoder was made from"
                        ),
                    });
                }
                model.sha256 = Some(backbone.sha256.clone());
                (self.locate)(&model, &entry.name)
            }
            (None, Some(source)) => {
                let model =
                    ModelFile { source: source.clone(), sha256: Some(backbone.sha256.clone()), bytes: None };
                (self.locate)(&model, &manifest.name)
            }
            (None, None) => {
                Err(Error::InvalidArgument(format!("encoder `{}` names no backbone", manifest.name)))
            }
        }
    }

    /// A decoder with its adapter, by its name or an alias: what answers about latents.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] for an unknown name, a decoder without an adapter, or one that was made
    /// for another decoder; and whatever stops the model from being pulled and loaded.
    pub fn decoder(&self, name: &str) -> Result<Arc<AdaptedDecoder>> {
        let entry = self.registry.decoder(name)?;
        let folder = entry.adapter.as_ref().ok_or_else(|| Error::Mismatch {
            what: format!("`{}`", entry.name),
            expected: "an adapter".into(),
            found: "none in the registry".into(),
            hint: format!("make one with `arc fit --decoder {}`", entry.name),
        })?;
        self.adapted.get_or_load(&entry.name, || {
            // The adapter is small and its faults are found before a model is pulled.
            let adapter = Adapter::open(folder)?;
            AdaptedDecoder::new(self.language_model(&entry.name)?, adapter)
        })
    }

    /// A decoder alone, by its name or an alias.
    ///
    /// # Errors
    ///
    /// As [`Session::decoder`], save that no adapter is needed.
    pub fn language_model(&self, name: &str) -> Result<Arc<Decoder>> {
        let entry = self.registry.decoder(name)?;
        self.decoders.get_or_load(&entry.name, || {
            let path = (self.locate)(&entry.model, &entry.name)?;
            Decoder::open(&entry.name, &path, &self.device)
        })
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("registry", &self.registry.sources())
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// Things by name, each loaded once however many threads ask for it.
#[derive(Debug)]
struct Loaded<T> {
    slots: Mutex<HashMap<String, Slot<T>>>,
}

/// Empty until its thing is loaded; a thread that loads holds only this lock.
type Slot<T> = Arc<Mutex<Option<Arc<T>>>>;

impl<T> Default for Loaded<T> {
    fn default() -> Self {
        Self { slots: Mutex::new(HashMap::new()) }
    }
}

impl<T> Loaded<T> {
    /// The thing of that name; a failed load is tried again by the next caller.
    fn get_or_load(&self, name: &str, load: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let slot = lock(&self.slots).entry(name.to_owned()).or_default().clone();
        let mut slot = lock(&slot);
        match &*slot {
            Some(thing) => Ok(Arc::clone(thing)),
            None => Ok(Arc::clone(slot.insert(Arc::new(load()?)))),
        }
    }
}

/// A lock that a panicking thread held guards only a finished or an empty slot.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
