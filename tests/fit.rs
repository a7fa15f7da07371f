//! The fitted start: what a regression of latents to token embeddings gives, on a real model.

mod harness;

use arc_adapters::{Adapter, AdapterPackage};
use arc_core::AdaptedDecoder;
use arc_core::encoder::CompressOptions;
use arc_core::fit::Fit;
use burn::tensor::Tensor;
use harness::{decoder, repository, session};

/// The cosine between each row of `a` and of `b`, `[n, d]` both.
fn cosines(a: &Tensor<2>, b: &Tensor<2>) -> Vec<f32> {
    let norm = |x: &Tensor<2>| x.clone().square().sum_dim(1).sqrt();
    let cosine = (a.clone() * b.clone()).sum_dim(1) / (norm(a) * norm(b));
    cosine.try_into_vec_as::<f32>().expect("f32")
}

#[test]
fn unpooled_latents_project_near_the_embeddings_of_their_tokens() {
    let (Some(session), Some(decoder)) = (session(), decoder("smollm2-135m")) else { return };
    let encoder = session.encoder().expect("the default encoder");
    let text = std::fs::read_to_string(repository("tests/golden/lincoln-1862.txt")).expect("the text");
    let mut fit = Fit::new(&encoder, &decoder, 1).expect("a factor");
    let characters: Vec<char> = text.chars().collect();
    for piece in characters.chunks(600).take(24) {
        fit.add(&piece.iter().collect::<String>()).expect("a text");
    }
    let report = fit.finish("smollm2-135m", "{{ document }}{{ question }}").expect("a solution");
    // One tokenizer on both sides: every latent ends where a token ends.
    assert_eq!(report.aligned, report.latents);
    let folder = tempfile::tempdir().expect("a folder");
    let package = folder.path().join("adapter");
    AdapterPackage::write(&package, &report.manifest, &report.tensors).expect("a package");
    let adapter = Adapter::open(&package).expect("the package");
    let adapted = AdaptedDecoder::new(decoder.clone(), adapter).expect("an adapter of this decoder");

    let sample: String = characters[..600].iter().collect();
    let latents = encoder.compress(&sample, CompressOptions { factor: Some(1) }).expect("latents");
    let ids = decoder.tokenizer.encode(&sample).expect("tokens").ids;
    let n = ids.len();
    let projected = adapted.project(&latents).expect("projected latents");
    // The special vector follows the latents.
    assert_eq!(projected.dims(), [n + 1, 576]);
    let projected = projected.narrow(0, 0, n);
    let cosines = cosines(&projected, &decoder.network.embed(&ids));
    let mean = cosines.iter().sum::<f32>() / n as f32;
    assert!(mean > 0.8, "mean cosine {mean}");
    // Against the embeddings of other tokens there is nothing to see.
    let mut others = ids.clone();
    others.rotate_left(7);
    let chance = self::cosines(&projected, &decoder.network.embed(&others));
    let chance = chance.iter().sum::<f32>() / n as f32;
    assert!(chance < mean / 2.0, "mean cosine {mean}, with other tokens {chance}");
}
