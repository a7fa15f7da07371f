//! `arc ask`: documents are compressed once, and every decoder is asked about the same latents.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use arc_adapters::Pair;
use arc_core::decoder::{Decoder, FinishReason, GenerateOptions, Timings};
use arc_core::encoder::Latents;
use arc_core::eval::Row;
use arc_core::prompt::{Prompt, PromptForm, Span};
use arc_core::{Session, SpecialVector};
use serde_json::{Value, json};

use super::compressor::{Compression, Compressor};
use super::distinct::distinct;
use super::documents::{self, Content, Named, is_latents_file};
use super::fitting::{Shelf, Taken, does_not_fit};
use super::heads::{Answered, Heads};
use super::reader::{Reader, default_decoder};
use super::remarks::{remark_on_unpinned, warn_of_overridden_pins, warnings_of_factors};
use super::session::session;
use super::{ask_batch, prompt_form};
use crate::Failure;
use crate::args::Global;
use crate::args::ask::{Ask, Form};
use crate::interrupt::stop_on_interrupt;
use crate::output::Output;

pub(crate) fn run(global: &Global, ask: &Ask, output: &Output) -> Result<(), Failure> {
    let ask = &ask.taken_apart()?;
    let options = ask.sampling.options()?;
    if ask.questions_from.is_some() {
        return ask_batch::run(global, ask, &options, output);
    }
    let shots = prompt_form::check(ask)?;
    if let (Some(_), Some(latents)) = (ask.factor, ask.document.iter().find(|path| is_latents_file(path))) {
        return Err(has_its_factor(&latents.display().to_string()));
    }
    if let (true, Some(latents)) = (ask.open_book, ask.document.iter().find(|path| is_latents_file(path))) {
        return Err(no_text(&latents.display().to_string()));
    }
    // What is wrong with names, adapters and documents is said before anything is pulled or compressed.
    let session = session(global)?;
    let registry = session.registry();
    let pairs = pairs(&registry, ask)?;
    let documents = read_documents(ask, &shots, output)?;
    let is_compressed = !ask.open_book && documents.iter().any(|document| !document.is_compressed());
    check_pairs(&session, &pairs, ask, is_compressed)?;
    let readers = pairs
        .iter()
        .map(|pair| {
            let reader = Reader::open(&session, *pair, ask.encoder.as_deref(), ask.open_book)?;
            reader.check_new_tokens(ask.sampling.max_tokens)?;
            Ok(reader)
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let compressor = Compressor::new(global, &session, !ask.no_cache, output)?;
    let heads = Heads::new(compressor.users_cache(), ask.questions.len() > 1, output);
    let answers = Asking { session: &session, ask, shots, documents, options, heads: &heads, output };
    answers.run(&readers, &compressor, is_compressed)
}

/// The decoders that were named, else the default one, each once.
pub(super) fn pairs<'a>(registry: &'a arc_adapters::Registry, ask: &Ask) -> Result<Vec<Pair<'a>>, Failure> {
    let default;
    let names: Vec<&str> = match ask.decoder.is_empty() {
        false => ask.decoder.iter().map(String::as_str).collect(),
        true => {
            default = default_decoder(registry)?;
            vec![default.name.as_str()]
        }
    };
    let pairs = names
        .into_iter()
        .map(|name| Ok(registry.resolve(name, ask.encoder.as_deref())?))
        .collect::<Result<Vec<Pair<'_>>, Failure>>()?;
    Ok(distinct(&pairs))
}

