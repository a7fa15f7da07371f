//! `encoder.json`: an encoder as a backbone, what is cut off it, how it pools, and its weights.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{read_text, sync_folder};
use crate::manifest::{MAX_MANIFEST_BYTES, check_sha256, parse_versioned};
use crate::names::{check_file_name, check_name};
use crate::{EncoderPin, Error, ModelShape, ModelSource, Result, WeightsFile};

/// The schema number that this version reads and writes.
pub const ENCODER_SCHEMA: u32 = 1;

/// The name of the manifest inside an encoder package.
pub const ENCODER_FILE: &str = "encoder.json";

const WHAT: &str = "encoder manifest";

/// The content of `encoder.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EncoderManifest {
    /// [`ENCODER_SCHEMA`].
    pub schema: u32,
    /// The encoder's name: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// The identity of weights and settings, which adapters and latents files name.
    pub encoder_id: String,
    /// The architecture of its blocks: `llama`.
    pub architecture: String,
    /// Width of the latents.
    pub d_encoder: usize,
    /// How many of the backbone's layers are dropped from the end.
    pub n_truncated_layers: usize,
    /// How each of the last layers pools, the last entry for the last layer: `-p` groups p
    /// consecutive positions, `k` gives k groups, 0 gives one, -1 pools nothing.
    pub compress_rates: Vec<i64>,
    /// How a group of states becomes one, spelled as in the reference's configurations: `mean`,
    /// `last`, `sum`, `fusion`, `metric_kmeans_euclidean` or `metric_kmeans_cosine`, and
    /// `_pooled_queries` after it where keys and values stay unpooled.
    pub pool_type: String,
    /// Where in a block pooling happens.
    #[serde(rename = "where")]
    pub place: PoolingPlace,
    /// Whether the encoder masks later positions.
    #[serde(default)]
    pub causal: bool,
    /// How many learned vectors are appended whose final states are the latents; 0 for pooling.
    #[serde(default)]
    pub memory_tokens: usize,
    /// Longer texts are cut into chunks of at most this many tokens.
    pub chunk_tokens: usize,
    /// How many chunks a text had at most where the encoder's makers tried it. Longer texts are compressed
    /// all the same: what limits them is a decoder's window.
    #[serde(default = "default_max_chunks")]
    pub max_chunks: usize,
    /// The model that the blocks, embeddings and tokenizer are taken from. An encoder that has all
    /// of them in its package has none, and gives `shape` in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backbone: Option<Backbone>,
    /// The sizes of the whole model that the encoder was cut from, in Meta's layout of weights
    /// (rotary pairs are neighbours). Exactly one of this and `backbone` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<ModelShape>,
    /// The `tokenizer.json` in the package, for an encoder without a backbone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<WeightsFile>,
    /// What was trained.
    pub weights: EncoderWeights,
    /// The memory vectors (`mem_embeddings.weight`), where they are not among the weights: packages
    /// that differ in nothing else then have the same file of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<WeightsFile>,
    /// How rare the encoder's tokens are, for one whose groups end at rare words: a safetensors file of
    /// the package with `nats` and `joins`, one of each for every token. Without it groups are of equal
    /// size, as the reference's are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rarity: Option<WeightsFile>,
    /// How it was trained: data, steps, seeds. Free form, shown to users as it is.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub provenance: serde_json::Value,
}

impl EncoderManifest {
    /// An encoder of an architecture and a width that pools nothing yet, with chunks of so many tokens. What it
    /// was cut from, `backbone` or `shape`, has to be set, and its identity when all of it is known.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        architecture: impl Into<String>,
        d_encoder: usize,
        chunk_tokens: usize,
        weights: EncoderWeights,
    ) -> Self {
        Self {
            schema: ENCODER_SCHEMA,
            name: name.into(),
            encoder_id: String::new(),
            architecture: architecture.into(),
            d_encoder,
            n_truncated_layers: 0,
            compress_rates: Vec::new(),
            pool_type: "mean".to_owned(),
            place: PoolingPlace::default(),
            causal: false,
            memory_tokens: 0,
            chunk_tokens,
            max_chunks: default_max_chunks(),
            backbone: None,
            shape: None,
            tokenizer: None,
            weights,
            memory: None,
            rarity: None,
            provenance: serde_json::Value::Null,
        }
    }

    /// What an adapter pins of it.
    #[must_use]
    pub fn pin(&self) -> EncoderPin {
        EncoderPin::new(&self.name, &self.encoder_id)
    }
}

