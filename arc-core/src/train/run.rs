//! A run from its configuration to its packages.

use std::collections::BTreeMap;
use std::path::Path;

use arc_adapters::{setters, sha256_file};

use super::begin::{
    Beginning, CHECKPOINTS, CONFIG_FILE, begin, check_inputs, config_sha256, inputs, written_config,
};
use super::checkpoint::{CheckpointState, Checkpoints};
use super::config::{RunConfig, ScheduleShape};
use super::course::{Arrival, Course, Ending, Moving, RunFolder, decoder_hashes};
use super::evaluation::Evaluation;
use super::load::{Parts, load};
use super::model::TrainedModel;
use super::observer::Observer;
use super::package::{AdapterCard, EncoderStart, write_adapter, write_encoder, write_registry};
use super::provenance::{self, TrainingPart};
use super::ranks::{Ranks, Role, RunIdentity};
use super::runner::{LatentsFrom, MeasuredSamples, Runner};
use super::schedule::Schedule;
use crate::decoder::Decoder;
use crate::{Error, Result, Session};

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
    let checkpoints = Checkpoints::new(out.join(CHECKPOINTS), config.schedule.keep);
    let sha256 = |config: &RunConfig| config_sha256(config, out);
    let config_sha256 = sha256(&config.lasting())?;
    // Processes that share a run agree in the rest too.
    let shared_sha256 = sha256(config)?;
    let config_json = written_config(config, out)?;
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
    let hashes = decoder_hashes(&decoders);
    let inputs = inputs(&started.config, &encoder_start, &mixture, &decoders, &hashes)?;
    if let Some(checkpoint) = &last {
        check_inputs(&checkpoint.state, config.precision, &inputs)?;
    }
    let folder = RunFolder { path: out, config_json: &config_json, writes: follows.is_none() };
    let before = provenance::parts_of(&encoder_start.manifest.provenance);
    let mut state = CheckpointState::beginning(config_sha256, inputs);
    if config.start_from.is_some() {
        state.steps_before = provenance::steps_before(config, &before);
    }
    let moving = Moving::begin(config, model, state, last.as_ref(), &folder, (&device, &mut *observer))?;
    let ranks = match (follows, role) {
        (Some(ranks), _) => ranks,
        (None, Role::Leader { listener, count, workers }) => {
            let run = RunIdentity { config_sha256: &shared_sha256, count };
            Ranks::lead(&listener, run, moving.state.step, workers, &|| observer.should_stop())?
        }
        (None, _) => Ranks::alone(),
    };
    let measured =
        folder.writes.then(|| MeasuredSamples::new(config, &mixture, &questions, &decoders)).transpose()?;
    let runner = Runner {
        config,
        decoders: &decoders,
        mixture: &mixture,
        questions: &questions,
        latents: LatentsFrom::Encoder,
        device,
        ranks,
        steps_before: moving.state.steps_before,
        decay_from: moving.state.decay_from,
    };
    let course = Course {
        runner,
        moving,
        folder: &folder,
        decoder_sha256: &hashes,
        measured: measured.as_ref(),
        decay_after,
        tokens_before: before.iter().map(|part| part.tokens).sum(),
    };
    let Arrival { model, state, ending, evaluations, planned_steps, checkpoint, .. } =
        course.run(observer)?;
    let report = RunReport {
        ending: ending.clone(),
        steps: state.step,
        evaluations,
        decoder_sha256: hashes.clone(),
        checkpoint_sha256: folder.writes.then(|| sha256_file(&checkpoint)).transpose()?,
        tokens: state.tokens,
        seconds: state.seconds,
        parts: before.into_iter().chain(state.parts).collect(),
        planned_steps,
    };
    if folder.writes && ending == Ending::Finished {
        write_final(config, session, out, &encoder_start, &decoders, &model, &report)?;
    }
    Ok(report)
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
