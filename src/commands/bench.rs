//! `arc bench`: how fast a decoder reads and writes here.

use serde_json::json;

use super::setup::session;
use crate::Failure;
use crate::args::{Bench, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, args: &Bench, output: &Output) -> Result<(), Failure> {
    let decoder = session(global)?.language_model(&args.decoder)?;
    let round = || decoder.measure_throughput(args.prompt_tokens, args.new_tokens);
    round()?;
    let rounds = (0..args.rounds).map(|_| round()).collect::<Result<Vec<_>, _>>()?;
    let prefill: Vec<f64> =
        rounds.iter().map(|round| args.prompt_tokens as f64 / round.prefill.as_secs_f64()).collect();
    let decode: Vec<f64> =
        rounds.iter().map(|round| args.new_tokens as f64 / round.decode.as_secs_f64()).collect();
    for (what, tokens, rates) in
        [("prefill", args.prompt_tokens, &prefill), ("decode", args.new_tokens, &decode)]
    {
        output.line(format!("{what}, {tokens} tokens: {:.1} tokens/s (median)", median(rates)))?;
    }
    output.json(&json!({
        "decoder": decoder.name,
        "prompt_tokens": args.prompt_tokens,
        "new_tokens": args.new_tokens,
        "prefill_tokens_per_second": prefill,
        "decode_tokens_per_second": decode,
    }))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