/// The paper's long documents have at most this many chunks.
fn default_max_chunks() -> usize {
    32
}

/// Where in its block a layer pools: `where` in a configuration of the reference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PoolingPlace {
    /// Before attention. The residual of the block is the pooled state.
    #[default]
    Before,
    /// After attention and its residual, before the feed-forward part.
    Between,
}

/// The model that an encoder starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Backbone {
    /// A decoder's name in the registry. Exactly one of this and `source` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<String>,
    /// Where the model file comes from, for a backbone that is not a decoder of the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<ModelSource>,
    /// SHA-256 of the model file.
    pub sha256: String,
}

impl Backbone {
    /// A decoder of the registry, and the SHA-256 of its model file.
    #[must_use]
    pub fn of_decoder(name: impl Into<String>, sha256: impl Into<String>) -> Self {
        Self { decoder: Some(name.into()), source: None, sha256: sha256.into() }
    }

    /// A model file that is no decoder of the registry, by where it comes from and its SHA-256.
    #[must_use]
    pub fn of_source(source: ModelSource, sha256: impl Into<String>) -> Self {
        Self { decoder: None, source: Some(source), sha256: sha256.into() }
    }
}

/// Which weights differ from the backbone's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum EncoderWeights {
    /// None: the backbone is used as it is.
    Backbone {},
    /// All of them, in a safetensors file of the package, under the names of the reference's
    /// encoder: `tok_embeddings.weight`, `layers.0.attention.wq.weight`, … and
    /// `mem_embeddings.weight` where there are memory tokens.
    Full {
        /// A file name in the package.
        file: String,
        /// SHA-256 of the file.
        sha256: String,
    },
    /// A low-rank delta on the backbone, in a safetensors file of the package.
    Lora {
        /// A file name in the package.
        file: String,
        /// SHA-256 of the file.
        sha256: String,
        /// Rank of the delta.
        rank: usize,
        /// The delta is `alpha / rank · B A`.
        alpha: f64,
    },
    /// Published elsewhere and not in this package: `arc import` fetches them and completes it.
    Published {
        /// The checkpoint's weights; its configuration lies beside them.
        source: ModelSource,
    },
}

