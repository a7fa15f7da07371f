//! Evaluation with a real decoder on a handful of questions.

mod harness;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use arc_core::eval::{
    Answers, Arm, ArmFamily, Contestant, EvalOptions, LoadedTask, Outcome, Task, TaskResult,
};
use arc_core::prompt::Prompt;
use harness::{decoder, repository, session};

const TASK: &str = r#"
    schema = 1
    name = "animals"
    description = "questions on made-up animals"
    data = "animals.jsonl"
    [generate]
    instruction = "Answer with a word of the document.\n\n"
    prompt = "Document:\n{{ document }}\nQuestion: {{ question }}\nAnswer:"
    closed_book = "Question: {{ question }}\nAnswer:"
    stop = ["\n"]
    max_tokens = 8
    metrics = ["f1", "exact-match"]
    examples = "shots.jsonl"
    shots = 1
"#;

/// Documents of very different lengths, so that batches are padded.
const ROWS: [(&str, &str, &str); 5] = [
    ("The snark lives in Bologna and eats ink.", "Where does the snark live?", "Bologna"),
    (
        "Of the four jubjubs that were ever weighed, the heaviest was found near Tromsø in the winter of 1911. \
         It weighed ninety grams, and its feathers were green. The finder, a postman, kept it in his hat, where \
         it sang at noon. It is said that the postman never missed a delivery again.",
        "What colour were its feathers?",
        "green",
    ),
    ("A boojum has six legs.", "How many legs does a boojum have?", "six"),
    (
        "The bandersnatch is a mammal of the high plateau. Its call, three short notes and a long one, is heard \
         in April.",
        "When is its call heard?",
        "April",
    ),
    (
        "Toves are something like badgers. They make their nests under sundials.",
        "Where do toves nest?",
        "under sundials",
    ),
];

/// A folder with the task, its data and its one example.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let row = |(document, question, answer): &(&str, &str, &str)| {
        serde_json::json!({ "document": document, "question": question, "answers": [answer] }).to_string()
            + "\n"
    };
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write("animals.toml", TASK);
    write("animals.jsonl", &ROWS.iter().map(row).collect::<String>());
    write(
        "shots.jsonl",
        &row(&("The dodo is a bird of Mauritius.", "Of what island is the dodo?", "Mauritius")),
    );
    folder
}

fn contestant() -> Option<Contestant> {
    let session = session()?;
    let adapted = session.decoder("smollm2-135m").expect("the decoder with its adapter");
    let encoder = session.encoder().expect("the default encoder");
    Some(Contestant::new(adapted.decoder.clone(), Some(adapted), encoder, "test".into()))
}

/// Positions and answers of every arm.
fn run(
    folder: &Path,
    contestant: &mut Contestant,
    options: &EvalOptions,
) -> Vec<(Arm, Vec<(usize, Outcome)>)> {
    let path = folder.join("animals.toml");
    let task = Task::open(path.to_str().expect("a path in UTF-8"), &[]).expect("the task");
    let task = LoadedTask::load(task, options).expect("the data");
    let kept = tempfile::tempdir().expect("a folder");
    let mut answers = Answers::open(&kept.path().join("answers.jsonl")).expect("a file");
    Arm::of(&ArmFamily::ALL, &[4])
        .into_iter()
        .map(|arm| {
            let run = task.run(contestant, arm, options, &mut answers, &mut |_, _, _| {}).expect("answers");
            (arm, run.answers.into_iter().map(|answer| (answer.positions, answer.outcome)).collect())
        })
        .collect()
}

#[test]
fn a_prefix_read_once_gives_what_whole_prompts_give() {
    // Gemma's local layers see 512 positions back: the prefix is longer, and the padding lies
    // between it and the rows.
    for name in ["smollm2-135m", "gemma3-270m"] {
        let Some(decoder) = decoder(name) else { return };
        let text = std::fs::read_to_string(repository("examples/washington-1790.txt")).expect("a text");
        let ids = decoder.tokenizer.encode_prompt(&text).expect("tokens");
        let prefix = decoder.read_prefix(&Prompt::from_tokens(ids[..600].to_vec())).expect("a prefix");
        let ends = [&ids[600..607], &ids[607..660], &ids[660..700]];
        let prompts: Vec<Prompt> = ends.iter().map(|end| Prompt::from_tokens(end.to_vec())).collect();
        let options = arc_core::decoder::GenerateOptions { max_tokens: 3, ..Default::default() };
        let found = decoder.generate_after(Some(&prefix), &prompts, &options, |_, _| {}).expect("answers");
        for (row, end) in found.rows.iter().zip(ends) {
            let whole = Prompt::from_tokens([&ids[..600], end].concat());
            let alone = decoder.generate(&[whole], &options, |_, _| {}).expect("an answer");
            let expected = &alone.rows[0];
            assert_eq!(row.token_ids, expected.token_ids, "{name}");
            let deviation = row
                .prompt_logits
                .iter()
                .zip(&expected.prompt_logits)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(deviation < 2e-3, "{name}: logits differ by {deviation}");
        }
    }
}

