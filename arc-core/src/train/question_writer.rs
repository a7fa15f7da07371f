//! Questions about the text of a corpus, written by a decoder.
//!
//! A decoder reads a passage and writes questions with short answers ([`WRITING`]). One is kept if its answer
//! stands in the passage, if the same decoder finds the answer again when it is asked in another form
//! ([`FINDING`]), and if it does not know it without the passage ([`KNOWING`]). A passage is read twice,
//! whatever the number of questions; its questions are written, and answered, as one batch. Text that the
//! corpus holds out is not in its shards, and so is never asked about.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use arc_adapters::{setters, sha256_hex};
use rand::seq::SliceRandom as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::corpus::{Corpus, Mixture};
use super::draw::{Purpose, generator};
use super::passages::passages;
use super::prepare::Overlap;
use super::question_prompts::{
    ANSWER, BEGINNINGS, FINDING, KNOWING, QUESTION, Rejected, WRITING, Written, parse,
};
use super::questions::each_row;
use crate::decoder::{Decoder, GenerateOptions, Prefix};
use crate::prompt::Prompt;
use crate::{Error, Result, Session};
use arc_adapters::write_atomically;

/// The most encoder tokens of a document that are looked at.
const DOCUMENT_TOKENS: usize = 1 << 15;
/// Shorter documents hold no passage.
const SHORTEST_DOCUMENT: usize = 64;
/// Long documents are asked about in so many places at most.
const PASSAGES: usize = 4;
/// New tokens of a question with its answer, at most.
const WRITTEN_TOKENS: usize = 48;
/// New tokens of an answer, at most.
const ANSWER_TOKENS: usize = 16;

/// What is to be written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QuestionOptions {
    /// The decoder that writes and answers, by its name in the registry.
    pub decoder: String,
    /// Corpora that `arc data prepare` made.
    pub corpora: Vec<PathBuf>,
    /// Text that must stay unseen.
    pub unseen: Vec<PathBuf>,
    /// The JSONL file of questions. What was written before is gone on with.
    pub out: PathBuf,
    /// So many questions.
    pub count: u64,
    /// Draws the order of documents and the length of passages.
    pub seed: u64,
}

setters!(QuestionOptions {
    unseen: Vec<PathBuf>,
    count: u64,
    seed: u64,
});

impl QuestionOptions {
    /// A decoder writes 30,000 questions about passages of some corpora into a folder.
    #[must_use]
    pub fn new(decoder: impl Into<String>, corpora: Vec<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self { decoder: decoder.into(), corpora, unseen: Vec::new(), out: out.into(), count: 30_000, seed: 0 }
    }
}

/// How far the writing has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct QuestionProgress {
    /// What is written by whom about what, as a hash.
    identity: String,
    /// Documents that were looked at.
    pub documents: u64,
    /// Passages that were asked about.
    pub passages: u64,
    /// Questions kept.
    pub questions: u64,
    /// Bytes of the file that hold them.
    bytes: u64,
    /// Questions left out, by the reason.
    pub rejected: BTreeMap<Rejected, u64>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Writes questions until there are enough, no text is left, or `goes_on` says no; it is asked after every
