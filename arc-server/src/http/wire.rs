//! What requests say, as OpenAI's clients write it. What is not known is refused by its name, and lists end where they
//! become longer than they may, before memory is taken for the rest.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use utoipa::ToSchema;

use super::errors::Failure;

/// Messages of a conversation, at most.
pub(crate) const MESSAGES: usize = 1024;
/// Documents of a request, at most.
pub(crate) const DOCUMENTS: usize = 256;
/// Parts of a message, at most.
pub(crate) const PARTS: usize = 256;
/// Texts that end an answer, at most.
pub(crate) const STOPS: usize = 16;
/// Prompts of a request, at most.
pub(crate) const PROMPTS: usize = 16;
/// Tokens of a prompt that comes as ids, at most: more than any window.
pub(crate) const TOKEN_IDS: usize = 1 << 20;
/// Answers to one prompt, at most.
pub(crate) const CHOICES: u32 = 16;
/// Likeliest tokens beside each one, at most.
pub(crate) const LIKELIEST: u32 = 20;

/// A list of at most `N`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Few<T, const N: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const N: usize> Deserialize<'de> for Few<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const N: usize> Visitor<'de> for List<T, N> {
            type Value = Few<T, N>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {N}")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut few = Vec::new();
                while let Some(next) = list.next_element()? {
                    if few.len() == N {
                        return Err(A::Error::custom(format!("a list is longer than {N}")));
                    }
                    few.push(next);
                }
                Ok(Few(few))
            }
        }
        deserializer.deserialize_seq(List(PhantomData))
    }
}

/// Whether a field says something: not where it is left out, null, empty or false, as clients write what they do not use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Given(pub(crate) bool);

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Given;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }
            fn visit_unit<E>(self) -> Result<Given, E> {
                Ok(Given(false))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Given, E> {
                Ok(Given(value))
            }
            fn visit_u64<E>(self, _: u64) -> Result<Given, E> {
                Ok(Given(true))
            }
            fn visit_i64<E>(self, _: i64) -> Result<Given, E> {
                Ok(Given(true))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Given, E> {
                Ok(Given(true))
            }
            fn visit_str<E>(self, value: &str) -> Result<Given, E> {
                Ok(Given(!value.is_empty()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Given, A::Error> {
                let mut any = false;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    any = true;
                }
                Ok(Given(any))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
                let mut any = false;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    any = true;
                }
                Ok(Given(any))
            }
        }
        deserializer.deserialize_any(Anything)
    }
}

/// One text or several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Texts(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrSeveral;
        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Texts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a text or at most {STOPS} of them")
            }
            fn visit_unit<E>(self) -> Result<Texts, E> {
                Ok(Texts::default())
            }
            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Texts, A::Error> {
                let few =
                    Few::<String, STOPS>::deserialize(serde::de::value::SeqAccessDeserializer::new(list))?;
                Ok(Texts(few.0))
            }
        }
        deserializer.deserialize_any(OneOrSeveral)
    }
}

/// A document.
#[derive(Clone, Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    /// Its title; read as the text's first line.
    #[serde(default)]
    pub(crate) title: Option<String>,
    /// Its text.
    #[serde(default)]
    pub(crate) text: Option<String>,
    /// The id of a stored document, in place of a text.
    #[serde(default)]
    pub(crate) id: Option<String>,
}

/// What is arc's own.
#[derive(Clone, Debug, Default, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ArcOptions {
    /// Whose latents are read; the model's own encoder where it is left out.
    #[serde(default)]
    pub(crate) encoder: Option<String>,
    /// How many tokens of a document a latent stands for.
    #[serde(default)]
    pub(crate) factor: Option<u32>,
    /// The documents are read as plain text.
    #[serde(default)]
    pub(crate) open_book: Option<bool>,
    /// `chat` is the model's chat template; `adapter` is the prompt that the adapter was made for, about one question,
    /// as `arc ask` has it. `chat` where the model has a template.
    #[serde(default)]
    pub(crate) form: Option<Form>,
}

/// What a prompt is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Form {
    /// The model's chat template.
    Chat,
    /// The adapter's template.
    Adapter,
}

/// How a stream is sent.
#[derive(Clone, Debug, Default, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    /// A last chunk without choices tells the usage.
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
    /// Padding against who measures lengths; not done here, and refused.
    #[serde(default)]
    #[schema(ignore)]
    pub(crate) include_obfuscation: Given,
}

