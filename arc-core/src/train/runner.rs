//! The steps of a run, and its measurements.

use burn::tensor::{Device, Tensor};

use super::batch::Sample;
use super::config::{MeasuredText, RunConfig};
use super::corpus::{Mixture, Window};
use super::evaluation::{Evaluation, check_measurable, evaluate};
use super::latents_cache::LatentsCache;
use super::metrics::StepMetrics;
use super::model::TrainedModel;
use super::objective::{BatchPlan, Draw};
use super::optimizer::{AdamW, Gradients};
use super::parameters::flat;
use super::process::peak_memory;
use super::questions::Questions;
use super::ranks::Ranks;
use super::schedule::Schedule;
use super::step::{BatchLoss, StepOptions, adapter_loss, at_factor, training_loss, without_graph};
use crate::Result;
use crate::decoder::Decoder;

/// What a run is measured on.
pub(super) struct MeasuredSamples {
    windows: Vec<Window>,
    /// For each decoder, the same questions in its tokens.
    questions: Vec<Vec<Sample>>,
}

impl MeasuredSamples {
    pub(super) fn new(
        config: &RunConfig,
        mixture: &Mixture,
        questions: &Questions,
        decoders: &[Decoder],
    ) -> Result<Self> {
        let samples = config.evaluation.samples;
        Ok(Self {
            windows: match config.evaluation.on {
                MeasuredText::HeldOut => mixture.held_out(samples)?,
                MeasuredText::Training => {
                    let all: u64 = mixture.corpora().iter().map(|(corpus, _)| corpus.windows()).sum();
                    mixture.windows(0, all.min(samples as u64))?
                }
            },
            questions: decoders
                .iter()
                .map(|decoder| questions.held_out(samples, decoder))
                .collect::<Result<_>>()?,
        })
    }

    /// Refuses to measure on nothing.
    pub(super) fn check(&self) -> Result<()> {
        check_measurable(&self.windows, self.questions.first().map_or(&[][..], Vec::as_slice))
    }
}

/// What a step left on the device, to be read when losses are logged.
pub(super) struct Pending {
    pub(super) step: u64,
    pub(super) plan: BatchPlan,
    /// The mean loss, `[1]`
    pub(super) loss: Tensor<1>,
    /// `[1]`
    pub(super) gradient_norm: Tensor<1>,
    pub(super) rate: f64,
    pub(super) tokens: usize,
    /// Those of them that the encoder read.
    pub(super) context_tokens: u64,
    pub(super) padding: f64,
}

impl Pending {
    pub(super) fn read(&self, decoder: &str, seconds: f64) -> StepMetrics {
        let scalar = |tensor: &Tensor<1>| f64::from(tensor.clone().into_scalar::<f32>());
        StepMetrics {
            step: self.step,
            decoder: decoder.to_owned(),
            objective: self.plan.objective.name().to_owned(),
            factor: self.plan.factor,
            loss: scalar(&self.loss),
            gradient_norm: scalar(&self.gradient_norm),
            rate: self.rate,
            tokens: self.tokens,
            tokens_seen: 0,
            padding: self.padding,
            seconds,
            memory: memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem as u64),
            peak_memory: peak_memory(),
        }
    }
}

/// Where a step has the latents of its batches from.
#[derive(Clone, Copy)]
pub(super) enum LatentsFrom<'a> {
    /// The encoder, which is trained or could be.
    Encoder,
    /// A cache of what the frozen encoder gives: the same in every epoch. So many batches come again and
    /// again; each is the whole of a step.
    Kept { cache: &'a LatentsCache, batches: u64 },
}

/// What steps are made from.
pub(super) struct Runner<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) decoders: &'a [Decoder],
    pub(super) mixture: &'a Mixture,
    pub(super) questions: &'a Questions,
    pub(super) latents: LatentsFrom<'a>,
    pub(super) device: Device,
    pub(super) ranks: Ranks,
    /// Steps of the runs that this one goes on from.
    pub(super) steps_before: u64,
    /// Where the decay of an open-ended run begins, if it was told to.
    pub(super) decay_from: Option<u64>,
}

/// What a step did, besides moving the model.
pub(super) struct StepDone {
    pub(super) pending: Pending,
    /// Whether a rank was asked to stop before it.
    pub(super) stops: bool,
}

