//! `arc ask --questions FILE --out FILE`: many questions, answered several at a time, an answer a line. What is
//! written is never lost: a run that was interrupted goes on where it ended.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use arc_core::Session;
use arc_core::decoder::{FinishReason, GenerateOptions};
use arc_core::prompt::Prompt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::{add, asked_factor, check_pairs, pairs, special_vector};
use super::compressor::{Compression, Compressor};
use super::documents::{self, Content, Named};
use super::fitting::{Shelf, Taken};
use super::heads::{Answered, Heads};
use super::reader::Reader;
use super::session::session;
use crate::Failure;
use crate::args::Global;
use crate::args::ask::{Ask, Form};
use crate::interrupt::stop_on_interrupt;
use crate::output::Output;
use crate::progress::Progress;

/// A line of the questions' file.
#[derive(Debug, Deserialize)]
struct Question {
    question: String,
    /// What the answer is to be known by.
    #[serde(default)]
    id: Option<Value>,
    /// A text of its own to be asked about, in place of the documents that were named.
    #[serde(default)]
    document: Option<String>,
}

pub(super) fn run(
    global: &Global,
    ask: &Ask,
    options: &GenerateOptions,
    output: &Output,
) -> Result<(), Failure> {
    let (Some(questions_file), Some(out)) = (&ask.questions_from, &ask.out) else {
        return Err(Failure::usage("there is no file of questions", "name one with `--questions FILE`"));
    };
    if ask.form != Form::Adapter {
        return Err(Failure::usage(
            "questions from a file are asked in the adapter's own prompt",
            "leave out `--form`",
        ));
    }
    if !ask.questions.is_empty() {
        return Err(Failure::usage(
            "there are questions on the command line and in a file",
            "put them into the file, or leave it out",
        ));
    }
    let questions = read_questions(questions_file)?;
    let has_own = |question: &Question| question.document.is_some();
    if ask.document.is_empty() && !questions.iter().all(has_own) {
        return Err(Failure::usage(
            format!("not every question of `{}` has a `document`", questions_file.display()),
            "name the documents that the others are about",
        ));
    }
    let session = session(global)?;
    let registry = session.registry();
    let pairs = pairs(&registry, ask)?;
    let documents = match ask.document.is_empty() {
        true => Vec::new(),
        false => documents::read(&ask.document, ask.skip_bad, output)?,
    };
    let has_text =
        documents.iter().any(|document| !document.is_compressed()) || questions.iter().any(has_own);
    check_pairs(&session, &pairs, ask, !ask.open_book && has_text)?;
    let mut file = AnswersFile::open(out)?;
    let compressor = Compressor::new(global, &session, !ask.no_cache, output)?;
    let start = Instant::now();
    let (mut written, before) = (0, file.known.len());
    for pair in pairs {
        let reader = Reader::open(&session, pair, ask.encoder.as_deref(), ask.open_book)?;
        reader.check_new_tokens(ask.sampling.max_tokens)?;
        // What questions have in common is read once for all of them.
        let heads = Heads::new(compressor.users_cache(), true, output);
        let (compressor, reader) = (&compressor, &reader);
        let batch = Batch { session: &session, ask, options, compressor, reader, heads, output };
        written += batch.run(&questions, &documents, &mut file)?;
    }
    output.line(format!(
        "{written} answers written to {}{}",
        out.display(),
        if before > 0 { format!(", {before} were there") } else { String::new() }
    ))?;
    output.json(&json!({
        "out": out.to_string_lossy(),
        "written": written,
        "there_before": before,
        "seconds": start.elapsed().as_secs_f64(),
    }))
}

fn read_questions(path: &Path) -> Result<Vec<Question>, Failure> {
    let text = arc_core::document::PlainText::read(path)?.text;
    let mut questions = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let row =
            |reason: String| arc_core::Error::DataRow { path: path.to_owned(), line: index + 1, reason };
        let question: Question = serde_json::from_str(line).map_err(|error| row(error.to_string()))?;
        if question.question.trim().is_empty() {
            return Err(row("`question` is empty".into()).into());
        }
        if question.document.as_ref().is_some_and(|text| text.trim().is_empty()) {
            return Err(row("`document` is empty".into()).into());
        }
        questions.push(question);
    }
    match questions.is_empty() {
        true => Err(Failure::failed(
            format!("there is no question in `{}`", path.display()),
            "each line is one JSON object with the question in its field `question`",
        )),
        false => Ok(questions),
    }
}

/// What one decoder is asked.
struct Batch<'a> {
    session: &'a Session,
    ask: &'a Ask,
    options: &'a GenerateOptions,
    compressor: &'a Compressor<'a>,
    reader: &'a Reader<'a>,
    heads: Heads<'a>,
    output: &'a Output,
}

