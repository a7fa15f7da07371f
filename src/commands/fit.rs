//! `arc fit`: an adapter by regression.

use std::io::BufRead as _;
use std::path::Path;

use arc_adapters::AdapterPackage;
use arc_core::document::Document;
use arc_core::encoder::CompressOptions;
use arc_core::eval::ContinuationTask;
use arc_core::fit::Fit;
use arc_core::{AdaptedDecoder, Error};
use serde_json::{Value, json};

use super::setup::{prompt_template, session};
use crate::Failure;
use crate::args;
use crate::args::Global;
use crate::output::Output;

/// Plain text is cut into pieces of about this many bytes, at the end of a line where there is one.
const PIECE_BYTES: usize = 4000;

/// The scored contexts and continuations, in the decoder's tokens.
const SCORED: ContinuationTask = ContinuationTask { context_tokens: 128, continuation_tokens: 64 };
/// How many of them.
const SCORED_SAMPLES: usize = 32;

pub(crate) fn run(global: &Global, args: &args::Fit, output: &Output) -> Result<(), Failure> {
    let session = session(global)?;
    let entry_name = session.registry().decoder(&args.decoder)?.name.clone();
    let template = prompt_template(args.template.as_deref())?;
    let texts = args.text.iter().map(|path| read_texts(path)).collect::<Result<Vec<_>, _>>()?;
    let score_on = args.score_on.as_ref().map(Document::read).transpose()?;

    let encoder = match &args.encoder {
        Some(name) => session.encoder_named(name)?,
        None => session.encoder_for(&entry_name)?,
    };
    let decoder = session.language_model(&entry_name)?;
    let factor = args.factor.map_or_else(|| encoder.default_factor(), usize::from);
    let mut fit = Fit::new(&encoder, &decoder, factor)?;
    'fitting: for text in texts.iter().flatten() {
        fit.add(text)?;
        if fit.latents() >= args.max_latents {
            break 'fitting;
        }
    }
    let report = fit.finish(&entry_name, &template)?;
    let mut manifest = AdapterPackage::write(&args.output, &report.manifest, &report.tensors)?;
    output.line(format!(
        "{} latents, {} aligned; explained variance {:.3}, held out {:.3} (strength {:.0e})",
        report.latents, report.aligned, report.r_squared, report.r_squared_held_out, report.strength
    ))?;

    let mut scores = Value::Null;
    if let Some(document) = score_on {
        let adapted = AdaptedDecoder::new(decoder.clone(), arc_adapters::Adapter::open(&args.output)?)?;
        let options = CompressOptions { factor: Some(factor) };
        let arms = SCORED.measure(&decoder, &document.text, SCORED_SAMPLES, |context| {
            adapted.project(&encoder.compress(context, options)?)
        })?;
        output.line(format!(
            "continuation on {} samples: no context {:.3}, full context {:.3}, {:.0} latents {:.3} ({:.0} % of the gap), \
             the same number of tokens {:.3} ({:.0} %)",
            arms.samples,
            arms.no_context,
            arms.full_context,
            arms.mean_latents,
            arms.latents,
            100.0 * arms.recovered(),
            arms.truncation,
            100.0 * arms.recovered_by_truncation(),
        ))?;
        let mut continuation = arms.to_json();
        continuation["context_tokens"] = SCORED.context_tokens.into();
        continuation["continuation_tokens"] = SCORED.continuation_tokens.into();
        scores = json!({ "continuation": continuation });
        manifest.scores = scores.clone();
        manifest = AdapterPackage::write(&args.output, &manifest, &report.tensors)?;
    }
    output.line(format!("written to {}", args.output.display()))?;
    output.json(&json!({
        "adapter": args.output,
        "decoder": entry_name,
        "encoder": encoder.name,
        "factor": factor,
        "weights_sha256": manifest.weights.sha256,
        "latents": report.latents,
        "aligned": report.aligned,
        "r_squared": report.r_squared,
        "r_squared_held_out": report.r_squared_held_out,
        "scores": scores,
    }))
}

/// The texts of a file: the field `text` of each line of JSONL, or pieces of a plain text.
fn read_texts(path: &Path) -> Result<Vec<String>, Failure> {
    if path.extension().is_none_or(|extension| extension != "jsonl") {
        let document = Document::read(path)?;
        let mut pieces = vec![String::new()];
        for word in document.text.split_inclusive(char::is_whitespace) {
            let last = pieces.len() - 1;
            pieces[last].push_str(word);
            let length = pieces[last].len();
            if length > 2 * PIECE_BYTES || (length > PIECE_BYTES && word.ends_with('\n')) {
                pieces.push(String::new());
            }
        }
        return Ok(pieces);
    }
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    let mut texts = Vec::new();
    for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::io("read", path))?;
        let invalid = |reason: String| {
            Failure::from(Error::InvalidFile {
                path: path.to_owned(),
                format: "JSONL",
                reason: format!("line {}: {reason}", index + 1),
            })
        };
        let row: Value = serde_json::from_str(&line).map_err(|error| invalid(error.to_string()))?;
        let text = row.get("text").and_then(Value::as_str);
        texts.push(text.ok_or_else(|| invalid("there is no text in its field `text`".into()))?.to_owned());
    }
    Ok(texts)
}
