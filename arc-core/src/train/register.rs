//! A new decoder for a trained encoder: only a projector and two special vectors are trained.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use arc_adapters::{Adapter, AdapterManifest, EncoderManifest, ProjectorSpec, is_name, setters, sha256_hex};

use super::begin::{Beginning, begin, config_sha256, written_config};
use super::checkpoint::CheckpointState;
use super::config::{
    AdapterConfig, DataConfig, EncoderConfig, EvaluationConfig, Groups, ObjectiveConfig, OptimizerConfig,
    QuestionForm, RunConfig, ScheduleConfig, ScheduleShape, SourceConfig, Start, StoredWeights,
    TrainPrecision, TrainedPart,
};
use super::corpus::{Corpus, CorpusManifest, Mixture};
use super::course::{Arrival, Course, Ending, Moving, RunFolder, decoder_hashes};
use super::evaluation::Evaluation;
use super::latents_cache::LatentsCache;
use super::load::{open_encoder_of, ridge_start};
use super::model::{TrainedAdapter, TrainedModel};
use super::observer::Observer;
use super::package::{AdapterCard, write_adapter};
use super::parameters::values_sha256;
use super::questions::Questions;
use super::ranks::{Ranks, Role};
use super::runner::{LatentsFrom, MeasuredSamples, Runner};
use crate::decoder::Decoder;
use crate::{Error, Result, Session};

/// Steps after which it can go on again. A checkpoint is as large as three projectors.
const CHECKPOINT_EVERY: u64 = 100;

/// What a registration is asked for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RegisterOptions {
    /// The decoder's name, as it will be in the registry.
    pub name: String,
    /// An encoder of the registry.
    pub encoder: String,
    /// A corpus that `arc data prepare` made with the tokenizer of the encoder's backbone.
    pub corpus: PathBuf,
    /// Where latents are kept.
    pub cache: PathBuf,
    /// What the projector starts from.
    pub start: Start,
    /// LatentsFrom for each dimension of the encoder that a ridge start is fitted on.
    pub fit_latents: usize,
    /// The prompt template of the package.
    pub template: String,
    /// Steps of the optimiser.
    pub steps: u64,
    /// Batches of text; they come again when all were seen.
    pub batches: u64,
    /// Samples in a batch.
    pub batch: usize,
    /// Encoder tokens of a context.
    pub context_tokens: usize,
    /// Decoder tokens of a target.
    pub target_tokens: usize,
    /// How many tokens a latent stands for; each batch draws one of several. The start is fitted at the
    /// first.
    pub factors: Vec<usize>,
    /// The share of reconstruction.
    pub reconstruction: f64,
    /// The full learning rate.
    pub rate: f64,
    /// Held-out samples to score on.
    pub samples: usize,
    /// Everything that is drawn is drawn from this.
    pub seed: u64,
    /// Whether to go on where a registration with the same options was interrupted or killed.
    pub resume: bool,
}

setters!(RegisterOptions {
    start: Start,
    fit_latents: usize,
    template: String,
    steps: u64,
    batches: u64,
    batch: usize,
    context_tokens: usize,
    target_tokens: usize,
    factors: Vec<usize>,
    reconstruction: f64,
    rate: f64,
    samples: usize,
    seed: u64,
    resume: bool,
});

impl RegisterOptions {
    /// An adapter of `encoder` for the decoder `name`, from a ridge start, on a prepared corpus; latents are
    /// kept in `cache`. The rest is what `arc register` does where nothing is said.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        encoder: impl Into<String>,
        corpus: impl Into<PathBuf>,
        cache: impl Into<PathBuf>,
    ) -> Self {
        Self {
            name: name.into(),
            encoder: encoder.into(),
            corpus: corpus.into(),
            cache: cache.into(),
            start: Start::Ridge,
            fit_latents: 16,
            template: arc_adapters::DEFAULT_PROMPT.to_owned(),
            steps: 400,
            batches: 400,
            batch: 8,
            context_tokens: 64,
            target_tokens: 64,
            factors: vec![1],
            reconstruction: 0.2,
            rate: 3e-4,
            samples: 64,
            seed: 0,
            resume: false,
        }
    }
}

