//! A run from its configuration to its packages.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use arc_adapters::{sha256_file, sha256_hex};
use burn::tensor::Device;

use super::begin::{Beginning, CONFIG_FILE, begin, check_inputs, inputs};
use super::checkpoint::{CheckpointState, Checkpoints};
use super::config::{RunConfig, ScheduleShape};
use super::draw::{Purpose, mix};
use super::evaluation::Evaluation;
use super::load::{Parts, load};
use super::metrics::{Event, MetricsFile, StepMetrics, read};
use super::model::TrainedModel;
use super::observer::Observer;
use super::optimizer::AdamW;
use super::package::{AdapterCard, EncoderStart, write_adapter, write_encoder, write_registry};
use super::parameters::{parameters_sha256, with_parameters};
use super::provenance::{self, TrainingPart};
use super::ranks::{Ranks, Role, RunIdentity};
use super::report_page::write_page;
use super::runner::{MeasuredSamples, Pending, Runner};
use super::schedule::Schedule;
use super::step::synchronise;
use crate::decoder::Decoder;
use crate::setters::setters;
use crate::{Error, Result, Session};

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

/// What a run did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunReport {
    /// How it ended.
    pub ending: Ending,
    /// Steps done, with those before a resumption.
    pub steps: u64,
    /// The last scores on held-out text, one for each decoder and factor.
    pub evaluations: Vec<Evaluation>,
    /// The sha256 of each decoder's weights in memory: the same before and after.
    pub decoder_sha256: BTreeMap<String, String>,
    /// The sha256 of the last checkpoint, which only rank 0 writes.
    pub checkpoint_sha256: Option<String>,
    /// Encoder tokens and targets seen.
    pub tokens: u64,
    /// Seconds spent in steps.
    pub seconds: f64,
    /// What the encoder has been trained in so far, with the parts before this run.
    pub parts: Vec<TrainingPart>,
    /// The steps of the run, as far as it is known when it ends.
    pub planned_steps: u64,
}

/// How a run is begun.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct TrainOptions {
    /// Whether to go on from the last checkpoint.
    pub resume: bool,
    /// After so many seconds in steps, those before a resumption included, the rate of an open-ended run
    /// comes down: 0 is at once.
    pub decay_after: Option<f64>,
    /// The part of this process, where several share the run.
    pub role: Role,
}

setters!(TrainOptions {
    resume: bool,
    decay_after: Option<f64>,
    role: Role,
});

