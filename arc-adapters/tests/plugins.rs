//! Code plugins, right ones and wrong ones, each loaded by a process of its own: what is wrong is
//! refused with its error, and the host lives on.
#![cfg(unix)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_adapters::{
    AdapterManifest, AdapterPackage, AdapterTensor, DecoderPin, EncoderPin, ProjectorLayer, ProjectorSpec,
    WeightType, WeightsFile, sha256_file,
};

const D_IN: usize = 8;
const D_OUT: usize = 12;

/// What three rows of eight halves add up to, in three rows of twelve.
const RIGHT: &str = "ok 144";

fn custom_manifest() -> AdapterManifest {
    let decoder =
        DecoderPin::new("none", "none").embedding_sha256("0".repeat(64)).tokenizer_sha256("0".repeat(64));
    let projector = ProjectorSpec::new(vec![ProjectorLayer::Custom { d_in: D_IN, d_out: D_OUT }]);
    AdapterManifest::new((decoder, D_OUT), (EncoderPin::new("none", "none"), D_IN), projector)
        .name("variant".into())
        .pooling_factors(vec![4])
        .prompt_template("{{ document }}{{ question }}")
        .weights(WeightsFile::new("adapter.safetensors", "0".repeat(64)))
}

/// Writes a package with the tokens alone, as a custom projector has.
fn write_package(folder: &Path) {
    let tokens: Vec<_> = ["tokens.cont", "tokens.rec"]
        .map(|name| AdapterTensor::new(name, &[D_IN], &[0.25; D_IN], WeightType::F32))
        .into();
    AdapterPackage::write(folder, &custom_manifest(), &tokens).unwrap();
}

/// A folder with the bytes that the variants of `variant.c` embed.
struct Workshop {
    root: tempfile::TempDir,
}

impl Workshop {
    fn new() -> Self {
        example("load_plugin");
        let root = tempfile::tempdir().unwrap();
        let package = root.path().join("package");
        write_package(&package);
        let this = Self { root };
        this.embed(
            &std::fs::read(package.join("adapter.json")).unwrap(),
            &std::fs::read(package.join("adapter.safetensors")).unwrap(),
        );
        this
    }

    fn embed(&self, manifest: &[u8], weights: &[u8]) {
        let array = |name: &str, bytes: &[u8]| {
            let bytes: Vec<_> = bytes.iter().map(ToString::to_string).collect();
            format!("static const uint8_t {name}[] = {{{}}};\n", bytes.join(","))
        };
        let text = array("MANIFEST", manifest) + &array("WEIGHTS", weights);
        std::fs::write(self.root.path().join("data.h"), text).unwrap();
    }

