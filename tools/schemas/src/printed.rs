//! What commands printed while tests ran, against the schemas of it.

use std::collections::BTreeMap;
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
        validators.insert(kind_of(&path), (validator, 0));
    }
    let (mut faults, mut count) = (Vec::new(), 0);
    for folder in folders {
        for entry in Path::new(folder).read_dir()? {
            let path = entry?.path();
            let value: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
            let kind = kind_of(&path);
            let Some((validator, seen)) = validators.get_mut(&kind) else {
                faults.push(format!("there is no schema of what `{kind}` prints: {value}"));
                continue;
            };
            if let Some(fault) = validator.fault(&value) {
                faults.push(format!("{kind}: {fault}\n  {value}"));
            }
            *seen += 1;
            count += 1;
        }
    }
    let never: Vec<&str> =
        validators.iter().filter(|(_, (_, seen))| *seen == 0).map(|(kind, _)| kind.as_str()).collect();
    println!("{count} objects of {} kinds; of {never:?} there was none", validators.len() - never.len());
    if count == 0 {
        return Err("nothing was printed: run the tests with `ARC_RECORDED_JSON` set to this folder".into());
    }
    match faults.is_empty() {
        true => Ok(()),
        false => Err(faults.join("\n").into()),
    }
}
