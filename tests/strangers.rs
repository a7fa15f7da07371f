//! What a stranger's data may do to a command: it ends, with an error, and leaves nothing behind.
#![cfg(unix)]

#[path = "harness/tiny.rs"]
mod tiny;

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arc_adapters::RegistryEditor;
use serde_json::Value;
use tiny::{FAILURE, Place, USAGE};

const ENDLESS: &str =
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}{{ document }}";
const DOUBLED: &str = "{% set ns = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}\
                       {% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ document }}";
const SELF_SIMILAR: &str = "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}\
                            {% endfor %}{{ ns.x }}{{ document }}";

/// Gives the package in `adapter` another prompt, and packs it.
fn packed_with(place: &Place, template: &str) -> String {
    let path = place.path("adapter/adapter.json");
    let mut manifest: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    manifest["prompt_template"] = template.into();
    manifest["name"] = "evil".into();
    place.file("evil/adapter.json", manifest.to_string());
    std::fs::copy(place.path("adapter/adapter.safetensors"), place.path("evil/adapter.safetensors")).unwrap();
    let _ = std::fs::remove_file(place.path("evil.arc.tar.zst"));
    place.succeeds(&["adapters", "pack", "./evil"]);
    std::fs::remove_dir_all(place.path("evil")).unwrap();
    "evil.arc.tar.zst".to_owned()
}

