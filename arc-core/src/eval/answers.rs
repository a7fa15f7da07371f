//! What decoders answered, kept by content hash: a run that is killed goes on where it was, and one
//! that is repeated costs nothing.
//!
//! A JSONL file that only grows, one answer on each line. A kill can cut off the last line alone,
//! which is dropped when the file is opened again. Whoever reads or writes it locks it: runs that share a
//! file take turns and keep each answer once, and a run that owns its folder lets no other in.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::json_lines::parse_line;
use crate::{Error, Result};

/// Counts changes in how prompts are built, answers made and costs counted. Answers of another
/// number are not used: raise it with every such change.
const ANSWERS_SCHEMA: u32 = 2;

/// What became of one question in one arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// The answer.
    pub outcome: AnswerOutcome,
    /// Positions that the decoder read: instruction, examples, document and question.
    pub positions: usize,
    /// Positions that the question's document took.
    pub document_positions: usize,
    /// The length of the document in the decoder's tokens, whatever was shown of it.
    pub document_tokens: usize,
    /// Tokens that the decoder wrote.
    pub new_tokens: usize,
    /// Operations to make the document's latents, or to choose its tokens: once for each document.
    pub prepare_flops: f64,
    /// Operations to read the whole prompt and to write the answer.
    pub use_flops: f64,
    /// Those of them that each question takes anew, when the instruction and the examples are read
    /// once for all.
    pub marginal_flops: f64,
    /// Keys and values at the end, in bytes.
    pub kv_cache_bytes: f64,
    /// Times, where the question was asked alone.
    pub times: Option<Times>,
    /// The seconds that the run took for it, preparation included: its share of its batch.
    pub seconds: f64,
}

impl Answer {
    /// Of a question that could not be asked.
    pub(super) fn too_long(document_tokens: usize) -> Self {
        Self {
            outcome: AnswerOutcome::TooLong,
            positions: 0,
            document_positions: 0,
            document_tokens,
            new_tokens: 0,
            prepare_flops: 0.0,
            use_flops: 0.0,
            marginal_flops: 0.0,
            kv_cache_bytes: 0.0,
            times: None,
            seconds: 0.0,
        }
    }
}

/// What a decoder made of a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AnswerOutcome {
    /// It wrote this.
    Text(String),
    /// It scored what follows.
    Score {
        /// The sum of the losses, in nats.
        loss: f64,
        /// Tokens scored.
        tokens: usize,
        /// Tokens that it held to be the most likely.
        correct: usize,
    },
    /// The prompt does not fit its window, or the document has more chunks than the encoder takes.
    TooLong,
}

/// Seconds, for one question alone, with the instruction and the examples already read.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Times {
    /// Compressing the document or choosing its tokens.
    pub prepare: f64,
    /// Reading the rest of the prompt.
    pub prefill: f64,
    /// From the beginning of reading to the first token.
    pub first_token: f64,
    /// Writing the other tokens.
    pub decode: f64,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    schema: u32,
    key: String,
    answer: Answer,
}

/// What every line has, whatever its schema.
#[derive(Deserialize)]
struct Schema {
    #[serde(default)]
    schema: u32,
}

/// The answers of a file.
#[derive(Debug)]
pub struct Answers {
    path: PathBuf,
    file: File,
    /// Whether the file is locked for as long as it is open.
    is_owned: bool,
    /// Bytes that were read.
    read: u64,
    /// Line breaks in them.
    lines: usize,
    known: HashMap<String, Answer>,
}

impl Answers {
    /// Opens a file that several runs may share, or begins one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::InvalidFile`] if a line that was written in full is no answer.
    pub fn open(path: &Path) -> Result<Self> {
        let mut answers = Self::new(path)?;
        answers.in_turn(Self::catch_up)?;
        Ok(answers)
    }

    /// Opens a file that is this run's alone, until the answers are dropped.
    ///
    /// # Errors
    ///
    /// As [`Answers::open`], and [`arc_adapters::Error::Locked`] where another run has it.
    pub fn own(path: &Path) -> Result<Self> {
        let mut answers = Self::new(path)?;
        match answers.file.try_lock() {
            Ok(()) => answers.is_owned = true,
            Err(TryLockError::WouldBlock) => {
                return Err(arc_adapters::Error::Locked { path: path.to_owned() }.into());
            }
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
        }
        answers.in_turn(Self::catch_up)?;
        Ok(answers)
    }

    fn new(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let mut options = OpenOptions::new();
        let file =
            options.read(true).append(true).create(true).open(path).map_err(Error::io("open", path))?;
        Ok(Self { path: path.to_owned(), file, is_owned: false, read: 0, lines: 0, known: HashMap::new() })
    }

    /// Does something while no other run touches the file. Where the file system has no locks there is
    /// nobody to wait for.
    fn in_turn<T>(&mut self, what: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.is_owned {
            return what(self);
        }
        match self.file.lock() {
            Err(error) if error.kind() != ErrorKind::Unsupported => {
                return Err(Error::io("lock", &self.path)(error));
            }
            _ => {}
        }
        let done = what(self);
        let _ = self.file.unlock();
        done
    }

