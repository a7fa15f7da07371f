//! Published chat templates against transformers: `scripts/golden/chat_templates.py` writes the golden
//! file with transformers' own Jinja environment, and says what is in it.

use std::path::{Path, PathBuf};

use arc_jinja::{ErrorKind, Limits, Moment, Options, Template, Value};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

mod json_value;

use json_value::value;

fn golden() -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is not as transformers has it, for every case of a template.
fn differences(golden: &Json, template: &Json, source: &str) -> Vec<String> {
    let name = format!("{}/{}", template["from"].as_str().unwrap(), template["name"].as_str().unwrap());
    let compiled = Template::compile(source, Options::TRANSFORMERS);
    if let Some(reason) = template["refused"].as_str() {
        let told = compiled.as_ref().err().map(ToString::to_string);
        return compiled
            .is_ok()
            .then(|| format!("{name}: transformers refuses it ({reason})"))
            .into_iter()
            .chain(told.filter(|told| told.is_empty()))
            .collect();
    }
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(error) => return vec![format!("{name}: {error}")],
    };
    let moment = Moment::from_unix_seconds(golden["seconds"].as_u64().unwrap());
    let mut differences = Vec::new();
    for (case, expected) in template["cases"].as_object().unwrap() {
        let conversation = &golden["conversations"][case.trim_end_matches('+')];
        let mut context: Vec<(&str, Value)> = vec![
            ("tools", Value::NONE),
            ("documents", Value::NONE),
            ("add_generation_prompt", Value::from(case.ends_with('+'))),
        ];
        for given in [&golden["tokens"], conversation] {
            context.extend(given.as_object().unwrap().iter().map(|(key, json)| (key.as_str(), value(json))));
        }
        let found = compiled.render_at(context, Limits::DEFAULT, moment);
        let same = match &found {
            Ok(text) => expected["sha256"] == hex(text.as_bytes()),
            Err(error) if error.kind() == ErrorKind::Raised => {
                let line = format!(" (line {})", error.line());
                expected["raised"] == error.to_string().trim_end_matches(&line)
            }
            // A macro that calls itself without an end.
            Err(error) if error.kind() == ErrorKind::Limit => expected["failed"] == "RecursionError",
            Err(error) => error.kind() == ErrorKind::Failed && expected["failed"].is_string(),
        };
        if !same {
            differences.push(format!("{name}, {case}: expected {expected}, found {found:?}"));
        }
    }
    differences
}

#[test]
fn published_templates_render_as_transformers_renders_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published");
    compare(&folder, 232);
}

/// The same for all that were rendered when the golden file was made, those included that are not
/// committed.
#[test]
#[ignore = "needs the folder that ARC_CHAT_TEMPLATES names"]
fn all_published_templates_render_as_transformers_renders_them() {
    compare(&PathBuf::from(std::env::var_os("ARC_CHAT_TEMPLATES").unwrap()), 263);
}

fn compare(folder: &Path, at_least: usize) {
    let golden = golden();
    let (mut compared, mut cases, mut differing) = (0, 0, Vec::new());
    for template in golden["templates"].as_array().unwrap() {
        let path = folder.join(template["from"].as_str().unwrap()).join(template["name"].as_str().unwrap());
        let Ok(bytes) = std::fs::read(&path) else { continue };
        assert_eq!(template["sha256"], hex(&bytes), "{} is another file", path.display());
        compared += 1;
        cases += template["cases"].as_object().map_or(1, serde_json::Map::len);
        differing.extend(differences(&golden, template, &String::from_utf8(bytes).unwrap()));
    }
    println!("{compared} templates, {cases} cases, {} differ", differing.len());
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert!(compared >= at_least, "only {compared} templates are in {}", folder.display());
}
