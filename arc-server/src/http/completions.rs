//! `/v1/chat/completions` and `/v1/completions`.

use std::sync::Arc;

use arc_core::decoder::GenerateOptions;
use arc_core::prompt::Prompt;
use serde_json::json;

use super::answer::{Answering, Channel, Kind, Text, Usage};
use super::errors::Failure;
use super::prepare::{self, Choosing, Read, Reader};
use super::router::{Answer, Asked};
use super::wire::{ArcOptions, ChatRequest, CompletionRequest, Document, LIKELIEST, read};
use crate::engine::{Job, kv_bytes};

/// New tokens of a completion where a request does not say how many, as with OpenAI.
const COMPLETION_TOKENS: usize = 16;

/// What both kinds of requests come to.
struct Request {
    kind: Kind,
    model: String,
    documents: Vec<Document>,
    arc: ArcOptions,
    max_tokens: Option<u32>,
    choosing: Choosing,
    likeliest: Option<usize>,
    stream: bool,
    include_usage: bool,
}

macro_rules! shared {
    ($kind:expr, $request:ident, $max_tokens:expr, $likeliest:expr) => {
        Request {
            kind: $kind,
            model: $request.model,
            documents: $request.documents.map(|documents| documents.0).unwrap_or_default(),
            arc: $request.arc.unwrap_or_default(),
            max_tokens: $max_tokens,
            choosing: Choosing {
                temperature: $request.temperature,
                top_p: $request.top_p,
                top_k: $request.top_k,
                min_p: $request.min_p,
                repetition_penalty: $request.repetition_penalty,
                seed: $request.seed,
                n: $request.n,
                stop: $request.stop.unwrap_or_default().0,
            },
            likeliest: $likeliest,
            stream: $request.stream == Some(true),
            include_usage: $request.stream_options.is_some_and(|options| options.include_usage == Some(true)),
        }
    };
}

fn likeliest(field: &str, asked: Option<u32>) -> Result<Option<usize>, Failure> {
    match asked.filter(|&asked| asked > LIKELIEST) {
        Some(asked) => Err(Failure::value(field, asked, &format!("0 to {LIKELIEST}"))),
        None => Ok(asked.map(|asked| asked as usize)),
    }
}

/// A conversation is answered.
pub(super) async fn chat(asked: Asked) -> Answer {
    let request: ChatRequest = read(&asked.body)?;
    request.refuse()?;
    if request.response_format.as_ref().is_some_and(|format| format.kind != "text") {
        return Err(Failure::unsupported("response_format"));
    }
    request.messages.0.iter().try_for_each(|message| message.check())?;
    if request.messages.0.is_empty() {
        return Err(Failure::invalid("there are no messages", "send one, of role `user`").of("messages"));
    }
    let told = match (request.logprobs, request.top_logprobs) {
        (Some(true), top) => Some(top.unwrap_or(0)),
        (_, None | Some(0)) => None,
        (_, Some(_)) => {
            let message = "`top_logprobs` is there without `logprobs`";
            return Err(Failure::invalid(message, "set `logprobs`, or leave it out").of("top_logprobs"));
        }
    };
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    let likeliest = likeliest("top_logprobs", told)?;
    let messages = request.messages.0;
    let shared = shared!(Kind::Chat, request, max_tokens, likeliest);
    let prompts = move |reader: &Reader, read: &Read| Ok(vec![reader.chat_prompt(&messages, read)?]);
    answer(asked, shared, prompts).await
}

/// Prompts are continued.
pub(super) async fn complete(asked: Asked) -> Answer {
    let request: CompletionRequest = read(&asked.body)?;
    request.refuse()?;
    let texts = request.prompt.0;
    if texts.is_empty() {
        return Err(Failure::invalid("there is no prompt", "say something").of("prompt"));
    }
    let likeliest = likeliest("logprobs", request.logprobs)?;
    let max_tokens = request.max_tokens;
    let shared = shared!(Kind::Completion, request, max_tokens, likeliest);
    let prompts = move |reader: &Reader, read: &Read| {
        texts.iter().map(|text| reader.completion_prompt(text, read)).collect()
    };
    answer(asked, shared, prompts).await
}

