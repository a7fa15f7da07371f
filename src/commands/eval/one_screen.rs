//! What `arc eval` prints: one table of one screen. The rest is in the report.

use arc_core::eval::{ArmResult, Report, TaskResult};

use crate::commands::table::rows_under;

/// Of one decoder and task a line for each arm; of several a line for each, with the arms as columns.
pub(super) fn table(report: &Report) -> String {
    match report.results.as_slice() {
        [one] => by_arm(one),
        several => by_result(several),
    }
}

/// The main score of an arm.
fn score(arm: &ArmResult) -> String {
    arm.scores.get(&arm.main).map_or_else(|| "–".to_owned(), |score| in_digits(score.value))
}

/// Losses are small numbers, per cents are not.
fn in_digits(value: f64) -> String {
    if value.abs() < 10.0 { format!("{value:.2}") } else { format!("{value:.1}") }
}

fn metric(result: &TaskResult) -> &str {
    result.arms.first().map_or("", |arm| arm.main.as_str())
}

fn by_arm(result: &TaskResult) -> String {
    let metric = metric(result);
    let rows = result.arms.iter().map(|arm| {
        let interval = arm.scores.get(&arm.main);
        let first = arm.cost.seconds.as_ref().map(|seconds| format!("{:.2} s", seconds.first_token));
        vec![
            arm.arm.clone(),
            format!("{:.0}", arm.cost.document_positions),
            score(arm),
            interval.map_or_else(String::new, |score| {
                format!("{} to {}", in_digits(score.low), in_digits(score.high))
            }),
            first.unwrap_or_else(|| "–".to_owned()),
        ]
    });
    let head = ["ARM", "POSITIONS", metric, "95 %", "FIRST TOKEN"].map(str::to_owned).to_vec();
    let title = format!(
        "{} on {}: {}, {} questions",
        result.decoder, result.task, result.description, result.questions
    );
    format!("{title}\n\n{}", rows_under(head, rows))
}

fn by_result(results: &[TaskResult]) -> String {
    let mut arms: Vec<&str> = Vec::new();
    for arm in results.iter().flat_map(|result| &result.arms) {
        if !arms.contains(&arm.arm.as_str()) {
            arms.push(&arm.arm);
        }
    }
    let rows = results.iter().map(|result| {
        let of_arm = |name: &&str| {
            let arm = result.arms.iter().find(|arm| arm.arm == **name);
            arm.map_or_else(|| "–".to_owned(), score)
        };
        let about = [&result.decoder, &result.task, metric(result)].map(str::to_owned);
        about.into_iter().chain([result.questions.to_string()]).chain(arms.iter().map(of_arm)).collect()
    });
    let head = ["DECODER", "TASK", "METRIC", "QUESTIONS"].into_iter().chain(arms.iter().copied());
    rows_under(head.map(str::to_owned).collect(), rows)
}
