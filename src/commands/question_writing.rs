//! `arc data prepare questions --by` and `--answered-by`: what decoders ask and answer about text.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arc_core::train::{QuestionOptions, QuestionProgress, answer_questions, write_questions};
use serde_json::json;

use super::session::session;
use crate::Failure;
use crate::args::{Global, PrepareQuestions};
use crate::interrupt::stop_on_interrupt;
use crate::output::Output;

/// A line says how far it is this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

pub(super) fn write(
    global: &Global,
    args: &PrepareQuestions,
    decoder: &str,
    output: &Output,
) -> Result<(), Failure> {
    let session = session(global)?;
    let stop = stop_on_interrupt();
    let options = QuestionOptions::new(decoder, args.files.clone(), &args.out)
        .unseen(args.unseen.clone())
        .count(args.count)
        .seed(args.seed);
    let mut last = Instant::now();
    let mut say = |progress: &QuestionProgress| {
        if last.elapsed() >= LINE_EVERY {
            last = Instant::now();
            eprintln!("{}", describe(progress, args.count));
        }
        !stop.load(Ordering::SeqCst)
    };
    let progress = write_questions(&options, &session, &mut say)?;
    output.line(describe(&progress, args.count))?;
    for (reason, count) in &progress.rejected {
        output.line(format!("left out {count}: {}", reason.describe()))?;
    }
    if progress.questions < args.count {
        output.line("there are fewer than asked for: the same command goes on, if text is left")?;
    }
    output.json(&json!({ "out": args.out, "progress": progress }))
}

fn describe(progress: &QuestionProgress, count: u64) -> String {
    let asked = progress.questions + progress.rejected.values().sum::<u64>();
    let share = 100.0 * progress.questions as f64 / asked.max(1) as f64;
    let hourly = progress.questions as f64 * 3600.0 / progress.seconds.max(1e-9);
    format!(
        "{} of {count} questions about {} passages, {share:.0} % of those asked, {hourly:.0} an hour",
        progress.questions, progress.passages
    )
}

pub(super) fn answer(global: &Global, args: &PrepareQuestions, output: &Output) -> Result<(), Failure> {
    let session = session(global)?;
    let stop = stop_on_interrupt();
    std::fs::create_dir_all(&args.out).map_err(arc_core::Error::io("create", &args.out))?;
    let mut finished = true;
    for path in &args.files {
        let out = args.out.join(path.file_name().unwrap_or_default());
        let begun = Instant::now();
        let mut last = begun;
        let mut say = |rows: u64| {
            if last.elapsed() >= LINE_EVERY {
                last = Instant::now();
                output.remark(format!("{}: {rows} questions answered", path.display()));
            }
            !stop.load(Ordering::SeqCst)
        };
        if answer_questions(&session, &args.answered_by, path, &out, &mut say)? {
            output.line(format!("{}: answered by {}", out.display(), args.answered_by.join(" and ")))?;
        } else {
            finished = false;
            output.line("interrupted: the same command goes on")?;
            break;
        }
    }
    output.json(&json!({ "out": args.out, "finished": finished }))
}