/// A prompt that waits for its batch.
struct Waiting<'a> {
    question: &'a Question,
    key: String,
    prompt: Prompt,
    taken: Option<Taken>,
}

impl Batch<'_> {
    /// Asks what is not answered yet; returns how many answers were written.
    fn run(
        &self,
        questions: &[Question],
        documents: &[Named],
        file: &mut AnswersFile,
    ) -> Result<usize, Failure> {
        let compression = match self.ask.open_book {
            true => None,
            false => match self.reader.pair.encoder {
                Some(encoder) => Some(Compression::new(encoder, asked_factor(self.ask, &self.reader.pair))?),
                None => None,
            },
        };
        let common = Lazy::new(documents.to_vec());
        let mut own: Option<(String, Lazy)> = None;
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut progress = Progress::new(&self.reader.decoder.name, questions.len() as u64, "questions");
        let mut waiting: Vec<Waiting<'_>> = Vec::new();
        let (mut written, stop) = (0, stop_on_interrupt());
        for question in questions {
            let shelf = match &question.document {
                None => &common,
                Some(text) => {
                    if own.as_ref().is_none_or(|(of, _)| of != text) {
                        let named = Named { name: "document".into(), content: Content::Text(text.clone()) };
                        own = Some((text.clone(), Lazy::new(vec![named])));
                    }
                    &own.as_ref().expect("it was just made").1
                }
            };
            let key = self.key(question, &shelf.documents, compression.as_ref());
            // Equal questions are asked as often as they stand there.
            let times = seen.entry(key.clone()).or_insert(0);
            *times += 1;
            let key = format!("{key}-{times}");
            if file.known.contains(&key) {
                progress.advance(1);
                continue;
            }
            let (prompt, taken) = self.prompt(question, shelf, compression.as_ref())?;
            waiting.push(Waiting { question, key, prompt, taken });
            if waiting.len() == self.ask.batch {
                written += self.answer(&mut waiting, file, &mut progress)?;
            }
            if stop.load(Ordering::SeqCst) {
                return Err(Failure::interrupted());
            }
        }
        written += self.answer(&mut waiting, file, &mut progress)?;
        Ok(written)
    }

    /// What an answer depends on.
    fn key(&self, question: &Question, documents: &[Named], compression: Option<&Compression>) -> String {
        let documents: Vec<String> = documents
            .iter()
            .map(|document| match &document.content {
                Content::Text(text) => arc_adapters::sha256_hex(text.as_bytes()),
                Content::Latents(file) => file.description().text_sha256.clone(),
            })
            .collect();
        let sampling = &self.ask.sampling;
        let key = json!([
            self.reader.decoder.name,
            self.reader.adapter().map(|adapted| &adapted.adapter.manifest.weights.sha256),
            compression.map(|of| json!([of.encoder_id, of.factor])),
            self.ask.no_special,
            self.ask.open_book,
            documents,
            question.question,
            question.id,
            sampling.max_tokens,
            format!("{:?} {:?}", self.options.sampling, self.options.stop),
        ]);
        arc_adapters::sha256_hex(key.to_string().as_bytes())
    }

    fn prompt(
        &self,
        question: &Question,
        documents: &Lazy,
        compression: Option<&Compression>,
    ) -> Result<(Prompt, Option<Taken>), Failure> {
        let (reader, special) = (self.reader, special_vector(self.ask));
        if self.ask.open_book {
            let text = documents::joined_text(&documents.documents);
            return Ok((reader.prompt_with_text(&text, &question.question)?, None));
        }
        let shelf = documents.shelf(self.compressor, compression)?;
        let room = reader.room(&question.question, special, self.ask.sampling.max_tokens)?;
        let encoder = || {
            let compression = compression.cloned().ok_or_else(|| {
                Failure::failed("documents do not fit the window", "name their encoder with `--encoder`")
            })?;
            Ok((self.compressor.encoder(&compression)?, compression))
        };
        let taken = shelf.take(&question.question, room, None, encoder)?;
        let latents = shelf.read(&taken, self.session.device())?;
        Ok((reader.prompt(&latents, &question.question, special)?, Some(taken)))
    }

    /// Asks all that wait, at once, and writes their answers.
    fn answer(
        &self,
        waiting: &mut Vec<Waiting<'_>>,
        file: &mut AnswersFile,
        progress: &mut Progress,
    ) -> Result<usize, Failure> {
        if waiting.is_empty() {
            return Ok(0);
        }
        let waiting = std::mem::take(waiting);
        let prompts: Vec<Prompt> = waiting.iter().map(|waiting| waiting.prompt.clone()).collect();
        let mut options = self.options.clone();
        if options.stop.is_empty() {
            options.stop.clone_from(&self.reader.pair.options().stop);
        }
        options.answer_ends = Some(self.ask.answer_ends.map_or(self.reader.answer_ends, Into::into));
        options.interrupted = Some(stop_on_interrupt());
        // As many as fit behind the longest.
        let most = prompts.iter().map(|prompt| self.ask.sampling.max_tokens(&self.reader.decoder, prompt));
        options.max_tokens = most.min().unwrap_or(options.max_tokens);
        // Other questions are asked of other chunks.
        let is_whole = waiting.iter().all(|waiting| !matches!(waiting.taken, Some(Taken::Nearest { .. })));
        let decoder = &self.reader.decoder;
        let Answered { generations, .. } =
            self.heads.generate(decoder, &prompts, is_whole, &options, |_, _| {})?;
        let mut lines = Vec::new();
        let mut is_interrupted = false;
        for (waiting, row) in waiting.iter().zip(generations.rows) {
            // What was cut off is asked again.
            if row.finish == FinishReason::Interrupted {
                is_interrupted = true;
                continue;
            }
            let mut answer = json!({
                "key": waiting.key,
                "decoder": self.reader.decoder.name,
                "encoder": self.reader.pair.encoder.map(|encoder| &encoder.name),
                "question": waiting.question.question,
                "text": row.text,
                "token_ids": row.token_ids,
                "finish": row.finish,
                "prompt_tokens": waiting.prompt.token_ids().len(),
                "latents": waiting.prompt.latent_count(),
            });
            add(&mut answer, "id", waiting.question.id.is_some(), json!(waiting.question.id));
            if let Some(taken) = &waiting.taken {
                add(&mut answer, "taken", matches!(taken, Taken::Nearest { .. }), taken.to_json());
            }
            lines.push((waiting.key.clone(), answer));
        }
        let written = lines.len();
        file.append(lines)?;
        progress.advance(waiting.len() as u64);
        if is_interrupted {
            self.output.remark("interrupted: the same command goes on from here");
            return Err(Failure::interrupted());
        }
        Ok(written)
    }
}

