//! Training: gradients against finite differences, decoders that stay as they are, and a decoder
//! that learns to repeat a text from its latents.

mod harness;

use std::collections::BTreeMap;

use arc_core::decoder::Transformer;
use arc_core::encoder::{ArcEncoder, special_vector};
use arc_core::nn::Residence;
use arc_core::projector::Projector;
use arc_core::train::{
    AdamW, BatchLoss, Objective, OptimizerConfig, Sample, SampleSpan, StepOptions, TrainedAdapter,
    TrainedModel, TrainedPart, named_parameters, training_loss, with_parameters,
};
use arc_core::weights::{ArcCheckpoint, MetaFolder, Special, TrainingSources};
use burn::module::{Module as _, Param};
use burn::tensor::{Device, FloatDType, Tensor};
use harness::{decoder, repository, session};

/// The tiny model of a fixture, with all gradients on, and its decoders.
fn fixture(name: &str, decoders: usize, device: &Device) -> (TrainedModel, Vec<Transformer>) {
    let folder = repository("tests/golden/reference").join(name);
    let checkpoint = ArcCheckpoint::open(&folder, &TrainingSources::default()).expect("a checkpoint");
    let encoder = ArcEncoder::from_checkpoint(&checkpoint, 0, device).expect("an encoder");
    let adapters = (0..decoders)
        .map(|decoder| {
            let special = |special| {
                let vector = special_vector(&checkpoint, special, decoder, device).expect("a vector");
                Param::from_tensor(vector.expect("the fixture has both special vectors"))
            };
            TrainedAdapter {
                projector: Projector::from_checkpoint(&checkpoint, decoder, device)
                    .expect("a projector")
                    .expect("the fixture has one"),
                cont: special(Special::Cont),
                rec: special(Special::Rec),
                log_scale: None,
            }
        })
        .collect();
    let decoders = (0..decoders)
        .map(|decoder| {
            let weights = MetaFolder::open(folder.join(format!("decoder{decoder}"))).expect("a decoder");
            Transformer::from_meta(&weights, device, Residence::Dense).expect("a decoder")
        })
        .collect();
    (TrainedModel { encoder, adapters }, decoders)
}

/// Two rows of different lengths, the second with two contexts.
fn samples() -> Vec<Sample> {
    let tokens = |ids: &[u32], is_target| SampleSpan::Tokens { ids: ids.to_vec(), is_target };
    vec![
        Sample {
            contexts: vec![(1..14).collect()],
            plain_contexts: vec![(1..12).collect()],
            spans: vec![tokens(&[1, 5], false), SampleSpan::Context(0), tokens(&[7, 8, 9, 10], true)],
            origin: "first".into(),
        },
        Sample {
            contexts: vec![(20..27).collect(), (30..39).collect()],
            plain_contexts: vec![(20..25).collect(), (30..33).collect()],
            spans: vec![
                tokens(&[1], false),
                SampleSpan::Context(0),
                tokens(&[3], false),
                SampleSpan::Context(1),
                tokens(&[11, 12, 13], true),
            ],
            origin: "second".into(),
        },
    ]
}

const OPTIONS: StepOptions = StepOptions::new(4);

/// The cosines of all gradients of one batch of a tiny model in `bf16` with those in `f32`, and how many differ.
fn cosines_in_bf16(
    change: impl Fn(TrainedModel, Transformer, Option<FloatDType>) -> (TrainedModel, Transformer),
) -> (BTreeMap<String, f32>, usize) {
    let device = Device::flex();
    let gradients = |products: Option<FloatDType>| {
        let (model, mut decoders) = fixture("arc4_multi", 2, &device);
        // As small as in the test of slopes: with the fixture's own weights attention is a choice of
        // one key, and rounding makes it another.
        let model = model.with_gradients(&TrainedPart::All, true, 0);
        let model = with_parameters(model, &mut |name, _, value| {
            if name.contains("norm") { value } else { value * 0.3 }
        });
        let (model, decoder) = change(model, decoders.remove(0), products);
        let objective = Objective::Continuation;
        let found = training_loss(&model, &decoder, 0, objective, &samples(), OPTIONS).expect("a loss");
        found.gradients(&model, 1.0)
    };
    cosines(gradients(None), &gradients(Some(FloatDType::BF16)))
}

