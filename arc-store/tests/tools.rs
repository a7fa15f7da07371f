//! pyarrow and DuckDB read a store without this project, and find in it what `Store::get` gives.

mod harness;
#[path = "../../tests/harness/notice.rs"]
mod notice;

use std::path::Path;
use std::process::Command;

use arc_store::{LatentCode, Quantiser, Settings, Store};
use harness::{WIDTH, add, document, ids, place, settings};
use serde_json::Value;

/// What the tools read, or `None` where they are not installed: `ARC_PYTHON` names a Python that has them.
fn read_with_tools(folder: &Path) -> Option<Value> {
    let python = std::env::var("ARC_PYTHON").unwrap_or_else(|_| "python3".into());
    let has_them = Command::new(&python).args(["-c", "import duckdb, numpy, pyarrow"]).output();
    if !has_them.is_ok_and(|output| output.status.success()) {
        notice::notice(format_args!(
            "left out: `{python}` has no pyarrow, duckdb and numpy (`ARC_PYTHON` names one that has)"
        ));
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_with_tools.py");
    let output = Command::new(python).arg(script).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[track_caller]
fn assert_same(store: &Store, read: &Value) {
    let documents = read["documents"].as_object().unwrap();
    let mut read_ids: Vec<&String> = documents.keys().collect();
    read_ids.sort();
    let expected_ids = ids(store);
    assert_eq!(read_ids, expected_ids.iter().collect::<Vec<_>>());
    for (id, read) in documents {
        let expected = store.get(id).unwrap();
        assert_eq!(read["title"].as_str(), expected.summary.title.as_deref());
        assert_eq!(read["source_uri"].as_str(), expected.summary.source_uri.as_deref());
        assert_eq!(read["sha256"].as_str(), Some(expected.summary.source_sha256.as_str()));
        assert_eq!(read["factor"].as_u64(), Some(u64::from(expected.summary.factor)));
        assert_eq!(read["tokens"].as_u64(), Some(expected.summary.tokens));
        assert_eq!(read["chunks"].as_u64(), Some(expected.summary.chunks));
        assert_eq!(read["text"].as_str(), expected.text().as_deref());
        let latents: Vec<f32> =
            read["latents"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        let expected = expected.latents();
        assert_eq!(latents.len(), expected.len());
        for (read, expected) in latents.iter().zip(&expected) {
            // Sums of centroids are rounded in another order.
            assert!((read - expected).abs() <= 1e-6, "{id}: {read} and {expected}");
        }
    }
    let manifest = store.manifest();
    let sum = |value: fn(&arc_store::Segment) -> u64| manifest.segments.iter().map(value).sum::<u64>();
    assert_eq!(read["rows"].as_u64(), Some(sum(|segment| segment.rows)));
    assert_eq!(read["duckdb"][0].as_u64(), Some(sum(|segment| segment.rows)));
    assert_eq!(read["duckdb"][2].as_u64(), Some(sum(|segment| segment.tokens)));
    assert_eq!(read["duckdb"][3].as_u64(), Some(sum(|segment| segment.latent_count)));
}

#[test]
fn other_tools_read_what_get_gives() {
    let folder = tempfile::tempdir().unwrap();
    let store =
        Store::init(place(folder.path()), Settings { latents: LatentCode::F16, ..settings(LatentCode::F16) });
    let store = store.unwrap();
    add(&store, (0..300).map(|n| document(&format!("d{n}"), n % 2, 1 + n as usize % 5)));
    add(&store, (0..20).map(|n| document(&format!("d{n}"), 2, 2)));
    store.remove(&["d40".into(), "d41".into()]).unwrap();
    let Some(read) = read_with_tools(folder.path()) else { return };
    assert_same(&store, &read);

    let sample: Vec<f32> =
        (0..300).flat_map(|n| document(&format!("d{n}"), 0, 3).chunks).flat_map(|c| c.latents).collect();
    store.set_codebooks(&Quantiser::train(&sample, WIDTH, 2, 2, 1).unwrap()).unwrap();
    add(&store, (400..420).map(|n| document(&format!("d{n}"), 0, 3)));
    assert_same(&store, &read_with_tools(folder.path()).unwrap());
}
