//! `arc bench`: how fast a decoder reads and writes here, and how fast a run would train.

use std::path::Path;

use arc_core::train::{RunConfig, measure_peak, measure_steps, peak_memory};
use bytesize::ByteSize;
use serde_json::json;

use super::setup::session;
use crate::Failure;
use crate::args::{Bench, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &Bench, output: &Output) -> Result<(), Failure> {
    if let Some(config) = &args.training {
        return training(global, config, args, output);
    }
    let name = args.decoder.as_deref().unwrap_or_default();
    let decoder = session(global)?.language_model(name)?;
    // The usual numbers are cut to what fits; those that were asked for are not.
    let window = decoder.network.config().context_length;
    let new_tokens = args.new_tokens.unwrap_or_else(|| 64.min(window / 4));
    let prompt_tokens =
        args.prompt_tokens.unwrap_or_else(|| 512.min(window.saturating_sub(new_tokens)).max(1));
    let round = || decoder.measure_throughput(prompt_tokens, new_tokens);
    round()?;
    let rounds = (0..args.rounds).map(|_| round()).collect::<Result<Vec<_>, _>>()?;
    let prefill: Vec<f64> =
        rounds.iter().map(|round| prompt_tokens as f64 / round.prefill.as_secs_f64()).collect();
    let decode: Vec<f64> =
        rounds.iter().map(|round| new_tokens as f64 / round.decode.as_secs_f64()).collect();
    for (what, tokens, rates) in [("prefill", prompt_tokens, &prefill), ("decode", new_tokens, &decode)] {
        output.line(format!("{what}, {tokens} tokens: {:.1} tokens/s (median)", median(rates)))?;
    }
    output.json(&json!({
        "decoder": decoder.name,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
    }))
}

/// Steps of a run, beside the most that this device multiplies.
fn training(global: &Global, config: &Path, args: &Bench, output: &Output) -> Result<(), Failure> {
    let config = RunConfig::open(config)?;
    let session = session(global)?;
    let peak = measure_peak(session.device())?;
    output.line(format!("a product of large matrices: {:.0} GFLOP/s", peak / 1e9))?;
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
