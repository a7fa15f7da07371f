//! `arc serve`, over sockets: what it answers is what the library says, and who asks for too much, too slowly or in vain
//! is told so, at no cost to others.
#![cfg(feature = "server")]

mod harness;
#[path = "harness/served.rs"]
mod served;
#[allow(clippy::duplicate_mod, reason = "it has the notices of `harness`, too")]
#[path = "harness/tiny.rs"]
mod tiny;

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_core::decoder::{GenerateOptions, Generation};
use arc_core::encoder::{CompressOptions, Latents, LatentsFile};
use arc_core::prompt::{Prompt, PromptForm, Span, Turn, TurnPart};
use arc_core::sampling::SamplingOptions;
use harness::{repository, session};
use serde_json::{Value, json};
use served::{Served, events_of, head};
use tiny::{FAILURE, Place, USAGE};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const COMPRESS: &str = "/v1/compress";

const DOCUMENT: &str = "The lighthouse of Morven was built in 1862 by Anna Field. It has a red door, and its keeper \
                        grows tomatoes on the roof.";

/// A server of the repository's registry, as exact as the session that it is compared with.
fn real(more: &[&str]) -> Served {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arc"));
    command.args(["serve", "--precision", "exact", "--registry"]).arg(repository("registry.toml")).args(more);
    command.env_remove("ARC_API_KEY").env_remove("ARC_DECODER").env_remove("ARC_DEVICE");
    Served::start(command)
}

/// One for all tests that leave it as it is, as long as one of them runs: what is static is never dropped, and the
/// process would stay. `None` where models are left out.
fn shared() -> Option<Arc<Served>> {
    static SERVED: Mutex<Weak<Served>> = Mutex::new(Weak::new());
    session()?;
    let mut kept = SERVED.lock().unwrap_or_else(PoisonError::into_inner);
    Some(kept.upgrade().unwrap_or_else(|| {
        let served = Arc::new(real(&[]));
        *kept = Arc::downgrade(&served);
        served
    }))
}

/// A server of a tiny model, in a place of its own.
fn small(place: &Place, more: &[&str]) -> Served {
    let mut command = place.arc(&["serve"]);
    command.args(more).env_remove("ARC_API_KEY");
    Served::start(command)
}

fn user(text: &str) -> Value {
    json!([{ "role": "user", "content": text }])
}

fn text_of(reply: &Value) -> &str {
    reply["choices"][0]["message"]["content"].as_str().expect("an answer")
}

/// What the library writes behind a prompt.
fn written(decoder: &str, prompt: &Prompt, options: &GenerateOptions) -> Generation {
    let decoder = harness::decoder(decoder).expect("models");
    decoder.generate(std::slice::from_ref(prompt), options, |_, _| {}).expect("it writes").rows.remove(0)
}

fn latents() -> Latents {
    let encoder = session().expect("models").encoder().expect("the encoder");
    encoder.compress(DOCUMENT, CompressOptions::default()).expect("latents")
}

/// The prompt of one question in the model's chat template.
fn chat_prompt(decoder: &str, question: &str, documents: &[Latents]) -> Prompt {
    let adapted = session().expect("models").adapted_decoder(decoder).expect("the decoder");
    let mut parts: Vec<TurnPart> = documents.iter().map(|_| TurnPart::Context).collect();
    let before = if documents.is_empty() { "" } else { "\n" };
    parts.push(TurnPart::Text(format!("{before}{question}")));
    let template = adapted.decoder.chat_template.as_ref().expect("a template");
    let form = PromptForm::conversation(template, &[Turn { role: "user".into(), parts }]).expect("a form");
    let spans: Vec<Span> =
        documents.iter().map(|latents| Span::Latents(adapted.project(latents).expect("rows"))).collect();
    form.assemble(&adapted.decoder.tokenizer, &spans).expect("a prompt")
}

