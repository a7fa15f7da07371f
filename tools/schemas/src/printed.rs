//! What commands printed while tests ran, against the schemas of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Result, Validator, repository};

/// The schemas of what is printed.
pub(crate) fn schemas() -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in repository().join("schemas/output").read_dir()? {
        paths.push(entry?.path());
    }
    paths.sort();
    Ok(paths)
}

/// The command of a schema, `ask` of `ask.schema.json`, or of a recorded object, `ask` of `ask.0123.json`.
fn kind_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

pub(crate) fn check(folders: &[&str]) -> Result<()> {
    let mut validators = BTreeMap::new();
    for path in schemas()? {
        let validator = Validator::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let schema: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        validators.insert(kind_of(&path), (validator, schema, BTreeSet::new(), 0));
    }
    let (mut faults, mut count) = (Vec::new(), 0);
    for folder in folders {
        for entry in Path::new(folder).read_dir()? {
            let path = entry?.path();
            let value: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            let kind = kind_of(&path);
            let Some((validator, _, keys, seen)) = validators.get_mut(&kind) else {
                faults.push(format!("there is no schema of what `{kind}` prints: {value}"));
                continue;
            };
            if let Some(fault) = validator.fault(&value) {
                faults.push(format!("{kind}: {fault}\n  {value}"));
            }
            keys_of(&value, keys);
            *seen += 1;
            count += 1;
        }
    }
    for (kind, (_, schema, keys, seen)) in &validators {
        if *seen == 0 {
            faults.push(format!("no command printed what `{kind}.schema.json` describes"));
            continue;
        }
        let mut described = BTreeSet::new();
        described_keys(schema, &mut described);
        let never: Vec<&String> = described.difference(keys).collect();
        if !never.is_empty() {
            faults.push(format!("{kind}: described and never printed: {never:?}"));
        }
    }
    println!("{count} objects of {} kinds", validators.len());
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n").into()),
    }
}

/// Every key in a value.
fn keys_of(value: &Value, keys: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                keys.insert(key.clone());
                keys_of(value, keys);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys_of(value, keys)),
        _ => {}
    }
}

/// Every key that a schema describes in itself; what it refers to elsewhere is checked there. One whose
/// description says that it is rare need not have been seen.
fn described_keys(schema: &Value, keys: &mut BTreeSet<String>) {
    let Some(object) = schema.as_object() else { return };
    for (name, value) in object {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for (key, property) in properties {
                    let is_rare = property["$comment"] == "rare";
                    keys.extend((!is_rare).then(|| key.clone()));
                    described_keys(property, keys);
                }
            }
            (_, Value::Object(_)) => {
                if name == "$defs" || name == "patternProperties" {
                    value
                        .as_object()
                        .into_iter()
                        .flatten()
                        .for_each(|(_, value)| described_keys(value, keys));
                } else {
                    described_keys(value, keys);
                }
            }
            (_, Value::Array(values)) => values.iter().for_each(|value| described_keys(value, keys)),
            _ => {}
        }
    }
}
