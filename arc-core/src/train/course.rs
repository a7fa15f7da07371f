//! The course of training, of a run as of a registration: steps until all are done or it is asked to stop, with
//! what is logged, measured and kept on the way.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::Device;

use super::begin::{CHECKPOINTS, CONFIG_FILE};
use super::checkpoint::{Checkpoint, CheckpointState, Checkpoints};
use super::config::RunConfig;
use super::draw::{Purpose, mix};
use super::evaluation::Evaluation;
use super::metrics::{Event, MetricsFile, StepMetrics, read};
use super::model::TrainedModel;
use super::observer::Observer;
use super::optimizer::AdamW;
use super::parameters::{parameters_sha256, with_parameters};
use super::provenance::{self, TrainingPart};
use super::report_page::write_page;
use super::runner::{MeasuredSamples, Pending, Runner};
use super::step::synchronise;
use crate::decoder::Decoder;
use crate::{Error, Result};

/// The weight of the newest loss in a task's running mean.
const MEAN_WEIGHT: f64 = 0.05;
/// A task's running mean is no measure before so many losses have gone into it.
const MEAN_LOSSES: u64 = 20;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// All steps were done and `final/` was written.
    Finished,
    /// It was asked to stop and wrote a checkpoint first.
    Interrupted,
}

/// The folder that training writes its state into.
pub(super) struct RunFolder<'a> {
    /// The folder.
    pub(super) path: &'a Path,
    /// Its configuration, as it stands there.
    pub(super) config_json: &'a str,
    /// Whether this process writes there, which of several that share a run rank 0 does alone.
    pub(super) writes: bool,
}

/// What moves: the model, its optimiser, and where training is.
pub(super) struct Moving {
    pub(super) model: TrainedModel,
    pub(super) optimizer: AdamW,
    pub(super) state: CheckpointState,
}

impl Moving {
    /// Puts gradients on what a configuration trains. Where there is a checkpoint it goes on from there, else
    /// from `state`, which is written as the first.
    pub(super) fn begin(
        config: &RunConfig,
        model: TrainedModel,
        state: CheckpointState,
        last: Option<&Checkpoint>,
        folder: &RunFolder,
        (device, observer): (&Device, &mut dyn Observer),
    ) -> Result<Self> {
        let projector_rates = config.decoders.iter().map(|decoder| decoder.projector_rate);
        let mut optimizer = AdamW::new(config.optimizer).with_projector_rates(projector_rates);
        let mut model = model.with_gradients(
            &config.encoder.train,
            config.encoder.train_embedding,
            mix(config.seed ^ Purpose::Weights as u64),
        );
        if config.encoder.gradient_checkpointing {
            model = model.with_gradient_checkpointing();
        }
        // Parameters lie in memory as a checkpoint restores them, from the first step on: products of
        // another layout round differently.
        model = with_parameters(model, &mut |_, _, value| value);
        let checkpoints = folder.checkpoints(config);
        let mut state = state;
        if let Some(checkpoint) = last {
            model = checkpoint.restore(model, &mut optimizer, device)?;
            let is_longer = checkpoint.state.config_sha256 != state.config_sha256;
            state = checkpoint.state.clone().going_on(state, config);
            observer.message(&format!("going on after step {}", state.step));
            if let Some(step) = state.decay_from {
                observer.message(&format!("its rate comes down since step {step}"));
            }
            if is_longer && folder.writes {
                // Before the configuration is, so that one that goes with the checkpoint is always there.
                checkpoints.save(&state, &model, &optimizer)?;
            }
        } else {
            checkpoints.save(&state, &model, &optimizer)?;
        }
        if folder.writes {
            arc_adapters::write_atomically(&folder.path.join(CONFIG_FILE), |file| {
                file.write_all(folder.config_json.as_bytes()).map_err(Error::io("write", folder.path))
            })?;
        }
        // What is computed otherwise from here on is a part of its own.
        let processor = if *device == Device::flex() { provenance::processor() } else { None };
        let goes_on = |part: &TrainingPart| part.is_of(config.precision, processor.as_deref());
        if !state.parts.last().is_some_and(goes_on) {
            state.parts.push(TrainingPart::beginning(config.precision, processor));
        }
        Ok(Self { model, optimizer, state })
    }
}

impl RunFolder<'_> {
    /// Its checkpoints.
    pub(super) fn checkpoints(&self, config: &RunConfig) -> Checkpoints {
        Checkpoints::new(self.path.join(CHECKPOINTS), config.schedule.keep)
    }
}