#[test]
fn answers_are_those_of_the_library_and_one_connection_changes_decoders() {
    let Some(served) = shared() else { return };
    let served = &*served;
    let mut connection = served.connect();
    let question = "Who built the lighthouse?";
    let options = GenerateOptions::default().max_tokens(24);
    for (decoder, form) in [("smollm2-135m", "chat"), ("gemma3-270m", "adapter"), ("smollm2-135m", "adapter")]
    {
        let asked = json!({
            "model": decoder, "messages": user(question), "documents": [{ "text": DOCUMENT }],
            "arc": { "form": form }, "temperature": 0, "max_tokens": 24,
        });
        let reply = connection.post(CHAT, &asked).ok();
        let prompt = match form {
            "chat" => chat_prompt(decoder, question, &[latents()]),
            _ => {
                let adapted = session().expect("models").adapted_decoder(decoder).expect("the decoder");
                adapted.prompt(&[latents()], question).expect("a prompt")
            }
        };
        let expected = match form {
            "chat" => written(decoder, &prompt, &options),
            _ => {
                let adapted = session().expect("models").adapted_decoder(decoder).expect("the decoder");
                adapted.ask(&[latents()], question, &options).expect("an answer").rows.remove(0)
            }
        };
        assert_eq!(text_of(&reply), expected.text, "{decoder}, {form}");
        let usage = &reply["usage"];
        assert_eq!(usage["prompt_tokens"], prompt.len(), "{reply}");
        assert_eq!(usage["completion_tokens"], expected.token_ids.len(), "{reply}");
        assert_eq!(usage["arc"]["latents"], latents().len(), "{reply}");
        assert_eq!(usage["arc"]["document_tokens"], latents().source_tokens, "{reply}");
        assert_eq!((&reply["model"], &reply["arc"]["form"]), (&json!(decoder), &json!(form)));
    }
}

#[test]
fn a_document_is_compressed_once_whoever_asks_and_several_at_once_wait_for_it() {
    if session().is_none() {
        return;
    }
    let served = real(&[]);
    let document = DOCUMENT.repeat(40);
    std::thread::scope(|scope| {
        for decoder in ["smollm2-135m", "gemma3-270m", "smollm2", "gemma3"] {
            let (served, document) = (&served, &document);
            scope.spawn(move || {
                let asked = json!({
                    "model": decoder, "messages": user("Who?"), "documents": [{ "text": document }],
                    "max_tokens": 2,
                });
                served.post(CHAT, &asked).ok();
            });
        }
    });
    assert_eq!(served.metric("arc_latents_cache_misses_total"), 1.0);
    assert_eq!(served.metric("arc_latents_cache_hits_total"), 3.0);
    assert_eq!(served.metric("arc_latents_cache_documents"), 1.0);
    let asked = |factor: Value| {
        let asked = json!({
            "model": "smollm2", "messages": user("Who?"), "documents": [{ "text": document }], "max_tokens": 1,
            "arc": { "factor": factor },
        });
        let usage = served.post(CHAT, &asked).ok()["usage"].clone();
        (usage["arc"]["documents_cached"].as_u64(), usage["arc"]["latents"].as_u64().expect("a number"))
    };
    // The encoder's own rate is the same, said or not; another one makes other latents.
    let (own, eighth) = (asked(json!(4)), asked(json!(8)));
    assert_eq!((own.0, eighth.0), (Some(1), Some(0)));
    assert!(own.1 > eighth.1, "{own:?} {eighth:?}");
}