/// The sums over the batches of a step, of this process and then of all.
struct StepSums {
    gradients: Gradients,
    /// The mean loss, `[1]`
    loss: Tensor<1>,
    /// Tokens read by the encoder and predicted.
    tokens: usize,
    /// Tokens read by the encoder.
    context_tokens: usize,
    /// Positions that the encoder and the decoder read.
    positions: usize,
    /// Those of them that were padding.
    padding: usize,
    /// How many processes were asked to stop.
    stops: usize,
    /// The norm of the gradients, where it is known.
    norm: Option<f64>,
}

impl StepSums {
    /// Adds up the sums of all ranks, through host memory.
    fn over(self, ranks: &mut Ranks, device: &Device) -> Result<Self> {
        if ranks.count() == 1 {
            return Ok(self);
        }
        // Counts in f32 are exact up to 16 million, far above what a step reads.
        let counts = [self.tokens, self.context_tokens, self.positions, self.padding, self.stops]
            .map(|count| count as f32);
        let mut values = counts.to_vec();
        let lengths: Vec<usize> = self.gradients.values().map(|gradient| gradient.dims()[0]).collect();
        for tensor in std::iter::once(self.loss).chain(self.gradients.values().cloned()) {
            values.extend(tensor.into_data().convert::<f32>().iter::<f32>());
        }
        ranks.sum(&mut values)?;
        let mut rest = &values[..];
        let mut take = |length: usize| {
            let (taken, after) = rest.split_at(length);
            rest = after;
            taken.to_vec()
        };
        let counts = take(counts.len());
        let [tokens, context_tokens, positions, padding, stops] =
            [0, 1, 2, 3, 4].map(|place| counts[place] as usize);
        let loss = flat(take(1), device);
        // GPUs add in no fixed order, and ranks that clip by other factors drift apart. The CPU does,
        // and its sum is that of a process alone.
        let norm = (*device != Device::flex()).then(|| {
            values[counts.len() + 1..].iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt()
        });
        let names = self.gradients.into_keys();
        let gradients = names.zip(lengths).map(|(name, length)| (name, flat(take(length), device))).collect();
        Ok(Self { gradients, loss, tokens, context_tokens, positions, padding, stops, norm })
    }
}

