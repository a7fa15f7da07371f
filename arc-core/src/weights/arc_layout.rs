//! The checkpoint layouts of the public ARC-Encoder code, read and written.
//!
//! *Released*: `config.json` and `model.safetensors`, with the encoder under `embedder.` and the
//! projectors under `bridge_module.`. *Training*: `checkpoints/checkpoint_N/` with `params.json`,
//! `embedder/consolidated.safetensors` and `bridge_module/consolidated.safetensors`, which hold
//! only what was trained; the rest, and the sizes, are the backbone's. An [`ArcCheckpoint`] offers
//! either by the released names, and can be written in the released layout. Source: the public
//! code of ARC-Encoder, arXiv 2510.20535.
//!
//! Decoders have an index here and nowhere else: the layouts know them by no name.

use arc_adapters::setters;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::{Dtype, SafeTensors, tensor::TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    HfFolder, MappedBytes, MetaFolder, ModelArgs, RawTensor, SafetensorsFile, StorageType, TensorSource,
    eight_bit_blocks::{SCALES_SUFFIX, split},
    meta_folder::read_model_args,
};
use crate::bounded_file::{self, DESCRIPTION};
use crate::{Error, Result};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const PARAMS: &str = "params.json";
const CHECKPOINTS: &str = "checkpoints";
const TRAIN_ARGS: &str = "args.yaml";
const CONSOLIDATED: &str = "consolidated.safetensors";
const PICKLE: &str = "consolidated.00.pth";

/// What the released layout puts before the encoder's names.
const EMBEDDER: &str = "embedder.";
/// What the released layout puts before the projectors' names.
const BRIDGE: &str = "bridge_module.";

/// The tensors that each decoder has its own of.
const PER_DECODER: [&str; 3] = ["cont_tok", "rec_tok", "mem_embeddings"];

/// A configuration's `pooling_module`, as the file spells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct PoolingArgs {
    /// The kind of pooling, and whether only the queries are pooled.
    pub pool_type: String,
    /// Where in the block: `before` or `between`.
    #[serde(rename = "where")]
    pub place: String,
}

impl Default for PoolingArgs {
    fn default() -> Self {
        Self { pool_type: "mean_pooled_queries".to_owned(), place: "before".to_owned() }
    }
}

/// A configuration's `embedder_args` (training: `embedder_params`): how the encoder is cut from its
/// backbone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct EmbedderArgs {
    /// Blocks dropped from the end of the backbone.
    pub n_truncated_layers: usize,
    /// How and where the last blocks pool.
    pub pooling_module: PoolingArgs,
    /// Learned vectors appended to each sequence, whose final states are the latents.
    pub memory_tokens: usize,
    /// Whether there is a `<Rec>` vector for each decoder.
    pub rec_tok: bool,
    /// Whether there is a `<Cont>` vector for each decoder.
    pub cont_tok: bool,
    /// The rate of each pooling block; the last one's is the last.
    pub compress_rates: Vec<i64>,
    /// Blocks that were trained, from the end; may be more than there are.
    pub trained_layers: usize,
    /// Whether positions see only those before them.
    pub causal_embedder: bool,
    /// Whether the embedding table was trained.
    pub train_embedding_mtx: bool,
}

impl Default for EmbedderArgs {
    fn default() -> Self {
        Self {
            n_truncated_layers: 16,
            pooling_module: PoolingArgs::default(),
            memory_tokens: 0,
            rec_tok: false,
            cont_tok: false,
            compress_rates: Vec::new(),
            trained_layers: 0,
            causal_embedder: false,
            train_embedding_mtx: true,
        }
    }
}

/// What a projector is made of. No linear layer has a bias, and no activation is between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BridgeType {
    /// Two linear layers.
    Mlp,
    /// `RMSNorm` (epsilon 1e-5 whatever the backbone's), then two linear layers.
    Rms,
    /// One linear layer.
    Linear,
    /// Two linear layers, separate ones for each decoder.
    MultiModule,
}

/// A configuration's `bridge_args` (training: `bridge_module`): the projector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct BridgeArgs {
    /// What it is made of; nothing where latents go to the decoder as they are.
    pub bridge_type: Option<BridgeType>,
    /// The encoder's width.
    pub in_dim: usize,
    /// The decoder's width.
    pub out_dim: Option<usize>,
    /// The width between the two layers; that of the output where it is missing.
    pub hidden_dim: Option<usize>,
}

impl Default for BridgeArgs {
    fn default() -> Self {
        Self { bridge_type: None, in_dim: 4096, out_dim: None, hidden_dim: None }
    }
}

/// A released checkpoint's `config.json`. Fields that the encoder does not depend on are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ArcConfig {
    /// How the encoder is cut from its backbone.
    pub embedder_args: EmbedderArgs,
    /// The projector.
    pub bridge_args: BridgeArgs,
    /// The backbone's sizes.
    pub model_args: ModelArgs,
}

impl ArcConfig {
    /// The number of blocks that are left of the backbone.
    #[must_use]
    pub fn n_layers(&self) -> usize {
        self.model_args.n_layers.saturating_sub(self.embedder_args.n_truncated_layers)
    }

    /// Refuses values that contradict each other.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field; `path` is the configuration's file.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let invalid = |reason| Err(Error::InvalidConfig { path: path.to_owned(), reason });
        let Self { embedder_args: embedder, bridge_args: bridge, model_args: model } = self;
        model.validate(path)?;
        if embedder.n_truncated_layers >= model.n_layers {
            return invalid(format!(
                "`n_truncated_layers` is {}, expected less than `n_layers`, which is {}",
                embedder.n_truncated_layers, model.n_layers
            ));
        }
        if embedder.compress_rates.len() > self.n_layers() {
            return invalid(format!(
                "`compress_rates` has {} entries, expected at most one for each of the {} layers",
                embedder.compress_rates.len(),
                self.n_layers()
            ));
        }
        if embedder.memory_tokens > 0 && !embedder.compress_rates.is_empty() {
            return invalid(format!(
                "`compress_rates` is {:?}, expected none beside `memory_tokens`, which is {}",
                embedder.compress_rates, embedder.memory_tokens
            ));
        }
        if bridge.bridge_type.is_some() {
            if bridge.in_dim != model.dim {
                return invalid(format!(
                    "`in_dim` of the projector is {}, expected `dim`, which is {}",
                    bridge.in_dim, model.dim
                ));
            }
            if bridge.out_dim.is_none() {
                return invalid("`out_dim` of the projector is missing".to_owned());
            }
        }
        Ok(())
    }
}

/// A training checkpoint's `params.json`.
#[derive(Deserialize)]
struct TrainingParams {
    #[serde(default)]
    embedder_params: EmbedderArgs,
    #[serde(default)]
    bridge_module: BridgeArgs,
}