#[test]
fn a_stream_says_what_the_whole_answer_does() {
    let Some(served) = shared() else { return };
    let served = &*served;
    for documents in [json!([]), json!([{ "title": "Morven", "text": DOCUMENT }])] {
        let mut asked = json!({
            "model": "smollm2", "messages": user("Tell me about lighthouses."), "documents": documents,
            "temperature": 0, "max_tokens": 40,
        });
        let whole = served.post(CHAT, &asked).ok();
        asked["stream"] = true.into();
        asked["stream_options"] = json!({ "include_usage": true });
        let events = served.post(CHAT, &asked).events();
        let (last, pieces) = events.split_last().expect("events");
        assert_eq!(pieces[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
        let text: String =
            pieces.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, text_of(&whole));
        let finish: Vec<&Value> = pieces
            .iter()
            .map(|event| &event["choices"][0]["finish_reason"])
            .filter(|f| !f.is_null())
            .collect();
        assert_eq!(finish, [&whole["choices"][0]["finish_reason"]]);
        assert!(pieces.iter().all(|event| event["usage"].is_null() && event["id"] == pieces[0]["id"]));
        assert_eq!(
            (&last["choices"], &last["usage"]["completion_tokens"]),
            (&json!([]), &whole["usage"]["completion_tokens"])
        );
        assert!(pieces.len() > 10, "it comes in pieces: {}", pieces.len());
        let plain = served
            .post(COMPLETIONS, &json!({ "model": "smollm2", "prompt": "Once", "stream": true }))
            .events();
        assert!(plain.iter().all(|event| event["object"] == "text_completion"));
    }
}

#[test]
fn several_answers_have_seeds_of_their_own_and_the_same_request_the_same_answers() {
    let Some(served) = shared() else { return };
    let served = &*served;
    let asked = json!({
        "model": "smollm2", "prompt": "My favourite place is", "n": 3, "seed": 7, "temperature": 0.9, "top_p": 0.8,
        "max_tokens": 12,
    });
    let reply = served.post(COMPLETIONS, &asked).ok();
    assert_eq!(reply["choices"], served.post(COMPLETIONS, &asked).ok()["choices"]);
    let decoder = harness::decoder("smollm2").expect("models");
    let prompt =
        Prompt::from_tokens(decoder.tokenizer.encode_prompt("My favourite place is").expect("tokens"));
    for (index, choice) in reply["choices"].as_array().expect("choices").iter().enumerate() {
        let sampling = SamplingOptions::default().temperature(0.9).top_p(0.8).seed(7 + index as u64);
        let options = GenerateOptions::default().max_tokens(12).sampling(sampling);
        assert_eq!(choice["text"], written("smollm2", &prompt, &options).text, "answer {index}");
        assert_eq!(choice["index"], index);
    }
    assert_ne!(reply["choices"][0]["text"], reply["choices"][1]["text"]);
    // Several prompts are several times as many answers.
    let several =
        json!({ "model": "smollm2", "prompt": ["One", "Two"], "n": 2, "max_tokens": 3, "temperature": 0 });
    let reply = served.post(COMPLETIONS, &several).ok();
    let texts: Vec<&Value> =
        reply["choices"].as_array().expect("choices").iter().map(|c| &c["text"]).collect();
    assert_eq!((texts.len(), texts[0], texts[2]), (4, texts[1], texts[3]));
    assert_ne!(texts[0], texts[2]);
    let ids = decoder.tokenizer.encode_prompt("Two").expect("tokens");
    let by_ids = json!({ "model": "smollm2", "prompt": ids, "max_tokens": 3, "temperature": 0 });
    assert_eq!(&served.post(COMPLETIONS, &by_ids).ok()["choices"][0]["text"], texts[2]);
}

#[test]
fn a_stop_text_ends_an_answer_across_the_borders_of_tokens_and_no_piece_shows_its_beginning() {
    let Some(served) = shared() else { return };
    let served = &*served;
    let asked = |stop: Value, stream: bool| {
        json!({
            "model": "smollm2", "prompt": "The history of the lighthouse begins", "temperature": 0, "max_tokens": 40,
            "stop": stop, "stream": stream, "logprobs": 0,
        })
    };
    let whole = served.post(COMPLETIONS, &asked(Value::Null, false)).ok();
    let text = whole["choices"][0]["text"].as_str().expect("a text").to_owned();
    let tokens: Vec<&str> = whole["choices"][0]["logprobs"]["tokens"]
        .as_array()
        .expect("tokens")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    // The last letter of a token, and the first two of the next one.
    let border: usize = tokens[..12].iter().map(|token| token.len()).sum();
    let stop = &text[border - 1..border + 2];
    assert!(!tokens.iter().any(|token| token.contains(stop)), "{stop:?} is within a token of {tokens:?}");
    let before = &text[..text.find(stop).expect("it is there")];
    for given in [json!(stop), json!(["never to be seen", stop])] {
        let reply = served.post(COMPLETIONS, &asked(given.clone(), false)).ok();
        assert_eq!(reply["choices"][0]["text"], before);
        assert_eq!(reply["choices"][0]["finish_reason"], "stop");
        let events = served.post(COMPLETIONS, &asked(given, true)).events();
        let streamed: String =
            events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!(streamed, before);
    }
}

#[test]
fn probabilities_are_those_of_the_logits() {
    let Some(served) = shared() else { return };
    let served = &*served;
    let asked = json!({
        "model": "smollm2", "messages": user("What colour is the sky?"), "temperature": 0, "max_tokens": 5,
        "logprobs": true, "top_logprobs": 3,
    });
    let reply = served.post(CHAT, &asked).ok();
    let told = reply["choices"][0]["logprobs"]["content"].as_array().expect("a list").clone();
    let prompt = chat_prompt("smollm2", "What colour is the sky?", &[]);
    let logits = written("smollm2", &prompt, &GenerateOptions::default().max_tokens(5)).prompt_logits;
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - highest).exp()).sum();
    let first = &told[0];
    let expected = -sum.ln();
    assert!((first["logprob"].as_f64().expect("a number") - expected).abs() < 1e-3, "{first} {expected}");
    let text: String = told.iter().filter_map(|token| token["token"].as_str()).collect();
    assert_eq!(text, text_of(&reply));
    for token in &told {
        let tops = token["top_logprobs"].as_array().expect("a list");
        assert_eq!((tops.len(), &tops[0]["token"]), (3, &token["token"]), "greedy takes the likeliest");
        let falls = tops.windows(2).all(|pair| pair[0]["logprob"].as_f64() >= pair[1]["logprob"].as_f64());
        assert!(falls, "{token}");
    }
}