/// Runs a configuration, writing everything under `out`.
///
/// Where several processes share it, [`TrainOptions::role`] says which this is; only rank 0 writes
/// and tells its observer of measurements.
///
/// # Errors
///
/// [`Error::Occupied`] if `out` holds a run and `resume` is not set, or the other way round;
/// [`Error::InvalidValue`] if the ranks cannot share the batches of a step evenly; [`Error::Diverged`] if a loss is not a
/// number or leaps; [`Error::Ranks`] if another rank is lost; and whatever is wrong with the models,
/// the text or the disk.
pub fn train(
    config: &RunConfig,
    session: &Session,
    out: &Path,
    options: TrainOptions,
    observer: &mut dyn Observer,
) -> Result<RunReport> {
    let TrainOptions { resume, decay_after, role } = options;
    config.check_shared_by(role.count())?;
    if decay_after.is_some() && config.schedule.shape != ScheduleShape::WarmupStableDecay {
        return Err(Error::InvalidValue {
            what: "`schedule.shape`".into(),
            found: config.schedule.shape.name().into(),
            expected: "`warmup_stable_decay`: the rate of another shape comes down all along".into(),
        });
    }
    if decay_after.is_some_and(|after| after > 0.0) && role.count() > 1 {
        return Err(Error::InvalidValue {
            what: "the time after which the rate comes down".into(),
            found: format!("{:.2} hours", decay_after.unwrap_or_default() / 3600.0),
            expected:
                "0 where processes share a run, since they keep time by themselves: interrupt it, and go \
                       on with its rate coming down at once"
                    .into(),
        });
    }
    config.check_inputs(&session.registry())?;
    let checkpoints = Checkpoints::new(out.join("checkpoints"), config.schedule.keep);
    let json = |config: &RunConfig| {
        serde_json::to_string_pretty(config).map_err(|error| Error::Io {
            action: "write",
            path: out.join(CONFIG_FILE),
            source: error.into(),
        })
    };
    // What lies at the paths counts, and not how they are spelled.
    let sha256 = |config: &RunConfig| -> Result<String> {
        Ok(sha256_hex(json(&config.with_paths(|_| PathBuf::new()))?.as_bytes()))
    };
    let config_sha256 = sha256(&config.lasting())?;
    // Processes that share a run agree in the rest too.
    let shared_sha256 = sha256(config)?;
    // As text, whatever the name of the folder is: JSON holds no other.
    let written = |path: &Path| {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        PathBuf::from(absolute.to_string_lossy().into_owned())
    };
    let config_json = json(&config.with_paths(written))?;
    // The run with another number of steps is the same run, as far as it has come.
    let before = RunConfig::open(&out.join(CONFIG_FILE)).ok();
    let of_so_many_steps = |steps: u64, config: &RunConfig| {
        let mut config = config.clone();
        config.schedule.steps = steps;
        sha256(&config.lasting())
    };
    let longer_than = match &before {
        Some(before) if of_so_many_steps(config.schedule.steps, before)? == config_sha256 => {
            Some(sha256(&before.lasting())?)
        }
        _ => None,
    };
    // The last is what a build wrote for which precision was a part of what lasts.
    let config_sha256s = [Some(config_sha256.clone()), longer_than, Some(shared_sha256.clone())]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    let Beginning { last, follows, damaged } =
        begin(&checkpoints, (&config_sha256s, &shared_sha256, &config_json), out, resume, &role)?;
    let planned = |state: &CheckpointState| Schedule::new(&config.schedule, state.decay_from).steps();
    if let Some(last) = last.as_ref().filter(|last| last.state.step > planned(&last.state)) {
        return Err(Error::InvalidValue {
            what: "`schedule.steps`, all of the run,".into(),
            found: config.schedule.steps.to_string(),
            expected: format!(
                "at least the {} that the run in `{}` has done",
                last.state.step,
                out.display()
            ),
        });
    }
    for error in &damaged {
        observer.message(&format!("warning: {error}; going on from an older checkpoint"));
    }
    let started = config.with_starts(session)?;
    let Parts { encoder_start, decoders, mixture, questions, model, device } =
        load(&started, session, out, last.is_some(), observer)?;
    let hashes: BTreeMap<String, String> =
        decoders.iter().map(|decoder| (decoder.name.clone(), decoder.network.weights_sha256())).collect();
    let inputs = inputs(&started.config, &encoder_start, &mixture, &decoders, &hashes)?;
    if let Some(checkpoint) = &last {
        check_inputs(&checkpoint.state, config.precision, &inputs)?;
    }
    let writes = follows.is_none();
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

    let mut state = CheckpointState {
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
    };
    let before = provenance::parts_of(&encoder_start.manifest.provenance);
    if let Some(checkpoint) = &last {
        model = checkpoint.restore(model, &mut optimizer, &device)?;
        let is_longer = checkpoint.state.config_sha256 != state.config_sha256;
        state = checkpoint.state.clone().going_on(state, config);
        observer.message(&format!("going on after step {}", state.step));
        if let Some(step) = state.decay_from {
            observer.message(&format!("its rate comes down since step {step}"));
        }
        if is_longer && writes {
            // Before the configuration is, so that one that goes with the checkpoint is always there.
            checkpoints.save(&state, &model, &optimizer)?;
        }
    } else {
        if config.start_from.is_some() {
            state.steps_before = provenance::steps_before(config, &before);
        }

        checkpoints.save(&state, &model, &optimizer)?;
    }
    if writes {
        arc_adapters::write_atomically(&out.join(CONFIG_FILE), |file| {
            use std::io::Write as _;
            file.write_all(config_json.as_bytes()).map_err(Error::io("write", out))
        })?;
    }
    let ranks = match (follows, role) {
        (Some(ranks), _) => ranks,
        (None, Role::Leader { listener, count, workers }) => {
            let run = RunIdentity { config_sha256: &shared_sha256, count };
            Ranks::lead(&listener, run, state.step, workers, &|| observer.should_stop())?
        }
        (None, _) => Ranks::alone(),
    };
    let processor = if *session.device() == Device::flex() { provenance::processor() } else { None };
    let goes_on = |part: &TrainingPart| part.is_of(config.precision, processor.as_deref());
    if !state.parts.last().is_some_and(goes_on) {
        state.parts.push(TrainingPart::beginning(config.precision, processor));
    }
    let mut runner = Runner {
        config,
        decoders: &decoders,
        mixture: &mixture,
        questions: &questions,
        device,
        ranks,
        steps_before: state.steps_before,
        decay_from: state.decay_from,
    };
    let measured =
        writes.then(|| MeasuredSamples::new(config, &mixture, &questions, &decoders)).transpose()?;
    let metrics_path = out.join("metrics.jsonl");
    let mut metrics = writes.then(|| MetricsFile::open(&metrics_path, state.step)).transpose()?;

    let schedule = &config.schedule;
    let mut steps = runner.schedule().steps();
    let tokens_before: u64 = before.iter().map(|part| part.tokens).sum();
    let every = config.evaluation.every;
    let is_measured_after = |step: u64| every > 0 && step.is_multiple_of(every);
    let mut evaluations = Vec::new();
    // A run that was interrupted where it would have been measured is measured now.
    if let (Some(measured), Some(metrics)) = (&measured, &mut metrics)
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
        let saves =
            is_last || ending == Ending::Interrupted || state.step.is_multiple_of(schedule.checkpoint_every);
        if saves && runner.ranks.count() > 1 {
            runner.ranks.check_same(&parameters_sha256(&model))?;
        }
        let evaluates = is_last || (is_measured_after(state.step) && ending == Ending::Finished);
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
                let mut line = step.read(&decoders[step.plan.decoder].name, seconds);
                tokens_seen += line.tokens as u64;
                line.tokens_seen = tokens_seen;
                judge(&line, config, &mut state, || runner.origins(line.step))?;
                if let Some(metrics) = &mut metrics {
                    metrics.write(&Event::Step(line.clone()))?;
                }
                observer.step(&line, steps);
            }
        }
        if let (Some(measured), Some(metrics)) = (&measured, &mut metrics) {
            if evaluates {
                evaluations = runner.evaluate(&model, measured)?;
                record(&evaluations, metrics, observer, &mut state)?;
            }
            if saves || (evaluates && state.best.is_some_and(|(_, step)| step == state.step)) {
                state.updates =
                    optimizer.moments.iter().map(|(name, moments)| (name.clone(), moments.updates)).collect();
                checkpoints.save(&state, &model, &optimizer)?;
                write_page(&out.join("report.html"), config, &hashes, &read(&metrics_path)?)?;
            }
        }
        clock = if pending.is_empty() { Instant::now() } else { clock };
    }

    // A run that had done all of its steps before.
    if let (Some(measured), Ending::Finished, true) = (&measured, &ending, evaluations.is_empty()) {
        evaluations = runner.evaluate(&model, measured)?;
    }
    for decoder in &decoders {
        let (before, after) = (&hashes[&decoder.name], decoder.network.weights_sha256());
        if *before != after {
            return Err(Error::Mismatch {
                what: format!("decoder `{}` after training", decoder.name),
                expected: before.clone(),
                found: after,
                hint: "a frozen decoder has changed: this is a bug, please report it".into(),
            });
        }
    }
    let report = RunReport {
        ending: ending.clone(),
        steps: state.step,
        evaluations,
        decoder_sha256: hashes,
        checkpoint_sha256: writes.then(|| sha256_file(&checkpoints.path(state.step))).transpose()?,
        tokens: state.tokens,
        seconds: state.seconds,
        parts: before.into_iter().chain(state.parts).collect(),
        planned_steps: steps,
    };
    if writes && ending == Ending::Finished {
        write_final(config, session, out, &encoder_start, &decoders, &model, &report)?;
    }
    Ok(report)
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

