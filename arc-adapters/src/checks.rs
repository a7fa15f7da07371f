//! What can be checked of adapters without running a model: `verify` runs the checks of a decoder,
//! and `doctor` those of a whole setup, with the likeliest cause first.

use std::path::Path;

use crate::check::{Check, Outcome, Remedy};
use crate::read_once::{Known, ReadOnce};
use crate::resolve::Pair;
use crate::{
    Adapter, AdapterManifest, Backbone, DecoderEntry, EncoderEntry, EncoderManifest, EncoderWeights, Error,
    Hint, MANIFEST_FILE, ModelSource, PluginPolicy, Registry, Result,
};

/// Says in one line what is wrong with a prompt template, if anything is: this crate has no engine
/// that reads them.
pub type TemplateFault<'a> = dyn Fn(&str) -> Option<String> + 'a;

const LATENTS_WIDTH: &str = "adapter: width of the latents";

/// Checks all that one decoder resolves to against everything that can be read without running a
/// model: each of its adapters, the encoder of each, and the model's file.
///
/// `model` is where the decoder's model file lies, if it has been pulled. The embedding table and
/// the tokenizer are checked by who loads the model, with [`AdapterManifest::check_decoder`].
///
/// # Errors
/// [`Error::UnknownName`]; everything else is a failed check.
pub fn verify(
    registry: &Registry,
    decoder: &str,
    policy: &PluginPolicy,
    model: Option<&Path>,
    template: &TemplateFault<'_>,
) -> Result<Vec<Check>> {
    verify_with(registry, decoder, policy, model, template, &ReadOnce::default())
}

/// As [`verify`], of one decoder of many: what was read for another of the same registry is not read again.
///
/// # Errors
/// [`Error::UnknownName`]; everything else is a failed check.
pub fn verify_with(
    registry: &Registry,
    decoder: &str,
    policy: &PluginPolicy,
    model: Option<&Path>,
    template: &TemplateFault<'_>,
    read: &ReadOnce,
) -> Result<Vec<Check>> {
    let entry = registry.decoder(decoder)?;
    let mut checks = Vec::new();
    for of_pair in check_pairs(registry, entry, policy, template, read) {
        checks.extend(of_pair.adapter);
        checks.extend(of_pair.encoder);
    }
    checks.extend(check_options(entry, template));
    let (file, path) = check_model_file(entry, model);
    checks.push(match (path, &entry.model.sha256) {
        (Some(path), Some(expected)) if !file.failed() => {
            Check::of("model: sha256", check_sha256(path, expected, read)).0
        }
        (Some(_), None) if !file.failed() => Check::skipped("model: sha256", "the registry pins no sha256"),
        _ => file,
    });
    Ok(checks)
}

/// What was looked at of one adapter of a decoder.
pub(crate) struct PairChecks {
    /// Who the checks are about: `decoder NAME`, or `decoder NAME with encoder NAME`.
    pub(crate) subject: String,
    /// Those of the adapter.
    pub(crate) adapter: Vec<Check>,
    /// Those of the encoder alone, whichever adapter reads it.
    pub(crate) encoder: Vec<Check>,
}

/// The checks of every adapter of a decoder, with the encoder that it is used with.
pub(crate) fn check_pairs(
    registry: &Registry,
    entry: &DecoderEntry,
    policy: &PluginPolicy,
    template: &TemplateFault<'_>,
    read: &ReadOnce,
) -> Vec<PairChecks> {
    let subject = format!("decoder `{}`", entry.name);
    match registry.pairs(&entry.name) {
        Ok(pairs) => pairs.iter().map(|pair| check_pair(registry, pair, policy, template, read)).collect(),
        Err(error) => {
            let check = Check::of("registry: the name resolves", Err::<(), _>(error)).0;
            vec![PairChecks { subject, adapter: vec![check], encoder: Vec::new() }]
        }
    }
}

