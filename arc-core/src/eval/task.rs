//! Tasks: what is asked, of which data, and how answers are judged. A task is a TOML file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::data::Fields;
use super::metrics::Metric;
use super::needle::Needle;
use crate::bounded_file::{DESCRIPTION, read_text};
use crate::{Error, Hint, Result};

/// The version of the task format that this build reads.
const SCHEMA: u32 = 1;

/// The place of the document in a prompt.
const DOCUMENT: &str = "{{ document }}";
/// The place of the question in a prompt.
const QUESTION: &str = "{{ question }}";

/// Which end of a document the truncation arm keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum KeptEnd {
    /// The first tokens.
    #[default]
    First,
    /// The last tokens.
    Last,
}

/// A task file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Task {
    /// The version of the format: 1.
    pub schema: u32,
    /// What reports call it.
    pub name: String,
    /// One line about what it measures, on what.
    pub description: String,
    /// A JSONL file with one row for each question; for a needle task the texts to hide it in.
    pub data: PathBuf,
    /// The names of the data's fields, where they are others.
    #[serde(default)]
    pub fields: Fields,
    /// Which end of a document the truncation arm keeps.
    #[serde(default)]
    pub truncate: KeptEnd,
    /// So many questions where the command line says nothing; all of them where this is left out.
    pub limit: Option<usize>,
    /// So many other rows' documents stand around each document, at a place fixed by the seed.
    #[serde(default)]
    pub distractors: usize,
    /// Makes the rows: facts hidden in the data's texts.
    pub needle: Option<Needle>,
    /// The decoder writes answers.
    pub generate: Option<GenerateTask>,
    /// The decoder predicts what follows a context.
    pub continuation: Option<ContinuationSpec>,
    /// The decoder predicts the context itself again.
    pub reconstruction: Option<ReconstructionSpec>,
    /// The sha256 of the task file.
    #[serde(skip)]
    pub sha256: String,
}

/// A task whose answers are written and compared with golds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct GenerateTask {
    /// What the prompt begins with, before the examples.
    #[serde(default)]
    pub instruction: String,
    /// One question, with `{{ document }}` once and `{{ question }}` where it has one.
    pub prompt: String,
    /// The same without the document.
    pub closed_book: String,
    /// What stands between an example's prompt and its answer.
    #[serde(default = "space")]
    pub before_answer: String,
    /// What stands after an example's answer.
    #[serde(default = "empty_line")]
    pub after_answer: String,
    /// Texts that end an answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// How answers are judged; the first metric is the one that is drawn.
    pub metrics: Vec<Metric>,
    /// A JSONL file of examples, apart from the data. A needle task makes its own.
    pub examples: Option<PathBuf>,
    /// The number of examples where the command line names none.
    #[serde(default)]
    pub shots: usize,
}

/// A task that scores what follows a context, cut from the rows' documents in decoder tokens.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ContinuationSpec {
    /// Tokens of context.
    pub context_tokens: usize,
    /// Tokens to predict.
    pub continuation_tokens: usize,
}

/// A task that scores the context itself, after it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ReconstructionSpec {
    /// Tokens of context.
    pub context_tokens: usize,
}

/// What a task does with its rows.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Kind<'a> {
    /// Answers are written.
    Generate(&'a GenerateTask),
    /// What follows is scored.
    Continuation(ContinuationSpec),
    /// The context is scored again.
    Reconstruction(ReconstructionSpec),
}

/// A prompt's text around a document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PromptFrame {
    /// Before the document.
    pub before: String,
    /// After it.
    pub after: String,
}