impl RegisterOptions {
    /// Checks everything that can be checked before a model is pulled.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] for options that make no sense, [`Error::Adapter`] for a name that cannot be
    /// one, and whatever keeps the text from being read.
    pub fn check(&self) -> Result<()> {
        let invalid = |what: &str, found: String, expected: &str| {
            Err(Error::InvalidValue { what: what.to_owned(), found, expected: expected.to_owned() })
        };
        if self.steps == 0 {
            return invalid("the steps of a registration", "0".into(), "1 or more");
        }
        if self.batches == 0 {
            return invalid("the batches of a registration", "0".into(), "1 or more");
        }
        if self.factors.is_empty() || self.factors.contains(&0) {
            return invalid(
                "the factors of a registration",
                format!("{:?}", self.factors),
                "some of 1 or more",
            );
        }
        if !(self.rate > 0.0 && self.rate.is_finite()) {
            return invalid("the rate", self.rate.to_string(), "a number above 0");
        }
        if !(0.0..=1.0).contains(&self.reconstruction) {
            return invalid("the share of reconstruction", self.reconstruction.to_string(), "0 to 1");
        }
        if !is_name(&self.name) {
            return Err(arc_adapters::Error::InvalidName { name: self.name.clone() }.into());
        }
        CorpusManifest::open(&self.corpus)?;
        Ok(())
    }
}

/// What a registration made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Registration {
    /// The adapter's manifest as written, with its scores.
    pub manifest: AdapterManifest,
    /// The scores of the start.
    pub before: Evaluation,
    /// The scores at the end.
    pub after: Evaluation,
    /// The sha256 of the decoder's weights in memory, the same before and after.
    pub decoder_sha256: String,
    /// The sha256 of the encoder's weights in memory, the same before and after.
    pub encoder_sha256: String,
    /// Steps done: fewer than asked for if it was interrupted.
    pub steps: u64,
    /// Seconds spent, latents and scores included.
    pub seconds: f64,
}

