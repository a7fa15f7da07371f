//! `arc register`: an adapter for a decoder, with encoder and decoder frozen.

use std::path::{Path, PathBuf};

use arc_adapters::{
    EncoderEntry, ModelFile, ModelSource, NAME_FORM, NewDecoder, Registry, RegistryEditor, is_name,
};
use arc_core::decoder::Decoder;
use arc_core::hub::Cache;
use arc_core::nn::Residence;
use arc_core::train::{Evaluation, RegisterOptions, Start, register};
use arc_core::{Error, Session};
use comfy_table::Table;
use serde_json::json;

use super::destination::check_folder;
use super::prompt_template::prompt_template;
use super::pulling::locate;
use super::registries::registry;
use super::target::{folder_of, target_file};
use super::train::Progress;
use crate::Failure;
use crate::args;
use crate::args::Global;
use crate::interrupt::stop_on_interrupt;
use crate::memory::keep_what_is_freed;
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &args::Register, output: &Output) -> Result<(), Failure> {
    let registry = registry(global)?;
    let file = target_file(global, &args.target)?;
    let file = file.as_path();
    let new_model = match args.model.as_slice() {
        [] => None,
        parts => {
            // As typed, a path is relative to this folder, not to the registry's.
            let here = std::env::current_dir().map_err(Error::io("find", "."))?;
            let source = ModelSource::from_texts(parts)?.resolved_against(&here);
            Some(ModelFile::unpinned(source))
        }
    };
    let name = match &new_model {
        Some(_) => args.decoder.clone(),
        None => registry.decoder(&args.decoder)?.name.clone(),
    };
    if !is_name(&name) {
        return Err(Failure::usage(
            format!("`{name}` cannot be a name"),
            format!("choose one of {NAME_FORM} for `--decoder`"),
        ));
    }
    let known = registry.decoder(&name).ok().cloned();
    let known = known.as_ref();
    if new_model.is_some() && known.is_some() {
        return Err(Failure::usage(
            format!("the registry has a decoder `{name}` already"),
            "leave out `--model`, or choose another name",
        ));
    }
    let (encoder, is_own) = match known {
        Some(entry) => {
            let encoder = registry.resolve(&entry.name, args.encoder.as_deref())?.encoder()?;
            let own = registry.resolve(&entry.name, None).ok().and_then(|pair| pair.encoder);
            (encoder, own.is_some_and(|own| own.name == encoder.name))
        }
        None => {
            let encoder = registry.encoder_or_default(args.encoder.as_deref())?;
            let own = registry.default_encoder()?;
            (encoder, own.is_some_and(|own| own.name == encoder.name))
        }
    };
    let encoder = encoder.clone();
    let folder = folder_of(file);
    let plugins = folder.join("plugins");
    let package = args.output.clone().unwrap_or_else(|| {
        if is_own { plugins.join(&name) } else { plugins.join(&encoder.name).join(&name) }
    });
    let place = Place { name: &name, encoder: &encoder, is_own };
    if (package.exists() || place.is_taken(&RegistryEditor::open(file)?.registry()?))
        && !(args.replace || args.resume)
    {
        return Err(Failure::usage(
            format!("an adapter of encoder `{}` for `{name}` exists already", encoder.name),
            "replace it with `--replace`, or choose another name",
        ));
    }
    // What the file cannot take is found out before anything is trained.
    if let Some(entry) = known {
        let mut trial = RegistryEditor::open(file)?;
        trial.adopt_decoder(entry)?;
        place.name_in(&mut trial, &package, "")?;
    }
    let template = prompt_template(args.template.as_deref())?;

    let cache = Cache::from_env()?.folder().join("latents");
    let mut options = RegisterOptions::new(&name, &encoder.name, &args.text, cache)
        .start(if args.from_scratch { Start::Scratch } else { Start::Ridge })
        .template(template)
        .steps(args.steps)
        .batches(args.batches)
        .batch(usize::from(args.batch))
        .context_tokens(usize::from(args.context_tokens))
        .target_tokens(usize::from(args.target_tokens))
        // The encoder's own, where none is named: it is not loaded yet.
        .factors(match args.factor.as_slice() {
            [] => vec![1],
            factors => factors.iter().map(|&factor| usize::from(factor)).collect(),
        })
        .reconstruction(args.reconstruction)
        .rate(args.rate)
        .fit_latents(usize::from(args.fit_latents))
        .samples(args.samples)
        .seed(args.seed)
        .resume(args.resume);
    options.check()?;
    check_folder(&package)?;

    let yes = global.yes;
    let model = new_model.clone().or_else(|| known.map(|entry| entry.model.clone()));
    let model =
        model.ok_or_else(|| Failure::usage(format!("`{name}` has no model"), "name one with `--model`"))?;
    let path = locate(&model, &name, yes)?;
    let session =
        Session::new(registry, global.device, Box::new(move |model, name| locate(model, name, yes)))?;
    let decoder = match &new_model {
        Some(_) => Decoder::open_as(&name, &path, session.device(), Residence::Dense)?,
        None => session.dense_model(&name)?,
    };
    if args.factor.is_empty() {
        options.factors = vec![session.encoder_named(&encoder.name)?.default_factor()];
    }
    keep_what_is_freed();
    let mut progress = Progress::new(stop_on_interrupt());
    let registration = register(&options, &session, &decoder, &package, &mut progress)?;
    progress.finish();

    let sha256_of_package = arc_adapters::sha256_file(&package.join(arc_adapters::MANIFEST_FILE))?;
    let package_name = relative(&package, folder);
    let mut editor = RegistryEditor::open(file)?;
    if let Some(entry) = known {
        editor.adopt_decoder(entry)?;
    } else {
        let sha256 = arc_adapters::sha256_file(&path)?;
        let bytes = std::fs::metadata(&path).ok().map(|metadata| metadata.len());
        let architecture = decoder.network.config().architecture.name().to_owned();
        let new = NewDecoder::new(&name, model.sha256(Some(sha256)).bytes(bytes));
        editor.add_decoder(&new.architecture(Some(architecture)))?;
    }
    place.name_in(&mut editor, &package_name, &sha256_of_package)?;
    editor.save()?;

    output.block(scores(&registration.before, &registration.after))?;
    let is_interrupted = registration.steps < args.steps;
    if is_interrupted {
        output.line(format!(
            "interrupted after {} of {} steps: the adapter is as far as it came, and `--resume` goes on from here",
            registration.steps, args.steps
        ))?;
    }
    output.line(format!(
        "registered `{name}` in {} after {:.0} s: {}",
        file.display(),
        registration.seconds,
        package.display()
    ))?;
    output.json(&json!({
        "decoder": name,
        "adapter": package.to_string_lossy(),
        "registry": file.to_string_lossy(),
        "weights_sha256": registration.manifest.weights.sha256,
        "decoder_sha256": registration.decoder_sha256,
        "encoder_sha256": registration.encoder_sha256,
        "steps": registration.steps,
        "seconds": registration.seconds,
        "scores": registration.manifest.scores,
    }))?;
    if is_interrupted { Err(Failure::interrupted()) } else { Ok(()) }
}