/// What a training checkpoint needs from elsewhere. What is not given is looked for where the
/// run's `args.yaml` says.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TrainingSources {
    /// The folder of the encoder's backbone, with `params.json`; its weights are read only where
    /// not every layer was trained.
    pub backbone: Option<PathBuf>,
    /// The folder with the `consolidated.safetensors` of the encoder that was kept frozen.
    pub frozen_encoder: Option<PathBuf>,
}

setters!(TrainingSources {
    backbone: Option<PathBuf>,
    frozen_encoder: Option<PathBuf>,
});

/// The two learned vectors of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Special {
    /// `<Cont>`: the latents are context for what follows.
    Cont,
    /// `<Rec>`: the text is to be reproduced.
    Rec,
}

/// The tensors of one projector, in the order in which they apply.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProjectorTensors {
    /// The weight of the `RMSNorm` before the layers, `[d_encoder]`.
    pub norm: Option<RawTensor>,
    /// The linear layers, `[d_out, d_in]` each.
    pub layers: Vec<RawTensor>,
}

/// A checkpoint in either layout, complete and checked against its configuration.
///
/// As a [`TensorSource`] it offers the tensors by their released names.
#[derive(Clone)]
pub struct ArcCheckpoint {
    path: PathBuf,
    config: ArcConfig,
    /// `config.json` as it is, or as it would be.
    config_text: String,
    /// The `__metadata__` of the released file.
    metadata: BTreeMap<String, String>,
    decoders: usize,
    parts: Vec<SourcePart>,
    tensors: BTreeMap<String, Place>,
}

/// A file or folder that tensors come from.
#[derive(Clone)]
struct SourcePart {
    source: Arc<dyn TensorSource>,
    /// What the released name has and the name in this part has not.
    strips: &'static str,
    /// Whether a tensor that is not used is an error.
    whole: bool,
}

#[derive(Clone, Debug)]
struct Place {
    part: usize,
    key: String,
}

impl fmt::Debug for ArcCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArcCheckpoint")
            .field("path", &self.path)
            .field("config", &self.config)
            .field("decoders", &self.decoders)
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}

impl SourcePart {
    /// The name in this part of the tensor with the released name `name`.
    fn key(&self, name: &str) -> Option<String> {
        let key = name.strip_prefix(self.strips)?;
        if self.source.has(key) {
            return Some(key.to_owned());
        }
        let old = old_spelling(key)?;
        self.source.has(&old).then_some(old)
    }

    /// How many decoders it has tensors of their own for.
    fn decoders(&self) -> usize {
        let count = |name: &str| {
            let bare = name.strip_prefix(EMBEDDER).unwrap_or(name);
            if let Some((group, rest)) = bare.split_once('.')
                && PER_DECODER.contains(&group)
            {
                // The old spelling has no index: there was one decoder.
                return rest.split_once('.').map_or(Some(1), |(index, _)| one_more(index));
            }
            let in_bridge = match name.strip_prefix(BRIDGE) {
                Some(rest) => rest,
                None if self.strips == BRIDGE => name,
                None => return None,
            };
            in_bridge.split_once('.').and_then(|(index, _)| one_more(index))
        };
        self.source.names().into_iter().filter_map(count).max().unwrap_or(0)
    }
}

fn one_more(index: &str) -> Option<usize> {
    index.parse::<usize>().ok()?.checked_add(1)
}

/// `rec_tok.weight` for `rec_tok.0.weight`: how checkpoints for a single decoder once spelled it.
fn old_spelling(key: &str) -> Option<String> {
    let group = key.strip_suffix(".0.weight")?;
    PER_DECODER.iter().any(|known| group.ends_with(known)).then(|| format!("{group}.weight"))
}

impl ArcCheckpoint {
    /// Opens a folder in either layout: a released one, a training checkpoint, or a training run,
    /// whose last checkpoint is taken.
    ///
    /// Weights are mapped and not read; see [`Self::check_finite`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::InvalidFile`] and [`Error::InvalidConfig`] for files that cannot be
    /// read, are corrupt, or contradict themselves; [`Error::MissingTensor`] and
    /// [`Error::TensorShape`] where the tensors are not what the configuration asks for;
    /// [`Error::InvalidFile`] for a tensor that it does not ask for.
    pub fn open(dir: impl AsRef<Path>, sources: &TrainingSources) -> Result<Self> {
        let dir = dir.as_ref();
        if dir.join(CONFIG).exists() {
            Self::open_released(dir)
        } else if dir.join(PARAMS).exists() {
            Self::open_training(dir, sources)
        } else if dir.join(CHECKPOINTS).is_dir() {
            Self::open_training(&last_checkpoint(&dir.join(CHECKPOINTS))?, sources)
        } else {
            Err(Error::InvalidConfig {
                path: dir.to_owned(),
                reason: format!("it has neither `{CONFIG}` nor `{PARAMS}` nor `{CHECKPOINTS}`"),
            })
        }
    }