fn check_pair(
    registry: &Registry,
    pair: &Pair<'_>,
    policy: &PluginPolicy,
    template: &TemplateFault<'_>,
    read: &ReadOnce,
) -> PairChecks {
    let label = pair.label();
    let name = &pair.decoder.name;
    let subject = match pair.encoder.filter(|encoder| pair.decoder.names_adapter_for(encoder)) {
        Some(encoder) => format!("decoder `{name}` with encoder `{}`", encoder.name),
        None => format!("decoder `{name}`"),
    };
    let mut is_described = false;
    let (mut adapter, manifest) = match read.known(pair) {
        Some(Known::Sound(manifest)) => (vec![Check::unless(what_is_opened(&label), None)], Some(*manifest)),
        Some(Known::Broken(check)) => (vec![Check { what: what_is_opened(&label), ..check }], None),
        Some(Known::Changed(error)) => (check_opened(&label, Err(error)).0, None),
        None => {
            let opened = pair.open(policy);
            is_described = matches!(opened, Err(Error::NotImported { .. }));
            let is_broken = opened.as_ref().is_err_and(|error| {
                !matches!(error, Error::NotImported { .. } | Error::PackageChanged { .. })
            });
            let (checks, found) = check_opened(&label, opened);
            if let Some(adapter) = &found {
                read.keep(pair, adapter);
            }
            if let Some(check) = checks.first().filter(|_| is_broken) {
                read.keep_broken(pair, check);
            }
            (checks, found.map(|adapter| adapter.manifest))
        }
    };
    let mut encoder = pair.encoder.map(|encoder| check_encoder(registry, encoder, read)).unwrap_or_default();
    // One that is only described says what it is made for all the same.
    let described = || is_described.then(|| pair.described().ok().flatten()).flatten();
    match manifest.or_else(described) {
        None => adapter.push(Check::skipped(
            &format!("{label}: matches decoder and encoder"),
            "there is no adapter to match",
        )),
        Some(manifest) => {
            adapter
                .push(Check::unless(format!("{label}: prompt template"), bad_template(&manifest, template)));
            let other = other_architecture(pair.decoder, &manifest);
            adapter.push(Check::unless(format!("{label}: made for this decoder"), other));
            match pair.encoder {
                Some(entry) => {
                    if let Ok(encoder) = read.encoder(&entry.package) {
                        adapter.extend(check_reads(&label, &manifest, &encoder));
                    }
                }
                // It goes with encoders that nothing here names: the one that it was made for is one.
                None => encoder.extend(check_encoder_of_with(registry, &manifest, read)),
            }
        }
    }
    PairChecks { subject, adapter, encoder }
}

/// Whether an adapter reads what an encoder gives.
fn check_reads(label: &str, manifest: &AdapterManifest, encoder: &EncoderManifest) -> Vec<Check> {
    let pinned = manifest.check_encoder(&encoder.encoder_id);
    let is_the_one = pinned.is_ok();
    let mut checks = vec![Check::of(format!("{label}: made for this encoder"), pinned).0];
    if let Some(fault) = other_width(manifest, encoder).filter(|_| is_the_one) {
        checks.push(Check::unless(format!("{label}: width of the latents"), Some(fault)));
    }
    checks
}

/// The prompt that an entry has in place of its adapter's.
pub(crate) fn check_options(entry: &DecoderEntry, template: &TemplateFault<'_>) -> Option<Check> {
    let source = entry.options.prompt_template.as_ref()?;
    let fault = template(source).map(|fault| {
        let hint = format!("correct `prompt_template` there in `{}`", entry.origin.display());
        (format!("`options` of decoder `{}`: {fault}", entry.name), hint.into())
    });
    Some(Check::unless("options: prompt template", fault))
}

/// Whether the file of a decoder's model is there and as long as the registry says, and where it is.
pub(crate) fn check_model_file<'a>(
    entry: &'a DecoderEntry,
    pulled: Option<&'a Path>,
) -> (Check, Option<&'a Path>) {
    const WHAT: &str = "model: sha256";
    let path = match (&entry.model.source, pulled) {
        (ModelSource::File { path }, _) => path.as_path(),
        (_, Some(path)) => path,
        // It is pulled when it is first asked for, where there is a network.
        (_, None) => {
            let hint = format!("run `arc pull {}`", entry.name);
            return (Check::skipped_for(WHAT, "its model has not been pulled".to_owned(), hint), None);
        }
    };
    let found = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
    let fault = match (found, entry.model.bytes) {
        _ if !path.exists() => Some((
            format!("its model file `{}` is not there", path.display()),
            "put the file there, or change `source` in the registry".into(),
        )),
        (Some(found), Some(expected)) if found != expected => Some((
            format!("its model file has {found} bytes, the registry says {expected}"),
            "put the file there that the registry means, or correct `bytes` and `sha256`".into(),
        )),
        _ => None,
    };
    (Check::unless(WHAT, fault), Some(path))
}

/// The checks of an adapter by itself, wherever it was opened.
#[must_use]
pub fn check_adapter(opened: Result<Adapter>) -> (Vec<Check>, Option<Adapter>) {
    check_opened("adapter", opened)
}

/// What is looked at when an adapter is opened.
fn what_is_opened(label: &str) -> String {
    format!("{label}: manifest, sha256, shapes, values")
}

