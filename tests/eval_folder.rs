//! Runs of `arc eval` into one folder are one at a time, and none writes an answer twice.

#[path = "harness/tiny.rs"]
mod tiny;

use std::process::Stdio;

use serde_json::json;
use tiny::Place;

const TASK: &str = "schema = 1\nname = \"t\"\ndescription = \"d\"\ndata = \"rows.jsonl\"\n[generate]\n\
                    prompt = \"{{ document }} {{ question }}:\"\nclosed_book = \"{{ question }}:\"\nmax_tokens = 4\n\
                    metrics = [\"f1\"]\n";

fn place() -> Place {
    let place = Place::with_adapter();
    let rows: String = (0..6)
        .map(|row| {
            format!("{}\n", json!({ "document": format!("text {row}"), "question": "why", "answers": ["a"] }))
        })
        .collect();
    place.file("rows.jsonl", rows);
    place.file("t.toml", TASK);
    place
}

#[test]
fn three_runs_at_once_write_each_answer_once() {
    let place = place();
    let eval = ["eval", "--decoder", "tiny", "--task", "t.toml", "--timed", "0", "--batch", "1", "--json"];
    let lines = |name: &str| {
        let text = std::fs::read_to_string(place.path(name)).expect("answers");
        let keys: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["key"].to_string())
            .collect();
        let distinct: std::collections::BTreeSet<_> = keys.iter().cloned().collect();
        assert_eq!(keys.len(), distinct.len(), "an answer was written twice");
        keys.len()
    };
    let at_once = |more: &[&str]| -> Vec<bool> {
        let runs: Vec<_> = (0..3)
            .map(|_| {
                let mut command = place.arc(&[&eval as &[&str], more].concat());
                command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
            })
            .collect();
        runs.into_iter()
            .map(|run| {
                let output = run.wait_with_output().expect("it ends");
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                // Who is refused is told why.
                assert!(
                    output.status.success() || stderr.contains("is locked by another process"),
                    "{stderr}"
                );
                output.status.success()
            })
            .collect()
    };
    // Into a folder of their own only one at a time; who comes when it is done finds all answers.
    assert!(at_once(&["--out", "out"]).contains(&true));
    let first = lines("out/answers.jsonl");
    assert!(first >= 6, "{first}");
    place.succeeds(&[&eval[..eval.len() - 1], &["--out", "out"]].concat());
    assert_eq!(lines("out/answers.jsonl"), first);
    // Those that share the cache take turns.
    assert_eq!(at_once(&[]), [true, true, true]);
    assert_eq!(lines("cache/eval/answers.jsonl"), first);
}
