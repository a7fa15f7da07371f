//! The state of a run in one file: weights, optimiser, and where the run is.
//!
//! The file is a safetensors file: `weights.NAME`, `first.NAME` and `second.NAME` (the optimiser's
//! running means) for each trained parameter, flattened, and the rest as JSON in its metadata. The
//! place in the data and the random draws follow from the number of the step. It is written beside
//! its name and renamed, so a run that is killed, or meets a full disk, leaves the checkpoint
//! before it as it was. Its checksum, of all of its bytes with zeros in the checksum's place, stands in
//! its metadata, and nothing goes on from a file that has another.

use std::collections::BTreeMap;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::config::{RunConfig, ScheduleConfig};
use super::model::TrainedModel;
use super::optimizer::{AdamW, Moments};
use super::parameters::{flat, named_parameters, with_parameters};
use super::provenance::TrainingPart;
use crate::hub::sha256::{hash_at_most, hexadecimal};
use crate::weights::{SafetensorsFile, TensorSource as _};
use crate::{Error, Result};
use arc_adapters::write_atomically;

/// The key of the JSON in the metadata.
const STATE: &str = "state";
/// The key of the checksum.
const SHA256: &str = "sha256";
/// What stands in the place of the checksum while it is computed.
const NO_SHA256: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The key of the format's number. Files without it are of builds that wrote no checksum; that two keys say so
/// keeps a damaged one from passing for such a file.
const SCHEMA_KEY: &str = "schema";
const SCHEMA: &str = "2";
const PREFIX: &str = "step-";
const SUFFIX: &str = ".safetensors";

/// Where a run is, besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CheckpointState {
    /// Steps done.
    pub step: u64,
    /// The sha256 of the run's configuration, with which alone it can go on. Paths are not in it.
    pub config_sha256: String,
    /// The sha256 of what is found at the paths and under the names: corpora, questions, models.
    pub inputs: BTreeMap<String, String>,
    /// How often each parameter was updated.
    pub updates: BTreeMap<String, u64>,
    /// The running mean of each task's loss, which spikes are measured against.
    pub means: BTreeMap<String, f64>,
    /// The best held-out loss so far and its step.
    pub best: Option<(f64, u64)>,
    /// Seconds spent in steps.
    pub seconds: f64,
    /// Encoder and target tokens seen.
    pub tokens: u64,
    /// The first step of the decay of an open-ended schedule, once it has been begun.
    #[serde(default)]
    pub decay_from: Option<u64>,
    /// How many steps of this size went before in the runs that this one goes on from.
    #[serde(default)]
    pub steps_before: u64,
    /// What was computed in which precision, by what.
    #[serde(default)]
    pub parts: Vec<TrainingPart>,
}

impl CheckpointState {
    /// Before the first step of a run of this configuration, which reads these inputs.
    pub(super) fn beginning(config_sha256: String, inputs: BTreeMap<String, String>) -> Self {
        Self {
            step: 0,
            config_sha256,
            inputs,
            updates: BTreeMap::new(),
            means: BTreeMap::new(),
            best: None,
            seconds: 0.0,
            tokens: 0,
            decay_from: None,
            steps_before: 0,
            parts: Vec::new(),
        }
    }

    /// The state of a run that goes on as what `now` says of it. A checkpoint of an earlier build knows no
    /// parts.
    pub(super) fn going_on(self, now: Self, config: &RunConfig) -> Self {
        let mut parts = self.parts;
        if parts.is_empty() && self.step > 0 {
            let ScheduleConfig { batch, accumulation, .. } = config.schedule;
            parts.push(TrainingPart {
                precision: config.precision,
                steps: self.step,
                samples: self.step * (batch * accumulation) as u64,
                tokens: self.tokens,
                seconds: self.seconds,
                ..TrainingPart::default()
            });
        }
        Self { config_sha256: now.config_sha256, inputs: now.inputs, parts, ..self }
    }
}

/// A checkpoint that was read.
#[derive(Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Where the run is.
    pub state: CheckpointState,
    file: SafetensorsFile,
    path: PathBuf,
}

