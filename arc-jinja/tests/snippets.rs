//! The language piece by piece against transformers: `scripts/golden/jinja_snippets.py` writes the golden
//! file from `snippets.txt`.

use std::path::Path;

use arc_jinja::{Limits, Moment, Options, Template};
use serde_json::Value as Json;

mod json_value;

use json_value::value;

#[test]
fn snippets_render_as_transformers_renders_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snippets.json");
    let golden: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let moment = Moment::from_unix_seconds(golden["seconds"].as_u64().unwrap());
    let context = golden["context"].as_object().unwrap();
    let (mut compared, mut differing) = (0, Vec::new());
    for snippet in golden["snippets"].as_array().unwrap() {
        let source = snippet[0].as_str().unwrap();
        let context = context.iter().map(|(name, json)| (name.as_str(), value(json)));
        let found = Template::compile(source, Options::TRANSFORMERS)
            .and_then(|template| template.render_at(context, Limits::DEFAULT, moment));
        compared += 1;
        match (snippet[1].as_str(), &found) {
            (Some(expected), Ok(found)) if expected == found => {}
            (None, Err(_)) => {}
            (expected, found) => {
                differing.push(format!("{source:?}\n  expected {expected:?}\n  found    {found:?}"));
            }
        }
    }
    assert!(differing.is_empty(), "{} of {compared} differ:\n{}", differing.len(), differing.join("\n"));
    assert!(compared > 250, "only {compared}");
}
