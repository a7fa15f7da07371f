//! The page that describes adapter packages is the format: its example is a package, and it has every key.

use std::collections::BTreeSet;
use std::path::Path;

use arc_adapters::{Adapter, AdapterManifest, AdapterPackage, AdapterTensor, WeightType};
use serde_json::Value;

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/adapter-package.md");
    std::fs::read_to_string(path).expect("the page")
}

fn example() -> String {
    let page = page();
    let (_, rest) = page.split_once("```json\n").expect("an example");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// Every key of an object and of what is in it.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            keys(value, found);
        }),
        Value::Array(list) => list.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn the_example_is_a_manifest_and_has_every_key_that_is_written() {
    let manifest = AdapterManifest::parse(&example(), Path::new("example")).expect("a manifest");
    let written: Value =
        serde_json::from_str(&manifest.to_json(Path::new("example")).expect("JSON")).unwrap();
    let example: Value = serde_json::from_str(&example()).unwrap();
    let (mut all, mut shown) = (BTreeSet::new(), BTreeSet::new());
    keys(&written, &mut all);
    keys(&example, &mut shown);
    assert_eq!(all, shown);
    let page = page();
    let missing: Vec<_> =
        all.iter().filter(|key| *key != "method" && !page.contains(&format!("`{key}`"))).collect();
    assert!(missing.is_empty(), "the tables lack {missing:?}");
}

#[test]
fn the_tables_have_every_kind_of_layer() {
    // What the reader itself says that it knows.
    let unknown = example().replacen("\"rms_norm\"", "\"relu\"", 1);
    let error = AdapterManifest::parse(&unknown, Path::new("example")).unwrap_err().to_string();
    let (_, kinds) = error.split_once("expected one of ").expect("the kinds");
    let page = page();
    let mut count = 0;
    for kind in kinds.split('`').skip(1).step_by(2) {
        assert!(page.contains(&format!("\n| `{kind}` | ")), "no row for `{kind}`");
        count += 1;
    }
    assert_eq!(count, 8, "{error}");
}

#[test]
fn a_package_written_by_the_page_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = AdapterManifest::parse(&example(), Path::new("example")).expect("a manifest");
    let page = page();
    let (_, listed) = page.split_once("Its tensors are ").expect("the list of tensors");
    let (listed, _) = listed.split_once("\n\n").expect("its end");
    // Names and shapes stand alternately in backticks.
    let parts: Vec<&str> = listed.split('`').skip(1).step_by(2).collect();
    let tensors: Vec<_> = parts
        .chunks_exact(2)
        .map(|pair| {
            let shape: Vec<usize> = serde_json::from_str(pair[1]).expect("a shape");
            let values = vec![0.5; shape.iter().product()];
            AdapterTensor::new(pair[0], &shape, &values, WeightType::F32)
        })
        .collect();
    assert_eq!(tensors.len(), 8);
    let package = folder.path().join("tiny");
    AdapterPackage::write(&package, &manifest, &tensors).expect("a package");
    let read = Adapter::open(&package).expect("it verifies").manifest;
    assert_eq!(read.required_tensors().len() + 1, tensors.len());
}
