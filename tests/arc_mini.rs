//! What `docs/arc-mini.md` claims of the shipped encoder, on a text that was held out of its training: the
//! first half of McKinley's message of 1897. The losses are printed:
//! `cargo test --release --test arc_mini -- --nocapture`.

mod harness;

use arc_core::encoder::CompressOptions;
use arc_core::eval::{ContinuationArms, ContinuationTask};
use harness::{decoder, repository, session};

const SAMPLES: usize = 16;

const TASK: ContinuationTask = ContinuationTask::new(64, 32);

/// Continuation of McKinley's message through an encoder of the registry. `None` where models are left out.
fn continuation(encoder: &str, name: &str, factor: usize) -> Option<ContinuationArms> {
    let (session, decoder) = (session()?, decoder(name)?);
    let adapted = session.adapted_decoder_for(name, encoder).expect("the decoder with its adapter");
    let encoder = session.encoder_named(encoder).expect("the encoder");
    let text = std::fs::read_to_string(repository("tests/golden/mckinley-1897.txt")).expect("the text");
    let arms = TASK.measure(&decoder, &text, SAMPLES, |context| {
        adapted.project(&encoder.compress(context, CompressOptions::at_factor(factor))?)
    });
    let arms = arms.expect("scores");
    println!("{} for {name}, {factor} to a latent: {arms}", encoder.name);
    Some(arms)
}

#[test]
fn latents_tell_more_than_as_many_plain_tokens_and_than_latents_of_another_part_of_the_text() {
    for (decoder, factor) in [("smollm2-135m", 4), ("smollm2-135m", 8), ("gemma3-270m", 8)] {
        let Some(arms) = continuation("arc-mini", decoder, factor) else { return };
        assert!(arms.recovered() > arms.recovered_by_truncation(), "{decoder}, factor {factor}: {arms}");
        let another = arms.another.expect("several samples");
        assert!(another > arms.latents + 0.03, "{decoder}, factor {factor}: {arms}");
    }
}

#[test]
fn training_beat_the_regression_that_it_began_from() {
    for decoder in ["smollm2-135m", "gemma3-270m"] {
        let Some(fitted) = continuation("smollm2-start", decoder, 4) else { return };
        let Some(trained) = continuation("arc-mini", decoder, 4) else { return };
        assert_eq!(fitted.full_context, trained.full_context, "the same samples");
        assert!(trained.latents < fitted.latents - 0.1, "{decoder}: {trained:?}, fitted {fitted:?}");
    }
}
