//! What the library crates may not say: they have other users than the command line.

use std::path::{Path, PathBuf};

/// The Rust sources below a folder, tests left out.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of the crate") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.retain(|path| !path.iter().any(|part| part == "tests" || part == "tests.rs"));
    found
}

/// Whether a line of code has `--option` in it.
fn names_an_option(line: &str) -> bool {
    let mut rest = line;
    while let Some(at) = rest.find("--") {
        let before = rest[..at].chars().next_back();
        rest = &rest[at + 2..];
        if rest.starts_with(|c: char| c.is_ascii_lowercase()) && before.is_none_or(|c| "`\" (".contains(c)) {
            return true;
        }
    }
    false
}

/// A library says what is wrong and what to do; `src/hints.rs` knows which option does it.
#[test]
fn no_library_names_an_option_of_the_command_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for name in ["arc-adapters", "arc-core", "arc-jinja", "arc-plugin"] {
        let sources = sources(&root.join(name).join("src"));
        assert!(!sources.is_empty(), "{name} has no sources");
        for path in sources {
            // It calls pip, which has options of its own.
            if path.ends_with("hub/pip.rs") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("it is Unicode");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let lines = code.lines().enumerate().filter(|(_, line)| names_an_option(line));
            found.extend(lines.map(|(number, line)| format!("{}:{}: {line}", path.display(), number + 1)));
        }
    }
    assert!(found.is_empty(), "options of the command line in libraries:\n{}", found.join("\n"));
}

#[test]
fn options_are_known_where_they_are_named() {
    for line in ["pass `--yes` to", "\"arc train {} --resume\"", "say (--shots 0)"] {
        assert!(names_an_option(line), "{line}");
    }
    for line in ["a -- b", "# Errors ---", "x--y", "i--;", "`-` and `--`"] {
        assert!(!names_an_option(line), "{line}");
    }
}

/// The error types of other crates that a line of code offers to callers: in what a function gives, or in what
/// `?` makes an error of.
fn foreign_errors(line: &str) -> Vec<&str> {
    let line = line.trim();
    let is_signature = ["pub fn ", "pub const fn ", ") -> "].iter().any(|start| line.starts_with(start));
    let is_conversion = line.starts_with("impl From<") && line.ends_with("for Error {");
    if line.contains("#[from]") {
        return vec![line];
    }
    if !is_signature && !is_conversion {
        return Vec::new();
    }
    let paths = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let is_ours = |path: &str| {
        ["std::", "io::", "crate::", "super::", "arc_adapters::"].iter().any(|root| path.starts_with(root))
    };
    // An associated type begins with a capital.
    let is_crate = |path: &str| path.starts_with(|c: char| c.is_ascii_lowercase()) && !is_ours(path);
    paths.filter(|path| path.contains("::") && path.ends_with("Error") && is_crate(path)).collect()
}

/// Who matches an error of a library would break with the next version of that crate. `scripts/public-api` asks
/// the compiler the same.
#[test]
fn no_library_offers_an_error_of_another_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for name in ["arc-adapters", "arc-core", "arc-jinja", "arc-plugin"] {
        for path in sources(&root.join(name).join("src")) {
            let text = std::fs::read_to_string(&path).expect("it is Unicode");
            for (number, line) in text.lines().enumerate() {
                let errors = foreign_errors(line);
                found
                    .extend(errors.iter().map(|error| format!("{}:{}: {error}", path.display(), number + 1)));
            }
        }
    }
    assert!(found.is_empty(), "errors of other crates in signatures:\n{}", found.join("\n"));
}

#[test]
fn errors_of_other_crates_are_known_where_they_are_offered() {
    for line in [
        "    pub fn read(text: &str) -> Result<Self, toml::de::Error> {",
        ") -> std::result::Result<Tensor, safetensors::SafeTensorError> {",
        "impl From<ureq::Error> for Error {",
        "    Json(#[from] serde_json::Error),",
    ] {
        assert_eq!(foreign_errors(line).len(), 1, "{line}");
    }
    for line in [
        "    pub fn read(path: &Path) -> std::io::Result<Self, std::io::Error> {",
        "impl From<arc_adapters::Error> for Error {",
        "    let error = toml::de::Error::custom(\"x\");",
        ") -> Result<()> {",
    ] {
        assert!(foreign_errors(line).is_empty(), "{line}");
    }
}
