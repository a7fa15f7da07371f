//! Answers, whole and in pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_core::decoder::{Decoder, FinishReason};
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Response};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::App;
use super::errors::Failure;
use super::router;
use crate::engine::{Event, Listener, TokenWritten};

/// A stream that says nothing for so long says that it is there, for what lies between.
const QUIET: Duration = Duration::from_secs(15);

/// Which of OpenAI's objects an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
}

/// Hears of one of a request's prompts.
pub(crate) struct Channel {
    pub(crate) prompt: usize,
    pub(crate) events: UnboundedSender<(usize, Event)>,
}

impl Listener for Channel {
    fn hear(&mut self, event: Event) {
        // Whoever listened may be gone: the engine asks that before its next step.
        let _ = self.events.send((self.prompt, event));
    }

    fn listens(&self) -> bool {
        !self.events.is_closed()
    }
}

/// What the answers to a request cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    /// Positions of the prompts, latents among them.
    pub(crate) prompt: usize,
    pub(crate) completion: usize,
    pub(crate) latents: usize,
    /// Tokens that the latents stand for.
    pub(crate) source_tokens: usize,
    /// Documents whose latents were there.
    pub(crate) cached: usize,
}

/// A request whose prompts are with an engine.
pub(crate) struct Answering {
    pub(crate) app: Arc<App>,
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) decoder: Arc<Decoder>,
    /// Answers to one prompt.
    pub(crate) n: usize,
    /// How many likeliest tokens are told, where probabilities are.
    pub(crate) likeliest: Option<usize>,
    pub(crate) usage: Usage,
    /// What arc tells of an answer: who made its latents.
    pub(crate) made_by: Value,
    pub(crate) events: UnboundedReceiver<(usize, Event)>,
    pub(crate) start: Instant,
    pub(crate) place: OwnedSemaphorePermit,
    pub(crate) include_usage: bool,
    pub(crate) texts: Vec<Text>,
    pub(crate) first_token: Option<Duration>,
}

/// One of the answers as far as it is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    text: String,
    tokens: Vec<TokenWritten>,
    finish: Option<FinishReason>,
    /// Characters that the tokens told so far make, for `text_offset`.
    offset: usize,
    has_begun: bool,
}

/// A piece of an answer, as a stream tells it.
struct Piece {
    choice: usize,
    text: String,
    tokens: Vec<TokenWritten>,
    finish: Option<FinishReason>,
}

impl Answering {
    /// Waits until a prompt is being read, so that what fails before has a status of its own.
    pub(crate) async fn begun(&mut self) -> Result<(), Failure> {
        match self.events.recv().await {
            Some((_, Event::Begun)) => Ok(()),
            Some((_, event)) => Err(failure_of(event)),
            None => Err(Failure::closing()),
        }
    }

    fn is_done(&self) -> bool {
        self.texts.iter().all(|text| text.finish.is_some())
    }

    /// Takes an event in, and gives what of an answer it makes certain.
    fn take(&mut self, prompt: usize, event: Event) -> Result<Option<Piece>, Failure> {
        match event {
            Event::Begun => Ok(None),
            Event::Token { text, token, piece } => {
                let choice = prompt * self.n + text;
                self.usage.completion += 1;
                if self.first_token.is_none() {
                    let took = self.start.elapsed();
                    self.first_token = Some(took);
                    self.app.metrics.first_token(&self.decoder.name, took);
                }
                // What the text does not show is not told as one of its tokens.
                let is_told = self.likeliest.is_some() && !self.decoder.tokenizer.is_special(token.id);
                let tokens = if is_told { vec![token] } else { Vec::new() };
                let own = &mut self.texts[choice];
                own.text.push_str(&piece);
                own.tokens.extend(tokens.iter().cloned());
                Ok(Some(Piece { choice, text: piece, tokens, finish: None }))
            }
            Event::Ended { text, finish, rest } => {
                let choice = prompt * self.n + text;
                let own = &mut self.texts[choice];
                own.text.push_str(&rest);
                own.finish = Some(finish);
                Ok(Some(Piece { choice, text: rest, tokens: Vec::new(), finish: Some(finish) }))
            }
            event => Err(failure_of(event)),
        }
    }

