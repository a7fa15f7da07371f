//! Evaluation with a real decoder on a handful of questions.

mod harness;
#[path = "harness/tiny.rs"]
mod tiny;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use arc_adapters::EncoderManifest;
use arc_core::eval::{
    AnswerOutcome, Answers, Arm, ArmFamily, Contestant, EvalOptions, LoadedTask, Task, TaskResult,
};
use arc_core::prompt::Prompt;
use harness::{decoder, repository, session};
use serde_json::{Value, json};
use tiny::{FAILURE, Place, USAGE, tiny_llama};

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
    let adapted = session.adapted_decoder("smollm2-135m").expect("the decoder with its adapter");
    let encoder = session.encoder().expect("the default encoder");
    Some(Contestant::new(adapted.decoder.clone(), Some(adapted), encoder, "test".into()))
}

/// Every arm at one factor.
fn arms() -> impl Iterator<Item = Arm> {
    Arm::of(&ArmFamily::ALL, &[4]).into_iter()
}

/// Positions and answers of every arm.
fn run(
    folder: &Path,
    contestant: &mut Contestant,
    options: &EvalOptions,
) -> Vec<(Arm, Vec<(usize, AnswerOutcome)>)> {
    let path = folder.join("animals.toml");
    let task = Task::open(path.to_str().expect("a path in UTF-8"), &[], &[]).expect("the task");
    let task = LoadedTask::load(task, options).expect("the data");
    let kept = tempfile::tempdir().expect("a folder");
    let mut answers = Answers::open(&kept.path().join("answers.jsonl")).expect("a file");
    arms()
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
        let options = arc_core::decoder::GenerateOptions::default().max_tokens(3);
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
    let options = |batch| EvalOptions::default().batch(batch).timed(0);
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
    assert_eq!(positions(Arm::RareWords(4)), positions(Arm::Arc(4)));
    // With the text before it, even a decoder of 135 million parameters finds some of these words.
    let right = |arm: Arm| {
        let (_, answers) = together.iter().find(|(other, _)| *other == arm).expect("the arm");
        let rows = answers.iter().zip(ROWS);
        rows.filter(|((_, outcome), (.., gold))| {
            matches!(outcome, AnswerOutcome::Text(text) if text.to_lowercase().contains(&gold.to_lowercase()))
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
        let options = EvalOptions::default().timed(1);
        let task = Task::open(path.to_str().expect("a path"), &[], &[]).expect("the task");
        let task = LoadedTask::load(task, &options).expect("the data");
        let mut answers = Answers::open(&folder.path().join("answers.jsonl")).expect("a file");
        let arms: Vec<_> = arms()
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

#[test]
fn a_decoder_of_several_files_is_known_by_all_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["params.json", "consolidated.safetensors"] {
        let golden = repository("tests/golden/reference/arc2x2_last_layers/decoder0").join(file);
        std::fs::copy(golden, folder.path().join(file)).expect("a copy");
    }
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": { "a": 0 }, "merges": [],
        },
    })
    .to_string();
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer).expect("a tokenizer");
    let open = || {
        let device = arc_core::device::DeviceName::CPU.open().expect("the CPU");
        let decoder = arc_core::decoder::Decoder::open("d", folder.path(), &device).expect("a decoder");
        (decoder.embedding_sha256().to_owned(), decoder.files_sha256().expect("a hash"))
    };
    let (table, files) = open();
    std::fs::write(folder.path().join("d.pulled.json"), "notes of a pull").expect("a file");
    assert_eq!(open(), (table.clone(), files.clone()));
    let weights = folder.path().join("consolidated.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    // The table is the last tensor; the first begins after the header and its length.
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    bytes[8 + header as usize] ^= 1;
    std::fs::write(&weights, bytes).expect("weights");
    let (same_table, other_files) = open();
    assert_eq!(same_table, table);
    assert_ne!(other_files, files);
}