/// Trains an adapter for `decoder`, whose weights must be dense, and writes its package to
/// `folder`. Encoder and decoder stay as they are. A registration that is interrupted ends with the
/// adapter as it is by then, and can be resumed; so can one that was killed.
///
/// # Errors
///
/// [`Error::InvalidValue`] for options that make no sense; [`Error::Occupied`] if there is nothing to resume;
/// [`Error::Diverged`] if a loss is not a number; whatever is wrong with the encoder, the text or the disk.
pub fn register(
    options: &RegisterOptions,
    session: &Session,
    decoder: &Decoder,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Registration> {
    let begun = Instant::now();
    options.check()?;
    let first_factor = options.factors.first().copied().unwrap_or(1);
    let config = run_config(options);
    let device = session.device().clone();
    let registry = session.registry();
    let entry = registry.encoder(&options.encoder)?;
    let manifest = EncoderManifest::open(&entry.package)?;
    let encoder = open_encoder_of(&manifest, &entry.package, session, &device)?;
    let shortest = config.data.shortest;
    let corpus = Corpus::open(&options.corpus, &encoder.tokenizer, config.window_tokens(), shortest)?;
    let identity = serde_json::json!([
        &encoder.id,
        &corpus.manifest,
        &config.data,
        &config.objective,
        options.batch,
        &options.factors,
        options.seed,
        // Where a context is cut depends on nothing of the decoder.
    ]);
    let cache = LatentsCache::new(options.cache.join(&sha256_hex(identity.to_string().as_bytes())[..16]));
    let mixture = Mixture::new(vec![(corpus, 1.0)], options.seed)?;
    let questions = Questions::default();
    let decoders = std::slice::from_ref(decoder);
    // Before anything is fitted or encoded.
    let measured = MeasuredSamples::new(&config, &mixture, &questions, decoders)?;
    measured.check()?;
    let trainable = encoder.trainable()?;
    let decoder_sha256 = decoder_hashes(decoders);
    let encoder_sha256 = values_sha256(trainable);

    // Where it is as far as it came, until it is done.
    let config_sha256 = config_sha256(&config, &options.cache)?;
    let inputs = BTreeMap::from([
        ("encoder".to_owned(), encoder_sha256.clone()),
        (format!("decoder `{}`", decoder.name), decoder_sha256[&decoder.name].clone()),
    ]);
    let whole = sha256_hex(serde_json::json!([config_sha256, inputs]).to_string().as_bytes());
    let run = cache.folder().join("registrations").join(format!("{}-{}", options.name, &whole[..16]));
    if !options.resume {
        remove(&run)?;
    }
    let config_json = written_config(&config, &run)?;
    let run = RunFolder { path: &run, config_json: &config_json, writes: true };
    let known = (std::slice::from_ref(&config_sha256), config_sha256.as_str(), config_json.as_str());
    let Beginning { last, damaged, .. } =
        begin(&run.checkpoints(&config), known, run.path, options.resume, &Role::Alone)?;
    if options.resume && last.is_none() {
        return Err(Error::Occupied {
            path: options.cache.clone(),
            state: format!("holds no registration of `{}` with these options to go on with", options.name),
            hint: "begin it anew".into(),
        });
    }
    for error in &damaged {
        observer.message(&format!("warning: {error}; going on from an older checkpoint"));
    }

    let start = match &options.start {
        Start::Package(path) => TrainedAdapter::from_package(&Adapter::open(path)?, &device)?,
        Start::Scratch => {
            let (d_encoder, d_decoder) = (encoder.network.d_model(), decoder.network.config().d_model());
            let spec = ProjectorSpec::two_linear(d_encoder, d_decoder, d_decoder);
            TrainedAdapter::from_scratch(spec, d_encoder, options.seed, &device)?
        }
        Start::Ridge => {
            let folder = cache.folder().join("start").join(&decoder.name);
            // One that goes on takes its shape from the start that it made, and measures it.
            if last.is_none() || !folder.is_dir() {
                observer.message(&format!("fitting a start for `{}`", decoder.name));
                let factor = (first_factor, options.fit_latents);
                ridge_start(&encoder, decoder, factor, &mixture, &options.template, &folder)?;
            }
            TrainedAdapter::from_package(&Adapter::open(&folder)?, &device)?
        }
    };
    let model = TrainedModel { encoder: trainable.clone(), adapters: vec![start] };
    let batches = options.batches.min(options.steps);
    let runner = Runner {
        config: &config,
        decoders,
        mixture: &mixture,
        questions: &questions,
        latents: LatentsFrom::Kept { cache: &cache, batches },
        device: device.clone(),
        ranks: Ranks::alone(),
        steps_before: 0,
        decay_from: None,
    };
    observer.message(&format!("encoding {batches} batches of text once, into {}", cache.folder().display()));
    for batch in 0..batches {
        // A step encodes its batch itself where that was not reached.
        if observer.should_stop() {
            break;
        }
        runner.keep_latents(&model, batch)?;
    }
    let before = first_of(runner.evaluate_at(&model, &measured, &[first_factor])?)?;
    observer.evaluation(0, &before);

    let state = CheckpointState::beginning(config_sha256, inputs);
    let moving = Moving::begin(&config, model, state, last.as_ref(), &run, (&device, &mut *observer))?;
    let course = Course {
        runner,
        moving,
        folder: &run,
        decoder_sha256: &decoder_sha256,
        measured: Some(&measured),
        decay_after: None,
        tokens_before: 0,
    };
    let Arrival { runner, model, state, ending, mut evaluations, .. } = course.run(observer)?;
    let steps = state.step;
    if ending == Ending::Interrupted {
        observer.message(&format!("interrupted after {steps} of {} steps", options.steps));
        evaluations = runner.evaluate(&model, &measured)?;
        evaluations.iter().for_each(|evaluation| observer.evaluation(steps, evaluation));
    }
    let scores: Vec<_> = evaluations.iter().map(Evaluation::to_json).collect();
    let after = first_of(evaluations)?;
    let found = values_sha256(&model.encoder);
    if found != encoder_sha256 {
        return Err(Error::Mismatch {
            what: format!("encoder `{}` after training", encoder.name),
            expected: encoder_sha256,
            found,
            hint: "a frozen encoder has changed: this is a bug, please report it".into(),
        });
    }
    let decoder_sha256 = decoder_sha256[&decoder.name].clone();
    let card = AdapterCard {
        decoder,
        encoder: &manifest,
        factors: &options.factors,
        template: &options.template,
        training: serde_json::json!({
            "method": "projector and special vectors alone, encoder and decoder frozen",
            "steps": steps,
            "batches": batches,
            "batch": options.batch,
            "context_tokens": options.context_tokens,
            "target_tokens": options.target_tokens,
            "reconstruction": options.reconstruction,
            "rate": options.rate,
            "seed": options.seed,
            "decoder_sha256": decoder_sha256,
            "encoder_sha256": encoder_sha256,
            "sources": mixture.corpora()[0].0.manifest.sources,
        }),
        scores: serde_json::json!({ "held_out": scores, "held_out_of_start": [before.to_json()] }),
    };
    let manifest = write_adapter(folder, &model.adapters[0], &card)?;
    if ending == Ending::Finished {
        remove(run.path)?;
    }
    Ok(Registration {
        manifest,
        before,
        after,
        decoder_sha256,
        encoder_sha256,
        steps,
        seconds: begun.elapsed().as_secs_f64(),
    })
}

/// The scores at the first factor. There is held-out text, which was looked at before.
fn first_of(evaluations: Vec<Evaluation>) -> Result<Evaluation> {
    let missing = || Error::NotEnough { what: "factors to measure at".into(), found: 0, needed: 1 };
    evaluations.into_iter().next().ok_or_else(missing)
}

/// Removes what a registration has left in the cache; nothing where nothing is there.
fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("delete", folder)(error)),
        _ => Ok(()),
    }
}

