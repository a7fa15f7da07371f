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
