//! Changes to `registry.toml` that keep its comments and order, one writer at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, Value, value};

use crate::atomic_file::{replace, through_links};
use crate::files::{io_error, read_text, sync_folder};
use crate::line_ends::with_line_ends_of;
use crate::manifest::check_new_name;
use crate::registry::{MAX_REGISTRY_BYTES, REGISTRY_SCHEMA, WHAT};
use crate::setters;
use crate::{DecoderEntry, EncoderEntry, Error, ModelFile, ModelSource, Registry, Result, RopeScalingOption};

/// What some editors begin a file with.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// How long another writer may hold the lock: a change takes milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long another writer is waited for before that is told.
const UNTOLD_WAIT: Duration = Duration::from_millis(500);

static ON_WAIT: OnceLock<fn(&Path)> = OnceLock::new();

/// Has `tell` called, with the registry file, whenever this process has waited for another one's lock for
/// half a second. A program says so once, at its begin; a library's user hears nothing unless it asks.
pub fn tell_of_waiting(tell: fn(&Path)) {
    // A second teller has nothing to add.
    let _ = ON_WAIT.set(tell);
}

/// The two tables of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// `[decoders]`.
    Decoder,
    /// `[encoders]`.
    Encoder,
}

impl EntryKind {
    fn name(self) -> &'static str {
        match self {
            Self::Decoder => "decoder",
            Self::Encoder => "encoder",
        }
    }

    fn table(self) -> &'static str {
        match self {
            Self::Decoder => "decoders",
            Self::Encoder => "encoders",
        }
    }
}

/// A decoder to be added. Paths are as they are to be written: relative ones are relative to the
/// folder of the registry.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NewDecoder {
    /// Its name.
    pub name: String,
    /// Other names for it.
    pub aliases: Vec<String>,
    /// The architecture of the model.
    pub architecture: Option<String>,
    /// The model file.
    pub model: ModelFile,
    /// The tokenizer, where it is not in the model file.
    pub tokenizer: Option<ModelFile>,
    /// Its adapter, if it has one.
    pub adapter: Option<NewAdapter>,
}

setters!(NewDecoder {
    aliases: Vec<String>,
    architecture: Option<String>,
    tokenizer: Option<ModelFile>,
    adapter: Option<NewAdapter>,
});

impl NewDecoder {
    /// A decoder of that name and model file, and nothing else.
    #[must_use]
    pub fn new(name: impl Into<String>, model: ModelFile) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            architecture: None,
            model,
            tokenizer: None,
            adapter: None,
        }
    }
}

/// What a decoder's adapter is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewAdapter {
    /// A package folder.
    Package(PathBuf),
    /// A code plugin, pinned by its SHA-256.
    Plugin {
        /// The shared library.
        path: PathBuf,
        /// SHA-256 of the shared library.
        sha256: String,
    },
}

/// A registry file that is locked for changes. Nothing is written before [`RegistryEditor::save`].
#[derive(Debug)]
pub struct RegistryEditor {
    path: PathBuf,
    document: DocumentMut,
    /// The text as it was read, whose line ends it keeps.
    before: String,
    /// Unlocked when it is closed. The registry itself cannot carry the lock, since saving puts
    /// another file in its place. A draft has none.
    _lock: Option<File>,
}