#[test]
fn scores_after_a_prefix_are_the_losses_of_the_whole() {
    let Some(decoder) = decoder("smollm2-135m") else { return };
    let text = std::fs::read_to_string(repository("examples/washington-1790.txt")).expect("a text");
    let ids = decoder.tokenizer.encode_prompt(&text).expect("tokens");
    let (context, target) = ids[..90].split_at(40);
    let prefix = decoder.read_prefix(&Prompt::from_tokens(context.to_vec())).expect("a prefix");
    let scores = decoder.score_after(Some(&prefix), target).expect("scores");
    let losses = decoder.token_losses(&Prompt::from_tokens(ids[..90].to_vec())).expect("losses");
    assert_eq!(scores.len(), target.len() - 1);
    for (score, loss) in scores.iter().zip(&losses[41..]) {
        let loss = loss.expect("a loss");
        assert!((score.loss - loss).abs() < 1e-3, "{} is not {loss}", score.loss);
        // A token that is less likely than not may be the best, one more likely than not must be.
        assert!(score.is_best || loss > std::f32::consts::LN_2);
    }
    assert!(scores.iter().any(|score| score.is_best) && scores.iter().any(|score| !score.is_best));
}

#[test]
fn batched_evaluation_equals_one_by_one() {
    let Some(mut contestant) = contestant() else { return };
    let folder = folder();
    let options = |batch| EvalOptions { batch, timed: 0, ..EvalOptions::default() };
    let together = run(folder.path(), &mut contestant, &options(5));
    let alone = run(folder.path(), &mut contestant, &options(1));
    assert_eq!(together, alone);
    // The arms differ in what they show: truncation and pruning take what latents take.
    let positions = |arm: Arm| -> usize {
        let (_, answers) = together.iter().find(|(other, _)| *other == arm).expect("the arm");
        answers.iter().map(|(positions, _)| positions).sum()
    };
    assert!(positions(Arm::ClosedBook) < positions(Arm::Arc(4)));
    assert!(positions(Arm::Arc(4)) < positions(Arm::OpenBook));
    assert_eq!(positions(Arm::Truncation(4)), positions(Arm::Arc(4)));
    assert_eq!(positions(Arm::Pruning(4)), positions(Arm::Arc(4)));
    // With the text before it, even a decoder of 135 million parameters finds some of these words.
    let right = |arm: Arm| {
        let (_, answers) = together.iter().find(|(other, _)| *other == arm).expect("the arm");
        let rows = answers.iter().zip(ROWS);
        rows.filter(|((_, outcome), (.., gold))| {
            matches!(outcome, Outcome::Text(text) if text.to_lowercase().contains(&gold.to_lowercase()))
        })
        .count()
    };
    assert!(right(Arm::OpenBook) >= 2 && right(Arm::OpenBook) > right(Arm::ClosedBook), "{together:?}");
}

#[test]
fn losses_of_a_continuation_fall_with_what_is_shown() {
    let Some(mut contestant) = contestant() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(repository("tests/golden/lincoln-1862.txt")).expect("a text");
    let characters: Vec<char> = text.chars().collect();
    let rows: String = characters
        .chunks(1200)
        .take(3)
        .map(|piece| serde_json::json!({ "document": piece.iter().collect::<String>() }).to_string() + "\n")
        .collect();
    std::fs::write(folder.path().join("texts.jsonl"), rows).expect("a file");
    for (kind, spec) in [
        ("continuation", "[continuation]\ncontext_tokens = 96\ncontinuation_tokens = 48"),
        ("reconstruction", "[reconstruction]\ncontext_tokens = 64"),
    ] {
        let path = folder.path().join(format!("{kind}.toml"));
        let file =
            format!("schema = 1\nname = \"{kind}\"\ndescription = \"d\"\ndata = \"texts.jsonl\"\n{spec}\n");
        std::fs::write(&path, file).expect("a file");
        let options = EvalOptions { timed: 1, ..EvalOptions::default() };
        let task = Task::open(path.to_str().expect("a path"), &[]).expect("the task");
        let task = LoadedTask::load(task, &options).expect("the data");
        let mut answers = Answers::open(&folder.path().join("answers.jsonl")).expect("a file");
        let arms: Vec<_> = Arm::of(&ArmFamily::ALL, &[4])
            .into_iter()
            .map(|arm| {
                task.run(&mut contestant, arm, &options, &mut answers, &mut |_, _, _| {}).expect("answers")
            })
            .collect();
        let result = TaskResult::new(&task, &contestant, &arms, &options);
        let score = |arm: &str, name: &str| {
            let arm = result.arms.iter().find(|found| found.arm == arm).expect("the arm");
            arm.scores[name].value
        };
        assert_eq!(result.questions, 3, "{kind}");
        assert!(score("open-book", "loss") < score("truncation", "loss"), "{kind}");
        assert!(score("truncation", "loss") < score("closed-book", "loss"), "{kind}");
        assert_eq!(score("closed-book", "recovered"), 0.0);
        assert!((score("open-book", "recovered") - 100.0).abs() < 1e-9);
        if kind == "reconstruction" {
            // What stands before it can be copied.
            assert!(score("open-book", "token accuracy") > 80.0);
        }
    }
}