async fn answer(
    asked: Asked,
    request: Request,
    prompts: impl FnOnce(&Reader, &Read) -> Result<Vec<Prompt>, Failure> + Send + 'static,
) -> Answer {
    let Asked { app, id, body, start, deadline, place } = asked;
    // What it says is in `request` now.
    drop(body);
    let Request { kind, model, documents, arc, max_tokens, choosing, likeliest, stream, include_usage } =
        request;
    let most = app.limits.new_tokens;
    if max_tokens == Some(0) || max_tokens.is_some_and(|asked| asked as usize > most) {
        let found = max_tokens.unwrap_or_default();
        return Err(Failure::value("max_tokens", found, &format!("1 to {most}")));
    }
    let open_book = arc.open_book == Some(true);
    let sources = prepare::sources(&app, documents, open_book)?;
    let (loading, reads_documents, is_chat) = (Arc::clone(&app), !sources.is_empty(), kind == Kind::Chat);
    let reader = prepare::blocking(deadline, move || {
        prepare::reader(&loading, &model, &arc, reads_documents, is_chat)
    });
    let reader = reader.await?;
    let window = reader.decoder.network.config().context_length;
    let read = prepare::read(&app, reader.encoder.as_ref(), reader.factor, sources, window, deadline).await?;
    let mut usage = Usage {
        latents: read.latents.iter().map(|latents| latents.len()).sum(),
        source_tokens: read.source_tokens(),
        cached: read.hits,
        ..Usage::default()
    };
    let mut choosing = choosing;
    if choosing.stop.is_empty() {
        choosing.stop.clone_from(&reader.stop);
    }
    let options = choosing.options()?;
    let usual = if is_chat { most } else { COMPLETION_TOKENS };
    let asked = max_tokens.map(|asked| asked as usize);
    let (reader, prompts) = prepare::blocking(deadline, move || {
        let prompts = prompts(&reader, &read)?.into_iter();
        let prompts = prompts.map(|prompt| Ok((reader.room(&prompt, asked, usual)?, prompt)));
        let prompts = prompts.collect::<Result<Vec<_>, Failure>>()?;
        Ok((reader, prompts))
    })
    .await?;
    let (n, count) = (options.len(), prompts.len());
    usage.prompt = prompts.iter().map(|(_, prompt)| prompt.len()).sum();
    let (events, heard) = tokio::sync::mpsc::unbounded_channel();
    let answer_ends = reader.answer_ends(is_chat);
    for (index, (max_tokens, prompt)) in prompts.into_iter().enumerate() {
        let texts = options
            .iter()
            .map(|options| GenerateOptions::answer_ends(options.clone().max_tokens(max_tokens), answer_ends));
        app.engines.submit(Job {
            decoder: Arc::clone(&reader.decoder),
            prompt,
            texts: texts.collect(),
            likeliest,
            deadline,
            listener: Box::new(Channel { prompt: index, events: events.clone() }),
        })?;
    }
    drop(events);
    let made_by = json!({
        "decoder": reader.decoder.name,
        "encoder": reader.encoder.as_ref().map(|encoder| &encoder.name),
        "form": match (is_chat, reader.form) {
            (false, _) => "completion",
            (true, super::wire::Form::Chat) => "chat",
            (true, super::wire::Form::Adapter) => "adapter",
        },
        "open_book": open_book,
        "prompt_kv_bytes": kv_bytes(&reader.decoder, app.session.precision(), usage.prompt),
    });
    let mut answering = Answering {
        app,
        kind,
        id,
        decoder: reader.decoder,
        n,
        likeliest,
        usage,
        made_by,
        events: heard,
        start,
        place,
        include_usage,
        texts: vec![Text::default(); n * count],
        first_token: None,
    };
    answering.begun().await?;
    match stream {
        true => Ok(answering.stream()),
        false => answering.whole().await,
    }
}
