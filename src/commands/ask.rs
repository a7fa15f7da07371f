//! `arc ask`: documents are compressed once, and every decoder is asked about the same latents.

use std::path::Path;
use std::time::Instant;

use arc_core::decoder::Timings;
use arc_core::document::Document;
use arc_core::encoder::{CompressOptions, Latents};
use arc_core::{AdaptedDecoder, Session};
use serde_json::{Value, json};

use super::setup::{is_latents_file, session};
use crate::Failure;
use crate::args::{Ask, Global};
use crate::output::Output;

/// A document as the decoders get it.
#[expect(clippy::large_enum_variant, reason = "there are as many as documents")]
enum Material {
    Latents(Latents),
    Text(String),
}

pub(crate) fn run(global: &Global, ask: &Ask, output: &Output) -> Result<(), Failure> {
    let options = ask.sampling.options();
    options.sampling.validate()?;
    let session = session(global)?;
    // Names are checked before anything is pulled or compressed.
    for name in &ask.decoder {
        session.registry().decoder(name)?;
    }
    let (materials, source_tokens, compress_seconds) = read_documents(&session, ask)?;

    let mut answers = Vec::new();
    for name in &ask.decoder {
        let decoder = session.decoder(name)?;
        for question in &ask.questions {
            if answers.is_empty() && !output.is_json() && !ask.open_book {
                let latents: usize = materials.iter().map(Material::len).sum();
                output.remark(format!(
                    "{source_tokens} tokens compressed to {latents} latents in {compress_seconds:.2} s"
                ));
            }
            if ask.decoder.len() > 1 || ask.questions.len() > 1 {
                output.line(format!(
                    "{}{}: {question}",
                    if answers.is_empty() { "" } else { "\n" },
                    decoder.decoder.name
                ))?;
            }
            let answer = answer(&decoder, &materials, question, ask, output)?;
            answers.push(answer);
        }
    }
    let summary = json!({
        "source_tokens": source_tokens,
        "compress_seconds": compress_seconds,
    });
    output.json(&with_summary(answers, &summary))
}

impl Material {
    fn len(&self) -> usize {
        match self {
            Self::Latents(latents) => latents.len(),
            Self::Text(_) => 0,
        }
    }
}

/// Reads and compresses the documents; also returns their length in encoder tokens, and how long
/// it took in seconds.
fn read_documents(session: &Session, ask: &Ask) -> Result<(Vec<Material>, usize, f64), Failure> {
    let mut materials = Vec::new();
    let (mut source_tokens, mut seconds) = (0, 0.0);
    for path in &ask.document {
        if is_latents_file(path) {
            if ask.open_book {
                return Err(Failure::usage(
                    format!("`{}` holds latents, which no decoder reads as text", path.display()),
                    "name the text itself, or leave out `--open-book`",
                ));
            }
            let latents = Latents::load(path, session.device())?;
            source_tokens += latents.source_tokens;
            materials.push(Material::Latents(latents));
            continue;
        }
        let document = Document::read(path as &Path)?;
        if ask.open_book {
            materials.push(Material::Text(document.text));
            continue;
        }
        let encoder = match &ask.encoder {
            Some(name) => session.encoder_named(name)?,
            None => session.encoder()?,
        };
        let start = Instant::now();
        let latents =
            encoder.compress(&document.text, CompressOptions { factor: ask.factor.map(usize::from) })?;
        session.device().sync().ok();
        seconds += start.elapsed().as_secs_f64();
        source_tokens += latents.source_tokens;
        materials.push(Material::Latents(latents));
    }
    Ok((materials, source_tokens, seconds))
}

fn answer(
    decoder: &AdaptedDecoder,
    materials: &[Material],
    question: &str,
    ask: &Ask,
    output: &Output,
) -> Result<Value, Failure> {
    let prompt = if ask.open_book {
        let texts: Vec<&str> = materials
            .iter()
            .filter_map(|material| match material {
                Material::Text(text) => Some(text.as_str()),
                Material::Latents(_) => None,
            })
            .collect();
        decoder.prompt_with_text(&texts.join("\n\n"), question)?
    } else {
        let latents: Vec<Latents> = materials
            .iter()
            .filter_map(|material| match material {
                Material::Latents(latents) => Some(latents.clone()),
                Material::Text(_) => None,
            })
            .collect();
        decoder.prompt(&latents, question)?
    };
    let mut printed = Ok(());
    let generated =
        decoder.decoder.generate(std::slice::from_ref(&prompt), &ask.sampling.options(), |_, text| {
            if printed.is_ok() {
                printed = output.piece(text);
            }
        })?;
    printed?;
    output.line("")?;
    let row = &generated.rows[0];
    Ok(json!({
        "decoder": decoder.decoder.name,
        "question": question,
        "text": row.text,
        "token_ids": row.token_ids,
        "finish": row.finish,
        "prompt_tokens": prompt.token_ids().len(),
        "latents": prompt.latent_count(),
        "timings": timings(&generated.timings),
    }))
}

/// One answer is the object itself, several are a list in it.
fn with_summary(mut answers: Vec<Value>, summary: &Value) -> Value {
    let mut object = if answers.len() == 1 { answers.remove(0) } else { json!({ "answers": answers }) };
    if let (Some(object), Some(summary)) = (object.as_object_mut(), summary.as_object()) {
        object.extend(summary.clone());
    }
    object
}

/// Times in seconds.
pub(super) fn timings(timings: &Timings) -> Value {
    json!({
        "prefill_seconds": timings.prefill.as_secs_f64(),
        "first_token_seconds": timings.first_token.as_secs_f64(),
        "decode_seconds": timings.decode.as_secs_f64(),
    })
}