    fn compile(&self, variant: &str) -> PathBuf {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"));
        let library = self.root.path().join(format!("lib{variant}.so"));
        let marker = self.root.path().join("marker");
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wall", "-Werror", "-Wno-unused-function"])
            .arg(format!("-DVARIANT={variant}"))
            .arg(format!("-DMARKER_PATH=\"{}\"", marker.display()))
            .arg("-I")
            .arg(source.join("../arc-plugin/include"))
            .arg("-I")
            .arg(self.root.path())
            .arg("-o")
            .arg(&library)
            .arg(source.join("tests/plugins/variant.c"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        library
    }

    /// Compiles a variant and loads it.
    fn load(&self, variant: &str, args: &[&str]) -> Vec<String> {
        let library = self.compile(variant);
        lines(&run(&library, &sha256_file(&library).unwrap(), self.root.path(), args))
    }
}

/// An artefact of `examples/`, which `cargo test` builds unless it is told to build one test alone.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let target = tests.parent().and_then(Path::parent).unwrap();
    let artefact = target.join("examples").join(name);
    assert!(artefact.exists(), "`{name}` is not built: run all tests, `cargo test -p arc-adapters`");
    artefact
}

fn run(library: &Path, sha256: &str, folder: &Path, args: &[&str]) -> Output {
    Command::new(example("load_plugin")).arg(library).arg(sha256).arg(folder).args(args).output().unwrap()
}

/// What the host printed, which must have lived to the end.
fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(
        lines.pop().as_deref(),
        Some("alive"),
        "{:?}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    lines
}

fn load_in_both_ways(workshop: &Workshop, variant: &str, expected: &str) {
    for args in [&[][..], &["--isolate"]] {
        let lines = workshop.load(variant, args);
        assert!(
            matches!(lines.as_slice(), [line] if line.contains(expected)),
            "{variant} {args:?}: {lines:?}, expected {expected}"
        );
    }
}

#[test]
fn right_plugins_of_this_and_other_minor_versions_work() {
    let workshop = Workshop::new();
    for variant in ["RIGHT", "NEW_MINOR"] {
        load_in_both_ways(&workshop, variant, RIGHT);
    }
    // Before minor 1 there was no `project`, so its projector cannot be custom.
    load_in_both_ways(&workshop, "OLD_MINOR", "its projector is `custom` and `project` is null");
    let scaffolded = workshop.root.path().join("scaffolded");
    described_package(&scaffolded);
    workshop.embed(
        &std::fs::read(scaffolded.join("adapter.json")).unwrap(),
        &std::fs::read(scaffolded.join("adapter.safetensors")).unwrap(),
    );
    load_in_both_ways(&workshop, "OLD_MINOR", "ok without project");
}

fn described_package(folder: &Path) {
    let manifest = custom_manifest();
    arc_adapters::Scaffold::new("described", (manifest.decoder, D_OUT), (manifest.encoder, D_IN))
        .d_hidden(4)
        .pooling_factors(vec![4])
        .package(folder)
        .unwrap();
}

#[test]
fn what_an_isolated_plugin_prints_does_not_disturb_its_answers() {
    assert_eq!(Workshop::new().load("PRINTS", &["--isolate", "--calls", "2"]), [RIGHT, RIGHT]);
}

#[test]
fn plugins_that_break_the_contract_are_refused() {
    let workshop = Workshop::new();
    for (variant, expected) in [
        ("WRONG_MAJOR", "has ABI 2.0, this version loads ABI 1.x"),
        ("SHORT_STRUCT", "struct_size is 16"),
        ("NO_SYMBOL", "has no symbol `arc_adapter`"),
        ("NULL_ADAPTER", "`arc_adapter` gave a null pointer"),
        ("NULL_MANIFEST", "`manifest` gave a null pointer"),
        ("NULL_MANIFEST_FUNCTION", "`manifest` is null"),
        ("MALFORMED_JSON", "is not a valid adapter manifest"),
        ("HUGE_MANIFEST", "at most 1048576 are accepted"),
        ("NULL_WEIGHTS", "`weights` gave a null pointer"),
        ("NULL_WEIGHTS_FUNCTION", "`weights` is null"),
        ("NO_PROJECT", "its projector is `custom` and `project` is null"),
    ] {
        load_in_both_ways(&workshop, variant, expected);
    }
}

#[test]
fn outputs_that_lie_are_refused() {
    let workshop = Workshop::new();
    for (variant, expected) in [
        ("LYING_SIZE", "it says that it wrote 37 values, expected 36"),
        ("OVERRUN", "it wrote outside of its output"),
        ("NOT_A_NUMBER", "value 1 is NaN"),
        ("WRITES_TOO_LITTLE", "value 0 is NaN"),
        ("FAILS", "failed with code -4"),
    ] {
        load_in_both_ways(&workshop, variant, expected);
    }
}

#[test]
fn weights_of_other_shapes_are_refused() {
    let workshop = Workshop::new();
    let folder = workshop.root.path().join("other");
    described_package(&folder);
    let weights = std::fs::read(folder.join("adapter.safetensors")).unwrap();
    let package = workshop.root.path().join("package");
    let manifest = std::fs::read_to_string(package.join("adapter.json")).unwrap();
    workshop.embed(manifest.as_bytes(), &weights);
    load_in_both_ways(&workshop, "RIGHT", "pinned is");

    // The same with a pin that fits the weights: now it is what they hold that does not fit.
    let parsed = AdapterManifest::parse(&manifest, Path::new("m")).unwrap();
    let manifest = manifest.replace(&parsed.weights.sha256, &arc_adapters::sha256_hex(&weights));
    workshop.embed(manifest.as_bytes(), &weights);
    load_in_both_ways(&workshop, "RIGHT", "that the manifest has no place for");

    // The right names, and a vector that is one too long.
    let mut longer = custom_manifest();
    longer.d_encoder = D_IN + 1;
    longer.projector.layers = vec![ProjectorLayer::Custom { d_in: D_IN + 1, d_out: D_OUT }];
    let folder = workshop.root.path().join("longer");
    let tokens = ["tokens.cont", "tokens.rec"]
        .map(|name| AdapterTensor::new(name, &[D_IN + 1], &[0.25; D_IN + 1], WeightType::F32));
    AdapterPackage::write(&folder, &longer, &tokens).unwrap();
    let weights = std::fs::read(folder.join("adapter.safetensors")).unwrap();
    let pinned = AdapterManifest::parse(&manifest, Path::new("m")).unwrap().weights.sha256;
    let manifest = manifest.replace(&pinned, &arc_adapters::sha256_hex(&weights));
    workshop.embed(manifest.as_bytes(), &weights);
    load_in_both_ways(&workshop, "RIGHT", "has shape [9], expected [8]");
}

#[test]
fn a_crash_or_a_hang_is_contained_by_isolation() {
    let workshop = Workshop::new();
    let lines = workshop.load("CRASH", &["--isolate", "--calls", "2"]);
    assert!(lines.len() == 2 && lines.iter().all(|l| l.contains("ended with signal: 6")), "{lines:?}");
    let lines = workshop.load("HANG", &["--isolate"]);
    assert!(lines[0].contains("did not answer within 5s"), "{lines:?}");
}

/// Whether a process is there, and no corpse that nobody has looked at yet.
#[cfg(target_os = "linux")]
fn lives(process: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// What a plugin forked, once it has said which process that is.
#[cfg(target_os = "linux")]
fn forked(workshop: &Workshop) -> String {
    let marker = workshop.root.path().join("marker");
    for _ in 0..500 {
        match std::fs::read_to_string(&marker) {
            Ok(process) if !process.is_empty() => return process,
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    panic!("the plugin has not forked");
}

#[cfg(target_os = "linux")]
fn ends(process: &str) -> bool {
    (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        !lives(process)
    })
}

#[test]
#[cfg(target_os = "linux")]
fn what_an_isolated_plugin_forked_ends_with_it() {
    let workshop = Workshop::new();
    assert_eq!(workshop.load("FORKS", &["--isolate"])[0], RIGHT);
    let process = forked(&workshop);
    assert!(ends(&process), "process {process} lives on");
}

/// Even where this process is killed while the plugin computes, so that nobody is left to end anything.
#[test]
#[cfg(target_os = "linux")]
fn what_an_isolated_plugin_forked_ends_with_a_host_that_is_killed() {
    let workshop = Workshop::new();
    let library = workshop.compile("FORKS_AND_HANGS");
    let mut host = Command::new(example("load_plugin"))
        .arg(&library)
        .arg(sha256_file(&library).unwrap())
        .arg(workshop.root.path())
        .arg("--isolate")
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let process = forked(&workshop);
    assert!(lives(&process));
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(ends(&process), "process {process} lives on");
}

/// The documented case: in this process nothing contains a crash in foreign code.
#[test]
fn a_crash_without_isolation_ends_the_host() {
    let workshop = Workshop::new();
    let library = workshop.compile("CRASH");
    let output = run(&library, &sha256_file(&library).unwrap(), workshop.root.path(), &[]);
    assert!(!output.status.success());
}

/// The other documented case: a panic that a plugin lets out belongs to the plugin's own copy of the
/// language's runtime, which no other copy can catch. It ends the process that it reaches, which with
/// isolation is the plugin's own.
#[test]
fn a_panic_that_is_let_out_ends_the_process_and_isolation_contains_it() {
    use std::os::unix::process::ExitStatusExt as _;
    const SIGABRT: i32 = 6;
    let library = example("libunwinding_plugin.so");
    let folder = library.parent().unwrap();
    let sha256 = sha256_file(&library).unwrap();
    let run = |from: &str, args: &[&str]| {
        Command::new(example("load_plugin"))
            .arg(&library)
            .arg(&sha256)
            .arg(folder)
            .args(args)
            .env("ARC_UNWINDS", from)
            .output()
            .unwrap()
    };
    for args in [&[][..], &["--isolate"]] {
        assert_eq!(lines(&run("nothing", args)), [RIGHT], "it is right but for that");
    }
    for from in ["arc_adapter", "manifest", "weights", "project"] {
        let output = run(from, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(SIGABRT), "{from}: {stderr}");
        assert!(stderr.contains(&format!("let out of `{from}`")), "{from}: {stderr}");
        let lines = lines(&run(from, &["--isolate"]));
        assert!(lines.len() == 1 && lines[0].contains("ended with signal: 6"), "{from}: {lines:?}");
    }
}

#[test]
fn a_rust_plugin_turns_panics_and_errors_into_codes() {
    let library = example("librust_plugin.so");
    let folder = library.parent().unwrap().to_owned();
    let sha256 = sha256_file(&library).unwrap();
    for isolation in [None, Some("--isolate")] {
        for (value, expected) in [
            ("0.5", RIGHT),
            ("1", "failed with code -3: it panicked"),
            ("2", "failed with code -4"),
            ("3", "value 0 is NaN"),
        ] {
            let mut args = vec!["--value", value];
            args.extend(isolation);
            let lines = lines(&run(&library, &sha256, &folder, &args));
            assert!(lines.len() == 1 && lines[0].contains(expected), "{value}: {lines:?}");
        }
    }
}

#[test]
fn eight_threads_call_at_once() {
    let workshop = Workshop::new();
    for args in [&["--threads", "8", "--calls", "100"][..], &["--threads", "8", "--calls", "20", "--isolate"]]
    {
        let lines = workshop.load("RIGHT", args);
        assert!(lines.len() >= 160 && lines.iter().all(|l| l == RIGHT), "{lines:?}");
    }
}

#[test]
fn nothing_runs_before_the_checks_pass() {
    let workshop = Workshop::new();
    let library = workshop.compile("MARKER");
    let root = workshop.root.path();
    let marker = root.join("marker");
    let sha256 = sha256_file(&library).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let refused = |sha256: &str, folder: &Path, args: &[&str], expected: &str| {
        let lines = lines(&run(&library, sha256, folder, args));
        assert!(lines.len() == 1 && lines[0].contains(expected), "{lines:?}, expected {expected}");
        assert!(!marker.exists(), "the library was loaded before: {expected}");
    };
    refused(&"0".repeat(64), root, &[], "pinned is");
    refused(&sha256, root, &["--forbid"], "code plugins are not allowed");
    refused(&sha256, elsewhere.path(), &[], "in none of the listed plugin folders");
    set_mode(root, 0o777);
    refused(&sha256, root, &[], "is writable for all");
    set_mode(root, 0o700);
    set_mode(&library, 0o666);
    refused(&sha256, root, &[], "is writable for all");
    set_mode(&library, 0o644);
    // A link inside a listed folder does not make its target lie there.
    let link = elsewhere.path().join("link.so");
    std::os::unix::fs::symlink(&library, &link).unwrap();
    let output = lines(&run(&link, &sha256, elsewhere.path(), &[]));
    assert!(output[0].contains("in none of the listed"), "{output:?}");

    assert_eq!(lines(&run(&library, &sha256, root, &[])), [RIGHT]);
    assert!(marker.exists(), "the marker works");
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn files_that_are_no_library_for_this_machine_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.so");
    let library = std::fs::read(example("librust_plugin.so")).unwrap();
    let mut other = library.clone();
    other[18] ^= 0xff;
    for (bytes, expected) in [
        (b"#!/bin/sh\n".to_vec(), "not an ELF library"),
        (other, "built for another processor"),
        (library[..4096].to_vec(), "cannot be loaded: it is cut off"),
        (library[..40].to_vec(), "cannot be loaded: it is cut off"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let lines = lines(&run(&path, &sha256_file(&path).unwrap(), folder.path(), &[]));
        assert!(lines[0].contains(expected), "{lines:?}");
        assert!(!lines[0].contains("/proc/"), "the private copy is nobody's business: {lines:?}");
    }
}

/// The file is exchanged all the time, for one that leaves a mark when it is loaded. Whatever the
/// moment, what is loaded is what was hashed.
#[test]
fn a_file_swapped_after_the_check_is_never_loaded() {
    let workshop = Workshop::new();
    let good = std::fs::read(workshop.compile("RIGHT")).unwrap();
    let evil = std::fs::read(workshop.compile("MARKER")).unwrap();
    let sha256 = arc_adapters::sha256_hex(&good);
    let folder = workshop.root.path().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("p.so");
    std::fs::write(&path, &good).unwrap();
    let done = AtomicBool::new(false);
    let mut seen = BTreeSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                for bytes in [&evil, &good] {
                    std::fs::write(folder.join("new"), bytes).unwrap();
                    std::fs::rename(folder.join("new"), &path).unwrap();
                    // From no time at all to more than a load takes: both ends of the race are met.
                    std::thread::sleep(Duration::from_millis(round % 16));
                }
            }
        });
        // Nothing is judged before the other thread has ended: it would be waited for without end.
        let outputs: Vec<_> = (0..60).map(|_| run(&path, &sha256, &folder, &[])).collect();
        done.store(true, Ordering::Relaxed);
        for output in &outputs {
            let lines = lines(output);
            assert!(lines[0] == RIGHT || lines[0].contains("pinned is"), "{lines:?}");
            seen.insert(lines[0] == RIGHT);
        }
    });
    assert!(!workshop.root.path().join("marker").exists(), "the swapped file was loaded");
    assert_eq!(seen.len(), 2, "the race was not run: {seen:?}");
}

