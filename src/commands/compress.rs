//! `arc compress`: a text becomes a latents file.

use std::time::Instant;

use arc_core::document::Document;
use arc_core::encoder::CompressOptions;
use serde_json::json;

use super::setup::session;
use crate::Failure;
use crate::args::{Compress, Global};
use crate::output::Output;

pub(crate) fn run(global: &Global, compress: &Compress, output: &Output) -> Result<(), Failure> {
    let document = Document::read(&compress.file)?;
    let session = session(global)?;
    let encoder = match &compress.encoder {
        Some(name) => session.encoder_named(name)?,
        None => session.encoder()?,
    };
    let start = Instant::now();
    let latents =
        encoder.compress(&document.text, CompressOptions { factor: compress.factor.map(usize::from) })?;
    latents.save(&compress.output)?;
    let seconds = start.elapsed().as_secs_f64();
    output.line(format!(
        "{} tokens compressed to {} latents in {seconds:.2} s: {}",
        latents.source_tokens,
        latents.len(),
        compress.output.display()
    ))?;
    output.json(&json!({
        "output": compress.output,
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
