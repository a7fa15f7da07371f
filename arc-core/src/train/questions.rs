//! Questions about documents: every document is compressed, and only the last answer counts.

use std::collections::{BTreeMap, HashSet};
use std::io::BufRead as _;
use std::path::Path;

use rand::RngExt as _;
use rand::seq::{SliceRandom as _, index};
use serde::Deserialize;

use super::batch::{Sample, SampleSpan, document_spans};
use super::config::{AdapterConfig, AnswerTargets, QuestionForm, QuestionsConfig, RunConfig};
use super::draw::{Purpose, generator};
use super::objective::{POOL_BATCHES, parts_of};
use crate::decoder::Decoder;
use crate::json_lines::parse_line;
use crate::prompt::{PromptPart, PromptTemplate};
use crate::tokenizer::Tokenizer;
use crate::{Error, Hint, Result};

/// Questions are drawn with examples out of so many classes of length.
const LENGTH_CLASSES: usize = 16;

/// A question, its document and its answer.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Question {
    pub(super) document: String,
    pub(super) question: String,
    pub(super) answer: String,
    /// What decoders answered that read the document, by their names.
    #[serde(default)]
    pub(super) answered_by: BTreeMap<String, String>,
}

impl Question {
    /// The answer that a decoder learns, if the file has it.
    fn target(&self, targets: AnswerTargets, decoder: &str) -> Option<&str> {
        match targets {
            AnswerTargets::Answer => Some(&self.answer),
            AnswerTargets::Decoder => self.answered_by.get(decoder).map(String::as_str),
        }
    }
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
    /// Which answers are learned.
    targets: AnswerTargets,
}

/// All questions of a run, in memory.
#[derive(Debug, Default)]
pub struct Questions {
    sets: Vec<QuestionSet>,
    encoder_tokenizer: Option<Tokenizer>,
    context_tokens: usize,
    one_special: bool,
    /// How each decoder is asked.
    forms: BTreeMap<String, Form>,
}

/// How a question stands in a decoder's row.
#[derive(Debug)]
enum Form {
    /// In the same words for every decoder; the answer ends with the end token.
    Plain,
    /// In the template of the decoder's package; `ends_with_line` says how the answer ends.
    Template { template: PromptTemplate, ends_with_line: bool },
}

/// Between the answer of an example and what follows, as `arc eval` has it.
const BETWEEN_EXAMPLES: &str = "\n\n";

impl Form {
    fn of(settings: &AdapterConfig, form: QuestionForm) -> Result<Self> {
        match form {
            QuestionForm::Plain => Ok(Self::Plain),
            QuestionForm::Template => Ok(Self::Template {
                template: PromptTemplate::parse(&settings.template)?,
                // Where the template ends within a line, so does the answer.
                ends_with_line: !settings.template.ends_with('\n') && !settings.template.ends_with('>'),
            }),
        }
    }

    /// What stands before a question's document and after it, up to the answer.
    fn around(&self, question: &str, is_first: bool, decoder: &Decoder) -> Result<[Vec<u32>; 2]> {
        let encode = |text: &str| -> Result<Vec<u32>> { Ok(decoder.tokenizer.encode(text)?.ids) };
        match self {
            Self::Plain => {
                let between = if is_first { "" } else { BETWEEN_EXAMPLES };
                let mut before = if is_first { decoder.tokenizer.beginning() } else { Vec::new() };
                before.extend(encode(&format!("{between}Document: "))?);
                Ok([before, encode(&format!("\nQuestion: {question}\nAnswer:"))?])
            }
            Self::Template { template, .. } => {
                let start = if is_first { decoder.tokenizer.beginning() } else { encode(BETWEEN_EXAMPLES)? };
                let bos = decoder.tokenizer.beginning();
                let (mut around, mut place) = ([start, Vec::new()], 0);
                for part in template.render(question, &decoder.tokenizer)? {
                    match part {
                        PromptPart::Document => place = 1,
                        // The beginning token is there already, once for all examples.
                        PromptPart::Tokens(ids) => {
                            around[place].extend(ids.strip_prefix(&bos[..]).unwrap_or(&ids));
                        }
                    }
                }
                Ok(around)
            }
        }
    }

