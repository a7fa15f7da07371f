//! Chat templates: a conversation to the one text that an instruct model was trained on.
//!
//! Templates are Jinja, written for Hugging Face transformers; `arc-jinja` runs them as transformers
//! does, within limits. What they are given is what `apply_chat_template` gives them: the messages, the
//! names of the model's special tokens, and no tools and no documents.

use std::path::Path;

use arc_jinja::{Limits, Options, Template, Value};
use serde::{Deserialize, Serialize};

use crate::bounded_file::{BESIDE_TOKENIZER, if_there, read_text};
use crate::weights::{GgufFile, GgufValue};
use crate::{Error, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's chat template.
///
/// Opening a model never fails for its template: one that cannot be compiled says so when it is used.
#[derive(Debug)]
pub struct ChatTemplate {
    compiled: std::result::Result<Template, String>,
    names: SpecialTokenNames,
    limits: Limits,
}

/// The names of a model's special tokens, as its template knows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpecialTokenNames {
    /// By what they are for: `bos_token`, `eos_token`, `pad_token`, …
    pub named: Vec<(String, String)>,
    /// `additional_special_tokens`, where the model has that list.
    pub additional: Option<Vec<String>>,
}

/// The tokens that transformers names to every template, and what GGUF calls their ids.
const NAMED_TOKENS: [(&str, &str); 7] = [
    ("bos_token", "bos"),
    ("eos_token", "eos"),
    ("unk_token", "unknown"),
    // The specification of GGUF misspells it, and so do the files.
    ("sep_token", "seperator"),
    ("pad_token", "padding"),
    ("cls_token", "cls"),
    ("mask_token", "mask"),
];

impl ChatTemplate {
    /// Compiles a template. `bos_token` and `eos_token` are the tokens' names, as templates write
    /// them.
    ///
    /// # Errors
    /// [`Error::Template`] if it is not valid Jinja.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        let named = [("bos_token", bos_token), ("eos_token", eos_token)];
        let named = named.map(|(name, token)| (name.to_owned(), token.to_owned())).to_vec();
        let template = Self::of_model(source, SpecialTokenNames { named, additional: None });
        match template.compiled {
            Ok(_) => Ok(template),
            Err(reason) => Err(failed(reason)),
        }
    }

    /// A model's template, whether or not it can be compiled.
    #[must_use]
    pub fn of_model(source: &str, names: SpecialTokenNames) -> Self {
        let compiled = Template::compile(source, Options::TRANSFORMERS).map_err(|error| error.to_string());
        Self { compiled, names, limits: Limits::DEFAULT }
    }

    /// The same with other limits on what it may do.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The template of a GGUF model; nothing if it has none, as base models often have not.
    #[must_use]
    pub fn from_gguf(gguf: &GgufFile) -> Option<Self> {
        let source = match gguf.meta("tokenizer.chat_template")? {
            GgufValue::String(source) => source,
            other => {
                let reason = format!("`tokenizer.chat_template` is {}, expected a string", other.type_name());
                let names = SpecialTokenNames::default();
                return Some(Self { compiled: Err(reason), names, limits: Limits::DEFAULT });
            }
        };
        let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap_or_default();
        let named = NAMED_TOKENS.iter().filter_map(|(name, key)| {
            let id = gguf.meta(&format!("tokenizer.ggml.{key}_token_id")).and_then(GgufValue::as_u32);
            match id.and_then(|id| tokens.get(id as usize)) {
                Some(token) => Some(((*name).to_owned(), token.clone())),
                // Converters leave them out, and templates add them to text: they are nothing, and there.
                None if matches!(*key, "bos" | "eos") => Some(((*name).to_owned(), String::new())),
                None => None,
            }
        });
        Some(Self::of_model(source, SpecialTokenNames { named: named.collect(), additional: None }))
    }

    /// The template of a Hugging Face folder: `chat_template.jinja`, else that of `chat_template.json`,
    /// else the `chat_template` of `tokenizer_config.json` (of several, the one named `default`); nothing
    /// if it has none.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is there but cannot be read; [`Error::InvalidFile`] if one that should be
    /// JSON is not.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let folder = folder.as_ref();
        let config = json_if_there(folder, "tokenizer_config.json")?;
        let map = json_if_there(folder, "special_tokens_map.json")?;
        let of_json = json_if_there(folder, "chat_template.json")?;
        let of_file = read_if_there(folder, "chat_template.jinja")?;
        let source = of_file.as_deref().or(source_in(&of_json)).or(source_in(&config));
        Ok(source.map(|source| Self::of_model(source, SpecialTokenNames::of_json(&config, &map))))
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the model's answer
    /// begins.
    ///
    /// # Errors
    /// [`Error::Template`] if the template cannot be compiled, refuses the conversation (an unknown role,
    /// turns that do not alternate), fails, or reaches a limit.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.compiled.as_ref().map_err(|reason| failed(reason.clone()))?;
        let given = messages.iter().map(|message| message.role.len() + message.content.len()).sum();
        let messages = messages.iter().map(|Message { role, content }| {
            Value::dict([("role", Value::from(role.as_str())), ("content", Value::from(content.as_str()))])
        });
        let named = self.names.named.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let additional = self.names.additional.iter().map(|tokens| {
            ("additional_special_tokens", Value::list(tokens.iter().map(|token| Value::from(token.as_str()))))
        });
        let context = [
            ("messages", Value::list(messages)),
            ("tools", Value::NONE),
            ("documents", Value::NONE),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
        ];
        template
            .render(context.into_iter().chain(named).chain(additional), self.limits.with_input(given))
            .map_err(|error| failed(error.to_string()))
    }
}

