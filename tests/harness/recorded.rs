//! What commands print as JSON, kept for the schemas: where `ARC_RECORDED_JSON` names a folder, each object goes
//! there, and `tools/schemas` holds them against `schemas/`.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::Path;

use arc_adapters::sha256_hex;

/// Commands that have others below them.
const GROUPS: [&str; 5] = ["adapters", "cache", "config", "data", "models"];

/// Keeps what a command printed, as `COMMAND.DIGEST.json`.
pub(crate) fn record(arguments: &[&str], printed: &[u8]) {
    record_as(&command(arguments), printed);
}

/// Keeps an object of some kind.
pub(crate) fn record_as(kind: &str, printed: &[u8]) {
    let Some(folder) = std::env::var_os("ARC_RECORDED_JSON").filter(|folder| !folder.is_empty()) else {
        return;
    };
    if printed.trim_ascii().is_empty() {
        return;
    }
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).expect("the folder of recorded objects");
    let name = format!("{kind}.{}.json", &sha256_hex(printed)[..16]);
    std::fs::write(folder.join(name), printed).expect("a recorded object");
}

/// The command that arguments begin with, its words joined by `-`.
fn command(arguments: &[&str]) -> String {
    let words: Vec<&str> = arguments.iter().copied().take_while(|word| !word.starts_with('-')).collect();
    match words.as_slice() {
        ["data", "prepare", what @ ("eval" | "questions"), ..] => format!("data-prepare-{what}"),
        // Without a word it lists.
        ["models"] => "models-list".to_owned(),
        ["ask", ..] if arguments.contains(&"--questions") => "ask-questions".to_owned(),
        [group, inner, ..] if GROUPS.contains(group) => format!("{group}-{inner}"),
        [one, ..] => (*one).to_owned(),
        [] => "none".to_owned(),
    }
}