/// A turn of a conversation.
#[derive(Clone, Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    /// `system` (or `developer`), `user` or `assistant`.
    pub(crate) role: String,
    /// What is said: a text, or parts `{"type": "text", "text": …}`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub(crate) content: Option<Content>,
    #[serde(default)]
    #[schema(ignore)]
    name: Given,
    #[serde(default)]
    #[schema(ignore)]
    tool_calls: Given,
    #[serde(default)]
    #[schema(ignore)]
    tool_call_id: Given,
    #[serde(default)]
    #[schema(ignore)]
    function_call: Given,
    #[serde(default)]
    #[schema(ignore)]
    refusal: Given,
    #[serde(default)]
    #[schema(ignore)]
    audio: Given,
    // What an answer had is sent back with it, and is no words.
    #[serde(default, rename = "annotations")]
    #[schema(ignore)]
    _annotations: Given,
}

/// What a turn says.
#[derive(Clone, Debug)]
pub(crate) struct Content(pub(crate) String);

/// A part of what a turn says.
#[derive(serde::Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;
        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or parts of one")
            }
            fn visit_str<E>(self, text: &str) -> Result<Content, E> {
                Ok(Content(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Content, A::Error> {
                let list = serde::de::value::SeqAccessDeserializer::new(list);
                let mut whole = String::new();
                for Part { kind, text } in Few::<Part, PARTS>::deserialize(list)?.0 {
                    match (kind.as_str(), text) {
                        ("text", Some(text)) => whole.push_str(&text),
                        ("text", None) => {
                            return Err(A::Error::custom("a part of type `text` has no `text`"));
                        }
                        (kind, _) => {
                            let kind: String = kind.chars().take(40).collect();
                            return Err(A::Error::custom(format!(
                                "a part of type `{kind}` is not supported"
                            )));
                        }
                    }
                }
                Ok(Content(whole))
            }
        }
        deserializer.deserialize_any(TextOrParts)
    }
}

impl ChatMessage {
    /// Refuses what is not supported.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let given = [
            ("name", self.name),
            ("tool_calls", self.tool_calls),
            ("tool_call_id", self.tool_call_id),
            ("function_call", self.function_call),
            ("refusal", self.refusal),
            ("audio", self.audio),
        ];
        given.iter().try_for_each(|(field, given)| match given.0 {
            true => Err(Failure::unsupported(&format!("messages.{field}"))),
            false => Ok(()),
        })
    }
}

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub(crate) enum PromptText {
    /// As text, in which names of special tokens are the tokens.
    Text(String),
    /// As ids of the model's tokens.
    Ids(Vec<u32>),
}

/// One prompt or several.
#[derive(Clone, Debug)]
pub(crate) struct Prompts(pub(crate) Vec<PromptText>);

impl<'de> Deserialize<'de> for Prompts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// What a list may hold.
        enum Item {
            Text(String),
            Id(u32),
            Ids(Vec<u32>),
        }
        impl<'de> Deserialize<'de> for Item {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct AnyItem;
                impl<'de> Visitor<'de> for AnyItem {
                    type Value = Item;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a text, a token id or a list of token ids")
                    }
                    fn visit_str<E>(self, text: &str) -> Result<Item, E> {
                        Ok(Item::Text(text.to_owned()))
                    }
                    fn visit_u64<E: serde::de::Error>(self, id: u64) -> Result<Item, E> {
                        u32::try_from(id).map(Item::Id).map_err(|_| E::custom("a token id is too large"))
                    }
                    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Item, A::Error> {
                        let list = serde::de::value::SeqAccessDeserializer::new(list);
                        Ok(Item::Ids(Few::<u32, TOKEN_IDS>::deserialize(list)?.0))
                    }
                }
                deserializer.deserialize_any(AnyItem)
            }
        }
        struct AnyPrompts;
        impl<'de> Visitor<'de> for AnyPrompts {
            type Value = Prompts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a text, token ids, or a list of at most {PROMPTS} of either")
            }
            fn visit_str<E>(self, text: &str) -> Result<Prompts, E> {
                Ok(Prompts(vec![PromptText::Text(text.to_owned())]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompts, A::Error> {
                let (mut prompts, mut ids) = (Vec::new(), Vec::new());
                while let Some(item) = list.next_element()? {
                    match item {
                        Item::Text(text) => prompts.push(PromptText::Text(text)),
                        Item::Ids(ids) => prompts.push(PromptText::Ids(ids)),
                        Item::Id(id) => ids.push(id),
                    }
                    if prompts.len() > PROMPTS || ids.len() > TOKEN_IDS {
                        return Err(A::Error::custom(format!(
                            "`prompt` has more than {PROMPTS} prompts or {TOKEN_IDS} tokens"
                        )));
                    }
                }
                match (prompts.is_empty(), ids.is_empty()) {
                    (_, true) => Ok(Prompts(prompts)),
                    (true, false) => Ok(Prompts(vec![PromptText::Ids(ids)])),
                    (false, false) => Err(A::Error::custom("`prompt` has texts and token ids in one list")),
                }
            }
        }
        deserializer.deserialize_any(AnyPrompts)
    }
}

