//! Files that come from elsewhere and are none, or have no end: whatever a command reads, it refuses a pipe,
//! a device and a folder at once, and a file that is longer than its kind may be without taking it into memory.
#![cfg(unix)]

#[path = "harness/tiny.rs"]
mod tiny;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tiny::{FAILURE, Place, Refusal};

/// What a command may take: the limits on files are far below, the binary and its threads above half of it.
const ADDRESS_SPACE_KIB: u64 = 8 << 20;
/// A command that reads what it should not does not end.
const SECONDS: u64 = 60;

/// What stands in a file's place, and what has to be said of it.
const IN_ITS_PLACE: [(&str, &str); 5] = [
    ("pipe", "it is a pipe, expected a file"),
    ("socket", "it is a socket or a device, expected a file"),
    ("device", "it is a device, expected a file"),
    ("folder", "irectory"),
    // Of 1 TiB, all of it a hole.
    ("endless", ""),
];

fn put(kind: &str, path: &Path) {
    match kind {
        "pipe" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "socket" => drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        "device" => symlink("/dev/zero", path).unwrap(),
        "folder" => std::fs::create_dir(path).unwrap(),
        "endless" => std::fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
        other => panic!("{other}"),
    }
}

/// Runs a command with a limit on its memory.
fn run(place: &Place, arguments: &[&str], code: i32) -> Refusal {
    let mut limited = Command::new("sh");
    let script = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$@\"");
    let plain = place.arc(arguments);
    limited.args(["-c", &script, "sh"]).arg(plain.get_program()).args(plain.get_args());
    limited.current_dir(plain.get_current_dir().unwrap());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    let started = Instant::now();
    let mut child = limited
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(SECONDS) {
            child.kill().unwrap();
            panic!("{arguments:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Refusal::of(child.wait_with_output(), code)
}

/// Puts everything that is no such file in the place of `file`, and runs the command that reads it.
fn refuses(place: &Place, file: &str, arguments: &[&str], code: i32) {
    let path = place.path(file);
    let aside = place.path("aside");
    let was = path.exists();
    if was {
        std::fs::rename(&path, &aside).unwrap();
    }
    for (kind, says) in IN_ITS_PLACE {
        put(kind, &path);
        let refusal = run(place, arguments, code);
        // What is asked about may be a folder, if there are documents in it.
        let is_told = refusal.message.contains(says) || refusal.message.contains("there is no document in");
        assert!(is_told, "{kind} for {file}: {}", refusal.message);
        match kind {
            "folder" => std::fs::remove_dir(&path).unwrap(),
            _ => std::fs::remove_file(&path).unwrap(),
        }
    }
    if was {
        std::fs::rename(&aside, &path).unwrap();
    }
}

/// A model as transformers saves it, in several files.
fn with_folder_model() -> Place {
    let place = Place::empty();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/architectures/llama3");
    std::fs::create_dir(place.path("model")).unwrap();
    for entry in golden.read_dir().unwrap().flatten().filter(|entry| entry.file_name() != "expected.json") {
        std::fs::copy(entry.path(), place.path("model").join(entry.file_name())).unwrap();
    }
    place.registry("[decoders.m]\nsource = 'file:model'\n");
    place
}

#[test]
fn the_files_of_a_model() {
    let place = with_folder_model();
    let generate = ["generate", "--decoder", "m", "--prompt", "a", "--max-tokens", "1"];
    place.succeeds(&generate);
    for file in [
        "config.json",
        "model.safetensors.index.json",
        "model-00002-of-00003.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.json",
        "chat_template.jinja",
    ] {
        refuses(&place, &format!("model/{file}"), &generate, FAILURE);
    }
    place.succeeds(&generate);
}

#[test]
fn the_files_of_adapters_encoders_and_registries() {
    let place = Place::with_adapter();
    place.file("text.txt", "a text");
    let ask = ["ask", "--decoder", "tiny", "--document", "text.txt", "--max-tokens", "1", "why"];
    place.succeeds(&ask);
    for file in ["adapter/adapter.json", "adapter/adapter.safetensors", "encoder/encoder.json", "tiny.gguf"] {
        refuses(&place, file, &ask, FAILURE);
    }
    let list = ["adapters", "list", "--registry", "registry.toml"];
    refuses(&place, "registry.toml", &list, FAILURE);
    refuses(&place, "other.arc.tar.zst", &["adapters", "add", "./other.arc.tar.zst"], FAILURE);
    place.succeeds(&ask);
}

#[test]
fn latents_and_descriptions_of_what_is_to_be_done() {
    let place = Place::with_adapter();
    place.latents([2, 8], 0.5, &place.latents_metadata());
    let ask = ["ask", "--decoder", "tiny", "--document", tiny::LATENTS, "--max-tokens", "1", "why"];
    place.succeeds(&ask);
    refuses(&place, tiny::LATENTS, &ask, FAILURE);
    let eval = ["eval", "--task", "task.toml", "--decoder", "tiny", "--out", "out"];
    refuses(&place, "task.toml", &eval, FAILURE);
    refuses(&place, "run.toml", &["train", "run.toml", "--out", "out"], FAILURE);
}
