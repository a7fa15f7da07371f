//! Ctrl-C, wherever it comes: no file is half there, no answer is lost, and a conversation goes on.
#![cfg(unix)]

#[path = "harness/tiny.rs"]
mod tiny;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use arc_core::encoder::LatentsFile;
use serde_json::{Value, json};
use tiny::{Gguf, LATENTS, Meta, Place, tiny_llama};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// After so many milliseconds a process is interrupted: before it has read anything, while it loads, computes
/// and writes, and when it is done.
const DELAYS: [u64; 14] = [0, 2, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200, 400, 800];

fn interrupt(child: &Child) {
    let pid = child.id().to_string();
    // It may have ended by itself.
    let _ = Command::new("kill").args(["-INT", &pid]).stderr(Stdio::null()).status();
}

/// The names of all files in a folder and below.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// What looks like the beginning of a file: temporary names of this program and of its libraries.
fn half_written(folder: &Path) -> Vec<String> {
    let is_temporary = |path: &String| {
        let name = Path::new(path).file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with(".tmp") || name.starts_with(".arc-")
    };
    files(folder).into_iter().filter(is_temporary).collect()
}

/// A text that takes a while, in which every line is another.
fn text(lines: usize) -> String {
    (0..lines).map(|line| format!("line {line} of a long text about whales\n")).collect()
}

fn with_default_decoder() -> Place {
    with_default_decoder_of(&tiny_llama())
}

fn with_default_decoder_of(model: &Gguf) -> Place {
    let place = Place::with_adapter_of(model);
    let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
    place.file("registry.toml", registry.replacen('\n', "\ndefault_decoder = \"tiny\"\n", 1));
    place
}

#[test]
fn compressing_leaves_a_whole_file_or_none() {
    let place = Place::with_encoder();
    place.file("text.txt", text(4000));
    let (mut whole, mut interrupted) = (0, 0);
    for delay in DELAYS {
        let compress = ["compress", "text.txt", "-o", LATENTS];
        let mut child =
            place.arc(&compress).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("arc");
        std::thread::sleep(Duration::from_millis(delay));
        interrupt(&child);
        let status = child.wait().expect("it ends");
        // By the handler, or before there was one.
        let is_interrupted = status.code() == Some(130) || status.code().is_none();
        assert!(is_interrupted || status.success(), "after {delay} ms: {status}");
        assert_eq!(half_written(place.folder()), Vec::<String>::new(), "after {delay} ms");
        let path = place.path(LATENTS);
        if path.exists() {
            LatentsFile::open(&path).and_then(|file| file.verify()).expect("a whole file");
            std::fs::remove_file(path).expect("the file");
            whole += 1;
        } else {
            assert!(is_interrupted, "after {delay} ms nothing was written");
            interrupted += 1;
        }
    }
    assert!(interrupted > 0, "nothing was interrupted: {whole} files");
}

#[test]
fn the_cache_has_whole_documents_only() {
    let place = with_default_decoder();
    place.file("text.txt", text(3000));
    let ask = ["ask", "text.txt", "--factor", "64", "--max-tokens", "2", "why"];
    for delay in DELAYS {
        let mut child = place.arc(&ask).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("arc");
        std::thread::sleep(Duration::from_millis(delay));
        interrupt(&child);
        child.wait().expect("it ends");
        let folder = place.path("cache/documents");
        assert_eq!(half_written(&folder), Vec::<String>::new(), "after {delay} ms");
        for path in files(&folder) {
            LatentsFile::open(Path::new(&path)).and_then(|file| file.verify()).expect("a whole document");
        }
    }
    // Nothing that was left is in the way.
    let whole = place.succeeds(&ask);
    assert_eq!(place.succeeds(&ask)["token_ids"], whole["token_ids"]);
}