/// Training that is about to go its way.
pub(super) struct Course<'a> {
    pub(super) runner: Runner<'a>,
    pub(super) moving: Moving,
    pub(super) folder: &'a RunFolder<'a>,
    /// The sha256 of each decoder's weights in memory, by its name.
    pub(super) decoder_sha256: &'a BTreeMap<String, String>,
    /// What is measured, by the process that writes.
    pub(super) measured: Option<&'a MeasuredSamples>,
    /// After so many seconds in steps the rate of an open-ended run comes down.
    pub(super) decay_after: Option<f64>,
    /// Tokens of the runs before that this one goes on from.
    pub(super) tokens_before: u64,
}

/// Where training came to.
pub(super) struct Arrival<'a> {
    pub(super) runner: Runner<'a>,
    pub(super) model: TrainedModel,
    pub(super) state: CheckpointState,
    pub(super) ending: Ending,
    /// The last scores; of a finished course those of its end.
    pub(super) evaluations: Vec<Evaluation>,
    /// The steps of the whole course, as far as it is known now.
    pub(super) planned_steps: u64,
    /// The last checkpoint.
    pub(super) checkpoint: PathBuf,
}

impl<'a> Course<'a> {
    /// Goes on to the last step, or until somebody asks to stop: a checkpoint is written then.
    pub(super) fn run(self, observer: &mut dyn Observer) -> Result<Arrival<'a>> {
        let Self { mut runner, moving, folder, decoder_sha256, measured, decay_after, tokens_before } = self;
        let Moving { mut model, mut optimizer, mut state } = moving;
        let config = runner.config;
        let schedule = &config.schedule;
        let checkpoints = folder.checkpoints(config);
        let metrics_path = folder.path.join("metrics.jsonl");
        let mut metrics = folder.writes.then(|| MetricsFile::open(&metrics_path, state.step)).transpose()?;

        let mut steps = runner.schedule().steps();
        let every = config.evaluation.every;
        let is_measured_after = |step: u64| every > 0 && step.is_multiple_of(every);
        let mut evaluations = Vec::new();
        // A run that was interrupted where it would have been measured is measured now.
        if let (Some(measured), Some(metrics)) = (measured, &mut metrics)
            && (1..steps).contains(&state.step)
            && is_measured_after(state.step)
            && !metrics.has_evaluation(state.step)?
        {
            evaluations = runner.evaluate(&model, measured)?;
            record(&evaluations, metrics, observer, &mut state)?;
        }
        let mut pending: Vec<Pending> = Vec::new();
        let mut clock = Instant::now();
        let mut ending = Ending::Finished;
        while state.step < steps && ending == Ending::Finished {
            let stops = observer.should_stop();
            let is_time = decay_after.is_some_and(|after| state.seconds >= after);
            if state.decay_from.is_none() && (is_time || runner.schedule().decays(state.step)) {
                // From here on it is known, whatever a configuration or a command says later.
                state.decay_from = Some(state.step);
                runner.decay_from = state.decay_from;
                steps = runner.schedule().steps();
                observer.message(&format!("the rate comes down from step {} to {steps}", state.step));
            }
            let (next, done) = runner.step(model, &mut optimizer, state.step, stops)?;
            model = next;
            state.tokens += done.pending.tokens as u64;
            if let Some(part) = state.parts.last_mut() {
                part.steps += 1;
                part.samples += (schedule.batch * schedule.accumulation) as u64;
                part.tokens += done.pending.tokens as u64;
                part.context_tokens = part.context_tokens.map(|tokens| tokens + done.pending.context_tokens);
            }
            pending.push(done.pending);
            state.step += 1;
            let is_last = state.step == steps;
            if done.stops && !is_last {
                ending = Ending::Interrupted;
            }
            let saves = is_last
                || ending == Ending::Interrupted
                || state.step.is_multiple_of(schedule.checkpoint_every);
            if saves && runner.ranks.count() > 1 {
                runner.ranks.check_same(&parameters_sha256(&model))?;
            }
            let evaluates = is_last || (is_measured_after(state.step) && ending == Ending::Finished);
            // Reading a loss makes the host wait for the device.
            if saves || evaluates || state.step.is_multiple_of(schedule.log_every) {
                synchronise(&runner.device)?;
                let seconds = clock.elapsed().as_secs_f64() / pending.len().max(1) as f64;
                let elapsed = clock.elapsed().as_secs_f64();
                state.seconds += elapsed;
                if let Some(part) = state.parts.last_mut() {
                    part.seconds += elapsed;
                }
                let unread: u64 = pending.iter().map(|step| step.tokens as u64).sum();
                let mut tokens_seen = tokens_before + state.tokens - unread;
                for step in pending.drain(..) {
                    let mut line = step.read(&runner.decoders[step.plan.decoder].name, seconds);
                    tokens_seen += line.tokens as u64;
                    line.tokens_seen = tokens_seen;
                    judge(&line, config, &mut state, || runner.origins(line.step))?;
                    if let Some(metrics) = &mut metrics {
                        metrics.write(&Event::Step(line.clone()))?;
                    }
                    observer.step(&line, steps);
                }
            }
            if let (Some(measured), Some(metrics)) = (measured, &mut metrics) {
                if evaluates {
                    evaluations = runner.evaluate(&model, measured)?;
                    record(&evaluations, metrics, observer, &mut state)?;
                }
                if saves || (evaluates && state.best.is_some_and(|(_, step)| step == state.step)) {
                    state.updates = optimizer
                        .moments
                        .iter()
                        .map(|(name, moments)| (name.clone(), moments.updates))
                        .collect();
                    checkpoints.save(&state, &model, &optimizer)?;
                    let page = folder.path.join("report.html");
                    write_page(&page, config, decoder_sha256, &read(&metrics_path)?)?;
                }
            }
            clock = if pending.is_empty() { Instant::now() } else { clock };
        }