/// The fields that requests for text share, with those of each kind.
macro_rules! request {
    ($(#[$about:meta])* $name:ident { $($(#[$of_own:meta])* $own:ident: $type:ty,)* } refused { $($refused:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, serde::Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct $name {
            /// A decoder of the registry, by its name or an alias.
            pub(crate) model: String,
            $($(#[$of_own])* pub(crate) $own: $type,)*
            /// Documents that are read compressed, before what is asked.
            #[serde(default)]
            #[schema(value_type = Option<Vec<Document>>)]
            pub(crate) documents: Option<Few<Document, DOCUMENTS>>,
            /// What is arc's own.
            #[serde(default)]
            pub(crate) arc: Option<ArcOptions>,
            /// At most this many new tokens.
            #[serde(default)]
            pub(crate) max_tokens: Option<u32>,
            /// 0 takes the likeliest token each time; 1 where it is left out.
            #[serde(default)]
            pub(crate) temperature: Option<f32>,
            /// Only the most likely tokens that together have at least this probability are chosen from.
            #[serde(default)]
            pub(crate) top_p: Option<f32>,
            /// Only this many of the most likely tokens are chosen from; 0 is all.
            #[serde(default)]
            pub(crate) top_k: Option<u32>,
            /// Only tokens at least this many times as likely as the likeliest are chosen from.
            #[serde(default)]
            pub(crate) min_p: Option<f32>,
            /// Logits of tokens that have occurred are divided by this where they are positive, else multiplied.
            #[serde(default)]
            pub(crate) repetition_penalty: Option<f32>,
            /// The same seed and request choose the same tokens.
            #[serde(default)]
            pub(crate) seed: Option<i64>,
            /// How many answers to each prompt.
            #[serde(default)]
            pub(crate) n: Option<u32>,
            /// Texts that end an answer, and are no part of it.
            #[serde(default)]
            #[schema(value_type = Option<Vec<String>>)]
            pub(crate) stop: Option<Texts>,
            /// The answer comes in pieces, as server-sent events.
            #[serde(default)]
            pub(crate) stream: Option<bool>,
            /// How the stream is sent.
            #[serde(default)]
            pub(crate) stream_options: Option<StreamOptions>,
            /// Only 0 is supported.
            #[serde(default)]
            pub(crate) frequency_penalty: Option<f32>,
            /// Only 0 is supported.
            #[serde(default)]
            pub(crate) presence_penalty: Option<f32>,
            /// Whom the client asks for; not used.
            #[serde(default, rename = "user")]
            #[schema(value_type = Option<String>)]
            _user: Given,
            $(#[serde(default)] #[schema(ignore)] $refused: Given,)*
        }

        impl $name {
            /// Refuses fields that are known, and that nothing here would do.
            pub(crate) fn refuse(&self) -> Result<(), Failure> {
                $(if self.$refused.0 {
                    return Err(Failure::unsupported(stringify!($refused)));
                })*
                let penalties = [
                    ("frequency_penalty", self.frequency_penalty),
                    ("presence_penalty", self.presence_penalty),
                ];
                for (field, value) in penalties {
                    if value.is_some_and(|value| value != 0.0) {
                        return Err(Failure::unsupported(field));
                    }
                }
                if self.stream_options.is_some() && self.stream != Some(true) {
                    let message = "`stream_options` is there without `stream`";
                    return Err(Failure::invalid(message, "set `stream`, or leave it out").of("stream_options"));
                }
                if self.stream_options.as_ref().is_some_and(|options| options.include_obfuscation.0) {
                    return Err(Failure::unsupported("stream_options.include_obfuscation"));
                }
                Ok(())
            }
        }
    };
}

request! {
    /// What `/v1/chat/completions` takes.
    ChatRequest {
        /// The conversation so far.
        #[schema(value_type = Vec<ChatMessage>)]
        messages: Few<ChatMessage, MESSAGES>,
        /// The same as `max_tokens`.
        #[serde(default)]
        max_completion_tokens: Option<u32>,
        /// Whether each token's probability is told.
        #[serde(default)]
        logprobs: Option<bool>,
        /// How many likeliest tokens are told beside each.
        #[serde(default)]
        top_logprobs: Option<u32>,
        /// Only `{"type": "text"}` is supported.
        #[serde(default)]
        response_format: Option<ResponseFormat>,
    }
    refused {
        tools, tool_choice, parallel_tool_calls, functions, function_call, logit_bias, audio, modalities, prediction,
        reasoning_effort, verbosity, web_search_options, store, metadata, service_tier, safety_identifier,
        prompt_cache_key,
    }
}

request! {
    /// What `/v1/completions` takes.
    CompletionRequest {
        /// What is to be continued: a text, token ids, or several of either.
        #[schema(value_type = String)]
        prompt: Prompts,
        /// Whether each token's probability is told, and how many likeliest ones beside it.
        #[serde(default)]
        logprobs: Option<u32>,
    }
    refused { best_of, echo, suffix, logit_bias, }
}

/// What an answer is to look like.
#[derive(Clone, Debug, serde::Deserialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
}

/// What `/v1/compress` takes.
#[derive(Clone, Debug, serde::Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompressRequest {
    /// The text.
    pub(crate) text: String,
    /// Its title; read as the text's first line.
    #[serde(default)]
    pub(crate) title: Option<String>,
    /// One of the registry's encoders; the decoder's, or the registry's default.
    #[serde(default)]
    pub(crate) encoder: Option<String>,
    /// Embeddings in this decoder's space are wanted in place of latents.
    #[serde(default)]
    pub(crate) decoder: Option<String>,
    /// How many tokens a latent stands for.
    #[serde(default)]
    pub(crate) factor: Option<u32>,
    /// `json` where it is left out.
    #[serde(default)]
    pub(crate) format: Option<Format>,
}

/// What latents are written as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Lists of numbers.
    #[default]
    Json,
    /// A safetensors file; of latents, one that `arc ask` reads.
    Safetensors,
    /// An npy file of NumPy, float32 `[n, d]`.
    Npy,
    /// No numbers: which characters of the text each latent stands for.
    Spans,
    /// `{"type": "prompt_embeds", "data": …}`, a part of a message for vLLM. Needs `decoder`.
    Vllm,
}

