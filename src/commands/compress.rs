//! `arc compress`: a text becomes a latents file.

use std::time::Instant;

use arc_core::document::Document;
use arc_core::encoder::CompressOptions;
use serde_json::json;

use super::destination::check_file;
use super::documents::{LATENTS_SUFFIX, is_latents_file, named};
use super::session::session;
use crate::Failure;
use crate::args::{Compress, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, compress: &Compress, output: &Output) -> Result<(), Failure> {
    if is_latents_file(&compress.file) {
        return Err(Failure::usage(
            format!("`{}` holds latents: it is compressed already", compress.file.display()),
            "give it to `arc ask --document` as it is",
        ));
    }
    if !is_latents_file(&compress.output) {
        return Err(Failure::usage(
            format!(
                "`{}` does not end in `{LATENTS_SUFFIX}`, by which latents are known",
                compress.output.display()
            ),
            format!("name it `{}{LATENTS_SUFFIX}`", compress.output.with_extension("").display()),
        ));
    }
    check_file(&compress.output, compress.replace)?;
    let document = Document::read(&compress.file)?;
    let session = session(global)?;
    let encoder = match &compress.encoder {
        Some(name) => session.encoder_named(name)?,
        None => session.encoder()?,
    };
    let start = Instant::now();
    let latents = encoder
        .compress(&document.text, CompressOptions::default().with_factor(compress.factor.map(usize::from)));
    let latents = latents.map_err(|error| named(error, &compress.file))?;
    if compress.replace {
        latents.save(&compress.output)?;
    } else {
        latents.save_new(&compress.output)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    output.line(format!(
        "{} tokens compressed to {} latents in {seconds:.2} s: {}",
        latents.source_tokens,
        latents.len(),
        compress.output.display()
    ))?;
    output.json(&json!({
        "output": compress.output.to_string_lossy(),
        "encoder": encoder.name,
        "encoder_id": latents.encoder_id,
        "factor": latents.factor,
        "source_tokens": latents.source_tokens,
        "latents": latents.len(),
        "chunks": latents.chunk_lengths,
        "text_sha256": latents.text_sha256,
        "compress_seconds": seconds,
    }))
}
