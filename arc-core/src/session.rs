//! One open registry: encoders and decoders by name, loaded when they are first asked for, and let
//! go when memory runs out or the registry changes.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use arc_adapters::{
    Adapter, AdapterPlace, DecoderEntry, EncoderEntry, EncoderManifest, ModelFile, Pair, PluginPolicy,
    Registry,
};
use burn::tensor::Device;
use serde::Serialize;

use crate::adapted::{AdaptedDecoder, Pins};
use crate::decoder::{Decoder, ModelSettings};
use crate::device::DeviceName;
use crate::encoder::Encoder;
use crate::hub::{self, Cache, Consent, Silent};
use crate::nn::{Precision, Residence};
use crate::{Error, Result};

/// Finds a model's file, pulling it where needed: the model and the name of its cache folder in,
/// a path out.
pub type Locate = dyn Fn(&ModelFile, &str) -> Result<PathBuf> + Send + Sync;

/// A registry on a device. Share it between threads by reference or in an `Arc`.
///
/// What is asked for is loaded on first use, once however many threads ask, and shared from then
/// on. Callers hold it by `Arc`: a name that is evicted or comes to mean something else after
/// [`Session::reload`] leaves calls in flight as they were, and its memory is freed when the last
/// of them ends.
pub struct Session {
    device: Device,
    locate: Box<Locate>,
    plugins: PluginPolicy,
    pins: Pins,
    precision: Precision,
    budget: Option<u64>,
    /// Grows with every use, so that the least recent one can be told.
    clock: AtomicU64,
    names: RwLock<Arc<Names>>,
    /// Held by the thread that reloads.
    reloading: Mutex<()>,
}

/// Something that a session has loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LoadedModel {
    /// `decoder` or `encoder`.
    pub kind: &'static str,
    /// Its name in the registry.
    pub name: String,
    /// Its weights, in bytes, as [`Session::with_memory_budget`] counts them.
    pub bytes: u64,
}

