//! From what a request says to what a decoder reads: names to models, documents to latents, both to prompts.

use std::sync::Arc;
use std::time::Instant;

use arc_adapters::AnswerEnd;
use arc_core::AdaptedDecoder;
use arc_core::decoder::{Decoder, GenerateOptions};
use arc_core::encoder::{Encoder, Latents, LatentsFile};
use arc_core::prompt::{Prompt, PromptForm, Span, Turn, TurnPart};
use arc_core::sampling::SamplingOptions;
use axum::http::StatusCode;
use tokio::sync::oneshot;

use super::App;
use super::errors::Failure;
use super::router::random;
use super::wire::{ArcOptions, CHOICES, ChatMessage, Document, Form};
use crate::latents::{Found, NoLatents, Waiter};

/// What an answer is made by.
pub(crate) struct Reader {
    pub(crate) decoder: Arc<Decoder>,
    /// With its adapter, where latents or the adapter's prompt are wanted.
    pub(crate) adapted: Option<Arc<AdaptedDecoder>>,
    /// Who compresses, where something is to be compressed.
    pub(crate) encoder: Option<Arc<Encoder>>,
    pub(crate) factor: Option<usize>,
    pub(crate) form: Form,
    /// Texts that end an answer where the request names none.
    pub(crate) stop: Vec<String>,
}

/// Documents as they are read.
#[derive(Default)]
pub(crate) struct Read {
    /// One for each document, where they are compressed.
    pub(crate) latents: Vec<Arc<Latents>>,
    /// One for each document, where they are read as text.
    pub(crate) texts: Vec<String>,
    /// Latents that nobody had to compute for this request.
    pub(crate) hits: usize,
}

impl Read {
    pub(crate) fn len(&self) -> usize {
        self.latents.len() + self.texts.len()
    }

    /// Tokens of the encoder that the latents stand for.
    pub(crate) fn source_tokens(&self) -> usize {
        self.latents.iter().map(|latents| latents.source_tokens).sum()
    }
}

/// Does what blocks on a thread for it, within the time that there is.
pub(crate) async fn blocking<T: Send + 'static>(
    deadline: Instant,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::time::timeout_at(deadline.into(), tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => done,
        Ok(Err(panic)) => Err(Failure::internal(panic.to_string())),
        Err(_) => Err(Failure::time_up()),
    }
}

/// Finds and loads what a request names. `reads_documents` says whether there are any.
pub(crate) fn reader(
    app: &App,
    model: &str,
    arc: &ArcOptions,
    reads_documents: bool,
    is_chat: bool,
) -> Result<Reader, Failure> {
    let registry = app.session.registry();
    let name = registry.decoder(model).map_err(|error| Failure::from(error).of("model"))?.name.clone();
    let compresses = reads_documents && arc.open_book != Some(true);
    let adapted = |app: &App| match &arc.encoder {
        Some(encoder) => app.session.adapted_decoder_for(&name, encoder),
        None => app.session.adapted_decoder(&name),
    };
    let mut reader = match compresses || arc.form == Some(Form::Adapter) {
        true => {
            let adapted = adapted(app)?;
            let decoder = Arc::clone(&adapted.decoder);
            Reader::of(decoder, Some(adapted))
        }
        false => Reader::of(app.session.decoder(&name)?, None),
    };
    let has_template = reader.decoder.chat_template.is_some();
    reader.form = match arc.form {
        Some(Form::Chat) if !has_template => {
            let message = format!("`{name}` has no chat template, as base models have not");
            return Err(
                Failure::invalid(message, "leave `arc.form` out, or set it to `adapter`").of("arc.form")
            );
        }
        Some(form) => form,
        None if has_template || !is_chat => Form::Chat,
        None => Form::Adapter,
    };
    if is_chat && reader.form == Form::Adapter && reader.adapted.is_none() {
        reader.adapted = Some(adapted(app)?);
    }
    let pair = registry.resolve(&name, arc.encoder.as_deref())?;
    reader.stop.clone_from(&pair.options().stop);
    if compresses {
        reader.encoder = Some(match &arc.encoder {
            Some(encoder) => app.session.encoder_named(encoder)?,
            None => app.session.encoder_for(&name)?,
        });
        let factor = arc.factor.or(pair.options().factor);
        if factor == Some(0) {
            return Err(Failure::value("arc.factor", 0, "1 or more"));
        }
        reader.factor = factor.map(|factor| factor as usize);
    } else if arc.factor.is_some() {
        let hint = "give documents, and leave out `arc.open_book`";
        return Err(
            Failure::invalid("`arc.factor` is there, and nothing is compressed", hint).of("arc.factor")
        );
    }
    Ok(reader)
}

