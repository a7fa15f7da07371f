//! The fitted start: what a regression of latents to token embeddings gives, on a real model.

mod harness;

use std::sync::Arc;

use arc_adapters::{Adapter, AdapterPackage, Append};
use arc_core::AdaptedDecoder;
use arc_core::decoder::Decoder;
use arc_core::encoder::{CompressOptions, Encoder};
use arc_core::fit::Fit;
use arc_core::prompt::Prompt;
use burn::tensor::Tensor;
use harness::{decoder, repository, session};

/// What is compressed one to one: nothing is pooled.
const UNPOOLED: CompressOptions = CompressOptions::at_factor(1);

/// smollm2-135m with the encoder that fits begin from and an adapter fitted on the first characters of a
/// text, nothing pooled; and that text. `None` where models are left out.
fn fitted(characters: usize, append: Append) -> Option<(Arc<Encoder>, AdaptedDecoder, String)> {
    let (session, decoder): (_, Arc<Decoder>) = (session()?, decoder("smollm2-135m")?);
    let encoder = session.encoder_named("smollm2-start").expect("the encoder of one block");
    let text = read("tests/golden/lincoln-1862.txt");
    let mut fit = Fit::new(&encoder, &decoder, 1).expect("a factor");
    let all: Vec<char> = text.chars().take(characters).collect();
    for piece in all.chunks(600) {
        fit.add(&piece.iter().collect::<String>()).expect("a text");
    }
    let mut report = fit.finish("smollm2-135m", "{{ document }}{{ question }}").expect("a solution");
    // One tokenizer on both sides: every latent ends where a token ends.
    assert_eq!(report.aligned, report.latents);
    report.manifest.append = append;
    let folder = tempfile::tempdir().expect("a folder");
    let package = folder.path().join("adapter");
    AdapterPackage::write(&package, &report.manifest, &report.tensors).expect("a package");
    let adapter = Adapter::open(&package).expect("the package");
    Some((encoder, AdaptedDecoder::new(decoder, adapter).expect("an adapter of this decoder"), text))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).expect("the text")
}

/// The cosine between each row of `a` and of `b`, `[n, d]` both.
fn cosines(a: &Tensor<2>, b: &Tensor<2>) -> Vec<f32> {
    let norm = |x: &Tensor<2>| x.clone().square().sum_dim(1).sqrt();
    let cosine = (a.clone() * b.clone()).sum_dim(1) / (norm(a) * norm(b));
    cosine.try_into_vec_as::<f32>().expect("f32")
}

#[test]
fn unpooled_latents_project_near_the_embeddings_of_their_tokens() {
    let Some((encoder, adapted, text)) = fitted(24 * 600, Append::None) else { return };
    // Text that was not fitted on.
    let sample: String = text.chars().skip(24 * 600).take(600).collect();
    let latents = encoder.compress(&sample, UNPOOLED).expect("latents");
    let ids = adapted.decoder.tokenizer.encode(&sample).expect("tokens").ids;
    let n = ids.len();
    let projected = adapted.project(&latents).expect("projected latents");
    assert_eq!(projected.dims(), [n, 576]);
    let cosines = cosines(&projected, &adapted.decoder.network.embed(&ids));
    let mean = cosines.iter().sum::<f32>() / n as f32;
    assert!(mean > 0.8, "mean cosine {mean}");
    // Against the embeddings of other tokens there is nothing to see.
    let mut others = ids.clone();
    others.rotate_left(7);
    let chance = self::cosines(&projected, &adapted.decoder.network.embed(&others));
    let chance = chance.iter().sum::<f32>() / n as f32;
    assert!(chance < mean / 2.0, "mean cosine {mean}, with other tokens {chance}");
}

#[test]
fn the_special_vector_is_one_that_the_decoder_does_not_mind() {
    let Some((encoder, adapted, text)) = fitted(24 * 600, Append::Cont) else { return };
    // It follows the latents.
    let special = adapted.project(&encoder.compress("It", UNPOOLED).expect("latents")).expect("projected");
    let special = special.clone().narrow(0, special.dims()[0] - 1, 1);
    // Text that was not fitted on.
    let rest: String = text.chars().skip(24 * 600).take(3000).collect();
    let ids = adapted.decoder.tokenizer.encode(&rest).expect("tokens").ids;
    let (context, continuation) = (ids[..128].to_vec(), ids[128..192].to_vec());
    let loss = |prompt: Prompt| {
        let losses = adapted.decoder.token_losses(&prompt.tokens(continuation.clone())).expect("losses");
        let scored = &losses[losses.len() - continuation.len()..];
        scored.iter().flatten().sum::<f32>() / scored.len() as f32
    };
    let without = loss(Prompt::from_tokens(context.clone()));
    let with = loss(Prompt::from_tokens(context).latents(special));
    // A vector far from every token takes it from about 4 to above 10.
    assert!(with < without + 0.5, "loss {with} with the special vector, {without} without");
}
