//! The numbers of a run as they come: one JSON object per line.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};
use arc_adapters::write_atomically;

/// What a step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepMetrics {
    /// The step, from 0.
    pub step: u64,
    /// The decoder's name.
    pub decoder: String,
    /// The objective's name.
    pub objective: String,
    /// How many tokens a latent stood for.
    pub factor: usize,
    /// The mean loss of the targets, nats per token.
    pub loss: f64,
    /// The norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// What the learning rates were multiplied by.
    pub rate: f64,
    /// Encoder tokens and targets of the step.
    pub tokens: usize,
    /// Encoder tokens and targets seen with this step, by the runs before too that the encoder goes on from;
    /// 0 where they are not counted.
    #[serde(default)]
    pub tokens_seen: u64,
    /// The share of positions that were padding.
    pub padding: f64,
    /// Seconds that the step took; where losses are read every few steps, the mean of those.
    pub seconds: f64,
    /// The process's resident memory, bytes.
    pub memory: u64,
    /// The most that it has been, where the system keeps count (Linux), bytes.
    #[serde(default)]
    pub peak_memory: Option<u64>,
}

/// A line of the metrics file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A step.
    Step(StepMetrics),
    /// A measurement on held-out text, after so many steps.
    Evaluation {
        /// Steps done.
        step: u64,
        /// What [`Evaluation::to_json`](super::Evaluation::to_json) gives.
        scores: serde_json::Value,
    },
}

impl Event {
    fn step(&self) -> u64 {
        match self {
            Self::Step(metrics) => metrics.step,
            // Of the state after the step before.
            Self::Evaluation { step, .. } => step.saturating_sub(1),
        }
    }
}

/// The metrics file of a run.
#[derive(Debug)]
pub(super) struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file to go on from a step: lines of that step and later ones, which a killed run
    /// left behind, are dropped.
    pub(super) fn open(path: &Path, step: u64) -> Result<Self> {
        let kept: Vec<Event> = read(path)?.into_iter().filter(|event| event.step() < step).collect();
        write_atomically(path, |file| {
            for event in &kept {
                writeln!(file, "{}", line(event, path)?).map_err(Error::io("write", path))?;
            }
            Ok::<_, Error>(())
        })?;
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io("open", path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Whether the run was measured after so many steps.
    pub(super) fn has_evaluation(&self, after: u64) -> Result<bool> {
        let events = read(&self.path)?;
        Ok(events.iter().any(|event| matches!(event, Event::Evaluation { step, .. } if *step == after)))
    }

    pub(super) fn write(&mut self, event: &Event) -> Result<()> {
        // One call, so that a kill leaves at most one line cut.
        let text = format!("{}\n", line(event, &self.path)?);
        self.file.write_all(text.as_bytes()).map_err(Error::io("write", &self.path))
    }
}

fn line(event: &Event, path: &Path) -> Result<String> {
    serde_json::to_string(event)
        .map_err(|error| Error::io("write", path)(std::io::Error::other(error.to_string())))
}

/// The events of a metrics file in order; none if there is no file. A last line that was cut off is
/// left out.
pub(super) fn read(path: &Path) -> Result<Vec<Event>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut events = Vec::new();
    for line in BufReader::new(file).lines() {
        let Ok(line) = line else { break };
        let Ok(event) = serde_json::from_str(&line) else { break };
        events.push(event);
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Event {
        Event::Step(StepMetrics {
            step,
            decoder: "d".into(),
            objective: "continuation".into(),
            factor: 4,
            loss: 1.5,
            gradient_norm: 0.5,
            rate: 1.0,
            tokens_seen: 0,
            tokens: 8,
            padding: 0.0,
            seconds: 0.1,
            memory: 1,
            peak_memory: None,
        })
    }

    #[test]
    fn going_on_drops_what_comes_again_and_a_line_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).unwrap();
        for number in 0..5 {
            file.write(&step(number)).unwrap();
        }
        file.file.write_all(b"{\"event\":\"st").unwrap();
        drop(file);
        let mut file = MetricsFile::open(&path, 3).unwrap();
        file.write(&step(3)).unwrap();
        assert_eq!(read(&path).unwrap(), (0..4).map(step).collect::<Vec<_>>());
    }
}