/// document. Everything up to there is in the file, and the next call goes on behind it.
///
/// # Errors
///
/// [`Error::Mismatch`] if the file was begun with another decoder, other text or another seed; whatever is
/// wrong with the models, the text or the disk.
pub fn write_questions(
    options: &QuestionOptions,
    session: &Session,
    goes_on: &mut dyn FnMut(&QuestionProgress) -> bool,
) -> Result<QuestionProgress> {
    let mut corpora = Vec::new();
    for folder in &options.corpora {
        let corpus = Corpus::open_for_text(folder, DOCUMENT_TOKENS, SHORTEST_DOCUMENT)?;
        let documents = corpus.windows();
        corpora.push((corpus, documents as f64));
    }
    let manifests: Vec<_> = corpora.iter().map(|(corpus, _)| corpus.manifest.clone()).collect();
    let all: u64 = corpora.iter().map(|(corpus, _)| corpus.windows()).sum();
    let mixture = Mixture::new(corpora, options.seed)?;
    let unseen = Overlap::open(&options.unseen)?;
    let decoder = session.decoder(&options.decoder)?;
    let identity = json!([
        decoder.embedding_sha256(),
        decoder.tokenizer.sha256(),
        manifests,
        options.seed,
        [WRITING, FINDING, KNOWING],
    ]);
    let mut output = QuestionFile::open(&options.out, sha256_hex(identity.to_string().as_bytes()))?;
    let mut asked = HashSet::new();
    if output.progress.bytes > 0 {
        each_row(&options.out, &mut |_, row| {
            asked.insert(Written { question: row.question, answer: row.answer }.key());
            Ok(())
        })?;
    }
    let writer = Writer::new(&decoder)?;
    while output.progress.documents < all && output.progress.questions < options.count {
        let begun = Instant::now();
        let number = output.progress.documents;
        let mut random = generator(options.seed, Purpose::Passage, number);
        let mut rows = Vec::new();
        for window in mixture.windows(number, 1)? {
            let mut passages = passages(&window.text, &mut random);
            passages.shuffle(&mut random);
            for passage in passages.into_iter().take(PASSAGES) {
                output.progress.passages += 1;
                for outcome in writer.questions(&passage, &mut asked)? {
                    let outcome = outcome.and_then(|written| {
                        let text = format!("{passage}\n{}\n{}", written.question, written.answer);
                        if unseen.find(&text).is_some() { Err(Rejected::Overlapping) } else { Ok(written) }
                    });
                    match outcome {
                        Ok(Written { question, answer }) => rows.push(json!({
                            "document": &passage, "question": question, "answer": answer, "by": &decoder.name,
                        })),
                        Err(reason) => *output.progress.rejected.entry(reason).or_default() += 1,
                    }
                }
            }
        }
        output.progress.seconds += begun.elapsed().as_secs_f64();
        output.progress.documents += 1;
        output.append(&rows)?;
        if !goes_on(&output.progress) {
            break;
        }
    }
    Ok(output.progress)
}

/// A file that grows by whole documents: what a kill leaves behind the last of them is cut off.
struct QuestionFile {
    path: PathBuf,
    file: File,
    progress: QuestionProgress,
}

impl QuestionFile {
    fn open(path: &Path, identity: String) -> Result<Self> {
        let progress_path = progress_path(path);
        let progress = match std::fs::read_to_string(&progress_path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| Error::InvalidFile {
                path: progress_path.clone(),
                format: "progress",
                reason: error.to_string(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if path.metadata().is_ok_and(|metadata| metadata.len() > 0) {
                    return Err(Error::Occupied {
                        path: path.to_owned(),
                        state: "is there already, and nothing says how far it has come".into(),
                        hint: "name another file".into(),
                    });
                }
                QuestionProgress { identity: identity.clone(), ..QuestionProgress::default() }
            }
            Err(error) => return Err(Error::io("read", &progress_path)(error)),
        };
        if progress.identity != identity {
            return Err(Error::Mismatch {
                what: format!("questions `{}` (sha256 of decoder, text, seed and prompts)", path.display()),
                expected: progress.identity,
                found: identity,
                hint: "go on with what it was begun with, or name another file".into(),
            });
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        }
        let file =
            OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("open", path))?;
        file.set_len(progress.bytes).map_err(Error::io("write", path))?;
        Ok(Self { path: path.to_owned(), file, progress })
    }

    /// Adds rows, and then says that they are there.
    fn append(&mut self, rows: &[serde_json::Value]) -> Result<()> {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let failed = || Error::io("write", &self.path);
        self.file.write_all(text.as_bytes()).map_err(failed())?;
        self.file.sync_data().map_err(failed())?;
        self.progress.questions += rows.len() as u64;
        self.progress.bytes += text.len() as u64;
        let path = progress_path(&self.path);
        let progress = json!(self.progress).to_string();
        write_atomically(&path, |file| file.write_all(progress.as_bytes()).map_err(Error::io("write", &path)))
    }
}

