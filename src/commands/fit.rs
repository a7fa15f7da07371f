//! `arc fit`: an adapter by regression.

use std::io::BufRead as _;
use std::iter::Peekable;
use std::path::Path;

use arc_adapters::{AdapterPackage, MANIFEST_FILE};
use arc_core::document::{Pieces, PlainText};
use arc_core::encoder::CompressOptions;
use arc_core::eval::ContinuationTask;
use arc_core::fit::Fit;
use arc_core::json_lines::parse_line;
use arc_core::{AdaptedDecoder, Error};
use serde_json::{Value, json};

use super::destination::check_folder;
use super::prompt_template::prompt_template;
use super::session::session;
use crate::Failure;
use crate::args;
use crate::args::Global;
use crate::output::Output;

/// Plain text is cut into pieces of about this many bytes.
const PIECE_BYTES: usize = 4000;

/// The scored contexts and continuations, in the decoder's tokens.
const SCORED: ContinuationTask = ContinuationTask::new(128, 64);
/// How many of them.
const SCORED_SAMPLES: usize = 32;

pub(crate) fn run(global: &Global, args: &args::Fit, output: &Output) -> Result<(), Failure> {
    check_output(args)?;
    let session = session(global)?;
    let entry_name = session.registry().decoder(&args.decoder)?.name.clone();
    if let Some(name) = &args.encoder {
        session.registry().encoder(name)?;
    }
    let template = prompt_template(args.template.as_deref())?;
    let texts = args.text.iter().map(|path| texts(path)).collect::<Result<Vec<_>, _>>()?;
    let score_on = args.score_on.as_ref().map(PlainText::read).transpose()?;

    let encoder = match &args.encoder {
        Some(name) => session.encoder_named(name)?,
        None => session.encoder_for(&entry_name)?,
    };
    let decoder = session.decoder(&entry_name)?;
    let factor = args.factor.map_or_else(|| encoder.default_factor(), usize::from);
    if let Some(document) = &score_on {
        SCORED.check(&decoder, &document.text)?;
    }
    let mut fit = Fit::new(&encoder, &decoder, factor)?;
    for text in texts.into_iter().flatten() {
        fit.add(&text?)?;
        if fit.latents() >= args.max_latents {
            break;
        }
    }
    let report = fit.finish(&entry_name, &template)?;
    let mut lines = vec![format!(
        "{} latents, {} aligned; explained variance {:.3}, held out {:.3} (strength {:.0e})",
        report.latents, report.aligned, report.r_squared, report.r_squared_held_out, report.strength
    )];

    let mut manifest = report.manifest;
    if let Some(document) = score_on {
        // Where scoring fails nothing is written, and what was there before stays.
        let scratch = arc_adapters::Staging::within(&std::env::temp_dir())?;
        let package = scratch.new_folder().join("adapter");
        AdapterPackage::write(&package, &manifest, &report.tensors)?;
        let adapted = AdaptedDecoder::new(decoder.clone(), arc_adapters::Adapter::open(&package)?)?;
        let options = CompressOptions::at_factor(factor);
        let arms = SCORED.measure(&decoder, &document.text, SCORED_SAMPLES, |context| {
            adapted.project(&encoder.compress(context, options)?)
        })?;
        lines.push(format!("continuation on {} samples: {arms}", arms.samples));
        let mut continuation = arms.to_json();
        continuation["context_tokens"] = SCORED.context_tokens.into();
        continuation["continuation_tokens"] = SCORED.continuation_tokens.into();
        manifest.scores = json!({ "continuation": continuation });
    }
    let manifest = AdapterPackage::write(&args.output, &manifest, &report.tensors)?;
    lines.push(format!("written to {}", args.output.display()));
    for line in lines {
        output.line(line)?;
    }
    output.json(&json!({
        "adapter": args.output.to_string_lossy(),
        "decoder": entry_name,
        "encoder": encoder.name,
        "factor": factor,
        "weights_sha256": manifest.weights.sha256,
        "latents": report.latents,
        "aligned": report.aligned,
        "r_squared": report.r_squared,
        "r_squared_held_out": report.r_squared_held_out,
        "scores": manifest.scores,
    }))
}

/// What cannot be written, or should not, is refused before anything is fitted.
fn check_output(args: &args::Fit) -> Result<(), Failure> {
    if args.output.join(MANIFEST_FILE).exists() && !args.replace {
        return Err(Failure::usage(
            format!("`{}` holds an adapter already", args.output.display()),
            "replace it with `--replace`, or name another folder",
        ));
    }
    check_folder(&args.output)
}

type Texts = Peekable<Box<dyn Iterator<Item = Result<String, Failure>>>>;

/// The texts of a file as they are read: the field `text` of each line of JSONL, or pieces of a plain
/// text. One that is wrong from its beginning is refused at once.
fn texts(path: &Path) -> Result<Texts, Failure> {
    let texts: Box<dyn Iterator<Item = _>> = if path.extension().is_some_and(|extension| extension == "jsonl")
    {
        Box::new(rows(path)?)
    } else {
        Box::new(Pieces::open(path, PIECE_BYTES)?.map(|piece| Ok(piece?)))
    };
    let mut texts = texts.peekable();
    match texts.next_if(Result::is_err) {
        Some(Err(failure)) => Err(failure),
        _ => Ok(texts),
    }
}

fn rows(path: &Path) -> Result<impl Iterator<Item = Result<String, Failure>> + use<>, Failure> {
    let path = path.to_owned();
    let file = std::fs::File::open(&path).map_err(Error::io("read", &path))?;
    let lines = std::io::BufReader::new(file).split(b'\n').enumerate();
    Ok(lines.map(move |(index, line)| {
        let line = line.map_err(Error::io("read", &path))?;
        let invalid = |reason: String| {
            let reason = format!("line {}: {reason}", index + 1);
            Failure::from(Error::InvalidFile { path: path.clone(), format: "JSONL", reason })
        };
        let row: Value = parse_line(&line).map_err(invalid)?;
        let text = row.get("text").and_then(Value::as_str);
        Ok(text.ok_or_else(|| invalid("there is no text in its field `text`".into()))?.to_owned())
    }))
}
