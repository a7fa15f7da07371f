//! `/v1/compress`: a text in, latents or a decoder's embeddings out.

use std::sync::Arc;

use arc_core::burn::tensor::Tensor;
use arc_core::encoder::{CompressOptions, Encoder};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::errors::Failure;
use super::router::{self, Answer, Asked};
use super::wire::{CompressRequest, Format, read};
use super::{files, prepare};

pub(super) async fn compress(asked: Asked) -> Answer {
    let Asked { app, body, deadline, place, .. } = asked;
    let request: CompressRequest = read(&body)?;
    drop(body);
    let CompressRequest { text, title, encoder, decoder, factor, format } = request;
    let format = format.unwrap_or_default();
    if format == Format::Vllm && decoder.is_none() {
        let message = "vLLM reads embeddings of the decoder that it serves";
        return Err(Failure::invalid(message, "name a `decoder`").of("decoder"));
    }
    if factor == Some(0) {
        return Err(Failure::value("factor", 0, "1 or more"));
    }
    let text = prepare::titled(title, text).map_err(|failure| failure.of("text"))?;
    let spelled = (format == Format::Spans).then(|| text.clone());
    let loading = Arc::clone(&app);
    let (adapted, encoder, factor) = prepare::blocking(deadline, move || {
        let session = &loading.session;
        let registry = session.registry();
        let Some(decoder) = decoder else {
            let encoder = match &encoder {
                Some(name) => session.encoder_named(name)?,
                None => session.encoder()?,
            };
            return Ok((None, encoder, factor));
        };
        let name =
            registry.decoder(&decoder).map_err(|error| Failure::from(error).of("decoder"))?.name.clone();
        let factor = factor.or(registry.resolve(&name, encoder.as_deref())?.options().factor);
        Ok(match &encoder {
            Some(encoder) => {
                (Some(session.adapted_decoder_for(&name, encoder)?), session.encoder_named(encoder)?, factor)
            }
            None => (Some(session.adapted_decoder(&name)?), session.encoder_for(&name)?, factor),
        })
    })
    .await?;
    let factor = factor.map(|factor| factor as usize);
    let read =
        prepare::read(&app, Some(&encoder), factor, vec![prepare::Source::Text(text)], usize::MAX, deadline)
            .await?;
    let cached = read.hits > 0;
    let Some(latents) = read.latents.into_iter().next() else {
        return Err(Failure::internal("a text without latents"));
    };
    app.metrics.compressed(&encoder.name, latents.len(), latents.source_tokens);
    let answer = prepare::blocking(deadline, move || {
        let usage = json!({
            "latents": latents.len(), "document_tokens": latents.source_tokens,
            "documents_cached": u8::from(cached),
        });
        if let Some(text) = spelled {
            return Ok(router::json(&json!({
                "object": "arc.spans", "encoder": encoder.name, "factor": latents.factor,
                "latents": latents.len(), "document_tokens": latents.source_tokens,
                "spans": spans(&encoder, factor, &text)?, "usage": usage,
            })));
        }
        let matrix = match &adapted {
            Some(adapted) => adapted.project(&latents)?,
            None => latents.values.clone(),
        };
        let (shape, values) = values_of(matrix)?;
        let [n, d] = shape;
        Ok(match (format, &adapted) {
            (Format::Npy, _) => router::bytes_of(files::npy(shape, &values).into(), "application/x-npy"),
            (Format::Safetensors, None) => {
                router::bytes_of(latents.to_file_bytes()?.into(), "application/x-safetensors")
            }
            (Format::Safetensors, Some(adapted)) => {
                let about = [
                    ("decoder", adapted.decoder.name.as_str()),
                    ("encoder_id", latents.encoder_id.as_str()),
                    ("text_sha256", latents.text_sha256.as_str()),
                ];
                let file = files::safetensors("embeddings", shape, &values, &about)?;
                router::bytes_of(file.into(), "application/x-safetensors")
            }
            (Format::Vllm, _) => {
                let data = STANDARD.encode(files::torch(shape, &values)?);
                router::json(&json!({ "type": "prompt_embeds", "data": data }))
            }
            (Format::Json | Format::Spans, _) => {
                let rows: Vec<&[f32]> = values.chunks_exact(d.max(1)).collect();
                router::json(&json!({
                    "object": if adapted.is_some() { "arc.embeddings" } else { "arc.latents" },
                    "encoder": encoder.name, "encoder_id": latents.encoder_id,
                    "decoder": adapted.as_ref().map(|adapted| &adapted.decoder.name),
                    "factor": latents.factor, "shape": [n, d], "data": rows,
                    "usage": usage,
                    "text_sha256": latents.text_sha256,
                }))
            }
        })
    });
    let answer = answer.await;
    drop(place);
    answer
}

/// Which characters of a text each latent stands for, `[from, to]`; nothing where latents stand for no tokens in a row.
fn spans(encoder: &Encoder, factor: Option<usize>, text: &str) -> Result<Option<Vec<[usize; 2]>>, Failure> {
    let encoded = encoder.tokenizer.encode(text)?;
    let options = CompressOptions::default().with_factor(factor);
    let Some(ranges) = encoder.tokens_of_latents(&encoded.ids, options)? else { return Ok(None) };
    // Tokens may begin within a character: it belongs to those that begin in it.
    let mut characters = text.char_indices().map(|(at, _)| at).enumerate().peekable();
    let mut spans = Vec::with_capacity(ranges.len());
    let mut from = 0;
    for range in ranges {
        let end = encoded.offsets.get(range.end - 1).map_or(text.len(), |&(_, end)| end);
        let mut to = from;
        while characters.next_if(|&(_, at)| at < end).is_some() {
            to += 1;
        }
        spans.push([from, to]);
        from = to;
    }
    Ok(Some(spans))
}

/// A matrix on the host.
fn values_of(matrix: Tensor<2>) -> Result<([usize; 2], Vec<f32>), Failure> {
    let shape = matrix.dims();
    let data = matrix.into_data().convert::<f32>();
    let values = data.as_slice::<f32>().map_err(|error| Failure::internal(format!("{error:?}")))?;
    Ok((shape, values.to_vec()))
}