impl EncoderManifest {
    /// Reads and checks the `encoder.json` of a package folder.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, otherwise as [`EncoderManifest::parse`].
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(ENCODER_FILE);
        Self::parse(&read_text(&path, WHAT, MAX_MANIFEST_BYTES)?, &path)
    }

    /// Reads a manifest and checks it; `origin` is the file named in errors.
    ///
    /// # Errors
    /// [`Error::UnsupportedSchema`] for another format version, [`Error::Invalid`] for anything
    /// that is not a manifest or contradicts itself.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let manifest: Self = parse_versioned(text, origin, (WHAT, "weights"), ENCODER_SCHEMA)?;
        manifest.check(origin)?;
        Ok(manifest)
    }

    /// Writes `encoder.json` into a package folder, which is made if it is not there. The file
    /// appears complete or not at all.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the manifest contradicts itself, [`Error::Io`] when it cannot be
    /// written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(ENCODER_FILE);
        self.check(&path)?;
        let mut json = serde_json::to_string_pretty(self).map_err(|e| Error::Invalid {
            path: path.clone(),
            what: WHAT,
            reason: e.to_string(),
        })?;
        json.push('\n');
        crate::atomic_file::replace(&path, |file| file.write_all(json.as_bytes()))?;
        sync_folder(folder)
    }

    /// Checks everything that can be checked without the weights.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first contradiction found.
    pub fn check(&self, origin: &Path) -> Result<()> {
        self.contradiction()
            .map_or(Ok(()), |reason| Err(Error::Invalid { path: origin.to_owned(), what: WHAT, reason }))
    }

    fn contradiction(&self) -> Option<String> {
        let check = || {
            if self.schema != ENCODER_SCHEMA {
                return Err(format!("schema is {}, expected {ENCODER_SCHEMA}", self.schema));
            }
            check_name("name", &self.name)?;
            for (field, text) in [
                ("encoder_id", &self.encoder_id),
                ("architecture", &self.architecture),
                ("pool_type", &self.pool_type),
            ] {
                if text.trim().is_empty() {
                    return Err(format!("`{field}` is empty"));
                }
            }
            for (field, n) in [
                ("d_encoder", self.d_encoder),
                ("chunk_tokens", self.chunk_tokens),
                ("max_chunks", self.max_chunks),
            ] {
                if !(1..=1 << 20).contains(&n) {
                    return Err(format!("`{field}` is {n}, expected 1 to {}", 1 << 20));
                }
            }
            if self.memory_tokens > 1 << 16 {
                return Err(format!(
                    "`memory_tokens` is {}, expected at most {}",
                    self.memory_tokens,
                    1 << 16
                ));
            }
            match (&self.backbone, &self.shape) {
                (Some(backbone), None) => backbone.check()?,
                (None, Some(shape)) => self.check_shape(shape)?,
                _ => return Err("either `backbone` or `shape` is needed, not both".to_owned()),
            }
            if let Some(tokenizer) = &self.tokenizer {
                if self.backbone.is_some() {
                    return Err("`tokenizer` is given, but the backbone has one".to_owned());
                }
                check_file_name("tokenizer.file", &tokenizer.file)?;
                check_sha256("tokenizer.sha256", &tokenizer.sha256)?;
            }
            if let Some(memory) = &self.memory {
                if self.memory_tokens == 0 || !matches!(self.weights, EncoderWeights::Full { .. }) {
                    return Err("`memory` is given, but not with `memory_tokens` and full weights".to_owned());
                }
                check_file_name("memory.file", &memory.file)?;
                check_sha256("memory.sha256", &memory.sha256)?;
            }
            if let Some(rarity) = &self.rarity {
                let pools_once = self.compress_rates.iter().filter(|&&rate| rate != -1).count() <= 1
                    && self.compress_rates.last().is_some_and(|&rate| rate < 0);
                if !pools_once || self.memory_tokens > 0 || self.pool_type.contains("kmeans") {
                    return Err("`rarity` is given, but it is of encoders whose last layer alone pools \
                                consecutive positions, by a factor"
                        .to_owned());
                }
                check_file_name("rarity.file", &rarity.file)?;
                check_sha256("rarity.sha256", &rarity.sha256)?;
            }
            match &self.weights {
                EncoderWeights::Backbone {} | EncoderWeights::Lora { .. } if self.backbone.is_none() => {
                    Err("`weights` is of a kind that needs a `backbone`".to_owned())
                }
                EncoderWeights::Backbone {} | EncoderWeights::Published { .. } => Ok(()),
                EncoderWeights::Full { file, sha256 } => {
                    check_file_name("weights.file", file)?;
                    check_sha256("weights.sha256", sha256)
                }
                EncoderWeights::Lora { file, sha256, rank, alpha } => {
                    check_file_name("weights.file", file)?;
                    check_sha256("weights.sha256", sha256)?;
                    if *rank == 0 || *rank > 1 << 16 || !alpha.is_finite() {
                        return Err(format!("`weights` has rank {rank} and alpha {alpha}"));
                    }
                    Ok(())
                }
            }
        };
        check().err()
    }

    fn check_shape(&self, shape: &ModelShape) -> Result<(), String> {
        shape.check("shape")?;
        if shape.d_model != self.d_encoder {
            return Err(format!(
                "`shape.d_model` is {}, expected `d_encoder`, which is {}",
                shape.d_model, self.d_encoder
            ));
        }
        if self.n_truncated_layers >= shape.n_layers {
            return Err(format!(
                "`n_truncated_layers` is {}, expected less than `shape.n_layers`, which is {}",
                self.n_truncated_layers, shape.n_layers
            ));
        }
        Ok(())
    }
}