/// Writes `final/`: the encoder's package, one for each adapter, and a registry of both.
fn write_final(
    config: &RunConfig,
    session: &Session,
    out: &Path,
    start: &EncoderStart,
    decoders: &[Decoder],
    model: &TrainedModel,
    report: &RunReport,
) -> Result<()> {
    let folder = out.join("final");
    let mut training = serde_json::json!({
        "method": "ARC-Encoder pretraining (arXiv 2510.20535)",
        "config": config.for_cards(),
        "steps": report.steps,
        "tokens": report.tokens,
        "seconds": report.seconds,
        "decoder_sha256": report.decoder_sha256,
    });
    if let (Some(training), serde_json::Value::Object(sums)) =
        (training.as_object_mut(), provenance::for_cards(&report.parts))
    {
        training.extend(sums);
    }
    let manifest = write_encoder(&folder.join("encoder"), start, &config.encoder, model, training.clone())?;
    for (index, decoder) in decoders.iter().enumerate() {
        let scores: Vec<_> = report
            .evaluations
            .iter()
            .filter(|evaluation| evaluation.decoder == decoder.name)
            .map(Evaluation::to_json)
            .collect();
        let card = AdapterCard {
            decoder,
            encoder: &manifest,
            factors: &config.encoder.pooling_factors,
            template: &config.decoders[index].template,
            training: training.clone(),
            scores: serde_json::json!({ config.evaluation.on.name(): scores }),
        };
        write_adapter(&folder.join("adapters").join(&decoder.name), &model.adapters[index], &card)?;
    }
    let registry = folder.join(arc_adapters::REGISTRY_FILE);
    if !registry.exists() {
        let names: Vec<&str> = decoders.iter().map(|decoder| decoder.name.as_str()).collect();
        write_registry(&folder, &session.registry(), &manifest, &names)?;
    }
    Ok(())
}
