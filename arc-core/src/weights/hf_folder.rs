//! A model folder in Hugging Face's layout: `config.json` and one or several safetensors files.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{RawTensor, SafetensorsFile, TensorSource};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A model folder, its weights mapped.
#[derive(Clone, Debug)]
pub struct HfFolder {
    path: PathBuf,
    config: Value,
    shards: Vec<SafetensorsFile>,
    /// The index in `shards` of the file that holds a tensor.
    tensors: BTreeMap<String, usize>,
}

impl HfFolder {
    /// Reads `config.json` and maps `model.safetensors`, or else the files that
    /// `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::InvalidFile`] if one is cut off or corrupt,
    /// or if the index and its files do not hold the same tensors.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let config = read_json(&dir.join(CONFIG), CONFIG)?;
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        // A folder with neither gets the error of the file that is usual.
        let (shards, tensors) = if single.exists() || !index.exists() {
            let shard = SafetensorsFile::open(&single)?;
            let tensors = shard.names().into_iter().map(|name| (name.to_owned(), 0)).collect();
            (vec![shard], tensors)
        } else {
            open_shards(dir, &index)?
        };
        Ok(Self { path: dir.to_owned(), config, shards, tensors })
    }

    /// The parsed `config.json`.
    #[must_use]
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// Where `config.json` is, for errors about it.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }
}

impl TensorSource for HfFolder {
    fn tensor(&self, name: &str) -> Result<RawTensor> {
        let shard = self.tensors.get(name).and_then(|&shard| self.shards.get(shard));
        shard.ok_or_else(|| self.missing(name))?.tensor(name)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn read_json(path: &Path, format: &'static str) -> Result<Value> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| Error::InvalidFile {
        path: path.to_owned(),
        format,
        reason: error.to_string(),
    })
}

/// Maps the files of a `weight_map` (tensor name to file name) and checks both ways that it is
/// what they hold.
fn open_shards(dir: &Path, index: &Path) -> Result<(Vec<SafetensorsFile>, BTreeMap<String, usize>)> {
    let invalid = |reason| Error::InvalidFile { path: index.to_owned(), format: "safetensors index", reason };
    let json = read_json(index, "safetensors index")?;
    let weight_map = json.get("weight_map").and_then(Value::as_object);
    let weight_map = weight_map.ok_or_else(|| invalid("it has no `weight_map`".into()))?;

    let mut by_file = BTreeMap::new();
    let mut shards: Vec<SafetensorsFile> = Vec::new();
    let mut tensors = BTreeMap::new();
    for (tensor, file) in weight_map {
        let file =
            file.as_str().ok_or_else(|| invalid(format!("the file of tensor `{tensor}` is not a string")))?;
        // An index is data from elsewhere: it must not lead out of its folder.
        if Path::new(file).file_name() != Some(file.as_ref()) {
            return Err(invalid(format!("`{file}` is not a plain file name")));
        }
        let shard = match by_file.get(file) {
            Some(&shard) => shard,
            None => {
                shards.push(SafetensorsFile::open(dir.join(file))?);
                by_file.insert(file, shards.len() - 1);
                shards.len() - 1
            }
        };
        if !shards.get(shard).is_some_and(|shard| shard.has(tensor)) {
            return Err(invalid(format!("`{file}` does not hold its tensor `{tensor}`")));
        }
        tensors.insert(tensor.clone(), shard);
    }
    for shard in &shards {
        if let Some(extra) = shard.names().into_iter().find(|name| !tensors.contains_key(*name)) {
            let shard = shard.path().display();
            return Err(invalid(format!("it does not list tensor `{extra}` of `{shard}`")));
        }
    }
    if tensors.is_empty() {
        return Err(invalid("its `weight_map` is empty".into()));
    }
    Ok((shards, tensors))
}

#[cfg(test)]
mod tests {
    use safetensors::{Dtype, tensor::TensorView};
    use serde_json::json;

    use super::*;

