//! `arc adapters add`: an adapter from a folder, an archive, a web address or a plugin, an encoder
//! package, or a decoder alone, enters the registry.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use arc_adapters::{
    Adapter, AdapterManifest, AdapterPlace, Check, DecoderEntry, ENCODER_FILE, EncoderEntry, EncoderManifest,
    MANIFEST_FILE, ModelFile, ModelSource, NewAdapter, NewDecoder, Outcome, PluginEntry, Registry,
    RegistryEditor, Remedy, StagedArchive, Staging, archive_manifest, finishing, is_name, sha256_file,
};
use arc_core::Error;
use serde_json::{Value, json};

use super::models::Models;
use super::shown;
use super::subject::{Subject, policy_for};
use super::verify::{PINS, template_fault};
use crate::args::Global;
use crate::args::adapters::Add;
use crate::commands::pulling::consent;
use crate::commands::session::plugin_policy;
use crate::commands::target::{folder_of, path_for, registry_now, sweep_left, target_file};
use crate::output::{Output, TransferBar};
use crate::{Failure, hints};

pub(super) fn run(global: &Global, add: &Add, output: &Output) -> Result<(), Failure> {
    let file = target_file(global, &add.target)?;
    let registry = registry_now(global)?;
    let Some(text) = &add.adapter else {
        return add_decoder(add, &file, output);
    };
    if is_address(text) {
        // Where what it holds will be, so that whatever a killed command leaves is swept.
        let folder = Staging::within(&folder_of_adapters(add, &file))?;
        let archive = folder.new_folder().join("adapter.arc.tar.zst");
        let bar = TransferBar::new(text);
        arc_core::hub::download(text, add.sha256.as_deref(), &archive, &bar, consent(global.yes))?;
        return add_archive(global, add, &archive, text, &file, &registry, output);
    }
    let path = Path::new(text);
    match Subject::at(path) {
        Subject::Archive(path) => add_archive(global, add, &path, text, &file, &registry, output),
        Subject::Plugin(path) => add_plugin(global, add, &path, &file, &registry, output),
        _ if path.join(ENCODER_FILE).is_file() => add_encoder(add, path, &file, output),
        _ => {
            refuse_pin(add)?;
            let adapter = Adapter::open(path)?;
            let package = Found::package(&file, path)?;
            let added = register(global, add, &file, &registry, &adapter.manifest, &package, || Ok(()))?;
            report(&added, &file, path, None, output)
        }
    }
}

/// Where adapters are unpacked to.
fn folder_of_adapters(add: &Add, file: &Path) -> PathBuf {
    add.into.clone().unwrap_or_else(|| file.with_file_name("plugins"))
}