    /// All answers, once they are written.
    pub(crate) async fn whole(mut self) -> router::Answer {
        while !self.is_done() {
            match self.events.recv().await {
                Some((prompt, event)) => drop(self.take(prompt, event)?),
                None => return Err(Failure::closing()),
            }
        }
        self.count();
        let choices: Vec<Value> = std::mem::take(&mut self.texts)
            .into_iter()
            .enumerate()
            .map(|(index, text)| {
                let logprobs = self.logprobs(&text.tokens, 0);
                let finish = finish_name(text.finish);
                match self.kind {
                    Kind::Chat => json!({
                        "index": index,
                        "message": { "role": "assistant", "content": text.text, "refusal": null },
                        "logprobs": logprobs, "finish_reason": finish,
                    }),
                    Kind::Completion => {
                        json!({ "index": index, "text": text.text, "logprobs": logprobs, "finish_reason": finish })
                    }
                }
            })
            .collect();
        let mut object = self.object(false);
        object["choices"] = choices.into();
        object["usage"] = self.usage();
        object["arc"] = self.about();
        Ok(router::json(&object))
    }

    /// The answers as they are written, as server-sent events.
    pub(crate) fn stream(self) -> Response<Body> {
        let streaming = Streaming { pending: VecDeque::new(), answering: Some(self) };
        let stream = futures_util::stream::unfold(streaming, |mut streaming| async move {
            let next = streaming.next().await?;
            Some((Ok::<Bytes, std::convert::Infallible>(next), streaming))
        });
        let mut response = Response::new(Body::from_stream(stream));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }

    fn count(&self) {
        self.app.metrics.tokens(&self.decoder.name, &self.usage);
        let ms = self.start.elapsed().as_millis() as u64;
        let first_token_ms = self.first_token.map(|first| first.as_millis() as u64);
        let Usage { prompt, completion, latents, cached, .. } = self.usage;
        let (request, model) = (&self.id, &self.decoder.name);
        tracing::info!(request, model, prompt, latents, cached, completion, first_token_ms, ms, "written");
    }

    /// An answer's object without its choices.
    fn object(&self, is_chunk: bool) -> Value {
        let (prefix, kind) = match (self.kind, is_chunk) {
            (Kind::Chat, false) => ("chatcmpl", "chat.completion"),
            (Kind::Chat, true) => ("chatcmpl", "chat.completion.chunk"),
            (Kind::Completion, _) => ("cmpl", "text_completion"),
        };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // It began when it was asked for, for every chunk of it.
        let created = created.saturating_sub(self.start.elapsed()).as_secs();
        json!({
            "id": format!("{prefix}-{}", self.id), "object": kind, "created": created,
            "model": self.decoder.name, "choices": [],
        })
    }

    fn usage(&self) -> Value {
        let Usage { prompt, completion, latents, source_tokens, cached } = self.usage;
        json!({
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "arc": { "latents": latents, "document_tokens": source_tokens, "documents_cached": cached },
        })
    }

    fn about(&self) -> Value {
        let mut about = self.made_by.clone();
        about["first_token_ms"] = self.first_token.map(|first| first.as_millis() as u64).into();
        about["total_ms"] = (self.start.elapsed().as_millis() as u64).into();
        about
    }

    /// How likely tokens were, as the kind of answer tells it; `offset` is where in the text the first begins.
    fn logprobs(&self, tokens: &[TokenWritten], offset: usize) -> Value {
        let Some(likeliest) = self.likeliest else { return Value::Null };
        let tokenizer = &self.decoder.tokenizer;
        let text = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
        match self.kind {
            Kind::Chat => {
                let entry = |id: u32, logprob: f32| json!({ "token": text(id), "logprob": logprob, "bytes": tokenizer.token_bytes(id) });
                let content: Vec<Value> = tokens
                    .iter()
                    .map(|token| {
                        let mut told = entry(token.id, token.logprob.unwrap_or_default());
                        let likeliest = token.likeliest.iter().map(|&(id, logprob)| entry(id, logprob));
                        told["top_logprobs"] = likeliest.collect();
                        told
                    })
                    .collect();
                json!({ "content": content, "refusal": null })
            }
            Kind::Completion => {
                let mut at = offset;
                let offsets = tokens.iter().map(|token| {
                    let here = at;
                    at += text(token.id).chars().count();
                    here
                });
                let offsets: Vec<usize> = offsets.collect();
                let tops = tokens.iter().map(|token| {
                    let pairs = token.likeliest.iter().map(|&(id, logprob)| (text(id), json!(logprob)));
                    Value::Object(pairs.collect())
                });
                let tops = if likeliest > 0 { tops.collect() } else { Value::Null };
                json!({
                    "tokens": tokens.iter().map(|token| text(token.id)).collect::<Vec<_>>(),
                    "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
                    "top_logprobs": tops, "text_offset": offsets,
                })
            }
        }
    }

