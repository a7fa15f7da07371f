//! Questions about documents: every document is compressed, and only the last answer counts.

use std::collections::HashSet;
use std::io::BufRead as _;
use std::path::Path;

use rand::RngExt as _;
use rand::seq::{SliceRandom as _, index};
use serde::Deserialize;

use super::batch::{Sample, SampleSpan};
use super::config::{QuestionsConfig, RunConfig};
use super::draw::{Purpose, generator};
use super::objective::{POOL_BATCHES, beginning};
use crate::decoder::Decoder;
use crate::json_lines::parse_line;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Questions are drawn with examples out of so many classes of length.
const LENGTH_CLASSES: usize = 16;

/// A question, its document and its answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Question {
    pub(super) document: String,
    pub(super) question: String,
    pub(super) answer: String,
}

/// The questions of one file.
#[derive(Debug)]
struct QuestionSet {
    name: String,
    /// Each with its line.
    questions: Vec<(Question, usize)>,
    /// The share of batches that are of this file.
    share: f64,
    /// The most examples before the question that counts.
    shots: usize,
    /// The first so many questions are kept from training.
    held_out: usize,
    /// The others, by the length of their documents.
    by_length: Vec<usize>,
}

/// All questions of a run, in memory.
#[derive(Debug, Default)]
pub struct Questions {
    sets: Vec<QuestionSet>,
    encoder_tokenizer: Option<Tokenizer>,
    context_tokens: usize,
}

impl Questions {
    /// Reads the JSONL files of a run. Documents are compressed in contexts of `context_tokens`
    /// encoder tokens, as many as they need.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] with the line for a row that lacks a field.
    pub fn open(files: &[QuestionsConfig], tokenizer: &Tokenizer, context_tokens: usize) -> Result<Self> {
        let total: f64 = files.iter().map(|file| file.weight).sum();
        let mut sets = files.iter().map(|file| QuestionSet::open(file, total)).collect::<Result<Vec<_>>>()?;
        // What is measured is a document that no step has seen, in any of the files.
        let measured: HashSet<String> = sets.iter().flat_map(QuestionSet::held_out_documents).collect();
        for set in &mut sets {
            set.leave_out(&measured)?;
        }
        Ok(Self { sets, encoder_tokenizer: Some(tokenizer.clone()), context_tokens })
    }

    /// The samples of a batch, all of one file: up to its number of examples, then a question.
    ///
    /// Questions are drawn for several batches at once and dealt out by their length, so that
    /// little of a batch is padding.
    pub(super) fn samples(&self, config: &RunConfig, batch: u64, decoder: &Decoder) -> Result<Vec<Sample>> {
        let (pool, place) = (batch / POOL_BATCHES, (batch % POOL_BATCHES) as usize);
        let mut random = generator(config.seed, Purpose::Question, pool);
        let mut point = random.random::<f64>();
        let drawn = self.sets.iter().find(|set| {
            point -= set.share;
            point < 0.0
        });
        let Some(set) = drawn.or(self.sets.last()) else { return Ok(Vec::new()) };
        let count = set.by_length.len();
        let shots = random.random_range(0..=set.shots).min(count.saturating_sub(1));
        // Examples are of about the question's length: contexts of a batch are padded to one.
        let class = (count / LENGTH_CLASSES).max(shots + 1).min(count);
        let size = config.schedule.batch;
        let mut drawn: Vec<Vec<usize>> = (0..size * POOL_BATCHES as usize)
            .map(|_| {
                let first = random.random_range(0..count).saturating_sub(class / 2).min(count - class);
                let chosen = index::sample(&mut random, class, shots + 1);
                chosen.into_iter().map(|index| set.by_length[first + index]).collect()
            })
            .collect();
        let bytes = |chosen: &Vec<usize>| -> usize {
            let documents = chosen.iter().map(|&index| set.questions[index].0.document.len());
            documents.sum::<usize>() + set.questions[chosen[shots]].0.answer.len()
        };
        // Stable, so that the order does not depend on how equal lengths are sorted.
        drawn.sort_by_key(bytes);
        let mut order: Vec<usize> = (0..POOL_BATCHES as usize).collect();
        order.shuffle(&mut random);
        let first = order[place] * size;
        drawn[first..first + size].iter().map(|chosen| self.sample(set, chosen, decoder)).collect()
    }

    /// The held-out questions of all files in turn, at most `limit`, without examples.
    pub(super) fn held_out(&self, limit: usize, decoder: &Decoder) -> Result<Vec<Sample>> {
        let each = limit.div_ceil(self.sets.len().max(1));
        let chosen =
            self.sets.iter().flat_map(|set| (0..set.held_out.min(each)).map(move |index| (set, index)));
        chosen.take(limit).map(|(set, index)| self.sample(set, &[index], decoder)).collect()
    }