    fn open_released(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG);
        let config_text = read_text(&path)?;
        let config = parse(&config_text, &path, CONFIG)?;
        let source = Arc::new(HfFolder::open(dir)?);
        let metadata = read_metadata(&dir.join(WEIGHTS))?;
        let parts = vec![SourcePart { source, strips: "", whole: true }];
        let decoders = parts.iter().map(SourcePart::decoders).max().unwrap_or(0).max(1);
        Self::check(dir, &path, config, config_text, metadata, decoders, parts)
    }

    fn open_training(dir: &Path, sources: &TrainingSources) -> Result<Self> {
        let path = dir.join(PARAMS);
        let params_text = read_text(&path)?;
        let params: TrainingParams = parse(&params_text, &path, PARAMS)?;
        let train_args = TrainArgs::read(dir)?;

        let own = |name: &str, strips| -> Result<SourcePart> {
            let source = Arc::new(open_consolidated(&dir.join(name))?);
            Ok(SourcePart { source, strips, whole: true })
        };
        let mut parts = vec![own("embedder", EMBEDDER)?];
        if params.bridge_module.bridge_type.is_some() {
            parts.push(own("bridge_module", BRIDGE)?);
        }
        let decoders = parts.iter().map(SourcePart::decoders).max().unwrap_or(0).max(1);

        let frozen = sources.frozen_encoder.clone().or_else(|| train_args.frozen_encoder.clone());
        if let Some(folder) = frozen {
            if !folder.exists() {
                return Err(Error::InvalidConfig {
                    path: train_args.path.clone().unwrap_or(path),
                    reason: format!(
                        "the encoder was frozen and its tensors are in `{}`, which is not here",
                        folder.display()
                    ),
                });
            }
            // It may have vectors for decoders of its own, which this checkpoint replaces.
            let source = Arc::new(open_consolidated(&folder)?);
            parts.push(SourcePart { source, strips: EMBEDDER, whole: false });
        }

        let backbone = sources.backbone.clone().or_else(|| train_args.backbone.clone());
        let Some(backbone) = backbone.filter(|backbone| backbone.exists()) else {
            return Err(Error::InvalidConfig {
                path,
                reason: "a training checkpoint does not say the encoder's sizes, \
                         and the folder of its backbone is not given or not here"
                    .to_owned(),
            });
        };
        let has_weights = [CONSOLIDATED, WEIGHTS].iter().any(|name| backbone.join(name).exists());
        let model_args = if has_weights {
            let folder = MetaFolder::open(&backbone)?;
            let args = folder.args().clone();
            parts.push(SourcePart { source: Arc::new(folder), strips: EMBEDDER, whole: false });
            args
        } else {
            read_model_args(&backbone.join(PARAMS))?
        };

        let config = ArcConfig {
            embedder_args: params.embedder_params,
            bridge_args: params.bridge_module,
            model_args,
        };
        let config_text = released_config(&config, &params_text, &path)?;
        Self::check(dir, &path, config, config_text, BTreeMap::new(), decoders, parts)
    }

    /// A checkpoint of tensors that are gathered under their released names, checked like one that
    /// is read from a folder: `path` is named in errors.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn from_tensors(
        path: &Path,
        config_text: String,
        metadata: BTreeMap<String, String>,
        tensors: Vec<RawTensor>,
    ) -> Result<Self> {
        let config = parse(&config_text, path, CONFIG)?;
        let tensors = tensors.into_iter().map(|tensor| (tensor.name().to_owned(), tensor)).collect();
        let source = Arc::new(TensorSet { path: path.to_owned(), tensors });
        let parts = vec![SourcePart { source, strips: "", whole: true }];
        let decoders = parts.iter().map(SourcePart::decoders).max().unwrap_or(0).max(1);
        Self::check(path, path, config, config_text, metadata, decoders, parts)
    }

    fn check(
        dir: &Path,
        config_path: &Path,
        config: ArcConfig,
        config_text: String,
        metadata: BTreeMap<String, String>,
        decoders: usize,
        parts: Vec<SourcePart>,
    ) -> Result<Self> {
        config.validate(config_path)?;
        let mut tensors = BTreeMap::new();
        let mut read: Vec<HashSet<String>> = vec![HashSet::new(); parts.len()];
        // Lazily, so that an absurd number of layers ends at the first tensor that is not there.
        for (name, shape) in expected_tensors(&config, decoders) {
            let place = parts.iter().enumerate().find_map(|(i, part)| Some((i, part.key(&name)?)));
            let Some((part, key)) = place else {
                // Of the parts that could hold it, the first is the checkpoint's own.
                let part = parts.iter().find(|part| name.starts_with(part.strips));
                return Err(part.or(parts.first()).map_or_else(
                    || Error::MissingTensor {
                        path: dir.to_owned(),
                        tensor: name.clone(),
                        nearest_name: None,
                    },
                    |part| part.source.missing(name.strip_prefix(part.strips).unwrap_or(&name)),
                ));
            };
            parts[part].source.tensor_of_shape(&key, &shape)?;
            read[part].insert(key.clone());
            tensors.insert(name, Place { part, key });
        }
        for (part, read) in parts.iter().zip(&read) {
            if part.whole {
                part.source.expect_all_read(read)?;
            }
        }
        Ok(Self { path: dir.to_owned(), config, config_text, metadata, decoders, parts, tensors })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &ArcConfig {
        &self.config
    }

    /// `config.json` as it is, or as it would be in the released layout.
    #[must_use]
    pub fn config_text(&self) -> &str {
        &self.config_text
    }

    /// The `__metadata__` of the released weights; empty for a training checkpoint.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The number of decoders that it was trained for.
    #[must_use]
    pub fn decoders(&self) -> usize {
        self.decoders
    }

    /// The names of the encoder's own tensors: all but the projectors and what each decoder has of
    /// its own.
    pub fn encoder_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str).filter(|name| {
            let group = name.strip_prefix(EMBEDDER).and_then(|name| name.split('.').next());
            group.is_some_and(|group| !PER_DECODER.contains(&group))
        })
    }

    /// A learned vector of a decoder, `[1, d_encoder]`; nothing where the configuration has none.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such decoder.
    pub fn special(&self, special: Special, decoder: usize) -> Result<Option<RawTensor>> {
        let group = match special {
            Special::Cont => "cont_tok",
            Special::Rec => "rec_tok",
        };
        self.of_decoder(group, decoder)
    }

    /// The memory vectors of a decoder, `[memory_tokens, d_encoder]`, where there are any.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such decoder.
    pub fn memory(&self, decoder: usize) -> Result<Option<RawTensor>> {
        self.of_decoder("mem_embeddings", decoder)
    }

    fn of_decoder(&self, group: &str, decoder: usize) -> Result<Option<RawTensor>> {
        self.expect_decoder(decoder)?;
        let name = format!("{EMBEDDER}{group}.{decoder}.weight");
        self.has(&name).then(|| self.tensor(&name)).transpose()
    }

    /// The projector of a decoder; nothing where latents go to it as they are.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such decoder.
    pub fn projector(&self, decoder: usize) -> Result<Option<ProjectorTensors>> {
        self.expect_decoder(decoder)?;
        let prefix = match self.config.bridge_args.bridge_type {
            None => return Ok(None),
            Some(BridgeType::MultiModule) => format!("{BRIDGE}{decoder}."),
            Some(_) => BRIDGE.to_owned(),
        };
        let part = |part: &str| -> Result<Option<RawTensor>> {
            let name = format!("{prefix}{part}.weight");
            self.has(&name).then(|| self.tensor(&name)).transpose()
        };
        let norm = part("norm")?;
        let layers = [part("layer1")?, part("layer2")?].into_iter().flatten().collect();
        Ok(Some(ProjectorTensors { norm, layers }))
    }

    fn expect_decoder(&self, decoder: usize) -> Result<()> {
        if decoder < self.decoders {
            return Ok(());
        }
        Err(Error::NotFound {
            kind: "decoder",
            name: decoder.to_string(),
            place: format!("in `{}`", self.path.display()),
            known: (0..self.decoders).map(|decoder| decoder.to_string()).collect(),
        })
    }

    /// Reads every tensor and refuses values that are not finite.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] that names the tensor and the place of the value.
    pub fn check_finite(&self) -> Result<()> {
        for name in self.tensors.keys() {
            let tensor = self.tensor(name)?;
            if let Some((index, value)) = first_not_finite(&tensor) {
                return Err(Error::InvalidFile {
                    path: tensor.path().to_owned(),
                    format: "checkpoint",
                    reason: format!("tensor `{name}` is {value} at {index}, expected finite values"),
                });
            }
        }
        Ok(())
    }

    /// Writes the released layout into `dir`, with the tensors of `changed` (by released name) in
    /// place of its own.
    ///
    /// Tensors that are not changed keep their bytes and types, `config.json` keeps its text, and
    /// a file that was written by the safetensors library is reproduced to the last byte.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] and [`Error::TensorShape`] if `changed` does not fit;
    /// [`Error::UnsupportedQuantisation`] for a type that safetensors lacks; [`Error::Io`].
    pub fn write_released(&self, dir: impl AsRef<Path>, changed: &[RawTensor]) -> Result<()> {
        let mut tensors = BTreeMap::new();
        for name in self.tensors.keys() {
            tensors.insert(name.as_str(), self.tensor(name)?);
        }
        for new in changed {
            let old = tensors.get_mut(new.name()).ok_or_else(|| self.missing(new.name()))?;
            new.expect_shape(old.shape())?;
            *old = new.clone();
        }
        let tensors: Vec<_> = tensors.into_values().collect();
        write_released(dir, &self.config_text, &tensors, &self.metadata)
    }
}

