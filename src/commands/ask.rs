//! `arc ask`: documents are compressed once, and every decoder is asked about the same latents.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arc_adapters::{AnswerEnd, Pair};
use arc_core::decoder::{Decoder, GenerateOptions, Timings};
use arc_core::document::Document;
use arc_core::encoder::{CompressOptions, Encoder, Latents};
use arc_core::eval::Row;
use arc_core::prompt::PromptForm;
use arc_core::prompt::PromptTemplate;
use arc_core::prompt::{Prompt, Span};
use arc_core::{AdaptedDecoder, Session, SpecialVector};
use serde_json::{Value, json};

use super::distinct::distinct;
use super::documents::{is_latents_file, named};
use super::prompt_form;
use super::prompt_template::PLAIN_TEMPLATE;
use super::remarks::{remark_on_unpinned, warn_of_overridden_pins, warnings_of_factors};
use super::session::session;
use crate::Failure;
use crate::args::{Ask, Form, Global};
use crate::output::Output;

/// A document as the decoders get it.
#[expect(clippy::large_enum_variant, reason = "there are as many as documents")]
enum Material {
    Latents(Latents),
    Text(String),
}

pub(crate) fn run(global: &Global, ask: &Ask, output: &Output) -> Result<(), Failure> {
    let options = ask.sampling.options()?;
    let shots = prompt_form::check(ask)?;
    if let (Some(_), Some(latents)) = (ask.factor, ask.document.iter().find(|path| is_latents_file(path))) {
        return Err(Failure::usage(
            format!("`{}` is compressed already, `--factor` cannot change it", latents.display()),
            "leave out `--factor`, or name the text itself",
        ));
    }
    if ask.document.iter().filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(Failure::usage(
            "standard input is named twice as a document, and can be read once",
            "name the second document by its file",
        ));
    }
    let session = session(global)?;
    // What is wrong with names, adapters and documents is said before anything is pulled or compressed.
    let registry = session.registry();
    let pairs = ask
        .decoder
        .iter()
        .map(|name| Ok(registry.resolve(name, ask.encoder.as_deref())?))
        .collect::<Result<Vec<Pair<'_>>, Failure>>()?;
    let pairs = distinct(&pairs);
    let sources = read_sources(&session, ask, &shots)?;
    let is_compressed = !ask.open_book && sources.iter().any(|source| !source.is_compressed());
    for pair in &pairs {
        if is_compressed {
            pair.encoder()?;
        }
        if !ask.open_book {
            session.check_adapter(&pair.decoder.name, ask.encoder.as_deref())?;
        }
    }
    let readers =
        pairs.iter().map(|pair| Reader::open(&session, pair, ask)).collect::<Result<Vec<_>, Failure>>()?;

    // Decoders that read the same encoder at the same rate are given the same latents.
    let mut documents: Vec<(Compression, Documents)> = Vec::new();
    let mut answers = Vec::new();
    // A form without a question is asked once.
    let questions = if ask.questions.is_empty() { vec![String::new()] } else { ask.questions.clone() };
    for reader in &readers {
        let encoder = match is_compressed {
            true => Some(session.encoder_named(&reader.pair.encoder()?.name)?),
            false => None,
        };
        let compression = Compression::new(encoder.as_deref(), reader.pair, ask);
        if documents.iter().all(|(other, _)| *other != compression) {
            let read = compress(&session, encoder.as_deref(), &compression, &sources)?;
            if !output.is_json() && !ask.open_book {
                let latents: usize = read.materials.iter().map(Material::len).sum();
                output.remark(match read.seconds {
                    Some(seconds) => {
                        format!(
                            "{} tokens compressed to {latents} latents in {seconds:.2} s",
                            read.source_tokens
                        )
                    }
                    None => format!("{latents} latents of {} tokens", read.source_tokens),
                });
            }
            documents.push((compression.clone(), read));
        }
        let Some((_, Documents { materials, .. })) = documents.iter().find(|(of, _)| *of == compression)
        else {
            continue;
        };
        let mut options = options.clone();
        if options.stop.is_empty() {
            options.stop.clone_from(&reader.pair.options().stop);
            options.stop.extend(prompt_form::stop(ask.form).map(str::to_owned));
        }
        options.answer_ends = match (ask.answer_ends, ask.form) {
            (Some(end), _) => Some(end.into()),
            (None, Form::Adapter) => Some(reader.answer_ends),
            (None, _) => None,
        };
        let warnings = reader.adapted.as_ref().map_or_else(Vec::new, |adapted| warnings(adapted, materials));
        for warning in &warnings {
            output.remark(format!("warning: {warning}"));
        }
        for (index, question) in questions.iter().enumerate() {
            if readers.len() > 1 || questions.len() > 1 {
                output.block(format!(
                    "{}{}: {question}",
                    if answers.is_empty() { "" } else { "\n" },
                    reader.decoder.name
                ))?;
            }
            let prompt = match prompt_form::form(ask, &shots, question, &reader.decoder)? {
                Some(form) => prompt_in(reader, &form, materials, ask)?,
                None => prompt(reader, materials, question, ask)?,
            };
            options.max_tokens = ask.sampling.max_tokens(&reader.decoder, &prompt);
            let (mut overridden, mut unpinned) = (Vec::new(), Vec::new());
            if let Some(adapted) = &reader.adapted {
                (overridden, unpinned) = (adapted.overridden_pins(), adapted.unpinned());
                if index == 0 {
                    warn_of_overridden_pins(&overridden, output);
                    remark_on_unpinned(adapted, output);
                }
            }
            let mut answer = answer(&reader.decoder, &prompt, question, &options, output)?;
            answer["encoder"] = json!(reader.pair.encoder.map(|encoder| &encoder.name));
            answer["adapter"] =
                json!(reader.adapted.as_ref().map(|adapted| adapted.adapter.origin.to_string_lossy()));
            if !overridden.is_empty() {
                answer["overridden_pins"] = json!(overridden);
            }
            if !warnings.is_empty() {
                answer["warnings"] = json!(warnings);
            }
            if !unpinned.is_empty() {
                answer["unpinned"] = json!(unpinned);
            }
            answers.push(answer);
        }
    }
    let summary = json!({
        "source_tokens": documents.first().map_or(0, |(_, documents)| documents.source_tokens),
        "compress_seconds": documents.iter().map(|(_, documents)| documents.seconds.unwrap_or(0.0)).sum::<f64>(),
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

/// Who is asked.
struct Reader<'a> {
    pair: &'a Pair<'a>,
    decoder: Arc<Decoder>,
    /// With its adapter; plain text can be read without one.
    adapted: Option<Arc<AdaptedDecoder>>,
    /// The prompt of a decoder without an adapter.
    template: PromptTemplate,
    answer_ends: AnswerEnd,
}

impl<'a> Reader<'a> {
    fn open(session: &Session, pair: &'a Pair<'a>, ask: &Ask) -> Result<Self, Failure> {
        let name = &pair.decoder.name;
        let adapted = match &ask.encoder {
            Some(encoder) => session.adapted_decoder_for(name, encoder),
            None => session.adapted_decoder(name),
        };
        let adapted = match adapted {
            Err(arc_core::Error::Adapter(
                arc_adapters::Error::NoAdapter { .. } | arc_adapters::Error::NotImported { .. },
            )) if ask.open_book => None,
            adapted => Some(adapted?),
        };
        let decoder = match &adapted {
            Some(adapted) => Arc::clone(&adapted.decoder),
            None => session.decoder(name)?,
        };
        let window = decoder.network.config().context_length;
        if let Some(asked) = ask.sampling.max_tokens.filter(|&asked| asked >= window) {
            return Err(Failure::failed(
                format!("{asked} new tokens are asked for, but `{}` has a window of {window}", decoder.name),
                "ask for fewer with `--max-tokens`: the prompt needs room in it too",
            ));
        }
        let options = pair.options();
        let template = options.prompt_template.as_deref().unwrap_or(PLAIN_TEMPLATE);
        let usual = options.answer_ends.unwrap_or(AnswerEnd::of_template(template));
        let answer_ends = adapted.as_ref().map_or(usual, |adapted| adapted.answer_ends());
        Ok(Self { pair, decoder, adapted, template: PromptTemplate::parse(template)?, answer_ends })
    }

    /// With the adapter, which is there wherever latents are.
    fn adapted(&self) -> Result<&AdaptedDecoder, Failure> {
        match &self.adapted {
            Some(adapted) => Ok(adapted),
            None => Err(self.pair.adapter().map_or_else(Failure::from, |_| {
                Failure::failed("latents are read with an adapter", "leave out `--open-book`")
            })),
        }
    }
}

/// Who compresses, and how much. Nobody where nothing is to be compressed, and as the encoder does by
/// itself where there is no factor.
#[derive(Clone, PartialEq, Eq)]
struct Compression {
    encoder: Option<String>,
    factor: Option<usize>,
}

impl Compression {
    fn new(encoder: Option<&Encoder>, reader: &Pair<'_>, ask: &Ask) -> Self {
        let asked = ask.factor.map(u32::from).or(reader.options().factor).map(|factor| factor as usize);
        let factor = match encoder {
            // What is left out and what is said are the same where they come to the same.
            Some(encoder) if encoder.pools_by_factor() => Some(asked.unwrap_or(encoder.default_factor())),
            Some(_) => asked,
            None => None,
        };
        Self { encoder: encoder.map(|encoder| encoder.id.clone()), factor }
    }
}

/// A document as it was named, read.
#[expect(clippy::large_enum_variant, reason = "there are as many as documents")]
enum Source<'a> {
    /// Of an answered question, or a file's.
    Text {
        text: String,
        path: Option<&'a Path>,
    },
    Latents(Latents),
}