    /// Reads what was written since, by this run or another, and drops a last line that was cut off.
    fn catch_up(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        let read = self.file.seek(SeekFrom::Start(self.read)).and_then(|_| self.file.read_to_end(&mut bytes));
        read.map_err(Error::io("read", &self.path))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        if whole < bytes.len() {
            self.file.set_len(self.read + whole as u64).map_err(Error::io("write", &self.path))?;
            bytes.truncate(whole);
        }
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.lines += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let invalid = |reason: String| Error::InvalidFile {
                path: self.path.clone(),
                format: "answers",
                reason: format!("line {}: {reason}", self.lines),
            };
            let Schema { schema } = parse_line(line).map_err(invalid)?;
            if schema == ANSWERS_SCHEMA {
                let line: Line = parse_line(line).map_err(invalid)?;
                self.known.insert(line.key, line.answer);
            }
        }
        self.read += whole as u64;
        Ok(())
    }

    /// The answer to what the key stands for, if it is known.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Answer> {
        self.known.get(key)
    }

    /// Keeps an answer, in the file before anywhere else, unless another run has kept it meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn keep(&mut self, key: String, answer: Answer) -> Result<()> {
        self.in_turn(|answers| {
            answers.catch_up()?;
            if answers.known.contains_key(&key) {
                return Ok(());
            }
            let line = Line { schema: ANSWERS_SCHEMA, key, answer };
            let mut text = serde_json::to_string(&line)
                .map_err(|error| Error::io("write", &answers.path)(error.into()))?;
            text.push('\n');
            // In one write, so that only a kill within it leaves a part of a line.
            answers.file.write_all(text.as_bytes()).map_err(Error::io("write", &answers.path))?;
            answers.read += text.len() as u64;
            answers.lines += 1;
            answers.known.insert(line.key, line.answer);
            Ok(())
        })
    }

    /// The number of answers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer {
            outcome: AnswerOutcome::Text(text.into()),
            positions: 3,
            document_positions: 1,
            document_tokens: 4,
            new_tokens: 2,
            prepare_flops: 0.5,
            use_flops: 1e12,
            marginal_flops: 1e11,
            kv_cache_bytes: 46080.0,
            times: Some(Times { prepare: 0.1, prefill: 0.25, first_token: 0.3, decode: 1.0 }),
            seconds: 1.5,
        }
    }

    #[test]
    fn a_file_cut_off_anywhere_keeps_every_whole_line_and_can_be_written_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/answers.jsonl");
        let mut answers = Answers::open(&path).unwrap();
        answers.keep("a".into(), answer("one\ntwo")).unwrap();
        answers.keep("b".into(), answer("three")).unwrap();
        drop(answers);
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut answers = Answers::open(&path).unwrap();
            let expected = if cut == whole.len() { 2 } else { usize::from(cut >= first) };
            assert_eq!(answers.len(), expected, "cut at {cut}");
            answers.keep("c".into(), answer("four")).unwrap();
            drop(answers);
            let again = Answers::open(&path).unwrap();
            assert_eq!(again.len(), expected + 1, "cut at {cut}");
            assert_eq!(again.get("c"), Some(&answer("four")));
            assert_eq!(again.get("a").is_some(), cut >= first);
        }
    }

    #[test]
    fn runs_that_share_a_file_keep_each_answer_once_and_know_those_of_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        std::thread::scope(|scope| {
            for run in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let mut answers = Answers::open(path).unwrap();
                    for key in 0..50 {
                        answers.keep(format!("{key}"), answer(&format!("of run {run}"))).unwrap();
                    }
                    assert_eq!(answers.len(), 50);
                });
            }
        });
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 50);
        assert_eq!(Answers::open(&path).unwrap().len(), 50);
    }

    #[test]
    fn a_run_lets_no_other_into_what_it_owns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        let mut first = Answers::own(&path).unwrap();
        first.keep("a".into(), answer("one")).unwrap();
        let refused = Answers::own(&path).unwrap_err();
        assert!(matches!(refused, Error::Adapter(arc_adapters::Error::Locked { .. })), "{refused}");
        drop(first);
        assert_eq!(Answers::own(&path).unwrap().len(), 1);
    }

    #[test]
    fn a_line_that_is_no_answer_is_an_error_with_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        for line in [format!("{{\"schema\": {ANSWERS_SCHEMA}, \"key\": 1}}\n"), "[\n".into()] {
            std::fs::write(&path, format!("\n{line}")).unwrap();
            assert!(Answers::open(&path).unwrap_err().to_string().contains("line 2"));
        }
    }

    #[test]
    fn answers_of_another_schema_are_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.jsonl");
        Answers::open(&path).unwrap().keep("a".into(), answer("one")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let older = text.replacen(&format!("\"schema\":{ANSWERS_SCHEMA}"), "\"schema\":1", 1);
        assert_ne!(older, text);
        std::fs::write(&path, format!("{{\"key\": \"b\", \"answer\": {{}}}}\n{older}")).unwrap();
        assert!(Answers::open(&path).unwrap().is_empty());
    }
}
