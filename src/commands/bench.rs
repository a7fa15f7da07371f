//! `arc bench`: how fast a decoder reads and writes here, and how fast a run would train.

use std::path::Path;
use std::time::Instant;

use arc_core::encoder::CompressOptions;
use arc_core::nn::Precision;
use arc_core::train::{RunConfig, measure_peak, measure_steps, peak_memory};
use bytesize::ByteSize;
use serde_json::json;

use super::session::session;
use crate::Failure;
use crate::args::{Bench, Global};
use crate::memory::keep_what_is_freed;
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &Bench, output: &Output) -> Result<(), Failure> {
    if let Some(config) = &args.training {
        return training(global, config, args, output);
    }
    if let Some(name) = &args.encoder {
        return encoding(global, name, args, output);
    }
    let name = args.decoder.as_deref().unwrap_or_default();
    if let Some(text) = &args.divergence {
        return divergence(global, name, text, args, output);
    }
    let decoder = session(global)?.decoder(name)?;
    // The usual numbers are cut to what fits; those that were asked for are not.
    let window = decoder.network.config().context_length;
    let new_tokens = args.new_tokens.unwrap_or_else(|| 64.min(window / 4));
    let prompt_tokens =
        args.prompt_tokens.unwrap_or_else(|| 512.min(window.saturating_sub(new_tokens)).max(1));
    let batch = usize::from(args.batch);
    let round = || decoder.measure_throughput(batch, prompt_tokens, new_tokens);
    round()?;
    let rounds = (0..args.rounds).map(|_| round()).collect::<Result<Vec<_>, _>>()?;
    let (read, written) = (batch * prompt_tokens, batch * new_tokens);
    let prefill: Vec<f64> = rounds.iter().map(|round| read as f64 / round.prefill.as_secs_f64()).collect();
    let decode: Vec<f64> = rounds.iter().map(|round| written as f64 / round.decode.as_secs_f64()).collect();
    for (what, tokens, rates) in [("prefill", read, &prefill), ("decode", written, &decode)] {
        output.line(format!("{what}, {tokens} tokens: {:.1} tokens/s (median)", median(rates)))?;
    }
    output.json(&json!({
        "decoder": decoder.name,
        "precision": global.precision,
        "batch": batch,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
    }))
}

/// How fast a text is encoded, from token ids to latents.
fn encoding(global: &Global, name: &str, args: &Bench, output: &Output) -> Result<(), Failure> {
    let encoder = session(global)?.encoder_named(name)?;
    // Words that every vocabulary has tokens for, as many as are asked for: a word has one at least.
    let count = args.prompt_tokens.unwrap_or(512);
    let words = ["the", "whale", "swims", "in", "its", "sea", "and", "ships", "go", "by"];
    let text: String = (0..count).map(|place| format!("{} ", words[place * place % 7 + place % 4])).collect();
    let mut ids = encoder.tokenise(&text)?.ids;
    ids.truncate(count);
    let round = || -> Result<f64, Failure> {
        let start = Instant::now();
        let chunks = encoder.encode_chunks(&ids, CompressOptions::default())?;
        encoder.device().sync().ok();
        drop(chunks);
        Ok(ids.len() as f64 / start.elapsed().as_secs_f64())
    };
    round()?;
    let rates = (0..args.rounds).map(|_| round()).collect::<Result<Vec<_>, _>>()?;
    output.line(format!("encode, {} tokens: {:.1} tokens/s (median)", ids.len(), median(&rates)))?;
    output.json(&json!({
        "encoder": encoder.name,
        "precision": global.precision,
        "prompt_tokens": ids.len(),
        "encode_tokens_per_second": rates,
    }))
}

/// How far fast products, and another program's, are from exact ones.
fn divergence(
    global: &Global,
    name: &str,
    text: &Path,
    args: &Bench,
    output: &Output,
) -> Result<(), Failure> {
    let in_precision = |precision| session(global).map(|session| session.with_precision(precision));
    let exact = in_precision(Precision::Exact)?.decoder(name)?;
    let fast = in_precision(Precision::Fast)?.decoder(name)?;
    let text = std::fs::read_to_string(text).map_err(arc_core::Error::io("read", text))?;
    let tokenizer = &exact.tokenizer;
    let mut ids = [tokenizer.beginning(), tokenizer.encode(&text)?.ids].concat();
    ids.truncate(args.prompt_tokens.unwrap_or(512));
    let mut found = vec![("fast", exact.divergence_of(&ids, args.at_once, fast.logits_by_pieces(&ids)?)?)];
    if let Some(path) = &args.logits {
        let bytes = std::fs::read(path).map_err(arc_core::Error::io("read", path))?;
        let vocabulary = exact.network.vocabulary();
        let row = |piece: std::ops::Range<usize>| {
            let (bytes, _) = bytes.as_chunks::<4>();
            let piece = piece.start * vocabulary..piece.end * vocabulary;
            let values = bytes.get(piece).unwrap_or_default();
            Ok(values.iter().map(|&value| f32::from_le_bytes(value)).collect())
        };
        found.push(("other", exact.divergence_of(&ids, args.at_once, row)?));
    }
    for (what, found) in &found {
        output.line(format!(
            "{what}: mean divergence from exact {:.6} nats, the same most likely token at {:.2} % of {}",
            found.mean_kl,
            100.0 * found.same_top,
            found.positions,
        ))?;
    }
    let found: serde_json::Map<String, serde_json::Value> =
        found.into_iter().map(|(what, found)| (what.to_owned(), json!(found))).collect();
    output.json(&json!({ "decoder": exact.name, "token_ids": ids, "divergence": found }))
}

/// Steps of a run, beside the most that this device multiplies.
fn training(global: &Global, config: &Path, args: &Bench, output: &Output) -> Result<(), Failure> {
    let config = RunConfig::open(config)?;
    keep_what_is_freed();
    let session = session(global)?;
    let peak = measure_peak(&config, session.device())?;
    output.line(format!(
        "a product of large matrices in {}: {:.0} GFLOP/s",
        config.precision.name(),
        peak / 1e9
    ))?;
    let mut decoders = Vec::new();
    for found in measure_steps(&config, &session, usize::from(args.rounds), args.through_graph)? {
        let seconds = median(&found.seconds);
        let share = found.flops as f64 / seconds / peak;
        output.line(format!(
            "{}: {seconds:.2} s a step (median), {:.0} tokens/s, {:.0} GFLOP a step, {:.0} % of the peak",
            found.decoder,
            found.tokens as f64 / seconds,
            found.flops as f64 / 1e9,
            100.0 * share,
        ))?;
        if !found.cpu_seconds.is_empty() {
            output.line(format!("  {:.2} s of processors", median(&found.cpu_seconds)))?;
        }
        decoders.push(json!({
            "decoder": found.decoder,
            "seconds": found.seconds,
            "cpu_seconds": found.cpu_seconds,
            "peak_memory": peak_memory(),
            "losses": found.losses,
            "tokens": found.tokens,
            "flops": found.flops,
            "share_of_peak": share,
        }));
    }
    if let Some(bytes) = peak_memory() {
        output.line(format!("most memory: {}", ByteSize(bytes)))?;
    }
    output.json(&json!({ "peak_flops_per_second": peak, "training": decoders }))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