/// The checkpoints of one run.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// The checkpoints in a folder, of which the last `keep` and the best stay.
    #[must_use]
    pub fn new(folder: PathBuf, keep: usize) -> Self {
        Self { folder, keep }
    }

    /// The file of a step.
    #[must_use]
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(format!("{PREFIX}{step:08}{SUFFIX}"))
    }

    /// The steps that have a checkpoint, in order.
    #[must_use]
    pub fn steps(&self) -> Vec<u64> {
        let Ok(entries) = self.folder.read_dir() else { return Vec::new() };
        let mut steps: Vec<u64> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
            })
            .collect();
        steps.sort_unstable();
        steps
    }

    /// Deletes what a run that was killed while it wrote has left in a folder and in that of the
    /// checkpoints.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn sweep(&self, folder: &Path) -> Result<()> {
        for folder in [folder, &self.folder] {
            let Ok(entries) = folder.read_dir() else { continue };
            for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
                let is_left = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp"));
                if is_left && path.is_file() {
                    std::fs::remove_file(&path).map_err(Error::io("delete", &path))?;
                }
            }
        }
        Ok(())
    }

    /// The last checkpoint that is sound, if there is any checkpoint, and what is wrong with later ones.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open`] for the last one, where none is sound.
    pub fn last(&self) -> Result<(Option<Checkpoint>, Vec<Error>)> {
        let mut damaged = Vec::new();
        for step in self.steps().into_iter().rev() {
            match Checkpoint::open(&self.path(step)) {
                Ok(checkpoint) => return Ok((Some(checkpoint), damaged)),
                Err(error @ Error::InvalidFile { .. }) => damaged.push(error),
                Err(error) => return Err(error),
            }
        }
        match damaged.into_iter().next() {
            Some(last) => Err(last),
            None => Ok((None, Vec::new())),
        }
    }

    /// Writes a checkpoint and deletes those that are no longer kept.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; the earlier checkpoints are then as they were.
    pub fn save(&self, state: &CheckpointState, model: &TrainedModel, optimizer: &AdamW) -> Result<PathBuf> {
        let path = self.path(state.step);
        write(&path, state, model, optimizer)?;
        let steps = self.steps();
        let old = steps.len().saturating_sub(self.keep);
        let best = state.best.map(|(_, step)| step);
        for &step in steps.iter().take(old).filter(|&&step| Some(step) != best) {
            let path = self.path(step);
            std::fs::remove_file(&path).map_err(Error::io("delete", &path))?;
        }
        Ok(path)
    }
}