/// The adapter that a registry file is to name: that of the encoder which the decoder is used with where
/// none is named, or one beside it.
struct Place<'a> {
    name: &'a str,
    encoder: &'a EncoderEntry,
    is_own: bool,
}

impl Place<'_> {
    fn is_taken(&self, here: &Registry) -> bool {
        here.decoder(self.name).is_ok_and(|entry| {
            entry.names_adapter_for(self.encoder) || (self.is_own && entry.usual_adapter().is_some())
        })
    }

    /// Names a package in a file that has the decoder.
    fn name_in(&self, editor: &mut RegistryEditor, package: &Path, sha256: &str) -> Result<(), Failure> {
        if self.is_own {
            editor.set_package(self.name, Some(self.encoder), package, sha256)?;
        } else {
            editor.add_adapter(self.name, self.encoder, package, Some(sha256))?;
        }
        Ok(())
    }
}

/// The arms side by side, as a table.
fn scores(before: &Evaluation, after: &Evaluation) -> String {
    let mut table = Table::new();
    table.set_header(["continuation of held-out text", "loss, nats per token", "share of the gap"]);
    let (Some(arms), Some(start)) = (&after.continuation, &before.continuation) else {
        return String::new();
    };
    let share = |share: f64| format!("{:.0} %", 100.0 * share);
    let mut rows = vec![
        ("closed book", arms.no_context, share(0.0)),
        ("open book", arms.full_context, share(1.0)),
        ("as many plain tokens", arms.truncation, share(arms.recovered_by_truncation())),
        ("adapter at its start", start.latents, share(start.recovered())),
        ("adapter", arms.latents, share(arms.recovered())),
    ];
    if let Some((loss, recovered)) = arms.another.zip(arms.recovered_by_another()) {
        rows.push(("adapter on another text", loss, share(recovered)));
    }
    for (arm, loss, recovered) in rows {
        table.add_row([arm.to_owned(), format!("{loss:.3}"), recovered]);
    }
    table.to_string()
}

/// A path as a registry in `folder` names it: relative where it lies below.
fn relative(path: &Path, folder: &Path) -> PathBuf {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (path, folder) = (absolute(path), absolute(folder));
    path.strip_prefix(&folder).map(Path::to_owned).unwrap_or(path)
}
