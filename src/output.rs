//! Printing: data on standard output, everything else on standard error.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use arc_core::hub::Progress;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::{Failure, standard_output, terminal};

/// Where results and remarks go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
    is_terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, is_terminal: io::stdout().is_terminal() }
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// The command's one JSON object, where JSON is asked for.
    pub(crate) fn json(self, value: &Value) -> Result<(), Failure> {
        if self.json {
            print(&format!("{}\n", terminal::json(&value.to_string())))?;
        }
        Ok(())
    }

    /// A line of the result, where text is asked for. It stays one line, whatever is in it.
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.block(terminal::in_line(text.as_ref()))
    }

    /// Lines of the result, such as a table, where text is asked for. What comes from elsewhere and stands
    /// within a line has gone through [`terminal::in_line`] before.
    pub(crate) fn block(self, text: impl AsRef<str>) -> Result<(), Failure> {
        if !self.json {
            print(&format!("{}\n", terminal::lines(text.as_ref())))?;
        }
        Ok(())
    }

    /// A piece of an answer as it comes, where text is asked for: exact, but where a person reads it at a
    /// terminal.
    pub(crate) fn piece(self, text: &str) -> Result<(), Failure> {
        if !self.json {
            print(&if self.is_terminal { terminal::answer(text) } else { Cow::Borrowed(text) })?;
        }
        Ok(())
    }

    /// A remark about what happens.
    pub(crate) fn remark(self, text: impl AsRef<str>) {
        note(text);
    }
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