impl Source<'_> {
    fn is_compressed(&self) -> bool {
        matches!(self, Self::Latents(_))
    }
}

/// The documents, those of answered questions first.
fn read_sources<'a>(session: &Session, ask: &'a Ask, shots: &[Row]) -> Result<Vec<Source<'a>>, Failure> {
    // As the reference's few-shot prompts have it: their own words bring the line breaks.
    let trimmed = |text: &str| if ask.form == Form::FewShot { text.trim() } else { text }.to_owned();
    let mut sources: Vec<_> =
        shots.iter().map(|shot| Source::Text { text: trimmed(&shot.document), path: None }).collect();
    for path in &ask.document {
        sources.push(if !is_latents_file(path) {
            Source::Text { text: trimmed(&Document::read(path as &Path)?.text), path: Some(path) }
        } else if ask.open_book {
            return Err(Failure::usage(
                format!("`{}` holds latents, which no decoder reads as text", path.display()),
                "name the text itself, or leave out `--open-book`",
            ));
        } else {
            Source::Latents(Latents::load(path, session.device())?)
        });
    }
    Ok(sources)
}

/// The documents as some decoders get them, those of answered questions first.
struct Documents {
    materials: Vec<Material>,
    /// Their length in encoder tokens.
    source_tokens: usize,
    /// How long compressing took; `None` if all of them were latents.
    seconds: Option<f64>,
}