/// A request's body as what it says.
pub(crate) fn read<'de, T: serde::Deserialize<'de>>(body: &'de [u8]) -> Result<T, Failure> {
    let hint = "`/openapi.json` lists what may be said";
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let (path, reason) = (error.path().to_string(), error.inner());
        match path.as_str() {
            "" | "." | "?" => Failure::invalid(format!("the body is not what was expected: {reason}"), hint),
            _ => Failure::invalid(format!("`{path}` is not what was expected: {reason}"), hint).of(path),
        }
    })?;
    let end = json.end();
    end.map_err(|error| Failure::invalid(format!("the body is not what was expected: {error}"), hint))?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// A request with something of everything.
    const WHOLE: &str = r#"{"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content":
        [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": "é\u00e9",
        "refusal": null, "tool_calls": [], "annotations": [{"x": 1}]}], "documents": [{"title": "t", "text": "x"},
        {"id": "i"}], "arc": {"encoder": "e", "factor": 4, "open_book": false, "form": "chat"}, "max_tokens": 5,
        "temperature": 0.5, "top_p": 1, "top_k": 0, "min_p": 0.0, "seed": -3, "n": 2, "stop": ["x", "y"],
        "stream": true, "stream_options": {"include_usage": true}, "frequency_penalty": 0, "logit_bias": {},
        "user": "u", "logprobs": true, "top_logprobs": 2, "response_format": {"type": "text"}, "tools": null}"#;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let request: ChatRequest = read(WHOLE.as_bytes()).expect("a request");
        request.refuse().expect("nothing that is not supported");
        request.messages.0.iter().for_each(|message| message.check().expect("supported"));
        let said: Vec<String> =
            request.messages.0.iter().map(|message| message.content.clone().expect("said").0).collect();
        assert_eq!(said, ["s", "ab", "éé"]);
        let documents = request.documents.expect("documents").0;
        assert_eq!((documents[0].title.as_deref(), documents[1].id.as_deref()), (Some("t"), Some("i")));
        assert_eq!((request.seed, request.n, request.top_k), (Some(-3), Some(2), Some(0)));
        assert_eq!(request.stop.expect("texts").0, ["x", "y"]);
        let completion = |prompt: &str| {
            let body = format!("{{\"model\": \"m\", \"prompt\": {prompt}}}");
            read::<CompletionRequest>(body.as_bytes()).map(|request| format!("{:?}", request.prompt.0))
        };
        for (prompt, expected) in [
            ("\"a\"", "[Text(\"a\")]"),
            ("[\"a\", \"b\"]", "[Text(\"a\"), Text(\"b\")]"),
            ("[1, 2]", "[Ids([1, 2])]"),
            ("[[1], [2, 3]]", "[Ids([1]), Ids([2, 3])]"),
        ] {
            assert_eq!(completion(prompt).expect("prompts"), expected);
        }
        for prompt in ["[1, \"a\"]", "[[1], 2]", "{}", "null", "[-1]", "[4294967296]", "1"] {
            assert!(completion(prompt).is_err(), "{prompt}");
        }
    }

    #[test]
    fn lists_end_where_they_become_too_long() {
        let documents = |n: usize| {
            let list = vec![r#"{"text": "x"}"#; n].join(",");
            read::<ChatRequest>(
                format!("{{\"model\": \"m\", \"messages\": [], \"documents\": [{list}]}}").as_bytes(),
            )
        };
        assert!(documents(DOCUMENTS).is_ok());
        let refused = documents(DOCUMENTS + 1).expect_err("too many").body("x").to_string();
        assert!(refused.contains("longer than 256"), "{refused}");
    }

    #[test]
    fn only_what_says_something_is_given() {
        for (json, is_given) in [
            ("null", false),
            ("false", false),
            ("\"\"", false),
            ("[]", false),
            ("{}", false),
            ("true", true),
            ("0", true),
            ("-1.5", true),
            ("\"x\"", true),
            ("[null]", true),
            ("{\"a\": null}", true),
        ] {
            assert_eq!(serde_json::from_str::<Given>(json).expect("JSON").0, is_given, "{json}");
        }
    }

    proptest! {
        /// Whatever comes is a request or a refusal: nothing panics, and what is refused has a message.
        #[test]
        fn no_body_is_more_than_a_refusal(
            edits in prop::collection::vec((any::<Index>(), any::<Index>(), "[\\[\\]{}\",:0-9eE+.a-z\\\\-]{0,6}"), 1..6),
        ) {
            let mut body: Vec<char> = WHOLE.chars().collect();
            for (from, length, new) in edits {
                let from = from.index(body.len());
                let to = from + length.index((body.len() - from).min(20)).min(body.len() - from);
                body.splice(from..to, new.chars());
                prop_assume!(!body.is_empty());
            }
            let body: String = body.into_iter().collect();
            for refused in [
                read::<ChatRequest>(body.as_bytes()).and_then(|request| request.refuse()).err(),
                read::<CompletionRequest>(body.as_bytes()).and_then(|request| request.refuse()).err(),
                read::<CompressRequest>(body.as_bytes()).map(drop).err(),
            ]
            .into_iter()
            .flatten()
            {
                prop_assert!(!refused.body("x")["error"]["message"].as_str().unwrap_or_default().is_empty());
            }
        }

        #[test]
        fn bytes_that_are_no_json_are_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assume!(serde_json::from_slice::<serde_json::Value>(&body).is_err());
            prop_assert!(read::<ChatRequest>(&body).is_err());
        }
    }
}
