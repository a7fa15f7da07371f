//! Questions about text that a real decoder writes, and that others answer.

#[path = "harness/notice.rs"]
mod notice;
#[path = "harness/recorded.rs"]
mod recorded;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Running text that is nobody's.
const DOCUMENTS: [&str; 2] = [
    "The mill at Orrin Ford was built in 1792 by the brothers Callan, who had made their money in salt. It ground \
     oats and barley for nine villages until the flood of 1849 carried away the wheel. A new wheel of iron was \
     cast in Perth and came up the river on two barges. The last miller, Agnes Doyle, shut the sluice in 1931, and \
     the building is now a library.",
    "Wool from the island is washed in the sea before it is spun. The weavers dye it yellow with heather and blue \
     with woad, which they grow behind the church. Every house keeps its own pattern, and a drowned fisherman could \
     be sent home by the pattern of his coat. In 1904 Dr. Ewan Pell drew all the patterns that he could find, \
     sixty-three of them, in a book with a red cover.",
];

struct Passages(TempDir);

impl Passages {
    fn new() -> Self {
        let place = Self(TempDir::new().expect("a folder"));
        let rows: String = DOCUMENTS.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect();
        std::fs::write(place.path("texts.jsonl"), rows).expect("a file");
        std::fs::write(place.path("nothing.txt"), "nothing that is in them").expect("a file");
        let source = "texts.jsonl=CC0-1.0";
        place.succeeds(&["data", "prepare", "--source", source, "--out", "corpus", "--held-out", "0"]);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn succeeds(&self, arguments: &[&str]) -> Value {
        let registry = Path::new(env!("CARGO_MANIFEST_DIR")).join("registry.toml");
        let output = Command::new(env!("CARGO_BIN_EXE_arc"))
            .args(arguments)
            .arg("--registry")
            .arg(registry)
            .args(["--json", "--yes"])
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        recorded::record(arguments, &output.stdout);
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    fn rows(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(name)).expect("a file");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
    }
}

#[test]
fn a_decoder_asks_what_it_finds_in_a_passage_and_goes_on_where_it_was_stopped() {
    if notice::left_out_offline("a model") {
        return;
    }
    let place = Passages::new();
    let write = |out: &str, more: &[&str]| {
        let command = ["data", "prepare", "questions", "corpus", "--by", "qwen2.5-coder-0.5b", "--out", out];
        place.succeeds(&[&command[..], &["--unseen", "nothing.txt"], more].concat())
    };
    let report = write("whole.jsonl", &[]);
    let rows = place.rows("whole.jsonl");
    let progress = &report["progress"];
    let passages = progress["passages"].as_u64().expect("a number");
    assert!(progress["documents"] == 2 && passages >= 2, "{report}");
    assert_eq!(progress["questions"], rows.len());
    assert!(!rows.is_empty(), "a decoder of half a billion weights finds a question: {report}");
    for row in &rows {
        let text = |field: &str| row[field].as_str().expect("a text").to_lowercase();
        assert!(text("document").contains(&text("answer")), "{row}");
        assert!(!text("question").contains(&text("answer")) && text("question").ends_with('?'), "{row}");
    }
    let left_out = progress["rejected"].as_object().expect("reasons").values();
    let asked = rows.len() as u64 + left_out.filter_map(Value::as_u64).sum::<u64>();
    assert_eq!(asked, 6 * passages, "six for each passage: {report}");

    // One document at a time, with what a kill leaves behind the last of them.
    write("parts.jsonl", &["--count", "1"]);
    let partial = std::fs::read_to_string(place.path("parts.jsonl")).expect("a file");
    std::fs::write(place.path("parts.jsonl"), format!("{partial}{{\"docu")).expect("a file");
    write("parts.jsonl", &[]);
    let bytes = |name: &str| std::fs::read(place.path(name)).expect("a file");
    assert_eq!(bytes("parts.jsonl"), bytes("whole.jsonl"));

    // The answers of another decoder, beside their own.
    let answer =
        ["data", "prepare", "questions", "whole.jsonl", "--answered-by", "smollm2-135m", "--out", "said"];
    assert_eq!(place.succeeds(&answer)["finished"], true);
    let said = place.rows("said/whole.jsonl");
    assert_eq!(said.len(), rows.len());
    for (row, said) in rows.iter().zip(&said) {
        assert_eq!((&row["question"], &row["answer"]), (&said["question"], &said["answer"]));
        let answer = said["answered_by"]["smollm2-135m"].as_str().expect("an answer");
        assert!(!answer.trim().is_empty() && !answer.contains('\n'), "{said}");
    }
}

#[test]
fn a_question_that_shares_a_row_of_words_with_unseen_text_is_left_out() {
    if notice::left_out_offline("a model") {
        return;
    }
    let place = Passages::new();
    let unseen: String = DOCUMENTS.iter().map(|text| format!("{}\n", json!({ "text": text }))).collect();
    std::fs::write(place.path("unseen.jsonl"), unseen).expect("a file");
    let report = place.succeeds(&[
        "data",
        "prepare",
        "questions",
        "corpus",
        "--by",
        "qwen2.5-coder-0.5b",
        "--out",
        "none.jsonl",
        "--unseen",
        "unseen.jsonl",
    ]);
    assert_eq!(report["progress"]["questions"], 0);
    assert!(
        report["progress"]["rejected"]["overlapping"].as_u64().is_some_and(|count| count > 0),
        "{report}"
    );
}
