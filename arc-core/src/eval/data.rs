//! The rows of a task: JSONL, one object on each line.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::bounded_file::{ROWS, read_bytes};
use crate::json_lines::parse_line;
use crate::{Error, Result};

/// The names of a data file's fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Fields {
    /// The text that is compressed.
    pub document: String,
    /// What is asked about it.
    pub question: String,
    /// What is a right answer: a text, a truth value (`yes` and `no`), or a list of texts.
    pub answers: String,
}

impl Default for Fields {
    fn default() -> Self {
        Self { document: "document".into(), question: "question".into(), answers: "answers".into() }
    }
}

/// A question about a document.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// The text that is compressed, without white space at its ends.
    pub document: String,
    /// What is asked about it; empty where the task's prompt says it all.
    pub question: String,
    /// Right answers; empty where none are needed.
    pub answers: Vec<String>,
    /// Where the needle lies, in a needle task.
    pub needle: Option<NeedlePlace>,
}

/// Where a needle lies.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct NeedlePlace {
    /// Words of the document, about.
    pub words: usize,
    /// How far into it, from 0 to 1.
    pub depth: f64,
}

/// The rows of a file, and which lines were left out.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rows {
    /// The rows in the order of the file.
    pub rows: Vec<Row>,
    /// What was wrong with the lines that were left out.
    pub skipped: Vec<String>,
    /// The sha256 of the file.
    pub sha256: String,
}

impl Rows {
    /// Reads a file. With `needs_answers` a row without an answer is malformed; a malformed row is
    /// an error unless `skip_bad` leaves it out.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::DataRow`] with the line for a malformed row.
    pub fn read(path: &Path, fields: &Fields, needs_answers: bool, skip_bad: bool) -> Result<Self> {
        let bytes = read_bytes(path, ROWS)?;
        let mut rows =
            Self { rows: Vec::new(), skipped: Vec::new(), sha256: arc_adapters::sha256_hex(&bytes) };
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match Row::parse(line, fields, needs_answers) {
                Ok(row) => rows.rows.push(row),
                Err(reason) => {
                    let error = Error::DataRow { path: path.to_owned(), line: index + 1, reason };
                    if !skip_bad {
                        return Err(error);
                    }
                    rows.skipped.push(error.to_string());
                }
            }
        }
        Ok(rows)
    }
}

impl Row {
    fn parse(line: &[u8], fields: &Fields, needs_answers: bool) -> Result<Self, String> {
        let row: Map<String, Value> = parse_line(line)?;
        let document = match row.get(&fields.document) {
            Some(Value::String(text)) if !text.trim().is_empty() => text.trim().to_owned(),
            Some(Value::String(_)) => return Err(format!("field `{}` is empty", fields.document)),
            Some(_) => return Err(format!("field `{}` is not a text", fields.document)),
            None => return Err(format!("field `{}` is missing", fields.document)),
        };
        let question = match row.get(&fields.question) {
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(_) => return Err(format!("field `{}` is not a text", fields.question)),
            None => String::new(),
        };
        let wrong =
            || format!("field `{}` is neither a text, a truth value nor a list of texts", fields.answers);
        let answers = match row.get(&fields.answers) {
            None => Vec::new(),
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Bool(truth)) => vec![if *truth { "yes" } else { "no" }.to_owned()],
            Some(Value::Array(list)) => {
                let texts = list.iter().map(|answer| answer.as_str().map(str::to_owned));
                texts.collect::<Option<_>>().ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        if needs_answers && answers.is_empty() {
            return Err(format!("there is no answer in field `{}`", fields.answers));
        }
        Ok(Self { document, question, answers, needle: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, skip_bad: bool) -> Result<Rows> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data.jsonl");
        std::fs::write(&path, text).unwrap();
        Rows::read(&path, &Fields::default(), true, skip_bad)
    }

    const GOOD: &str = r#"{"document": " d ", "question": "q", "answers": ["a", "b"], "id": 7}"#;

    #[test]
    fn answers_are_texts_lists_or_truth_values() {
        let text = format!(
            "{GOOD}\n\n{}\n{}\n",
            r#"{"document": "d", "answers": "a"}"#, r#"{"document": "d", "question": "q", "answers": false}"#
        );
        let rows = read(&text, false).unwrap().rows;
        assert_eq!(rows.iter().map(|row| row.answers.join("|")).collect::<Vec<_>>(), ["a|b", "a", "no"]);
        assert_eq!((rows[0].document.as_str(), rows[1].question.as_str()), ("d", ""));
    }

    #[test]
    fn a_malformed_row_is_reported_with_its_line_and_left_out_only_when_asked() {
        for (bad, reason) in [
            ("{\"document\": ", "EOF"),
            ("[1]", "invalid type"),
            (r#"{"question": "q", "answers": "a"}"#, "field `document` is missing"),
            (r#"{"document": " ", "answers": "a"}"#, "field `document` is empty"),
            (r#"{"document": 3, "answers": "a"}"#, "field `document` is not a text"),
            (r#"{"document": "d", "answers": [1]}"#, "neither a text"),
            (r#"{"document": "d", "answers": []}"#, "there is no answer"),
            (r#"{"document": "d", "question": 1, "answers": "a"}"#, "field `question` is not a text"),
        ] {
            // The empty line counts.
            let text = format!("{GOOD}\n\n{bad}\n{GOOD}\n");
            let error = read(&text, false).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("line 3") && message.contains(reason), "{message}");
            assert_eq!(error.hint().unwrap().to_string(), "correct that row");
            let rows = read(&text, true).unwrap();
            assert_eq!((rows.rows.len(), rows.skipped.len()), (2, 1));
            assert!(rows.skipped[0].contains("line 3"), "{}", rows.skipped[0]);
        }
    }
}
