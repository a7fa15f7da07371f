//! `arc generate`: a decoder alone continues a prompt.

use arc_core::document::PlainText;
use arc_core::prompt::Prompt;
use serde_json::json;

use super::ask::timings;
use super::session::session;
use crate::Failure;
use crate::args::{Generate, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, generate: &Generate, output: &Output) -> Result<(), Failure> {
    let mut options = generate.sampling.options()?;
    let session = session(global)?;
    session.registry().decoder(&generate.decoder)?;
    let text = match (&generate.prompt, &generate.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => PlainText::read(file)?.text,
        (None, None) => {
            return Err(Failure::usage("there is no prompt", "give `--prompt TEXT` or `--file FILE`"));
        }
    };
    let decoder = session.decoder(&generate.decoder)?;
    let prompt_ids = decoder.tokenizer.encode_prompt(&text)?;
    let prompt = Prompt::from_tokens(prompt_ids.clone());

    options.max_tokens = generate.sampling.max_tokens(&decoder, &prompt);
    let mut printed = Ok(());
    let generated = decoder.generate(std::slice::from_ref(&prompt), &options, |_, text| {
        if printed.is_ok() {
            printed = output.piece(text);
        }
    })?;
    printed?;
    output.line("")?;

    let row = &generated.rows[0];
    let mut object = json!({
        "decoder": decoder.name,
        "prompt_ids": prompt_ids,
        "token_ids": row.token_ids,
        "text": row.text,
        "finish": row.finish,
        "prompt_tokens": prompt_ids.len(),
        "latents": 0,
        "timings": timings(&generated.timings),
    });
    if let Some(count) = generate.logits {
        object["logits"] = best(&row.prompt_logits, count)
            .into_iter()
            .map(|(id, logit)| json!({"id": id, "logit": logit}))
            .collect();
    }
    if generate.loss {
        object["loss"] = json!(decoder.loss(&prompt)?);
    }
    output.json(&object)
}

/// The largest logits with their ids, best first, of equal ones the lowest id.
fn best(logits: &[f32], count: usize) -> Vec<(usize, f32)> {
    let mut ranked: Vec<(usize, f32)> = logits.iter().copied().enumerate().collect();
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    ranked.truncate(count);
    ranked
}