/// Documents that are compressed when the first question about them is asked.
struct Lazy {
    documents: Vec<Named>,
    shelf: std::cell::OnceCell<Shelf>,
}

impl Lazy {
    fn new(documents: Vec<Named>) -> Self {
        Self { documents, shelf: std::cell::OnceCell::new() }
    }

    fn shelf(
        &self,
        compressor: &Compressor<'_>,
        compression: Option<&Compression>,
    ) -> Result<&Shelf, Failure> {
        if let Some(shelf) = self.shelf.get() {
            return Ok(shelf);
        }
        let (shelf, _) = Shelf::of(&self.documents, compression, compressor)?;
        Ok(self.shelf.get_or_init(|| shelf))
    }
}

/// The file of answers, which this process alone writes.
struct AnswersFile {
    file: File,
    path: std::path::PathBuf,
    /// Keys of the answers that are there.
    known: HashSet<String>,
}

impl AnswersFile {
    fn open(path: &Path) -> Result<Self, Failure> {
        super::destination::check_file(path, true)?;
        let io = |action| arc_core::Error::io(action, path);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Failure::failed(
                    format!("another process writes answers into `{}`", path.display()),
                    "wait for it, or name another file",
                ));
            }
            // Not every file system has locks.
            Err(std::fs::TryLockError::Error(_)) => {}
        }
        let (mut known, mut whole) = (HashSet::new(), 0);
        let mut reader = BufReader::new(&mut file);
        for number in 1.. {
            let mut line = Vec::new();
            let length = reader.read_until(b'\n', &mut line).map_err(io("read"))?;
            // What was cut off while it was written is written again.
            if length == 0 || !line.ends_with(b"\n") {
                break;
            }
            let object: Option<Value> = serde_json::from_slice(&line).ok();
            let key = object.as_ref().and_then(|object| object.get("key")).and_then(Value::as_str);
            let Some(key) = key else {
                return Err(Failure::failed(
                    format!("line {number} of `{}` is no answer of this command", path.display()),
                    "name another file with `--out`",
                ));
            };
            known.insert(key.to_owned());
            whole += length as u64;
        }
        drop(reader);
        file.set_len(whole).map_err(io("write"))?;
        file.seek(SeekFrom::End(0)).map_err(io("write"))?;
        Ok(Self { file, path: path.to_owned(), known })
    }

    /// Adds answers in one write.
    fn append(&mut self, answers: Vec<(String, Value)>) -> Result<(), Failure> {
        let mut lines = String::new();
        for (key, answer) in answers {
            lines.push_str(&answer.to_string());
            lines.push('\n');
            self.known.insert(key);
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        Ok(written.map_err(arc_core::Error::io("write", &self.path))?)
    }
}