impl TensorSource for ArcCheckpoint {
    fn tensor(&self, name: &str) -> Result<RawTensor> {
        let place = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let part = self.parts.get(place.part).ok_or_else(|| self.missing(name))?;
        let stored = part.source.tensor(&place.key)?;
        RawTensor::new(name, stored.dtype(), stored.shape().to_vec(), stored.bytes().clone(), stored.path())
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

/// Tensors that were gathered from several files.
struct TensorSet {
    path: PathBuf,
    tensors: BTreeMap<String, RawTensor>,
}

impl TensorSource for TensorSet {
    fn tensor(&self, name: &str) -> Result<RawTensor> {
        self.tensors.get(name).cloned().ok_or_else(|| self.missing(name))
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

/// The released names and shapes of everything that a configuration asks for.
fn expected_tensors(config: &ArcConfig, decoders: usize) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
    let ArcConfig { embedder_args: embedder, bridge_args: bridge, model_args: model } = config;
    let table = ("tok_embeddings.weight".to_owned(), vec![model.vocab_size, model.dim]);
    let layers = (0..config.n_layers()).flat_map(|layer| model.layer_tensors(layer));

    let groups = [
        ("cont_tok", usize::from(embedder.cont_tok)),
        ("rec_tok", usize::from(embedder.rec_tok)),
        ("mem_embeddings", embedder.memory_tokens),
    ];
    let groups = groups.into_iter().filter(|(_, rows)| *rows > 0);
    let specials = groups.flat_map(move |(group, rows)| {
        (0..decoders).map(move |k| (format!("{group}.{k}.weight"), vec![rows, model.dim]))
    });
    let encoder = std::iter::once(table).chain(layers).chain(specials);

    let (d_in, d_out) = (bridge.in_dim, bridge.out_dim.unwrap_or(0));
    let hidden = bridge.hidden_dim.unwrap_or(d_out);
    let two_layers = || vec![("layer1.weight", vec![hidden, d_in]), ("layer2.weight", vec![d_out, hidden])];
    let (prefixes, parts) = match bridge.bridge_type {
        None => (0, Vec::new()),
        Some(BridgeType::Mlp) => (1, two_layers()),
        Some(BridgeType::Linear) => (1, vec![("layer1.weight", vec![d_out, d_in])]),
        Some(BridgeType::Rms) => (1, [vec![("norm.weight", vec![d_in])], two_layers()].concat()),
        Some(BridgeType::MultiModule) => (decoders, two_layers()),
    };
    let indexed = bridge.bridge_type == Some(BridgeType::MultiModule);
    let projectors = (0..prefixes).flat_map(move |k| {
        let prefix = if indexed { format!("{BRIDGE}{k}.") } else { BRIDGE.to_owned() };
        let parts = parts.clone().into_iter();
        parts.map(move |(part, shape)| (format!("{prefix}{part}"), shape))
    });
    encoder.map(|(name, shape)| (format!("{EMBEDDER}{name}"), shape)).chain(projectors)
}

/// What a run's `args.yaml` says of the checkpoint.
#[derive(Debug, Default, PartialEq)]
struct TrainArgs {
    /// The file, if it is there.
    path: Option<PathBuf>,
    backbone: Option<PathBuf>,
    frozen_encoder: Option<PathBuf>,
}

impl TrainArgs {
    /// Reads `args.yaml` of the run that `checkpoint` is of; a checkpoint on its own has none.
    fn read(checkpoint: &Path) -> Result<Self> {
        let run = fs::canonicalize(checkpoint).map_err(Error::io("open", checkpoint))?;
        let Some(path) = run.ancestors().nth(2).map(|run| run.join(TRAIN_ARGS)) else {
            return Ok(Self::default());
        };
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = read_text(&path)?;
        Ok(Self { path: Some(path), ..Self::parse(&text) })
    }

    /// Finds the few fields that matter. The file is written by one program, in YAML's block style
    /// with one field a line, so that no reader for all of YAML is needed.
    fn parse(text: &str) -> Self {
        let mut section = "";
        let mut frozen = false;
        let mut args = Self::default();
        let mut frozen_encoder = None;
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = scalar(value);
            let (indented, key) = (key.starts_with(' '), key.trim());
            if !indented {
                section = key;
            }
            match (indented, section, key) {
                (false, _, "freeze_embedder" | "freeze_encoder") => {
                    frozen |= value == Some("true");
                }
                (false, _, "embedder_path") => args.backbone = value.map(PathBuf::from),
                (true, "from_ckpt", "embedder_path") => frozen_encoder = value.map(PathBuf::from),
                _ => {}
            }
        }
        args.frozen_encoder = frozen_encoder.filter(|_| frozen);
        args
    }
}

/// A YAML scalar on one line, without its quotes; nothing for null.
fn scalar(text: &str) -> Option<&str> {
    let text = text.trim();
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote)) {
            return Some(inner);
        }
    }
    let text = text.split(" #").next().unwrap_or_default().trim_end();
    (!matches!(text, "" | "null" | "~")).then_some(text)
}

/// The checkpoint with the highest number that has a `params.json`.
fn last_checkpoint(folder: &Path) -> Result<PathBuf> {
    let mut last: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let entry = entry.map_err(Error::io("read", folder))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("checkpoint_"));
        let Some(number) = number.and_then(|number| number.parse().ok()) else {
            continue;
        };
        let path = entry.path();
        let newer = last.as_ref().is_none_or(|(last, _)| number > *last);
        if newer && path.join(PARAMS).exists() {
            last = Some((number, path));
        }
    }
    last.map(|(_, path)| path).ok_or_else(|| Error::InvalidConfig {
        path: folder.to_owned(),
        reason: format!("it has no `checkpoint_N` with a `{PARAMS}`"),
    })
}

