//! What a run begins from, or goes on from: its folder, its last checkpoint, and what it reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arc_adapters::{Adapter, sha256_file, sha256_hex};

use super::checkpoint::{Checkpoint, CheckpointState, Checkpoints};
use super::config::{RunConfig, Start, TrainPrecision};
use super::corpus::Mixture;
use super::package::EncoderStart;
use super::ranks::{Ranks, Role, RunIdentity};
use crate::decoder::Decoder;
use crate::encoder::encoder_id;
use crate::{Error, Hint, Result};

/// The configuration of a run, in its folder.
pub(super) const CONFIG_FILE: &str = "config.json";
/// The folder of its checkpoints, there too.
pub(super) const CHECKPOINTS: &str = "checkpoints";
/// What the hashes of a decoder's weights and of its table are called among a run's inputs, up to its name.
const DECODER_INPUT: &str = "decoder `";
const TABLE_INPUT: &str = "table of decoder `";

/// A run's configuration as it stands in its folder.
pub(super) fn written_config(config: &RunConfig, folder: &Path) -> Result<String> {
    // As text, whatever the name of a folder is: JSON holds no other.
    let written = |path: &Path| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        PathBuf::from(absolute.to_string_lossy().into_owned())
    };
    json(&config.with_paths(written), folder)
}

/// The sha256 of a configuration: what lies at the paths counts, and not how they are spelled.
pub(super) fn config_sha256(config: &RunConfig, folder: &Path) -> Result<String> {
    Ok(sha256_hex(json(&config.with_paths(|_| PathBuf::new()), folder)?.as_bytes()))
}

fn json(config: &RunConfig, folder: &Path) -> Result<String> {
    serde_json::to_string_pretty(config).map_err(|error| Error::Io {
        action: "write",
        path: folder.join(CONFIG_FILE),
        source: error.into(),
    })
}

/// What a run goes on from.
pub(super) struct Beginning {
    pub(super) last: Option<Checkpoint>,
    /// The connection to rank 0, of a process that is not rank 0.
    pub(super) follows: Option<Ranks>,
    /// What is wrong with later checkpoints than the last sound one.
    pub(super) damaged: Vec<Error>,
}

/// Finds the checkpoint that a run goes on from, and refuses one of another run.
pub(super) fn begin(
    checkpoints: &Checkpoints,
    (config_sha256s, shared_sha256, config_json): (&[String], &str, &str),
    out: &Path,
    resume: bool,
    role: &Role,
) -> Result<Beginning> {
    let follows = match role {
        // Rank 0 answers once there is a checkpoint to begin from.
        Role::Follower { leader, rank, count } => {
            let run = RunIdentity { config_sha256: shared_sha256, count: *count };
            Some(Ranks::join(leader, *rank, run)?)
        }
        Role::Alone | Role::Leader { .. } => None,
    };
    let (last, damaged) = if resume || follows.is_some() { checkpoints.last()? } else { (None, Vec::new()) };
    let follows = match follows {
        Some((ranks, step)) if last.as_ref().is_some_and(|last| last.state.step == step) => Some(ranks),
        Some((_, step)) => {
            return Err(Error::Occupied {
                path: out.to_owned(),
                state: format!("does not have rank 0's checkpoint of step {step} as its last"),
                hint: "give all ranks the same folder".into(),
            });
        }
        None => None,
    };
    if follows.is_some() {
        // What rank 0 writes is rank 0's to sweep.
    } else if resume {
        // A run that was killed before its first checkpoint has left its configuration, or nothing.
        let is_run = last.is_some()
            || std::fs::read_to_string(out.join(CONFIG_FILE)).is_ok_and(|text| text == config_json);
        let is_left = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(".tmp");
        let holds_more = out.read_dir().is_ok_and(|entries| entries.flatten().any(|entry| !is_left(entry)));
        if !is_run && holds_more {
            return Err(Error::Occupied {
                path: out.to_owned(),
                state: "holds no run of this configuration to go on with".into(),
                hint: "name another folder".into(),
            });
        }
        checkpoints.sweep(out)?;
    } else if out.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::Occupied {
            path: out.to_owned(),
            state: "is not empty".into(),
            hint: Hint::ResumeOrElsewhere,
        });
    }
    match &last {
        Some(checkpoint) if !config_sha256s.contains(&checkpoint.state.config_sha256) => {
            Err(Error::Mismatch {
                what: format!("checkpoint `{}` (sha256 of its configuration)", checkpoint.path().display()),
                expected: checkpoint.state.config_sha256.clone(),
                found: config_sha256s[0].clone(),
                hint: Hint::ResumeWith(out.join(CONFIG_FILE)),
            })
        }
        _ => Ok(Beginning { last, follows, damaged }),
    }
}

/// The sha256 of everything that a run reads, besides its configuration.
pub(super) fn inputs(
    config: &RunConfig,
    start: &EncoderStart,
    mixture: &Mixture,
    decoders: &[Decoder],
    hashes: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let mut inputs = BTreeMap::from([("encoder".to_owned(), encoder_id(&start.manifest))]);
    for (number, (corpus, _)) in mixture.corpora().iter().enumerate() {
        let manifest = serde_json::json!(corpus.manifest).to_string();
        inputs.insert(format!("corpus {number}"), sha256_hex(manifest.as_bytes()));
    }
    for (number, questions) in config.data.questions.iter().enumerate() {
        inputs.insert(format!("questions {number}"), sha256_file(&questions.path)?);
    }
    for decoder in &config.decoders {
        if let Start::Package(folder) = &decoder.start {
            let sha256 = Adapter::open(folder)?.manifest.weights.sha256;
            inputs.insert(format!("start of decoder `{}`", decoder.name), sha256);
        }
    }
    for decoder in decoders {
        inputs.insert(format!("{DECODER_INPUT}{}`", decoder.name), hashes[&decoder.name].clone());
        inputs.insert(format!("{TABLE_INPUT}{}`", decoder.name), decoder.embedding_sha256().to_owned());
    }
    Ok(inputs)
}

/// Refuses to go on with other text or models than a run began with.
pub(super) fn check_inputs(
    before: &CheckpointState,
    precision: TrainPrecision,
    now: &BTreeMap<String, String>,
) -> Result<()> {
    // A decoder's weights in memory are others in another precision; its table is not.
    let same_precision = before.parts.last().is_none_or(|part| part.precision == precision);
    for (name, found) in now {
        let expected = before.inputs.get(name).map(String::as_str);
        let is_compared = match name {
            name if name.starts_with(DECODER_INPUT) => same_precision,
            // Checkpoints of earlier builds have none.
            name if name.starts_with(TABLE_INPUT) => expected.is_some(),
            _ => true,
        };
        let expected = expected.unwrap_or("none");
        if is_compared && expected != found {
            return Err(Error::Mismatch {
                what: format!("{name} (sha256 since the run began)"),
                expected: expected.to_owned(),
                found: found.clone(),
                hint: Hint::PutBackOrElsewhere,
            });
        }
    }
    Ok(())
}