        // A run that had done all of its steps before.
        if let (Some(measured), Ending::Finished, true) = (measured, &ending, evaluations.is_empty()) {
            evaluations = runner.evaluate(&model, measured)?;
        }
        check_frozen(runner.decoders, decoder_sha256)?;
        let checkpoint = checkpoints.path(state.step);
        Ok(Arrival { runner, model, state, ending, evaluations, planned_steps: steps, checkpoint })
    }
}

/// The sha256 of each decoder's weights in memory, by its name.
pub(super) fn decoder_hashes(decoders: &[Decoder]) -> BTreeMap<String, String> {
    decoders.iter().map(|decoder| (decoder.name.clone(), decoder.network.weights_sha256())).collect()
}

/// Refuses what training has moved and should not have.
fn check_frozen(decoders: &[Decoder], before: &BTreeMap<String, String>) -> Result<()> {
    for decoder in decoders {
        let (before, after) = (&before[&decoder.name], decoder.network.weights_sha256());
        if *before != after {
            return Err(Error::Mismatch {
                what: format!("decoder `{}` after training", decoder.name),
                expected: before.clone(),
                found: after,
                hint: "a frozen decoder has changed: this is a bug, please report it".into(),
            });
        }
    }
    Ok(())
}

/// Writes down what was measured after `state.step` steps, and whether it is the best so far.
fn record(
    evaluations: &[Evaluation],
    metrics: &mut MetricsFile,
    observer: &mut dyn Observer,
    state: &mut CheckpointState,
) -> Result<()> {
    let mut total = 0.0;
    for evaluation in evaluations {
        metrics.write(&Event::Evaluation { step: state.step, scores: evaluation.to_json() })?;
        observer.evaluation(state.step, evaluation);
        total += evaluation.loss();
    }
    // What is no number is never the best, and a checkpoint could not be read with it.
    if !evaluations.is_empty() && total.is_finite() && state.best.is_none_or(|(best, _)| total < best) {
        state.best = Some((total, state.step));
    }
    Ok(())
}

/// Refuses a loss that is not a number, or far above its task's running mean; else adds it to the
/// mean.
fn judge(
    line: &StepMetrics,
    config: &RunConfig,
    state: &mut CheckpointState,
    origins: impl FnOnce() -> Result<Vec<String>>,
) -> Result<()> {
    let task = format!("{} {} {}", line.decoder, line.objective, line.factor);
    let losses = state.means.entry(format!("{task} losses")).or_insert(0.0);
    *losses += 1.0;
    let settled = *losses > MEAN_LOSSES as f64;
    let mean = state.means.entry(task).or_insert(line.loss);
    let leaps = settled && line.loss > *mean + config.schedule.spike;
    if !line.loss.is_finite() || !line.gradient_norm.is_finite() || leaps {
        return Err(Error::Diverged {
            step: line.step,
            loss: line.loss,
            mean: *mean,
            data: origins()?.join(", "),
        });
    }
    *mean += MEAN_WEIGHT * (line.loss - *mean);
    Ok(())
}