#[test]
fn no_answer_of_a_batch_is_lost_or_written_twice() {
    let place = with_default_decoder();
    place.file("text.txt", text(20));
    const COUNT: usize = 60;
    let questions: String =
        (0..COUNT).map(|n| format!("{}\n", json!({ "id": n, "question": format!("why {n}") }))).collect();
    place.file("questions.jsonl", questions);
    let batch = |out: &str| {
        let batch = ["ask", "text.txt", "--questions", "questions.jsonl", "--out", out, "--max-tokens", "16"];
        [&batch[..], &["--batch", "4", "--factor", "16"]]
            .concat()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let words = batch("whole.jsonl");
    place.succeeds(&words.iter().map(String::as_str).collect::<Vec<_>>());
    let whole = std::fs::read_to_string(place.path("whole.jsonl")).expect("the answers");

    let words = batch("cut.jsonl");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (mut before, mut partial) = (0, 0);
    for delay in DELAYS.into_iter().cycle().take(60) {
        let mut child = place.arc(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("arc");
        std::thread::sleep(Duration::from_millis(delay));
        interrupt(&child);
        let status = child.wait().expect("it ends");
        let text = std::fs::read_to_string(place.path("cut.jsonl")).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "after {delay} ms the last line is half there");
        // What was there stays, and what is there is the beginning of the whole.
        assert!(whole.starts_with(&text), "after {delay} ms");
        let count = text.lines().count();
        assert!(count >= before, "after {delay} ms {before} answers became {count}");
        before = count;
        partial += usize::from((1..COUNT).contains(&count));
        if status.success() {
            break;
        }
    }
    place.succeeds(&words);
    assert_eq!(std::fs::read_to_string(place.path("cut.jsonl")).expect("the answers"), whole);
    tiny::notice::notice(format_args!("{partial} times a part of the answers was there"));
}

#[test]
fn an_interrupted_fit_and_an_interrupted_pack_leave_what_was_there() {
    let place = Place::with_adapter();
    place.succeeds(&["adapters", "pack", "tiny"]);
    let archive = std::fs::read(place.path("tiny.arc.tar.zst")).expect("the archive");
    let manifest = std::fs::read(place.path("adapter/adapter.json")).expect("the adapter");
    for delay in DELAYS {
        for command in [
            &["adapters", "pack", "tiny", "--replace"] as &[&str],
            &["fit", "--decoder", "tiny", "--text", "texts.jsonl", "-o", "fitted", "--replace"],
            &["adapters", "alias", "tiny", "small"],
        ] {
            let mut child =
                place.arc(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("arc");
            std::thread::sleep(Duration::from_millis(delay));
            interrupt(&child);
            child.wait().expect("it ends");
            assert_eq!(half_written(place.folder()), Vec::<String>::new(), "{command:?} after {delay} ms");
        }
        assert_eq!(std::fs::read(place.path("tiny.arc.tar.zst")).expect("the archive"), archive);
        assert_eq!(std::fs::read(place.path("adapter/adapter.json")).expect("the adapter"), manifest);
        if place.path("fitted/adapter.json").exists() {
            place.succeeds(&["adapters", "verify", "./fitted"]);
        }
        place.succeeds(&["adapters", "verify", "tiny"]);
        let _ = place.arc(&["adapters", "alias", "small", "--remove"]).output();
    }
}

/// A program at a terminal, which `script` of util-linux makes: what is typed, and what is shown.
struct Terminal {
    child: Child,
    shown: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    /// None where there is no `script` to make one with.
    fn run(place: &Place, command: &str, variables: &[(&str, &str)]) -> Option<Self> {
        let has_script =
            Command::new("script").arg("--version").output().is_ok_and(|output| output.status.success());
        if !has_script {
            tiny::notice::notice("left out: there is no `script` to make a terminal with");
            return None;
        }
        let mut script = Command::new("script");
        // The shell gives its place up: one that waits for the program is told of Ctrl-C too, and some (dash) end
        // with it afterwards, whatever the program made of it.
        script
            .args(["-q", "-e", "-f", "-c", &format!("exec {command}"), "/dev/null"])
            .env("SHELL", "/bin/sh");
        script.current_dir(place.folder());
        script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        script.env("ARC_OFFLINE", "1").env("ARC_HOME", place.path("cache")).env("TERM", "xterm");
        script.env("HOME", place.path("home")).env("XDG_CONFIG_HOME", place.path("home"));
        script.env_remove("NO_COLOR").envs(variables.iter().copied());
        let mut child = script.spawn().expect("script starts");
        let mut output = child.stdout.take().expect("a pipe");
        let (sender, shown) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut piece) {
                if sender.send(piece[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Some(Self { child, shown, seen: String::new() })
    }

    fn types(&mut self, text: &str) {
        self.child.stdin.as_mut().expect("a pipe").write_all(text.as_bytes()).expect("it is read");
    }

    /// Waits until something is shown behind what was waited for before, and gives what came up to it.
    fn until(&mut self, wanted: &str) -> String {
        let start = Instant::now();
        loop {
            if let Some(place) = self.seen.find(wanted) {
                let rest = self.seen.split_off(place + wanted.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let left = PATIENCE.checked_sub(start.elapsed());
            let piece = left.and_then(|left| self.shown.recv_timeout(left).ok());
            let Some(piece) = piece else { panic!("no {wanted:?} in {:?}", self.seen) };
            self.seen += &String::from_utf8_lossy(&piece);
        }
    }

    fn ends(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("it ends");
        while let Ok(piece) = self.shown.recv_timeout(Duration::from_millis(200)) {
            self.seen += &String::from_utf8_lossy(&piece);
        }
        (status.code(), self.seen)
    }
}

#[cfg(target_os = "linux")]
#[test]
fn ctrl_c_ends_an_answer_and_not_the_conversation() {
    // A window in which an answer takes minutes unless somebody ends it.
    let mut model = tiny_llama();
    model.set("llama.context_length", Meta::U32(60_000));
    let place = with_default_decoder_of(&model);
    place.file("text.txt", "a text of a few words");
    let arc = env!("CARGO_BIN_EXE_arc");
    // The most likely token is never an end token here, nor a line's end, so that nothing but its length ends an
    // answer.
    let command = format!("{arc} chat text.txt --max-tokens 50000 --answer-ends model");
    let Some(mut terminal) = Terminal::run(&place, &command, &[]) else { return };
    terminal.until("> ");
    for question in ["why", "and how"] {
        terminal.types(&format!("{question}\r"));
        // It has been read, and an answer has begun.
        terminal.until(question);
        std::thread::sleep(Duration::from_millis(1500));
        terminal.types("\u{3}");
        terminal.until("(interrupted)");
        terminal.until("> ");
    }
    // At the prompt it ends nothing either.
    terminal.types("\u{3}");
    terminal.until("ends the conversation");
    terminal.types("/stats\r");
    terminal.until("2 turns");
    terminal.types("/save turns.json\r");
    terminal.until("2 turns saved");
    terminal.types("/quit\r");
    let (code, _) = terminal.ends();
    assert_eq!(code, Some(0));
    let saved: Value =
        serde_json::from_slice(&std::fs::read(place.path("turns.json")).expect("the turns")).expect("JSON");
    assert_eq!(saved["answers"].as_array().map(Vec::len), Some(2), "no answer is lost");
    assert!(saved["answers"].as_array().expect("turns").iter().all(|turn| turn["text"] != ""), "{saved}");
}

#[cfg(target_os = "linux")]
#[test]
fn colours_are_shown_at_a_terminal_unless_they_are_unwanted() {
    let place = Place::empty();
    let arc = env!("CARGO_BIN_EXE_arc");
    let shown = |variables: &[(&str, &str)]| {
        let terminal = Terminal::run(&place, &format!("{arc} --help"), variables)?;
        Some(terminal.ends().1)
    };
    let (Some(usual), Some(plain)) = (shown(&[]), shown(&[("NO_COLOR", "1")])) else { return };
    assert!(usual.contains("Commands:") || usual.contains("Commands"), "{usual}");
    assert!(usual.contains('\u{1b}'), "a terminal is shown no style: {usual:?}");
    assert!(!plain.contains('\u{1b}') && plain.contains("Commands:"), "{plain:?}");
}
