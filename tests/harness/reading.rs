//! The ways to read a prompt, each with what the decoder makes of it.

use arc_core::decoder::{Decoder, GenerateOptions, Generation, KvCache};
use arc_core::prompt::Prompt;
use burn::tensor::Tensor;

/// What a decoder makes of a prompt.
pub(crate) struct Reading {
    /// The mean next-token loss, in nats.
    pub(crate) loss: f64,
    /// After the last position.
    pub(crate) logits: Vec<f32>,
    /// What it writes next.
    pub(crate) greedy: Vec<u32>,
}

/// One prompt by the calls that a user makes, its text streamed.
pub(crate) fn streamed(decoder: &Decoder, ids: &[u32], steps: usize) -> Reading {
    let prompt = Prompt::from_tokens(ids.to_vec());
    let loss = decoder.loss(&prompt).expect("a prompt").expect("targets");
    let mut streamed = String::new();
    let generations =
        decoder.generate(&[prompt], &greedy(steps), |_, text| streamed.push_str(text)).expect("a prompt");
    let row = generations.rows.into_iter().next().expect("one row");
    assert_eq!(streamed, row.text, "{}: what was streamed is the text", decoder.name);
    assert_eq!(row.text, decoder.tokenizer.decode(&row.token_ids, true), "{}", decoder.name);
    Reading { loss, logits: row.prompt_logits, greedy: row.token_ids }
}

/// Several prompts at once.
pub(crate) fn batch(decoder: &Decoder, rows: &[&[u32]], steps: usize) -> Vec<Reading> {
    let prompts: Vec<Prompt> = rows.iter().map(|ids| Prompt::from_tokens(ids.to_vec())).collect();
    together(decoder, &prompts, rows, steps)
}

/// One prompt, all of it as embeddings.
pub(crate) fn as_embeddings(decoder: &Decoder, ids: &[u32], steps: usize) -> Reading {
    let prompt = Prompt::new().latents(decoder.network.embed(ids));
    together(decoder, &[prompt], &[ids], steps).remove(0)
}

/// One prompt in two pieces, the second read into the cache of the first. Between them the cache
/// reads `forgotten`, and is cut back.
pub(crate) fn cut(decoder: &Decoder, ids: &[u32], at: usize, forgotten: &[u32], steps: usize) -> Reading {
    let network = &decoder.network;
    let mut cache = network.new_cache(vec![0]);
    let read = |ids: &[u32], cache: &mut KvCache| network.forward(network.embed(ids).unsqueeze(), cache);
    let first = read(&ids[..at], &mut cache);
    if !forgotten.is_empty() {
        let _ = read(forgotten, &mut cache);
        cache.truncate(at);
    }
    let second = read(&ids[at..], &mut cache);
    let (loss, logits) = score(decoder, Tensor::cat(vec![first, second], 1), ids);

    let mut greedy = vec![best(&logits)];
    while greedy.len() < steps && !decoder.tokenizer.is_end(greedy[greedy.len() - 1]) {
        let hidden = read(&greedy[greedy.len() - 1..], &mut cache);
        greedy.push(best(&values(network.logits(hidden))));
    }
    Reading { loss, logits, greedy }
}

/// The loss of one sequence's hidden states, and the logits after the last.
pub(crate) fn score(decoder: &Decoder, hidden: Tensor<3>, ids: &[u32]) -> (f64, Vec<f32>) {
    let n = ids.len();
    let states = hidden.clone().squeeze_dim::<2>(0).narrow(0, 0, n - 1);
    let losses = decoder.network.token_losses(states, &ids[1..]);
    let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / (n - 1) as f64;
    (loss, values(decoder.network.logits(hidden.narrow(1, n - 1, 1))))
}

fn together(decoder: &Decoder, prompts: &[Prompt], rows: &[&[u32]], steps: usize) -> Vec<Reading> {
    let (hidden, _) = decoder.prefill(prompts);
    let [_, longest, _] = hidden.dims();
    let generations = decoder.generate(prompts, &greedy(steps), |_, _| {}).expect("prompts");
    let reading = |(row, (ids, generation)): (usize, (&&[u32], Generation))| {
        // Shorter rows are padded on the left.
        let own = hidden.clone().narrow(0, row, 1).narrow(1, longest - ids.len(), ids.len());
        let (loss, _) = score(decoder, own, ids);
        Reading { loss, logits: generation.prompt_logits, greedy: generation.token_ids }
    };
    rows.iter().zip(generations.rows).enumerate().map(reading).collect()
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions::default().max_tokens(max_tokens)
}

fn values(logits: Tensor<3>) -> Vec<f32> {
    logits.try_into_vec_as::<f32>().expect("f32")
}

fn best(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
    u32::try_from(best.expect("a vocabulary")).expect("a token id")
}
