//! What becomes of an answer where a stream is closed, a disk is full or a name is not Unicode: it is not
//! lost in silence, and nothing is said to be done that is not.

#![cfg(unix)]

#[path = "harness/tiny.rs"]
mod tiny;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tiny::{FAILURE, LATENTS, Place, Refusal, USAGE, tiny_llama};

const GENERATE: [&str; 7] = ["generate", "--decoder", "tiny", "--prompt", "hello", "--max-tokens", "4"];

/// A pipe that nobody reads.
fn no_reader() -> std::io::PipeWriter {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer
}

/// `sh -c 'exec "$0" "$@" REDIRECTION'` with the binary, its arguments and its environment.
fn redirected(command: &Command, redirection: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {redirection}")]).arg(command.get_program());
    shell.args(command.get_args()).stdin(Stdio::null());
    shell.current_dir(command.get_current_dir().expect("a folder"));
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

mod standard_error {
    use super::*;

    #[test]
    fn an_answer_comes_though_nobody_hears_the_remarks() {
        let place = Place::with_adapter();
        place.file("text.txt", "a text of a few words");
        let ask = [
            "ask",
            "--decoder",
            "tiny",
            "--document",
            "text.txt",
            "--max-tokens",
            "4",
            "--factor",
            "4",
            "why",
        ];
        for json in [false, true] {
            let arguments = if json { [&ask as &[&str], &["--json"]].concat() } else { ask.to_vec() };
            let heard = place.arc(&arguments).output().expect("the binary runs");
            assert!(String::from_utf8_lossy(&heard.stderr).contains("warning: adapter"), "it has a remark");
            let text = |output: &Output| {
                let all = String::from_utf8(output.stdout.clone()).expect("UTF-8");
                match json {
                    true => serde_json::from_str::<Value>(&all).expect("JSON")["text"].to_string(),
                    false => all,
                }
            };
            let unheard = place.arc(&arguments).stderr(no_reader()).output().expect("the binary runs");
            assert_eq!(unheard.status.code(), Some(0));
            assert_eq!(text(&unheard), text(&heard));
            let closed = redirected(&place.arc(&arguments), "2>&-").output().expect("a shell");
            assert_eq!(closed.status.code(), Some(0));
            assert_eq!(text(&closed), text(&heard));
        }
    }

    #[test]
    fn failures_keep_their_exit_code() {
        let place = Place::with_model(&tiny_llama());
        for (code, arguments) in
            [(FAILURE, &["generate", "--decoder", "none", "--prompt", "x"] as &[&str]), (USAGE, &["modles"])]
        {
            let output = place.arc(arguments).stderr(no_reader()).output().expect("the binary runs");
            assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        }
    }
}

mod standard_output {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_is_told_nothing_and_the_code_is_that_of_sigpipe() {
        let place = Place::with_model(&tiny_llama());
        for arguments in [
            &["models"] as &[&str],
            &["models", "--json"],
            &["adapters", "list"],
            &GENERATE,
            &["--help"],
            &["ask", "--help"],
            &["--version"],
        ] {
            let output = place.arc(arguments).stdout(no_reader()).output().expect("the binary runs");
            assert_eq!(output.status.code(), Some(141), "{arguments:?}");
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        }
    }

    #[test]
    fn what_is_lost_because_it_is_closed_is_a_failure() {
        let place = Place::with_model(&tiny_llama());
        for arguments in
            [&["models"] as &[&str], &["models", "--json"], &GENERATE, &["--version"], &["--help"]]
        {
            let output = redirected(&place.arc(arguments), ">&-").output();
            let refusal = Refusal::of(output, FAILURE);
            refusal.says(&["cannot write the output", "closed"]);
        }
        // Nothing is lost where nothing is closed, whichever way the null device was opened.
        for redirection in [">/dev/null", "1<>/dev/null"] {
            let output = redirected(&place.arc(&["models"]), redirection).output().expect("a shell");
            assert_eq!(output.status.code(), Some(0), "{redirection}");
        }
        let devnull = std::fs::File::options().read(true).write(true).open("/dev/null").expect("it is there");
        assert!(place.arc(&["models"]).stdout(devnull).status().expect("the binary runs").success());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_full_disk_takes_none_of_is_a_failure() {
        let place = Place::with_model(&tiny_llama());
        for arguments in [
            &["models"] as &[&str],
            &["models", "--json"],
            &GENERATE,
            &["--version"],
            &["--help"],
            &["plan", "--help"],
        ] {
            let full = std::fs::File::options().write(true).open("/dev/full").expect("a device that is full");
            let refusal = Refusal::of(place.arc(arguments).stdout(full).output(), FAILURE);
            refusal.says(&["cannot write the output"]);
            refusal.hints(&["room"]);
        }
    }
}

mod files {
    use super::*;

    #[test]
    fn latents_replace_no_file_that_is_there_unless_asked_to() {
        let place = Place::with_encoder();
        place.file("text.txt", "a text");
        place.file("mine.txt", "mine");
        let compress = ["compress", "text.txt", "-o", LATENTS];
        place.succeeds(&compress);
        let first = std::fs::read(place.path(LATENTS)).expect("latents");

        place.file("text.txt", "another text");
        let refusal = place.fails(USAGE, &compress);
        refusal.says(&[LATENTS, "exists already"]);
        refusal.hints(&["--replace"]);
        assert_eq!(std::fs::read(place.path(LATENTS)).expect("latents"), first);
        place.succeeds(&[&compress as &[&str], &["--replace"]].concat());
        assert_ne!(std::fs::read(place.path(LATENTS)).expect("latents"), first);

        // A link is something, wherever it leads.
        for (name, target) in [("to.arc.safetensors", "mine.txt"), ("nowhere.arc.safetensors", "nothing")] {
            std::os::unix::fs::symlink(target, place.path(name)).expect("a link");
            place.fails(USAGE, &["compress", "text.txt", "-o", name]).says(&[name, "exists already"]);
            assert!(place.path(name).is_symlink());
        }
        assert_eq!(std::fs::read_to_string(place.path("mine.txt")).expect("mine"), "mine");
        // Asked to, what the link leads to is replaced, and the link stays.
        place.succeeds(&["compress", "text.txt", "-o", "to.arc.safetensors", "--replace"]);
        assert!(place.path("to.arc.safetensors").is_symlink());
        assert_ne!(std::fs::read(place.path("mine.txt")).expect("latents"), b"mine");
        assert!(!place.path("nothing").exists());
    }

    #[test]
    fn an_archive_replaces_none_unless_asked_to() {
        let place = Place::with_adapter();
        place.file("tiny.arc.tar.zst", "mine");
        let pack = ["adapters", "pack", "tiny"];
        place.fails(USAGE, &pack).says(&["tiny.arc.tar.zst", "exists already"]);
        assert_eq!(std::fs::read_to_string(place.path("tiny.arc.tar.zst")).expect("mine"), "mine");
        place.succeeds(&[&pack as &[&str], &["--replace"]].concat());
        place.succeeds(&["adapters", "verify", "./tiny.arc.tar.zst"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_is_called_done_that_a_full_disk_prevents() {
        let place = Place::with_adapter();
        let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
        for arguments in [
            &["adapters", "alias", "tiny", "other"] as &[&str],
            &["adapters", "remove", "tiny", "--adapter-only"],
            &["adapters", "add", "--name", "second", "--source", "file:tiny.gguf"],
        ] {
            // No file may grow: a limit on their size, in the shell's blocks.
            let mut command = Command::new("sh");
            command.args(["-c", "ulimit -f 0; trap '' XFSZ; exec \"$0\" \"$@\""]);
            let arc = place.arc(arguments);
            command.arg(arc.get_program()).args(arc.get_args()).current_dir(place.path("."));
            command.env("HOME", place.path("home")).env("XDG_CONFIG_HOME", place.path("home"));
            command.env("ARC_HOME", place.path("cache")).env("ARC_OFFLINE", "1");
            // Its own output goes to pipes, which have no size.
            let output = command.output().expect("a shell");
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(FAILURE), "{arguments:?}: {stderr}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{arguments:?}");
            assert!(stderr.contains("cannot write"), "{arguments:?}: {stderr}");
            assert!(
                !stderr.contains("ARC_HOME"),
                "{arguments:?}: the registry is not in the cache: {stderr}"
            );
            assert_eq!(std::fs::read_to_string(place.path("registry.toml")).expect("it is there"), registry);
        }
    }
}

mod names_that_are_not_unicode {
    use super::*;

    /// `caf\xe9`, as Latin-1 has it.
    fn name() -> OsString {
        OsString::from_vec(b"caf\xe9".to_vec())
    }

    /// What is in a place, in a folder with such a name.
    fn moved(place: &Place) -> PathBuf {
        let folder = place.path("moved").join(name());
        std::fs::create_dir_all(&folder).expect("a folder");
        for entry in std::fs::read_dir(place.path(".")).expect("the folder").flatten() {
            if entry.file_name() != "moved" {
                std::fs::rename(entry.path(), folder.join(entry.file_name())).expect("it is moved");
            }
        }
        folder
    }

    fn run(place: &Place, folder: &Path, arguments: &[&OsStr]) -> Output {
        let mut command = place.arc(&[]);
        command.args(arguments).current_dir(folder).env("ARC_HOME", folder.join(name()));
        command.output().expect("the binary runs")
    }

    #[test]
    fn every_command_works_in_a_folder_with_such_a_name_and_such_a_cache() {
        let place = Place::with_adapter();
        place.file("text.txt", "a text of a few words");
        let folder = moved(&place);
        let registry = folder.join("registry.toml");
        for arguments in [
            "models",
            "adapters list",
            "adapters doctor",
            "adapters verify tiny",
            "adapters verify ./adapter",
            "adapters inspect tiny",
            "adapters inspect ./adapter",
            "pull tiny",
            "generate --decoder tiny --prompt hello --max-tokens 1",
            "ask --decoder tiny --document text.txt --max-tokens 1 why",
            "compress text.txt -o x.arc.safetensors",
            "ask --decoder tiny --document x.arc.safetensors --max-tokens 1 why",
            "plan --decoder tiny --context 10",
            "fit --decoder tiny --text texts.jsonl -o fitted",
            "adapters pack fitted/ --replace",
            "adapters new fresh --decoder tiny",
            "adapters alias tiny other",
            "adapters add fitted --replace",
            "adapters add --name second --source file:tiny.gguf",
            "adapters remove second",
            "adapters add encoder --name again",
            "adapters remove again",
        ] {
            for json in [true, false] {
                let mut all: Vec<&OsStr> = arguments.split(' ').map(OsStr::new).collect();
                all.extend(json.then_some(OsStr::new("--json")));
                // A second time most that are written exist already: what counts is that nothing panics.
                let before = std::fs::read_to_string(&registry).expect("the registry");
                let output = run(&place, &folder, &all);
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert!(!stderr.contains("panicked"), "{arguments}: {stderr}");
                if json {
                    assert!(output.status.success(), "{arguments}: {stderr}");
                    serde_json::from_slice::<Value>(&output.stdout).expect("one JSON object");
                } else if !output.status.success() {
                    let after = std::fs::read_to_string(&registry).expect("the registry");
                    assert_eq!(after, before, "{arguments} failed after it changed the registry");
                }
            }
        }
    }

    #[test]
    fn a_path_with_such_a_name_is_written_and_read_or_refused_before_anything_is_written() {
        let place = Place::with_encoder();
        let text = name();
        std::fs::write(place.path(".").join(&text), "a text of a few words").expect("a text");
        let mut latents = name();
        latents.push(".arc.safetensors");
        let folder = place.path(".");
        let compress: Vec<&OsStr> =
            vec![OsStr::new("compress"), &text, OsStr::new("-o"), &latents, OsStr::new("--json")];
        let output = run(&place, &folder, &compress);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(folder.join(&latents).is_file());
        let told: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        assert_eq!(told["output"], latents.to_string_lossy().as_ref());

        // A registry is a text, which cannot hold the name.
        let registry = std::fs::read(place.path("registry.toml")).expect("the registry");
        std::fs::rename(place.path("encoder"), folder.join(OsStr::from_bytes(b"enc\xf6der"))).expect("moved");
        let add = [
            OsStr::new("adapters"),
            OsStr::new("add"),
            OsStr::from_bytes(b"enc\xf6der"),
            OsStr::new("--name"),
            OsStr::new("e"),
        ];
        let output = run(&place, &folder, &add);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains("error: ") && !stderr.contains("panicked"),
            "{stderr}"
        );
        assert_eq!(std::fs::read(place.path("registry.toml")).expect("the registry"), registry);
    }
}
