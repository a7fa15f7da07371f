//! Chat templates: a conversation to the one text that an instruct model was trained on.
//!
//! Templates are Jinja, written for Hugging Face transformers; they run here with what
//! transformers gives them: Python's methods on strings, lists and dicts, `raise_exception`,
//! `strftime_now`, `tojson`, the names of the beginning and end tokens, and its white-space rules.

mod civil_time;

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::weights::GgufFile;
use crate::{Error, Result};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

/// A model's chat template, compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// The name of the only template in its environment.
const NAME: &str = "chat";

impl ChatTemplate {
    /// Compiles a template. `bos_token` and `eos_token` are the tokens' names, as templates write
    /// them.
    ///
    /// # Errors
    /// [`Error::Template`] if it is not valid Jinja.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|error| failure(&error))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", civil_time::now);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, source.to_owned()).map_err(|error| failure(&error))?;
        Ok(Self { environment, bos_token: bos_token.into(), eos_token: eos_token.into() })
    }

    /// The template of a GGUF model; nothing if it has none, as base models often have not.
    ///
    /// # Errors
    /// [`Error::Template`] if it is not valid Jinja; [`Error::InvalidConfig`] if a metadata field
    /// is of a wrong type.
    pub fn from_gguf(gguf: &GgufFile) -> Result<Option<Self>> {
        const KEY: &str = "tokenizer.chat_template";
        if gguf.meta(KEY).is_none() {
            return Ok(None);
        }
        let name = |key: &str| -> Result<&str> {
            if gguf.meta(key).is_none() {
                return Ok("");
            }
            let id = usize::try_from(gguf.u32(key)?).unwrap_or(usize::MAX);
            let tokens = gguf.strings("tokenizer.ggml.tokens")?;
            Ok(tokens.get(id).map_or("", String::as_str))
        };
        let bos = name("tokenizer.ggml.bos_token_id")?;
        let eos = name("tokenizer.ggml.eos_token_id")?;
        Self::new(gguf.str(KEY)?, bos, eos).map(Some)
    }

    /// The template of a Hugging Face folder: `chat_template.jinja`, else the `chat_template` of
    /// `tokenizer_config.json` (of several, the one named `default`); nothing if it has none.
    ///
    /// # Errors
    /// [`Error::Io`] if a file is there but cannot be read; [`Error::InvalidFile`] if the
    /// configuration is not JSON; [`Error::Template`] if the template is not valid Jinja.
    pub fn from_folder(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let folder = folder.as_ref();
        let path = folder.join("tokenizer_config.json");
        let config: serde_json::Value = match read_if_there(&path)? {
            Some(text) => serde_json::from_str(&text).map_err(|error| Error::InvalidFile {
                path,
                format: "tokenizer_config.json",
                reason: error.to_string(),
            })?,
            None => serde_json::Value::Null,
        };
        let of_config = config.get("chat_template").and_then(|template| match template {
            serde_json::Value::Array(several) => several
                .iter()
                .find(|one| one.get("name").and_then(|name| name.as_str()) == Some("default"))?
                .get("template")?
                .as_str(),
            one => one.as_str(),
        });
        let of_file = read_if_there(&folder.join("chat_template.jinja"))?;
        let Some(source) = of_file.as_deref().or(of_config) else {
            return Ok(None);
        };
        let token = |key: &str| {
            config
                .get(key)
                .and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()))
                .unwrap_or_default()
        };
        Self::new(source, token("bos_token"), token("eos_token")).map(Some)
    }

    /// The text of a conversation. With `add_generation_prompt` it ends where the model's answer
    /// begins.
    ///
    /// # Errors
    /// [`Error::Template`] if the template refuses the conversation (an unknown role, turns that do
    /// not alternate) or fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|Message { role, content }| {
                Value::from_pairs([("role", role.as_str()), ("content", content.as_str())])
            })
            .collect();
        self.environment
            .get_template(NAME)
            .and_then(|template| {
                template.render(context! {
                    messages => messages,
                    add_generation_prompt => add_generation_prompt,
                    bos_token => self.bos_token.as_str(),
                    eos_token => self.eos_token.as_str(),
                })
            })
            .map_err(|error| failure(&error))
    }
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ChatTemplate")
            .field("bos_token", &self.bos_token)
            .field("eos_token", &self.eos_token)
            .finish_non_exhaustive()
    }
}

fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// The engine's error in one line: what it is, what it says, and the line of the template.
fn failure(error: &minijinja::Error) -> Error {
    let mut reason = error.kind().to_string();
    if let Some(detail) = error.detail() {
        reason = match error.kind() {
            // The template's own words are all that is wanted.
            ErrorKind::InvalidOperation => detail.to_owned(),
            _ => format!("{reason}: {detail}"),
        };
    }
    if let Some(line) = error.line() {
        reason.push_str(&format!(" (line {line})"));
    }
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    Error::Template { what: NAME.into(), reason }
}