/// Refuses what has no encoder or a faulty adapter, before anything is pulled.
pub(super) fn check_pairs(
    session: &Session,
    pairs: &[Pair<'_>],
    ask: &Ask,
    is_compressed: bool,
) -> Result<(), Failure> {
    for pair in pairs {
        if is_compressed {
            pair.encoder()?;
        }
        if !ask.open_book {
            session.check_adapter(&pair.decoder.name, ask.encoder.as_deref())?;
        }
    }
    Ok(())
}

/// The documents, those of answered questions first.
fn read_documents(ask: &Ask, shots: &[Row], output: &Output) -> Result<Vec<Named>, Failure> {
    // As the reference's few-shot prompts have it: their own words bring the line breaks.
    let trimmed = |text: &str| if ask.form == Form::FewShot { text.trim() } else { text }.to_owned();
    let of_shot = |(index, shot): (usize, &Row)| Named {
        name: format!("answered question {}", index + 1),
        content: Content::Text(trimmed(&shot.document)),
    };
    let mut documents: Vec<Named> = shots.iter().enumerate().map(of_shot).collect();
    for mut document in documents::read(&ask.document, ask.skip_bad, output)? {
        match &mut document.content {
            Content::Text(text) => *text = trimmed(text),
            Content::Latents(_) if ask.open_book => {
                return Err(no_text(&document.name));
            }
            Content::Latents(_) if ask.factor.is_some() => return Err(has_its_factor(&document.name)),
            Content::Latents(_) => {}
        }
        documents.push(document);
    }
    Ok(documents)
}

/// Latents are compressed at their own rate.
fn has_its_factor(name: &str) -> Failure {
    Failure::usage(
        format!("`{name}` is compressed already, `--factor` cannot change it"),
        "leave out `--factor`, or name the text itself",
    )
}

/// Latents are not read as text.
fn no_text(name: &str) -> Failure {
    Failure::usage(
        format!("`{name}` holds latents, which no decoder reads as text"),
        "name the text itself, or leave out `--open-book`",
    )
}

pub(super) fn special_vector(ask: &Ask) -> SpecialVector {
    match ask.form {
        Form::Reconstruction => SpecialVector::Rec,
        _ if ask.no_special => SpecialVector::None,
        _ => SpecialVector::Usual,
    }
}

/// How many tokens a latent is to stand for, where that was said for this pair.
pub(super) fn asked_factor(ask: &Ask, pair: &Pair<'_>) -> Option<usize> {
    ask.factor.map(u32::from).or(pair.options().factor).map(|factor| factor as usize)
}

/// All that is asked at once.
struct Asking<'a> {
    session: &'a Session,
    ask: &'a Ask,
    shots: Vec<Row>,
    documents: Vec<Named>,
    options: GenerateOptions,
    heads: &'a Heads<'a>,
    output: &'a Output,
}

/// The documents as one encoder compresses them at one rate.
struct Compressions {
    compression: Option<Compression>,
    shelf: Shelf,
    /// How long compressing took; `None` if nothing had to be.
    seconds: Option<f64>,
}