impl Runner<'_> {
    /// How the rate goes, as far as it is known.
    pub(super) fn schedule(&self) -> Schedule<'_> {
        Schedule::new(&self.config.schedule, self.decay_from)
    }

    /// Which step of the text's order a step is.
    fn number(&self, step: u64) -> u64 {
        match self.latents {
            LatentsFrom::Encoder => self.steps_before + step,
            LatentsFrom::Kept { batches, .. } => step % batches.max(1),
        }
    }

    /// What a step trains.
    fn plan(&self, step: u64) -> BatchPlan {
        let draw = Draw { number: self.number(step), step, decays: self.schedule().decays(step) };
        BatchPlan::drawn(self.config, draw)
    }

    /// Encodes the batch of a step into the cache, where it is not there yet; nothing where there is no cache.
    pub(super) fn keep_latents(&self, model: &TrainedModel, step: u64) -> Result<()> {
        let plan = self.plan(step);
        match self.latents {
            LatentsFrom::Kept { cache, .. } if !cache.has(self.number(step)) => {
                let samples = self.samples(&plan, step, 0)?;
                let encoder = at_factor(&model.encoder, plan.factor);
                cache.fill(self.number(step), &encoder, &contexts(&samples), &self.device)
            }
            _ => Ok(()),
        }
    }

    /// The loss of one of a step's batches.
    fn loss(
        &self,
        model: &TrainedModel,
        plan: &BatchPlan,
        step: u64,
        samples: &[Sample],
    ) -> Result<BatchLoss> {
        let decoder = &self.decoders[plan.decoder].network;
        let options = StepOptions {
            factor: plan.factor,
            distillation: self.config.objective.distillation,
            count_correct: false,
        };
        match self.latents {
            LatentsFrom::Encoder => {
                training_loss(model, decoder, plan.decoder, plan.objective, samples, options)
            }
            LatentsFrom::Kept { cache, .. } => {
                self.keep_latents(model, step)?;
                let encoded = cache.read(self.number(step), &self.device)?;
                let adapter = &model.adapters[plan.decoder];
                let mut loss = adapter_loss(adapter, decoder, plan.objective, samples, encoded, options)?;
                loss.context_tokens = samples.iter().flat_map(|sample| &sample.contexts).map(Vec::len).sum();
                Ok(loss)
            }
        }
    }

    /// One step of the optimiser. With several ranks it is one step of all of them.
    pub(super) fn step(
        &mut self,
        model: TrainedModel,
        optimizer: &mut AdamW,
        step: u64,
        stops: bool,
    ) -> Result<(TrainedModel, StepDone)> {
        let schedule = &self.config.schedule;
        let plan = self.plan(step);
        let mut sums = StepSums {
            gradients: Gradients::new(),
            loss: Tensor::zeros([1], &self.device),
            tokens: 0,
            context_tokens: 0,
            positions: 0,
            padding: 0,
            stops: usize::from(stops),
            norm: None,
        };
        let share = 1.0 / schedule.accumulation as f64;
        let batches = schedule.accumulation / self.ranks.count();
        let first = self.ranks.rank() * batches;
        for part in first..first + batches {
            let samples = self.samples(&plan, step, part)?;
            let found = self.loss(&model, &plan, step, &samples)?;
            for (name, gradient) in found.gradients(&model, share) {
                let sum = match sums.gradients.remove(&name) {
                    Some(sum) => sum + gradient,
                    None => gradient,
                };
                sums.gradients.insert(name, sum);
            }
            sums.loss = sums.loss + found.loss.sum * (share / found.targets as f64);
            sums.tokens += found.context_tokens + found.targets;
            sums.context_tokens += found.context_tokens;
            sums.positions += found.context_tokens + found.positions;
            sums.padding += found.padding;
        }
        let StepSums { gradients, loss, tokens, context_tokens, positions, padding, stops, norm } =
            sums.over(&mut self.ranks, &self.device)?;
        let rate = self.schedule().factor(step);
        let (model, gradient_norm) = optimizer.step_of_norm(model, gradients, norm, rate, &self.device);
        let padding = padding as f64 / positions.max(1) as f64;
        let context_tokens = context_tokens as u64;
        let pending = Pending { step, plan, loss, gradient_norm, rate, tokens, context_tokens, padding };
        Ok((model, StepDone { pending, stops: stops > 0 }))
    }

    /// The samples of one of a step's batches.
    fn samples(&self, plan: &BatchPlan, step: u64, part: usize) -> Result<Vec<Sample>> {
        let batch = self.number(step) * self.config.schedule.accumulation as u64 + part as u64;
        plan.samples(self.config, batch, self.mixture, self.questions, &self.decoders[plan.decoder])
    }

    /// Where the text of a step comes from, of all ranks.
    pub(super) fn origins(&self, step: u64) -> Result<Vec<String>> {
        let plan = self.plan(step);
        let mut origins = Vec::new();
        for part in 0..self.config.schedule.accumulation {
            origins.extend(self.samples(&plan, step, part)?.into_iter().map(|sample| sample.origin));
        }
        Ok(origins)
    }

    /// Scores every decoder at every factor of the run.
    pub(super) fn evaluate(
        &self,
        model: &TrainedModel,
        measured: &MeasuredSamples,
    ) -> Result<Vec<Evaluation>> {
        self.evaluate_at(model, measured, &self.config.encoder.pooling_factors)
    }

    /// Scores every decoder at some factors.
    pub(super) fn evaluate_at(
        &self,
        model: &TrainedModel,
        measured: &MeasuredSamples,
        factors: &[usize],
    ) -> Result<Vec<Evaluation>> {
        if measured.windows.is_empty() && measured.questions.iter().all(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let model = without_graph(model);
        let mut evaluations = Vec::new();
        for (index, decoder) in self.decoders.iter().enumerate() {
            for &factor in factors {
                let questions = &measured.questions[index];
                let arguments = (self.config, &model, index, decoder);
                evaluations.push(evaluate(arguments, &measured.windows, questions, factor)?);
            }
        }
        Ok(evaluations)
    }
}

/// The contexts of a batch's samples, in order.
fn contexts(samples: &[Sample]) -> Vec<Vec<u32>> {
    samples.iter().flat_map(|sample| sample.contexts.clone()).collect()
}
