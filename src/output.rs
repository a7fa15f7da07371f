//! Printing: data on standard output, everything else on standard error.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_core::hub::Progress;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::{Failure, standard_output, terminal};

/// The version of the JSON that is printed.
pub(crate) const SCHEMA: u32 = 1;

/// Set by `--quiet`: what is no result and no failure is not said.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Set by `--verbose`.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether the one object of a command was printed.
static HAS_PRINTED_JSON: AtomicBool = AtomicBool::new(false);

/// Whether `--quiet` was asked for.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// One JSON object at the end.
    Json,
    /// JSON objects as they come, one a line.
    Stream,
}

/// Where results and remarks go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    form: Form,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new(form: Form, is_quiet: bool, is_verbose: bool) -> Self {
        QUIET.store(is_quiet, Ordering::Relaxed);
        VERBOSE.store(is_verbose, Ordering::Relaxed);
        HAS_PRINTED_JSON.store(false, Ordering::Relaxed);
        Self { form, is_terminal: io::stdout().is_terminal() }
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(self) -> bool {
        self.form != Form::Text
    }

    /// The command's one JSON object, where JSON is asked for, with the version of its shape.
    pub(crate) fn json(self, value: &Value) -> Result<(), Failure> {
        if self.form == Form::Json {
            HAS_PRINTED_JSON.store(true, Ordering::Relaxed);
            print_object("schema", SCHEMA.into(), value)?;
        }
        Ok(())
    }

    /// A JSON object of a stream, with its type, where a stream is asked for. The last one, a `summary` or an
    /// `error`, has the version of the shape.
    pub(crate) fn event(self, kind: &str, value: &Value) -> Result<(), Failure> {
        if self.form != Form::Stream {
            return Ok(());
        }
        match kind {
            "summary" | "error" => {
                print_object("type", kind.into(), &with_first("schema", SCHEMA.into(), value))
            }
            _ => print_object("type", kind.into(), value),
        }
    }

    /// What went wrong, as JSON on standard output where JSON is asked for and nothing was printed yet. That it
    /// cannot be printed either is not said.
    pub(crate) fn error(self, value: Value) {
        match self.form {
            Form::Text => {}
            Form::Json if HAS_PRINTED_JSON.load(Ordering::Relaxed) => {}
            Form::Json => drop(self.json(&value)),
            Form::Stream => drop(self.event("error", &value)),
        }
    }

    /// A line of the result, where text is asked for. It stays one line, whatever is in it.
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.block(terminal::in_line(text.as_ref()))
    }

    /// Lines of the result, such as a table, where text is asked for. What comes from elsewhere and stands
    /// within a line has gone through [`terminal::in_line`] before.
    pub(crate) fn block(self, text: impl AsRef<str>) -> Result<(), Failure> {
        if self.form == Form::Text {
            print(&format!("{}\n", terminal::lines(text.as_ref())))?;
        }
        Ok(())
    }

    /// A piece of an answer as it comes, where text is asked for: exact, but where a person reads it at a
    /// terminal.
    pub(crate) fn piece(self, text: &str) -> Result<(), Failure> {
        if self.form == Form::Text {
            print(&if self.is_terminal { terminal::answer(text) } else { Cow::Borrowed(text) })?;
        }
        Ok(())
    }

    /// A remark about what happens, unless it is to be quiet.
    pub(crate) fn remark(self, text: impl AsRef<str>) {
        if !is_quiet() {
            note(text);
        }
    }

    /// What a reader of the results should know, quiet or not.
    pub(crate) fn warning(self, text: impl AsRef<str>) {
        note(format!("warning: {}", text.as_ref()));
    }

    /// What is of interest to who looks for a cause: with `--verbose`.
    pub(crate) fn detail(self, text: impl AsRef<str>) {
        detail(text);
    }
}

/// An object with a key before its others.
pub(crate) fn with_first(key: &str, first: Value, object: &Value) -> Value {
    let mut whole = serde_json::Map::from_iter([(key.to_owned(), first)]);
    whole.extend(object.as_object().cloned().unwrap_or_default());
    whole.into()
}

/// A line that is an object, with a key before its others.
fn print_object(key: &str, first: Value, object: &Value) -> Result<(), Failure> {
    print(&format!("{}\n", terminal::json(&with_first(key, first, object).to_string())))
}

/// Writes to standard output, through to what stands behind it.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.and_then(|()| check_open()).map_err(|error| Failure::output(&error))
}

/// What went to a standard output that is closed is lost.
pub(crate) fn check_open() -> io::Result<()> {
    if standard_output::is_closed() { Err(io::Error::other("standard output is closed")) } else { Ok(()) }
}

/// A line on standard error. Where nobody hears it the work goes on: results are on standard output.
pub(crate) fn note(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr().lock(), "{}", terminal::in_line(text.as_ref()));
}

/// What is of interest to who looks for a cause, where no [`Output`] is at hand.
pub(crate) fn detail(text: impl AsRef<str>) {
    if VERBOSE.load(Ordering::Relaxed) {
        note(text);
    }
}

/// Shows the transfer of a file: a bar on a terminal, a line elsewhere.
#[derive(Debug)]
pub(crate) struct TransferBar {
    name: String,
    bar: Mutex<Option<ProgressBar>>,
}

impl TransferBar {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: terminal::in_line(name).into_owned(), bar: Mutex::new(None) }
    }

    fn bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for TransferBar {
    fn begin(&self, total: Option<u64>) {
        if is_quiet() {
            return;
        }
        if !io::stderr().is_terminal() {
            let size = total.map_or_else(String::new, |bytes| format!(" ({})", HumanBytes(bytes)));
            note(format!("pulling `{}`{size}", self.name));
            return;
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let style = if total.is_some() {
            "{prefix} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec} {eta}"
        } else {
            "{prefix} {spinner} {bytes} {bytes_per_sec}"
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_prefix(self.name.clone());
        bar.enable_steady_tick(Duration::from_millis(200));
        if let Some(earlier) = self.bar().replace(bar) {
            earlier.finish_and_clear();
        }
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &*self.bar() {
            bar.inc(bytes);
        }
    }

    fn message(&self, text: &str) {
        match &*self.bar() {
            Some(bar) => bar.println(terminal::in_line(text)),
            None => note(text),
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }
}