/// The cosines of all gradients with those of another engine or precision, and how many differ at all.
fn cosines(
    exact: BTreeMap<String, Tensor<1>>,
    rounded: &BTreeMap<String, Tensor<1>>,
) -> (BTreeMap<String, f32>, usize) {
    assert_eq!(exact.keys().collect::<Vec<_>>(), rounded.keys().collect::<Vec<_>>());
    let mut differ = 0;
    let cosines = exact.into_iter().map(|(name, exact)| {
        let rounded = rounded[&name].clone();
        assert_eq!(FloatDType::from(rounded.dtype()), FloatDType::F32, "{name}");
        let scalar = |tensor: Tensor<1>| tensor.into_scalar::<f32>();
        let (a, b) = (exact.clone(), rounded.clone());
        let norms = scalar(a.square().sum().sqrt()) * scalar(b.square().sum().sqrt());
        let cosine = scalar((exact.clone() * rounded.clone()).sum()) / norms;
        differ += usize::from(scalar((exact - rounded).abs().max()) > 0.0);
        (name, if norms < 1e-8 { 1.0 } else { cosine })
    });
    (cosines.collect(), differ)
}

#[test]
fn products_in_bf16_give_gradients_of_f32_weights_that_are_nearly_those_of_f32() {
    let (cosines, differ) = cosines_in_bf16(|model, decoder, products| {
        let decoder = decoder.through_graph();
        match products {
            Some(products) => (model.with_products_in(products), decoder.with_matrices_in(products)),
            None => (model, decoder),
        }
    });
    assert!(differ > 20, "only {differ} gradients differ: something was computed in 32 bits");
    for (name, cosine) in cosines {
        assert!(cosine > 0.99, "`{name}`: cosine {cosine}");
    }
}