fn is_address(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// A folder has no sha256 of its own; its manifest pins its weights.
fn refuse_pin(add: &Add) -> Result<(), Failure> {
    match add.sha256 {
        Some(_) => Err(Failure::usage(
            "`--sha256` is of an archive or a plugin, and this is a folder",
            "leave it out: the manifest has the sha256 of the weights",
        )),
        None => Ok(()),
    }
}

fn add_decoder(add: &Add, file: &Path, output: &Output) -> Result<(), Failure> {
    let name = add.name.clone().unwrap_or_default();
    let mut editor = RegistryEditor::open(file)?;
    editor.add_decoder(&new_decoder(add, file, &name, None)?)?;
    editor.save()?;
    output.line(format!("added decoder `{name}` to {}", shown(file)))?;
    output.json(&json!({ "registry": file.to_string_lossy(), "decoder": name, "adapter": null }))
}

fn add_encoder(add: &Add, folder: &Path, file: &Path, output: &Output) -> Result<(), Failure> {
    refuse_pin(add)?;
    let manifest = EncoderManifest::open(folder)?;
    let name = add.name.as_ref().unwrap_or(&manifest.name);
    let mut editor = RegistryEditor::open(file)?;
    editor.add_encoder(name, &path_in(file, folder)?)?;
    let is_first = !editor.registry()?.names_a_default_encoder();
    if is_first {
        editor.set_default_encoder(name)?;
    }
    editor.save()?;
    let role = if is_first { ", as the default" } else { "" };
    output.line(format!("added encoder `{name}` to {}{role}", shown(file)))?;
    output.json(&json!({ "registry": file.to_string_lossy(), "encoder": name, "package": folder.to_string_lossy(), "default": is_first }))
}

fn add_archive(
    global: &Global,
    add: &Add,
    archive: &Path,
    origin: &str,
    file: &Path,
    registry: &Registry,
    output: &Output,
) -> Result<(), Failure> {
    let plugins = folder_of_adapters(add, file);
    sweep_left(file);
    let manifest = archive_manifest(archive, Path::new(origin))?;
    // Two decoders may have the same adapter, each in a folder of its own.
    let name = add.name.as_ref().unwrap_or(&manifest.name);
    if !is_name(name) {
        return Err(arc_adapters::Error::InvalidName { name: name.clone() }.into());
    }
    let folder = plugins.join(name);
    let staged = StagedArchive::unpack(archive, &plugins, add.sha256.as_deref())?;
    // What a command that was killed published and did not register is what would be published now.
    let adopts = !is_named(registry, &folder) && staged.is_in(&folder);
    let takes_the_place = folder.exists() && !adopts;
    if takes_the_place {
        if !add.replace {
            // It may be anybody's, so that nobody is told to remove it.
            let error = arc_adapters::Error::Exists { path: folder };
            return Err(Failure::failed(error.to_string(), ANOTHER_FOLDER));
        }
        check_is_package(&folder)?;
    }
    let path = path_in(file, &plugins)?.join(name);
    let package = Found::Package { path, sha256: staged.manifest_sha256().to_owned() };
    let is_published = Cell::new(false);
    // From here on to the registry's new text, or to what was there before.
    let finishes = RefCell::new(None);
    let publish = || {
        finishes.replace(Some(finishing()));
        if takes_the_place {
            staged.put_aside(&folder)?;
        }
        if !adopts {
            is_published.set(true);
            staged.publish(&folder)?;
        }
        Ok(())
    };
    match register(global, add, file, registry, staged.manifest(), &package, publish) {
        Ok(added) => report(&added, file, &folder, Some(staged.sha256().to_owned()), output),
        Err(failure) => {
            if is_published.get() && takes_the_place {
                staged.put_back(&folder)?;
            } else if is_published.get() {
                // It was made a moment ago by this command, and nothing names it.
                let _ = std::fs::remove_dir_all(&folder);
            }
            Err(failure)
        }
    }
}

/// Whether an entry has its adapter in a folder.
fn is_named(registry: &Registry, folder: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else { return false };
    registry.decoders().flat_map(DecoderEntry::adapter_places).any(|place| match place {
        AdapterPlace::Package { folder: its, .. } => its.canonicalize().is_ok_and(|its| its == folder),
        _ => false,
    })
}

const ANOTHER_FOLDER: &str =
    "unpack it into another folder with `--into DIR`, or add it as another decoder with `--name NAME`";

/// Refuses to replace a folder that holds something else than an adapter package.
fn check_is_package(folder: &Path) -> Result<(), Failure> {
    // A package is files alone: a folder of that name may be anything, such as the crate of a plugin.
    let has_folders = folder
        .read_dir()
        .map_err(Error::io("read", folder))?
        .any(|entry| entry.is_ok_and(|entry| entry.path().is_dir()));
    if has_folders || !folder.join(MANIFEST_FILE).is_file() {
        return Err(Failure::failed(
            format!("`{}` holds something else than an adapter package", folder.display()),
            ANOTHER_FOLDER,
        ));
    }
    Ok(())
}

fn add_plugin(
    global: &Global,
    add: &Add,
    path: &Path,
    file: &Path,
    registry: &Registry,
    output: &Output,
) -> Result<(), Failure> {
    let found = sha256_file(path)?;
    let sha256 = add.sha256.clone().unwrap_or(found);
    // Its manifest is what its code says, so that adding a plugin runs it.
    let entry = PluginEntry::new(path.to_owned(), sha256.clone());
    let adapter = Adapter::load_plugin(&entry, &policy_for(path, &plugin_policy(global)?))?;
    let plugin = Found::Plugin { path: path_in(file, path)?, sha256: sha256.clone() };
    let added = register(global, add, file, registry, &adapter.manifest, &plugin, || Ok(()))?;
    report(&added, file, path, Some(sha256), output)
}

/// An adapter that was found, by the path that the registry is to have.
enum Found {
    /// A package, with the sha256 of its manifest.
    Package { path: PathBuf, sha256: String },
    /// A code plugin, with the sha256 of the library.
    Plugin { path: PathBuf, sha256: String },
}

impl Found {
    fn package(file: &Path, folder: &Path) -> Result<Self, Failure> {
        let sha256 = sha256_file(&folder.join(MANIFEST_FILE))?;
        Ok(Self::Package { path: path_in(file, folder)?, sha256 })
    }
}

/// What was written.
struct Added {
    decoder: String,
    adapter: String,
    kind: &'static str,
    /// What will not work, and is no reason not to add it.
    warnings: Vec<String>,
}

/// Writes the adapter into the entry of its decoder, which is made where the file has none. `publish` puts
/// the package where the entry says that it is, a moment before.
fn register(
    global: &Global,
    add: &Add,
    file: &Path,
    registry: &Registry,
    manifest: &AdapterManifest,
    adapter: &Found,
    publish: impl FnOnce() -> Result<(), Failure>,
) -> Result<Added, Failure> {
    let encoder = add.for_encoder.as_deref().map(|name| registry.encoder(name)).transpose()?;
    // What reads a model or runs a stranger's template comes before the lock, which keeps others waiting.
    let entry = entry_of(add, file, registry, manifest, &mut RegistryEditor::draft(file)?)?;
    let own = own_encoder(registry, &entry);
    check_not_taken(add, file, &entry, encoder, own)?;
    let remarks = check(global, registry, &entry, encoder.map(|encoder| encoder.name.as_str()), manifest)?;

    let mut editor = RegistryEditor::open(file)?;
    let entry = entry_of(add, file, registry, manifest, &mut editor)?;
    check_not_taken(add, file, &entry, encoder, own)?;
    let kind = match adapter {
        Found::Package { path, sha256 } => {
            if let Some(encoder) = encoder {
                editor.add_adapter(&entry.name, encoder, path, Some(sha256))?;
            } else {
                editor.set_package(&entry.name, own, path, sha256)?;
            }
            "package"
        }
        Found::Plugin { path, sha256 } => {
            if encoder.is_some() {
                return Err(Failure::usage(
                    "a code plugin is a decoder's usual adapter, and `--for-encoder` adds another",
                    "add it as another decoder with `--name`",
                ));
            }
            if let Some(own) = own.filter(|own| entry.names_adapter_for(own)) {
                return Err(Failure::failed(
                    format!(
                        "decoder `{}` names a package for encoder `{}`, which goes before a plugin",
                        entry.name, own.name
                    ),
                    format!(
                        "take it out of `adapters` in `{}`, or add the plugin with `--name`",
                        file.display()
                    ),
                ));
            }
            let plugin = NewAdapter::Plugin { path: path.clone(), sha256: sha256.clone() };
            editor.set_adapter(&entry.name, &plugin)?;
            editor.list_plugin_folder(folder_of(path))?;
            "plugin"
        }
    };
    publish()?;
    editor.save()?;
    Ok(Added {
        warnings: warnings(global, &entry.name, &remarks)?,
        decoder: entry.name,
        adapter: manifest.name.clone(),
        kind,
    })
}

/// The entry that an adapter is written into, which is made where the file has none.
fn entry_of(
    add: &Add,
    file: &Path,
    registry: &Registry,
    manifest: &AdapterManifest,
    editor: &mut RegistryEditor,
) -> Result<DecoderEntry, Failure> {
    let made_for = &manifest.decoder.name;
    let name = add.name.as_ref().unwrap_or(made_for);
    let here = editor.registry()?;
    Ok(if !add.source.is_empty() {
        editor.add_decoder(&new_decoder(add, file, name, Some(&manifest.decoder.architecture))?)?;
        editor.registry()?.decoder(name)?.clone()
    } else if let Ok(entry) = here.decoder(name) {
        entry.clone()
    } else {
        let known = registry.decoder(name).or_else(|_| registry.decoder(made_for)).map_err(|_| {
            Failure::failed(
                format!("no registry has decoder `{made_for}`, which `{}` was made for", manifest.name),
                match add.name {
                    Some(_) => "say where its model comes from with `--source`",
                    None => "say where its model comes from with `--source`, or who it is here with `--name`",
                },
            )
        })?;
        // An alias given as the name means the decoder that it is an alias of.
        let name = if registry.decoder(name).is_ok() { &known.name } else { name };
        editor.copy_decoder(name, known)?;
        editor.registry()?.decoder(name)?.clone()
    })
}

/// The encoder that a decoder is used with where no encoder is named; where it resolves to nothing yet,
/// `verify` says so afterwards.
fn own_encoder<'r>(registry: &'r Registry, entry: &DecoderEntry) -> Option<&'r EncoderEntry> {
    registry.resolve(&entry.name, None).ok().and_then(|pair| pair.encoder)
}

