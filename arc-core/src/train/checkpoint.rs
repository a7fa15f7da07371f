//! The state of a run in one file: weights, optimiser, and where the run is.
//!
//! The file is a safetensors file: `weights.NAME`, `first.NAME` and `second.NAME` (the optimiser's
//! running means) for each trained parameter, flattened, and the rest as JSON in its metadata. The
//! place in the data and the random draws follow from the number of the step. It is written beside
//! its name and renamed, so a run that is killed, or meets a full disk, leaves the checkpoint
//! before it as it was.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::config::{RunConfig, ScheduleConfig};
use super::model::TrainedModel;
use super::optimizer::{AdamW, Moments};
use super::parameters::{flat, named_parameters, with_parameters};
use super::provenance::TrainingPart;
use crate::atomic_file::write_atomically;
use crate::weights::{SafetensorsFile, TensorSource as _};
use crate::{Error, Result};

/// The key of the JSON in the metadata.
const STATE: &str = "state";
const PREFIX: &str = "step-";
const SUFFIX: &str = ".safetensors";

/// Where a run is, besides its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

    /// The last checkpoint, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::open`].
    pub fn last(&self) -> Result<Option<Checkpoint>> {
        self.steps().last().map(|&step| Checkpoint::open(&self.path(step))).transpose()
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
    /// Reads a checkpoint's state and maps its tensors.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], and [`Error::InvalidFile`] if it is cut off or no checkpoint.
    pub fn open(path: &Path) -> Result<Self> {
        let file = SafetensorsFile::open(path)?;
        let invalid =
            |reason: String| Error::InvalidFile { path: path.to_owned(), format: "checkpoint", reason };
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
    header.insert("__metadata__".into(), json!({ STATE: state }));
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
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed())?;
        file.write_all(header.as_bytes()).map_err(failed())?;
        for (name, tensor) in tensors {
            let data = tensor.into_data().convert::<f32>();
            let values = data
                .as_slice::<f32>()
                .map_err(|error| failed()(std::io::Error::other(format!("tensor `{name}`: {error:?}"))))?;
            file.write_all(bytemuck::cast_slice(values)).map_err(failed())?;
        }
        Ok(())
    })
}