/// Whatever a command has left in the folder that adapters are unpacked to.
fn left(place: &Place) -> Vec<String> {
    let entries = place.path("plugins").read_dir().into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_adapter_whose_prompt_does_not_end_is_refused_and_leaves_nothing() {
    let place = Place::with_adapter();
    for template in [ENDLESS, DOUBLED, SELF_SIMILAR] {
        let archive = packed_with(&place, template);
        let started = Instant::now();
        // Twice: nothing of the first time stands in the way.
        for _ in 0..2 {
            place
                .fails(FAILURE, &["adapters", "add", &archive, "--name", "evil"])
                .says(&["the prompt template failed", "more steps than a template may"]);
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
        assert_eq!(left(&place), [""; 0]);
    }
    let list = place.succeeds(&["adapters", "list"]);
    assert!(list["decoders"].as_array().unwrap().iter().all(|decoder| decoder["name"] != "evil"));
}

#[test]
fn an_adapter_that_a_killed_command_unpacked_is_taken_when_it_is_added_again() {
    let place = Place::with_adapter();
    place.succeeds(&["adapters", "pack", "tiny"]);
    // As it is left between the last two steps, and before them.
    let add = ["adapters", "add", "tiny.arc.tar.zst", "--name", "again"];
    place.succeeds(&add);
    place.succeeds(&["adapters", "remove", "again"]);
    std::fs::create_dir_all(place.path("plugins/.arc-left/new")).unwrap();
    place.file("plugins/.arc-left/lock", "");
    assert_eq!(left(&place).len(), 2);
    place.succeeds(&add);
    assert_eq!(left(&place), ["again"]);
    place.succeeds(&["adapters", "verify", "again"]);
    // One that an entry names is somebody's.
    place.fails(FAILURE, &["adapters", "add", "tiny.arc.tar.zst", "--name", "again"]).says(&["already"]);
}

/// Ends a process as Ctrl-C or a request to end does, and gives its exit code.
fn interrupted(mut child: std::process::Child, signal: &str) -> Option<i32> {
    let pid = child.id().to_string();
    assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
    child.wait().unwrap().code()
}

#[test]
fn an_interrupted_add_leaves_nothing_though_it_has_unpacked_all() {
    let place = Place::with_adapter();
    place.succeeds(&["adapters", "pack", "tiny"]);
    // It has unpacked and checked the archive when it waits for the registry.
    let held = RegistryEditor::open(&place.path("registry.toml")).unwrap();
    let before = (place.listing(), std::fs::read(place.path("registry.toml")).unwrap());
    for signal in ["INT", "TERM"] {
        let mut adding = place
            .arc(&["adapters", "add", "tiny.arc.tar.zst", "--name", "again"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = [0; 7];
        adding.stderr.as_mut().unwrap().read_exact(&mut told).unwrap();
        assert_eq!(&told, b"waiting");
        assert_eq!(left(&place).len(), 1, "{:?}", left(&place));
        assert_eq!(interrupted(adding, signal), Some(130), "SIG{signal}");
        assert_eq!(before.0, place.listing(), "SIG{signal}");
    }
    drop(held);
    assert_eq!(before.1, std::fs::read(place.path("registry.toml")).unwrap());
    place.succeeds(&["adapters", "add", "tiny.arc.tar.zst", "--name", "again"]);
}

#[test]
fn an_interrupted_download_of_an_archive_leaves_nothing() {
    use std::io::Write as _;

    let place = Place::with_adapter();
    let before = place.listing();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/a.arc.tar.zst", server.local_addr().unwrap());
    let adding = place
        .arc(&["adapters", "add", &address, "--name", "again", "--yes", "--sha256", &"0".repeat(64)])
        .env_remove("ARC_OFFLINE")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut asked, _) = server.accept().unwrap();
    let mut request = [0; 512];
    assert!(asked.read(&mut request).unwrap() > 0);
    asked.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nthe beginning").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(left(&place).len(), 1, "it is downloaded to where it is swept");
    assert_eq!(interrupted(adding, "TERM"), Some(130));
    assert_eq!(before, place.listing());
}

#[test]
fn doctor_and_remove_sweep_what_a_killed_command_left() {
    let place = Place::with_adapter();
    for command in [&["adapters", "doctor"] as &[&str], &["adapters", "remove", "tiny"]] {
        place.file("plugins/.arc-left/new/adapter.json", "{");
        place.file("plugins/.arc-left/lock", "");
        let _ = place.arc(command).output().unwrap();
        assert_eq!(left(&place), [""; 0], "{command:?}");
    }
}

#[test]
fn who_waits_for_a_registry_is_told() {
    let place = Place::with_adapter();
    let held = RegistryEditor::open(&place.path("registry.toml")).unwrap();
    let mut waiting = place
        .arc(&["adapters", "alias", "tiny", "t2"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert!(waiting.try_wait().unwrap().is_none(), "it waits");
    drop(held);
    assert!(waiting.wait().unwrap().success());
    let mut told = String::new();
    waiting.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(told.matches("waiting for another command that is changing").count(), 1, "{told}");
}

#[test]
fn what_is_no_file_is_refused_before_it_is_read() {
    let place = Place::with_adapter();
    let pipe = place.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    place.add_to_registry(
        "[decoders.piped]\nsource = 'file:pipe'\n[decoders.device]\nsource = 'file:/dev/zero'",
    );
    std::os::unix::fs::symlink(&pipe, place.path("pipe.arc.tar.zst")).unwrap();
    let generate = |decoder| ["generate", "--decoder", decoder, "--prompt", "a", "--max-tokens", "1"];
    let refusal = place.fails(FAILURE, &generate("piped"));
    refusal.says(&["it is a pipe, expected a file"]);
    refusal.hints(&["name a file"]);
    place.fails(FAILURE, &generate("device")).says(&["it is a device, expected a file"]);
    place
        .fails(FAILURE, &["adapters", "add", "pipe.arc.tar.zst", "--name", "x"])
        .says(&["it is a pipe, expected a file"]);
}

#[test]
fn more_threads_than_any_machine_has_are_refused() {
    let place = Place::with_adapter();
    for asked in ["99999", "99999999999999999999999"] {
        let output = place.arc(&["devices"]).env("RAYON_NUM_THREADS", asked).output().unwrap();
        assert_eq!(output.status.code(), Some(USAGE));
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(&format!("asks for {asked} threads, at most 1024")), "{stderr}");
    }
    assert!(place.arc(&["devices"]).env("RAYON_NUM_THREADS", "2").output().unwrap().status.success());
}

/// A model whose chat template does not end, or cannot be read, is a model all the same.
#[test]
fn a_chat_template_that_fails_is_an_error_of_who_needs_it() {
    let place = Place::with_adapter();
    for (template, reason) in [(ENDLESS, "more steps than a template may"), ("{% for %}", "syntax error")] {
        let mut model = tiny::tiny_llama();
        model.set("tokenizer.chat_template", tiny::Meta::Text(template.to_owned()));
        place.file("chat.gguf", model.to_bytes());
        place.file("text.txt", "a text");
        place.registry(
            "default_encoder = 'start'\n[encoders.start]\npackage = 'encoder'\n[decoders.tiny]\nsource = 'file:tiny.gguf'\n\
             [decoders.chat]\nsource = 'file:chat.gguf'\nadapter = 'adapter'\n",
        );
        place.succeeds(&["generate", "--decoder", "chat", "--prompt", "a", "--max-tokens", "1"]);
        let ask = ["ask", "--decoder", "chat", "--document", "text.txt", "--max-tokens", "1"];
        place
            .fails(FAILURE, &[&ask as &[&str], &["--form", "instruct", "why"]].concat())
            .says(&["the chat template failed", reason]);
    }
}
