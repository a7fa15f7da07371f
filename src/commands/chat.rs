//! `arc chat`: documents, then questions and answers in turn. What was read and written stays in the decoder's
//! keys and values, so that a question costs its own words and no more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_adapters::write_atomically;
use arc_adapters::{Pair, Registry};
use arc_core::decoder::{FinishReason, GenerateOptions, Prefix};
use arc_core::hub::Cache;
use arc_core::prompt::Prompt;
use arc_core::{Session, SpecialVector};
use indicatif::HumanBytes;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use serde_json::{Value, json};

use super::ask::timings;
use super::compressor::{Compression, Compressor};
use super::documents::{self, Named};
use super::fitting::{Shelf, Taken};
use super::heads;
use super::reader::{Reader, default_decoder};
use super::session::session;
use crate::Failure;
use crate::args::{Chat, Global};
use crate::interrupt::stop_on_interrupt;
use crate::output::{Output, note};

/// What can be typed beside questions.
const HELP: &str = "\
/doc FILE…       add documents (.txt, .md, .html, .pdf, .docx, .jsonl, latents; folders, patterns)
/decoder NAME    go on with another decoder: it reads the same latents
/open-book       let the decoder read the plain text, or the latents again
/stats           how much is read, and how long it took
/forget          forget the questions and answers, and keep the documents
/save FILE       write the questions and answers: JSON if it ends in .json, else text
/help            this
/quit            end (or Ctrl-D); Ctrl-C ends an answer";

/// Lines that the history keeps.
const HISTORY: usize = 1000;

pub(crate) fn run(global: &Global, args: &Chat, output: &Output) -> Result<(), Failure> {
    let options = args.sampling.options()?;
    let session = session(global)?;
    let registry = session.registry();
    let name = match &args.decoder {
        Some(name) => name.clone(),
        None => default_decoder(&registry)?.name.clone(),
    };
    let stop = stop_on_interrupt();
    let compressor = Compressor::new(global, &session, !args.no_cache, output)?;
    let documents = match args.documents.is_empty() {
        true => Vec::new(),
        false => documents::read(&args.documents, args.skip_bad, output)?,
    };
    let reader = open(&session, &registry, &name, args)?;
    let mut conversation = Conversation {
        session: &session,
        registry: &registry,
        compressor: &compressor,
        args,
        options,
        output,
        stop,
        reader,
        is_open_book: args.open_book,
        documents,
        shelf: None,
        turns: Vec::new(),
        head: None,
        last: Value::Null,
    };
    if conversation.documents.is_empty() {
        output.remark("add documents with `/doc FILE`; `/help` shows what else there is");
    } else {
        conversation.shelve()?;
    }
    converse(&mut conversation)
}

/// Reads lines and does what they say, until there are no more.
fn converse(conversation: &mut Conversation<'_>) -> Result<(), Failure> {
    let failed = |error: ReadlineError| {
        Failure::failed(format!("cannot read what is typed: {error}"), "ask single questions with `arc ask`")
    };
    let config = Config::builder().max_history_size(HISTORY).map_err(failed)?.auto_add_history(true).build();
    let mut editor = DefaultEditor::with_config(config).map_err(failed)?;
    let history = Cache::from_env().ok().map(|cache| cache.folder().join("chat_history"));
    if let Some(history) = &history {
        // There is none before the first conversation.
        let _ = editor.load_history(history);
    }
    loop {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                note("`/quit` or Ctrl-D ends the conversation");
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(failed(error)),
        };
        let line = line.trim();
        if matches!(line, "/quit" | "/exit" | "/q") {
            break;
        }
        conversation.stop.store(false, Ordering::SeqCst);
        match conversation.line(line) {
            Ok(()) => {}
            Err(failure) if failure.ends_everything() => return Err(failure),
            Err(failure) => failure.tell(),
        }
        // So that the next Ctrl-C is a first one.
        conversation.stop.store(false, Ordering::SeqCst);
    }
    if let Some(history) = &history {
        let kept = history.parent().map_or(Ok(()), std::fs::create_dir_all);
        // A conversation is no worse for a history that cannot be written.
        let _ = kept.map(|()| editor.save_history(history));
    }
    Ok(())
}

/// A decoder of the registry with its adapter.
fn open<'a>(
    session: &Session,
    registry: &'a Registry,
    name: &str,
    args: &Chat,
) -> Result<Reader<'a>, Failure> {
    let pair: Pair<'a> = registry.resolve(name, args.encoder.as_deref())?;
    let reader = Reader::open(session, pair, args.encoder.as_deref(), args.open_book)?;
    reader.check_new_tokens(args.sampling.max_tokens)?;
    Ok(reader)
}