impl Checkpoint {
    /// Reads a checkpoint's state and maps its tensors, once its checksum is right.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] if it is cut off, damaged or no checkpoint.
    pub fn open(path: &Path) -> Result<Self> {
        let invalid =
            |reason: String| Error::InvalidFile { path: path.to_owned(), format: "checkpoint", reason };
        let file = SafetensorsFile::open(path).map_err(|error| match error {
            Error::InvalidFile { reason, .. } => invalid(reason),
            other => other,
        })?;
        match (file.meta(SCHEMA_KEY), file.meta(SHA256)) {
            (None, None) => {}
            (Some(SCHEMA), Some(expected)) => {
                if checksum(path, expected)? != expected {
                    return Err(invalid("its checksum is not the one that it was written with".into()));
                }
            }
            (schema, _) => {
                let schema = schema.unwrap_or("none");
                return Err(invalid(format!("its schema is `{schema}`, this build reads `{SCHEMA}`")));
            }
        }
        let state = file.meta(STATE).ok_or_else(|| invalid("its metadata has no `state`".into()))?;
        let state = serde_json::from_str(state).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { state, file, path: path.to_owned() })
    }

    /// Puts the weights into a model and the running means into an optimiser.
    ///
    /// # Errors
    ///
    /// [`Error::MissingTensor`] or [`Error::TensorShape`] if it is of another model.
    pub fn restore(
        &self,
        model: TrainedModel,
        optimizer: &mut AdamW,
        device: &Device,
    ) -> Result<TrainedModel> {
        let read = |kind: &str, name: &str, len: usize| -> Result<Tensor<1>> {
            let tensor = self.file.tensor_of_shape(&format!("{kind}.{name}"), &[len])?;
            Ok(flat(tensor.to_f32(), device))
        };
        let mut failed = None;
        let moments = &mut optimizer.moments;
        let model = with_parameters(model, &mut |name, _, value| {
            let len = value.dims()[0];
            let mut restore = || -> Result<Tensor<1>> {
                let weights = read("weights", name, len)?;
                if let Some(&updates) = self.state.updates.get(name) {
                    let (first, second) = (read("first", name, len)?, read("second", name, len)?);
                    moments.insert(name.to_owned(), Moments { first, second, updates });
                }
                Ok(weights)
            };
            match restore() {
                Ok(weights) => weights,
                Err(error) => {
                    failed.get_or_insert(error);
                    value
                }
            }
        });
        match failed {
            Some(error) => Err(error),
            None => Ok(model),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn write(path: &Path, state: &CheckpointState, model: &TrainedModel, optimizer: &AdamW) -> Result<()> {
    let mut tensors: Vec<(String, Tensor<1>)> = Vec::new();
    for (name, (_, value)) in named_parameters(model) {
        tensors.push((format!("weights.{name}"), value));
    }
    for (name, Moments { first, second, .. }) in &optimizer.moments {
        tensors.push((format!("first.{name}"), first.clone()));
        tensors.push((format!("second.{name}"), second.clone()));
    }
    let json_error =
        |error: serde_json::Error| Error::io("write", path)(std::io::Error::other(error.to_string()));
    // The header by hand: tensors go to the file one by one and are never all in host memory.
    let mut header = serde_json::Map::new();
    let state = serde_json::to_string(state).map_err(json_error)?;
    let metadata = json!({ SHA256: NO_SHA256, SCHEMA_KEY: SCHEMA, STATE: state });
    header.insert("__metadata__".into(), metadata);
    let mut offset = 0;
    for (name, tensor) in &tensors {
        let end = offset + 4 * tensor.dims()[0];
        let entry = json!({ "dtype": "F32", "shape": tensor.dims(), "data_offsets": [offset, end] });
        header.insert(name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_string(&header).map_err(json_error)?;
    // Tensor data begins at a multiple of 8 bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    write_atomically(path, |file| {
        let failed = || Error::io("write", path);
        let mut hasher = Sha256::new();
        let mut write = |bytes: &[u8]| {
            hasher.update(bytes);
            file.write_all(bytes).map_err(failed())
        };
        write(&(header.len() as u64).to_le_bytes())?;
        write(header.as_bytes())?;
        for (name, tensor) in tensors {
            let data = tensor.into_data().convert::<f32>();
            let values = data
                .as_slice::<f32>()
                .map_err(|error| failed()(std::io::Error::other(format!("tensor `{name}`: {error:?}"))))?;
            write(bytemuck::cast_slice(values))?;
        }
        let sha256 = hexadecimal(&hasher);
        // The metadata begins with it.
        let place = header.find(NO_SHA256).unwrap_or_default() + size_of::<u64>();
        file.seek(SeekFrom::Start(place as u64)).map_err(failed())?;
        file.write_all(sha256.as_bytes()).map_err(failed())
    })
}

/// The checksum of a file: the sha256 of its bytes with zeros in the place of `recorded`, which is in its
/// header.
fn checksum(path: &Path, recorded: &str) -> Result<String> {
    let failed = || Error::io("read", path);
    let mut file = BufReader::new(arc_adapters::open_file(path).map_err(failed())?);
    let mut hasher = Sha256::new();
    let mut length = [0; size_of::<u64>()];
    file.read_exact(&mut length).map_err(failed())?;
    hasher.update(length);
    let mut header = Vec::new();
    // It was parsed already, so that its length is sound.
    (&mut file).take(u64::from_le_bytes(length)).read_to_end(&mut header).map_err(failed())?;
    let recorded = recorded.as_bytes();
    if let Some(place) = header.windows(recorded.len().max(1)).position(|window| window == recorded) {
        header[place..place + recorded.len()].fill(b'0');
    }
    hasher.update(&header);
    hash_at_most(&mut file, u64::MAX, &mut [&mut hasher]).map_err(failed())?;
    Ok(hexadecimal(&hasher))
}
