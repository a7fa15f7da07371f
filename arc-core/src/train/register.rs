//! A new decoder for a trained encoder: only a projector and two special vectors are trained.

use std::path::{Path, PathBuf};
use std::time::Instant;

use arc_adapters::{Adapter, AdapterManifest, EncoderManifest, ProjectorSpec, is_name, sha256_hex};
use burn::module::Module as _;

use super::config::{
    AdapterConfig, DataConfig, EncoderConfig, EvaluationConfig, Groups, ObjectiveConfig, OptimizerConfig,
    Precision, QuestionForm, RunConfig, ScheduleConfig, ScheduleShape, SourceConfig, Start, StoredWeights,
    TrainedPart,
};
use super::corpus::{Corpus, CorpusManifest, Mixture};
use super::evaluation::{Evaluation, check_measurable, evaluate};
use super::latents_cache::LatentsCache;
use super::load::{open_encoder_of, ridge_start};
use super::model::{TrainedAdapter, TrainedModel};
use super::objective::BatchPlan;
use super::observer::Observer;
use super::optimizer::AdamW;
use super::package::{AdapterCard, write_adapter};
use super::parameters::{values_sha256, with_parameters};
use super::questions::Questions;
use super::runner::Pending;
use super::schedule::OneCycle;
use super::step::{StepOptions, adapter_loss, at_factor, synchronise};
use crate::decoder::Decoder;
use crate::setters::setters;
use crate::{Error, Result, Session};

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
    /// Latents for each dimension of the encoder that a ridge start is fitted on.
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
/// adapter as it is by then.
///
/// # Errors
///
/// [`Error::InvalidValue`] for options that make no sense; whatever is wrong with the encoder,
/// the text or the disk.
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
    let corpus = Corpus::open(&options.corpus, config.window_tokens(), config.data.shortest)?;
    if corpus.manifest.tokenizer_sha256 != encoder.tokenizer.sha256() {
        return Err(Error::Mismatch {
            what: format!("corpus `{}` (sha256 of its tokenizer)", options.corpus.display()),
            expected: encoder.tokenizer.sha256().to_owned(),
            found: corpus.manifest.tokenizer_sha256,
            hint: "prepare it again with the tokenizer of the encoder's backbone".into(),
        });
    }
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
    // Before anything is fitted or encoded.
    let held_out = mixture.held_out(options.samples)?;
    check_measurable(&held_out, &[])?;
    let questions = Questions::default();
    let trainable = encoder.trainable()?;
    let frozen = || (decoder.network.weights_sha256(), values_sha256(trainable));
    let before_training = frozen();

    let adapter = match &options.start {
        Start::Package(path) => TrainedAdapter::from_package(&Adapter::open(path)?, &device)?,
        Start::Scratch => {
            let (d_encoder, d_decoder) = (encoder.network.d_model(), decoder.network.config().d_model());
            let spec = ProjectorSpec::two_linear(d_encoder, d_decoder, d_decoder);
            TrainedAdapter::from_scratch(spec, d_encoder, options.seed, &device)?
        }
        Start::Ridge => {
            observer.message(&format!("fitting a start for `{}`", decoder.name));
            let start = cache.folder().join("start").join(&decoder.name);
            ridge_start(
                &encoder,
                decoder,
                (first_factor, options.fit_latents),
                &mixture,
                &options.template,
                &start,
            )?;
            TrainedAdapter::from_package(&Adapter::open(&start)?, &device)?
        }
    };

    let batches = options.batches.min(options.steps);
    observer.message(&format!("encoding {batches} batches of text once, into {}", cache.folder().display()));
    for batch in (0..batches).filter(|&batch| !cache.has(batch)) {
        if observer.should_stop() {
            break;
        }
        let plan = BatchPlan::of_step(&config, batch);
        let samples = plan.samples(&config, batch, &mixture, &questions, decoder)?;
        let contexts: Vec<Vec<u32>> = samples.iter().flat_map(|sample| sample.contexts.clone()).collect();
        cache.fill(batch, &at_factor(trainable, plan.factor), &contexts, &device)?;
    }

    let score = |adapter: &TrainedAdapter, factor| {
        let model = TrainedModel { encoder: trainable.clone(), adapters: vec![adapter.valid()] };
        evaluate((&config, &model, 0, decoder), &held_out, &[], factor)
    };
    let before = score(&adapter, first_factor)?;
    observer.evaluation(0, &before);
    let mut adapter = with_parameters(adapter.train(), &mut |_, _, value| value);
    let mut optimizer = AdamW::new(config.optimizer);
    let cycle = OneCycle {
        steps: options.steps,
        warmup: config.schedule.warmup,
        start_divisor: config.schedule.start_divisor,
        end_divisor: config.schedule.end_divisor,
    };
    let (mut pending, mut steps) = (Vec::new(), 0);
    let mut clock = Instant::now();
    for step in 0..options.steps {
        if observer.should_stop() {
            observer.message(&format!("interrupted after {step} of {} steps", options.steps));
            break;
        }
        let batch = step % batches;
        let plan = BatchPlan::of_step(&config, batch);
        let samples = plan.samples(&config, batch, &mixture, &questions, decoder)?;
        let encoded = cache.read(batch, &device)?;
        let step_options = StepOptions { factor: plan.factor, distillation: 0.0, count_correct: false };
        let found =
            adapter_loss(&adapter, &decoder.network, plan.objective, &samples, encoded, step_options)?;
        let gradients = found.gradients(&adapter, 1.0);
        let rate = cycle.factor(step);
        let (next, norm) = optimizer.step(adapter, gradients, rate, &device);
        adapter = next;
        steps = step + 1;
        pending.push(Pending {
            step,
            plan,
            loss: found.loss.sum / found.targets as f64,
            gradient_norm: norm,
            rate,
            tokens: samples.iter().flat_map(|sample| &sample.contexts).map(Vec::len).sum::<usize>()
                + found.targets,
            context_tokens: samples.iter().flat_map(|sample| &sample.contexts).map(Vec::len).sum::<usize>()
                as u64,
            padding: found.padding as f64 / found.positions.max(1) as f64,
        });
        // Reading a loss makes the host wait for the device.
        if steps.is_multiple_of(config.schedule.log_every) || steps == options.steps {
            synchronise(&device)?;
            let seconds = clock.elapsed().as_secs_f64() / pending.len() as f64;
            for step in pending.drain(..) {
                let line = step.read(&decoder.name, seconds);
                if !line.loss.is_finite() {
                    let batch = line.step % batches;
                    let samples = step.plan.samples(&config, batch, &mixture, &questions, decoder)?;
                    let origins: Vec<String> = samples.into_iter().map(|sample| sample.origin).collect();
                    let data = origins.join(", ");
                    return Err(Error::Diverged { step: line.step, loss: line.loss, mean: f64::NAN, data });
                }
                observer.step(&line, options.steps);
            }
            clock = Instant::now();
        }
    }

    let after = score(&adapter, first_factor)?;
    observer.evaluation(steps, &after);
    let mut scores = vec![after.to_json()];
    for &factor in options.factors.iter().skip(1) {
        let at_factor = score(&adapter, factor)?;
        observer.evaluation(steps, &at_factor);
        scores.push(at_factor.to_json());
    }
    let after_training = frozen();
    if after_training != before_training {
        return Err(Error::Mismatch {
            what: format!("decoder `{}` and encoder `{}` after training", decoder.name, encoder.name),
            expected: format!("{before_training:?}"),
            found: format!("{after_training:?}"),
            hint: "what is frozen has changed: this is a bug, please report it".into(),
        });
    }
    let (decoder_sha256, encoder_sha256) = before_training;
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
    let manifest = write_adapter(folder, &adapter, &card)?;
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

/// The registration as a run, so that text is cut as in training.
fn run_config(options: &RegisterOptions) -> RunConfig {
    RunConfig {
        seed: options.seed,
        precision: Precision::default(),
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
            checkpoint_every: options.steps,
            keep: 1,
            spike: f64::MAX,
        },
        evaluation: EvaluationConfig { every: 0, samples: options.samples, ..EvaluationConfig::default() },
    }
}