#[test]
fn the_c_example_is_the_package_that_it_embeds() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/example-c");
    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter.c", "adapter.json", "adapter.safetensors", "Makefile"] {
        std::fs::copy(example.join(file), folder.path().join(file)).unwrap();
    }
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../arc-plugin/include");
    let output = Command::new("make")
        .arg(format!("INCLUDE={}", include.display()))
        .arg("CFLAGS=-std=c99 -O2 -Wall -Wextra -Werror")
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let library = folder.path().join("libarc_adapter_example_c.so");
    let lines = lines(&run(&library, &sha256_file(&library).unwrap(), folder.path(), &[]));
    assert_eq!(lines, ["ok without project"]);
}

/// The package that `examples/rust_plugin.rs` embeds; `ARC_WRITE_FIXTURES=1` writes it.
#[test]
fn the_package_of_the_rust_example_is_up_to_date() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plugins/custom");
    if std::env::var_os("ARC_WRITE_FIXTURES").is_some() {
        write_package(&checked_in);
    }
    let folder = tempfile::tempdir().unwrap();
    write_package(&folder.path().join("p"));
    for file in ["adapter.json", "adapter.safetensors"] {
        let (new, old) = (folder.path().join("p").join(file), checked_in.join(file));
        assert_eq!(std::fs::read(new).unwrap(), std::fs::read(old).unwrap(), "{file}");
    }
}
