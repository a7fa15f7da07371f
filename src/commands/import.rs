//! `arc import`: a checkpoint of the public ARC-Encoder code becomes packages of a registry.

use std::path::{Path, PathBuf};

use arc_adapters::{
    DecoderEntry, DecoderPin, EncoderManifest, EncoderWeights, ModelFile, ModelSource, NAME_FORM,
    REGISTRY_FILE, Registry, RegistryEditor, is_name,
};
use arc_core::hub::Cache;
use arc_core::import::{ImportOptions, ImportedDecoder, encoder_names, import};
use arc_core::weights::{ArcCheckpoint, TrainingSources};
use serde_json::json;

use super::destination::check_folder;
use super::pulling::locate;
use super::registries::registry;
use super::target::{folder_of, target_file};
use crate::Failure;
use crate::args::{self, Global};
use crate::output::Output;

/// The paper's question form, where neither the registry nor the user says otherwise.
const TEMPLATE: &str = "Document: {{ document }}\nQuestion: {{ question }}\nAnswer:";

pub(crate) fn run(global: &Global, args: &args::Import, output: &Output) -> Result<(), Failure> {
    let registry = registry(global).unwrap_or_default();
    let registry_path = match &args.output {
        Some(folder) => folder.join(REGISTRY_FILE),
        None => target_file(global, &args.target)?,
    };
    let project = folder_of(&registry_path).to_owned();
    check_folder(&project)?;
    if !is_name(&args.name) {
        return Err(Failure::usage(
            format!("`{}` cannot be a name", args.name),
            format!("choose one of {NAME_FORM} for `--name`"),
        ));
    }
    let described = described(&registry, &args.name)?;
    let source = match (&args.source, &described) {
        (Some(folder), _) => folder.clone(),
        (None, Some(EncoderManifest { weights: EncoderWeights::Published { source }, .. })) => {
            fetch(source, &args.name, global.yes)?
        }
        (None, _) => {
            return Err(Failure::usage(
                format!(
                    "no checkpoint is named, and `{}` is no published encoder of the registry",
                    args.name
                ),
                "give the folder of a checkpoint",
            ));
        }
    };
    let sources =
        TrainingSources::default().backbone(args.backbone.clone()).frozen_encoder(args.encoder_from.clone());
    let checkpoint = ArcCheckpoint::open(&source, &sources)?;

    let names = if args.decoder_names.is_empty() {
        described.as_ref().map(published_decoders).unwrap_or_default()
    } else {
        args.decoder_names.clone()
    };
    if names.is_empty() {
        return Err(Failure::usage(
            format!("`{}` has {} decoders, which it does not name", source.display(), checkpoint.decoders()),
            "name them in its order, with `--decoder-names a,b`",
        ));
    }
    let mut entries = Vec::new();
    for name in &names {
        entries.push(registry.decoder(name)?);
    }
    let template = args.template.as_ref().map(arc_core::document::PlainText::read).transpose()?;
    let template = template.map(|document| document.text);
    if let Some(template) = &template {
        arc_core::prompt::PromptTemplate::parse(template)?;
    }
    let decoders = entries
        .iter()
        .map(|entry| imported_decoder(&registry, entry, &args.name, template.as_deref(), output))
        .collect::<Result<Vec<_>, _>>()?;
    let beside = Some(source.join("tokenizer.json")).filter(|path| path.is_file());
    let tokenizer = match (args.tokenizer.clone().or(beside), &described) {
        (None, Some(manifest)) if args.source.is_none() => published_tokenizer(manifest, global.yes, output)?,
        (found, _) => found,
    };
    let options =
        ImportOptions::new(&args.name, decoders).tokenizer(tokenizer).chunk_tokens(args.chunk_tokens);

    // What the packages are to be called is settled before anything is written.
    let encoder_folder = |name: &str| Path::new("encoders").join(name);
    let adapter_folder = |decoder: &str| Path::new("plugins").join(&args.name).join(decoder);
    let mut editor = RegistryEditor::open(&registry_path)?;
    let encoders = encoder_names(&checkpoint, &options);
    for name in &encoders {
        match editor.registry()?.encoder(name) {
            Ok(entry) if entry.package == project.join(encoder_folder(name)) => {}
            Ok(_) => {
                return Err(arc_adapters::Error::NameTaken {
                    kind: "encoder",
                    name: name.clone(),
                    path: registry_path,
                }
                .into());
            }
            Err(_) => editor.add_encoder(name, &encoder_folder(name))?,
        }
    }
    for (index, entry) in entries.iter().enumerate() {
        editor.adopt_decoder(entry)?;
        // One for all decoders, or one for each.
        let Some(encoder) = encoders.get(index).filter(|_| encoders.len() > 1).or(encoders.first()) else {
            continue;
        };
        let here = editor.registry()?;
        editor.add_adapter(&entry.name, here.encoder(encoder)?, &adapter_folder(&entry.name), None)?;
    }

    let imported = import(
        &checkpoint,
        &options,
        |name| project.join(encoder_folder(name)),
        |decoder| project.join(adapter_folder(decoder)),
    )?;
    editor.save()?;

    if options.tokenizer.is_none() {
        output
            .remark("no tokenizer was found or given: import again with `--tokenizer FILE` to compress text");
    }
    if encoders.len() > 1 {
        output.remark("each decoder has memory vectors of its own: there is an encoder for each");
    }
    for encoder in &imported.encoders {
        let folder = project.join(encoder_folder(&encoder.name));
        output.line(format!("encoder `{}`: {}", encoder.name, folder.display()))?;
    }
    for adapter in &imported.adapters {
        let folder = project.join(adapter_folder(&adapter.decoder.name));
        output.line(format!("adapter for `{}`: {}", adapter.decoder.name, folder.display()))?;
    }
    output.json(&json!({
        "encoders": imported.encoders.iter().map(|encoder| json!({
            "name": encoder.name,
            "encoder_id": encoder.encoder_id,
            "folder": project.join(encoder_folder(&encoder.name)).to_string_lossy(),
        })).collect::<Vec<_>>(),
        "adapters": imported.adapters.iter().map(|adapter| json!({
            "decoder": adapter.decoder.name,
            "encoder": adapter.encoder.name,
            "folder": project.join(adapter_folder(&adapter.decoder.name)).to_string_lossy(),
            "weights_sha256": adapter.weights.sha256,
        })).collect::<Vec<_>>(),
        "registry": registry_path.to_string_lossy(),
    }))
}

