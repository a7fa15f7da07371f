//! What the library crates may not say: they have other users than the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The crates that others can build on.
const CRATES: [&str; 5] = ["arc-adapters", "arc-core", "arc-documents", "arc-jinja", "arc-plugin"];

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
    for name in CRATES {
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
    for name in CRATES {
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

/// A type that a line of code at the root of a file defines: how far it can be seen, and its name.
fn defined(line: &str) -> Option<(&str, &str)> {
    let (visibility, rest) = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => line.split_at(line.find(") ")? + 2),
        Some(rest) => ("pub ", rest.strip_prefix(' ')?),
        None => ("", line),
    };
    let rest =
        ["struct ", "enum ", "trait ", "union ", "type "].iter().find_map(|kind| rest.strip_prefix(kind))?;
    let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
    Some((visibility.trim(), &rest[..end]))
}

/// A type that is seen outside of its file has its name for itself in its crate, and one that other crates see
/// has it for itself among all of them, but for the three that each crate has one of.
#[test]
fn a_name_is_of_one_type() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = BTreeMap::<String, Vec<(&str, String, String)>>::new();
    for name in CRATES {
        for path in sources(&root.join(name).join("src")) {
            let text = std::fs::read_to_string(&path).expect("it is Unicode");
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            for (visibility, defined) in code.lines().filter_map(defined) {
                let place = (name, path.display().to_string(), visibility.to_owned());
                all.entry(defined.to_owned()).or_default().push(place);
            }
        }
    }
    assert!(all.len() > 500, "{} types", all.len());
    let mut found = Vec::new();
    for (defined, places) in all {
        let clash = places.iter().enumerate().any(|(at, (name, _, visibility))| {
            places[..at].iter().any(|(other, _, of_other)| match name == other {
                true => !visibility.is_empty() || !of_other.is_empty(),
                false => {
                    visibility == "pub"
                        && of_other == "pub"
                        && !["Error", "Result", "Hint"].contains(&defined.as_str())
                }
            })
        });
        if clash {
            found.push(format!("{defined}: {places:?}"));
        }
    }
    assert!(found.is_empty(), "names of several types:\n{}", found.join("\n"));
}

#[test]
fn types_are_known_where_they_are_defined() {
    assert_eq!(defined("pub(super) struct Tile([u8; 4]);"), Some(("pub(super)", "Tile")));
    assert_eq!(defined("pub enum Kind<'a> {"), Some(("pub", "Kind")));
    assert_eq!(defined("type Rows = Vec<u8>;"), Some(("", "Rows")));
    for line in ["    struct Nested;", "pub use x::Kind;", "pub fn kind() {", "impl Kind {"] {
        assert_eq!(defined(line), None, "{line}");
    }
}