/// How templates refuse a conversation.
fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// JSON as Python's `json.dumps(ensure_ascii=False)` writes it: minijinja's own filter escapes
/// what is special in HTML, which models have not seen.
fn to_json(value: &Value, options: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Accepted for compatibility; false is what is done, and order is as given.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let mut json = String::new();
    write_json(value, indent.map(|width| width.min(16)), 0, &mut json)?;
    Ok(Value::from(json))
}

/// How deep JSON may be nested, so that no template can exhaust the stack.
const MAX_JSON_DEPTH: usize = 64;

fn write_json(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    json: &mut String,
) -> std::result::Result<(), minijinja::Error> {
    let refuse = |reason: String| minijinja::Error::new(ErrorKind::BadSerialization, reason);
    if depth > MAX_JSON_DEPTH {
        return Err(refuse(format!("nested deeper than {MAX_JSON_DEPTH} levels")));
    }
    let quote = |text: &str| serde_json::to_string(text).map_err(|error| refuse(error.to_string()));
    // What separates one element from the next, or from the bracket.
    let separate = |json: &mut String, first: bool, depth: usize| {
        if !first {
            json.push(',');
        }
        match indent {
            Some(width) => {
                json.push('\n');
                json.extend(std::iter::repeat_n(' ', width * depth));
            }
            None if !first => json.push(' '),
            None => {}
        }
    };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => json.push_str("null"),
        ValueKind::Bool => json.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => json.push_str(&value.to_string()),
        ValueKind::String => json.push_str(&quote(value.as_str().unwrap_or_default())?),
        kind @ (ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) => {
            let is_map = kind == ValueKind::Map;
            json.push(if is_map { '{' } else { '[' });
            let mut first = true;
            for element in value.try_iter()? {
                separate(json, first, depth + 1);
                first = false;
                if is_map {
                    json.push_str(&quote(&element.to_string())?);
                    json.push_str(": ");
                    write_json(&value.get_item(&element)?, indent, depth + 1, json)?;
                } else {
                    write_json(&element, indent, depth + 1, json)?;
                }
            }
            if !first && indent.is_some() {
                separate(json, true, depth);
            }
            json.push(if is_map { '}' } else { ']' });
        }
        other => return Err(refuse(format!("a value of kind {other} cannot be JSON"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(messages, true)
    }

    #[test]
    fn python_idioms_of_published_templates_work() {
        let source = "{%- set ns = namespace(n=0) -%}\n\
            {%- for message in messages %}\n\
            {%- set ns.n = ns.n + 1 %}\n\
            {{- message['content'].strip() + message.role.upper() + messages[::-1][0].role }}\n\
            {%- endfor %}\n\
            {{- ns.n ~ bos_token ~ eos_token ~ ('a-b'.split('-')[1]) ~ ({'k': 1}.items() | list | length) }}";
        let messages = [Message::new("user", " hi "), Message::new("assistant", "yo")];
        assert_eq!(render(source, &messages).unwrap(), "hiUSERassistantyoASSISTANTassistant2<s></s>b1");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let source = r#"{{ {"a": [1, "<é'>"], "b": none} | tojson }}"#;
        assert_eq!(render(source, &[]).unwrap(), r#"{"a": [1, "<é'>"], "b": null}"#);
        // json.dumps({"a": [1, []], "b": {}}, indent=2)
        let source = r#"{{ {"a": [1, []], "b": {}} | tojson(indent=2) }}"#;
        let expected = "{\n  \"a\": [\n    1,\n    []\n  ],\n  \"b\": {}\n}";
        assert_eq!(render(source, &[]).unwrap(), expected);
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
    fn a_broken_template_is_an_error_in_one_line() {
        let message = render("{% for %}", &[]).unwrap_err().to_string();
        assert!(message.starts_with("the chat template failed: syntax error"), "{message}");
        assert!(!message.contains('\n'));
    }

    #[test]
    fn block_lines_leave_no_trace() {
        assert_eq!(render("  {% if true %}\nx\n  {% endif %}\ny", &[]).unwrap(), "x\ny");
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
        write("chat_template.jinja", "file{{ bos_token }}");
        assert_eq!(rendered().as_deref(), Some("file<b>"));
        write("tokenizer_config.json", "{");
        assert!(matches!(ChatTemplate::from_folder(folder.path()), Err(Error::InvalidFile { .. })));
    }
}