/// Beside a file of questions.
fn progress_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".progress.json");
    path.with_file_name(name)
}

/// A decoder with what it reads before every passage.
struct Writer<'a> {
    decoder: &'a Decoder,
    writing: Prefix,
    finding: Prefix,
    knowing: Prefix,
}

impl<'a> Writer<'a> {
    fn new(decoder: &'a Decoder) -> Result<Self> {
        let read = |text: &str| {
            let ids = [decoder.tokenizer.beginning(), decoder.tokenizer.encode(text)?.ids].concat();
            decoder.read_prefix(&Prompt::from_tokens(ids))
        };
        Ok(Self { decoder, writing: read(WRITING)?, finding: read(FINDING)?, knowing: read(KNOWING)? })
    }

    /// The questions about a passage, or why there is none: one for each of [`BEGINNINGS`].
    fn questions(
        &self,
        passage: &str,
        asked: &mut HashSet<String>,
    ) -> Result<Vec<std::result::Result<Written, Rejected>>> {
        let about = format!("{passage}{QUESTION}");
        let prefix = self.read_on(&self.writing, &about)?;
        let beginnings: Vec<String> = BEGINNINGS.iter().map(|word| format!(" {word}")).collect();
        let texts = self.write_on(&prefix, &beginnings, WRITTEN_TOKENS, QUESTION)?;
        let (mut outcomes, mut left) = (Vec::new(), Vec::<Written>::new());
        for (beginning, text) in BEGINNINGS.iter().zip(&texts) {
            let written = parse(beginning, text).and_then(|written| {
                written.check(passage)?;
                // One question for each answer of a passage, and every question once.
                let is_new = left.iter().all(|other| other.answer != written.answer);
                if is_new && asked.insert(written.key()) { Ok(written) } else { Err(Rejected::Repeated) }
            });
            match written {
                Ok(written) => left.push(written),
                Err(reason) => outcomes.push(Err(reason)),
            }
        }
        // Without the passage first: that costs the least.
        let known = self.answers(&self.knowing, &left)?;
        let mut unknown = Vec::new();
        for (written, answer) in left.into_iter().zip(known) {
            match written.is_answered_by(&answer) {
                true => outcomes.push(Err(Rejected::Known)),
                false => unknown.push(written),
            }
        }
        if unknown.is_empty() {
            return Ok(outcomes);
        }
        let found = self.answers(&self.read_on(&self.finding, &about)?, &unknown)?;
        for (written, answer) in unknown.into_iter().zip(found) {
            let is_found = written.is_answered_by(&answer);
            outcomes.push(if is_found { Ok(written) } else { Err(Rejected::NotFound) });
        }
        Ok(outcomes)
    }

    /// What the decoder answers after a prefix that ends before the question.
    fn answers(&self, prefix: &Prefix, questions: &[Written]) -> Result<Vec<String>> {
        let prompts: Vec<String> =
            questions.iter().map(|written| format!(" {}{ANSWER}", written.question)).collect();
        self.write_on(prefix, &prompts, ANSWER_TOKENS, "\n")
    }

    fn read_on(&self, prefix: &Prefix, text: &str) -> Result<Prefix> {
        self.decoder.read_on(prefix, &Prompt::from_tokens(self.decoder.tokenizer.encode(text)?.ids))
    }

    /// The most likely text after a prefix and each of some texts, up to `stop`.
    fn write_on(&self, prefix: &Prefix, texts: &[String], tokens: usize, stop: &str) -> Result<Vec<String>> {
        let tokenizer = &self.decoder.tokenizer;
        let prompts = texts.iter().map(|text| Ok(Prompt::from_tokens(tokenizer.encode(text)?.ids)));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let options =
            GenerateOptions { max_tokens: tokens, stop: vec![stop.to_owned()], ..GenerateOptions::default() };
        let written = self.decoder.generate_after(Some(prefix), &prompts, &options, |_, _| {})?;
        Ok(written.rows.into_iter().map(|row| row.text).collect())
    }
}