#[test]
fn requests_that_come_together_are_answered_as_alone() {
    let Some(served) = shared() else { return };
    let served = &*served;
    let asked = |index: usize| {
        // Of many lengths, so that they begin and end at different times.
        let prompt = "Stories of the sea. ".repeat(1 + 17 * index) + &format!("Story number {index}:");
        json!({ "model": "smollm2", "prompt": prompt, "temperature": 0, "max_tokens": 8 + 5 * index })
    };
    let alone: Vec<Value> =
        (0..8).map(|index| served.post(COMPLETIONS, &asked(index)).ok()["choices"].clone()).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8)
            .map(|index| scope.spawn(move || served.post(COMPLETIONS, &asked(index)).ok()["choices"].clone()))
            .collect();
        asking.into_iter().map(|asking| asking.join().expect("an answer")).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn who_hangs_up_frees_the_place_and_who_finds_none_is_told_when_to_come_again() {
    if session().is_none() {
        return;
    }
    let served = real(&["--batch", "1", "--queue", "1"]);
    let long = json!({
        "model": "smollm2", "prompt": "Once upon a time", "max_tokens": 1000, "stream": true, "temperature": 1,
        "stop": [],
    });
    let mut first = served.connect();
    let body = long.to_string();
    let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    assert!(first.send((head("POST", COMPLETIONS, &more) + &body).as_bytes()));
    assert_eq!(first.reply_head().status, 200);
    assert!(!first.chunk().is_empty());
    // The second waits, and the third finds no place to.
    let mut second = served.connect();
    assert!(second.send((head("POST", COMPLETIONS, &more) + &body).as_bytes()));
    served.wait_for("arc_queue{model=\"smollm2-135m\"}", 1.0);
    let refused = served.post(COMPLETIONS, &json!({ "model": "smollm2", "prompt": "x" }));
    refused.error(429, "busy");
    let after: u64 = refused.header("retry-after").expect("when to come again").parse().expect("seconds");
    assert!((1..=60).contains(&after), "{after}");
    // Who waits and hangs up leaves the queue; who is answered and hangs up, the batch.
    drop(second);
    served.wait_for("arc_queue{model=\"smollm2-135m\"}", 0.0);
    drop(first);
    served.wait_for("arc_writing{model=\"smollm2-135m\"}", 0.0);
    served.wait_for("arc_kv_bytes{model=\"smollm2-135m\"}", 0.0);
    served.post(COMPLETIONS, &json!({ "model": "smollm2", "prompt": "x", "max_tokens": 2 })).ok();
}