fn check_not_taken(
    add: &Add,
    file: &Path,
    entry: &DecoderEntry,
    encoder: Option<&EncoderEntry>,
    own: Option<&EncoderEntry>,
) -> Result<(), Failure> {
    let (taken, what) = match encoder {
        Some(encoder) => {
            (entry.names_adapter_for(encoder), format!("an adapter for encoder `{}`", encoder.name))
        }
        None => {
            let named_for_own = own.is_some_and(|own| entry.names_adapter_for(own));
            (named_for_own || entry.usual_adapter().is_some(), "an adapter".to_owned())
        }
    };
    if taken && !add.replace {
        return Err(Failure::failed(
            format!("decoder `{}` has {what} already in `{}`", entry.name, file.display()),
            "put this one in its place with `--replace`, or add it as another decoder with `--name`",
        ));
    }
    Ok(())
}

/// Refuses an adapter that could not be used, before anything is written. Gives what is to be remarked
/// on: what `--force` lets pass, and what is not known here.
fn check(
    global: &Global,
    registry: &Registry,
    entry: &DecoderEntry,
    encoder: Option<&str>,
    manifest: &AdapterManifest,
) -> Result<Vec<Check>, Failure> {
    let template = arc_adapters::check_template(manifest, &template_fault);
    // Nothing can be asked with a template that is broken.
    refuse([&template])?;
    let mut checks = arc_adapters::check_fit(registry, entry, encoder, manifest);
    if !global.force {
        refuse(&checks)?;
    }
    // The model knows the rest, where it is here. One that cannot be read is not the adapter's fault.
    if let Ok(model) = &*Models::default().of(entry)? {
        checks.extend(model.checks(manifest).into_iter().map(of_another_decoder));
        if !global.force {
            refuse(&checks)?;
        }
    }
    checks.retain(|check| check.outcome != Outcome::Passed);
    Ok(checks)
}

