//! `arc train`: a run as its TOML file says.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_core::train::{
    Ending, Evaluation, Observer, RunConfig, StartFrom, StepMetrics, TrainOptions, peak_memory, train,
};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use serde_json::json;

use super::destination::check_folder;
use super::session::session;
use super::shared_run;
use crate::args;
use crate::args::Global;
use crate::interrupt::stop_on_interrupt;
use crate::memory::keep_what_is_freed;
use crate::output::{Output, is_quiet, note};
use crate::{Failure, terminal};

/// Where there is no terminal, a line is printed this often.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The configuration in the folder of a run, and the folder of its checkpoints.
const RUN_CONFIG: &str = "config.json";
const CHECKPOINTS: &str = "checkpoints";
/// The weight of the newest value in the loss and the speed that are shown.
const SMOOTHING: f64 = 0.1;

pub(crate) fn run(global: &Global, args: &args::Train, output: &Output) -> Result<(), Failure> {
    let mut config = RunConfig::open(&args.config)?;
    if let Some(start) = &args.start_from {
        config.start_from = Some(start_from(start));
    }
    config.precision = args.train_precision.unwrap_or(config.precision);
    if let Some(steps) = args.steps {
        if steps < config.schedule.warmup {
            return Err(Failure::usage(
                format!("{steps} steps are asked for, and the rate rises for {}", config.schedule.warmup),
                "ask for more with `--steps`, or lower `schedule.warmup`",
            ));
        }
        config.schedule.steps = steps;
    }
    let out = &out_folder(args)?;
    check_folder(out)?;
    keep_what_is_freed();
    let session = session(global)?;
    // Ctrl-C at a terminal reaches all processes of a shared run, and each tells the others.
    let mut progress = Progress::new(stop_on_interrupt());
    let role = shared_run::begin(global, args, &config, out)?;
    let decay_after = args.decay_after.map(|hours| hours * 3600.0);
    let options = TrainOptions::default().resume(args.resume).decay_after(decay_after).role(role);
    let report = train(&config, &session, out, options, &mut progress)?;
    progress.finish();

    let finished = report.ending == Ending::Finished;
    let tokens_per_second = report.tokens as f64 / report.seconds.max(f64::MIN_POSITIVE);
    let memory = peak_memory();
    let most = memory.map_or_else(String::new, |bytes| format!(", at most {} of memory", HumanBytes(bytes)));
    output.line(format!(
        "{} of {} steps, {} tokens, {tokens_per_second:.0} tokens/s{most}",
        report.steps, report.planned_steps, report.tokens
    ))?;
    let tokens_in_all: u64 = report.parts.iter().map(|part| part.tokens).sum();
    if tokens_in_all > report.tokens {
        output.line(format!("{tokens_in_all} tokens with the runs before it"))?;
    }
    for evaluation in &report.evaluations {
        output.line(describe(evaluation))?;
    }
    let folder = out.join("final");
    output.line(if finished {
        format!("written to {}", folder.display())
    } else {
        format!("interrupted: go on with `{}`", command_to_go_on(out))
    })?;
    output.json(&json!({
        "finished": finished,
        "steps": report.steps,
        "tokens": report.tokens,
        "tokens_in_all": tokens_in_all,
        "parts": report.parts,
        "seconds": report.seconds,
        "peak_memory": memory,
        "final": finished.then(|| folder.to_string_lossy()),
        "checkpoint_sha256": report.checkpoint_sha256,
        "decoder_sha256": report.decoder_sha256,
        "evaluations": report.evaluations.iter().map(Evaluation::to_json).collect::<Vec<_>>(),
    }))?;
    if finished { Ok(()) } else { Err(Failure::interrupted()) }
}

/// Where a run is: where it was said, else where the configuration of a run that goes on lies.
fn out_folder(args: &args::Train) -> Result<PathBuf, Failure> {
    if let Some(out) = &args.out {
        return Ok(out.clone());
    }
    let folder = match args.config.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if args.config.file_name().is_some_and(|name| name == RUN_CONFIG) && folder.join(CHECKPOINTS).is_dir() {
        return Ok(folder.to_owned());
    }
    Err(Failure::usage(
        format!("`{}` does not lie in the folder of a run, which is to go on", args.config.display()),
        format!("name the folder with `--out DIR`, or its `{RUN_CONFIG}` in place of this configuration"),
    ))
}