#[test]
fn a_request_whose_time_is_up_says_so_and_a_body_that_dribbles_in_does_not_last() {
    if session().is_none() {
        return;
    }
    let served = real(&["--timeout", "2"]);
    let asked = |stream: bool| {
        json!({
            "model": "smollm2", "prompt": "Once upon a time", "max_tokens": 1024, "n": 8, "stream": stream,
            "logprobs": 20,
        })
    };
    let start = Instant::now();
    served.post(COMPLETIONS, &asked(false)).error(504, "timeout");
    let reply = served.post(COMPLETIONS, &asked(true));
    assert_eq!(reply.status, 200);
    let events = events_of(std::str::from_utf8(&reply.body).expect("UTF-8"));
    let last = events.last().expect("an event");
    assert_eq!(last["error"]["code"], "timeout", "{last}");
    let mut slow = served.connect();
    slow.send(
        (head("POST", CHAT, "Content-Type: application/json\r\nContent-Length: 100\r\n") + "\r\n{")
            .as_bytes(),
    );
    slow.reply().error(408, "slow_body");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[cfg(unix)]
#[test]
fn a_request_to_end_is_followed_once_what_was_begun_is_answered() {
    if session().is_none() {
        return;
    }
    let served = real(&[]);
    let mut connection = served.connect();
    let body = json!({
        "model": "smollm2", "prompt": "Once upon a time", "max_tokens": 60, "stream": true, "temperature": 0,
    });
    let whole = served.post(COMPLETIONS, &{
        let mut whole = body.clone();
        whole["stream"] = false.into();
        whole
    });
    let body = body.to_string();
    let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    assert!(connection.send((head("POST", COMPLETIONS, &more) + &body).as_bytes()));
    assert_eq!(connection.reply_head().status, 200);
    let mut all = connection.chunk();
    assert!(Command::new("kill").arg(served.id().to_string()).status().expect("kill runs").success());
    loop {
        let chunk = connection.chunk();
        if chunk.is_empty() {
            break;
        }
        all.extend(chunk);
    }
    let text = String::from_utf8(all).expect("UTF-8");
    let events = events_of(text.strip_suffix("data: [DONE]\n\n").expect("the end"));
    let streamed: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, whole.ok()["choices"][0]["text"].as_str().expect("a text"));
    let address = served.address;
    let (status, log) = served.ended();
    assert!(status.success(), "{status}: {log}");
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn compressed_texts_come_as_each_program_reads_them() {
    let Some(served) = shared() else { return };
    let served = &*served;
    let expected = latents();
    let values = expected.values.to_data().convert::<f32>();
    let values = values.as_slice::<f32>().expect("numbers");
    let numbers = |reply: &Value| -> Vec<f32> {
        let rows =
            reply["data"].as_array().expect("rows").iter().flat_map(|row| row.as_array().expect("a row"));
        rows.map(|value| value.as_f64().expect("a number") as f32).collect()
    };
    let reply = served.post(COMPRESS, &json!({ "text": DOCUMENT })).ok();
    assert_eq!(reply["shape"], json!([expected.len(), expected.values.dims()[1]]));
    assert_eq!(numbers(&reply), values);
    assert_eq!((&reply["encoder_id"], &reply["decoder"]), (&json!(expected.encoder_id), &Value::Null));
    // A latents file is one that the library reads.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.arc.safetensors");
    let reply = served.post(COMPRESS, &json!({ "text": DOCUMENT, "format": "safetensors" }));
    std::fs::write(&file, &reply.body).expect("a file");
    let read = LatentsFile::open(&file).expect("latents");
    read.verify().expect("whole");
    assert_eq!(read.description(), &expected.description());

    let adapted = session().expect("models").adapted_decoder("gemma3-270m").expect("the decoder");
    let rows = adapted.project(&expected).expect("rows");
    let shape = rows.dims();
    let rows = rows.into_data().convert::<f32>();
    let rows = rows.as_slice::<f32>().expect("numbers");
    let ask = |format: &str| json!({ "text": DOCUMENT, "decoder": "gemma3", "format": format });
    assert_eq!(numbers(&served.post(COMPRESS, &ask("json")).ok()), rows);
    let npy = served.post(COMPRESS, &ask("npy")).body;
    let header = String::from_utf8_lossy(&npy[..128]);
    assert!(header.contains(&format!("'shape': ({}, {})", shape[0], shape[1])), "{header}");
    let bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
    assert!(npy.len() % 64 == bytes.len() % 64 && npy.ends_with(&bytes));
    let part = served.post(COMPRESS, &ask("vllm")).ok();
    assert_eq!(part["type"], "prompt_embeds");
    // `scripts/check-server` has PyTorch load it.
    assert!(part["data"].as_str().expect("base64").starts_with("UEsDB"), "a zip file");
    // Which characters each latent stands for: in order, and together they are all of them.
    for text in [DOCUMENT.to_owned(), "Größe 北京 🦀 — naïve façade".repeat(9)] {
        let told = served.post(COMPRESS, &json!({ "text": text, "format": "spans", "factor": 8 })).ok();
        let spans: Vec<[usize; 2]> = serde_json::from_value(told["spans"].clone()).expect("spans");
        assert_eq!((told["latents"].as_u64(), told["data"].clone()), (Some(spans.len() as u64), Value::Null));
        assert_eq!((spans[0][0], spans[spans.len() - 1][1]), (0, text.chars().count()));
        assert!(spans.windows(2).all(|pair| pair[0][1] == pair[1][0]), "{spans:?}");
    }
    let nobody = served.post(COMPRESS, &json!({ "text": DOCUMENT, "format": "vllm" }));
    assert_eq!(nobody.error(400, "invalid_request")["param"], "decoder");
}

#[test]
fn what_is_not_supported_is_refused_by_its_name() {
    let place = Place::with_adapter();
    let served = small(&place, &[]);
    let plain = || json!({ "model": "tiny", "prompt": "a" });
    served.post(COMPLETIONS, &plain()).ok();
    let with = |field: &str, value: Value| {
        let mut asked = plain();
        asked[field] = value;
        served.post(COMPLETIONS, &asked)
    };
    for (field, value) in [
        ("suffix", json!("x")),
        ("echo", json!(true)),
        ("best_of", json!(2)),
        ("logit_bias", json!({ "5": 1 })),
        ("frequency_penalty", json!(0.5)),
        ("presence_penalty", json!(-1)),
    ] {
        let error = with(field, value).error(400, "unsupported");
        assert_eq!(error["param"], field);
        assert!(error["message"].as_str().expect("a text").contains(field));
    }
    // What clients send without meaning anything by it is taken.
    for (field, value) in [
        ("suffix", Value::Null),
        ("echo", json!(false)),
        ("logit_bias", json!({})),
        ("frequency_penalty", json!(0)),
        ("user", json!("somebody")),
        ("stop", Value::Null),
        ("n", Value::Null),
    ] {
        with(field, value).ok();
    }
    for (field, value) in [
        ("temperature", json!(-1)),
        ("temperature", json!(3)),
        ("top_p", json!(0)),
        ("min_p", json!(1.5)),
        ("repetition_penalty", json!(0)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(100_000)),
        ("max_tokens", json!(-1)),
        ("n", json!(0)),
        ("n", json!(17)),
        ("stop", json!([""])),
        ("stop", json!(vec!["x"; 17])),
        ("logprobs", json!(21)),
        ("prompt", json!([[1, 2], "mixed", 3])),
        ("prompt", json!([999_999])),
        ("prompt", json!([])),
        ("unheard_of", json!(1)),
        ("stream_options", json!({ "include_usage": true })),
        ("documents", json!([{ "text": " " }])),
        ("arc", json!({ "factor": 2 })),
        ("arc", json!({ "encoder": "start", "path": "/etc/passwd" })),
    ] {
        let reply = with(field, value);
        let error = reply.error(400, "invalid_request");
        let said = format!("{}{}", error["message"], error["param"]);
        assert!(
            said.contains(field) || field == "documents" || field == "prompt" || field == "stop",
            "{field}: {error}"
        );
    }
    let chat = |more: Value| {
        let mut asked = json!({ "model": "tiny", "messages": user("a"), "max_tokens": 2 });
        asked.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        served.post(CHAT, &asked)
    };
    chat(json!({})).ok();
    for field in ["tools", "functions", "metadata", "modalities"] {
        assert_eq!(chat(json!({ field: [{ "x": 1 }] })).error(400, "unsupported")["param"], field);
    }
    chat(json!({ "tools": [], "response_format": { "type": "text" } })).ok();
    chat(json!({ "response_format": { "type": "json_object" } })).error(400, "unsupported");
    chat(json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] }))
        .error(400, "invalid_request");
    chat(json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a" }] }] })).ok();
    chat(json!({ "top_logprobs": 2 })).error(400, "invalid_request");
    served.post(CHAT, &json!({ "model": "nobody", "messages": user("a") })).error(404, "model_not_found");
    let window = json!({ "model": "tiny", "prompt": "a".repeat(300) });
    served.post(COMPLETIONS, &window).error(400, "context_length_exceeded");
    // What cannot have room is not compressed first.
    let document =
        json!({ "model": "tiny", "messages": user("a"), "documents": [{ "text": "a".repeat(3000) }] });
    served.post(CHAT, &document).error(400, "context_length_exceeded");
    served.get("/nowhere").error(404, "not_found");
    served.get(CHAT).error(405, "method");
    served.get("/v1/models/../../etc/passwd").error(404, "model_not_found");
}