    fn sample(&self, set: &QuestionSet, chosen: &[usize], decoder: &Decoder) -> Result<Sample> {
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
            let Some((Question { document, question, answer }, line)) = set.questions.get(index) else {
                continue;
            };
            sample.spans.push(SampleSpan::Tokens { ids: std::mem::take(&mut text), is_target: false });
            for (context, plain) in self.contexts(document.trim())? {
                sample.spans.push(SampleSpan::Context(sample.contexts.len()));
                sample.contexts.push(context);
                sample.plain_contexts.push(encode(plain)?);
            }
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
                sample.origin = format!("{} line {line}", set.name);
            }
        }
        Ok(sample)
    }

    /// A document in contexts, each with its text: a reader of the plain text reads what the
    /// encoder does.
    fn contexts<'a>(&self, document: &'a str) -> Result<Vec<(Vec<u32>, &'a str)>> {
        let Some(tokenizer) = &self.encoder_tokenizer else { return Ok(Vec::new()) };
        let encoding = tokenizer.encode(document)?;
        let starts: Vec<usize> = encoding.offsets.iter().map(|&(start, _)| start).collect();
        let byte_of = |token: usize| starts.get(token).copied().unwrap_or(document.len());
        // Of one length, rather than full ones and a rest.
        let count = encoding.ids.len().div_ceil(self.context_tokens).max(1);
        let length = encoding.ids.len().div_ceil(count);
        let mut contexts = Vec::new();
        let mut from = 0;
        while from < encoding.ids.len() {
            let longest = (from + length).min(encoding.ids.len());
            // Not within a character, unless there is no other place.
            let cut = |end: &usize| document.is_char_boundary(byte_of(*end));
            let end = (from + 1..=longest).rev().find(cut).unwrap_or(longest);
            let plain = document.get(byte_of(from)..byte_of(end)).unwrap_or_default();
            contexts.push((encoding.ids[from..end].to_vec(), plain));
            from = end;
        }
        Ok(contexts)
    }
}

impl QuestionSet {
    fn held_out_documents(&self) -> impl Iterator<Item = String> {
        self.questions[..self.held_out].iter().map(|(question, _)| question.document.trim().to_owned())
    }

    /// Trains on no question about these documents.
    fn leave_out(&mut self, documents: &HashSet<String>) -> Result<()> {
        let Self { by_length, questions, .. } = self;
        by_length.retain(|&index| !documents.contains(questions[index].0.document.trim()));
        if by_length.is_empty() {
            return Err(Error::Document {
                name: self.name.clone(),
                reason: "has questions about the documents of held-out questions alone".into(),
                hint: "lower `held_out`, or give questions about more documents".into(),
            });
        }
        Ok(())
    }

    fn open(config: &QuestionsConfig, total: f64) -> Result<Self> {
        let path = &config.path;
        let (mut questions, mut line) = (Vec::new(), 0);
        each_row(path, &mut |_, question| {
            line += 1;
            questions.push((question, line));
            Ok(())
        })?;
        if questions.is_empty() {
            return Err(Error::Document {
                name: path.display().to_string(),
                reason: "has no questions".into(),
                hint: "give one JSON object per line with `document`, `question` and `answer`".into(),
            });
        }
        // Never all of them.
        let held_out = config.held_out.min(questions.len() / 2);
        let mut by_length: Vec<usize> = (held_out..questions.len()).collect();
        by_length.sort_by_key(|&index| questions[index].0.document.len());
        Ok(Self {
            by_length,
            name: path.display().to_string(),
            questions,
            share: config.weight / total,
            shots: config.shots,
            held_out,
        })
    }
}

/// Calls `each` with every line of a file of questions and what it says.
pub(super) fn each_row(path: &Path, each: &mut dyn FnMut(&str, Question) -> Result<()>) -> Result<()> {
    let file = std::fs::File::open(path).map_err(Error::io("read", path))?;
    for (index, line) in std::io::BufReader::new(file).split(b'\n').enumerate() {
        let line = line.map_err(Error::io("read", path))?;
        let invalid = |reason: String| Error::DataRow { path: path.to_owned(), line: index + 1, reason };
        let question: Question = parse_line(&line).map_err(invalid)?;
        let line = String::from_utf8_lossy(line.trim_ascii_end());
        if question.document.trim().is_empty() || question.answer.trim().is_empty() {
            return Err(invalid("its document or answer is empty".into()));
        }
        each(&line, question)?;
    }
    Ok(())
}
