//! A report as Markdown tables.

use std::fmt::Write as _;

use super::bootstrap::Interval;
use super::report::{ArmResult, Report, TaskResult};
use super::task::KeptEnd;
use crate::OverriddenPin;

impl Report {
    /// The report as Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        for result in &self.results {
            text.push_str(&result.to_markdown());
            text.push('\n');
        }
        let provenance = &self.provenance;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "arc {}, device {}, seed {}, batch {}, {} timed, {:.0} s: `{}`",
            provenance.version,
            provenance.device,
            provenance.seed,
            provenance.batch,
            provenance.timed,
            provenance.seconds,
            provenance.command.join(" ")
        );
        text
    }
}

impl TaskResult {
    /// The result as Markdown: quality with 95 % intervals, differences, and costs.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "## {} on {}\n\n{}; {} questions, {} shots.\n",
            self.decoder, self.task, self.description, self.questions, self.shots
        );
        for table in [self.quality(), self.differences(), self.costs()].into_iter().chain(self.heat_maps()) {
            text.push_str(&table.to_markdown());
            text.push('\n');
        }
        for note in self.notes() {
            let _ = writeln!(text, "{note}\n");
        }
        let _ = writeln!(
            text,
            "decoder {}, encoder {}, adapter {}, task {}, data {}",
            short(&self.decoder_sha256),
            short(&self.encoder_id),
            self.adapter_sha256.as_deref().map_or("none", short),
            short(&self.task_sha256),
            self.data_sha256.iter().map(|hash| short(hash)).collect::<Vec<_>>().join(" and ")
        );
        text
    }

    /// What is to be known beside the numbers: options, and what was left out or overridden.
    pub(super) fn notes(&self) -> Vec<String> {
        let limit = self.limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
        let end = match self.truncate {
            KeptEnd::First => "first",
            KeptEnd::Last => "last",
        };
        let mut notes = vec![format!("{limit}, truncation keeps the {end} tokens, {:.0} s", self.seconds)];
        if self.too_short > 0 {
            notes.push(format!("left out: {} documents that are too short to be cut", self.too_short));
        }
        notes.extend(self.skipped_rows.iter().map(|skipped| format!("left out: {skipped}")));
        notes.extend(self.overridden_pins.iter().map(|OverriddenPin { adapter, pin, expected, found }| {
            format!("adapter `{adapter}` was made for {pin} `{expected}`, this one is `{found}`")
        }));
        notes
    }

    /// Scores of every arm.
    pub(super) fn quality(&self) -> Table {
        let mut names = self.arms.first().map_or_else(Vec::new, |arm| vec![arm.main.clone()]);
        for name in self.arms.iter().flat_map(|arm| arm.scores.keys()) {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let with_too_long = self.arms.iter().any(|arm| arm.too_long > 0);
        let mut head = vec!["arm".to_owned(), "document positions".to_owned()];
        head.extend(names.iter().cloned());
        head.extend(with_too_long.then(|| "too long".to_owned()));
        let rows = self.arms.iter().map(|arm| {
            let mut row = vec![arm.arm.clone(), format!("{:.0}", arm.cost.document_positions)];
            row.extend(names.iter().map(|name| arm.scores.get(name).map_or_else(dash, interval)));
            row.extend(with_too_long.then(|| arm.too_long.to_string()));
            row
        });
        Table { title: "Quality, with 95 % intervals".into(), rows: rows.collect(), head }
    }

    /// The main score less that of arms it competes with.
    pub(super) fn differences(&self) -> Table {
        let rows = self.arms.iter().flat_map(|arm| {
            arm.differences.iter().map(|(rival, difference)| {
                vec![arm.arm.clone(), rival.clone(), arm.main.clone(), interval(difference)]
            })
        });
        Table {
            title: "Differences on the same questions".into(),
            head: ["arm", "less", "score", "difference"].map(str::to_owned).to_vec(),
            rows: rows.collect(),
        }
    }

    /// What the answers of every arm cost.
    pub(super) fn costs(&self) -> Table {
        let timed =
            self.arms.iter().filter_map(|arm| arm.cost.seconds.as_ref()).map(|seconds| seconds.questions);
        let head = [
            "arm",
            "positions",
            "new tokens",
            "prepare s",
            "prefill s",
            "first token s",
            "decode s",
            "prepare GFLOP",
            "use GFLOP",
            "after examples GFLOP",
            "KV cache MiB",
            "ahead after (FLOP)",
            "ahead after (time)",
        ];
        Table {
            title: format!(
                "Cost per question; times of {} questions asked alone, examples read before",
                timed.max().unwrap_or(0)
            ),
            head: head.map(str::to_owned).to_vec(),
            rows: self.arms.iter().map(cost_row).collect(),
        }
    }

    /// The main score by length and depth, one table for each arm of a needle task.
    pub(super) fn heat_maps(&self) -> Vec<Table> {
        let arms = self.arms.iter().filter(|arm| !arm.cells.is_empty());
        arms.map(|arm| {
            let mut words: Vec<usize> = arm.cells.iter().map(|(place, _)| place.words).collect();
            words.sort_unstable();
            words.dedup();
            let mut depths: Vec<f64> = arm.cells.iter().map(|(place, _)| place.depth).collect();
            depths.sort_by(f64::total_cmp);
            depths.dedup();
            let mut head = vec!["depth".to_owned()];
            head.extend(words.iter().map(|words| format!("{words} words")));
            let rows = depths.iter().map(|&depth| {
                let cells = words.iter().map(|&words| {
                    let cell =
                        arm.cells.iter().find(|(place, _)| place.words == words && place.depth == depth);
                    cell.map_or_else(dash, |(_, score)| format!("{score:.0}"))
                });
                std::iter::once(format!("{depth:.2}")).chain(cells).collect()
            });
            Table {
                title: format!("{} by depth and length: {}", arm.main, arm.arm),
                head,
                rows: rows.collect(),
            }
        })
        .collect()
    }
}

