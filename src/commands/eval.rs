//! `arc eval`: what compression costs and keeps, on a decoder and data of one's own.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use arc_core::Session;
use arc_core::eval::{
    Answers, Arm, ArmFamily, Contestant, EvalOptions, LoadedTask, Provenance, Report, Task, TaskResult,
};
use arc_core::hub::Cache;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::setup::session;
use crate::Failure;
use crate::args::{Eval, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, eval: &Eval, output: &Output) -> Result<(), Failure> {
    let families = if eval.arm.is_empty() { ArmFamily::ALL.to_vec() } else { eval.arm.clone() };
    let options = EvalOptions {
        families,
        shots: eval.shots,
        limit: eval.limit,
        seed: eval.seed,
        truncate: eval.truncate,
        batch: eval.batch,
        timed: eval.timed,
        skip_bad: eval.skip_bad,
    };
    let session = session(global)?;
    for name in &eval.decoder {
        session.registry().decoder(name)?;
    }
    let cache = Cache::from_env()?;
    let data_folders =
        eval.data.iter().cloned().chain([cache.folder().join("data/eval")]).collect::<Vec<_>>();
    // Every task is read before anything is pulled or run.
    let tasks = eval
        .task
        .iter()
        .map(|name| Ok(LoadedTask::load(Task::open(name, &data_folders)?, &options)?))
        .collect::<Result<Vec<_>, Failure>>()?;
    for skipped in tasks.iter().flat_map(|task| &task.skipped) {
        output.remark(format!("left out: {skipped}"));
    }
    let kept = eval.out.clone().unwrap_or_else(|| cache.folder().join("eval"));
    let mut answers = Answers::open(&kept.join("answers.jsonl"))?;

    let start = Instant::now();
    let mut results = Vec::new();
    for name in &eval.decoder {
        let (mut contestant, arms) = contestant(&session, name, eval, &options, output)?;
        for task in &tasks {
            let result = evaluate(task, &mut contestant, &arms, &options, &mut answers)?;
            output.line(result.to_markdown())?;
            results.push(result);
        }
    }
    let report = Report {
        provenance: Provenance {
            version: env!("CARGO_PKG_VERSION").into(),
            command: std::env::args().collect(),
            device: global.device.to_string(),
            seed: eval.seed,
            unix_time: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_secs()),
            seconds: start.elapsed().as_secs_f64(),
        },
        results,
    };
    if let Some(folder) = &eval.out {
        write(folder, "report.md", &report.to_markdown())?;
        write(folder, "report.html", &report.to_html())?;
        write(folder, "results.json", &json!(report).to_string())?;
        output.remark(format!("written to {}", folder.display()));
    }
    output.json(&json!(report))
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
    let entry = registry.decoder(name)?;
    let encoder = match &eval.encoder {
        Some(name) => session.encoder_named(name)?,
        None => session.encoder()?,
    };
    let mut families = options.families.clone();
    let adapted = match &entry.adapter {
        Some(_) => Some(session.decoder(name)?),
        // Without an adapter the arm has nothing to read. Where it was asked for by name, that is
        // an error.
        None if eval.arm.is_empty() => {
            output.remark(format!("`{}` has no adapter: its arm `arc` is left out", entry.name));
            families.retain(|&family| family != ArmFamily::Arc);
            None
        }
        None => None,
    };
    let decoder = session.language_model(name)?;
    let trained: Vec<usize> = adapted.as_ref().map_or_else(Vec::new, |adapted| {
        adapted.adapter.manifest.pooling_factors.iter().map(|&factor| factor as usize).collect()
    });
    let factors = match (eval.factor.is_empty(), trained.is_empty()) {
        (false, _) => eval.factor.iter().map(|&factor| usize::from(factor)).collect(),
        (true, false) => trained,
        (true, true) => vec![encoder.default_factor()],
    };
    let sha256 = match &entry.model.sha256 {
        Some(sha256) => sha256.clone(),
        None if decoder.path().is_file() => arc_adapters::sha256_file(decoder.path())?,
        None => decoder.embedding_sha256().to_owned(),
    };
    Ok((Contestant::new(decoder, adapted, encoder, sha256), Arm::of(&families, &factors)))
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
    let (latents, others): (Vec<Arm>, Vec<Arm>) = arms.iter().partition(|arm| matches!(arm, Arm::Arc(_)));
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
    let path: PathBuf = folder.join(name);
    let failed = |error: std::io::Error| Failure::from(arc_core::Error::io("write", &path)(error));
    let partial = folder.join(format!("{name}.partial"));
    let mut file = std::fs::File::create(&partial).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)?;
    std::fs::rename(&partial, &path).map_err(failed)
}

/// How far a task is: a bar on a terminal, a line for each arm elsewhere.
struct Progress {
    what: String,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            if let Ok(style) = ProgressStyle::with_template("{prefix} {msg} [{bar:32}] {pos}/{len} {eta}") {
                bar.set_style(style);
            }
            bar.set_prefix(what.to_owned());
            bar
        });
        Self { what: what.to_owned(), bar }
    }

    fn show(&self, arm: Arm, done: usize, of: usize) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(of as u64);
                bar.set_message(arm.to_string());
                bar.set_position(done as u64);
            }
            None if done == of => eprintln!("{}: {arm}, {of} questions", self.what),
            None => {}
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