fn arc(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arc"));
    command
        .args(["eval", "--decoder", "smollm2-135m", "--registry"])
        .arg(repository("registry.toml"))
        .arg("--task")
        .arg(folder.join("animals.toml"))
        .args(more)
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::File::open(path)
        .map_or_else(|_| Vec::new(), |file| BufReader::new(file).lines().map_while(Result::ok).collect())
}

#[test]
fn a_killed_run_resumes_and_every_arm_is_reported() {
    if session().is_none() {
        return;
    }
    let folder = folder();
    let out: PathBuf = folder.path().join("out");
    let answers = out.join("answers.jsonl");
    let arguments = ["--json", "--timed", "1", "--batch", "1", "--out", out.to_str().expect("a path")];
    let mut child =
        arc(folder.path(), &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("arc");
    while lines(&answers).len() < 4 {
        assert!(child.try_wait().expect("a status").is_none(), "the run ended before it was killed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().expect("a kill");
    child.wait().expect("an end");
    let before = lines(&answers);

    let output = arc(folder.path(), &arguments).output().expect("arc");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let after = lines(&answers);
    assert_eq!(after.len(), 5 * ROWS.len(), "each question in each arm once");
    let whole = before.len() - usize::from(!before.last().is_some_and(|line| line.ends_with('}')));
    assert_eq!(after[..whole], before[..whole], "what was known is not made again");

    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let arms: Vec<&str> = report["results"][0]["arms"]
        .as_array()
        .expect("arms")
        .iter()
        .filter_map(|arm| arm["arm"].as_str())
        .collect();
    assert_eq!(arms, ["closed-book", "open-book", "truncation", "pruning", "arc-4"]);
    let page = std::fs::read_to_string(out.join("report.html")).expect("a page");
    assert!(page.contains("<svg") && page.contains("sundials") && !page.contains("http-equiv"));
    let markdown = std::fs::read_to_string(out.join("report.md")).expect("a table");
    assert!(markdown.contains("| arc-4 |"), "{markdown}");

    // A third run answers nothing and says the same.
    let again = arc(folder.path(), &arguments).output().expect("arc");
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).expect("one JSON object");
    assert_eq!(again["results"], report["results"]);
    assert_eq!(lines(&answers), after);
}

#[test]
fn a_malformed_row_stops_the_run_with_its_line() {
    let folder = folder();
    let data = folder.path().join("animals.jsonl");
    let text = std::fs::read_to_string(&data).expect("the data");
    std::fs::write(&data, text.replacen("{\"document\"", "{\"dokument\"", 3)).expect("the data");
    let output = arc(folder.path(), &[]).output().expect("arc");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("line 1: field `document` is missing") && errors.contains("--skip-bad"),
        "{errors}"
    );
    if session().is_some() {
        let arguments = ["--skip-bad", "--json", "--arm", "closed-book", "--timed", "0", "--out", "out"];
        let output = arc(folder.path(), &arguments).output().expect("arc");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(report["results"][0]["questions"], 2);
        assert_eq!(report["results"][0]["skipped_rows"].as_array().map(Vec::len), Some(3));
    }
}

#[test]
fn an_unknown_task_is_a_usage_error_that_lists_the_known_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("tasks")).expect("a folder");
    std::fs::write(folder.path().join("tasks/birds.toml"), TASK).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_arc"))
        .args(["eval", "--decoder", "smollm2-135m", "--task", "bords", "--registry"])
        .arg(repository("registry.toml"))
        .current_dir(folder.path())
        .output()
        .expect("arc");
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("there is no task `bords`") && errors.contains("`birds`"), "{errors}");
}