fn arc(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_arc"));
    command
        .args(["eval", "--precision", "exact", "--decoder", "smollm2-135m", "--registry"])
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
    let out_name = out.to_str().expect("a path");
    let arguments = ["--json", "--timed", "1", "--batch", "1", "--factor", "4", "--out", out_name];
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
fn a_folder_of_data_that_is_not_there_and_no_questions_are_usage_errors() {
    let folder = folder();
    for (arguments, says) in
        [(["--data", "nowhere"], "`nowhere` is no folder of data"), (["--limit", "0"], "0")]
    {
        let output = arc(folder.path(), &arguments).output().expect("arc");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{errors}");
        assert!(errors.contains(says), "{errors}");
    }
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

/// Claims about `arc eval` on a model that the test writes itself: its tokens are bytes, its window
/// is 256, its encoder reads chunks of 64 and takes each byte for a latent, unless asked for a factor.
mod tiny_model {
    use arc_core::decoder::{Decoder, GenerateOptions};
    use arc_core::nn::{Precision, Residence};

    use super::*;

    /// A place with an adapter and the task `t`, whose data are these documents.
    fn place(documents: &[&str]) -> Place {
        let place = Place::with_adapter();
        task(&place, documents, "");
        place
    }

    /// Writes the task `t`, with more lines at its top.
    fn task(place: &Place, documents: &[&str], lines: &str) {
        let rows = documents.iter().map(|document| {
            json!({ "document": document, "question": "q", "answers": ["a"] }).to_string() + "\n"
        });
        place.file("t.jsonl", rows.collect::<String>());
        place.file("shots.jsonl", json!({ "document": "seen", "question": "q", "answers": "b" }).to_string());
        place.file(
            "t.toml",
            format!(
                "schema = 1\nname = \"t\"\ndescription = \"d\"\ndata = \"t.jsonl\"\n{lines}[generate]\n\
                 prompt = \"{{{{ document }}}} {{{{ question }}}}:\"\nclosed_book = \"{{{{ question }}}}:\"\n\
                 max_tokens = 4\nmetrics = [\"f1\"]\nexamples = \"shots.jsonl\"\n"
            ),
        );
    }

    const EVAL: [&str; 5] = ["eval", "--decoder", "tiny", "--timed", "0"];

    fn eval(place: &Place, arguments: &[&str]) -> Value {
        let report = place.succeeds(&[&EVAL[..], &["--task", "t.toml"], arguments].concat());
        report["results"][0].clone()
    }

    fn arms(result: &Value) -> Vec<&str> {
        let arms = result["arms"].as_array().expect("arms");
        arms.iter().filter_map(|arm| arm["arm"].as_str()).collect()
    }

    fn arm<'a>(result: &'a Value, name: &str) -> &'a Value {
        let arms = result["arms"].as_array().expect("arms");
        arms.iter().find(|arm| arm["arm"] == name).unwrap_or_else(|| panic!("no arm `{name}`"))
    }

    /// Changes the package of the encoder `start` in what is no part of its identity.
    fn change_encoder(place: &Place, change: impl FnOnce(&mut EncoderManifest)) {
        let mut manifest = EncoderManifest::open(&place.path("encoder")).expect("the encoder");
        change(&mut manifest);
        manifest.write(&place.path("encoder")).expect("an encoder package");
    }

    #[test]
    fn rows_that_end_leave_the_others_as_they_were() {
        let place = Place::with_model(&tiny_llama());
        let device = arc_core::device::DeviceName::CPU.open().expect("the CPU");
        // Their keys and values lie in host memory, and in tensors.
        for residence in [Residence::Packed(Precision::Exact), Residence::Dense] {
            let path = place.path("tiny.gguf");
            let decoder = Decoder::open_as("tiny", &path, &device, residence).expect("a decoder");
            let prompts = ["a", "some longer prompt", "x y z", "of no great length"]
                .map(|text| Prompt::from_tokens(decoder.tokenizer.encode_prompt(text).expect("tokens")));
            let generate = |prompts: &[Prompt], stop: &[String]| -> Vec<Vec<u32>> {
                let stop = stop.to_vec();
                let options = GenerateOptions::default().max_tokens(12).stop(stop);
                let found = decoder.generate(prompts, &options, |_, _| {}).expect("texts");
                found.rows.into_iter().map(|row| row.token_ids).collect()
            };
            // What the first writes in one token, the second in three, the third in six.
            let stop: Vec<String> = prompts
                .iter()
                .zip([1, 3, 6])
                .map(|(prompt, n)| {
                    let written = &generate(std::slice::from_ref(prompt), &[])[0];
                    decoder.tokenizer.decode(&written[..n], true)
                })
                .collect();
            let together = generate(&prompts, &stop);
            let alone: Vec<Vec<u32>> =
                prompts.iter().flat_map(|prompt| generate(std::slice::from_ref(prompt), &stop)).collect();
            assert_eq!(together, alone);
            let mut lengths: Vec<usize> = together.iter().map(Vec::len).collect();
            lengths.dedup();
            assert!(lengths.len() > 1, "all end together: {lengths:?}");
        }
    }

    #[test]
    fn latents_come_from_the_entrys_encoder_and_its_adapter_reads_them() {
        let place = place(&["a first text", "another one"]);
        let other = place.encoder("other", 32);
        let fit = [
            "fit",
            "--decoder",
            "tiny",
            "--encoder",
            "other",
            "--text",
            "texts.jsonl",
            "-o",
            "adapter-other",
        ];
        place.succeeds(&fit);
        let usual = eval(&place, &[]);
        assert_eq!(usual["encoder_id"], place.encoder_id());
        assert_eq!(usual["overridden_pins"], json!([]));

        // The usual adapter was made for another encoder.
        let mismatched = ["--task", "t.toml", "--encoder", "other"];
        place.fails(FAILURE, &[&EVAL[..], &mismatched[..]].concat()).says(&["adapter", "encoder"]);
        let forced = [&EVAL[..], &mismatched[..], &["--force", "--json"]].concat();
        let output = place.arc(&forced).output().expect("arc");
        assert!(String::from_utf8_lossy(&output.stderr).contains("warning: adapter"), "{output:?}");
        let forced: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(forced["results"][0]["overridden_pins"][0]["found"], other.as_str());

        // An adapter for that encoder alone is an adapter, by flag and by the entry.
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let only = registry.replace("adapter = \"adapter\"\n", "adapters = { other = \"adapter-other\" }\n");
        assert_ne!(only, registry);
        place.file("registry.toml", &only);
        let named = eval(&place, &["--encoder", "other"]);
        place.file("registry.toml", only.replace("adapters =", "encoder = \"other\"\nadapters ="));
        let by_entry = eval(&place, &[]);
        for result in [&named, &by_entry] {
            assert_eq!(result["encoder_id"], other.as_str());
            assert_eq!(result["overridden_pins"], json!([]), "the usual adapter would have one");
            assert_eq!(arms(result), ["closed-book", "open-book", "truncation", "pruning", "arc-1"]);
        }
        assert_eq!(named["arms"], by_entry["arms"]);
    }

    #[test]
    fn an_entry_with_a_code_plugin_has_an_adapter() {
        let place = place(&["a text"]);
        let library = place.file("libcoded.so", "no library");
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        let plugin = format!("plugin = {{ path = \"{library}\", sha256 = \"{}\" }}\n", "0".repeat(64));
        place.file("registry.toml", registry.replace("adapter = \"adapter\"\n", &plugin));
        let refused = place.fails(FAILURE, &[&EVAL[..], &["--task", "t.toml"]].concat());
        refused.says(&["code plugins are not allowed"]);
    }

    #[test]
    fn an_encoder_that_pools_to_a_count_is_asked_for_no_factor() {
        let place = place(&["a text that is longer than three latents"]);
        change_encoder(&place, |manifest| manifest.compress_rates = vec![3]);
        let result = eval(&place, &[]);
        assert_eq!(arms(&result), ["closed-book", "open-book", "truncation", "pruning", "arc"]);
        for name in ["truncation", "pruning", "arc"] {
            // Three latents and the vector after them.
            assert_eq!(arm(&result, name)["cost"]["document_positions"], 4.0, "{name}");
        }
        assert_eq!(arm(&result, "arc")["factor"], Value::Null);
        let with_factor = [&EVAL[..], &["--task", "t.toml", "--factor", "2"]].concat();
        place.fails(USAGE, &with_factor).hints(&["leave out `--factor`"]);
    }

    #[test]
    fn answers_are_made_again_when_the_rates_of_the_encoder_change() {
        let place = place(&["a text that is longer than three latents"]);
        // The identity of an encoder leaves its rates out, and the arm's name is the same for both.
        for (count, expected) in [(3, 4.0), (5, 6.0), (3, 4.0)] {
            change_encoder(&place, |manifest| manifest.compress_rates = vec![count]);
            let result = eval(&place, &["--out", "out"]);
            assert_eq!(arm(&result, "arc")["cost"]["document_positions"], expected);
        }
        let arms_with_a_budget = 3;
        assert_eq!(lines(&place.path("out/answers.jsonl")).len(), 2 + 2 * arms_with_a_budget);
    }

    #[test]
    fn a_document_that_is_too_long_fails_its_question_in_that_arm_and_not_the_run() {
        let long = "word ".repeat(60);
        let place = place(&[&long, "a short text"]);
        // 299 bytes are five chunks and more than the window.
        let result = eval(&place, &["--factor", "4"]);
        let too_long = |result: &Value, name: &str| arm(result, name)["too_long"].as_u64().expect("a count");
        assert_eq!(too_long(&result, "open-book"), 1);
        for name in ["closed-book", "truncation", "pruning", "arc-4"] {
            assert_eq!(too_long(&result, name), 0, "{name}");
        }
        let positions = |result: &Value, name: &str| arm(result, name)["cost"]["document_positions"].clone();
        assert_eq!(positions(&result, "open-book"), 12.0, "the cost is that of the one that fits");

        // 299 latents and more are too many for the window, whatever the number of chunks.
        let result = eval(&place, &["--factor", "1"]);
        for name in ["truncation", "pruning", "arc-1"] {
            assert_eq!(too_long(&result, name), 1, "{name}");
            // As many plain tokens, and a special vector, are more than the other text has.
            let expected = if name == "arc-1" { 12.0 + 1.0 } else { 12.0 };
            assert_eq!(positions(&result, name), expected, "{name}");
        }

        // Examples that do not fit leave no question that does.
        let shot = json!({ "document": "seen ".repeat(60), "question": "q", "answers": "b" }).to_string();
        place.file("shots.jsonl", shot);
        let result = eval(&place, &["--factor", "1", "--shots", "1"]);
        assert_eq!(too_long(&result, "closed-book"), 0);
        for name in ["open-book", "truncation", "pruning", "arc-1"] {
            assert_eq!(too_long(&result, name), 2, "{name}");
        }
        assert_eq!(arm(&result, "arc-1")["scores"]["F1"]["value"], 0.0);
    }

    #[test]
    fn an_example_on_a_questions_document_is_refused() {
        let place = place(&["a text", "seen"]);
        let refused = place.fails(FAILURE, &[&EVAL[..], &["--task", "t.toml", "--shots", "1"]].concat());
        refused.says(&["task `t`", "apart", "seen"]);
        refused.hints(&["another split"]);
    }

    #[test]
    fn needles_are_reported_by_length_and_depth() {
        let place = Place::with_adapter();
        let rows =
            (0..8).map(|n| json!({ "document": format!("Text {n} is hay. ").repeat(4) }).to_string() + "\n");
        place.file("hay.jsonl", rows.collect::<String>());
        place.file(
            "t.toml",
            "schema = 1\nname = \"t\"\ndescription = \"d\"\ndata = \"hay.jsonl\"\n[needle]\n\
             words = [8, 20]\ndepths = [0.0, 1.0]\nper_cell = 2\n[generate]\n\
             prompt = \"{{ document }} {{ question }}\"\nclosed_book = \"{{ question }}\"\n\
             max_tokens = 4\nmetrics = [\"contains\"]\n",
        );
        let result = eval(&place, &["--factor", "2", "--out", "out"]);
        assert_eq!(result["questions"], 8);
        for name in arms(&result) {
            let cells = arm(&result, name)["cells"].as_array().expect("cells");
            let places: Vec<(u64, f64)> = cells
                .iter()
                .map(|cell| {
                    (cell[0]["words"].as_u64().expect("words"), cell[0]["depth"].as_f64().expect("a depth"))
                })
                .collect();
            assert_eq!(places, [(8, 0.0), (8, 1.0), (20, 0.0), (20, 1.0)], "{name}");
            let mean = cells.iter().filter_map(|cell| cell[1].as_f64()).sum::<f64>() / 4.0;
            let score = arm(&result, name)["scores"]["found"]["value"].as_f64().expect("a score");
            assert!((mean - score).abs() < 1e-9, "{name}: cells of one size make up the score");
        }
        let markdown = std::fs::read_to_string(place.path("out/report.md")).expect("a report");
        assert!(markdown.contains("**found by depth and length: arc-2**\n\n| depth | 8 words | 20 words |"));
    }

    #[test]
    fn distractors_make_documents_of_several_chunks() {
        let texts = [
            "one text of the forty bytes that it takes",
            "and another, which is about as long as it",
            "the third",
        ];
        let place = Place::with_adapter();
        task(&place, &texts, "distractors = 2\n");
        let result = eval(&place, &["--factor", "4"]);
        let joined = texts.iter().map(|text| text.len()).sum::<usize>() + 2 * "\n\n".len();
        assert!(joined > 64, "more than a chunk");
        assert_eq!(arm(&result, "open-book")["cost"]["document_positions"], joined as f64);
        // Groups are of four, and one more for the rest of each chunk.
        let latents = 64 / 4 + (joined - 64).div_ceil(4);
        assert_eq!(arm(&result, "arc-4")["cost"]["document_positions"], (latents + 1) as f64);
    }

    #[test]
    fn summaries_and_translations_run_as_they_are_shipped() {
        let place = Place::with_adapter();
        for (task, metric) in [("summarisation", "ROUGE-L"), ("translation", "BLEU")] {
            let path = repository(&format!("tasks/{task}.toml"));
            let path = path.to_str().expect("a path");
            let report = place.succeeds(&[&EVAL[..], &["--task", path, "--factor", "8"]].concat());
            let result = &report["results"][0];
            assert!(result["questions"].as_u64().is_some_and(|questions| questions >= 3), "{task}");
            for name in arms(result) {
                let arm = arm(result, name);
                assert_eq!(arm["main"], metric);
                let score = arm["scores"][metric]["value"].as_f64().expect("a score");
                assert!((0.0..=100.0).contains(&score), "{task} {name}: {score}");
            }
            assert_eq!(arm(result, "arc-8")["too_long"], 0, "{task}");
        }
    }

    #[test]
    fn shipped_tasks_are_known_outside_of_the_repository() {
        let place = place(&["a text"]);
        let missing = place.fails(FAILURE, &[&EVAL[..], &["--task", "squad-dev", "--shots", "0"]].concat());
        missing.says(&["task `squad-dev`", "squad-dev.jsonl"]);
        missing.hints(&["arc data prepare eval", "--data DIR"]);
        for name in ["squad-dev", "squad-shots"] {
            let row = json!({ "document": format!("of {name}"), "question": "q", "answers": "a" })
                .to_string()
                + "\n";
            place.file(&format!("data/{name}.jsonl"), row.repeat(5));
        }
        let report =
            place.succeeds(&[&EVAL[..], &["--task", "squad-dev", "--data", "data", "--shots", "1"]].concat());
        assert_eq!(report["results"][0]["questions"], 5);
        place
            .fails(USAGE, &[&EVAL[..], &["--task", "squad-def"]].concat())
            .says(&["`squad-dev`", "`needle`"]);
    }

    #[test]
    fn a_resumed_run_reports_the_seconds_of_both_and_what_it_was_asked() {
        let place = place(&["a first text", "another one"]);
        let run =
            || place.succeeds(&[&EVAL[..], &["--task", "t.toml", "--out", "out", "--limit", "1"]].concat());
        let (first, again) = (run(), run());
        let seconds = |report: &Value| report["provenance"]["seconds"].as_f64().expect("seconds");
        assert!(seconds(&first) > 0.0);
        assert_eq!(seconds(&again), seconds(&first));
        let result = &again["results"][0];
        assert_eq!((&result["limit"], &result["truncate"]), (&json!(1), &json!("first")));
        assert_eq!((&result["factors"], &again["provenance"]["batch"]), (&json!([1]), &json!(8)));
        let task = std::fs::read(place.path("t.toml")).expect("the task");
        assert_eq!(result["task_sha256"], arc_adapters::sha256_hex(&task));
        let differences = arm(result, "arc-1")["differences"].as_object().expect("differences");
        assert!(differences.contains_key("closed-book") && differences.contains_key("open-book"));
    }
}