fn check_opened(label: &str, opened: Result<Adapter>) -> (Vec<Check>, Option<Adapter>) {
    let what = what_is_opened(label);
    if let Err(error @ Error::NotImported { .. }) = &opened {
        // Nothing is wrong with it: its weights are its makers' to give.
        let hint = error.hint().unwrap_or_else(|| "import it".into());
        return (vec![Check::skipped_for(&what, error.to_string(), hint)], None);
    }
    let (check, adapter) = Check::of(what, opened);
    let mut checks = vec![check];
    if let Some(adapter) = &adapter
        && let Some(projector) = adapter.host_projector()
    {
        let probe = projector.project(&vec![0.5; 2 * adapter.manifest.d_encoder], 2);
        checks.push(Check::of("plugin: `project` on two rows", probe).0);
    }
    (checks, adapter)
}

/// Whether the prompt of an adapter can be made, as `template` has it, which says what is wrong with
/// one.
#[must_use]
pub fn check_template(manifest: &AdapterManifest, template: &TemplateFault<'_>) -> Check {
    Check::unless("adapter: prompt template", bad_template(manifest, template))
}

fn bad_template(manifest: &AdapterManifest, template: &TemplateFault<'_>) -> Option<(String, Hint)> {
    let fault = template(&manifest.prompt_template)?;
    let message = format!("adapter `{}`: {fault}", manifest.name);
    Some((message, format!("correct `prompt_template` in its `{MANIFEST_FILE}`").into()))
}

/// What is wrong where an adapter is for another architecture than an entry says. Either may be the
/// wrong one: no model was looked at.
fn other_architecture(entry: &DecoderEntry, manifest: &AdapterManifest) -> Option<(String, Hint)> {
    // Names differ between registries, so the name alone proves nothing; the architecture must fit.
    let said = entry.architecture.as_ref()?;
    let made_for = &manifest.decoder.architecture;
    (said != made_for).then(|| {
        let (adapter, decoder) = (&manifest.name, &entry.name);
        (
            format!(
                "adapter `{adapter}` was made for architecture `{made_for}`, the entry of decoder \
                 `{decoder}` says `{said}`"
            ),
            format!(
                "correct `architecture` in `{}` if that is not the model's, or use the model that the \
                 adapter was made for",
                entry.origin.display()
            )
            .into(),
        )
    })
}

/// Whether an adapter gives vectors of the width that a decoder reads.
#[must_use]
pub fn check_embeddings(manifest: &AdapterManifest, d_model: usize) -> Check {
    let (adapter, given) = (&manifest.name, manifest.d_decoder);
    let fault = (given != d_model).then(|| {
        (
            format!("adapter `{adapter}` gives embeddings of width {given}, the decoder reads {d_model}"),
            "fit an adapter for this decoder".into(),
        )
    });
    Check::unless("adapter: width of the embeddings", fault)
}

/// The checks of an adapter that no entry names against the encoder that it was made for, which is
/// known by its identity whatever it is called here. One that is not here is no fault of the adapter.
#[must_use]
pub fn check_encoder_of(registry: &Registry, manifest: &AdapterManifest) -> Vec<Check> {
    check_encoder_of_with(registry, manifest, &ReadOnce::default())
}

fn check_encoder_of_with(registry: &Registry, manifest: &AdapterManifest, read: &ReadOnce) -> Vec<Check> {
    match encoder_of(registry, manifest, read) {
        Err(error) => {
            vec![Check::of(format!("encoder `{}`: manifest", manifest.encoder.name), Err::<(), _>(error)).0]
        }
        Ok(None) => vec![Check::skipped("adapter: made for an encoder", no_encoder(manifest))],
        Ok(Some((name, encoder))) => {
            let pinned = manifest.check_encoder(&encoder.encoder_id);
            vec![
                Check::of(format!("adapter: made for encoder `{name}`"), pinned).0,
                Check::unless(LATENTS_WIDTH, other_width(manifest, &encoder)),
            ]
        }
    }
}

/// The encoder that an adapter was made for, else the one of its name.
fn encoder_of<'a>(
    registry: &'a Registry,
    manifest: &AdapterManifest,
    read: &ReadOnce,
) -> Result<Option<(&'a str, EncoderManifest)>> {
    let same = read.encoder_with_id(registry, &manifest.encoder.encoder_id);
    match same.map_or_else(|| registry.encoder(&manifest.encoder.name), Ok) {
        Err(_) => Ok(None),
        Ok(entry) => Ok(Some((&entry.name, read.encoder(&entry.package)?))),
    }
}

fn no_encoder(manifest: &AdapterManifest) -> String {
    format!(
        "no encoder here is called `{}`, and none has the `encoder_id` that the adapter pins: `arc adapters \
         add` adds its package",
        manifest.encoder.name
    )
}

