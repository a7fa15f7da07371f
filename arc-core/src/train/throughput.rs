//! How long the steps of a run take, and how much of that is arithmetic.

use std::time::Instant;

use arc_adapters::ProjectorSpec;
use burn::tensor::{Device, Distribution, Tensor};
use rayon::prelude::*;

use super::batch::{Sample, SampleSpan};
use super::config::{RunConfig, TrainedPart};
use super::load::{Products, open_encoder};
use super::model::{TrainedAdapter, TrainedModel};
use super::objective::Objective;
use super::optimizer::AdamW;
use super::parameters::with_parameters;
use super::process::cpu_seconds;
use super::step::{StepOptions, at_factor, synchronise, training_loss};
use crate::decoder::{Transformer, ordinary_ids};
use crate::flops;
use crate::host::HostLinear;
use crate::nn::Linear;
use crate::{Result, Session};

/// The side of the square product whose speed is taken as the most that the device can do.
const PEAK_SIDE: usize = 2048;
/// How often the product is timed; the best counts, since anything else only adds to it.
const PEAK_ROUNDS: usize = 5;

/// The steps of one decoder.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StepThroughput {
    /// The decoder.
    pub decoder: String,
    /// Seconds of each step: forward, backward and the update.
    pub seconds: Vec<f64>,
    /// Processor seconds of each step, of all threads, where the system tells.
    pub cpu_seconds: Vec<f64>,
    /// The mean loss before each step, nats per token: the same on every machine, but for rounding.
    pub losses: Vec<f64>,
    /// Encoder tokens and targets of a step.
    pub tokens: usize,
    /// Floating-point operations of the matrix products that a step cannot do without.
    pub flops: u64,
}

/// Times steps as a run's configuration has them, on synthetic text of the longest samples, after
/// one step to warm up. Needs the models, and no corpus. `through_graph` runs everything in
/// burn, as on a GPU.
///
/// # Errors
///
/// Whatever is wrong with the models.
pub fn measure_steps(
    config: &RunConfig,
    session: &Session,
    rounds: usize,
    through_graph: bool,
) -> Result<Vec<StepThroughput>> {
    let device = session.device().clone();
    let products = Products::of(config, &device)?;
    let started = config.with_starts(session)?;
    let (_, encoder) = open_encoder(&started, session, &device)?;
    let d_encoder = encoder.network.d_model();
    let of_encoder = encoder.network.vocabulary();
    let mut measured = Vec::new();
    for settings in &config.decoders {
        let mut decoder = products.decoder(session, &settings.name)?;
        if through_graph {
            decoder.network = decoder.network.through_graph();
        }
        let vocabularies = (of_encoder, decoder.network.vocabulary());
        let samples: Vec<Sample> =
            (0..config.schedule.batch as u32).map(|row| sample(config, vocabularies, row)).collect();
        let d_decoder = decoder.network.config().d_model();
        let spec = ProjectorSpec::two_linear(d_encoder, settings.hidden.unwrap_or(d_decoder), d_decoder);
        let adapter = TrainedAdapter::from_scratch(spec, d_encoder, config.seed, &device)?;
        let model =
            products.model(TrainedModel { encoder: encoder.trainable()?.clone(), adapters: vec![adapter] });
        let options = StepOptions {
            factor: config.encoder.pooling_factors[0],
            distillation: config.objective.distillation,
            count_correct: false,
        };
        let flops = step_flops(&model, &decoder.network, &config.encoder.train, &samples, options.factor);
        let mut model =
            model.with_gradients(&config.encoder.train, config.encoder.train_embedding, config.seed);
        model = with_parameters(model, &mut |_, _, value| value);
        let mut optimizer = AdamW::new(config.optimizer);
        let (mut seconds, mut cpu, mut losses, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for round in 0..=rounds {
            let (start, processor) = (Instant::now(), cpu_seconds());
            let found =
                training_loss(&model, &decoder.network, 0, Objective::Continuation, &samples, options)?;
            let gradients = found.gradients(&model, 1.0);
            tokens = found.context_tokens + found.targets;
            let loss = found.loss.sum.clone() / found.targets as f64;
            // The graph holds the parameters, which are moved in place if nothing else does.
            drop(found);
            (model, _) = optimizer.step(model, gradients, 1.0, &device);
            synchronise(&device)?;
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
                cpu.extend(cpu_seconds().zip(processor).map(|(after, before)| after - before));
                losses.push(f64::from(loss.into_scalar::<f32>()));
            }
        }
        measured.push(StepThroughput {
            decoder: decoder.name,
            seconds,
            cpu_seconds: cpu,
            losses,
            tokens,
            flops,
        });
    }
    Ok(measured)
}