impl Reader {
    fn of(decoder: Arc<Decoder>, adapted: Option<Arc<AdaptedDecoder>>) -> Self {
        Self { decoder, adapted, encoder: None, factor: None, form: Form::Chat, stop: Vec::new() }
    }
}

/// Where a document comes from.
pub(crate) enum Source {
    /// From the request, with its title as the first line.
    Text(String),
    /// From the folder of those that were compressed before.
    Stored(Arc<LatentsFile>),
}

/// Where documents come from.
pub(crate) fn sources(app: &App, documents: Vec<Document>, open_book: bool) -> Result<Vec<Source>, Failure> {
    let source = |(index, Document { title, text, id }): (usize, Document)| {
        let field = |name: &str| format!("documents[{index}].{name}");
        match (text, id) {
            (Some(text), None) => {
                titled(title, text).map(Source::Text).map_err(|failure| failure.of(field("text")))
            }
            (None, Some(_)) if title.is_some() || open_book => {
                let message = "a stored document is latents, without a title or a text to be read";
                Err(Failure::invalid(message, "give its `text`, or its `id` alone").of(field("id")))
            }
            (None, Some(id)) => {
                let stored = app.stored.get(&id).cloned().map(Source::Stored);
                stored.ok_or_else(|| {
                    let message = "there is no stored document of this id";
                    let hint =
                        "ids are names in the server's `--documents` folder, without `.arc.safetensors`";
                    Failure::new(StatusCode::NOT_FOUND, "document_not_found", message, hint).of(field("id"))
                })
            }
            _ => {
                let message = "a document has a text or an id, and not both";
                Err(Failure::invalid(message, "give its `text`, or the `id` of a stored one")
                    .of(field("text")))
            }
        }
    };
    documents.into_iter().enumerate().map(source).collect()
}

/// A text with its title as the first line.
pub(crate) fn titled(title: Option<String>, text: String) -> Result<String, Failure> {
    if text.trim().is_empty() {
        return Err(Failure::invalid("a document is empty", "give its text, or leave it out"));
    }
    Ok(match title.filter(|title| !title.trim().is_empty()) {
        Some(title) => format!("{}\n\n{text}", title.trim()),
        None => text,
    })
}

struct Wanting {
    give: oneshot::Sender<Result<Found, NoLatents>>,
    room: usize,
}

impl Waiter for Wanting {
    fn waits(&self) -> bool {
        !self.give.is_closed()
    }

    fn room(&self) -> usize {
        self.room
    }

    fn take(self: Box<Self>, found: Result<Found, NoLatents>) {
        // Whoever wanted it may be gone.
        let _ = self.give.send(found);
    }
}

/// What comes of a document.
enum Coming {
    There(Arc<Latents>),
    Wanted(oneshot::Receiver<Result<Found, NoLatents>>),
}

/// Documents as the reader takes them: compressed, or as they are. Each may have so many latents.
pub(crate) async fn read(
    app: &App,
    encoder: Option<&Arc<Encoder>>,
    factor: Option<usize>,
    sources: Vec<Source>,
    room: usize,
    deadline: Instant,
) -> Result<Read, Failure> {
    let mut read = Read::default();
    let mut coming = Vec::with_capacity(sources.len());
    for source in sources {
        match (source, encoder) {
            (Source::Text(text), None) => read.texts.push(text),
            (Source::Text(text), Some(encoder)) => {
                let (give, take) = oneshot::channel();
                app.latents.get(encoder, factor, text.into(), Box::new(Wanting { give, room }));
                coming.push(Coming::Wanted(take));
            }
            (Source::Stored(file), _) => {
                if file.len() > room {
                    let (tokens, latents) = (file.description().source_tokens, file.len());
                    return Err(NoLatents::TooMany { tokens, latents, room }.into());
                }
                let device = app.session.device().clone();
                let latents = blocking(deadline, move || Ok(file.read(&device)?)).await?;
                if encoder.is_some_and(|encoder| encoder.id != latents.encoder_id) {
                    let message = "a stored document was compressed by another encoder than the model reads";
                    let hint = "name that encoder as `arc.encoder`, or give the document's text";
                    let status = StatusCode::BAD_REQUEST;
                    return Err(Failure::new(status, "document", message, hint).of("documents"));
                }
                coming.push(Coming::There(Arc::new(latents)));
            }
        }
    }
    for coming in coming {
        let wanted = match coming {
            Coming::Wanted(wanted) => wanted,
            Coming::There(latents) => {
                read.hits += 1;
                read.latents.push(latents);
                continue;
            }
        };
        let found = match tokio::time::timeout_at(deadline.into(), wanted).await {
            Ok(Ok(found)) => found?,
            Ok(Err(_)) => return Err(Failure::closing()),
            Err(_) => return Err(Failure::time_up()),
        };
        read.hits += usize::from(found.is_hit);
        read.latents.push(found.latents);
    }
    Ok(read)
}

