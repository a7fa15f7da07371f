//! Printing: data on standard output, everything else on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use arc_core::hub::Progress;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::Failure;

/// Where results and remarks go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// The command's one JSON object, where JSON is asked for.
    pub(crate) fn json(self, value: &Value) -> Result<(), Failure> {
        if self.json {
            writeln!(std::io::stdout().lock(), "{value}").map_err(|error| Failure::output(&error))?;
        }
        Ok(())
    }

    /// A line of the result, where text is asked for.
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<(), Failure> {
        if !self.json {
            writeln!(std::io::stdout().lock(), "{}", text.as_ref())
                .map_err(|error| Failure::output(&error))?;
        }
        Ok(())
    }

    /// A piece of the result as it comes, where text is asked for.
    pub(crate) fn piece(self, text: &str) -> Result<(), Failure> {
        if !self.json {
            let mut stdout = std::io::stdout().lock();
            let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
            written.map_err(|error| Failure::output(&error))?;
        }
        Ok(())
    }

    /// A remark about what happens.
    pub(crate) fn remark(self, text: impl AsRef<str>) {
        eprintln!("{}", text.as_ref());
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
        Self { name: name.to_owned(), bar: Mutex::new(None) }
    }

    fn bar(&self) -> std::sync::MutexGuard<'_, Option<ProgressBar>> {
        self.bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Progress for TransferBar {
    fn begin(&self, total: Option<u64>) {
        if !std::io::stderr().is_terminal() {
            let size = total.map_or_else(String::new, |bytes| format!(" ({})", HumanBytes(bytes)));
            eprintln!("pulling `{}`{size}", self.name);
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
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.bar().take() {
            bar.finish_and_clear();
        }
    }
}
