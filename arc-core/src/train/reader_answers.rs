//! What decoders answer to questions when they read the documents, written into the files of questions:
//! targets for the same decoders when they read latents.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::question_prompts::{ANSWER, FINDING, QUESTION};
use crate::decoder::{Decoder, GenerateOptions, Prefix};
use crate::prompt::Prompt;
use crate::{Error, Result, Session};

/// Questions that are answered before they are written down.
const ROWS_AT_ONCE: usize = 64;
/// Questions that are answered at once; the rows of a batch are as long as its longest.
const BATCH: usize = 8;
/// New tokens of an answer, at most: those of the question-answering tasks.
const ANSWER_TOKENS: usize = 24;
/// The field of a row that holds the answers, by decoder.
const FIELD: &str = "answered_by";

/// Has decoders answer the questions of a JSONL file, each reading the whole document after two examples,
/// and writes the rows with their answers to `out`. Where a decoder says nothing, the row's own answer stands
/// for it. What an interrupted call has written is gone on with; rows that have the answers already keep them.
///
/// `goes_on` is asked, with the rows done, whenever some have been written; returns whether all are.
///
/// # Errors
///
/// [`Error::InvalidFile`] for a row that is no question; whatever is wrong with the models or the disk.
pub fn answer_questions(
    session: &Session,
    decoders: &[String],
    path: &Path,
    out: &Path,
    goes_on: &mut dyn FnMut(u64) -> bool,
) -> Result<bool> {
    let rows = rows(path)?;
    let partial = partial_path(out);
    let done = begun(&partial, &rows)?;
    let readers =
        decoders.iter().map(|name| Reader::new(session.decoder(name)?)).collect::<Result<Vec<_>>>()?;
    let failed = || Error::io("write", &partial);
    let mut file = OpenOptions::new().create(true).append(true).open(&partial).map_err(failed())?;
    let mut count = done;
    for chunk in rows[done..].chunks(ROWS_AT_ONCE) {
        let mut chunk = chunk.to_vec();
        for reader in &readers {
            reader.answer(&mut chunk)?;
        }
        let text: String = chunk.iter().map(|row| format!("{}\n", json!(row))).collect();
        file.write_all(text.as_bytes()).map_err(failed())?;
        file.sync_data().map_err(failed())?;
        count += chunk.len();
        if count < rows.len() && !goes_on(count as u64) {
            return Ok(false);
        }
    }
    drop(file);
    std::fs::rename(&partial, out).map_err(Error::io("write", out))?;
    Ok(true)
}

fn rows(path: &Path) -> Result<Vec<Map<String, Value>>> {
    let mut rows = Vec::new();
    super::questions::each_row(path, &mut |line, _| {
        // It was a question just now, and so is an object.
        rows.extend(serde_json::from_str::<Map<String, Value>>(line).ok());
        Ok(())
    })?;
    Ok(rows)
}

fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    out.with_file_name(name)
}

/// How many rows an interrupted call has answered. What a kill has left of a line is cut off.
fn begun(partial: &Path, rows: &[Map<String, Value>]) -> Result<usize> {
    let Ok(file) = File::open(partial) else { return Ok(0) };
    let (mut done, mut bytes) = (0, 0);
    let mut file = BufReader::new(file);
    let mut line = String::new();
    while file.read_line(&mut line).map_err(Error::io("read", partial))? > 0 {
        let row: Option<Map<String, Value>> = serde_json::from_str(&line).ok();
        let Some(row) = row.filter(|_| line.ends_with('\n')) else { break };
        let same = |field: &str| rows.get(done).is_some_and(|expected| expected.get(field) == row.get(field));
        if !same("document") || !same("question") {
            return Err(Error::Occupied {
                path: partial.to_owned(),
                state: "holds answers to other questions".into(),
                hint: "delete it to begin again".into(),
            });
        }
        done += 1;
        bytes += line.len() as u64;
        line.clear();
    }
    let file = OpenOptions::new().write(true).open(partial).map_err(Error::io("open", partial))?;
    file.set_len(bytes).map_err(Error::io("write", partial))?;
    Ok(done)
}

/// A decoder with the examples that it reads before every question.
struct Reader {
    decoder: Arc<Decoder>,
    examples: Prefix,
}

impl Reader {
    fn new(decoder: Arc<Decoder>) -> Result<Self> {
        let ids = [decoder.tokenizer.beginning(), decoder.tokenizer.encode(FINDING)?.ids].concat();
        let examples = decoder.read_prefix(&Prompt::from_tokens(ids))?;
        Ok(Self { decoder, examples })
    }

    /// Puts answers into rows that have none of this decoder.
    fn answer(&self, rows: &mut [Map<String, Value>]) -> Result<()> {
        let text = |row: &Map<String, Value>, field: &str| {
            row.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let mut waiting = Vec::new();
        for (place, row) in rows.iter().enumerate() {
            if row.get(FIELD).is_none_or(|answers| answers.get(&self.decoder.name).is_none()) {
                let (document, question) = (text(row, "document"), text(row, "question"));
                let ids = self
                    .decoder
                    .tokenizer
                    .encode(&format!("{}{QUESTION} {question}{ANSWER}", document.trim()))?;
                waiting.push((place, Prompt::from_tokens(ids.ids)));
            }
        }
        // Rows of a batch are padded to one length.
        waiting.sort_by_key(|(_, prompt)| prompt.len());
        let options = GenerateOptions {
            max_tokens: ANSWER_TOKENS,
            stop: vec!["\n".to_owned()],
            ..GenerateOptions::default()
        };
        for batch in waiting.chunks(BATCH) {
            let prompts: Vec<Prompt> = batch.iter().map(|(_, prompt)| prompt.clone()).collect();
            let said = self.decoder.generate_after(Some(&self.examples), &prompts, &options, |_, _| {})?;
            for ((place, _), said) in batch.iter().zip(said.rows) {
                let row = &mut rows[*place];
                let answer = match said.text.trim() {
                    "" => text(row, "answer"),
                    said => said.to_owned(),
                };
                let answers = row.entry(FIELD).or_insert_with(|| json!({}));
                if let Some(answers) = answers.as_object_mut() {
                    answers.insert(self.decoder.name.clone(), json!(answer));
                }
            }
        }
        Ok(())
    }
}