impl Reader {
    /// The documents' latents in the decoder's space, and the vector after each.
    fn projected(&self, read: &Read) -> Result<Vec<Span>, Failure> {
        let Some(adapted) = self.adapted.as_ref().filter(|_| !read.latents.is_empty()) else {
            return Ok(Vec::new());
        };
        read.latents.iter().map(|latents| Ok(Span::Latents(adapted.project(latents)?))).collect()
    }

    /// The prompt of a conversation, whose first turn of a user begins with the documents.
    pub(crate) fn chat_prompt(&self, messages: &[ChatMessage], read: &Read) -> Result<Prompt, Failure> {
        let said =
            |message: &ChatMessage| message.content.as_ref().map_or_else(String::new, |said| said.0.clone());
        if let (Form::Adapter, Some(adapted)) = (self.form, &self.adapted) {
            let [question] = messages else {
                let message = format!(
                    "`{}` is asked with its adapter's prompt, which has one question and no other turns",
                    self.decoder.name
                );
                return Err(Failure::invalid(message, "send one message, of role `user`").of("messages"));
            };
            if question.role != "user" {
                return Err(Failure::value("messages[0].role", format!("`{}`", question.role), "`user`"));
            }
            let question = said(question);
            return Ok(match read.texts.is_empty() {
                true => {
                    let latents: Vec<Latents> =
                        read.latents.iter().map(|latents| Latents::clone(latents)).collect();
                    adapted.prompt(&latents, &question)?
                }
                false => adapted.prompt_with_text(&read.texts.join("\n\n"), &question)?,
            });
        }
        let Some(template) = &self.decoder.chat_template else {
            return Err(Failure::internal("a chat form without a template"));
        };
        let mut documents_are_due = read.len() > 0;
        let mut turns = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let role = match message.role.as_str() {
                "developer" => "system",
                role @ ("system" | "user" | "assistant") => role,
                other => {
                    let other: String = other.chars().take(40).collect();
                    let expected = "`system`, `developer`, `user` or `assistant`";
                    return Err(Failure::value(
                        &format!("messages[{index}].role"),
                        format!("`{other}`"),
                        expected,
                    ));
                }
            };
            let mut parts = Vec::new();
            let mut text = String::new();
            if role == "user" && std::mem::take(&mut documents_are_due) {
                for _ in &read.latents {
                    parts.push(TurnPart::Context);
                    parts.push(TurnPart::Text("\n".into()));
                }
                // One text with what is said, so that it is tokenised as one.
                for document in &read.texts {
                    text.push_str(document);
                    text.push('\n');
                }
            }
            text.push_str(&said(message));
            match parts.last_mut() {
                Some(TurnPart::Text(before)) => before.push_str(&text),
                _ => parts.push(TurnPart::Text(text)),
            }
            turns.push(Turn { role: role.to_owned(), parts });
        }
        if documents_are_due {
            let message = "there are documents, and no message of role `user` that is about them";
            return Err(Failure::invalid(message, "add a message of role `user`").of("messages"));
        }
        let form = PromptForm::conversation(template, &turns)?;
        Ok(form.assemble(&self.decoder.tokenizer, &self.projected(read)?)?)
    }

    /// A prompt to be continued, behind the documents.
    pub(crate) fn completion_prompt(
        &self,
        prompt: &super::wire::PromptText,
        read: &Read,
    ) -> Result<Prompt, Failure> {
        use super::wire::PromptText;
        let tokenizer = &self.decoder.tokenizer;
        if read.len() == 0 {
            return Ok(Prompt::from_tokens(match prompt {
                PromptText::Text(text) => tokenizer.encode_prompt(text)?,
                PromptText::Ids(ids) => ids.clone(),
            }));
        }
        let mut whole = Prompt::new().tokens(tokenizer.beginning());
        for span in self.projected(read)? {
            whole.push(span);
        }
        let text: String = read.texts.iter().map(|text| format!("{text}\n")).collect();
        whole = whole.tokens(tokenizer.encode(&text)?.ids);
        Ok(match prompt {
            PromptText::Text(text) => whole.tokens(tokenizer.encode_ids(text)?),
            PromptText::Ids(ids) => whole.tokens(ids.clone()),
        })
    }

    /// Refuses a prompt that the decoder cannot read, and says how many tokens are written behind one that it can.
    pub(crate) fn room(&self, prompt: &Prompt, asked: Option<usize>, usual: usize) -> Result<usize, Failure> {
        let network = &self.decoder.network;
        if prompt.is_empty() {
            return Err(Failure::invalid("the prompt is empty", "say something"));
        }
        let vocabulary = network.vocabulary();
        if let Some(id) = prompt.token_ids().iter().find(|&&id| id as usize >= vocabulary) {
            return Err(Failure::value("prompt", format!("token {id}"), &format!("ids below {vocabulary}")));
        }
        let (window, positions) = (network.config().context_length, prompt.len());
        let room = self.decoder.room_behind(prompt);
        let max_new = asked.unwrap_or(usual.min(room).max(1));
        if max_new > room {
            let decoder = self.decoder.name.clone();
            return Err(arc_core::Error::WindowExceeded { decoder, positions, max_new, window }.into());
        }
        Ok(max_new)
    }

    /// Where answers end beside the model's own end.
    pub(crate) fn answer_ends(&self, is_chat: bool) -> Option<AnswerEnd> {
        let adapted = self.adapted.as_ref().filter(|_| is_chat && self.form == Form::Adapter);
        adapted.map(|adapted| adapted.answer_ends())
    }
}

