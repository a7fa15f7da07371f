//! `arc eval`: what compression costs and keeps, on a decoder and data of one's own.

mod one_screen;

use std::cell::Cell;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::time::{Instant, SystemTime};

use arc_adapters::AdapterPlace;
use arc_adapters::write_atomically;
use arc_core::Session;
use arc_core::eval::{
    Answers, Arm, ArmFamily, Contestant, EvalOptions, LoadedTask, Provenance, Report, Task, TaskResult,
};
use arc_core::hub::Cache;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::destination::check_folder;
use super::distinct::distinct;
use super::remarks::{warn_of_overridden_pins, warnings_of_factors};
use super::session::session;
use crate::args::{Eval, Global};
use crate::output::{Output, is_quiet, note};
use crate::progress::LINE_EVERY;
use crate::{Failure, terminal};

/// The tasks of this repository, for use outside of it.
const SHIPPED_TASKS: [(&str, &str); 9] = [
    ("boolq", include_str!("../../tasks/boolq.toml")),
    ("continuation", include_str!("../../tasks/continuation.toml")),
    ("needle", include_str!("../../tasks/needle.toml")),
    ("reconstruction", include_str!("../../tasks/reconstruction.toml")),
    ("squad-dev", include_str!("../../tasks/squad-dev.toml")),
    ("squad-long", include_str!("../../tasks/squad-long.toml")),
    ("squad-test", include_str!("../../tasks/squad-test.toml")),
    ("summarisation", include_str!("../../tasks/summarisation.toml")),
    ("translation", include_str!("../../tasks/translation.toml")),
];

pub(crate) fn run(global: &Global, eval: &Eval, output: &Output) -> Result<(), Failure> {
    let families = if eval.arm.is_empty() { ArmFamily::USUAL.to_vec() } else { eval.arm.clone() };
    let options = EvalOptions::default()
        .families(families)
        .shots(eval.shots)
        .limit(eval.limit.map(|limit| limit as usize))
        .seed(eval.seed)
        .truncate(eval.truncate)
        .batch(eval.batch)
        .timed(eval.timed)
        .skip_bad(eval.skip_bad);
    let session = session(global)?;
    let decoders = eval
        .decoder
        .iter()
        .map(|name| Ok(session.registry().decoder(name)?.name.clone()))
        .collect::<Result<Vec<_>, Failure>>()?;
    let decoders = distinct(&decoders);
    if let Some(folder) = eval.data.iter().find(|folder| !folder.is_dir()) {
        return Err(Failure::usage(
            format!("`{}` is no folder of data", folder.display()),
            "name one with `--data DIR`, or leave it out for the data of `arc data prepare eval`",
        ));
    }
    let cache = Cache::from_env()?;
    let data_folders =
        eval.data.iter().cloned().chain([cache.folder().join("data/eval")]).collect::<Vec<_>>();
    // Every task is read before anything is pulled or run.
    let tasks = distinct(&eval.task)
        .iter()
        .map(|name| Ok(LoadedTask::load(Task::open(name, &data_folders, &SHIPPED_TASKS)?, &options)?))
        .collect::<Result<Vec<_>, Failure>>()?;
    for skipped in tasks.iter().flat_map(|task| &task.skipped) {
        output.remark(format!("left out: {skipped}"));
    }
    if let Some(folder) = &eval.out {
        check_folder(folder)?;
    }
    // The last decoder's adapter is looked at before the first one is asked anything.
    for name in &decoders {
        check_contestant(&session, name, eval)?;
    }
    const ANSWERS: &str = "answers.jsonl";
    let mut answers = match &eval.out {
        // Two runs that write into one folder would each write over the other's report.
        Some(folder) => Answers::own(&folder.join(ANSWERS))?,
        None => Answers::open(&cache.folder().join("eval").join(ANSWERS))?,
    };

    let mut results = Vec::new();
    for name in &decoders {
        let (mut contestant, arms) = contestant(&session, name, eval, &options, output)?;
        for task in &tasks {
            results.push(evaluate(task, &mut contestant, &arms, &options, &mut answers)?);
        }
    }
    let command = std::env::args_os().map(|text| text.to_string_lossy().into_owned()).collect();
    let provenance = Provenance::new(env!("CARGO_PKG_VERSION"))
        .command(command)
        .device(global.device.to_string())
        .seed(eval.seed)
        .unix_time(SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()))
        .batch(eval.batch)
        .timed(eval.timed)
        .seconds(results.iter().map(|result| result.seconds).sum());
    let report = Report::new(provenance, results);
    output.block(one_screen::table(&report))?;
    if let Some(folder) = &eval.out {
        write(folder, "report.md", &report.to_markdown())?;
        write(folder, "report.html", &report.to_html())?;
        write(folder, "results.json", &json!(report).to_string())?;
        output.remark(format!("written to {}", folder.display()));
    } else {
        output.remark("`--out DIR` writes intervals, differences, costs and examples too: the report");
    }
    output.json(&json!(report))
}

/// Refuses a decoder whose encoder or adapter is not there or not sound, before anything is pulled.
fn check_contestant(session: &Session, name: &str, eval: &Eval) -> Result<(), Failure> {
    let registry = session.registry();
    let pair = registry.resolve(name, eval.encoder.as_deref())?;
    pair.encoder()?;
    // Without a budget to keep nothing is asked of the adapter; without an adapter the usual arms do.
    let is_used = pair.adapter.is_some() && (eval.arm.is_empty() || eval.arm.iter().any(has_budget));
    if is_used || eval.arm.iter().copied().any(reads_latents) {
        session.check_adapter(name, eval.encoder.as_deref())?;
    }
    Ok(())
}

