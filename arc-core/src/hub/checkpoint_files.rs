//! The files that make a checkpoint of a repository of which a source names only one.
//!
//! `model.safetensors` is nothing without `config.json`, an index names the files that hold the weights,
//! and a part of a model is nothing without the others. They share the folder of the one that is named,
//! under their own names.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use arc_adapters::{ModelFile, ModelSource};
use serde_json::Value;

use super::pull_error;
use crate::bounded_file::{INDEX, read_json};
use crate::weights::{PartName, foreign_format};
use crate::{Error, Result};

/// What a checkpoint's index is called.
const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// What says of a checkpoint how its text is cut, where an answer ends and what a conversation looks like.
/// A repository has some of them. (`additional_chat_templates` holds templates for other uses than
/// conversation, which nothing here asks for.)
const SMALL_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// A file that belongs to a checkpoint.
#[derive(Debug, PartialEq)]
pub(super) struct Companion {
    /// Where it comes from.
    pub(super) model: ModelFile,
    /// Whether the checkpoint cannot be loaded without it.
    pub(super) required: bool,
}

/// The files that belong to a checkpoint whose named file lies at `path`; none for a file that is a
/// checkpoint by itself. An index that cannot be read names no files, and its reader says why.
pub(super) fn companions(model: &ModelFile, path: &Path) -> Vec<Companion> {
    let ModelSource::Hf { repo, revision, file } = &model.source else { return Vec::new() };
    let (folder, name) = match file.rsplit_once('/') {
        Some((folder, name)) => (format!("{folder}/"), name),
        None => (String::new(), file.as_str()),
    };
    let companion = |name: &str, required| Companion {
        model: ModelFile::unpinned(ModelSource::Hf {
            repo: repo.clone(),
            revision: revision.clone(),
            file: format!("{folder}{name}"),
        })
        .sha256(model.files.get(name).cloned()),
        // What is pinned is wanted.
        required: required || model.files.contains_key(name),
    };
    let part = PartName::parse(name).filter(|part| part.count > 1);
    if let Some(part) = part.as_ref().filter(|part| part.extension() == "gguf") {
        return part
            .all()
            .iter()
            .filter(|other| *other != name)
            .map(|other| companion(other, true))
            .collect();
    }
    let (config, weights) = match (name, part) {
        ("consolidated.safetensors", _) => ("params.json", Vec::new()),
        // Each of several files comes with the index that says what is in which.
        (name, Some(part)) if part.extension() == "safetensors" => {
            let others = part.all().into_iter().filter(|other| other != name);
            ("config.json", others.chain([format!("{}{INDEX_SUFFIX}", part.prefix())]).collect())
        }
        (name, None) if name.ends_with(".safetensors") => ("config.json", Vec::new()),
        (name, _) if name.ends_with(INDEX_SUFFIX) => ("config.json", shards(path)),
        _ => return Vec::new(),
    };
    let mut companions = vec![companion(config, true)];
    companions.extend(SMALL_FILES.map(|name| companion(name, false)));
    companions.extend(weights.iter().map(|name| companion(name, true)));
    companions
}

/// Refuses a file of a format that is not read, before all of it is fetched to find that out.
///
/// # Errors
/// [`Error::Pull`] that calls the format by its name.
pub(super) fn check_format(source: &ModelSource) -> Result<()> {
    let ModelSource::Hf { file, .. } = source else { return Ok(()) };
    match foreign_format::of_name(file) {
        None => Ok(()),
        Some(found) => Err(pull_error(
            &source.to_string(),
            format!("it is {found}, which is not supported"),
            "name a `.safetensors` or `.gguf` file of the repository, or of another",
        )),
    }
}

/// Refuses a pin of a file that does not belong to the checkpoint: it would be obeyed nowhere.
///
/// # Errors
/// [`Error::InvalidValue`] that names the file.
pub(super) fn check_pins(model: &ModelFile, companions: &[Companion]) -> Result<()> {
    let belongs = |name: &str| companions.iter().any(|companion| companion.file_name() == Some(name));
    match model.files.keys().find(|name| !belongs(name)) {
        None => Ok(()),
        Some(name) => Err(Error::InvalidValue {
            what: "a file that `files` pins".into(),
            found: name.clone(),
            expected: format!("one that belongs to `{}`", model.source),
        }),
    }
}

/// Whether all that cannot be done without lies beside the file at `path`.
pub(super) fn is_complete(model: &ModelFile, path: &Path) -> bool {
    companions(model, path)
        .iter()
        .filter(|companion| companion.required)
        .all(|companion| companion.path_beside(path).is_some_and(|path| path.is_file()))
}

impl Companion {
    /// Where it lies when the named file lies at `path`.
    fn path_beside(&self, path: &Path) -> Option<PathBuf> {
        Some(path.with_file_name(self.file_name()?))
    }

    /// Its name without its folder.
    fn file_name(&self) -> Option<&str> {
        let ModelSource::Hf { file, .. } = &self.model.source else { return None };
        file.rsplit('/').next()
    }
}

