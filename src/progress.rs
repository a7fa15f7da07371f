//! How far something long has come: a bar on a terminal, a line every few seconds elsewhere, nothing with
//! `--quiet`.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::output::{self, note};
use crate::terminal;

/// What is over sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two lines.
pub(crate) const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one thing.
#[derive(Debug)]
pub(crate) struct Progress {
    what: String,
    unit: &'static str,
    total: u64,
    done: u64,
    start: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Of `what`, which is done when `total` units are.
    pub(crate) fn new(what: &str, total: u64, unit: &'static str) -> Self {
        let now = Instant::now();
        let what = terminal::in_line(what).into_owned();
        Self { what, unit, total, done: 0, start: now, last_line: now, bar: None }
    }

    /// So many units more are done.
    pub(crate) fn advance(&mut self, units: u64) {
        self.done += units;
        if output::is_quiet() || self.start.elapsed() < PATIENCE {
            return;
        }
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| {
                let bar = ProgressBar::new(self.total);
                let style = format!("{{prefix}} [{{bar:24}}] {{pos}}/{{len}} {} {{eta}}", self.unit);
                if let Ok(style) = ProgressStyle::with_template(&style) {
                    bar.set_style(style);
                }
                bar.set_prefix(self.what.clone());
                bar
            });
            bar.set_position(self.done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let rate = self.done as f64 / self.start.elapsed().as_secs_f64();
            let left = (self.total.saturating_sub(self.done)) as f64 / rate.max(1e-9);
            let left = HumanDuration(Duration::try_from_secs_f64(left).unwrap_or_default());
            note(format!("{}: {} of {} {}, {left} left", self.what, self.done, self.total, self.unit));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