/// A pin that does not hold speaks of another decoder, which the adapter can be added to.
fn of_another_decoder(mut check: Check) -> Check {
    if let (PINS, Outcome::Failed { hint, .. }) = (check.what.as_str(), &mut check.outcome) {
        *hint = Some("add it to the decoder that it was made for".into());
        check.remedy = Some(Remedy::OtherDecoder);
    }
    check
}

/// Fails with the first check that failed.
fn refuse<'a>(checks: impl IntoIterator<Item = &'a Check>) -> Result<(), Failure> {
    for check in checks {
        if let Outcome::Failed { message, .. } = &check.outcome {
            return Err(Failure::failed(message, hints::of_refused(check)));
        }
    }
    Ok(())
}

/// What of the finished entry fails, as far as that can be told without its model, after what
/// was remarked on already.
fn warnings(global: &Global, decoder: &str, remarks: &[Check]) -> Result<Vec<String>, Failure> {
    let (registry, policy) = (registry_now(global)?, plugin_policy(global)?);
    let checks = arc_adapters::verify(&registry, decoder, &policy, None, &template_fault).unwrap_or_default();
    let message = |check: &Check| match &check.outcome {
        Outcome::Failed { message, .. } => Some(message.clone()),
        _ => None,
    };
    let is_new = |check: &Check| {
        !remarks.iter().any(|said| said.what == check.what || message(said) == message(check))
    };
    let remarks = remarks.iter().filter_map(|check| match &check.outcome {
        Outcome::Failed { message, .. } => Some(format!("{message}; added all the same")),
        Outcome::Skipped { reason, hint, .. } => Some(match hint {
            Some(hint) => format!("{reason}; {}", hints::of_adapter(hint)),
            None => reason.clone(),
        }),
        Outcome::Passed => None,
    });
    let faults = checks.iter().filter(|check| is_new(check)).filter_map(|check| match &check.outcome {
        Outcome::Failed { message, hint: Some(hint), .. } => {
            Some(format!("{message}; {}", hints::of_adapter(hint)))
        }
        _ => message(check),
    });
    Ok(remarks.chain(faults).collect())
}