#[test]
fn products_in_bf16_on_host_memory_give_gradients_that_are_nearly_those_of_f32() {
    let (cosines, differ) = cosines_in_bf16(|model, decoder, products| match products {
        Some(products) => (model.with_products_on_host_in(products), decoder.with_matrices_in(products)),
        None => (model, decoder),
    });
    let processor = arc_core::device::Processor::here();
    let has_bf16 = processor
        .products
        .iter()
        .any(|product| product.kind.contains("bfloat16") && !product.instructions.starts_with("none"));
    if has_bf16 {
        assert!(differ > 20, "only {differ} gradients differ: something was computed in 32 bits");
    } else {
        assert_eq!(differ, 0, "without instructions for bfloat16 products are those of float32");
    }
    // Widths of 32 average few roundings; the real model below is held to more.
    for (name, cosine) in cosines {
        assert!(cosine > 0.995, "`{name}`: cosine {cosine}");
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let device = Device::flex();
    let (model, decoders) = fixture("arc4_multi", 2, &device);
    // The fixture's weights are large, and its loss is far from linear at the steps that float32
    // can resolve: at a tenth of their size it is as smooth as a trained model's.
    let scaled = |tensor: Tensor<1>| tensor * 0.3;
    let model = model.with_gradients(&TrainedPart::All, true, 0);
    let model = with_parameters(model, &mut |name, _, value| {
        if name.contains("norm") { value } else { scaled(value) }
    });
    let mut checked = 0;
    for (index, decoder) in decoders.iter().enumerate() {
        for (objective, distillation) in
            [(Objective::Continuation, 0.0), (Objective::Reconstruction, 0.0), (Objective::Answer, 0.5)]
        {
            let options = OPTIONS.distillation(distillation);
            let run = |model: &TrainedModel| {
                training_loss(model, decoder, index, objective, &samples(), options).expect("a loss")
            };
            let loss = |model: &TrainedModel| {
                let found = run(&model.valid());
                f64::from(found.loss.sum.into_scalar::<f32>()) / found.targets as f64
            };
            let gradients = run(&model).gradients(&model, 1.0);
            for (name, gradient) in &gradients {
                let slope = f64::from(gradient.clone().square().sum().sqrt().into_scalar::<f32>());
                if slope < 1e-4 {
                    continue;
                }
                // Along the gradient, turned a little towards somewhere else.
                let count = gradient.dims()[0];
                let noise: Vec<f32> = (0..count).map(|place| (7919.0 * (place + 1) as f32).sin()).collect();
                let noise = Tensor::<1>::from_data(noise.as_slice(), &device);
                let noise = noise.clone() / noise.square().sum().sqrt();
                let direction = gradient.clone() / slope as f32 + noise * 0.5;
                let direction = direction.clone() / direction.square().sum().sqrt();
                let expected = f64::from((direction.clone() * gradient.clone()).sum().into_scalar::<f32>());
                let step = (2e-3 / slope).min(2e-2);
                let moved = |by: f64| {
                    let move_one = &mut |found: &str, _: usize, value: Tensor<1>| {
                        if found == name { value + direction.clone() * by } else { value }
                    };
                    loss(&with_parameters(model.clone(), move_one))
                };
                let slope_found = (moved(step) - moved(-step)) / (2.0 * step);
                let error = (slope_found - expected).abs() / expected.abs();
                assert!(
                    error < 1e-2,
                    "{objective:?} through decoder {index}, `{name}`: slope {slope_found}, gradient {expected}"
                );
                checked += 1;
            }
            let special = if objective == Objective::Reconstruction { "rec" } else { "cont" };
            let other = if objective == Objective::Reconstruction { "cont" } else { "rec" };
            assert!(gradients.contains_key(&format!("adapters.{index}.{special}")));
            assert!(!gradients.contains_key(&format!("adapters.{index}.{other}")));
            assert!(!gradients.keys().any(|name| name.starts_with(&format!("adapters.{}", 1 - index))));
        }
    }
    // 3 layers of 9, the table, 2 linear layers and a special vector, for each of 6.
    assert!(checked >= 6 * 25, "only {checked} gradients are large enough to check");
}

#[test]
fn steps_change_what_is_trained_and_nothing_else() {
    let device = Device::flex();
    for (part, train_embedding) in [
        (TrainedPart::All, true),
        (TrainedPart::LastLayers(1), false),
        (TrainedPart::Lora { rank: 2, alpha: 4.0 }, false),
        (TrainedPart::None, false),
    ] {
        let (model, decoders) = fixture("arc4_multi", 2, &device);
        let everything = all_values(&model.encoder);
        let mut model = model.with_gradients(&part, train_embedding, 0);
        let trained: Vec<String> = named_parameters(&model).into_keys().collect();
        let hashes: Vec<String> = decoders.iter().map(Transformer::weights_sha256).collect();
        let config = OptimizerConfig::default().encoder_rate(1e-2).projector_rate(1e-2);
        let mut optimizer = AdamW::new(config);
        for step in 0..4 {
            let index = step % 2;
            let found =
                training_loss(&model, &decoders[index], index, Objective::Continuation, &samples(), OPTIONS)
                    .expect("a loss");
            let gradients = found.gradients(&model, 1.0);
            assert!(gradients.keys().all(|name| trained.contains(name)));
            (model, _) = optimizer.step(model, gradients, 1.0, &device);
        }
        let after: Vec<String> = decoders.iter().map(Transformer::weights_sha256).collect();
        assert_eq!(hashes, after, "{part:?}: a decoder has changed");
        for (name, value) in all_values(&model.encoder) {
            let is_trained = trained.contains(&format!("encoder.{name}"));
            let has_changed = everything.get(&name).is_none_or(|before| *before != value);
            assert_eq!(is_trained, has_changed, "{part:?}: `{name}`");
        }
    }
}

/// Every parameter of an encoder by its path.
fn all_values(encoder: &ArcEncoder) -> BTreeMap<String, Vec<f32>> {
    let encoder = encoder.clone().train().set_require_grad(true);
    named_parameters(&encoder)
        .into_iter()
        .map(|(name, (_, value))| (name, value.try_into_vec_as::<f32>().expect("f32")))
        .collect()
}

#[test]
fn gradient_checkpointing_gives_the_same_gradients() {
    let device = Device::flex();
    let (model, mut decoders) = fixture("arc4_multi", 1, &device);
    let graph = fixture("arc4_multi", 1, &device).1.remove(0).through_graph();
    decoders.push(graph);
    let plain = model.with_gradients(&TrainedPart::All, true, 0);
    let checkpointing = plain.clone().with_gradient_checkpointing();
    for decoder in &decoders {
        let gradients = |model: &TrainedModel| {
            let found = training_loss(model, decoder, 0, Objective::Continuation, &samples(), OPTIONS);
            found.expect("a loss").gradients(model, 1.0)
        };
        gradients_agree(&gradients(&checkpointing), &gradients(&plain), 1e-5);
    }
}

/// Holds each gradient against another, relative to its largest value.
fn gradients_agree(a: &BTreeMap<String, Tensor<1>>, b: &BTreeMap<String, Tensor<1>>, tolerance: f32) {
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, gradient) in a {
        let difference: f32 = (gradient.clone() - b[name].clone()).abs().max().into_scalar();
        let size: f32 = b[name].clone().abs().max().into_scalar();
        assert!(difference <= tolerance * size, "`{name}`: {difference} of {size}");
    }
}