#[test]
fn requests_of_hostile_shapes_end_in_a_refusal_and_no_growth() {
    let place = Place::with_adapter();
    let served = small(&place, &["--timeout", "3", "--max-body", "4MiB"]);
    served.post(COMPLETIONS, &json!({ "model": "tiny", "prompt": "a" })).ok();
    let before = served.peak();
    let post = |body: &[u8]| {
        let more = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        served.connect().ask(&head("POST", CHAT, &more), body)
    };
    let deep = |open: &str, close: &str, n: usize| open.repeat(n) + &close.repeat(n);
    let many = |item: &str, n: usize| vec![item; n].join(",");
    for body in [
        deep("[", "]", 1_000_000),
        deep("{\"a\":", "}", 500_000),
        format!("{{\"model\":\"tiny\",\"messages\":{}}}", deep("[", "]", 500_000)),
        format!("{{\"model\":\"tiny\",\"messages\":[],\"tools\":{}}}", deep("[", "]", 1_000_000)),
        format!(
            "{{\"model\":\"tiny\",\"messages\":[],\"documents\":[{}]}}",
            many("{\"text\":\"\"}", 300_000)
        ),
        format!("{{\"model\":\"tiny\",\"messages\":[{}]}}", many("{\"role\":\"user\"}", 200_000)),
        format!(
            "{{\"model\":\"tiny\",\"messages\":[{{\"role\":\"user\",\"content\":[{}]}}]}}",
            many("{\"type\":\"text\",\"text\":\"\"}", 100_000)
        ),
        format!(
            "{{\"model\":\"{}\",\"messages\":[{{\"role\":\"user\",\"content\":\"x\"}}]}}",
            "m".repeat(1_000_000)
        ),
        format!(
            "{{\"model\":\"tiny\",\"messages\":[{{\"role\":\"{}\",\"content\":\"x\"}}]}}",
            "r".repeat(1_000_000)
        ),
        "{\"model\":\"tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"\\ud800\"}]}".to_owned(),
        format!("{{\"model\":\"tiny\",\"messages\":[],\"temperature\":\"{}\"}}", "t".repeat(1_000_000)),
        "{\"model\":\"tiny\",\"model\":\"tiny\",\"messages\":[]}".to_owned(),
        "{\"model\":\"tiny\",\"temperature\":1e999,\"messages\":[]}".to_owned(),
        "{\"model\":\"tiny\",\"n\":99999999999999999999,\"messages\":[]}".to_owned(),
        "NaN".to_owned(),
        String::new(),
    ] {
        let reply = post(body.as_bytes());
        assert!((400..500).contains(&reply.status), "{}: {}", reply.status, &body[..body.len().min(80)]);
        let error = reply.json();
        let said = error["error"]["message"].as_str().expect("a message");
        assert!(said.len() < 8192, "{} bytes are said", said.len());
    }
    post(b"{\"model\":\"tiny\",\"messages\":[{\"role\":\"user\",\"content\":\"\xff\xfe\"}]}")
        .error(400, "invalid_request");
    // Longer than it may be: by what it says, and by what comes.
    let more = "Content-Type: application/json\r\nContent-Length: 99999999999\r\n";
    served.connect().ask(&head("POST", CHAT, more), b"{").error(413, "too_large");
    let mut chunked = served.connect();
    chunked.send(
        (head("POST", CHAT, "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n") + "\r\n")
            .as_bytes(),
    );
    let chunk = [b"100000\r\n".as_slice(), &[b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..6 {
        chunked.send(&chunk);
    }
    chunked.reply().error(413, "too_large");
    // As a page of another site may send it, and as one that was led here would.
    let form = "Content-Type: text/plain\r\nContent-Length: 2\r\n";
    served.connect().ask(&head("POST", CHAT, form), b"{}").error(415, "media_type");
    let elsewhere = "GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n";
    served.connect().ask(elsewhere, b"").error(403, "host");
    // Headers: too long, too many, never whole.
    for more in
        [format!("X-Long: {}\r\n", "x".repeat(200_000)), (0..500).map(|i| format!("X-{i}: 1\r\n")).collect()]
    {
        let mut connection = served.connect();
        connection.send((head("GET", "/health", &more) + "\r\n").as_bytes());
        assert_eq!(connection.reply_head().status, 431);
    }
    let mut never = served.connect();
    never.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-");
    let start = Instant::now();
    let idle: Vec<_> = (0..100).map(|_| served.connect()).collect();
    assert!(never.is_ended());
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    drop(idle);
    served.post(COMPLETIONS, &json!({ "model": "tiny", "prompt": "a" })).ok();
    // Bodies of 4 MiB were read, one at a time.
    let grown = served.peak().saturating_sub(before);
    assert!(grown < 64 << 20, "it grew by {grown} bytes");
    assert!(!served.log().contains("panic"), "{}", served.log());
}

#[test]
fn keys_are_asked_for_and_neither_they_nor_documents_are_in_the_log() {
    let place = Place::with_adapter();
    let key = "a key that nobody guesses";
    place.file("keys.txt", format!("# of this test\n{key}\n"));
    for (more, says) in [
        (&["--host", "0.0.0.0"][..], "can be reached from other machines"),
        (&["--api-key", "short"], "5 characters"),
    ] {
        let refusal = place.fails(USAGE, &[&["serve", "--port", "0"], more].concat());
        refusal.says(&[says]);
    }
    let served = small(&place, &["--api-key-file", "keys.txt", "--log-json"]);
    let place_taken = served.address.port().to_string();
    place.fails(FAILURE, &["serve", "--port", &place_taken]).says(&["cannot listen on"]);
    let body = json!({ "model": "tiny", "messages": user("a secret question"), "documents": [{ "text": "a secret text" }], "max_tokens": 3 });
    served.post(CHAT, &body).error(401, "invalid_api_key");
    let with = |key: &str, body: &Value| {
        let body = body.to_string();
        let more = format!(
            "Content-Type: application/json\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n",
            body.len()
        );
        served.connect().ask(&head("POST", CHAT, &more), body.as_bytes())
    };
    with("a key that nobody guesses?", &body).error(401, "invalid_api_key");
    with(key, &body).ok();
    with(key, &json!({ "model": "tiny", "messages": [{ "role": "a secret role", "content": 5 }] }))
        .error(400, "invalid_request");
    served.get("/v1/models").error(401, "invalid_api_key");
    served.get("/metrics").error(401, "invalid_api_key");
    for open in ["/", "/health", "/ready", "/openapi.json", "/docs"] {
        assert_eq!(served.get(open).status, 200, "{open}");
    }
    let log = served.log();
    for line in log.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["level"].is_string(), "{line}");
    }
    assert!(log.contains("\"request\":\"req-") && log.contains("\"status\":401"), "{log}");
    assert!(!log.contains("secret") && !log.contains("guesses"), "{log}");
}

