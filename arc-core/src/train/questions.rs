//! Questions about documents: every document is compressed, and only the last answer counts.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rand::seq::index;
use serde::Deserialize;

use super::RunConfig;
use super::batch::{Sample, SampleSpan};
use super::draw::{Purpose, generator};
use super::objective::beginning;
use crate::decoder::Decoder;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// A question, its document and its answer.
#[derive(Clone, Debug, Deserialize)]
struct Question {
    document: String,
    question: String,
    answer: String,
}

/// All questions of a run, in memory.
#[derive(Debug, Default)]
pub struct Questions {
    questions: Vec<(Question, String)>,
    encoder_tokenizer: Option<Tokenizer>,
    chunk_tokens: usize,
}

impl Questions {
    /// Reads JSONL files. Documents are cut to `chunk_tokens` encoder tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] with the line for a row that lacks a field.
    pub fn open(paths: &[PathBuf], tokenizer: &Tokenizer, chunk_tokens: usize) -> Result<Self> {
        let mut questions = Vec::new();
        for path in paths {
            read(path, &mut questions)?;
        }
        Ok(Self { questions, encoder_tokenizer: Some(tokenizer.clone()), chunk_tokens })
    }

    /// The samples of a batch: up to the configured number of examples, then a question.
    pub(super) fn samples(&self, config: &RunConfig, batch: u64, decoder: &Decoder) -> Result<Vec<Sample>> {
        let mut random = generator(config.seed, Purpose::Question, batch);
        let shots = random.random_range(0..=config.data.shots).min(self.questions.len().saturating_sub(1));
        (0..config.schedule.batch)
            .map(|_| {
                let chosen = index::sample(&mut random, self.questions.len(), shots + 1);
                self.sample(&chosen.into_vec(), decoder)
            })
            .collect()
    }

    fn sample(&self, chosen: &[usize], decoder: &Decoder) -> Result<Sample> {
        let encode = |text: &str| -> Result<Vec<u32>> { Ok(decoder.tokenizer.encode(text)?.ids) };
        let mut sample = Sample {
            contexts: Vec::new(),
            plain_contexts: Vec::new(),
            spans: Vec::new(),
            origin: String::new(),
        };
        let mut text = beginning(decoder);
        text.extend(encode("Document: ")?);
        for (place, &index) in chosen.iter().enumerate() {
            let Some((Question { document, question, answer }, origin)) = self.questions.get(index) else {
                continue;
            };
            sample.spans.push(SampleSpan::Tokens { ids: std::mem::take(&mut text), is_target: false });
            sample.spans.push(SampleSpan::Context(place));
            sample.contexts.push(self.context(document.trim())?);
            sample.plain_contexts.push(encode(document.trim())?);
            text = encode(&format!("\nQuestion: {question}\nAnswer:"))?;
            let answer = encode(&format!(" {answer}"))?;
            if place + 1 < chosen.len() {
                text.extend(answer);
                text.extend(encode("\n\nDocument: ")?);
            } else {
                sample.spans.push(SampleSpan::Tokens { ids: std::mem::take(&mut text), is_target: false });
                let end = decoder.tokenizer.eos().into_iter();
                let ids = answer.into_iter().chain(end).collect();
                sample.spans.push(SampleSpan::Tokens { ids, is_target: true });
                sample.origin.clone_from(origin);
            }
        }
        Ok(sample)
    }

    fn context(&self, document: &str) -> Result<Vec<u32>> {
        let Some(tokenizer) = &self.encoder_tokenizer else { return Ok(Vec::new()) };
        let mut ids = tokenizer.encode(document)?.ids;
        ids.truncate(self.chunk_tokens);
        Ok(ids)
    }
}

fn read(path: &Path, questions: &mut Vec<(Question, String)>) -> Result<()> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::io("read", path))?;
        let invalid = |reason: String| Error::InvalidFile {
            path: path.to_owned(),
            format: "JSONL",
            reason: format!("line {}: {reason}", index + 1),
        };
        let question: Question = serde_json::from_str(&line).map_err(|error| invalid(error.to_string()))?;
        if question.document.trim().is_empty() || question.answer.trim().is_empty() {
            return Err(invalid("its document or answer is empty".into()));
        }
        questions.push((question, format!("{} line {}", path.display(), index + 1)));
    }
    if questions.is_empty() {
        return Err(Error::Document {
            name: path.display().to_string(),
            reason: "has no questions".into(),
            hint: "give one JSON object per line with `document`, `question` and `answer`".into(),
        });
    }
    Ok(())
}