impl Task {
    /// Reads a task file. `name` is a path that ends in `.toml`, the name of a file in `tasks/` of
    /// this folder or one above it, or one of `shipped`: names and the texts of their files. The data
    /// are looked for beside the file and in the folders of data.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such task, [`Error::InvalidConfig`] for a file
    /// that is no task.
    pub fn open(name: &str, data_folders: &[PathBuf], shipped: &[(&str, &str)]) -> Result<Self> {
        let (mut task, beside) = match (locate(name)?, shipped.iter().find(|(known, _)| *known == name)) {
            (Some(path), _) => {
                let text = read_text(&path, DESCRIPTION.called("task"))?;
                let beside = path.parent().unwrap_or(Path::new(".")).to_owned();
                (Self::parse(&text, &path)?, Some(beside))
            }
            (None, Some((name, text))) => (Self::parse(text, Path::new(name))?, None),
            (None, None) => return Err(unknown(name, shipped)),
        };
        let folders: Vec<PathBuf> = beside.into_iter().chain(data_folders.iter().cloned()).collect();
        let name = task.name.clone();
        task.data = find_data(&name, &task.data, &folders)?;
        if let Some(generate) = &mut task.generate
            && let Some(examples) = &mut generate.examples
        {
            *examples = find_data(&name, examples, &folders)?;
        }
        Ok(task)
    }

    /// Reads a task from the text of its file.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidConfig`] for an unknown, missing or senseless field.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidConfig { path: path.to_owned(), reason };
        let mut task: Self = arc_adapters::from_toml(text).map_err(invalid)?;
        task.check().map_err(invalid)?;
        task.sha256 = arc_adapters::sha256_hex(text.as_bytes());
        Ok(task)
    }

    fn check(&self) -> Result<(), String> {
        if self.schema != SCHEMA {
            return Err(format!("`schema` is {}, expected {SCHEMA}", self.schema));
        }
        let kinds = [self.generate.is_some(), self.continuation.is_some(), self.reconstruction.is_some()];
        if kinds.iter().filter(|&&there| there).count() != 1 {
            return Err("expected one of `[generate]`, `[continuation]` and `[reconstruction]`".into());
        }
        if let Some(generate) = &self.generate {
            generate.check()?;
        } else if self.needle.is_some() {
            return Err("`[needle]` needs `[generate]`".into());
        }
        if let Some(spec) = self.continuation
            && (spec.context_tokens == 0 || spec.continuation_tokens < 2)
        {
            return Err("a continuation needs 1 token of context and 2 to predict".into());
        }
        if self.reconstruction.is_some_and(|spec| spec.context_tokens < 2) {
            return Err("a reconstruction needs 2 tokens".into());
        }
        self.needle.as_ref().map_or(Ok(()), Needle::check)
    }

    /// What the task does with its rows.
    #[must_use]
    pub fn kind(&self) -> Kind<'_> {
        match (&self.generate, self.continuation, self.reconstruction) {
            (_, Some(spec), _) => Kind::Continuation(spec),
            (_, _, Some(spec)) => Kind::Reconstruction(spec),
            (Some(generate), ..) => Kind::Generate(generate),
            (None, None, None) => unreachable!("a task has been checked to be of one kind"),
        }
    }
}

impl GenerateTask {
    fn check(&self) -> Result<(), String> {
        let places = |text: &str, place: &str| text.matches(place).count();
        if places(&self.prompt, DOCUMENT) != 1 {
            return Err(format!(
                "`prompt` has `{DOCUMENT}` {} times, expected once",
                places(&self.prompt, DOCUMENT)
            ));
        }
        for (field, text, documents) in [("prompt", &self.prompt, 1), ("closed_book", &self.closed_book, 0)] {
            if text.matches("{{").count() != documents + places(text, QUESTION) {
                return Err(format!(
                    "`{field}` has a place that is neither `{DOCUMENT}` nor `{QUESTION}`, spelled like this"
                ));
            }
        }
        if self.metrics.is_empty() {
            return Err("`metrics` is empty".into());
        }
        if self.max_tokens == 0 {
            return Err("`max_tokens` is 0".into());
        }
        Ok(())
    }

    /// The prompt of a question around its document.
    #[must_use]
    pub fn frame(&self, question: &str) -> PromptFrame {
        let (before, after) = self.prompt.split_once(DOCUMENT).unwrap_or((&self.prompt, ""));
        let fill = |text: &str| text.replace(QUESTION, question);
        PromptFrame { before: fill(before), after: fill(after) }
    }

    /// The prompt of a question without a document.
    #[must_use]
    pub fn without_document(&self, question: &str) -> String {
        self.closed_book.replace(QUESTION, question)
    }
}