    /// Writes a file in which each tensor has the one value given.
    fn write_shard(path: &Path, tensors: &[(&str, f32)]) {
        let tensors: Vec<_> = tensors.iter().map(|(name, value)| (*name, value.to_le_bytes())).collect();
        let views =
            tensors.iter().map(|(name, bytes)| (*name, TensorView::new(Dtype::F32, vec![1], bytes).unwrap()));
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// A folder of two shards with this `weight_map`.
    fn sharded(weight_map: &Value) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), r#"{"model_type": "llama"}"#).unwrap();
        write_shard(&dir.path().join("a.safetensors"), &[("one", 1.0), ("two", 2.0)]);
        write_shard(&dir.path().join("b.safetensors"), &[("three", 3.0)]);
        let index = json!({ "metadata": {}, "weight_map": weight_map }).to_string();
        fs::write(dir.path().join(INDEX), index).unwrap();
        dir
    }

    fn refusal(dir: &tempfile::TempDir) -> String {
        HfFolder::open(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn tensors_are_found_in_the_shard_that_the_index_names() {
        let dir = sharded(&json!({
            "one": "a.safetensors", "two": "a.safetensors", "three": "b.safetensors"
        }));
        let folder = HfFolder::open(dir.path()).unwrap();
        assert_eq!(folder.config()["model_type"], "llama");
        assert_eq!(folder.names(), ["one", "three", "two"]);
        assert_eq!(folder.tensor("two").unwrap().to_f32(), [2.0]);
        assert_eq!(folder.tensor("three").unwrap().to_f32(), [3.0]);
        let error = folder.tensor("thre").unwrap_err().to_string();
        assert!(error.contains("the nearest is `three`"), "{error}");
    }

    #[test]
    fn tensors_that_the_model_did_not_read_are_named() {
        let dir = sharded(&json!({
            "one": "a.safetensors", "two": "a.safetensors", "three": "b.safetensors"
        }));
        let folder = HfFolder::open(dir.path()).unwrap();
        let mut read: std::collections::HashSet<_> = ["one".to_owned(), "two".to_owned()].into();
        let error = folder.expect_all_read(&read).unwrap_err().to_string();
        assert!(error.ends_with("the model does not use its tensors `three`"), "{error}");
        read.insert("three".to_owned());
        folder.expect_all_read(&read).unwrap();
    }

    #[test]
    fn a_single_file_needs_no_index() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        write_shard(&dir.path().join(SINGLE), &[("one", 1.0)]);
        let folder = HfFolder::open(dir.path()).unwrap();
        assert_eq!(folder.tensor("one").unwrap().to_f32(), [1.0]);
    }

    #[test]
    fn an_index_and_files_that_disagree_are_refused() {
        let reason = refusal(&sharded(&json!({ "one": "a.safetensors", "two": "a.safetensors",
            "three": "b.safetensors", "four": "b.safetensors" })));
        assert!(reason.ends_with("`b.safetensors` does not hold its tensor `four`"), "{reason}");
        let reason = refusal(&sharded(&json!({ "one": "a.safetensors" })));
        assert!(reason.contains("it does not list tensor `two`"), "{reason}");
        let reason = refusal(&sharded(&json!({ "one": "c.safetensors" })));
        assert!(reason.contains("cannot open") && reason.contains("c.safetensors"), "{reason}");
        assert!(refusal(&sharded(&json!({}))).ends_with("its `weight_map` is empty"));
        assert!(refusal(&sharded(&json!([]))).ends_with("it has no `weight_map`"));
    }

    #[test]
    fn an_index_cannot_lead_out_of_its_folder() {
        for file in ["../a.safetensors", "/etc/hosts", "x/a.safetensors", "..", ""] {
            let reason = refusal(&sharded(&json!({ "one": file })));
            assert!(reason.ends_with(&format!("`{file}` is not a plain file name")), "{reason}");
        }
    }

    #[test]
    fn a_missing_or_broken_config_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(refusal(&dir).contains("config.json"));
        fs::write(dir.path().join(CONFIG), "{").unwrap();
        assert!(refusal(&dir).contains("is not a valid config.json file"));
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        assert!(refusal(&dir).contains("model.safetensors"));
    }
}