impl Asking<'_> {
    fn run(
        &self,
        readers: &[Reader<'_>],
        compressor: &Compressor<'_>,
        is_compressed: bool,
    ) -> Result<(), Failure> {
        let (ask, output) = (self.ask, self.output);
        // A form without a question is asked once.
        let questions = if ask.questions.is_empty() { vec![String::new()] } else { ask.questions.clone() };
        // Decoders that read the same encoder at the same rate are given the same latents.
        let mut compressions: Vec<Compressions> = Vec::new();
        let mut answers = Vec::new();
        for reader in readers {
            let compression = match is_compressed {
                true => {
                    let encoder = reader.pair.encoder()?;
                    Some(Compression::new(encoder, asked_factor(ask, &reader.pair))?)
                }
                false => None,
            };
            if !ask.open_book && compressions.iter().all(|other| other.compression != compression) {
                self.tell_what_fits(reader, compressor, compression.as_ref(), &questions)?;
                compressions.push(self.compress(compressor, compression.clone())?);
            }
            let of_reader = compressions.iter().find(|of| of.compression == compression);
            let warnings = of_reader.map_or_else(Vec::new, |of| warnings(reader, &of.shelf));
            for warning in &warnings {
                output.warning(warning);
            }
            for (index, question) in questions.iter().enumerate() {
                if readers.len() > 1 || questions.len() > 1 {
                    output.block(format!(
                        "{}{}: {question}",
                        if answers.is_empty() { "" } else { "\n" },
                        reader.decoder.name
                    ))?;
                }
                let (prompt, taken) = self.prompt(reader, compressor, of_reader, question)?;
                let mut options = self.options_of(reader);
                options.max_tokens = ask.sampling.max_tokens(&reader.decoder, &prompt);
                if index == 0
                    && let Some(adapted) = reader.adapter()
                {
                    warn_of_overridden_pins(&adapted.overridden_pins(), output);
                    remark_on_unpinned(adapted, output);
                }
                // Other questions are asked of other chunks.
                let is_whole = !matches!(taken, Some(Taken::Nearest { .. }));
                let place = answers.len();
                let mut answer =
                    self.answer(&reader.decoder, (&prompt, is_whole), question, &options, place)?;
                answer["encoder"] = json!(reader.pair.encoder.map(|encoder| &encoder.name));
                answer["adapter"] =
                    json!(reader.adapter().map(|adapted| adapted.adapter.origin.to_string_lossy()));
                if let Some(adapted) = reader.adapter() {
                    let (overridden, unpinned) = (adapted.overridden_pins(), adapted.unpinned());
                    add(&mut answer, "overridden_pins", !overridden.is_empty(), json!(overridden));
                    add(&mut answer, "unpinned", !unpinned.is_empty(), json!(unpinned));
                }
                add(&mut answer, "warnings", !warnings.is_empty(), json!(warnings));
                if let Some(taken) = taken {
                    add(&mut answer, "taken", matches!(taken, Taken::Nearest { .. }), taken.to_json());
                }
                let is_interrupted = answer["finish"] == json!(FinishReason::Interrupted);
                output.event("answer", &answer)?;
                answers.push(answer);
                if is_interrupted {
                    self.summarise(answers, &compressions)?;
                    return Err(Failure::interrupted());
                }
            }
        }
        self.summarise(answers, &compressions)
    }

    /// The one object of all answers.
    fn summarise(&self, answers: Vec<Value>, compressions: &[Compressions]) -> Result<(), Failure> {
        let first = compressions.first();
        let mut summary = json!({
            "source_tokens": first.map_or(0, |of| of.shelf.tokens()),
            "compress_seconds": compressions.iter().map(|of| of.seconds.unwrap_or(0.0)).sum::<f64>(),
        });
        self.output.event("summary", &summary)?;
        summary["answers"] = json!(answers);
        // As it was before there was a schema: one answer is in the object itself, too.
        if let ([answer], Some(object)) = (answers.as_slice(), summary.as_object_mut()) {
            object.extend(answer.as_object().cloned().unwrap_or_default());
        }
        self.output.json(&summary)
    }

    /// Says, before anything is compressed, that not all will fit, and what would.
    fn tell_what_fits(
        &self,
        reader: &Reader<'_>,
        compressor: &Compressor<'_>,
        compression: Option<&Compression>,
        questions: &[String],
    ) -> Result<(), Failure> {
        if self.ask.form != Form::Adapter || self.ask.top.is_some() {
            return Ok(());
        }
        let (mut latents, mut tokens) = (0, 0);
        for document in &self.documents {
            let (more_latents, more_tokens) = match (&document.content, compression) {
                (Content::Latents(file), _) => (file.len(), file.description().source_tokens),
                (Content::Text(text), Some(compression)) => {
                    compressor.extent(&document.name, text, compression)?
                }
                (Content::Text(_), None) => (0, 0),
            };
            latents += more_latents;
            tokens += more_tokens;
        }
        let longest = questions.iter().max_by_key(|question| question.len());
        let longest = longest.map_or("", String::as_str);
        let (room, extra) = reader.room(longest, special_vector(self.ask), self.ask.sampling.max_tokens)?;
        if latents + extra * self.documents.len() > room {
            let factor = compression.and_then(|compression| compression.factor);
            let name = &reader.decoder.name;
            self.output.remark(does_not_fit(name, (latents, tokens), room, factor));
        }
        Ok(())
    }

    /// The documents compressed, or as they are where they are already.
    fn compress(
        &self,
        compressor: &Compressor<'_>,
        compression: Option<Compression>,
    ) -> Result<Compressions, Failure> {
        let (shelf, seconds) = Shelf::of(&self.documents, compression.as_ref(), compressor)?;
        let (tokens, latents) = (shelf.tokens(), shelf.latents());
        if !self.output.is_json() {
            self.output.remark(match seconds {
                Some(seconds) => {
                    format!("{tokens} tokens compressed to {latents} latents in {seconds:.2} s")
                }
                None => format!("{latents} latents of {tokens} tokens"),
            });
        }
        Ok(Compressions { compression, shelf, seconds })
    }

    /// The prompt of a question, and what is taken of compressed documents for it.
    fn prompt(
        &self,
        reader: &Reader<'_>,
        compressor: &Compressor<'_>,
        compressions: Option<&Compressions>,
        question: &str,
    ) -> Result<(Prompt, Option<Taken>), Failure> {
        let (ask, special) = (self.ask, special_vector(self.ask));
        let texts = || self.documents.iter().filter_map(Named::text);
        let device = self.session.device();
        let contexts = self.documents.len() - self.shots.len();
        if let Some(form) = prompt_form::form(ask, &self.shots, question, contexts, &reader.decoder)? {
            let spans = match compressions {
                None => texts()
                    .map(|text| Ok(Span::Tokens(reader.decoder.tokenizer.encode(text)?.ids)))
                    .collect::<Result<Vec<_>, Failure>>()?,
                Some(of) => of
                    .shelf
                    .read(&Taken::All, device)?
                    .iter()
                    .map(|latents| Ok(Span::Latents(reader.adapted()?.project_with(latents, special)?)))
                    .collect::<Result<Vec<_>, Failure>>()?,
            };
            return Ok((assemble(&form, reader, &spans)?, None));
        }
        let Some(of) = compressions else {
            let text = texts().collect::<Vec<_>>().join("\n\n");
            return Ok((reader.prompt_with_text(&text, question)?, None));
        };
        let room = reader.room(question, special_vector(self.ask), self.ask.sampling.max_tokens)?;
        let taken = of.shelf.take(question, room, ask.top, || self.encoder_of(reader, compressor, of))?;
        if let Taken::Nearest { chunks, of: all } = &taken {
            let count: usize = chunks.iter().map(Vec::len).sum();
            self.output
                .remark(format!("read are the {count} of {all} chunks that are nearest to the question"));
        }
        let latents: Vec<Latents> = of.shelf.read(&taken, device)?;
        Ok((reader.prompt(&latents, question, special)?, Some(taken)))
    }

    /// The encoder of latents that are chosen among, to compress the question with.
    fn encoder_of(
        &self,
        reader: &Reader<'_>,
        compressor: &Compressor<'_>,
        of: &Compressions,
    ) -> Result<(std::sync::Arc<arc_core::encoder::Encoder>, Compression), Failure> {
        let compression = match &of.compression {
            Some(compression) => compression.clone(),
            None => Compression::new(reader.pair.encoder()?, asked_factor(self.ask, &reader.pair))?,
        };
        for document in of.shelf.documents() {
            let made_by = &document.latents.description().encoder_id;
            if *made_by != compression.encoder_id {
                return Err(Failure::failed(
                    format!(
                        "`{}` does not fit the window, and was made by another encoder than `{}`",
                        document.name, compression.encoder
                    ),
                    "name the encoder that made it with `--encoder`, so that chunks can be chosen",
                ));
            }
        }
        Ok((compressor.encoder(&compression)?, compression))
    }

    fn options_of(&self, reader: &Reader<'_>) -> GenerateOptions {
        let ask = self.ask;
        let mut options = self.options.clone();
        if options.stop.is_empty() {
            options.stop.clone_from(&reader.pair.options().stop);
            options.stop.extend(prompt_form::stop(ask.form).map(str::to_owned));
        }
        options.answer_ends = match (ask.answer_ends, ask.form) {
            (Some(end), _) => Some(end.into()),
            (None, Form::Adapter) => Some(reader.answer_ends),
            (None, _) => None,
        };
        options.interrupted = Some(stop_on_interrupt());
        options
    }

    fn answer(
        &self,
        decoder: &Decoder,
        (prompt, is_whole): (&Prompt, bool),
        question: &str,
        options: &GenerateOptions,
        place: usize,
    ) -> Result<Value, Failure> {
        let mut printed = Ok(());
        let answered =
            self.heads.generate(decoder, std::slice::from_ref(prompt), is_whole, options, |_, text| {
                if printed.is_ok() {
                    printed = self
                        .output
                        .piece(text)
                        .and_then(|()| self.output.event("text", &json!({ "answer": place, "text": text })));
                }
                if printed.is_err()
                    && let Some(interrupted) = &options.interrupted
                {
                    // Nobody reads it any more.
                    interrupted.store(true, Ordering::SeqCst);
                }
            })?;
        printed?;
        self.output.line("")?;
        let Answered { generations, kept } = answered;
        let row = &generations.rows[0];
        self.output.detail(format!(
            "{}: {} positions read in {:.2} s ({kept} of them before), {} tokens written in {:.2} s, \
             {} bytes of keys and values",
            decoder.name,
            prompt.len(),
            generations.timings.prefill.as_secs_f64(),
            row.token_ids.len(),
            generations.timings.decode.as_secs_f64(),
            generations.kv_cache_bytes,
        ));
        Ok(json!({
            "decoder": decoder.name,
            "question": question,
            "text": row.text,
            "token_ids": row.token_ids,
            "finish": row.finish,
            "prompt_tokens": prompt.token_ids().len(),
            "latents": prompt.latent_count(),
            "positions_read_before": kept,
            "timings": timings(&generations.timings),
        }))
    }
}

fn assemble(form: &PromptForm, reader: &Reader<'_>, spans: &[Span]) -> Result<Prompt, Failure> {
    Ok(form.assemble(&reader.decoder.tokenizer, spans)?)
}

/// Adds a key where there is something to say.
pub(super) fn add(answer: &mut Value, key: &str, is_said: bool, value: Value) {
    if is_said {
        answer[key] = value;
    }
}

/// What the reader of an answer should know of the latents that it was given about.
fn warnings(reader: &Reader<'_>, shelf: &Shelf) -> Vec<String> {
    let factors: BTreeSet<usize> =
        shelf.documents().iter().map(|document| document.latents.description().factor).collect();
    reader.adapter().map_or_else(Vec::new, |adapted| warnings_of_factors(adapted, factors).collect())
}

/// Times in seconds.
pub(super) fn timings(timings: &Timings) -> Value {
    json!({
        "prefill_seconds": timings.prefill.as_secs_f64(),
        "first_token_seconds": timings.first_token.as_secs_f64(),
        "decode_seconds": timings.decode.as_secs_f64(),
    })
}