fn open_consolidated(folder: &Path) -> Result<SafetensorsFile> {
    let (path, pickle) = (folder.join(CONSOLIDATED), folder.join(PICKLE));
    if !path.exists() && pickle.exists() {
        return Err(Error::InvalidFile {
            path: pickle,
            format: "safetensors",
            reason: "it is a torch pickle, which is not read: it can run code".to_owned(),
        });
    }
    SafetensorsFile::open(path)
}

/// The `config.json` of a training checkpoint: its own values as they are, and the sizes.
fn released_config(config: &ArcConfig, params: &str, path: &Path) -> Result<String> {
    let params: Value = parse(params, path, PARAMS)?;
    let of = |key: &str| params.get(key).cloned().unwrap_or_else(|| json!({}));
    let config = json!({
        "embedder_args": of("embedder_params"),
        "bridge_args": of("bridge_module"),
        "model_args": config.model_args,
    });
    serde_json::to_string_pretty(&config)
        .map_err(|error| Error::InvalidConfig { path: path.to_owned(), reason: error.to_string() })
}

fn read_text(path: &Path) -> Result<String> {
    bounded_file::read_text(path, DESCRIPTION)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, path: &Path, format: &'static str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::InvalidFile {
        path: path.to_owned(),
        format,
        reason: error.to_string(),
    })
}

/// The `__metadata__` of a safetensors file; none where the weights are in several files.
fn read_metadata(path: &Path) -> Result<BTreeMap<String, String>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let bytes = MappedBytes::map_file(path)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| Error::InvalidFile {
        path: path.to_owned(),
        format: "safetensors",
        reason: error.to_string(),
    })?;
    let metadata = header.metadata().iter().flatten();
    Ok(metadata.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// The place and value of the first value that is infinite or not a number.
fn first_not_finite(tensor: &RawTensor) -> Option<(usize, f32)> {
    // By bits and without a copy, as tables of billions of values pass here.
    let finite = |bytes: &[u8], exponent: u32| {
        let bits = bytes.iter().rev().fold(0_u32, |bits, &byte| bits << 8 | u32::from(byte));
        bits & exponent != exponent
    };
    let (width, exponent) = match tensor.dtype() {
        StorageType::F32 => (4, 0x7f80_0000),
        StorageType::F16 => (2, 0x7c00),
        StorageType::BF16 => (2, 0x7f80),
        _ => {
            return tensor.to_f32().into_iter().enumerate().find(|(_, value)| !value.is_finite());
        }
    };
    let index = tensor.bytes().chunks_exact(width).position(|bytes| !finite(bytes, exponent))?;
    tensor.to_f32().get(index).map(|&value| (index, value))
}

/// Writes a checkpoint in the released layout: `config` as it is, and `tensors` by their released
/// names with `metadata` as the safetensors library would write them.
///
/// # Errors
/// [`Error::UnsupportedQuantisation`] for a type that safetensors lacks; [`Error::Io`] if the
/// system refuses. Each file is complete or untouched.
pub fn write_released(
    dir: impl AsRef<Path>,
    config: &str,
    tensors: &[RawTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let dir = dir.as_ref();
    write_tensors(&dir.join(WEIGHTS), tensors, metadata)?;
    let path = dir.join(CONFIG);
    arc_adapters::write_atomically(&path, |file| {
        file.write_all(config.as_bytes()).map_err(Error::io("write", &path))
    })
}

/// Writes tensors as a safetensors file, in the order of the safetensors library. Their bytes go
/// from where they lie to the file; no copy is made.
///
/// # Errors
/// [`Error::UnsupportedQuantisation`] for a type that safetensors lacks; [`Error::Io`] if the
/// system refuses. The file is complete or untouched.
pub(crate) fn write_tensors(
    path: &Path,
    tensors: &[RawTensor],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut typed = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        typed.extend(StoredTensor::of(tensor)?);
    }
    // The order of the safetensors library: the widest type first, then by name.
    typed.sort_by(|left, right| right.dtype.cmp(&left.dtype).then_with(|| left.name.cmp(&right.name)));
    let header = header(&typed, metadata).map_err(|error| Error::InvalidFile {
        path: path.to_owned(),
        format: "safetensors",
        reason: error.to_string(),
    })?;
    arc_adapters::write_atomically(path, |file: &mut BufWriter<File>| {
        let parts = typed.iter().map(|tensor| &*tensor.bytes);
        let length = (header.len() as u64).to_le_bytes();
        for part in [length.as_slice(), &header].into_iter().chain(parts) {
            file.write_all(part).map_err(Error::io("write", path))?;
        }
        Ok(())
    })
}

/// A tensor as it stands in a safetensors file.
struct StoredTensor<'a> {
    dtype: Dtype,
    name: Cow<'a, str>,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl<'a> StoredTensor<'a> {
    /// The tensors that a file needs for one: `Q8_0` is integers and their scales.
    fn of(tensor: &'a RawTensor) -> Result<Vec<Self>> {
        let as_it_is = |dtype| Self {
            dtype,
            name: tensor.name().into(),
            shape: tensor.shape().to_vec(),
            bytes: Cow::Borrowed(&**tensor.bytes()),
        };
        match tensor.dtype() {
            StorageType::F32 => Ok(vec![as_it_is(Dtype::F32)]),
            StorageType::F16 => Ok(vec![as_it_is(Dtype::F16)]),
            StorageType::BF16 => Ok(vec![as_it_is(Dtype::BF16)]),
            StorageType::Q8_0 => {
                let (integers, scales, scales_shape) = split(tensor);
                Ok(vec![
                    Self { dtype: Dtype::I8, bytes: integers.into(), ..as_it_is(Dtype::I8) },
                    Self {
                        dtype: Dtype::F16,
                        name: format!("{}{SCALES_SUFFIX}", tensor.name()).into(),
                        shape: scales_shape,
                        bytes: scales.into(),
                    },
                ])
            }
            other => Err(Error::UnsupportedQuantisation {
                path: tensor.path().to_owned(),
                tensor: tensor.name().to_owned(),
                found: other.to_string(),
            }),
        }
    }
}

