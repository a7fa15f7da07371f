//! JSONL: each line a document.

use serde_json::Value;

use crate::document::Document;
use crate::error::refused;
use crate::plain::Refusal;
use crate::{Format, Result};

const HINT: &str = "each line is one JSON object with the text in its field `text`";

/// The documents of JSON objects, one a line, with the text in `text`; what they say in `id` is their name.
pub(crate) fn documents(name: &str, lines: &str) -> Result<Vec<Document>> {
    let mut documents = Vec::new();
    for (index, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let at =
            |reason: String| refused(name, Refusal::new(format!("has in line {} {reason}", index + 1), HINT));
        let object: Value =
            serde_json::from_str(line).map_err(|error| at(format!("what is no JSON: {error}")))?;
        let Some(text) = object.get("text").and_then(Value::as_str) else {
            return Err(at("no text in `text`".into()));
        };
        if text.trim().is_empty() {
            return Err(at("an empty text".into()));
        }
        let name = match object.get("id").and_then(Value::as_str) {
            Some(id) => id.to_owned(),
            None => format!("{name}:{}", index + 1),
        };
        documents.push(Document { name, text: text.to_owned(), format: Format::JsonLines });
    }
    match documents.is_empty() {
        true => Err(refused(name, Refusal::new("is empty", HINT))),
        false => Ok(documents),
    }
}