/// The manifest of the encoder of this name, if the registry has one.
fn described(registry: &Registry, name: &str) -> Result<Option<EncoderManifest>, Failure> {
    match registry.encoder(name) {
        Ok(entry) => Ok(Some(EncoderManifest::open(&entry.package)?)),
        Err(_) => Ok(None),
    }
}

/// The decoders that a published encoder's description names, in its checkpoint's order.
fn published_decoders(manifest: &EncoderManifest) -> Vec<String> {
    let names = manifest.provenance.pointer("/checkpoint/decoders").and_then(serde_json::Value::as_array);
    names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// Pulls the tokenizer that a published encoder's description names. Its makers may ask for a token,
/// so that an import goes on without it.
fn published_tokenizer(
    manifest: &EncoderManifest,
    yes: bool,
    output: &Output,
) -> Result<Option<PathBuf>, Failure> {
    let Some(source) = manifest.provenance.get("tokenizer").and_then(serde_json::Value::as_str) else {
        return Ok(None);
    };
    let model = ModelFile::unpinned(source.parse()?);
    match locate(&model, &manifest.name, yes) {
        Ok(path) => Ok(Some(path)),
        Err(error) => {
            output.remark(format!("{error}"));
            Ok(None)
        }
    }
}

/// Pulls a published checkpoint, weights and configuration.
fn fetch(weights: &ModelSource, name: &str, yes: bool) -> Result<PathBuf, Failure> {
    let model = ModelFile::unpinned(weights.clone());
    let path = locate(&model, name, yes)?;
    Ok(path.parent().map(Path::to_owned).unwrap_or(path))
}

/// What is known of a decoder: all of it if its model is here, else what the registry says.
fn imported_decoder(
    registry: &Registry,
    entry: &DecoderEntry,
    encoder: &str,
    template: Option<&str>,
    output: &Output,
) -> Result<ImportedDecoder, Failure> {
    // The encoder may not be there yet, and its adapter neither.
    let kept = registry
        .resolve(&entry.name, Some(encoder))
        .ok()
        .and_then(|pair| pair.described().ok().flatten())
        .filter(|manifest| manifest.encoder.name == encoder);
    let template = match (template, kept) {
        (Some(template), _) => template.to_owned(),
        (None, Some(manifest)) => manifest.prompt_template,
        (None, None) => TEMPLATE.to_owned(),
    };
    let cache = Cache::from_env()?;
    let tokenizer = entry.tokenizer.as_ref().map(|model| cache.find(model, &entry.name));
    if let Some(model) = cache.find(&entry.model, &entry.name)
        && tokenizer != Some(None)
    {
        return Ok(ImportedDecoder::of_model(&entry.name, &model, tokenizer.flatten().as_deref(), template)?);
    }
    output.remark(format!(
        "decoder `{}` is not on this machine: its adapter is not pinned to its tokenizer and embeddings",
        entry.name
    ));
    let architecture = entry.architecture.clone().ok_or_else(|| {
        Failure::failed(
            format!("the registry does not say the architecture of `{}`", entry.name),
            format!("pull it first, with `arc pull {}`", entry.name),
        )
    })?;
    let pin = DecoderPin::new(&entry.name, architecture);
    let d_model = entry.shape.as_ref().map(|shape| shape.d_model);
    Ok(ImportedDecoder::new(pin, d_model, template))
}