#[test]
fn the_passes_on_the_cpu_are_those_of_the_graph() {
    let device = Device::flex();
    let (model, decoders) = fixture("arc4_multi", 2, &device);
    let through_graph: Vec<Transformer> =
        fixture("arc4_multi", 2, &device).1.into_iter().map(Transformer::through_graph).collect();
    for (part, train_embedding) in [
        (TrainedPart::All, true),
        (TrainedPart::All, false),
        (TrainedPart::LastLayers(2), false),
        (TrainedPart::LastLayers(1), false),
        (TrainedPart::Lora { rank: 2, alpha: 4.0 }, false),
    ] {
        let model = model.clone().with_gradients(&part, train_embedding, 0);
        for (index, decoder) in decoders.iter().enumerate() {
            for distillation in [0.0, 0.5] {
                let run = |decoder: &Transformer| {
                    let options = OPTIONS.distillation(distillation).counting_correct();
                    training_loss(&model, decoder, index, Objective::Continuation, &samples(), options)
                        .expect("a loss")
                };
                let (host, graph) = (run(decoder), run(&through_graph[index]));
                let [found, expected] = [&host, &graph].map(|run| run.loss.sum.clone().into_scalar::<f32>());
                assert!((found - expected).abs() < 1e-5 * expected, "{found} for {expected}");
                let correct =
                    |run: &BatchLoss| run.loss.correct.clone().expect("asked for").into_scalar::<f32>();
                assert_eq!(correct(&host), correct(&graph));
                gradients_agree(&host.gradients(&model, 1.0), &graph.gradients(&model, 1.0), 1e-4);
            }
        }
    }
}

#[test]
fn the_passes_on_the_cpu_are_those_of_the_graph_for_a_real_encoder_and_decoder() {
    let (Some(session), Some(packed)) = (session(), decoder("smollm2-135m")) else { return };
    let (model, decoder) = real_model(session, packed.path());
    let model = model.with_gradients(&TrainedPart::All, false, 0);
    let text = std::fs::read_to_string(repository("examples/washington-1790.txt")).expect("a text");
    let all = decoder.tokenizer.encode(&text).expect("tokens").ids;
    let sample = |start: usize| {
        let (prefix, rest) = all[start..].split_at(3);
        let (context, targets) = rest.split_at(64 + start % 5);
        Sample {
            contexts: vec![context.to_vec()],
            plain_contexts: vec![context.to_vec()],
            spans: vec![
                SampleSpan::Tokens { ids: prefix.to_vec(), is_target: false },
                SampleSpan::Context(0),
                SampleSpan::Tokens { ids: targets[..64].to_vec(), is_target: true },
            ],
            origin: "a speech".into(),
        }
    };
    // As many as a step of configs/cpu.toml has.
    let samples: Vec<Sample> = (0..8).map(|row| sample(193 * row)).collect();
    let run = |model: &TrainedModel, decoder: &Transformer| {
        training_loss(model, decoder, 0, Objective::Continuation, &samples, OPTIONS).expect("a loss")
    };
    let host = run(&model, &decoder.network);
    let exact = host.gradients(&model, 1.0);

    let (products, network) = (FloatDType::BF16, decoder.network);
    let rounded_model = model.clone().with_products_on_host_in(products);
    let rounded_network = network.with_matrices_in(products);
    let rounded = run(&rounded_model, &rounded_network);
    let [found, expected] = [&rounded, &host].map(|run| run.loss.sum.clone().into_scalar::<f32>());
    assert!((found - expected).abs() < 2e-3 * expected, "{found} in bf16 for {expected}");
    let (cosines, _) = cosines(exact.clone(), &rounded.gradients(&rounded_model, 1.0));
    let low: Vec<_> = cosines.iter().filter(|(_, cosine)| **cosine < 0.999).collect();
    assert!(low.is_empty(), "cosines in bf16: {low:?}");

    let graph = run(&model, &rounded_network.through_graph());
    let [found, expected] = [&host, &graph].map(|run| run.loss.sum.clone().into_scalar::<f32>());
    assert!((found - expected).abs() < 1e-5 * expected, "{found} for {expected}");
    gradients_agree(&exact, &graph.gradients(&model, 1.0), 1e-4);
}