    /// What an answer ends with.
    fn end(&self, decoder: &Decoder) -> Result<Vec<u32>> {
        match self {
            Self::Template { ends_with_line: true, .. } => Ok(decoder.tokenizer.encode("\n")?.ids),
            _ => Ok(decoder.tokenizer.eos().into_iter().collect()),
        }
    }
}

impl Questions {
    /// Reads the JSONL files of a run. Documents are compressed in contexts of `context_tokens`
    /// encoder tokens, as many as they need.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] with the line for a row that lacks a field, or the answer
    /// of a decoder of the run that is to learn its own.
    pub fn open(config: &RunConfig, tokenizer: &Tokenizer) -> Result<Self> {
        let files = &config.data.questions;
        let total: f64 = files.iter().map(|file| file.weight).sum();
        let decoders: Vec<&str> = config.decoders.iter().map(|decoder| decoder.name.as_str()).collect();
        let open = |file| QuestionSet::open(file, total, &decoders);
        let mut sets = files.iter().map(open).collect::<Result<Vec<_>>>()?;
        // What is measured is a document that no step has seen, in any of the files.
        let measured: HashSet<String> = sets.iter().flat_map(QuestionSet::held_out_documents).collect();
        for set in &mut sets {
            set.leave_out(&measured)?;
        }
        Ok(Self {
            sets,
            encoder_tokenizer: Some(tokenizer.clone()),
            context_tokens: config.data.context_tokens,
            one_special: config.data.one_special,
            forms: (config.decoders.iter())
                .map(|decoder| Ok((decoder.name.clone(), Form::of(decoder, config.data.question_form)?)))
                .collect::<Result<_>>()?,
        })
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
            let (asked, _) = &set.questions[chosen[shots]];
            let answer = asked.target(set.targets, &decoder.name).unwrap_or(&asked.answer);
            documents.sum::<usize>() + answer.len()
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
        let form = self.forms.get(&decoder.name).unwrap_or(&Form::Plain);
        let mut text = Vec::new();
        for (place, &index) in chosen.iter().enumerate() {
            let Some((asked, line)) = set.questions.get(index) else { continue };
            // A file was refused that lacks one.
            let answer = asked.target(set.targets, &decoder.name).unwrap_or(&asked.answer);
            let [before, after] = form.around(&asked.question, place == 0, decoder)?;
            text.extend(before);
            sample.spans.push(SampleSpan::Tokens { ids: std::mem::take(&mut text), is_target: false });
            let first = sample.contexts.len();
            for (context, plain) in self.contexts(asked.document.trim())? {
                sample.contexts.push(context);
                sample.plain_contexts.push(encode(plain)?);
            }
            let contexts = first..sample.contexts.len();
            match self.one_special {
                true => sample.spans.extend(document_spans(contexts)),
                false => sample.spans.extend(contexts.map(SampleSpan::Context)),
            }
            text.extend(after);
            let answer = encode(&format!(" {answer}"))?;
            if place + 1 < chosen.len() {
                text.extend(answer);
            } else {
                sample.spans.push(SampleSpan::Tokens { ids: std::mem::take(&mut text), is_target: false });
                let ids = [answer, form.end(decoder)?].concat();
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
        let can_cut = |token: usize| document.is_char_boundary(byte_of(token));
        let mut contexts = Vec::new();
        for part in parts_of(0..encoding.ids.len(), self.context_tokens, can_cut) {
            let plain = document.get(byte_of(part.start)..byte_of(part.end)).unwrap_or_default();
            contexts.push((encoding.ids[part].to_vec(), plain));
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

    fn open(config: &QuestionsConfig, total: f64, decoders: &[&str]) -> Result<Self> {
        let path = &config.path;
        let (mut questions, mut line) = (Vec::new(), 0);
        each_row(path, &mut |_, question| {
            line += 1;
            let lacks = |decoder: &&&str| question.target(config.targets, decoder).is_none();
            if let Some(decoder) = decoders.iter().find(lacks) {
                return Err(Error::Document {
                    name: path.display().to_string(),
                    reason: format!("has no answer of `{decoder}` in line {line}, which `targets` asks for"),
                    hint: Hint::AnswersOf { decoder: (**decoder).to_owned() },
                });
            }
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
            targets: config.targets,
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
