//! What `arc ask` takes.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use arc_adapters::AnswerEnd;
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

use super::Sampling;
use crate::Failure;

#[derive(Clone, Debug, Args)]
pub(crate) struct Ask {
    /// Who answers, by name or alias; several names are asked in turn about the same latents. The
    /// registry's `default_decoder` where it is left out
    #[arg(long, value_name = "NAME", value_delimiter = ',', env = "ARC_DECODER")]
    pub decoder: Vec<String>,
    /// A document or a latents file (*.arc.safetensors), as the FILEs before the questions; may be repeated
    #[arg(long, value_name = "FILE")]
    pub document: Vec<PathBuf>,
    /// The encoder, where it is neither the decoder's own nor the registry's default
    #[arg(long, value_name = "NAME")]
    pub encoder: Option<String>,
    /// How many tokens a latent stands for
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub factor: Option<u16>,
    /// Read only the N chunks of the documents that are nearest to the question; without it all of them, or
    /// the nearest that the decoder's window has room for
    #[arg(long, value_name = "N", allow_negative_numbers = true, conflicts_with = "open_book", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub top: Option<usize>,
    /// Let the decoder read the documents as plain text, without compression
    #[arg(long, conflicts_with_all = ["factor", "no_special"])]
    pub open_book: bool,
    /// Leave out the special vector after each document's latents, as for long contexts
    #[arg(long)]
    pub no_special: bool,
    /// The prompt around the documents
    #[arg(long, value_enum, default_value_t = Form::Adapter)]
    pub form: Form,
    /// Answered questions for `--form few-shot`: JSONL with `document`, `question` and `answers`
    #[arg(long, value_name = "FILE")]
    pub shots: Option<PathBuf>,
    /// What a system turn says, for `--form instruct` and `--form llama2-chat`
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    #[command(flatten)]
    pub sampling: Sampling,
    /// What an answer is; what the adapter says where it is left out
    #[arg(long, value_enum, value_name = "END")]
    pub answer_ends: Option<AnswerEnds>,
    /// Pass over documents that cannot be read, and say which
    #[arg(long)]
    pub skip_bad: bool,
    /// Neither look for the documents in the cache of compressed ones nor keep them there
    #[arg(long)]
    pub no_cache: bool,
    /// Ask the questions of this file: JSONL with `question`, and `id` and `document` (a text) where a
    /// question has its own
    #[arg(long = "questions", value_name = "FILE", requires = "out", conflicts_with_all = ["shots", "top"])]
    pub questions_from: Option<PathBuf>,
    /// Write an answer a line into this file, and go on where it ends: a question that it answers already
    /// is not asked again
    #[arg(long, value_name = "FILE", requires = "questions_from")]
    pub out: Option<PathBuf>,
    /// Questions that are answered at once, with `--questions`
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub batch: usize,
    /// Print JSON objects as they come, one a line: pieces of text, answers, and a summary at the end
    #[arg(long, conflicts_with_all = ["json", "questions_from"])]
    pub stream: bool,
    /// Documents (.txt, .md, .html, .pdf, .docx, .jsonl, latents; folders, patterns; `-` is standard input),
    /// then what to ask about them
    #[arg(value_name = "FILE… QUESTION")]
    pub words: Vec<OsString>,
    /// What is asked, of these words.
    #[arg(skip)]
    pub questions: Vec<String>,
}

impl Ask {
    /// The same with its words taken apart: those that lead to documents, up to the first that does not, and
    /// questions. With `--document` all are questions.
    pub(crate) fn taken_apart(&self) -> Result<Self, Failure> {
        let mut ask = self.clone();
        let mut words = std::mem::take(&mut ask.words).into_iter().peekable();
        let are_named = !ask.document.is_empty();
        if !are_named {
            while let Some(word) =
                words.next_if(|word| ask.questions_from.is_some() || leads_to_documents(Path::new(word)))
            {
                ask.document.push(word.into());
            }
        }
        for word in words {
            let question = word.into_string().map_err(|word| {
                Failure::usage(
                    format!("`{}` is neither a document nor a question in UTF-8", word.display()),
                    "name documents that are there, then the questions",
                )
            })?;
            // As a variable of a script that is empty would leave it; it would be answered.
            if question.trim().is_empty() {
                return Err(Failure::usage(
                    "a question is empty",
                    "put its words in quotes: arc ask notes.txt \"Who wrote it?\"",
                ));
            }
            // A mistyped name would be asked about, and answered.
            if !are_named && looks_like_a_file(&question) {
                return Err(Failure::failed(
                    format!("there is no document `{question}`"),
                    "correct its name; a question that is one word with an ending is asked after `--document FILE`",
                ));
            }
            ask.questions.push(question);
        }
        Ok(ask)
    }
}

/// Whether there is something to read at an argument.
fn leads_to_documents(argument: &Path) -> bool {
    argument == Path::new("-")
        || argument.symlink_metadata().is_ok()
        || (has_wildcard(argument) && arc_documents::expand(argument).is_ok())
}

fn has_wildcard(argument: &Path) -> bool {
    let text = argument.to_string_lossy();
    // A question may end in `?`, and is no pattern for that.
    text.contains(['*', '[']) || text.trim_end_matches('?').contains('?')
}

/// Whether a word that leads nowhere is more likely a name that was mistyped than a question.
fn looks_like_a_file(word: &str) -> bool {
    let is_known =
        arc_documents::Format::of_name(Path::new(word)).is_some() || word.ends_with(".safetensors");
    is_known && !word.contains(char::is_whitespace)
}

/// Where an answer ends, besides the decoder's end tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnswerEnds {
    /// Nowhere else
    Model,
    /// With its first line
    Line,
}

impl From<AnswerEnds> for AnswerEnd {
    fn from(answer_ends: AnswerEnds) -> Self {
        match answer_ends {
            AnswerEnds::Model => Self::Model,
            AnswerEnds::Line => Self::Line,
        }
    }
}

/// The prompt around documents: the adapter's own, or one that the ARC-Encoder's paper uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// The adapter's template
    Adapter,
    /// `Document: … Question: … Answer:`, after answered questions of `--shots`
    FewShot,
    /// The document is continued; QUESTION, if there is one, is text before it
    Continuation,
    /// The document is repeated
    Reconstruction,
    /// The user's turn of the decoder's chat template; QUESTION is what is to be done, or
    /// `prefix||instruction||suffix`
    Instruct,
    /// The same in the words of Llama 2 Chat
    #[value(name = "llama2-chat")]
    Llama2Chat,
}