/// The registration as a run, so that text is cut as in training.
fn run_config(options: &RegisterOptions) -> RunConfig {
    RunConfig {
        seed: options.seed,
        precision: TrainPrecision::default(),
        start_from: None,
        encoder: EncoderConfig {
            name: options.encoder.clone(),
            backbone: None,
            layers: None,
            start: Some(options.encoder.clone()),
            pooling_factors: options.factors.clone(),
            factor_weights: Vec::new(),
            factor_weights_in_decay: Vec::new(),
            factor_curriculum: false,
            pool_type: None,
            groups: Groups::Even,
            causal: None,
            chunk_tokens: None,
            train: TrainedPart::None,
            train_embedding: false,
            gradient_checkpointing: false,
            weights: StoredWeights::default(),
        },
        decoders: vec![AdapterConfig {
            name: options.name.clone(),
            start: options.start.clone(),
            hidden: None,
            projector_rate: None,
            template: options.template.clone(),
        }],
        data: DataConfig {
            sources: vec![SourceConfig { path: options.corpus.clone(), weight: 1.0 }],
            context_tokens: options.context_tokens,
            context_lengths: Vec::new(),
            target_tokens: options.target_tokens,
            prefix_tokens: 0,
            fit_latents: options.fit_latents,
            shortest: 32,
            questions: Vec::new(),
            one_special: false,
            question_form: QuestionForm::default(),
        },
        objective: ObjectiveConfig { reconstruction: options.reconstruction, ..ObjectiveConfig::default() },
        optimizer: OptimizerConfig {
            projector_rate: options.rate,
            special_rate: options.rate,
            ..OptimizerConfig::default()
        },
        schedule: ScheduleConfig {
            steps: options.steps,
            batch: options.batch,
            accumulation: 1,
            warmup: options.steps / 20,
            shape: ScheduleShape::default(),
            decay_steps: 0,
            start_divisor: 25.0,
            end_divisor: 10.0,
            log_every: 10,
            checkpoint_every: CHECKPOINT_EVERY,
            keep: 1,
            spike: f64::MAX,
        },
        evaluation: EvaluationConfig { every: 0, samples: options.samples, ..EvaluationConfig::default() },
    }
}