impl SpecialTokenNames {
    /// From the contents of `tokenizer_config.json` and `special_tokens_map.json`, of which the first
    /// counts where both name a token.
    fn of_json(config: &serde_json::Value, map: &serde_json::Value) -> Self {
        let find = |key: &str| {
            [config, map].into_iter().filter_map(|file| file.get(key)).find(|value| !value.is_null())
        };
        let named = NAMED_TOKENS.iter().filter_map(|(name, _)| {
            find(name).and_then(token_text).map(|token| ((*name).to_owned(), token.to_owned()))
        });
        let mut named: Vec<_> = named.collect();
        // Models of images and sound name more tokens: `image_token`, …
        for (name, token) in
            find("extra_special_tokens").and_then(|extra| extra.as_object()).into_iter().flatten()
        {
            named.extend(token_text(token).map(|token| (name.clone(), token.to_owned())));
        }
        let additional = find("additional_special_tokens").and_then(|list| list.as_array());
        let additional =
            additional.map(|list| list.iter().filter_map(token_text).map(str::to_owned).collect());
        Self { named, additional }
    }
}

/// The name of a token that is written as a string, or as an object with its `content`.
fn token_text(token: &serde_json::Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// The template in a configuration's `chat_template`: one, or several with names.
fn source_in(config: &serde_json::Value) -> Option<&str> {
    match config.get("chat_template")? {
        serde_json::Value::Array(several) => several
            .iter()
            .find(|one| one.get("name").and_then(|name| name.as_str()) == Some("default"))?
            .get("template")?
            .as_str(),
        one => one.as_str(),
    }
}

fn json_if_there(folder: &Path, name: &'static str) -> Result<serde_json::Value> {
    match read_if_there(folder, name)? {
        Some(text) => serde_json::from_str(&text).map_err(|error| Error::InvalidFile {
            path: folder.join(name),
            format: name,
            reason: error.to_string(),
        }),
        None => Ok(serde_json::Value::Null),
    }
}

fn read_if_there(folder: &Path, name: &'static str) -> Result<Option<String>> {
    if_there(read_text(&folder.join(name), BESIDE_TOKENIZER.called(name)))
}

fn failed(reason: String) -> Error {
    Error::Template { what: "chat".into(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages, true)
    }

    #[test]
    fn templates_are_given_what_transformers_gives_them() {
        let source = "{{ messages[0].keys() | list | join(',') }} {{ tools is none }} {{ documents is none }} \
                      {{ add_generation_prompt }} {{ bos_token }} {{ pad_token is defined }}";
        let messages = [Message::new("user", "hi")];
        assert_eq!(render(source, &messages).unwrap(), "role,content True True True <s> False");
    }

    #[test]
    fn a_template_refuses_in_its_own_words_and_in_one_line() {
        let source = "\n{{ raise_exception('roles must\n alternate') }}";
        assert_eq!(
            render(source, &[]).unwrap_err().to_string(),
            "the chat template failed: roles must alternate (line 2)"
        );
    }

    #[test]
    fn a_broken_template_is_an_error_in_one_line_of_whoever_uses_it() {
        let message = render("{% for %}", &[]).unwrap_err().to_string();
        assert!(message.starts_with("the chat template failed: syntax error"), "{message}");
        assert!(!message.contains('\n'));
        let of_model = ChatTemplate::of_model("{% for %}", SpecialTokenNames::default());
        assert_eq!(of_model.render(&[], true).unwrap_err().to_string(), message);
    }

    #[test]
    fn a_template_that_does_not_end_is_an_error() {
        let source = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
        let message = render(source, &[]).unwrap_err().to_string();
        assert!(message.contains("more steps than a template may"), "{message}");
    }

    #[test]
    fn folders_hold_their_template_in_a_file_or_in_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let rendered =
            || ChatTemplate::from_folder(folder.path()).unwrap().map(|t| t.render(&[], false).unwrap());
        assert_eq!(rendered(), None);
        write("tokenizer_config.json", r#"{"bos_token": {"content": "<b>"}}"#);
        assert_eq!(rendered(), None);
        write(
            "tokenizer_config.json",
            r#"{"bos_token": {"content": "<b>"}, "eos_token": "<e>", "chat_template":
                [{"name": "tool_use", "template": "no"},
                 {"name": "default", "template": "{{ bos_token }}{{ eos_token }}"}]}"#,
        );
        assert_eq!(rendered().as_deref(), Some("<b><e>"));
        write("chat_template.json", r#"{"chat_template": "json{{ bos_token }}"}"#);
        assert_eq!(rendered().as_deref(), Some("json<b>"));
        write("chat_template.jinja", "file{{ bos_token }}");
        assert_eq!(rendered().as_deref(), Some("file<b>"));
        write("tokenizer_config.json", "{");
        assert!(matches!(ChatTemplate::from_folder(folder.path()), Err(Error::InvalidFile { .. })));
    }

    #[test]
    fn every_named_token_of_a_folder_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "chat_template.jinja",
            "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ sep_token }}{{ pad_token }}{{ cls_token }}\
             {{ mask_token }}{{ image_token }}{{ additional_special_tokens }}",
        );
        write(
            "tokenizer_config.json",
            r#"{"bos_token": "<b>", "eos_token": {"content": "<e>"}, "unk_token": null, "sep_token": "<s>",
                "extra_special_tokens": {"image_token": "<i>"}, "additional_special_tokens": ["<x>"]}"#,
        );
        write(
            "special_tokens_map.json",
            r#"{"bos_token": "<other>", "unk_token": "<u>", "pad_token": {"content": "<p>"}, "cls_token": "<c>",
                "mask_token": "<m>"}"#,
        );
        let template = ChatTemplate::from_folder(folder.path()).unwrap().unwrap();
        assert_eq!(template.render(&[], false).unwrap(), "<b><e><u><s><p><c><m><i>['<x>']");
    }
}