/// The header without its length. Built here and not by the library, whose metadata has no order.
fn header(typed: &[StoredTensor], metadata: &BTreeMap<String, String>) -> serde_json::Result<Vec<u8>> {
    /// The header is padded to a multiple of this.
    const ALIGNMENT: usize = 8;

    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut start = 0;
    for tensor in typed {
        let end = start + tensor.bytes.len();
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        let info = TensorInfo { dtype, shape, data_offsets: (start, end) };
        header.insert(tensor.name.to_string(), serde_json::to_value(info)?);
        start = end;
    }
    let mut bytes = serde_json::to_vec(&header)?;
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), b' ');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    const MODEL_ARGS: &str = r#"{"dim": 4, "n_layers": 2, "head_dim": 2, "hidden_dim": 6,
        "n_heads": 2, "n_kv_heads": 1, "norm_eps": 1e-05, "vocab_size": 5, "rope_theta": 500000.0}"#;
    const EMBEDDER_ARGS: &str = r#"{"causal_embedder": false, "compress_rates": [-4],
        "n_truncated_layers": 1, "pooling_module": {"pool_type": "mean_pooled_queries",
        "where": "before"}, "memory_tokens": 0, "trained_layers": 1, "train_embedding_mtx": true,
        "rec_tok": true, "cont_tok": true}"#;

    fn bridge(bridge_type: &str) -> String {
        format!(r#"{{"bridge_type": "{bridge_type}", "in_dim": 4, "hidden_dim": 3, "out_dim": 7}}"#)
    }

    /// The names that the reference gives the tensors of the encoder above, and their shapes.
    fn encoder(decoders: usize) -> Vec<(String, Vec<usize>)> {
        let layer = [
            ("layers.0.attention.wq.weight", vec![4, 4]),
            ("layers.0.attention.wk.weight", vec![2, 4]),
            ("layers.0.attention.wv.weight", vec![2, 4]),
            ("layers.0.attention.wo.weight", vec![4, 4]),
            ("layers.0.feed_forward.w1.weight", vec![6, 4]),
            ("layers.0.feed_forward.w2.weight", vec![4, 6]),
            ("layers.0.feed_forward.w3.weight", vec![6, 4]),
            ("layers.0.attention_norm.weight", vec![4]),
            ("layers.0.ffn_norm.weight", vec![4]),
            ("tok_embeddings.weight", vec![5, 4]),
        ];
        let mut tensors: Vec<_> = layer.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect();
        for k in 0..decoders {
            tensors.push((format!("rec_tok.{k}.weight"), vec![1, 4]));
            tensors.push((format!("cont_tok.{k}.weight"), vec![1, 4]));
        }
        tensors
    }

    fn two_layers(prefix: &str) -> Vec<(String, Vec<usize>)> {
        vec![(format!("{prefix}layer1.weight"), vec![3, 4]), (format!("{prefix}layer2.weight"), vec![7, 3])]
    }

    fn prefixed(prefix: &str, tensors: Vec<(String, Vec<usize>)>) -> Vec<(String, Vec<usize>)> {
        tensors.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape)).collect()
    }

    /// A file written by the safetensors library; each value is different from all others.
    fn write_file(path: &Path, tensors: &[(String, Vec<usize>)], first: f32) {
        let mut next = first;
        let mut values = |count: usize| -> Vec<u8> {
            let value = std::iter::repeat_with(|| {
                next += 1.0;
                next.to_le_bytes()
            });
            value.take(count).flatten().collect()
        };
        let data: Vec<_> = tensors.iter().map(|(_, shape)| values(shape.iter().product())).collect();
        let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
            (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap())
        });
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        let bytes = safetensors::serialize(views, Some(metadata)).unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn write_config(dir: &Path, embedder: &str, bridge: &str, model: &str) {
        let text = format!(
            "{{\n \"embedder_args\": {embedder},\n \"bridge_args\": {bridge},\n \
             \"model_args\": {model},\n \"empty_init\": 2\n}}"
        );
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join(CONFIG), text).unwrap();
    }

    /// A released checkpoint for two decoders.
    fn released(dir: &Path) -> Vec<(String, Vec<usize>)> {
        write_config(dir, EMBEDDER_ARGS, &bridge("multi_module"), MODEL_ARGS);
        let projectors = [two_layers("bridge_module.0."), two_layers("bridge_module.1.")].concat();
        let tensors = [prefixed(EMBEDDER, encoder(2)), projectors].concat();
        write_file(&dir.join(WEIGHTS), &tensors, 0.0);
        tensors
    }

    /// A training run for one decoder, with all of its encoder trained.
    fn trained(run: &Path) -> (PathBuf, TrainingSources) {
        let checkpoint = run.join("checkpoints/checkpoint_000020");
        let (backbone, params) = (run.join("backbone"), bridge("mlp"));
        write_file(&checkpoint.join("embedder").join(CONSOLIDATED), &encoder(1), 0.0);
        write_file(&checkpoint.join("bridge_module").join(CONSOLIDATED), &two_layers(""), 500.0);
        let params = format!(
            r#"{{"param_dtype": "float32", "embedder_params": {EMBEDDER_ARGS}, "bridge_module": {params}}}"#
        );
        fs::write(checkpoint.join(PARAMS), params).unwrap();
        fs::create_dir_all(&backbone).unwrap();
        fs::write(backbone.join(PARAMS), MODEL_ARGS).unwrap();
        (checkpoint, TrainingSources { backbone: Some(backbone), frozen_encoder: None })
    }

    fn open(dir: &Path) -> Result<ArcCheckpoint> {
        ArcCheckpoint::open(dir, &TrainingSources::default())
    }

    fn error_of(dir: &Path) -> String {
        open(dir).unwrap_err().to_string()
    }

    #[test]
    fn a_released_checkpoint_comes_back_to_the_last_byte() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let tensors = released(&from);
        let checkpoint = open(&from).unwrap();
        assert_eq!(checkpoint.decoders(), 2);
        assert_eq!(checkpoint.names().len(), tensors.len());
        checkpoint.write_released(&to, &[]).unwrap();
        for file in [CONFIG, WEIGHTS] {
            assert_eq!(fs::read(from.join(file)).unwrap(), fs::read(to.join(file)).unwrap());
        }
    }

    #[test]
    fn a_changed_tensor_changes_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        released(&from);
        let before = open(&from).unwrap();
        let name = "embedder.cont_tok.1.weight";
        let new = RawTensor::from_f32(name, vec![1, 4], &[9.0, 8.0, 7.0, 6.0]).unwrap();
        before.write_released(&to, std::slice::from_ref(&new)).unwrap();
        let after = open(&to).unwrap();
        for other in before.names() {
            let (old, new) = (before.tensor(other).unwrap(), after.tensor(other).unwrap());
            assert_eq!(old.bytes()[..] == new.bytes()[..], other != name, "{other}");
        }
        assert_eq!(after.special(Special::Cont, 1).unwrap().unwrap().to_f32(), new.to_f32());
        let stranger = RawTensor::from_f32("embedder.cont_tok.2.weight", vec![1, 4], &[0.0; 4]);
        assert!(before.write_released(&to, &[stranger.unwrap()]).is_err());
    }

    #[test]
    fn half_precision_keeps_its_type() {
        let dir = tempfile::tempdir().unwrap();
        released(&dir.path().join("from"));
        let checkpoint = open(&dir.path().join("from")).unwrap();
        let bytes = vec![0x80, 0x3f, 0x00, 0x40, 0x80, 0x3f, 0x00, 0x40];
        let name = "embedder.rec_tok.0.weight";
        let half = RawTensor::new(name, StorageType::BF16, vec![1, 4], bytes.into(), "(memory)").unwrap();
        let to = dir.path().join("to");
        checkpoint.write_released(&to, &[half]).unwrap();
        let again = open(&to).unwrap();
        assert_eq!(again.tensor(name).unwrap().dtype(), StorageType::BF16);
        assert_eq!(again.tensor(name).unwrap().to_f32(), [1.0, 2.0, 1.0, 2.0]);
        let third = dir.path().join("third");
        again.write_released(&third, &[]).unwrap();
        assert_eq!(fs::read(to.join(WEIGHTS)).unwrap(), fs::read(third.join(WEIGHTS)).unwrap());
    }

    #[test]
    fn each_decoder_has_its_own_projector_and_vectors() {
        let dir = tempfile::tempdir().unwrap();
        released(dir.path());
        let checkpoint = open(dir.path()).unwrap();
        let first = checkpoint.projector(0).unwrap().unwrap();
        let second = checkpoint.projector(1).unwrap().unwrap();
        assert!(first.norm.is_none());
        let shapes: Vec<_> = first.layers.iter().map(RawTensor::shape).collect();
        assert_eq!(shapes, [[3, 4], [7, 3]]);
        assert_ne!(first.layers[0].to_f32(), second.layers[0].to_f32());
        let file = SafetensorsFile::open(dir.path().join(WEIGHTS)).unwrap();
        let expected = file.tensor("bridge_module.1.layer2.weight").unwrap();
        assert_eq!(second.layers[1].to_f32(), expected.to_f32());
        assert_eq!(checkpoint.encoder_names().count(), 10);
        assert!(checkpoint.memory(0).unwrap().is_none());
        let error = checkpoint.projector(2).unwrap_err().to_string();
        assert!(error.contains("no decoder `2`"), "{error}");
    }

    #[test]
    fn every_kind_of_projector_has_its_tensors() {
        let layers = || two_layers(BRIDGE);
        let norm = vec![("bridge_module.norm.weight".to_owned(), vec![4])];
        let linear = vec![("bridge_module.layer1.weight".to_owned(), vec![7, 4])];
        for (kind, tensors, count) in
            [("mlp", layers(), 2), ("rms", [norm, layers()].concat(), 2), ("linear", linear, 1)]
        {
            let dir = tempfile::tempdir().unwrap();
            write_config(dir.path(), EMBEDDER_ARGS, &bridge(kind), MODEL_ARGS);
            let tensors = [prefixed(EMBEDDER, encoder(2)), tensors].concat();
            write_file(&dir.path().join(WEIGHTS), &tensors, 0.0);
            let checkpoint = open(dir.path()).unwrap();
            // One projector for both decoders, which have their own vectors.
            for decoder in 0..2 {
                let projector = checkpoint.projector(decoder).unwrap().unwrap();
                assert_eq!((projector.layers.len(), projector.norm.is_some()), (count, kind == "rms"));
            }
        }
    }

    #[test]
    fn a_missing_an_extra_and_a_misshapen_tensor_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let weights = dir.path().join(WEIGHTS);
        let tensors = released(dir.path());
        let without =
            |name: &str| -> Vec<_> { tensors.iter().filter(|(other, _)| other != name).cloned().collect() };

        let name = "embedder.layers.0.feed_forward.w2.weight";
        write_file(&weights, &without(name), 0.0);
        assert!(error_of(dir.path()).contains(&format!("no tensor `{name}`")));

        let bias = vec![("embedder.layers.0.attention.wq.bias".to_owned(), vec![4])];
        write_file(&weights, &[tensors.clone(), bias].concat(), 0.0);
        assert!(error_of(dir.path()).contains("`embedder.layers.0.attention.wq.bias`"));

        let narrow = vec![(name.to_owned(), vec![4, 5])];
        write_file(&weights, &[without(name), narrow].concat(), 0.0);
        let error = error_of(dir.path());
        assert!(error.contains(name) && error.contains("[4, 5], expected [4, 6]"), "{error}");
    }

    #[test]
    fn a_value_that_is_no_number_is_found_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        released(&dir.path().join("from"));
        let checkpoint = open(&dir.path().join("from")).unwrap();
        checkpoint.check_finite().unwrap();
        for (bad, said) in [(f32::NAN, "NaN"), (f32::NEG_INFINITY, "-inf")] {
            let name = "embedder.rec_tok.1.weight";
            let new = RawTensor::from_f32(name, vec![1, 4], &[1.0, f32::MAX, bad, 1.0]).unwrap();
            let to = dir.path().join(said);
            checkpoint.write_released(&to, &[new]).unwrap();
            let error = open(&to).unwrap().check_finite().unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}` is {said} at 2")), "{error}");
        }
    }

    #[test]
    fn a_configuration_that_contradicts_itself_or_the_tensors_is_refused_by_field() {
        let dir = tempfile::tempdir().unwrap();
        released(dir.path());
        let multi = bridge("multi_module");
        for (embedder, bridge, model, said) in [
            (
                EMBEDDER_ARGS.replace("layers\": 1,", "layers\": 2,"),
                multi.clone(),
                MODEL_ARGS.to_owned(),
                "`n_truncated_layers` is 2",
            ),
            (
                EMBEDDER_ARGS.replace("[-4]", "[-4, -4]"),
                multi.clone(),
                MODEL_ARGS.to_owned(),
                "`compress_rates` has 2",
            ),
            (
                EMBEDDER_ARGS.replace("tokens\": 0", "tokens\": 6"),
                multi.clone(),
                MODEL_ARGS.to_owned(),
                "`memory_tokens`",
            ),
            (
                EMBEDDER_ARGS.to_owned(),
                multi.replace("dim\": 4", "dim\": 8"),
                MODEL_ARGS.to_owned(),
                "`in_dim` of the projector is 8",
            ),
            (
                EMBEDDER_ARGS.to_owned(),
                multi.clone(),
                MODEL_ARGS.replace("kv_heads\": 1", "kv_heads\": 3"),
                "`n_kv_heads`",
            ),
            (
                EMBEDDER_ARGS.to_owned(),
                multi.clone(),
                MODEL_ARGS.replace("size\": 5", "size\": 6"),
                "expected [6, 4]",
            ),
            (
                EMBEDDER_ARGS.replace("rec_tok\": true", "rec_tok\": false"),
                multi.clone(),
                MODEL_ARGS.to_owned(),
                "`embedder.rec_tok.0.weight`",
            ),
            (EMBEDDER_ARGS.to_owned(), multi.replace("multi_module", "conv"), MODEL_ARGS.to_owned(), "conv"),
            (
                EMBEDDER_ARGS.to_owned(),
                multi.clone(),
                MODEL_ARGS.replace("n_layers\": 2", "n_layers\": 18446744073709551615"),
                "layers.1.",
            ),
        ] {
            write_config(dir.path(), &embedder, &bridge, &model);
            let error = error_of(dir.path());
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_training_checkpoint_is_the_released_one_under_other_names() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let (checkpoint, sources) = trained(&run);
        let by_run = ArcCheckpoint::open(&run, &sources).unwrap();
        assert_eq!(by_run.path(), checkpoint);
        assert_eq!(by_run.decoders(), 1);

        let to = dir.path().join("released");
        by_run.write_released(&to, &[]).unwrap();
        let again = open(&to).unwrap();
        assert_eq!(again.config(), by_run.config());
        assert_eq!(again.names(), by_run.names());
        let file = SafetensorsFile::open(checkpoint.join("bridge_module").join(CONSOLIDATED));
        let expected = file.unwrap().tensor("layer1.weight").unwrap();
        let got = again.tensor("bridge_module.layer1.weight").unwrap();
        assert_eq!(got.bytes()[..], expected.bytes()[..]);
    }

    #[test]
    fn the_last_checkpoint_is_the_one_with_the_highest_number_that_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, sources) = trained(dir.path());
        let checkpoints = checkpoint.parent().unwrap();
        fs::create_dir(checkpoints.join("checkpoint_100000")).unwrap();
        fs::create_dir(checkpoints.join("tmp.checkpoint_200000")).unwrap();
        let earlier = checkpoints.join("checkpoint_000003");
        fs::create_dir(&earlier).unwrap();
        fs::write(earlier.join(PARAMS), "{}").unwrap();
        assert_eq!(ArcCheckpoint::open(dir.path(), &sources).unwrap().path(), checkpoint);
    }

    #[test]
    fn old_spellings_without_an_index_are_decoder_0() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, sources) = trained(dir.path());
        let old = encoder(1).into_iter().map(|(name, shape)| (name.replace("_tok.0.", "_tok."), shape));
        let path = checkpoint.join("embedder").join(CONSOLIDATED);
        write_file(&path, &old.collect::<Vec<_>>(), 0.0);
        let opened = ArcCheckpoint::open(&checkpoint, &sources).unwrap();
        let file = SafetensorsFile::open(path).unwrap();
        let expected = file.tensor("rec_tok.weight").unwrap().to_f32();
        let got = opened.special(Special::Rec, 0).unwrap().unwrap();
        assert_eq!((got.name(), got.to_f32()), ("embedder.rec_tok.0.weight", expected));
    }

    #[test]
    fn layers_that_were_not_trained_come_from_the_backbone() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, sources) = trained(dir.path());
        let (table, trained): (Vec<_>, Vec<_>) =
            encoder(1).into_iter().partition(|(name, _)| name == "tok_embeddings.weight");
        write_file(&checkpoint.join("embedder").join(CONSOLIDATED), &trained, 0.0);
        let error = ArcCheckpoint::open(&checkpoint, &sources).unwrap_err().to_string();
        assert!(error.contains("no tensor `tok_embeddings.weight`"), "{error}");

        // A backbone has more than the encoder: a head, a last norm, the layers that are dropped.
        let more = vec![("output.weight".to_owned(), vec![5, 4])];
        let path = sources.backbone.clone().unwrap().join(CONSOLIDATED);
        write_file(&path, &[table, encoder(0), more].concat()[1..], 900.0);
        let opened = ArcCheckpoint::open(&checkpoint, &sources).unwrap();
        let first = |name: &str| opened.tensor(name).unwrap().to_f32()[0];
        assert!(first("embedder.tok_embeddings.weight") > 900.0);
        assert!(first("embedder.layers.0.attention.wq.weight") < 900.0);
    }

    #[test]
    fn a_frozen_encoder_comes_from_where_the_run_says_and_keeps_the_new_vectors() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        let (checkpoint, sources) = trained(&run);
        let vectors: Vec<_> = encoder(1).into_iter().filter(|(name, _)| name.contains("_tok.")).collect();
        write_file(&checkpoint.join("embedder").join(CONSOLIDATED), &vectors, 0.0);
        // The encoder was trained for two decoders, neither of which is this one.
        let frozen = dir.path().join("earlier/embedder");
        write_file(&frozen.join(CONSOLIDATED), &encoder(2), 900.0);
        let args = format!(
            "data:\n  prefix_path: null\nembedder_path: '{}'\nfreeze_embedder: true\n\
             from_ckpt:\n  bridge_path: null\n  do: true\n  embedder_path: {}\nseed: 0\n",
            sources.backbone.unwrap().display(),
            frozen.display()
        );
        fs::write(run.join(TRAIN_ARGS), &args).unwrap();

        let opened = open(&checkpoint).unwrap();
        assert_eq!(opened.decoders(), 1);
        let first = |name: &str| opened.tensor(name).unwrap().to_f32()[0];
        assert!(first("embedder.layers.0.attention.wq.weight") > 900.0);
        assert!(first("embedder.cont_tok.0.weight") < 900.0);

        fs::remove_dir_all(&frozen).unwrap();
        let error = error_of(&checkpoint);
        assert!(error.contains("frozen") && error.contains("earlier"), "{error}");
    }

    #[test]
    fn the_encoder_is_frozen_only_where_the_run_says_so() {
        let text = "embedder_path: /b # the backbone\nfrom_ckpt:\n  embedder_path: \"/a b\"\n";
        let args = TrainArgs::parse(text);
        assert_eq!((args.backbone, args.frozen_encoder), (Some("/b".into()), None));
        for key in ["freeze_embedder", "freeze_encoder"] {
            let args = TrainArgs::parse(&format!("{text}{key}: true\n"));
            assert_eq!(args.frozen_encoder, Some("/a b".into()));
        }
    }

    #[test]
    fn a_training_checkpoint_without_its_backbone_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, _) = trained(dir.path());
        assert!(error_of(&checkpoint).contains("backbone"));
        let error = error_of(&checkpoint.join("embedder"));
        assert!(error.contains("`config.json`") && error.contains("`params.json`"), "{error}");
    }

    #[test]
    fn a_cut_off_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        released(dir.path());
        let path = dir.path().join(WEIGHTS);
        let bytes = fs::read(&path).unwrap();
        for length in [0, 7, 40, bytes.len() - 1] {
            fs::write(&path, &bytes[..length]).unwrap();
            assert!(matches!(open(dir.path()), Err(Error::InvalidFile { .. })));
        }
    }
}