    /// The chunks of a stream that tell a piece.
    fn chunks(&mut self, piece: Piece) -> Vec<Value> {
        let Piece { choice, text, tokens, finish } = piece;
        let offset = self.texts[choice].offset;
        let logprobs = if tokens.is_empty() { Value::Null } else { self.logprobs(&tokens, offset) };
        let characters = |token: &TokenWritten| {
            String::from_utf8_lossy(self.decoder.tokenizer.token_bytes(token.id)).chars().count()
        };
        let more: usize = tokens.iter().map(characters).sum();
        self.texts[choice].offset += more;
        let mut choices = Vec::new();
        let is_first = !std::mem::replace(&mut self.texts[choice].has_begun, true);
        match self.kind {
            Kind::Chat => {
                let mut tell = |delta: Value, logprobs: Value, finish: Value| {
                    choices.push(json!({
                        "index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish,
                    }));
                };
                if is_first {
                    tell(json!({ "role": "assistant", "content": "" }), Value::Null, Value::Null);
                }
                if !text.is_empty() || !logprobs.is_null() {
                    tell(json!({ "content": text }), logprobs, Value::Null);
                }
                if finish.is_some() {
                    tell(json!({}), Value::Null, finish_name(finish).into());
                }
            }
            Kind::Completion => {
                if !text.is_empty() || !logprobs.is_null() || finish.is_some() {
                    let finish = finish.map(|finish| finish_name(Some(finish)));
                    choices.push(json!({
                        "index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish,
                    }));
                }
            }
        }
        let with_usage = self.include_usage;
        choices
            .into_iter()
            .map(|choice| {
                let mut chunk = self.object(true);
                chunk["choices"] = json!([choice]);
                if with_usage {
                    chunk["usage"] = Value::Null;
                }
                chunk
            })
            .collect()
    }
}

/// A stream that is being sent. Where the client is gone it is dropped, and with it what the engine's listener asks.
struct Streaming {
    pending: VecDeque<Bytes>,
    /// Nothing once all is told.
    answering: Option<Answering>,
}

impl Streaming {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.pending.pop_front() {
                return Some(bytes);
            }
            let answering = self.answering.as_mut()?;
            let taken = match tokio::time::timeout(QUIET, answering.events.recv()).await {
                Err(_) => return Some(Bytes::from_static(b": still here\n\n")),
                Ok(Some((prompt, event))) => answering.take(prompt, event),
                Ok(None) => Err(Failure::closing()),
            };
            match taken {
                Ok(None) => {}
                Ok(Some(piece)) => {
                    let chunks = answering.chunks(piece);
                    self.pending.extend(chunks.iter().map(event_of));
                    if answering.is_done() {
                        self.end();
                    }
                }
                Err(failure) => {
                    tracing::warn!(
                        request = answering.id,
                        code = failure.code,
                        cause = failure.cause,
                        "cut off"
                    );
                    self.pending.push_back(event_of(&failure.body(&answering.id)));
                    self.answering = None;
                }
            }
        }
    }

    fn end(&mut self) {
        let Some(answering) = self.answering.take() else { return };
        answering.count();
        if answering.include_usage {
            let mut chunk = answering.object(true);
            chunk["usage"] = answering.usage();
            chunk["arc"] = answering.about();
            self.pending.push_back(event_of(&chunk));
        }
        self.pending.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        drop(answering.place);
    }
}

fn event_of(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

fn failure_of(event: Event) -> Failure {
    match event {
        Event::TimeUp => Failure::time_up(),
        Event::Failed(error) => error.into(),
        _ => Failure::internal("an engine's step ended in a panic"),
    }
}

fn finish_name(finish: Option<FinishReason>) -> &'static str {
    match finish {
        Some(FinishReason::Length) => "length",
        _ => "stop",
    }
}
