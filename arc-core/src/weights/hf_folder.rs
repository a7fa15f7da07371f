//! A model folder in Hugging Face's layout: `config.json` and one or several safetensors files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{PartName, RawTensor, SafetensorsFile, TensorSource, foreign_format, text_tensors};
use crate::bounded_file::{self, INDEX as INDEX_FILE, read_json};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// Parts of a configuration that only a model of more than text has.
const OF_WRAPPERS: [&str; 4] = ["text_config", "llm_config", "vision_config", "audio_config"];

/// A model folder, its weights mapped.
#[derive(Clone, Debug)]
pub struct HfFolder {
    path: PathBuf,
    config: Value,
    shards: Vec<SafetensorsFile>,
    /// By the name that a plain language model has for it: the index in `shards` of the file that holds a
    /// tensor, and its name there.
    tensors: BTreeMap<String, (usize, String)>,
}

impl HfFolder {
    /// Reads `config.json` and maps `model.safetensors`, or else the files that
    /// `model.safetensors.index.json` lists.
    ///
    /// Tensors are found by the names of a plain causal language model: those of a text model inside a
    /// multimodal one, or of a base model that was saved by itself, under what they would be called there.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::InvalidFile`] if one is cut off or corrupt,
    /// or if the index and its files do not hold the same tensors; [`Error::UnsupportedFormat`] if the
    /// weights are in a format, or quantised by a method, that is not read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        // A folder with neither gets the error of the file that is usual.
        let weights = if single.exists() || !index.exists() { single } else { index };
        Self::open_weights(dir, &weights)
    }

    /// As [`open`](Self::open), with the weights of a named file of a folder: one with all tensors, an
    /// index of several, or any of those several.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_file(file: impl AsRef<Path>) -> Result<Self> {
        let file = file.as_ref();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let index =
            PartName::parse(name).map(|part| file.with_file_name(format!("{}{INDEX_SUFFIX}", part.prefix())));
        Self::open_weights(
            file.parent().unwrap_or(Path::new("")),
            &index.filter(|index| index.exists()).unwrap_or_else(|| file.to_owned()),
        )
    }

    fn open_weights(dir: &Path, weights: &Path) -> Result<Self> {
        let config = read_json(&dir.join(CONFIG), bounded_file::CONFIG)?;
        let is_index = weights.to_str().is_some_and(|name| name.ends_with(INDEX_SUFFIX));
        let opened = if is_index {
            open_shards(dir, weights)
        } else {
            SafetensorsFile::open(weights).map(|shard| {
                let tensors = shard.names().into_iter().map(|name| (name.to_owned(), 0)).collect();
                (vec![shard], tensors)
            })
        };
        let (shards, stored) = opened.map_err(|error| {
            let instead = if weights.exists() {
                foreign_format::of_file(weights)
            } else {
                foreign_format::of_folder(dir)
            };
            instead.unwrap_or(error)
        })?;
        if let Some(error) = foreign_format::of_checkpoint(dir, &config, stored.keys().map(String::as_str)) {
            return Err(error);
        }
        let wraps = OF_WRAPPERS.iter().any(|part| config.get(part).is_some_and(Value::is_object));
        let names: Vec<&str> = stored.keys().map(String::as_str).collect();
        let tensors = text_tensors::by_usual_names(&names, wraps)
            .into_iter()
            .filter_map(|(usual, name)| Some((usual, (*stored.get(name)?, name.to_owned()))))
            .collect();
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
        let (shard, stored) = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        self.shards.get(*shard).ok_or_else(|| self.missing(name))?.tensor(stored)
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

/// Maps the files of a `weight_map` (tensor name to file name) and checks both ways that it is
/// what they hold.
fn open_shards(dir: &Path, index: &Path) -> Result<(Vec<SafetensorsFile>, BTreeMap<String, usize>)> {
    let invalid = |reason| Error::InvalidFile { path: index.to_owned(), format: "safetensors index", reason };
    let json: Value = read_json(index, INDEX_FILE)?;
    let weight_map = json.get("weight_map").and_then(Value::as_object);
    let weight_map = weight_map.ok_or_else(|| invalid("it has no `weight_map`".into()))?;

    let mut files = BTreeMap::new();
    for (tensor, file) in weight_map {
        let file =
            file.as_str().ok_or_else(|| invalid(format!("the file of tensor `{tensor}` is not a string")))?;
        // An index is data from elsewhere: it must not lead out of its folder.
        if Path::new(file).file_name() != Some(file.as_ref()) {
            return Err(invalid(format!("`{file}` is not a plain file name")));
        }
        files.insert(tensor, file);
    }
    let listed: BTreeSet<&str> = files.values().copied().collect();
    let missing: Vec<String> =
        listed.iter().filter(|file| !dir.join(file).exists()).map(|file| format!("`{file}`")).collect();
    if !missing.is_empty() {
        return Err(invalid(format!(
            "of the {} files that it lists, {} is missing",
            listed.len(),
            missing.join(", ")
        )));
    }

    let mut by_file = BTreeMap::new();
    let mut shards: Vec<SafetensorsFile> = Vec::new();
    let mut tensors = BTreeMap::new();
    for (tensor, file) in files {
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
    use std::fs;

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
        let reason =
            refusal(&sharded(&json!({ "one": "a.safetensors", "x": "c.safetensors", "y": "d.safetensors" })));
        let expected = "of the 3 files that it lists, `c.safetensors`, `d.safetensors` is missing";
        assert!(reason.ends_with(expected), "{reason}");
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
    fn a_named_file_is_opened_and_of_several_any_one_stands_for_all() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        write_shard(&dir.path().join("other.safetensors"), &[("one", 1.0)]);
        let folder = HfFolder::open_file(dir.path().join("other.safetensors")).unwrap();
        assert_eq!(folder.names(), ["one"]);
        for (name, tensor) in [("model-00001-of-00002", "two"), ("model-00002-of-00002", "three")] {
            write_shard(&dir.path().join(format!("{name}.safetensors")), &[(tensor, 2.0)]);
        }
        let map =
            json!({"two": "model-00001-of-00002.safetensors", "three": "model-00002-of-00002.safetensors"});
        fs::write(dir.path().join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
        for name in ["model-00002-of-00002.safetensors", INDEX] {
            assert_eq!(HfFolder::open_file(dir.path().join(name)).unwrap().names(), ["three", "two"]);
        }
        fs::remove_file(dir.path().join("model-00001-of-00002.safetensors")).unwrap();
        let reason =
            HfFolder::open_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap_err().to_string();
        assert!(reason.contains("`model-00001-of-00002.safetensors` is missing"), "{reason}");
    }

    #[test]
    fn what_stands_in_the_place_of_safetensors_is_called_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CONFIG), "{}").unwrap();
        fs::write(dir.path().join("pytorch_model.bin"), b"PK").unwrap();
        let reason = refusal(&dir);
        assert!(
            reason.ends_with("pytorch_model.bin` is a PyTorch checkpoint, which is not supported"),
            "{reason}"
        );
        write_shard(&dir.path().join(SINGLE), &[("model.layers.0.mlp.up_proj.qzeros", 1.0)]);
        assert!(refusal(&dir).ends_with("is quantised by GPTQ or AWQ, which is not supported"));
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