/// A question and its answer.
struct Turn {
    question: String,
    answer: String,
    decoder: String,
}

/// The chunks of each document that are read, where not all of them fit.
type ChunksRead = Option<Vec<Vec<usize>>>;

/// What the decoder has read, and what of it the next question can go on from.
struct Head {
    /// The tokens around the documents, and which chunks of these were taken.
    token_ids: Vec<u32>,
    chunks: ChunksRead,
    /// The documents alone, without a turn.
    documents: Prefix,
    /// With turns `first_turn..turns` behind them.
    conversation: Option<Prefix>,
    first_turn: usize,
    turns: usize,
}

struct Conversation<'a> {
    session: &'a Session,
    registry: &'a Registry,
    compressor: &'a Compressor<'a>,
    args: &'a Chat,
    options: GenerateOptions,
    output: &'a Output,
    stop: Arc<AtomicBool>,
    reader: Reader<'a>,
    is_open_book: bool,
    documents: Vec<Named>,
    /// The documents as latents, once they are needed.
    shelf: Option<(Option<Compression>, Shelf)>,
    turns: Vec<Turn>,
    head: Option<Head>,
    /// What the last answer took.
    last: Value,
}

impl Conversation<'_> {
    fn line(&mut self, line: &str) -> Result<(), Failure> {
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match command {
            "" => Ok(()),
            "/help" => self.output.block(HELP),
            "/doc" if !rest.is_empty() => self.add(rest),
            "/decoder" if !rest.is_empty() => self.change_decoder(rest),
            "/open-book" => self.toggle_open_book(),
            "/stats" => self.stats(),
            "/forget" => {
                self.turns.clear();
                if let Some(head) = &mut self.head {
                    (head.conversation, head.first_turn, head.turns) = (None, 0, 0);
                }
                Ok(())
            }
            "/save" if !rest.is_empty() => self.save(Path::new(rest)),
            "/doc" | "/decoder" | "/save" => {
                Err(Failure::usage(format!("`{command}` lacks a name"), "`/help` shows what there is"))
            }
            other if other.starts_with('/') => {
                Err(Failure::usage(format!("there is no `{other}`"), "`/help` shows what there is"))
            }
            _ => self.ask(line),
        }
    }

    /// Adds the documents that words lead to: one whole, if it is there, else each word.
    fn add(&mut self, words: &str) -> Result<(), Failure> {
        let whole = PathBuf::from(words);
        let arguments = match whole.symlink_metadata().is_ok() {
            true => vec![whole],
            false => words.split_whitespace().map(PathBuf::from).collect(),
        };
        let more = documents::read(&arguments, self.args.skip_bad, self.output)?;
        let before = self.documents.len();
        self.documents.extend(more);
        self.shelf = None;
        let shelved = self.shelve();
        if shelved.is_err() {
            self.documents.truncate(before);
            self.shelf = None;
        }
        shelved
    }

    /// Compresses what is not compressed yet.
    fn shelve(&mut self) -> Result<(), Failure> {
        self.head = None;
        if self.is_open_book || self.documents.is_empty() {
            return Ok(());
        }
        let compression = match self.documents.iter().all(Named::is_compressed) {
            true => None,
            false => {
                let asked = self.args.factor.map(u32::from).or(self.reader.pair.options().factor);
                Some(Compression::new(self.reader.pair.encoder()?, asked.map(|factor| factor as usize))?)
            }
        };
        if self.shelf.as_ref().is_some_and(|(of, _)| *of == compression) {
            return Ok(());
        }
        let start = Instant::now();
        let (shelf, _) = Shelf::of(&self.documents, compression.as_ref(), self.compressor)?;
        self.output.remark(format!(
            "{} tokens in {} latents, in {:.2} s",
            shelf.tokens(),
            shelf.latents(),
            start.elapsed().as_secs_f64()
        ));
        self.shelf = Some((compression, shelf));
        Ok(())
    }

    fn change_decoder(&mut self, name: &str) -> Result<(), Failure> {
        let start = Instant::now();
        let reader = open(self.session, self.registry, name, self.args)?;
        let before = std::mem::replace(&mut self.reader, reader);
        if let Err(failure) = self.shelve() {
            self.reader = before;
            return Err(failure);
        }
        let (name, seconds) = (&self.reader.decoder.name, start.elapsed().as_secs_f64());
        self.output.remark(format!("`{name}` answers now ({seconds:.2} s)"));
        Ok(())
    }

    fn toggle_open_book(&mut self) -> Result<(), Failure> {
        let latents = self.documents.iter().find(|document| document.is_compressed());
        if let (false, Some(document)) = (self.is_open_book, latents) {
            return Err(Failure::usage(
                format!("`{}` holds latents, which no decoder reads as text", document.name),
                "add the text itself with `/doc`",
            ));
        }
        self.is_open_book = !self.is_open_book;
        let shelved = self.shelve();
        if shelved.is_err() {
            self.is_open_book = !self.is_open_book;
        }
        shelved?;
        self.output.remark(if self.is_open_book { "the plain text is read" } else { "the latents are read" });
        Ok(())
    }

    fn stats(&self) -> Result<(), Failure> {
        let window = self.reader.window();
        let read =
            self.head.as_ref().map_or(0, |head| head.conversation.as_ref().unwrap_or(&head.documents).len());
        let name = &self.reader.decoder.name;
        self.output.line(format!("{name}: {read} of {window} positions read, {} turns", self.turns.len()))?;
        for document in self.shelf.iter().flat_map(|(_, shelf)| shelf.documents()) {
            let of = document.latents.description();
            self.output.line(format!(
                "{}: {} tokens, {} latents in {} chunks",
                document.name,
                of.source_tokens,
                of.latents(),
                of.chunk_lengths.len()
            ))?;
        }
        if let Some(timings) = self.last.get("timings") {
            let second = |key: &str| timings[key].as_f64().unwrap_or(0.0);
            self.output.line(format!(
                "the last answer: {} tokens, first after {:.2} s, all after {:.2} s",
                self.last["tokens"],
                second("first_token_seconds"),
                second("first_token_seconds") + second("decode_seconds"),
            ))?;
        }
        if let Some(memory) = memory() {
            self.output.line(format!("memory: {}", HumanBytes(memory)))?;
        }
        Ok(())
    }

    fn save(&self, path: &Path) -> Result<(), Failure> {
        let text = if path.extension().is_some_and(|extension| extension == "json") {
            let turns: Vec<Value> = self
                .turns
                .iter()
                .map(
                    |turn| json!({ "question": turn.question, "text": turn.answer, "decoder": turn.decoder }),
                )
                .collect();
            let documents: Vec<&str> = self.documents.iter().map(|document| document.name.as_str()).collect();
            let object = json!({ "schema": crate::output::SCHEMA, "documents": documents, "answers": turns });
            format!("{object}\n")
        } else {
            let turn = |turn: &Turn| format!("> {}\n\n{}\n", turn.question, turn.answer.trim());
            self.turns.iter().map(turn).collect::<Vec<_>>().join("\n")
        };
        write_atomically(path, |file| {
            std::io::Write::write_all(file, text.as_bytes()).map_err(arc_core::Error::io("write", path))
        })?;
        self.output.remark(format!("{} turns saved in {}", self.turns.len(), path.display()));
        Ok(())
    }

    fn ask(&mut self, question: &str) -> Result<(), Failure> {
        if self.documents.is_empty() {
            return Err(Failure::usage("there is no document", "add one with `/doc FILE`"));
        }
        let (prompt, chunks) = self.prompt(question)?;
        let (head, tail) = prompt.split_last_tokens();
        let tail_length = tail.len();
        if !self.read_head(&head, chunks)? {
            self.output.remark("(interrupted)");
            return Ok(());
        }
        let window = self.reader.window();
        let wanted = self.args.sampling.max_tokens.unwrap_or(self.options.max_tokens);
        let least = self.reader.answer_room(tail_length, self.args.sampling.max_tokens);
        self.read_turns(tail_length + least)?;
        let Some(head) = &self.head else { return Ok(()) };
        let prefix = head.conversation.as_ref().unwrap_or(&head.documents);
        let mut options = self.options.clone();
        options.max_tokens = wanted.min(window.saturating_sub(prefix.len() + tail_length)).max(1);
        options.interrupted = Some(Arc::clone(&self.stop));
        options.answer_ends = Some(self.args.answer_ends.map_or(self.reader.answer_ends, Into::into));
        if options.stop.is_empty() {
            options.stop.clone_from(&self.reader.pair.options().stop);
        }
        let mut printed = Ok(());
        let tails = [tail];
        let generated = self.reader.decoder.generate_after(Some(prefix), &tails, &options, |_, text| {
            if printed.is_ok() {
                printed = self.output.piece(text);
            }
        })?;
        printed?;
        self.output.line("")?;
        let row = &generated.rows[0];
        if row.finish == FinishReason::Interrupted {
            self.output.remark("(interrupted)");
        }
        let answer = json!({
            "decoder": self.reader.decoder.name,
            "question": question,
            "text": row.text,
            "finish": row.finish,
            "tokens": row.token_ids.len(),
            "positions_before": prefix.len(),
            "timings": timings(&generated.timings),
        });
        self.output.event("answer", &answer)?;
        self.last = answer;
        let decoder = self.reader.decoder.name.clone();
        self.turns.push(Turn { question: question.to_owned(), answer: row.text.clone(), decoder });
        Ok(())
    }

    /// The prompt of a question alone, and the chunks that it takes where not all fit.
    fn prompt(&self, question: &str) -> Result<(Prompt, ChunksRead), Failure> {
        if self.is_open_book {
            let text = documents::joined_text(&self.documents);
            return Ok((self.reader.prompt_with_text(&text, question)?, None));
        }
        let Some((compression, shelf)) = &self.shelf else {
            return Err(Failure::failed("the documents are not compressed", "add them with `/doc FILE`"));
        };
        let special = SpecialVector::Usual;
        let (room, extra) = self.reader.room(question, special, self.args.sampling.max_tokens)?;
        let encoder = || {
            let compression = match compression {
                Some(compression) => compression.clone(),
                None => Compression::new(self.reader.pair.encoder()?, None)?,
            };
            Ok((self.compressor.encoder(&compression)?, compression))
        };
        // All of them fit, or did when the conversation began: it goes on about the same ones.
        let taken = match shelf.latents() + extra * shelf.documents().len() <= room {
            true => Taken::All,
            false => {
                // What was said so far has room too, if it is not more than half of all.
                let said = self.turns.iter().map(|turn| (turn.question.len() + turn.answer.len()) / 3);
                let room = room - said.sum::<usize>().min(room / 2);
                shelf.take(question, (room, extra), None, encoder)?
            }
        };
        let latents = shelf.read(&taken, self.session.device())?;
        let chunks = match taken {
            Taken::All => None,
            Taken::Nearest { chunks, of } => {
                let count: usize = chunks.iter().map(Vec::len).sum();
                self.output
                    .remark(format!("read are the {count} of {of} chunks that are nearest to the question"));
                Some(chunks)
            }
        };
        Ok((self.reader.prompt(&latents, question, special)?, chunks))
    }

    /// Reads the documents, unless the decoder has read these very ones; or not, where Ctrl-C was pressed.
    fn read_head(&mut self, prompt: &Prompt, chunks: ChunksRead) -> Result<bool, Failure> {
        let token_ids = prompt.token_ids();
        if self.head.as_ref().is_some_and(|head| head.token_ids == token_ids && head.chunks == chunks) {
            return Ok(true);
        }
        // Other chunks may be read for the next question.
        let cache = self.compressor.users_cache().filter(|_| chunks.is_none());
        let read = heads::read(cache, &self.reader.decoder, prompt, &self.stop, self.output);
        let documents = match read {
            Ok((documents, _)) => documents,
            Err(arc_core::Error::Interrupted) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        self.head = Some(Head { token_ids, chunks, documents, conversation: None, first_turn: 0, turns: 0 });
        Ok(true)
    }

    /// Reads the turns that were not read yet behind the documents; the oldest are forgotten where there would
    /// be no room for `after` more positions.
    fn read_turns(&mut self, after: usize) -> Result<(), Failure> {
        let window = self.reader.window();
        let prompts = self.turns.iter().map(|turn| self.turn(turn)).collect::<Result<Vec<_>, Failure>>()?;
        let Some(head) = &mut self.head else { return Ok(()) };
        let read = head.conversation.as_ref().unwrap_or(&head.documents).len();
        let unread: usize = prompts[head.turns..].iter().map(Prompt::len).sum();
        if read + unread + after > window {
            let mut first = head.first_turn;
            let length = |first: usize| prompts[first..].iter().map(Prompt::len).sum::<usize>();
            while first < prompts.len() && head.documents.len() + length(first) + after > window {
                first += 1;
            }
            if first > head.first_turn {
                let forgotten = first - head.first_turn;
                self.output.remark(format!("the window is full: {forgotten} earlier turns are forgotten"));
            }
            (head.conversation, head.first_turn, head.turns) = (None, first, first);
        }
        for prompt in &prompts[head.turns..] {
            let prefix = head.conversation.as_ref().unwrap_or(&head.documents);
            head.conversation = Some(self.reader.decoder.read_on(prefix, prompt)?);
            head.turns += 1;
        }
        Ok(())
    }

    /// A question and its answer as they stand behind the documents.
    fn turn(&self, turn: &Turn) -> Result<Prompt, Failure> {
        let prompt = match self.is_open_book {
            true => self.reader.prompt_with_text("-", &turn.question)?,
            false => self.reader.prompt(&[], &turn.question, SpecialVector::Usual)?,
        };
        let (_, tail) = prompt.split_last_tokens();
        Ok(tail.tokens(self.reader.decoder.tokenizer.encode(&turn.answer)?.ids))
    }
}

/// What this process has in memory, in bytes.
pub(super) fn memory() -> Option<u64> {
    arc_core::train::peak_memory()
}