/// What [`Session::reload`] found: names of decoders and encoders, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reloaded {
    /// New in the registry.
    pub added: Vec<String>,
    /// No longer in it.
    pub removed: Vec<String>,
    /// Had been loaded, and will be loaded anew: the entry or the package differs.
    pub changed: Vec<String>,
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
            device: device.open()?,
            locate,
            plugins: PluginPolicy::default(),
            pins: Pins::Checked,
            precision: Precision::default(),
            budget: None,
            clock: AtomicU64::new(0),
            names: RwLock::new(Arc::new(Names::new(registry))),
            reloading: Mutex::new(()),
        })
    }

    /// Says how inference on the CPU multiplies; see [`Precision`].
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// How inference on the CPU multiplies.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    fn residence(&self) -> Residence {
        Residence::for_inference(&self.device, self.precision)
    }

    /// Says what code plugins may do, beside what the registries say.
    #[must_use]
    pub fn with_plugins(mut self, policy: PluginPolicy) -> Self {
        self.plugins = policy;
        self
    }

    /// Says what happens where an adapter was made for something else than it meets.
    #[must_use]
    pub fn with_pins(mut self, pins: Pins) -> Self {
        self.pins = pins;
        self
    }

    /// Keeps at most so many bytes of weights loaded: after each load, what was used least
    /// recently is let go until the rest fits. What has just been loaded always stays.
    ///
    /// Counted are the weights as they are held: of a decoder or an encoder the bytes of each
    /// tensor as stored in its file where it stays packed (on the CPU), four bytes for each value
    /// where it is dense; of an adapter its file and its projector in float32. Packed weights are
    /// pages of a mapped file, which the system shares between all who map it, so that the sum is
    /// an upper bound. Activations and caches of calls in flight are not counted.
    #[must_use]
    pub fn with_memory_budget(mut self, bytes: u64) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// The registry as it was read last.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.names().registry)
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
    /// As [`Session::encoder_named`], and [`Error::Adapter`] if there is no default.
    pub fn encoder(&self) -> Result<Arc<Encoder>> {
        let names = self.names();
        self.load_encoder(&names, names.registry.encoder_or_default(None)?)
    }

    /// The encoder whose latents a decoder reads where none is named.
    ///
    /// # Errors
    ///
    /// As [`Session::encoder`], and [`Error::Adapter`] for an unknown decoder.
    pub fn encoder_for(&self, decoder: &str) -> Result<Arc<Encoder>> {
        let names = self.names();
        self.load_encoder(&names, names.registry.resolve(decoder, None)?.encoder()?)
    }

    /// An encoder, by its name or an alias.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] for an unknown name or a bad package, and whatever stops its model from
    /// being pulled and loaded.
    pub fn encoder_named(&self, name: &str) -> Result<Arc<Encoder>> {
        let names = self.names();
        self.load_encoder(&names, names.registry.encoder(name)?)
    }

    /// The file of an encoder's backbone.
    ///
    /// # Errors
    ///
    /// As [`Session::encoder_named`], and [`Error::InvalidEncoder`] for an encoder that has all of
    /// its weights in its package.
    pub fn backbone(&self, manifest: &EncoderManifest) -> Result<PathBuf> {
        self.find_backbone(&self.names().registry, manifest)
    }

    /// A decoder with its adapter, by its name or an alias: what answers about latents of the encoder
    /// that it is used with where none is named.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] for an unknown name, a decoder without an adapter, one that was made for
    /// another decoder, or a plugin that may not run; and whatever stops the model from being
    /// pulled and loaded.
    pub fn adapted_decoder(&self, name: &str) -> Result<Arc<AdaptedDecoder>> {
        let names = self.names();
        self.load_adapted(&names, &names.registry.resolve(name, None)?)
    }

    /// A decoder with its adapter for an encoder, both by name or alias.
    ///
    /// # Errors
    ///
    /// As [`Session::adapted_decoder`].
    pub fn adapted_decoder_for(&self, name: &str, encoder: &str) -> Result<Arc<AdaptedDecoder>> {
        let names = self.names();
        self.load_adapted(&names, &names.registry.resolve(name, Some(encoder))?)
    }

    /// Checks the adapter of a decoder without its model: that it is there and sound, may run, and is the
    /// one that its entry pins. `encoder` is as in [`Session::adapted_decoder_for`].
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`], as [`Session::adapted_decoder`].
    pub fn check_adapter(&self, name: &str, encoder: Option<&str>) -> Result<()> {
        let names = self.names();
        let pair = names.registry.resolve(name, encoder)?;
        let adapter = pair.open_whatever_it_is(&self.plugins)?;
        pair.check_pin(&adapter).or_else(|error| self.pins.excuse(error).map(drop))
    }

    fn load_adapted(&self, names: &Names, pair: &Pair<'_>) -> Result<Arc<AdaptedDecoder>> {
        let entry = pair.decoder;
        let key = (entry.name.clone(), pair.adapter()?.path().to_owned());
        let slot = names.adapted.get(&key).ok_or_else(|| no_slot(&entry.name))?;
        let (adapted, is_new) = slot.get_or_load(self.tick(), || {
            // The adapter is small and its faults are found before a model is pulled.
            let adapter = pair.open_whatever_it_is(&self.plugins)?;
            let changed = pair.check_pin(&adapter).map_err(|error| self.pins.excuse(error));
            let changed = changed.err().transpose()?;
            let stamp = stamp(&adapter.manifest);
            let model = self.load_model(names, entry)?;
            let mut adapted = AdaptedDecoder::with_pins(model, adapter, self.pins)?.overriding(changed);
            if let Some(template) = &pair.options().prompt_template {
                adapted = adapted.with_template(template)?;
            }
            if let Some(answer_ends) = entry.options.answer_ends {
                adapted = adapted.with_answer_ends(answer_ends);
            }
            let bytes = adapted.adapter_bytes();
            Ok(Loaded { thing: Arc::new(adapted), bytes, stamp })
        })?;
        if is_new {
            self.evict(names, "decoder", &entry.name);
        }
        Ok(adapted)
    }

    /// A decoder alone, by its name or an alias.
    ///
    /// # Errors
    ///
    /// As [`Session::adapted_decoder`], save that no adapter is needed.
    pub fn decoder(&self, name: &str) -> Result<Arc<Decoder>> {
        let names = self.names();
        let entry = names.registry.decoder(name)?;
        self.load_model(&names, entry)
    }

    /// A decoder alone with dense weights, to train through; packed ones have no backward pass. The
    /// session does not keep it.
    ///
    /// # Errors
    ///
    /// As [`Session::decoder`].
    pub fn dense_model(&self, name: &str) -> Result<Decoder> {
        self.open_model(self.names().registry.decoder(name)?, Residence::Dense)
    }

    /// What is loaded at the moment, the most recently used first.
    #[must_use]
    pub fn loaded(&self) -> Vec<LoadedModel> {
        let mut held = self.names().held();
        held.sort_by_key(|held| std::cmp::Reverse(held.last_used));
        held.into_iter().map(|held| held.model).collect()
    }

    /// Reads the registry files again, and has the next calls see what they say now. Calls in
    /// flight go on with what they hold; what has not changed stays loaded.
    ///
    /// An entry counts as changed if it says something else, or if the package that it names does:
    /// its manifest carries the hash of its weights. The files are those that were read when the
    /// session was opened.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] if a file cannot be read; the session is then as it was.
    pub fn reload(&self) -> Result<Reloaded> {
        let _turn = lock(&self.reloading);
        let old = self.names();
        let registry = old.registry.reread()?;
        let (new, reloaded) = old.reread(registry);
        *self.names.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(reloaded)
    }

    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn load_encoder(&self, names: &Names, entry: &EncoderEntry) -> Result<Arc<Encoder>> {
        let slot = names.encoders.get(&entry.name).ok_or_else(|| no_slot(&entry.name))?;
        let (encoder, is_new) = slot.get_or_load(self.tick(), || {
            let manifest = EncoderManifest::open(&entry.package)?;
            let find = || self.find_backbone(&names.registry, &manifest);
            let backbone = manifest.backbone.is_some().then(find).transpose()?;
            let (package, residence) = (&entry.package, self.residence());
            let encoder = Encoder::open_as(&manifest, package, backbone.as_deref(), &self.device, residence)?;
            let bytes = encoder.weight_bytes();
            Ok(Loaded { thing: Arc::new(encoder), bytes, stamp: stamp(&manifest) })
        })?;
        if is_new {
            self.evict(names, "encoder", &entry.name);
        }
        Ok(encoder)
    }

    fn load_model(&self, names: &Names, entry: &DecoderEntry) -> Result<Arc<Decoder>> {
        let slot = names.models.get(&entry.name).ok_or_else(|| no_slot(&entry.name))?;
        let (model, is_new) = slot.get_or_load(self.tick(), || {
            let decoder = self.open_model(entry, self.residence())?;
            let bytes = decoder.network.weight_bytes();
            Ok(Loaded { thing: Arc::new(decoder), bytes, stamp: String::new() })
        })?;
        if is_new {
            self.evict(names, "decoder", &entry.name);
        }
        Ok(model)
    }

    fn open_model(&self, entry: &DecoderEntry, residence: Residence) -> Result<Decoder> {
        let path = (self.locate)(&entry.model, &entry.name)?;
        let locate = |model| (self.locate)(model, &entry.name);
        let tokenizer = entry.tokenizer.as_ref().map(locate).transpose()?;
        let settings = ModelSettings::of_entry(entry, tokenizer);
        let decoder = Decoder::open_with(&entry.name, &path, settings, &self.device, residence)?;
        let known =
            Cache::from_env().ok().and_then(|cache| cache.known_content(&entry.model, &entry.name, &path));
        let decoder = decoder.with_known_content(known);
        let found = decoder.network.config().architecture.name();
        match entry.architecture.as_ref().filter(|expected| *expected != found) {
            Some(expected) => Err(Error::Mismatch {
                what: format!("`{}` (architecture)", entry.name),
                expected: expected.clone(),
                found: found.to_owned(),
                hint: format!("correct `architecture` or `source` in `{}`", entry.origin.display()).into(),
            }),
            None => Ok(decoder),
        }
    }

    fn find_backbone(&self, registry: &Registry, manifest: &EncoderManifest) -> Result<PathBuf> {
        let Some(backbone) = &manifest.backbone else {
            return Err(Error::InvalidEncoder {
                encoder: manifest.name.clone(),
                reason: "it has no backbone: its package is all of it".into(),
            });
        };
        match (&backbone.decoder, &backbone.source) {
            (Some(name), _) => {
                let entry = registry.decoder(name)?;
                // The registry's file must be the one that the encoder was made from.
                let mut model = entry.model.clone();
                if model.sha256.as_ref().is_some_and(|pinned| *pinned != backbone.sha256) {
                    return Err(Error::Mismatch {
                        what: format!("encoder `{}` (sha256 of its backbone)", manifest.name),
                        expected: backbone.sha256.clone(),
                        found: model.sha256.unwrap_or_default(),
                        hint: format!(
                            "the registry's `{name}` is another file than the encoder was made from"
                        )
                        .into(),
                    });
                }
                model.sha256 = Some(backbone.sha256.clone());
                (self.locate)(&model, &entry.name)
            }
            (None, Some(source)) => {
                let model = ModelFile::unpinned(source.clone()).sha256(Some(backbone.sha256.clone()));
                (self.locate)(&model, &manifest.name)
            }
            (None, None) => Err(Error::InvalidEncoder {
                encoder: manifest.name.clone(),
                reason: "it names no backbone".into(),
            }),
        }
    }

    /// Lets go what was used least recently, but not `kept`, until the rest is in the budget.
    fn evict(&self, names: &Names, kind: &str, kept: &str) {
        let Some(budget) = self.budget else { return };
        let mut held = names.held();
        let mut bytes: u64 = held.iter().map(|held| held.model.bytes).sum();
        held.sort_by_key(|held| held.last_used);
        for Held { model, .. } in held {
            if bytes <= budget {
                break;
            }
            if model.kind == kind && model.name == kept {
                continue;
            }
            names.let_go(&model);
            bytes -= model.bytes;
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("registry", &self.registry().sources().collect::<Vec<_>>())
            .field("device", &self.device)
            .finish_non_exhaustive()
    }
}

/// What tells two contents of a package apart.
fn stamp(manifest: &impl Serialize) -> String {
    serde_json::to_string(manifest).unwrap_or_default()
}

/// A registry as it was read once, and what is loaded for each of its names.
///
/// A reload makes another one, which shares the slots of what has not changed: a thread that is
/// still loading for the old one neither disturbs the new one nor works in vain.
struct Names {
    registry: Arc<Registry>,
    encoders: Slots<Encoder>,
    models: Slots<Decoder>,
    /// By decoder, and by where the adapter is.
    adapted: Slots<AdaptedDecoder, (String, PathBuf)>,
}

/// One for each name.
type Slots<T, K = String> = HashMap<K, Arc<Slot<T>>>;

/// A loaded model, and when it was used last.
struct Held {
    model: LoadedModel,
    last_used: u64,
}

impl Names {
    fn new(registry: Registry) -> Self {
        Self {
            encoders: registry.encoders().map(|entry| (entry.name.clone(), Arc::default())).collect(),
            models: registry.decoders().map(|entry| (entry.name.clone(), Arc::default())).collect(),
            adapted: registry
                .decoders()
                .flat_map(|entry| entry.adapter_places().map(|place| adapted_key(entry, place)))
                .map(|key| (key, Arc::default()))
                .collect(),
            registry: Arc::new(registry),
        }
    }

    /// The same with the registry as it is now.
    fn reread(&self, registry: Registry) -> (Self, Reloaded) {
        let mut new = Self::new(registry);
        let mut changed = Vec::new();
        for entry in new.registry.encoders() {
            if let (Some(slot), Ok(old)) =
                (self.encoders.get(&entry.name), self.registry.encoder(&entry.name))
            {
                if self.encoder_is_same(old, entry, &new.registry, slot) {
                    new.encoders.insert(entry.name.clone(), Arc::clone(slot));
                } else if slot.holds() {
                    changed.push(entry.name.clone());
                }
            }
        }
        for entry in new.registry.decoders() {
            let Ok(old) = self.registry.decoder(&entry.name) else { continue };
            let Some(model) = self.models.get(&entry.name) else { continue };
            let same_model = model_is_same(old, entry);
            if same_model {
                new.models.insert(entry.name.clone(), Arc::clone(model));
            } else if model.holds() {
                changed.push(entry.name.clone());
            }
            for place in entry.adapter_places() {
                let key = adapted_key(entry, place);
                let Some(adapted) = self.adapted.get(&key) else { continue };
                if same_model && adapter_is_same(old, entry, place, adapted) {
                    new.adapted.insert(key, Arc::clone(adapted));
                } else if adapted.holds() {
                    changed.push(entry.name.clone());
                }
            }
        }
        let all = |registry: &Registry| {
            let encoders = registry.encoders().map(|entry| entry.name.clone());
            let names: Vec<_> = encoders.chain(registry.decoders().map(|entry| entry.name.clone())).collect();
            names
        };
        let (before, now) = (all(&self.registry), all(&new.registry));
        let without = |names: &[String], others: &[String]| {
            let mut names: Vec<_> = names.iter().filter(|name| !others.contains(name)).cloned().collect();
            names.sort();
            names.dedup();
            names
        };
        changed.sort();
        changed.dedup();
        let reloaded = Reloaded { added: without(&now, &before), removed: without(&before, &now), changed };
        (new, reloaded)
    }

    /// Whether an encoder that may be loaded is still what its entry says.
    fn encoder_is_same(
        &self,
        old: &EncoderEntry,
        new: &EncoderEntry,
        registry: &Registry,
        slot: &Slot<Encoder>,
    ) -> bool {
        let Some(loaded) = slot.stamp() else { return false };
        let Ok(manifest) = EncoderManifest::open(&new.package) else { return false };
        let backbone = |registry: &Registry| {
            let name = manifest.backbone.as_ref()?.decoder.as_ref()?;
            registry.decoder(name).ok().map(|entry| entry.model.clone())
        };
        old.package == new.package
            && stamp(&manifest) == loaded
            && backbone(&self.registry) == backbone(registry)
    }

    /// Everything that is loaded; what is being loaded just now is not.
    fn held(&self) -> Vec<Held> {
        let mut held: BTreeMap<(&'static str, &String), (u64, u64)> = BTreeMap::new();
        let mut add = |kind, name, (bytes, last_used): (u64, u64)| {
            let (sum, last): &mut (u64, u64) = held.entry((kind, name)).or_default();
            *sum += bytes;
            *last = last_used.max(*last);
        };
        for (name, slot) in &self.encoders {
            slot.held().into_iter().for_each(|held| add("encoder", name, held));
        }
        for (name, slot) in &self.models {
            slot.held().into_iter().for_each(|held| add("decoder", name, held));
        }
        for ((name, _), slot) in &self.adapted {
            slot.held().into_iter().for_each(|held| add("decoder", name, held));
        }
        held.into_iter()
            .map(|((kind, name), (bytes, last_used))| Held {
                model: LoadedModel { kind, name: name.clone(), bytes },
                last_used,
            })
            .collect()
    }

    /// Lets a model go, a decoder together with its adapter, which holds it.
    fn let_go(&self, model: &LoadedModel) {
        if model.kind == "encoder" {
            self.encoders.get(&model.name).into_iter().for_each(|slot| slot.let_go());
        } else {
            for ((decoder, _), slot) in &self.adapted {
                if *decoder == model.name {
                    slot.let_go();
                }
            }
            self.models.get(&model.name).into_iter().for_each(|slot| slot.let_go());
        }
    }
}

/// Two encoders of which an entry names one package share what is loaded of it.
fn adapted_key(entry: &DecoderEntry, place: AdapterPlace<'_>) -> (String, PathBuf) {
    (entry.name.clone(), place.path().to_owned())
}

fn model_is_same(old: &DecoderEntry, new: &DecoderEntry) -> bool {
    let says = |entry: &DecoderEntry| {
        let (model, tokenizer) = (entry.model.clone(), entry.tokenizer.clone());
        (model, tokenizer, entry.architecture.clone(), entry.options.rope_scaling)
    };
    says(old) == says(new)
}

/// Whether an adapter that may be loaded is still what its entry says.
fn adapter_is_same(
    old: &DecoderEntry,
    new: &DecoderEntry,
    place: AdapterPlace<'_>,
    slot: &Slot<AdaptedDecoder>,
) -> bool {
    if old.options != new.options || !old.adapter_places().any(|was| was == place) {
        return false;
    }
    match place {
        // Its entry pins its very bytes.
        AdapterPlace::Plugin(_) => true,
        AdapterPlace::Package { folder, .. } => slot.stamp().is_some_and(|loaded| {
            Adapter::open(folder).is_ok_and(|adapter| stamp(&adapter.manifest) == loaded)
        }),
        _ => false,
    }
}

/// A place for one thing. A thread that loads it holds this lock and no other of its kind.
struct Slot<T> {
    loaded: Mutex<Option<Loaded<T>>>,
    last_used: AtomicU64,
}

struct Loaded<T> {
    thing: Arc<T>,
    bytes: u64,
    /// The content of the package that it was made of.
    stamp: String,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { loaded: Mutex::new(None), last_used: AtomicU64::new(0) }
    }
}

impl<T> Slot<T> {
    /// The thing, and whether it was loaded by this call. A failed load is tried again by the next
    /// caller.
    fn get_or_load(&self, now: u64, load: impl FnOnce() -> Result<Loaded<T>>) -> Result<(Arc<T>, bool)> {
        let mut slot = lock(&self.loaded);
        self.last_used.fetch_max(now, Ordering::Relaxed);
        match &*slot {
            Some(loaded) => Ok((Arc::clone(&loaded.thing), false)),
            None => Ok((Arc::clone(&slot.insert(load()?).thing), true)),
        }
    }

    /// Its content if nobody is loading it: waiting for that could take as long as a download.
    fn peek(&self) -> Option<MutexGuard<'_, Option<Loaded<T>>>> {
        match self.loaded.try_lock() {
            Ok(slot) => Some(slot),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn holds(&self) -> bool {
        self.peek().is_some_and(|slot| slot.is_some())
    }

    fn stamp(&self) -> Option<String> {
        Some(self.peek()?.as_ref()?.stamp.clone())
    }

    /// Bytes and last use.
    fn held(&self) -> Option<(u64, u64)> {
        Some((self.peek()?.as_ref()?.bytes, self.last_used.load(Ordering::Relaxed)))
    }

    fn let_go(&self) {
        if let Some(mut slot) = self.peek() {
            *slot = None;
        }
    }
}

/// Slots are made for all names of a registry together with it.
fn no_slot(name: &str) -> Error {
    Error::NotFound {
        kind: "model",
        name: name.to_owned(),
        place: "in this registry".into(),
        known: Vec::new(),
    }
}

/// A lock that a panicking thread held guards only a finished or an empty slot.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