/// A table of texts.
pub(super) struct Table {
    pub(super) title: String,
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Table {
    fn to_markdown(&self) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = vec!["---".to_owned(); self.head.len()];
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("**{}**\n\n{}{}{rows}", self.title, line(&self.head), line(&rule))
    }
}

fn cost_row(arm: &ArmResult) -> Vec<String> {
    let cost = &arm.cost;
    let seconds = |of: fn(&super::report::Seconds) -> f64| {
        cost.seconds.as_ref().map_or_else(dash, |seconds| format!("{:.3}", of(seconds)))
    };
    let uses =
        |uses: Option<f64>| uses.map_or_else(|| "never".to_owned(), |uses| format!("{:.0}", uses.ceil()));
    vec![
        arm.arm.clone(),
        format!("{:.0}", cost.positions),
        format!("{:.1}", cost.new_tokens),
        seconds(|seconds| seconds.prepare),
        seconds(|seconds| seconds.prefill),
        seconds(|seconds| seconds.first_token),
        seconds(|seconds| seconds.decode),
        format!("{:.1}", cost.prepare_flops / 1e9),
        format!("{:.1}", cost.use_flops / 1e9),
        format!("{:.1}", cost.marginal_flops / 1e9),
        format!("{:.1}", cost.kv_cache_bytes / f64::from(1 << 20)),
        cost.break_even.map_or_else(dash, |even| uses(even.by_flops)),
        cost.break_even.map_or_else(dash, |even| uses(even.by_time)),
    ]
}

fn interval(interval: &Interval) -> String {
    // Losses are small numbers, per cents are not.
    let digits = if interval.value.abs() < 10.0 && interval.high.abs() < 10.0 { 2 } else { 1 };
    format!("{:.digits$} [{:.digits$}, {:.digits$}]", interval.value, interval.low, interval.high)
}

fn dash() -> String {
    "–".into()
}

/// Enough of a hash to tell files apart.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}