impl Backbone {
    fn check(&self) -> Result<(), String> {
        check_sha256("backbone.sha256", &self.sha256)?;
        match (&self.decoder, &self.source) {
            (Some(name), None) => check_name("backbone.decoder", name),
            (None, Some(_)) => Ok(()),
            _ => Err("`backbone` needs either `decoder` or `source`".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"{
        "schema": 1, "name": "start", "encoder_id": "e", "architecture": "llama", "d_encoder": 576,
        "n_truncated_layers": 2, "compress_rates": [-1, -4],
        "pool_type": "mean_pooled_queries", "where": "before",
        "causal": false, "memory_tokens": 0, "chunk_tokens": 1024,
        "backbone": {"decoder": "smollm2-135m",
            "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
        "weights": {"kind": "backbone"}, "provenance": {"note": "untrained"}}"#;

    #[test]
    fn an_encoder_is_read_back_as_it_was_written() {
        let manifest = EncoderManifest::parse(EXAMPLE, Path::new("encoder.json")).unwrap();
        assert_eq!(manifest.compress_rates, [-1, -4]);
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("start");
        manifest.write(&package).unwrap();
        assert_eq!(EncoderManifest::open(&package).unwrap(), manifest);
        assert_eq!(std::fs::read_dir(&package).unwrap().count(), 1);
    }

    #[test]
    fn an_encoder_without_a_backbone_has_a_shape_and_its_own_weights() {
        let text = r#"{
            "schema": 1, "name": "whole", "encoder_id": "e", "architecture": "llama", "d_encoder": 8,
            "n_truncated_layers": 1, "compress_rates": [], "pool_type": "mean", "where": "between",
            "memory_tokens": 4, "chunk_tokens": 64,
            "shape": {"n_layers": 2, "d_model": 8, "n_heads": 2, "n_kv_heads": 1, "d_head": 4,
                "d_ff": 16, "vocab_size": 61, "norm_eps": 1e-5, "rope_theta": 10000.0},
            "weights": {"kind": "published", "source": "hf:O/R@main#model.safetensors"}}"#;
        let parse = |text: &str| EncoderManifest::parse(text, Path::new("encoder.json"));
        let manifest = parse(text).unwrap();
        assert_eq!(manifest.max_chunks, 32);
        assert!(manifest.backbone.is_none());
        let folder = tempfile::tempdir().unwrap();
        manifest.write(folder.path()).unwrap();
        assert_eq!(EncoderManifest::open(folder.path()).unwrap(), manifest);
        for (from, to, expected) in [
            ("\"d_model\": 8", "\"d_model\": 9", "`shape.d_model` is 9"),
            ("\"n_truncated_layers\": 1", "\"n_truncated_layers\": 2", "`n_truncated_layers` is 2"),
            ("\"n_kv_heads\": 1", "\"n_kv_heads\": 0", "`shape.n_kv_heads` is 0"),
            (
                "\"kind\": \"published\", \"source\": \"hf:O/R@main#model.safetensors\"",
                "\"kind\": \"backbone\"",
                "needs a `backbone`",
            ),
        ] {
            let bad = text.replacen(from, to, 1);
            assert_ne!(bad, text);
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for (from, to, expected) in [
            ("\"schema\": 1", "\"schema\": 9", "schema 9"),
            ("\"d_encoder\": 576", "\"d_encoder\": 0", "`d_encoder` is 0"),
            ("\"decoder\": \"smollm2-135m\",", "", "either `decoder` or `source`"),
            ("\"decoder\":", "\"source\": \"file:x\", \"decoder\":", "either `decoder` or `source`"),
            (
                "{\"kind\": \"backbone\"}",
                "{\"kind\": \"full\", \"file\": \"a/b\", \"sha256\": \"\"}",
                "weights.file",
            ),
            ("\"kind\": \"backbone\"", "\"kind\": 0", "`weights`: `kind` is `0`, expected its name"),
            ("\"mean_pooled_queries\"", "\" \"", "`pool_type` is empty"),
            ("\"before\"", "\"after\"", "unknown variant `after`"),
            (
                "\"weights\":",
                "\"tokenizer\": {\"file\": \"t\", \"sha256\": \"\"}, \"weights\":",
                "`tokenizer`",
            ),
            ("\"weights\":", "\"memory\": {\"file\": \"m\", \"sha256\": \"\"}, \"weights\":", "`memory`"),
            ("\"weights\":", "\"shape\": null, \"wheights\":", "unknown field `wheights`"),
            ("\"causal\"", "\"casual\"", "unknown field `casual`"),
        ] {
            let text = EXAMPLE.replacen(from, to, 1);
            assert_ne!(text, EXAMPLE);
            let error = EncoderManifest::parse(&text, Path::new("encoder.json")).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