#[test]
fn stored_documents_are_read_by_id_and_ids_are_no_paths() {
    let place = Place::with_adapter();
    place.file("notes/first.txt", "a text that was compressed before");
    place.file("notes/more/second.txt", "another one of them");
    place.succeeds(&["compress", "notes", "-o", "latents"]);
    let served = small(&place, &["--documents", "latents"]);
    let ids: Vec<String> = files_below(&place.path("latents"))
        .iter()
        .map(|name| name.strip_suffix(".arc.safetensors").expect("latents").to_owned())
        .collect();
    assert_eq!(ids.len(), 2, "{ids:?}");
    let asked = |documents: Value| {
        json!({
            "model": "tiny", "messages": user("why"), "documents": documents, "temperature": 0, "max_tokens": 8,
        })
    };
    let text = "a text that was compressed before";
    let first = ids.iter().find(|id| id.contains("first")).expect("the first");
    let stored = served.post(CHAT, &asked(json!([{ "id": first }]))).ok();
    let now = served.post(CHAT, &asked(json!([{ "text": text }]))).ok();
    assert_eq!(stored["choices"], now["choices"]);
    assert_eq!(stored["usage"]["arc"]["latents"], now["usage"]["arc"]["latents"]);
    assert_eq!(stored["usage"]["arc"]["documents_cached"], 1);
    // Among others, in the order in which they are named.
    let both = served.post(CHAT, &asked(json!([{ "text": "x" }, { "id": first }]))).ok();
    let texts = served.post(CHAT, &asked(json!([{ "text": "x" }, { "text": text }]))).ok();
    assert_eq!(both["choices"], texts["choices"]);
    for id in ["", "nobody", "../latents/first.txt", "/etc/passwd", "latents/first", "../registry.toml"] {
        served.post(CHAT, &asked(json!([{ "id": id }]))).error(404, "document_not_found");
    }
    for document in [json!({ "id": first, "text": "x" }), json!({ "id": first, "title": "x" }), json!({})] {
        served.post(CHAT, &asked(json!([document]))).error(400, "invalid_request");
    }
    // One that was changed is found when the server is started.
    let path = place.path("latents").join(format!("{first}.arc.safetensors"));
    let mut bytes = std::fs::read(&path).expect("the file");
    let at = bytes.len() - 3;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).expect("the file");
    let refusal = place.fails(FAILURE, &["serve", "--port", "0", "--documents", "latents"]);
    refusal.says(&["first"]);
    place.fails(FAILURE, &["serve", "--port", "0", "--documents", "nowhere"]).says(&["nowhere"]);
}