/// The most floating-point operations in a second that a product of large square matrices reaches, in what a
/// run computes products in; in bfloat16 on host memory one factor is laid out beforehand, as weights are.
///
/// # Errors
///
/// An error of the device.
pub fn measure_peak(config: &RunConfig, device: &Device) -> Result<f64> {
    let random = || Tensor::<2>::random([PEAK_SIDE; 2], Distribution::Uniform(-1.0, 1.0), device);
    let best = match Products::of(config, device)? {
        Products::OnHost(products) => {
            let mut weight = Linear::new(random(), None);
            weight.multiply_in(products);
            let weight = HostLinear::copied(&weight).expect("it has no delta beside it");
            let x = random().into_data();
            let x = x.as_slice::<f32>().expect("made in f32");
            let share = PEAK_SIDE.div_ceil(rayon::current_num_threads()) * PEAK_SIDE;
            best_seconds(device, || drop(x.par_chunks(share).map(|x| weight.forward(x)).collect::<Vec<_>>()))?
        }
        products => {
            let (a, b) = match products {
                Products::InGraph(products) => (random().cast(products), random().cast(products)),
                _ => (random(), random()),
            };
            best_seconds(device, || drop(a.clone().matmul(b.clone())))?
        }
    };
    Ok(2.0 * (PEAK_SIDE as f64).powi(3) / best)
}

/// The shortest of some rounds, in seconds.
fn best_seconds(device: &Device, run: impl Fn()) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..PEAK_ROUNDS {
        synchronise(device)?;
        let start = Instant::now();
        run();
        synchronise(device)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// A context and as many targets as the configuration asks for, of the vocabularies of encoder and
/// decoder.
fn sample(config: &RunConfig, (of_encoder, of_decoder): (usize, usize), row: u32) -> Sample {
    let ids = |vocabulary: usize, count: usize, salt: u32| -> Vec<u32> {
        let id = ordinary_ids(vocabulary);
        (0..count as u32).map(|i| id(i + 977 * row + salt)).collect()
    };
    let context = |vocabulary| vec![ids(vocabulary, config.data.context_tokens, 0)];
    Sample {
        plain_contexts: context(of_decoder),
        contexts: context(of_encoder),
        spans: vec![
            SampleSpan::Context(0),
            SampleSpan::Tokens { ids: ids(of_decoder, config.data.target_tokens, 31), is_target: true },
        ],
        origin: "synthetic".into(),
    }
}

/// A forward pass of everything; for the backward pass once more for what is frozen, whose
/// gradient is passed on, and twice more for what is trained. The head is multiplied with twice:
/// its logits, and their gradient at the hidden states.
fn step_flops(
    model: &TrainedModel,
    decoder: &Transformer,
    part: &TrainedPart,
    samples: &[Sample],
    factor: usize,
) -> u64 {
    let config = at_factor(&model.encoder, factor).config().clone();
    let contexts = samples.iter().flat_map(|sample| sample.contexts.iter().map(Vec::len));
    let encoding: u128 = contexts.map(|tokens| flops::encoding(&config, tokens, tokens)).sum();
    let latents =
        |sample: &Sample| sample.contexts.iter().map(|ids| config.latents(ids.len())).sum::<usize>();
    let spec = model.adapters[0].projector.spec();
    // A special vector stands after each sample's latents.
    let rows = samples.iter().map(|sample| latents(sample) + 1).sum();
    let projecting = flops::projecting(&spec.layers, rows);
    let targets = |sample: &Sample| sample.target_count();
    let positions = samples.iter().map(|sample| latents(sample) + targets(sample));
    let reading: u128 = positions.map(|positions| flops::reading(decoder.config(), 0, positions)).sum();
    let all_targets = samples.iter().map(targets).sum();
    let head = 2 * flops::head(decoder.config(), decoder.vocabulary(), all_targets);
    let trained = match part {
        TrainedPart::None => 0,
        TrainedPart::All | TrainedPart::Lora { .. } => 2 * encoding,
        TrainedPart::LastLayers(count) => {
            2 * encoding * (*count).min(config.n_layers) as u128 / config.n_layers.max(1) as u128
        }
    };
    u64::try_from(encoding + trained + 3 * projecting + 2 * reading + head).unwrap_or(u64::MAX)
}