/// The checks of an adapter against the entry that it is to be added to, and against the encoder that
/// it would be used with: `for_encoder`, else the usual one. What fails could not be used.
///
/// An adapter for an encoder that no registry has is no fault: its latents may come from elsewhere.
#[must_use]
pub fn check_fit(
    registry: &Registry,
    entry: &DecoderEntry,
    for_encoder: Option<&str>,
    manifest: &AdapterManifest,
) -> Vec<Check> {
    let other = other_architecture(entry, manifest).map(|(message, _)| {
        let hint = format!(
            "correct `architecture` in `{}`, or add it to the decoder that it was made for",
            entry.origin.display()
        );
        (message, hint.into())
    });
    let remedy = other.is_some().then_some(Remedy::OtherDecoder);
    let mut checks = vec![Check { remedy, ..Check::unless("adapter: made for this decoder", other) }];
    checks.extend(entry.shape.as_ref().map(|shape| check_embeddings(manifest, shape.d_model)));

    let what = "adapter: made for this encoder";
    let usual = registry.encoder_with(entry, for_encoder).ok().and_then(|(encoder, _)| encoder);
    let usual = usual.and_then(|entry| EncoderManifest::open(&entry.package).ok());
    let own = encoder_of(registry, manifest, &ReadOnce::default());
    match (usual, own) {
        (Some(encoder), _) if manifest.check_encoder(&encoder.encoder_id).is_ok() => {
            checks.push(Check::unless(LATENTS_WIDTH, other_width(manifest, &encoder)));
        }
        (_, Ok(None)) if for_encoder.is_none() => checks.push(Check::skipped(what, no_encoder(manifest))),
        (Some(encoder), own) => {
            let mut check = Check::of(what, manifest.check_encoder(&encoder.encoder_id)).0;
            check.remedy = Some(Remedy::Override);
            if let (Outcome::Failed { hint, .. }, Ok(Some((name, own)))) = (&mut check.outcome, own)
                && manifest.check_encoder(&own.encoder_id).is_ok()
            {
                *hint = Some(format!("add it for encoder `{name}`, which it was made for").into());
                check.remedy = Some(Remedy::ForEncoder(name.to_owned()));
            }
            checks.push(check);
        }
        // Without a usual encoder it is used with the one that is named in each call.
        (None, Ok(Some(_))) => checks.extend(check_encoder_of(registry, manifest)),
        // What cannot be read is the registry's fault, and no reason to refuse the adapter.
        (None, _) => {}
    }
    checks
}

/// Whether an encoder can be loaded, as far as its package and the registry say.
pub(crate) fn check_encoder(registry: &Registry, entry: &EncoderEntry, read: &ReadOnce) -> Vec<Check> {
    read.encoder_checks(entry, || check_encoder_anew(registry, entry, read))
}

fn check_encoder_anew(registry: &Registry, entry: &EncoderEntry, read: &ReadOnce) -> Vec<Check> {
    let name = &entry.name;
    let (check, manifest) = Check::of(format!("encoder `{name}`: manifest"), read.encoder(&entry.package));
    let mut checks = vec![check];
    let Some(manifest) = manifest else { return checks };
    if let EncoderWeights::Published { .. } = manifest.weights {
        checks.push(Check::skipped_for(
            &format!("encoder `{name}`: weights"),
            "it is only described: its weights are published elsewhere and were not imported".to_owned(),
            Hint::Import { encoder: name.clone() },
        ));
    }
    let Some(Backbone { decoder: Some(backbone), sha256, .. }) = &manifest.backbone else { return checks };
    let fault = match registry.decoder(backbone) {
        Err(error) => Some((
            format!("its backbone is not in the registry: {error}"),
            Hint::AddBackbone { decoder: backbone.clone(), sha256: sha256.clone() },
        )),
        Ok(found) => found.model.sha256.as_ref().filter(|pinned| *pinned != sha256).map(|pinned| {
            (
                format!(
                    "it was made from backbone `{backbone}` with sha256 `{sha256}`, the registry pins \
                     `{pinned}`"
                ),
                format!("point decoder `{backbone}` at the file that the encoder was made from").into(),
            )
        }),
    };
    checks.push(Check::unless(format!("encoder `{name}`: backbone"), fault));
    checks
}

/// What is wrong where an adapter does not read what an encoder gives, and what to do about it.
fn other_width(manifest: &AdapterManifest, encoder: &EncoderManifest) -> Option<(String, Hint)> {
    let (read, given) = (manifest.d_encoder, encoder.d_encoder);
    (read != given).then(|| {
        (
            format!("the adapter reads latents of width {read}, the encoder gives {given}"),
            "use the encoder that the adapter was made for".into(),
        )
    })
}

fn check_sha256(path: &Path, expected: &str, read: &ReadOnce) -> Result<()> {
    let found = read.model_sha256(path)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::Sha256Mismatch { path: path.to_owned(), expected: expected.to_owned(), found })
}

#[cfg(test)]
mod tests;