/// The file of a task, if it is a path or in a `tasks/` of this folder or above.
fn locate(name: &str) -> Result<Option<PathBuf>> {
    if Path::new(name).extension().is_some_and(|extension| extension == "toml") {
        return Ok(Some(PathBuf::from(name)));
    }
    let mut paths = task_folders()?.into_iter().map(|folder| folder.join(format!("{name}.toml")));
    Ok(paths.find(|path| path.is_file()))
}

fn task_folders() -> Result<Vec<PathBuf>> {
    let here = std::env::current_dir().map_err(Error::io("read", "."))?;
    Ok(here.ancestors().map(|folder| folder.join("tasks")).collect())
}

fn unknown(name: &str, shipped: &[(&str, &str)]) -> Error {
    let folders = task_folders().unwrap_or_default();
    let mut names = folders.iter().find(|folder| folder.is_dir()).map_or_else(Vec::new, |f| task_names(f));
    names.extend(shipped.iter().map(|&(name, _)| name.to_owned()));
    names.sort();
    names.dedup();
    Error::NotFound {
        kind: "task",
        name: name.to_owned(),
        place: "in `tasks/`, and it is no file that ends in `.toml`".into(),
        known: names,
    }
}

/// The tasks in a folder, by name.
fn task_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// A data file: as it is written if that is absolute, else in the first folder that has it.
fn find_data(task: &str, file: &Path, folders: &[PathBuf]) -> Result<PathBuf> {
    let found = folders.iter().map(|folder| folder.join(file)).find(|path| path.is_file());
    found.ok_or_else(|| Error::Mismatch {
        what: format!("the data of task `{task}`"),
        expected: file.display().to_string(),
        found: "no such file".into(),
        hint: Hint::FetchData,
    })
}

fn space() -> String {
    " ".into()
}

fn empty_line() -> String {
    "\n\n".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TASK: &str = r#"
        schema = 1
        name = "t"
        description = "d"
        data = "t.jsonl"
        [generate]
        prompt = "Text: {{ document }}\nQ: {{ question }}\nA:"
        closed_book = "Q: {{ question }}\nA:"
        max_tokens = 8
        metrics = ["exact-match", "f1"]
    "#;

    fn refusal(text: &str) -> String {
        Task::parse(text, Path::new("t.toml")).unwrap_err().to_string()
    }

    #[test]
    fn a_frame_is_the_prompt_around_the_document() {
        let task = Task::parse(TASK, Path::new("t.toml")).unwrap();
        let Kind::Generate(generate) = task.kind() else { panic!("{task:?}") };
        // What a question says about places is text.
        let frame = generate.frame("Who wrote {{ document }}?");
        assert_eq!(frame.before, "Text: ");
        assert_eq!(frame.after, "\nQ: Who wrote {{ document }}?\nA:");
        assert_eq!(generate.without_document("Who?"), "Q: Who?\nA:");
    }

    #[test]
    fn a_task_with_a_mistake_is_refused_by_name() {
        for (from, to, message) in [
            ("max_tokens", "max_token", "max_token"),
            ("name = \"t\"", "name = \"t\"\nnome = 1", "nome"),
            ("schema = 1", "schema = 2", "`schema` is 2, expected 1"),
            ("{{ document }}", "document", "`prompt` has `{{ document }}` 0 times, expected once"),
            ("Q: {{ question }}", "Q: {{question}}", "neither `{{ document }}` nor `{{ question }}`"),
            ("[\"exact-match\", \"f1\"]", "[]", "`metrics` is empty"),
            ("\"f1\"", "\"f2\"", "f2"),
            (
                "[generate]",
                "[continuation]\ncontext_tokens = 1\ncontinuation_tokens = 2\n[generate]",
                "expected one of",
            ),
        ] {
            let changed = TASK.replace(from, to);
            assert_ne!(changed, TASK);
            assert!(refusal(&changed).contains(message), "{} does not say {message}", refusal(&changed));
        }
    }

    #[test]
    fn the_tasks_of_the_repository_are_tasks() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tasks");
        let names = task_names(&folder);
        assert!(names.contains(&"squad-dev".to_owned()), "{names:?}");
        for name in names {
            let path = folder.join(format!("{name}.toml"));
            let task = Task::parse(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
            assert_eq!(task.name, name, "a task is named as its file");
        }
    }
}