fn new_decoder(
    add: &Add,
    file: &Path,
    name: &str,
    architecture: Option<&str>,
) -> Result<NewDecoder, Failure> {
    // Written as the registry's folder sees it.
    let seen = |source: &ModelSource| {
        Ok::<_, Failure>(match source {
            ModelSource::File { path } => ModelSource::File { path: path_in(file, path)? },
            other => other.clone(),
        })
    };
    let source = match add.source.as_slice() {
        [one] => seen(one)?,
        several => {
            let texts: Vec<_> = several.iter().flat_map(ModelSource::to_texts).collect();
            ModelSource::from_texts(&texts)?
        }
    };
    let model = ModelFile::unpinned(source).sha256(add.model_sha256.clone()).bytes(add.model_bytes);
    let tokenizer = add.tokenizer.as_ref().map(|source| seen(source).map(ModelFile::unpinned)).transpose()?;
    let decoder = NewDecoder::new(name, model).aliases(add.alias.clone()).tokenizer(tokenizer);
    Ok(decoder.architecture(architecture.map(str::to_owned)))
}

/// As [`path_for`], for a registry file whose folder may not be there yet.
fn path_in(file: &Path, path: &Path) -> Result<PathBuf, Failure> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    path_for(file, path)
}

fn report(
    added: &Added,
    file: &Path,
    path: &Path,
    sha256: Option<String>,
    output: &Output,
) -> Result<(), Failure> {
    output.line(format!(
        "added {} `{}` to decoder `{}` in {}",
        added.kind,
        added.adapter,
        added.decoder,
        shown(file)
    ))?;
    for warning in &added.warnings {
        output.warning(warning);
    }
    output.json(&json!({
        "registry": file.to_string_lossy(),
        "decoder": added.decoder,
        "adapter": added.adapter,
        "kind": added.kind,
        "path": path.to_string_lossy(),
        "sha256": sha256.map_or(Value::Null, Value::from),
        "warnings": added.warnings,
    }))
}