/// What has a run go on, as it can be typed.
fn command_to_go_on(out: &Path) -> String {
    let path = out.join(RUN_CONFIG).display().to_string();
    // In the way of every POSIX shell, where the path has anything that one would take for itself.
    let is_plain =
        |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | ':' | '@');
    let path = match path.chars().all(is_plain) {
        true => path,
        false => format!("'{}'", path.replace('\'', r"'\''")),
    };
    format!("arc train {path} --resume")
}

/// A folder where there is one, else an encoder of the registry.
fn start_from(text: &Path) -> StartFrom {
    let is_name = text.components().count() == 1 && !text.is_dir();
    match text.to_str().filter(|_| is_name) {
        Some(name) => StartFrom::Encoder(name.to_owned()),
        None => StartFrom::Folder(text.to_owned()),
    }
}

fn describe(evaluation: &Evaluation) -> String {
    let mut text = format!("{} at {}", evaluation.decoder, evaluation.factor);
    if let Some(arms) = &evaluation.continuation {
        text += &format!(": continuation {arms}");
    }
    if let Some(repeated) = &evaluation.reconstruction {
        text +=
            &format!("; repeating {:.3}, {:.1} % of tokens right", repeated.loss, 100.0 * repeated.accuracy);
    }
    if let Some(answer) = &evaluation.answer {
        text += &format!(
            "; answers without document {:.3}, full {:.3}, latents {:.3}, {:.1} % of tokens right",
            answer.loss_no_context,
            answer.loss_full_context,
            answer.loss_latents,
            100.0 * answer.accuracy,
        );
        if let Some(loss) = answer.loss_another {
            text += &format!(", another document's latents {loss:.3}");
        }
    }
    text
}

/// A bar on a terminal, lines elsewhere.
pub(super) struct Progress {
    stop: Arc<AtomicBool>,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
    loss: Option<f64>,
    tokens_per_second: Option<f64>,
}

impl Progress {
    pub(super) fn new(stop: Arc<AtomicBool>) -> Self {
        let is_shown = std::io::stderr().is_terminal() && !is_quiet();
        let bar = is_shown.then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{pos}/{len} [{bar:24}] {msg} ETA {eta}") {
                bar.set_style(style);
            }
            bar
        });
        Self { stop, bar, last_line: None, loss: None, tokens_per_second: None }
    }

    fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(terminal::in_line(text)),
            None => note(text),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn smoothed(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + SMOOTHING * (new - old))
}

impl Observer for Progress {
    fn step(&mut self, metrics: &StepMetrics, steps: u64) {
        let loss = smoothed(self.loss, metrics.loss);
        let speed = smoothed(self.tokens_per_second, metrics.tokens as f64 / metrics.seconds.max(1e-9));
        (self.loss, self.tokens_per_second) = (Some(loss), Some(speed));
        let seen = match metrics.tokens_seen {
            0 => String::new(),
            tokens => format!("{:.2} million tokens seen, ", tokens as f64 / 1e6),
        };
        let message = format!("loss {loss:.3}, {seen}{speed:.0} tokens/s, {}", HumanBytes(metrics.memory));
        if let Some(bar) = &self.bar {
            bar.set_length(steps);
            bar.set_position(metrics.step + 1);
            bar.set_message(message);
        } else if !is_quiet() && self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            let left = (steps - metrics.step - 1) as f64 * metrics.seconds;
            let left = HumanDuration(Duration::try_from_secs_f64(left).unwrap_or_default());
            note(format!("step {}/{steps}: {message}, {left} left", metrics.step + 1));
        }
    }

    fn evaluation(&mut self, step: u64, evaluation: &Evaluation) {
        if is_quiet() {
            return;
        }
        self.print(&format!("after {step}: {}", describe(evaluation)));
    }

    fn message(&mut self, text: &str) {
        self.print(text);
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