impl RegistryEditor {
    /// Locks a registry file, and reads it; one that is not there begins empty.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process keeps the lock, [`Error::Io`], or as
    /// [`Registry::parse`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_within(path, LOCK_TIMEOUT)
    }

    /// The same with a limit of one's own on how long another process may keep the lock.
    ///
    /// # Errors
    /// As [`RegistryEditor::open`].
    pub fn open_within(path: &Path, timeout: Duration) -> Result<Self> {
        let lock = lock(path, timeout)?;
        Self::read(path, Some(lock))
    }

    /// Reads a registry file to try a change on, without a lock: for what takes longer than others may be
    /// kept waiting, such as looking at a stranger's files. The change is made anew with
    /// [`RegistryEditor::open`].
    ///
    /// # Errors
    /// As [`RegistryEditor::open`], save for [`Error::Locked`].
    pub fn draft(path: &Path) -> Result<Self> {
        Self::read(path, None)
    }

    fn read(path: &Path, lock: Option<File>) -> Result<Self> {
        let text = match read_text(path, WHAT, MAX_REGISTRY_BYTES) {
            Ok(text) => text,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                format!("schema = {REGISTRY_SCHEMA}\n")
            }
            Err(error) => return Err(error),
        };
        // What is malformed already is not made worse.
        Registry::parse(&text, path)?;
        let document = text.parse::<DocumentMut>().map_err(|e| invalid(path, &e.to_string()))?;
        Ok(Self { path: path.to_owned(), document, before: text, _lock: lock })
    }

    /// Adds a decoder.
    ///
    /// # Errors
    /// [`Error::NameTaken`] when its name, or one of its aliases, names another decoder,
    /// [`Error::InvalidName`] when one of them cannot be a name.
    pub fn add_decoder(&mut self, new: &NewDecoder) -> Result<()> {
        self.check_free(EntryKind::Decoder, &new.name)?;
        for alias in &new.aliases {
            self.check_free(EntryKind::Decoder, alias)?;
        }
        let mut entry = Table::new();
        if !new.aliases.is_empty() {
            entry.insert("aliases", value(strings(&new.aliases)));
        }
        if let Some(architecture) = &new.architecture {
            entry.insert("architecture", value(architecture));
        }
        for (key, item) in model_items(&new.model) {
            entry.insert(key, Item::Value(item));
        }
        if let Some(tokenizer) = &new.tokenizer {
            entry.insert("tokenizer", value(model_items(tokenizer).collect::<InlineTable>()));
        }
        if let Some(adapter) = &new.adapter {
            insert_adapter(&mut entry, adapter, &self.path)?;
        }
        self.table(EntryKind::Decoder)?.insert(&new.name, Item::Table(entry));
        Ok(())
    }

    /// Adds what another registry file says about a decoder under a name of its own, without its
    /// aliases and its adapter: names and adapters are each file's own business.
    ///
    /// # Errors
    /// As [`RegistryEditor::add_decoder`].
    pub fn copy_decoder(&mut self, name: &str, entry: &DecoderEntry) -> Result<()> {
        self.add_decoder(&NewDecoder {
            name: name.to_owned(),
            aliases: Vec::new(),
            architecture: entry.architecture.clone(),
            model: with_absolute_path(&entry.model)?,
            tokenizer: entry.tokenizer.as_ref().map(with_absolute_path).transpose()?,
            adapter: None,
        })?;
        let copy = self.entry(EntryKind::Decoder, name)?;
        for (key, text) in
            [("encoder", &entry.encoder), ("description", &entry.description), ("licence", &entry.licence)]
        {
            if let Some(text) = text {
                copy.insert(key, value(text));
            }
        }
        let mut options = InlineTable::new();
        if let Some(factor) = entry.options.factor {
            options.insert("factor", i64::from(factor).into());
        }
        if let Some(template) = &entry.options.prompt_template {
            options.insert("prompt_template", template.into());
        }
        if !entry.options.stop.is_empty() {
            options.insert("stop", Value::Array(entry.options.stop.iter().collect()));
        }
        if let Some(answer_ends) = entry.options.answer_ends {
            options.insert("answer_ends", answer_ends.name().into());
        }
        if entry.options.rope_scaling == RopeScalingOption::None {
            options.insert("rope_scaling", "none".into());
        }
        if !options.is_empty() {
            copy.insert("options", value(options));
        }
        if let Some(shape) = &entry.shape {
            let sizes = toml_edit::ser::to_document(shape).map_err(|error| Error::Invalid {
                path: entry.origin.clone(),
                what: "registry",
                reason: format!("the shape of decoder `{}`: {error}", entry.name),
            })?;
            copy.insert("shape", value(sizes.as_table().clone().into_inline_table()));
        }
        Ok(())
    }

    /// Adds a decoder that another registry file knows, as [`RegistryEditor::copy_decoder`] does, where
    /// this file has none of its name.
    ///
    /// # Errors
    /// As [`RegistryEditor::add_decoder`].
    pub fn adopt_decoder(&mut self, entry: &DecoderEntry) -> Result<()> {
        match self.registry()?.decoder(&entry.name) {
            Ok(_) => Ok(()),
            Err(_) => self.copy_decoder(&entry.name, entry),
        }
    }

    /// Adds an encoder package.
    ///
    /// # Errors
    /// [`Error::NameTaken`] when the name names another encoder, [`Error::InvalidName`] when it cannot
    /// be a name.
    pub fn add_encoder(&mut self, name: &str, package: &Path) -> Result<()> {
        self.check_free(EntryKind::Encoder, name)?;
        let package = path_text(package, &self.path)?;
        let mut entry = Table::new();
        entry.insert("package", value(package));
        self.table(EntryKind::Encoder)?.insert(name, Item::Table(entry));
        Ok(())
    }

    /// Gives a decoder of this file another adapter, in place of the one it has. A pin of the old one
    /// goes; [`RegistryEditor::pin_adapter`] writes another.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when this file has no decoder of this name or alias.
    pub fn set_adapter(&mut self, decoder: &str, adapter: &NewAdapter) -> Result<()> {
        let path = self.path.clone();
        let entry = self.entry(EntryKind::Decoder, decoder)?;
        // The other kind of adapter goes; the same kind keeps its place and comments.
        entry.remove(match adapter {
            NewAdapter::Package(_) => "plugin",
            NewAdapter::Plugin { .. } => "adapter",
        });
        entry.remove("adapter_sha256");
        insert_adapter(entry, adapter, &path)
    }

    /// Pins the package of a decoder by the SHA-256 of its manifest, which has that of its weights.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when this file has no decoder of this name or alias.
    pub fn pin_adapter(&mut self, decoder: &str, manifest_sha256: &str) -> Result<()> {
        self.entry(EntryKind::Decoder, decoder)?.insert("adapter_sha256", value(manifest_sha256));
        Ok(())
    }

    /// Takes the adapter of a decoder away, be it a package or a plugin; the decoder stays.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when this file has no decoder of this name or alias,
    /// [`Error::NoAdapter`] when it has no adapter.
    pub fn remove_adapter(&mut self, decoder: &str) -> Result<()> {
        let origin = self.path.clone();
        let entry = self.entry(EntryKind::Decoder, decoder)?;
        entry.remove("adapter_sha256");
        let removed = [entry.remove("adapter"), entry.remove("plugin")];
        if removed.iter().all(Option::is_none) {
            return Err(Error::NoAdapter { decoder: decoder.to_owned(), encoder: None, origin });
        }
        Ok(())
    }

    /// Lists a folder as one that plugins may lie in. Whether they may run is not changed.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the folder's name is not UTF-8.
    pub fn list_plugin_folder(&mut self, folder: &Path) -> Result<()> {
        let text = path_text(folder, &self.path)?;
        let path = self.path.clone();
        let folders = self
            .document
            .entry("plugin_folders")
            .or_insert_with(|| value(Array::new()))
            .as_array_mut()
            .ok_or_else(|| invalid(&path, "`plugin_folders` is not an array"))?;
        if !folders.iter().any(|known| known.as_str() == Some(&text)) {
            folders.push(text);
        }
        Ok(())
    }

    /// Gives a decoder of this file the package that it is used with where no encoder is named, pinned
    /// by the SHA-256 of its manifest: `encoder` is the one that it is used with then, as
    /// [`Registry::resolve`] has it. Where the entry names a package for that encoder this one takes its
    /// place, which goes before the usual one.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when this file has no decoder of this name or alias.
    pub fn set_package(
        &mut self,
        decoder: &str,
        encoder: Option<&EncoderEntry>,
        package: &Path,
        manifest_sha256: &str,
    ) -> Result<()> {
        match encoder {
            Some(encoder) if self.registry()?.decoder(decoder)?.names_adapter_for(encoder) => {
                self.add_adapter(decoder, encoder, package, Some(manifest_sha256))
            }
            _ => {
                self.set_adapter(decoder, &NewAdapter::Package(package.to_owned()))?;
                self.pin_adapter(decoder, manifest_sha256)
            }
        }
    }

    /// Gives a decoder of this file an adapter for an encoder, beside those for other encoders, pinned
    /// by the SHA-256 of its manifest where that is given. It takes the place of one that the entry has
    /// under an alias of the encoder. A decoder that has no adapter yet uses it, and that encoder, where
    /// no encoder is named.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when this file has no decoder of this name or alias.
    pub fn add_adapter(
        &mut self,
        decoder: &str,
        encoder: &EncoderEntry,
        package: &Path,
        manifest_sha256: Option<&str>,
    ) -> Result<()> {
        let path = self.path.clone();
        let package = path_text(package, &path)?;
        let entry = self.entry(EntryKind::Decoder, decoder)?;
        let written = match manifest_sha256 {
            None => Value::from(package.as_str()),
            Some(sha256) => InlineTable::from_iter([("path", package.as_str()), ("sha256", sha256)]).into(),
        };
        let adapters = entry
            .entry("adapters")
            .or_insert_with(|| value(InlineTable::new()))
            .as_table_like_mut()
            .ok_or_else(|| invalid(&path, "`adapters` is not a table"))?;
        for alias in &encoder.aliases {
            adapters.remove(alias);
        }
        adapters.insert(&encoder.name, value(written));
        if !entry.contains_key("adapter") && !entry.contains_key("plugin") {
            entry.insert("adapter", value(&package));
            entry.insert("encoder", value(&encoder.name));
        }
        Ok(())
    }

    /// Removes an entry with its aliases. Returns whether it was the default encoder or decoder of this file,
    /// which then has none.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when this file has no entry of this name.
    pub fn remove(&mut self, kind: EntryKind, name: &str) -> Result<bool> {
        let name = self.resolve(kind, name)?;
        let key = match kind {
            EntryKind::Encoder => "default_encoder",
            EntryKind::Decoder => "default_decoder",
        };
        let registry = self.registry()?;
        let default = self.document.get(key).and_then(Item::as_str);
        // It may stand there by an alias, which goes with its entry.
        let is_default = default.is_some_and(|default| match kind {
            EntryKind::Encoder => registry.encoder(&name).is_ok_and(|it| it.is_called(default)),
            EntryKind::Decoder => registry.decoder(&name).is_ok_and(|it| it.is_called(default)),
        });
        if is_default {
            self.document.remove(key);
        }
        self.table(kind)?.remove(&name);
        Ok(is_default)
    }

    /// Adds an alias to a decoder or encoder of this file.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when there is no such entry, [`Error::NameTaken`] when the alias
    /// names one already, [`Error::InvalidName`] when it cannot be a name.
    pub fn add_alias(&mut self, kind: EntryKind, name: &str, alias: &str) -> Result<()> {
        self.check_free(kind, alias)?;
        let path = self.path.clone();
        let entry = self.entry(kind, name)?;
        entry
            .entry("aliases")
            .or_insert_with(|| value(Array::new()))
            .as_array_mut()
            .ok_or_else(|| invalid(&path, "`aliases` is not an array"))?
            .push(alias);
        Ok(())
    }

    /// Takes an alias away; its entry stays.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when nothing has this alias.
    pub fn remove_alias(&mut self, kind: EntryKind, alias: &str) -> Result<()> {
        let name = self.resolve(kind, alias)?;
        if name == alias {
            return Err(Error::UnknownName {
                kind: "alias",
                name: alias.to_owned(),
                other_kind: Some(kind.name()),
                nearest: Vec::new(),
                searched: vec![self.path.clone()],
            });
        }
        let entry = self.entry(kind, &name)?;
        if let Some(aliases) = entry.get_mut("aliases").and_then(Item::as_array_mut) {
            aliases.retain(|text| text.as_str() != Some(alias));
            if aliases.is_empty() {
                entry.remove("aliases");
            }
        }
        Ok(())
    }

    /// Names the encoder to use where none is named.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when this file has no encoder of this name.
    pub fn set_default_encoder(&mut self, name: &str) -> Result<()> {
        let name = self.resolve(EntryKind::Encoder, name)?;
        self.document.insert("default_encoder", value(name));
        Ok(())
    }

    /// Names the decoder to ask where none is named.
    ///
    /// # Errors
    /// [`Error::UnknownName`] when this file has no decoder of this name.
    pub fn set_default_decoder(&mut self, name: &str) -> Result<()> {
        let name = self.resolve(EntryKind::Decoder, name)?;
        self.document.insert("default_decoder", value(name));
        Ok(())
    }

    /// The text as it would be saved.
    #[must_use]
    pub fn text(&self) -> String {
        let text = self.document.to_string();
        let text = text.trim_start_matches(BYTE_ORDER_MARK);
        match self.before.strip_prefix(BYTE_ORDER_MARK) {
            Some(before) => format!("{BYTE_ORDER_MARK}{}", with_line_ends_of(before, text)),
            None => with_line_ends_of(&self.before, text),
        }
    }

    /// The registry of this file alone, as it would be saved.
    ///
    /// # Errors
    /// As [`Registry::parse`].
    pub fn registry(&self) -> Result<Registry> {
        Registry::parse(&self.text(), &self.path)
    }

    /// Writes the file, which changes as a whole or not at all, and gives the registry as saved.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the change would make a registry that cannot be read back: nothing
    /// is written then. [`Error::Io`] when it cannot be written.
    pub fn save(self) -> Result<Registry> {
        let (text, registry) = (self.text(), self.registry()?);
        replace(&self.path, |file| file.write_all(text.as_bytes()))?;
        sync_folder(self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
        Ok(registry)
    }

    /// The exact name of the entry that a name or alias means in this file.
    fn resolve(&self, kind: EntryKind, name: &str) -> Result<String> {
        let registry = self.registry()?;
        Ok(match kind {
            EntryKind::Decoder => registry.decoder(name)?.name.clone(),
            EntryKind::Encoder => registry.encoder(name)?.name.clone(),
        })
    }

    fn check_free(&self, kind: EntryKind, name: &str) -> Result<()> {
        check_new_name(name)?;
        match self.resolve(kind, name) {
            Err(Error::UnknownName { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                Err(Error::NameTaken { kind: kind.name(), name: name.to_owned(), path: self.path.clone() })
            }
        }
    }

    fn table(&mut self, kind: EntryKind) -> Result<&mut dyn toml_edit::TableLike> {
        let path = self.path.clone();
        self.document
            .entry(kind.table())
            .or_insert_with(|| {
                let mut table = Table::new();
                // Its header would say nothing: each entry has its own.
                table.set_implicit(true);
                Item::Table(table)
            })
            .as_table_like_mut()
            .ok_or_else(|| invalid(&path, &format!("`{}` is not a table", kind.table())))
    }

    fn entry(&mut self, kind: EntryKind, name: &str) -> Result<&mut dyn toml_edit::TableLike> {
        let name = self.resolve(kind, name)?;
        let path = self.path.clone();
        self.table(kind)?
            .get_mut(&name)
            .and_then(Item::as_table_like_mut)
            .ok_or_else(|| invalid(&path, &format!("`{}.{name}` is not a table", kind.table())))
    }
}

/// Locks the file beside the registry that stands for it.
fn lock(path: &Path, timeout: Duration) -> Result<File> {
    // Who comes by a link takes turns with who does not.
    let path = &through_links(path)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or(std::ffi::OsStr::new("registry.toml")));
    name.push(".lock");
    let lock_path = path.with_file_name(name);
    if let Some(folder) = lock_path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    }
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(io_error("open", &lock_path))?;
    let started = Instant::now();
    let mut untold = ON_WAIT.get();
    loop {
        if started.elapsed() > UNTOLD_WAIT
            && let Some(tell) = untold.take()
        {
            tell(path);
        }
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(io_error("lock", &lock_path)(e)),
            Err(TryLockError::WouldBlock) if started.elapsed() > timeout => {
                return Err(Error::Locked { path: path.to_owned() });
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn insert_adapter(entry: &mut dyn toml_edit::TableLike, adapter: &NewAdapter, registry: &Path) -> Result<()> {
    let (key, item) = match adapter {
        NewAdapter::Package(path) => ("adapter", Value::from(path_text(path, registry)?)),
        NewAdapter::Plugin { path, sha256 } => {
            let mut plugin = InlineTable::new();
            plugin.insert("path", path_text(path, registry)?.into());
            plugin.insert("sha256", sha256.into());
            ("plugin", plugin.into())
        }
    };
    entry.insert(key, Item::Value(item));
    Ok(())
}

fn model_items(file: &ModelFile) -> impl Iterator<Item = (&'static str, Value)> {
    let texts = file.source.to_texts();
    let source = match (&file.source, texts.as_slice()) {
        (ModelSource::Pip { .. }, [_, _, ..]) => Value::Array(strings(&texts)),
        _ => Value::from(file.source.to_string()),
    };
    // TOML integers are signed; no file is larger than they count.
    let bytes = file.bytes.and_then(|n| i64::try_from(n).ok());
    let files = (!file.files.is_empty()).then(|| file.files.iter().collect::<InlineTable>());
    [
        ("source", Some(source)),
        ("sha256", file.sha256.clone().map(Value::from)),
        ("bytes", bytes.map(Value::from)),
        ("files", files.map(Value::from)),
    ]
    .into_iter()
    .filter_map(|(key, item)| Some((key, item?)))
}

fn strings(texts: &[String]) -> Array {
    let mut array: Array = texts.iter().collect();
    if texts.len() > 1 {
        for item in array.iter_mut() {
            item.decor_mut().set_prefix("\n    ");
        }
        array.set_trailing_comma(true);
        array.set_trailing("\n");
    }
    array
}

/// The same file for a registry in any folder.
fn with_absolute_path(file: &ModelFile) -> Result<ModelFile> {
    let mut file = file.clone();
    if let ModelSource::File { path } = &mut file.source {
        *path = std::path::absolute(&*path).map_err(io_error("find", path))?;
    }
    Ok(file)
}

/// A path as text, with `/` between its parts on every system.
fn path_text(path: &Path, registry: &Path) -> Result<String> {
    let text = path
        .to_str()
        .ok_or_else(|| invalid(registry, &format!("the path `{}` is not Unicode", path.display())))?;
    Ok(if cfg!(windows) { text.replace('\\', "/") } else { text.to_owned() })
}

fn invalid(path: &Path, reason: &str) -> Error {
    Error::Invalid { path: path.to_owned(), what: WHAT, reason: reason.replace('\n', ", ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const TEXT: &str = "# top\nschema = 1 # one\ndefault_encoder = \"start\"\n\n\
        # zebra comes first, on purpose\n[decoders.zebra]\nsource = \"file:z\" # where z is\n\
        adapter = \"plugins/zebra\" # its adapter\n\n\
        [encoders.start]\npackage = \"encoders/start\"\n\n# aardvark\n[decoders.aardvark]\nsource = \"file:a\"\n\
        aliases = [\"aa\"]\n# the end\n";

    fn registry() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry.toml");
        std::fs::write(&path, TEXT).unwrap();
        (folder, path)
    }

    fn new_decoder(name: &str) -> NewDecoder {
        NewDecoder {
            name: name.into(),
            aliases: vec!["n1".into(), "n2".into()],
            architecture: Some("llama".into()),
            model: ModelFile {
                source: "pip:a==1#f/0 + pip:b==1#f/1".parse().unwrap(),
                sha256: Some("a".repeat(64)),
                bytes: Some(7),
                files: BTreeMap::new(),
            },
            tokenizer: Some(ModelFile {
                files: BTreeMap::from([("other.json".into(), "b".repeat(64))]),
                ..ModelFile::unpinned("hf:O/R@main#tokenizer.json".parse().unwrap())
            }),
            adapter: Some(NewAdapter::Package("plugins/new".into())),
        }
    }

    #[test]
    fn a_file_that_is_only_opened_and_saved_does_not_change() {
        let (_folder, path) = registry();
        RegistryEditor::open(&path).unwrap().save().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), TEXT);
    }

    #[test]
    fn adding_a_decoder_only_adds_lines_and_reads_back() {
        let (folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        editor.add_decoder(&new_decoder("new.model")).unwrap();
        let saved = editor.save().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        for old in TEXT.lines() {
            assert!(lines.any(|line| line == old), "`{old}` is lost or moved in:\n{text}");
        }
        let entry = saved.decoder("n2").unwrap();
        assert_eq!(entry.name, "new.model");
        assert_eq!(entry.model, new_decoder("x").model);
        assert_eq!(entry.tokenizer, new_decoder("x").tokenizer);
        assert_eq!(entry.adapter, Some(folder.path().join("plugins/new")));
        assert_eq!(Registry::open(&path).unwrap().decoder("n1").unwrap(), entry);
    }

    #[test]
    fn a_registry_that_is_not_there_is_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/registry.toml");
        let mut editor = RegistryEditor::open(&path).unwrap();
        editor.add_encoder("e", Path::new("encoders/e")).unwrap();
        editor.set_default_encoder("e").unwrap();
        editor.add_decoder(&new_decoder("d")).unwrap();
        editor.save().unwrap();
        let registry = Registry::open(&path).unwrap();
        assert_eq!(registry.default_encoder().unwrap().unwrap().name, "e");
        assert_eq!(registry.decoders().len(), 1);
    }

    #[test]
    fn taken_names_are_refused_and_nothing_changes() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        assert!(matches!(editor.add_decoder(&new_decoder("zebra")), Err(Error::NameTaken { .. })));
        assert!(matches!(editor.add_decoder(&new_decoder("aa")), Err(Error::NameTaken { .. })));
        assert!(matches!(
            editor.add_alias(EntryKind::Decoder, "zebra", "aardvark"),
            Err(Error::NameTaken { .. })
        ));
        let error = editor.add_encoder("start", Path::new("p")).unwrap_err();
        assert!(error.to_string().starts_with("`start` already names an encoder in"), "{error}");
        // What `remove` does to an alias takes away what has it, so that it is not hinted at.
        let hint = error.hint().unwrap().to_string();
        assert!(hint.contains("another name") && !hint.contains("remove"), "{hint}");
        let error = editor.add_alias(EntryKind::Decoder, "aardvark", "aa").unwrap_err();
        assert!(!error.hint().unwrap().to_string().contains("remove"), "{error}");
        assert_eq!(editor.text(), TEXT);
    }

    #[test]
    fn what_cannot_be_a_name_is_called_so_and_not_a_fault_of_the_file() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        for name in ["../z", "a b", ""] {
            let added = editor.add_alias(EntryKind::Decoder, "zebra", name);
            assert!(matches!(added, Err(Error::InvalidName { .. })), "{name}: {added:?}");
            assert!(matches!(editor.add_decoder(&new_decoder(name)), Err(Error::InvalidName { .. })));
        }
        let error = editor.add_encoder("a b", Path::new("p")).unwrap_err();
        assert_eq!(error.to_string(), "`a b` cannot be a name");
        assert!(error.hint().unwrap().to_string().contains("letters, digits"));
        assert_eq!(editor.text(), TEXT);
    }

    #[test]
    fn aliases_come_and_go() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        editor.add_alias(EntryKind::Decoder, "aa", "ant").unwrap();
        editor.add_alias(EntryKind::Decoder, "zebra", "zz").unwrap();
        editor.remove_alias(EntryKind::Decoder, "aa").unwrap();
        let error = editor.remove_alias(EntryKind::Decoder, "zebra").unwrap_err();
        assert_eq!(error.to_string(), "no alias is called `zebra`: that is a decoder");
        let registry = editor.save().unwrap();
        assert_eq!(registry.decoder("ant").unwrap().name, "aardvark");
        assert_eq!(registry.decoder("zz").unwrap().name, "zebra");
        assert!(registry.decoder("aa").is_err());
        let mut editor = RegistryEditor::open(&path).unwrap();
        assert_eq!(editor.text().matches("aliases").count(), 2, "{}", editor.text());
        editor.remove_alias(EntryKind::Decoder, "ant").unwrap();
        editor.remove_alias(EntryKind::Decoder, "zz").unwrap();
        // The last one takes the key with it.
        assert!(!editor.text().contains("aliases"), "{}", editor.text());
        assert!(editor.text().contains("# where z is") && editor.text().ends_with("# the end\n"));
    }

    #[test]
    fn a_plugin_takes_the_place_of_a_package() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        let plugin = NewAdapter::Plugin { path: "p/libz.so".into(), sha256: "b".repeat(64) };
        editor.set_adapter("zebra", &plugin).unwrap();
        let registry = editor.save().unwrap();
        let zebra = registry.decoder("zebra").unwrap();
        assert!(zebra.adapter.is_none());
        assert_eq!(zebra.plugin.as_ref().unwrap().sha256, "b".repeat(64));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("# where z is"));
    }

    #[test]
    fn a_pin_goes_with_the_adapter_that_it_pins() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        let pins =
            |editor: &RegistryEditor| editor.registry().unwrap().decoder("zebra").unwrap().package_pins.len();
        editor.pin_adapter("zebra", &"a".repeat(64)).unwrap();
        assert_eq!(pins(&editor), 1);
        editor.set_adapter("zebra", &NewAdapter::Package("other".into())).unwrap();
        assert_eq!(pins(&editor), 0);
        editor.pin_adapter("zebra", &"a".repeat(64)).unwrap();
        editor.remove_adapter("zebra").unwrap();
        assert_eq!(pins(&editor), 0);
    }

    #[test]
    fn who_waits_too_long_for_another_writer_is_told_so() {
        let (_folder, path) = registry();
        let editor = RegistryEditor::open(&path).unwrap();
        let error = RegistryEditor::open_within(&path, Duration::from_millis(30)).unwrap_err();
        assert!(matches!(&error, Error::Locked { path: locked } if *locked == path), "{error}");
        assert_eq!(error.to_string(), format!("`{}` is locked by another process", path.display()));
        assert!(error.hint().unwrap().to_string().starts_with("wait for the other `arc` command"));
        drop(editor);
        RegistryEditor::open_within(&path, Duration::ZERO).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_registry_that_is_a_link_stays_one_and_is_locked_as_one() {
        let (folder, path) = registry();
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink("registry.toml", &link).unwrap();
        let mut editor = RegistryEditor::open(&link).unwrap();
        assert!(matches!(RegistryEditor::open_within(&path, Duration::ZERO), Err(Error::Locked { .. })));
        editor.add_alias(EntryKind::Decoder, "zebra", "zz").unwrap();
        editor.save().unwrap();
        assert!(link.is_symlink());
        assert_eq!(Registry::open(&path).unwrap().decoder("zz").unwrap().name, "zebra");
        std::fs::remove_file(&path).unwrap();
        assert!(RegistryEditor::open(&link).is_err(), "a link to nothing is not written over");
        assert!(link.is_symlink());
    }

    #[test]
    fn an_adapter_can_be_taken_away_alone() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        editor.set_adapter("zebra", &NewAdapter::Package("p".into())).unwrap();
        editor.remove_adapter("zebra").unwrap();
        assert!(matches!(editor.remove_adapter("zebra"), Err(Error::NoAdapter { .. })));
        assert_eq!(editor.save().unwrap().decoder("zebra").unwrap().adapter, None);
    }

    #[test]
    fn an_entry_of_another_file_is_copied_whole_but_for_names_and_adapter() {
        let (_folder, path) = registry();
        let text = "schema = 1\n[decoders.far]\naliases = ['f']\nsource = 'file:m.gguf'\nencoder = 'e'\n\
                    licence = 'MIT'\nadapter = 'a'\ntokenizer = { source = 'file:t.json' }\n\
                    options = { factor = 8, stop = ['\\n'], answer_ends = 'line', prompt_template = '{{ document }}' }\n\
                    shape = { n_layers = 2, d_model = 8, n_heads = 2, n_kv_heads = 1, d_head = 4, d_ff = 16, \
                    vocab_size = 10, norm_eps = 1e-5, rope_theta = 1e4 }\n";
        let other = Registry::parse(text, Path::new("/far/registry.toml")).unwrap();
        let far = other.decoder("f").unwrap();
        let mut editor = RegistryEditor::open(&path).unwrap();
        editor.copy_decoder("near", far).unwrap();
        let registry = editor.save().unwrap();
        let near = registry.decoder("near").unwrap();
        assert_eq!((&near.model, &near.tokenizer), (&far.model, &far.tokenizer));
        assert_eq!((&near.encoder, &near.licence, &near.options), (&far.encoder, &far.licence, &far.options));
        assert!(near.shape.is_some() && near.shape == far.shape);
        assert_eq!((near.aliases.len(), &near.adapter), (0, &None));
    }

    #[test]
    fn a_plugin_folder_is_listed_once_and_nothing_is_allowed_by_it() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        let plugin = NewAdapter::Plugin { path: "p/libz.so".into(), sha256: "b".repeat(64) };
        editor.set_adapter("zebra", &plugin).unwrap();
        editor.list_plugin_folder(Path::new("p")).unwrap();
        editor.list_plugin_folder(Path::new("p")).unwrap();
        let registry = editor.save().unwrap();
        let plugin = registry.decoder("zebra").unwrap().plugin.clone().unwrap();
        assert_eq!(plugin.folders, [path.with_file_name("p")]);
        assert!(!plugin.allowed);
    }

    #[test]
    fn a_decoder_has_adapters_for_several_encoders_and_the_first_is_the_usual_one() {
        let (folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        for encoder in ["one", "two", "three"] {
            editor.add_encoder(encoder, Path::new(encoder)).unwrap();
        }
        let encoders = editor.registry().unwrap();
        for encoder in ["one", "two"] {
            let package = format!("plugins/{encoder}/x");
            let encoder = encoders.encoder(encoder).unwrap();
            editor.add_adapter("aa", encoder, Path::new(&package), None).unwrap();
            editor.add_adapter("zebra", encoder, Path::new(&package), Some(&"a".repeat(64))).unwrap();
        }
        let one = encoders.encoder("one").unwrap();
        assert!(editor.add_adapter("nobody", one, Path::new("x"), None).is_err());
        let registry = editor.save().unwrap();
        let path = |decoder: &str, encoder: Option<&str>| {
            registry.resolve(decoder, encoder).unwrap().adapter().unwrap().path().to_owned()
        };
        let at = |path: &str| folder.path().join(path);
        let aardvark = registry.decoder("aardvark").unwrap();
        assert_eq!(path("aardvark", None), at("plugins/one/x"));
        assert_eq!(aardvark.encoder.as_deref(), Some("one"));
        assert_eq!(path("aardvark", Some("two")), at("plugins/two/x"));
        assert_eq!(path("zebra", None), at("plugins/zebra"), "what it had stays the usual one");
        assert_eq!(path("zebra", Some("one")), at("plugins/one/x"));
        assert_eq!(path("zebra", Some("three")), at("plugins/zebra"));
        assert_eq!(registry.decoder("zebra").unwrap().package_pins.len(), 2);
        assert!(aardvark.package_pins.is_empty());
    }

    #[test]
    fn an_adapter_takes_the_place_of_the_one_that_stands_under_an_alias() {
        let (folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        editor.add_alias(EntryKind::Encoder, "start", "begin").unwrap();
        editor.document["decoders"]["zebra"]["adapters"] =
            value(InlineTable::from_iter([("begin", "plugins/old")]));
        let encoders = editor.registry().unwrap();
        let start = encoders.encoder("start").unwrap();
        for sha256 in ["a".repeat(64), "b".repeat(64)] {
            // The first by the alias that stands there, the second by the name that stood then.
            editor.set_package("zebra", Some(start), Path::new("plugins/new"), &sha256).unwrap();
        }
        let registry = editor.save().unwrap();
        let pair = registry.resolve("zebra", None).unwrap();
        assert_eq!(pair.adapter().unwrap().path(), folder.path().join("plugins/new"));
        assert_eq!(registry.decoder("zebra").unwrap().adapters.len(), 1);
        assert_eq!(
            registry.decoder("zebra").unwrap().usual_adapter().unwrap().path().file_name().unwrap(),
            "zebra"
        );
    }

    #[test]
    fn the_default_encoder_goes_with_its_entry_by_whatever_name_it_stands_there() {
        let (_folder, path) = registry();
        std::fs::write(&path, TEXT.replace("\"start\"\n\n# zebra", "\"begin\"\n\n# zebra")).unwrap();
        let mut editor = RegistryEditor::open(&path).unwrap();
        editor.add_alias(EntryKind::Encoder, "start", "begin").unwrap();
        editor.remove(EntryKind::Encoder, "start").unwrap();
        assert!(!editor.save().unwrap().names_a_default_encoder());
    }

    #[test]
    fn the_default_decoder_is_one_of_the_file_and_goes_with_it() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        assert!(editor.set_default_decoder("none").is_err());
        editor.add_alias(EntryKind::Decoder, "zebra", "stripes").unwrap();
        editor.set_default_decoder("stripes").unwrap();
        let registry = editor.save().unwrap();
        assert_eq!(registry.default_decoder().unwrap().unwrap().name, "zebra");
        let mut later =
            Registry::parse("schema = 1\ndefault_decoder = 'none'", Path::new("later.toml")).unwrap();
        let unknown = later.default_decoder().unwrap_err().to_string();
        assert!(
            unknown.starts_with("`default_decoder` in `later.toml`: no decoder is called `none`"),
            "{unknown}"
        );
        later.overlay(registry);
        assert_eq!(later.default_decoder().unwrap().unwrap().name, "zebra");

        let mut editor = RegistryEditor::open(&path).unwrap();
        assert!(!editor.remove(EntryKind::Decoder, "aardvark").unwrap());
        assert!(editor.remove(EntryKind::Decoder, "zebra").unwrap());
        assert_eq!(editor.save().unwrap().default_decoder().unwrap(), None);
    }

    #[test]
    fn removing_an_entry_leaves_the_others_with_their_comments() {
        let (_folder, path) = registry();
        let mut editor = RegistryEditor::open(&path).unwrap();
        editor.remove(EntryKind::Decoder, "zebra").unwrap();
        editor.remove(EntryKind::Encoder, "start").unwrap();
        let registry = editor.save().unwrap();
        assert!(registry.decoder("zebra").is_err());
        assert_eq!(registry.default_encoder().unwrap(), None);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("# top") && text.contains("# aardvark\n[decoders.aardvark]"), "{text}");
    }

    #[test]
    fn writers_take_turns_so_that_no_change_is_lost() {
        let (_folder, path) = registry();
        std::thread::scope(|scope| {
            for i in 0..8 {
                let path = &path;
                scope.spawn(move || {
                    let mut editor = RegistryEditor::open(path).unwrap();
                    editor.add_alias(EntryKind::Decoder, "zebra", &format!("z{i}")).unwrap();
                    editor.save().unwrap();
                });
            }
        });
        let registry = Registry::open(&path).unwrap();
        assert_eq!(registry.decoder("zebra").unwrap().aliases.len(), 8);
    }
}