/// The latents files below a folder, by their names in it.
fn files_below(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in folder.read_dir().expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else if name.ends_with(".arc.safetensors") {
            found.push(name);
        }
    }
    found
}

#[test]
fn what_the_server_takes_is_described_and_shown_without_other_hosts() {
    let place = Place::with_adapter();
    let served = small(&place, &["--json"]);
    let api = served.get("/openapi.json").ok();
    let described: Vec<&str> = api["paths"].as_object().expect("paths").keys().map(String::as_str).collect();
    for path in &described {
        let path = path.replace("{model}", "tiny");
        let status = served.get(&path).status;
        assert!(status == 200 || status == 405, "{path}: {status}");
    }
    for path in [CHAT, COMPLETIONS, COMPRESS, "/v1/models", "/health", "/ready", "/metrics"] {
        assert!(described.contains(&path), "{path}");
    }
    let chat = &api["components"]["schemas"]["ChatRequest"]["properties"];
    for field in
        ["model", "messages", "documents", "arc", "max_tokens", "temperature", "stop", "stream_options"]
    {
        assert!(chat[field].is_object(), "{field}: {chat}");
    }
    assert!(chat["tools"].is_null(), "what is refused is not offered");
    // Each reference leads somewhere.
    let text = api.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().expect("a name");
        assert!(api["components"]["schemas"][name].is_object(), "{name}");
    }
    for path in ["/", "/docs"] {
        let reply = served.get(path);
        assert!(
            reply
                .header("content-security-policy")
                .is_some_and(|policy| policy.contains("default-src 'none'"))
        );
        let page = String::from_utf8(reply.body).expect("text");
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("//cdn"), "{page}");
    }
    let models = served.get("/v1/models").ok();
    assert_eq!(models["data"][0]["id"], "tiny");
    assert_eq!(models["data"][0]["arc"]["encoder"], "start");
    assert_eq!(served.get("/v1/models/tiny").ok()["id"], "tiny");
}