/// How tokens are to be chosen, as requests say it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choosing {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) seed: Option<i64>,
    pub(crate) n: Option<u32>,
    pub(crate) stop: Vec<String>,
}

impl Choosing {
    /// What each of the answers to one prompt is written with, but for its length.
    pub(crate) fn options(&self) -> Result<Vec<GenerateOptions>, Failure> {
        let n = self.n.unwrap_or(1);
        if !(1..=CHOICES).contains(&n) {
            return Err(Failure::value("n", n, &format!("1 to {CHOICES}")));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Failure::value("stop", "an empty text", "texts of one character or more"));
        }
        // What OpenAI's own endpoints do where nothing is said.
        let temperature = self.temperature.unwrap_or(1.0);
        for (field, value, is_good, expected) in [
            ("temperature", Some(temperature), (0.0..=2.0).contains(&temperature), "0 to 2"),
            (
                "top_p",
                self.top_p,
                self.top_p.is_none_or(|p| p > 0.0 && p <= 1.0),
                "more than 0, and 1 at most",
            ),
            ("min_p", self.min_p, self.min_p.is_none_or(|p| (0.0..=1.0).contains(&p)), "0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                self.repetition_penalty.is_none_or(|penalty| penalty > 0.0 && penalty.is_finite()),
                "more than 0",
            ),
        ] {
            if let Some(value) = value.filter(|_| !is_good) {
                return Err(Failure::value(field, value, expected));
            }
        }
        let seed = self.seed.map_or_else(random, i64::cast_unsigned);
        let options = |choice: u32| {
            let usual = SamplingOptions::default();
            let sampling = usual
                .temperature(temperature)
                .top_p(self.top_p.unwrap_or(usual.top_p))
                .top_k(self.top_k.map_or(usual.top_k, |top_k| top_k as usize))
                .min_p(self.min_p.unwrap_or(usual.min_p))
                .repetition_penalty(self.repetition_penalty.unwrap_or(usual.repetition_penalty))
                .seed(seed.wrapping_add(u64::from(choice)));
            let options = GenerateOptions::default().sampling(sampling).stop(self.stop.clone());
            options.check()?;
            Ok(options)
        };
        (0..n).map(options).collect()
    }
}