/// The encoder to start from, the adapter and the decoder of smollm2-135m, dense.
fn real_model(
    session: &arc_core::Session,
    decoder: &std::path::Path,
) -> (TrainedModel, arc_core::decoder::Decoder) {
    let device = Device::flex();
    let decoder = arc_core::decoder::Decoder::open_as("smollm2-135m", decoder, &device, Residence::Dense)
        .expect("the decoder");
    let folder = repository("encoders/smollm2-start");
    let manifest = arc_adapters::EncoderManifest::open(&folder).expect("a manifest");
    let backbone = session.backbone(&manifest).expect("the backbone");
    let encoder =
        arc_core::encoder::Encoder::open_as(&manifest, &folder, Some(&backbone), &device, Residence::Dense)
            .expect("the encoder")
            .trainable()
            .expect("dense weights")
            .clone();
    let adapter = arc_adapters::Adapter::open(&repository("plugins/smollm2-135m")).expect("the adapter");
    let adapter = TrainedAdapter::from_package(&adapter, &device).expect("an adapter");
    (TrainedModel { encoder, adapters: vec![adapter] }, decoder)
}

/// No model is pulled for it: the decoder is random and tiny, stays as it is, and is led to say four
/// tokens by one latent. Longer texts are beyond what so small a decoder can be led to say.
#[test]
fn a_random_decoder_learns_to_repeat_a_text_from_a_quarter_as_many_latents() {
    let device = Device::flex();
    let (model, decoders) = fixture("arc8_single", 1, &device);
    let mut model = model.with_gradients(&TrainedPart::All, true, 0);
    let ids: Vec<u32> = vec![7, 31, 2, 44];
    let sample = Sample {
        contexts: vec![ids.clone()],
        plain_contexts: vec![ids.clone()],
        spans: vec![SampleSpan::Context(0), SampleSpan::Tokens { ids, is_target: true }],
        origin: "a text".into(),
    };
    let options = OPTIONS.counting_correct();
    let rate = 1e-2;
    let mut optimizer = AdamW::new(
        OptimizerConfig::default()
            .encoder_rate(rate)
            .projector_rate(rate)
            .special_rate(rate)
            .weight_decay(0.0),
    );
    let mut accuracies = Vec::new();
    for _ in 0..500 {
        let samples = std::slice::from_ref(&sample);
        let found = training_loss(&model, &decoders[0], 0, Objective::Reconstruction, samples, options);
        let found = found.expect("a loss");
        let correct = found.loss.correct.clone().expect("asked for").into_scalar::<f32>();
        accuracies.push(correct / found.targets as f32);
        if accuracies.last().is_some_and(|&accuracy| accuracy > 0.95) {
            break;
        }
        (model, _) = optimizer.step(model.clone(), found.gradients(&model, 1.0), 1.0, &device);
    }
    let (first, last) = (accuracies[0], accuracies[accuracies.len() - 1]);
    assert!(first < 0.5 && last > 0.95, "from {first} to {last} in {} steps", accuracies.len());
}

/// The reduced form of what `docs/training.md` does with more text: a text of 16 tokens as 4
/// latents, repeated by a real decoder.
#[test]
fn a_decoder_learns_to_repeat_a_text_from_a_quarter_as_many_latents() {
    let (Some(session), Some(packed)) = (session(), decoder("smollm2-135m")) else { return };
    let device = Device::flex();
    let encoder = session.encoder().expect("the default encoder");
    let (model, decoder) = real_model(session, packed.path());
    let mut model = model.with_gradients(&TrainedPart::All, false, 0);

    let text = "The ferry left the harbour at noon with nine passengers, two dogs and a piano";
    let mut ids = encoder.tokenizer.encode(text).expect("tokens").ids;
    ids.truncate(16);
    let sample = Sample {
        contexts: vec![ids.clone()],
        plain_contexts: vec![ids.clone()],
        spans: vec![SampleSpan::Context(0), SampleSpan::Tokens { ids, is_target: true }],
        origin: "a text".into(),
    };
    let options = OPTIONS.counting_correct();
    let run = |model: &TrainedModel| {
        let samples = std::slice::from_ref(&sample);
        training_loss(model, &decoder.network, 0, Objective::Reconstruction, samples, options)
            .expect("a loss")
    };
    let accuracy = |correct: Option<Tensor<1>>, targets: usize| {
        correct.expect("asked for").into_scalar::<f32>() / targets as f32
    };
    let start = run(&model.valid());
    let chance = accuracy(start.loss.correct, start.targets);
    assert!(chance < 0.5, "{chance} of the tokens are right before training");
    let rate = 1e-3;
    let mut optimizer =
        AdamW::new(OptimizerConfig::default().encoder_rate(rate).projector_rate(rate).special_rate(rate));
    let mut best = chance;
    for _ in 0..150 {
        let found = run(&model);
        best = accuracy(found.loss.correct.clone(), found.targets);
        if best > 0.95 {
            break;
        }
        (model, _) = optimizer.step(model.clone(), found.gradients(&model, 1.0), 1.0, &device);
    }
    assert!(best > 0.95, "{best} of the tokens are right");
}