/// The documents as they are read where there is no encoder, else compressed.
fn compress(
    session: &Session,
    encoder: Option<&Encoder>,
    compression: &Compression,
    sources: &[Source<'_>],
) -> Result<Documents, Failure> {
    let mut documents = Documents { materials: Vec::new(), source_tokens: 0, seconds: None };
    for source in sources {
        let latents = match (source, encoder) {
            (Source::Text { text, .. }, None) => {
                documents.materials.push(Material::Text(text.clone()));
                continue;
            }
            (Source::Text { text, path }, Some(encoder)) => {
                let start = Instant::now();
                let latents =
                    encoder.compress(text, CompressOptions::default().with_factor(compression.factor));
                let latents = latents.map_err(|error| match path {
                    Some(path) => named(error, path),
                    None => error,
                })?;
                session.device().sync().ok();
                documents.seconds = Some(documents.seconds.unwrap_or(0.0) + start.elapsed().as_secs_f64());
                latents
            }
            (Source::Latents(latents), _) => latents.clone(),
        };
        documents.source_tokens += latents.source_tokens;
        documents.materials.push(Material::Latents(latents));
    }
    Ok(documents)
}

/// What the reader of an answer should know of the latents that it was given about.
fn warnings(decoder: &AdaptedDecoder, materials: &[Material]) -> Vec<String> {
    let factors: BTreeSet<usize> = materials
        .iter()
        .filter_map(|material| match material {
            Material::Latents(latents) => Some(latents.factor),
            Material::Text(_) => None,
        })
        .collect();
    warnings_of_factors(decoder, factors).collect()
}

/// The prompt of one of the paper's forms.
fn prompt_in(
    reader: &Reader<'_>,
    form: &PromptForm,
    materials: &[Material],
    ask: &Ask,
) -> Result<Prompt, Failure> {
    let special = match ask.form {
        Form::Reconstruction => SpecialVector::Rec,
        _ => special_vector(ask),
    };
    let contexts = materials
        .iter()
        .map(|material| {
            Ok(match material {
                Material::Latents(latents) => {
                    Span::Latents(reader.adapted()?.project_with(latents, special)?)
                }
                Material::Text(text) => Span::Tokens(reader.decoder.tokenizer.encode(text)?.ids),
            })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    Ok(form.assemble(&reader.decoder.tokenizer, &contexts)?)
}

fn special_vector(ask: &Ask) -> SpecialVector {
    if ask.no_special { SpecialVector::None } else { SpecialVector::Usual }
}

fn prompt(reader: &Reader<'_>, materials: &[Material], question: &str, ask: &Ask) -> Result<Prompt, Failure> {
    if ask.open_book {
        let texts: Vec<&str> = materials
            .iter()
            .filter_map(|material| match material {
                Material::Text(text) => Some(text.as_str()),
                Material::Latents(_) => None,
            })
            .collect();
        let text = texts.join("\n\n");
        return Ok(match &reader.adapted {
            Some(adapted) => adapted.prompt_with_text(&text, question)?,
            None => reader.template.prompt_with_text(&text, question, &reader.decoder.tokenizer)?,
        });
    }
    let latents: Vec<Latents> = materials
        .iter()
        .filter_map(|material| match material {
            Material::Latents(latents) => Some(latents.clone()),
            Material::Text(_) => None,
        })
        .collect();
    Ok(reader.adapted()?.prompt_about(&latents, question, special_vector(ask))?)
}

fn answer(
    decoder: &Decoder,
    prompt: &Prompt,
    question: &str,
    options: &GenerateOptions,
    output: &Output,
) -> Result<Value, Failure> {
    let mut printed = Ok(());
    let generated = decoder.generate(std::slice::from_ref(prompt), options, |_, text| {
        if printed.is_ok() {
            printed = output.piece(text);
        }
    })?;
    printed?;
    output.line("")?;
    let row = &generated.rows[0];
    Ok(json!({
        "decoder": decoder.name,
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