/// Whether an arm shows as much as latents take.
fn has_budget(family: &ArmFamily) -> bool {
    !matches!(family, ArmFamily::ClosedBook | ArmFamily::OpenBook)
}

/// Whether an arm needs an adapter.
fn reads_latents(family: ArmFamily) -> bool {
    matches!(family, ArmFamily::Arc | ArmFamily::Control)
}

/// A decoder with what its arms need, and its arms.
fn contestant(
    session: &Session,
    name: &str,
    eval: &Eval,
    options: &EvalOptions,
    output: &Output,
) -> Result<(Contestant, Vec<Arm>), Failure> {
    let registry = session.registry();
    let pair = registry.resolve(name, eval.encoder.as_deref())?;
    let (entry, encoder_name) = (pair.decoder, &pair.encoder()?.name);
    let encoder = session.encoder_named(encoder_name)?;
    if !eval.factor.is_empty() && !encoder.pools_by_factor() {
        return Err(Failure::usage(
            format!("encoder `{encoder_name}` makes a number of latents of its own, whatever the factor"),
            "leave out `--factor`",
        ));
    }
    let mut families = options.families.clone();
    let has_adapter = pair.adapter.is_some();
    // Without an adapter the arm has nothing to read. Where it was asked for by name, that is an
    // error.
    if !has_adapter && eval.arm.is_empty() {
        output.remark(format!("`{}` has no adapter: its arm `arc` is left out", entry.name));
        families.retain(|&family| family != ArmFamily::Arc);
    }
    let adapted = (has_adapter && families.iter().any(has_budget))
        .then(|| session.adapted_decoder_for(&entry.name, encoder_name))
        .transpose()?;
    if let Some(adapted) = &adapted {
        if families.iter().copied().any(reads_latents) {
            adapted.check_encoder(&encoder.id)?;
        }
        warn_of_overridden_pins(&adapted.overridden_pins(), output);
    }
    let decoder = session.decoder(&entry.name)?;
    let factors = if !encoder.pools_by_factor() {
        vec![Arm::OWN_COUNT]
    } else if !eval.factor.is_empty() {
        distinct(&eval.factor).into_iter().map(usize::from).collect()
    } else if let Some(adapted) = &adapted {
        adapted.adapter.manifest.pooling_factors.iter().map(|&factor| factor as usize).collect()
    } else {
        vec![encoder.default_factor()]
    };
    let reads = encoder.pools_by_factor() && families.iter().copied().any(reads_latents);
    if let Some(adapted) = adapted.as_ref().filter(|_| reads) {
        for warning in warnings_of_factors(adapted, factors.iter().copied()) {
            output.warning(&warning);
        }
    }
    let sha256 = match &entry.model.sha256 {
        Some(pinned) if decoder.is_one_file() => pinned.clone(),
        _ => decoder.files_sha256()?,
    };
    let mut contestant = Contestant::new(decoder, adapted, encoder, sha256);
    if let Some(AdapterPlace::Plugin(plugin)) = pair.adapter {
        contestant.plugin_sha256 = Some(plugin.sha256.clone());
    }
    Ok((contestant, Arm::of(&families, &factors)))
}

fn evaluate(
    task: &LoadedTask,
    contestant: &mut Contestant,
    arms: &[Arm],
    options: &EvalOptions,
    answers: &mut Answers,
) -> Result<TaskResult, Failure> {
    let bar = Progress::new(&format!("{} on {}", contestant.decoder.name, task.task.name));
    let mut all = Vec::new();
    // Latents first: their number is the budget of truncation and pruning.
    let (latents, others): (Vec<Arm>, Vec<Arm>) = arms.iter().partition(|arm| arm.reads_latents());
    for arm in latents.into_iter().chain(others) {
        let mut on_progress = |arm: Arm, done: usize, of: usize| bar.show(arm, done, of);
        all.push(task.run(contestant, arm, options, answers, &mut on_progress)?);
    }
    bar.finish();
    all.sort_by_key(|answers| arms.iter().position(|&arm| arm == answers.arm));
    Ok(TaskResult::new(task, contestant, &all, options))
}

/// Writes a file of the report, complete or not at all.
fn write(folder: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = folder.join(name);
    let write = |file: &mut std::io::BufWriter<std::fs::File>| {
        file.write_all(text.as_bytes()).map_err(arc_core::Error::io("write", &path))
    };
    Ok(write_atomically(&path, write)?)
}

/// How far a task is: a bar on a terminal; elsewhere a line for each arm, and every few seconds.
struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    last_line: Cell<Instant>,
}

impl Progress {
    fn new(what: &str) -> Self {
        let is_shown = std::io::stderr().is_terminal() && !is_quiet();
        let bar = is_shown.then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{prefix} {msg} [{bar:32}] {pos}/{len} {eta}") {
                bar.set_style(style);
            }
            bar.set_prefix(terminal::in_line(what).into_owned());
            bar
        });
        Self { what: what.to_owned(), bar, last_line: Cell::new(Instant::now()) }
    }

    fn show(&self, arm: Arm, done: usize, of: usize) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(of as u64);
                bar.set_message(arm.to_string());
                bar.set_position(done as u64);
            }
            None if is_quiet() => {}
            None if done == of => note(format!("{}: {arm}, {of} questions", self.what)),
            None if self.last_line.get().elapsed() >= LINE_EVERY => {
                self.last_line.set(Instant::now());
                note(format!("{}: {arm}, {done} of {of} questions", self.what));
            }
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