fn read_index(index: &Path) -> Option<Value> {
    read_json(index, INDEX).ok()
}

/// The bytes of all weights, if the file at `path` is an index that says so.
pub(super) fn total_size(path: &Path) -> Option<u64> {
    if !path.to_str()?.ends_with(INDEX_SUFFIX) {
        return None;
    }
    read_index(path)?.get("metadata")?.get("total_size")?.as_u64()
}

/// The files that an index names, each once.
fn shards(index: &Path) -> Vec<String> {
    let index = read_index(index);
    let weight_map = index.as_ref().and_then(|index| index.get("weight_map")).and_then(Value::as_object);
    let names: BTreeSet<&str> =
        weight_map.into_iter().flat_map(|map| map.values()).filter_map(Value::as_str).collect();
    // An index is data from elsewhere: it must not lead out of its folder.
    names
        .into_iter()
        .filter(|name| Path::new(name).file_name() == Some(name.as_ref()))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &str, path: &Path) -> Vec<(String, bool)> {
        let model = ModelFile::unpinned(source.parse().unwrap());
        let name = |companion: Companion| (companion.model.source.to_string(), companion.required);
        companions(&model, path).into_iter().map(name).collect()
    }

    #[test]
    fn an_index_brings_its_configuration_and_each_shard_once() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(
            &index,
            r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors", "w": "../c"}}"#,
        )
        .unwrap();
        let found = names("hf:o/r@main#sub/model.safetensors.index.json", &index);
        let required: Vec<_> =
            found.iter().filter(|(_, required)| *required).map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            required,
            ["hf:o/r@main#sub/config.json", "hf:o/r@main#sub/a.safetensors", "hf:o/r@main#sub/b.safetensors"]
        );
        let model = ModelFile::unpinned("hf:o/r@main#model.safetensors.index.json".parse().unwrap());
        for missing in ["config.json", "a.safetensors", "b.safetensors"] {
            assert!(!is_complete(&model, &index), "without {missing}");
            std::fs::write(folder.path().join(missing), "").unwrap();
        }
        assert!(is_complete(&model, &index));
    }

    #[test]
    fn a_part_brings_the_others_whichever_it_is() {
        let found = names("hf:o/r@main#q4/m-00002-of-00003.gguf", Path::new("x"));
        let expected = ["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"];
        assert_eq!(found, expected.map(|name| (format!("hf:o/r@main#q4/{name}"), true)));
        let found = names("hf:o/r@main#model-00001-of-00002.safetensors", Path::new("x"));
        let required: Vec<_> =
            found.iter().filter(|(_, required)| *required).map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            required,
            [
                "hf:o/r@main#config.json",
                "hf:o/r@main#model-00002-of-00002.safetensors",
                "hf:o/r@main#model.safetensors.index.json",
            ]
        );
        let folder = tempfile::tempdir().unwrap();
        let model = ModelFile::unpinned("hf:o/r@main#m-00001-of-00002.gguf".parse().unwrap());
        let path = folder.path().join("m-00001-of-00002.gguf");
        assert!(!is_complete(&model, &path));
        std::fs::write(folder.path().join("m-00002-of-00002.gguf"), "").unwrap();
        assert!(is_complete(&model, &path));
    }

    #[test]
    fn the_small_files_of_a_repository_come_with_its_weights() {
        let found = names("hf:o/r@main#model.safetensors", Path::new("x"));
        for name in ["chat_template.jinja", "special_tokens_map.json", "generation_config.json"] {
            assert!(found.contains(&(format!("hf:o/r@main#{name}"), false)), "{name}");
        }
    }

    #[test]
    fn formats_that_are_not_read_are_refused_before_they_are_fetched() {
        let check = |file: &str| check_format(&format!("hf:o/r@main#{file}").parse().unwrap());
        for (file, found) in [
            ("pytorch_model.bin", "a PyTorch checkpoint"),
            ("onnx/model.onnx", "an ONNX model"),
            ("tf_model.h5", "a TensorFlow checkpoint"),
        ] {
            let error = check(file).unwrap_err();
            assert!(
                error.to_string().ends_with(&format!("it is {found}, which is not supported")),
                "{error}"
            );
            assert!(error.hint().unwrap().to_string().contains(".gguf"));
        }
        for file in ["model.safetensors", "m.Q4_K_M.gguf", "tokenizer.json", "README"] {
            check(file).unwrap();
        }
    }

    #[test]
    fn a_gguf_file_is_complete_by_itself() {
        assert!(names("hf:o/r@main#model.gguf", Path::new("x")).is_empty());
        assert!(names("file:model.safetensors", Path::new("x")).is_empty());
        assert_eq!(names("hf:o/r@v#model.safetensors", Path::new("x"))[0].0, "hf:o/r@v#config.json");
        assert_eq!(names("hf:o/r@v#consolidated.safetensors", Path::new("x"))[0].0, "hf:o/r@v#params.json");
    }
}
