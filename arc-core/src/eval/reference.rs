//! This encoder against what the reference code computed.
//!
//! A folder holds a checkpoint in the released layout, its decoders as `decoderN/`, the inputs in
//! `cases.json`, and what the reference made of them in float32 in `expected.safetensors`.

use std::collections::btree_map::{BTreeMap, Entry};
use std::path::Path;

use burn::tensor::{Device, Int, Tensor};
use serde::{Deserialize, Serialize};

use crate::bounded_file::{DESCRIPTION, read_json};
use crate::decoder::Transformer;
use crate::encoder::{ArcEncoder, special_vector};
use crate::nn::Residence;
use crate::projector::Projector;
use crate::prompt::Prompt;
use crate::weights::{ArcCheckpoint, MetaFolder, SafetensorsFile, Special, TensorSource, TrainingSources};
use crate::{Error, Result};

/// The input of one case.
#[derive(Debug, Deserialize)]
struct Case {
    id: String,
    /// The index of the decoder.
    decoder: usize,
    task: ReferenceTask,
    /// Encoder token ids, by sequence and context.
    contexts: Vec<Vec<Vec<u32>>>,
    /// Decoder token ids, by sequence.
    tokens: Vec<Vec<u32>>,
    /// After how many further tokens each context is inserted, by sequence and context.
    insert_after: Vec<Vec<usize>>,
}

impl Case {
    /// What of it cannot be run by an encoder and a decoder that know so many tokens, if anything.
    fn fault(&self, [of_encoder, of_decoder]: [usize; 2]) -> Option<String> {
        let n = self.contexts.len();
        if (self.tokens.len(), self.insert_after.len()) != (n, n) {
            return Some(format!(
                "has `contexts` of {n} sequences, `tokens` of {} and `insert_after` of {}",
                self.tokens.len(),
                self.insert_after.len()
            ));
        }
        if self.contexts.iter().all(Vec::is_empty) {
            return Some("has no contexts".into());
        }
        for (i, ((contexts, tokens), insert_after)) in
            self.contexts.iter().zip(&self.tokens).zip(&self.insert_after).enumerate()
        {
            let before = insert_after.iter().fold(0_usize, |sum, &count| sum.saturating_add(count));
            if contexts.len() != insert_after.len() {
                return Some(format!(
                    "has {} contexts in sequence {i}, but {} numbers in `insert_after`",
                    contexts.len(),
                    insert_after.len()
                ));
            }
            if tokens.is_empty() || contexts.iter().any(Vec::is_empty) {
                return Some(format!("has a context or `tokens` without a token in sequence {i}"));
            }
            if before > tokens.len() {
                return Some(format!(
                    "inserts after {before} tokens in sequence {i}, which has {}",
                    tokens.len()
                ));
            }
            let outside = |ids: &[u32], size: usize| ids.iter().copied().find(|&id| id as usize >= size);
            let context = contexts.iter().find_map(|ids| outside(ids, of_encoder));
            for (what, id, size) in
                [("contexts", context, of_encoder), ("tokens", outside(tokens, of_decoder), of_decoder)]
            {
                if let Some(id) = id {
                    return Some(format!("has token {id} in `{what}`, expected less than {size}"));
                }
            }
        }
        None
    }
}

/// Which special vector follows the latents.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReferenceTask {
    Continuation,
    Reconstruction,
}

/// How far one tensor is from the reference's.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Deviation {
    /// `latents`, `projected`, `projected_special` or `logits`.
    pub tensor: String,
    /// The largest absolute difference.
    pub absolute: f64,
    /// The largest absolute difference, over the largest magnitude that the reference has in this
    /// tensor. Its latents are in the hundreds, where float32 itself resolves no better than this;
    /// and over each value by itself, one that is nearly zero would decide.
    pub relative: f64,
}

/// How far one case is from the reference.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct CaseReport {
    /// The case's name.
    pub id: String,
    /// One entry for each tensor compared.
    pub deviations: Vec<Deviation>,
}

impl CaseReport {
    /// The largest relative deviation; not a number if a tensor has such values.
    #[must_use]
    pub fn worst(&self) -> f64 {
        self.deviations
            .iter()
            .map(|deviation| deviation.relative)
            .fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
    }
}

/// Runs every case of a folder.
///
/// # Errors
///
/// Whatever is wrong with the folder's files, by name.
pub fn check_reference(folder: &Path, device: &Device) -> Result<Vec<CaseReport>> {
    let checkpoint = ArcCheckpoint::open(folder, &TrainingSources::default())?;
    let expected = SafetensorsFile::open(folder.join("expected.safetensors"))?;
    let cases_path = folder.join("cases.json");
    let invalid = |reason: String| Error::InvalidFile { path: cases_path.clone(), format: "cases", reason };
    let cases: Vec<Case> = read_json(&cases_path, DESCRIPTION.called("cases"))?;
    if cases.is_empty() {
        return Err(invalid("it has no cases".into()));
    }

    let mut decoders = BTreeMap::new();
    let mut reports = Vec::new();
    for case in &cases {
        let decoder = match decoders.entry(case.decoder) {
            Entry::Occupied(decoder) => decoder.into_mut(),
            Entry::Vacant(place) => {
                let weights = MetaFolder::open(folder.join(format!("decoder{}", case.decoder)))?;
                place.insert(Transformer::from_meta(&weights, device, Residence::Dense)?)
            }
        };
        let vocabularies = [checkpoint.config().model_args.vocab_size, decoder.vocabulary()];
        if let Some(fault) = case.fault(vocabularies) {
            return Err(invalid(format!("case `{}` {fault}", case.id)));
        }
        reports.push(run(case, &checkpoint, decoder, &expected, device)?);
    }
    Ok(reports)
}

fn run(
    case: &Case,
    checkpoint: &ArcCheckpoint,
    decoder: &Transformer,
    expected: &SafetensorsFile,
    device: &Device,
) -> Result<CaseReport> {
    let encoder = ArcEncoder::from_checkpoint(checkpoint, case.decoder, device)?;
    let projector = Projector::from_checkpoint(checkpoint, case.decoder, device)?;
    let special = match case.task {
        ReferenceTask::Continuation => Special::Cont,
        ReferenceTask::Reconstruction => Special::Rec,
    };
    let special = special_vector(checkpoint, special, case.decoder, device)?;
    let project = |rows: Tensor<2>| match &projector {
        Some(projector) => projector.forward(rows),
        None => Ok(rows),
    };

    // All contexts of the case in one batch, whatever their lengths.
    let contexts: Vec<Vec<u32>> = case.contexts.iter().flatten().cloned().collect();
    let encoded = encoder.forward(&contexts, device);
    let latents: Vec<Tensor<2>> = (0..contexts.len()).map(|row| encoded.row(row)).collect();
    let projected = latents.iter().map(|latents| project(latents.clone())).collect::<Result<Vec<_>>>()?;
    let projected_special = special.map(&project).transpose()?;

    let (given, read) = (projected.first().map_or(0, |rows| rows.dims()[1]), decoder.config().d_model());
    if given != read {
        return Err(Error::Mismatch {
            what: format!("decoder {} of case `{}` (width of its token embeddings)", case.decoder, case.id),
            expected: given.to_string(),
            found: read.to_string(),
            hint: "the checkpoint was trained with another decoder".into(),
        });
    }

    let mut logits = Vec::new();
    let mut contexts = projected.iter();
    for (tokens, insert_after) in case.tokens.iter().zip(&case.insert_after) {
        let mut prompt = Prompt::new();
        let mut rest = tokens.as_slice();
        for (&count, latents) in insert_after.iter().zip(&mut contexts) {
            let (before, after) = rest.split_at(count);
            rest = after;
            prompt = prompt.tokens(before.to_vec()).latents(latents.clone());
            if let Some(special) = &projected_special {
                prompt = prompt.latents(special.clone());
            }
        }
        let prompt = prompt.tokens(rest.to_vec());
        let mut cache = decoder.new_cache(vec![0]);
        let hidden = decoder.forward(prompt.embed(|ids| decoder.embed(ids)).unsqueeze(), &mut cache);
        let places: Vec<i64> = prompt
            .token_at_positions()
            .iter()
            .enumerate()
            .filter_map(|(place, token)| token.map(|_| place as i64))
            .collect();
        let places = Tensor::<1, Int>::from_data(places.as_slice(), device);
        logits.push(decoder.logits(hidden.select(1, places)).squeeze_dim::<2>(0));
    }

    let mut found = vec![("latents", Tensor::cat(latents, 0)), ("projected", Tensor::cat(projected, 0))];
    found.extend(projected_special.map(|special| ("projected_special", special)));
    found.push(("logits", Tensor::cat(logits, 0)));
    let deviations = found
        .into_iter()
        .map(|(tensor, found)| {
            let name = format!("{}.{tensor}", case.id);
            let expected = expected.tensor_of_shape(&name, &found.dims())?.to_f32();
            Ok(deviation(tensor, found, &expected))
        })
        .collect::<Result<_>>()?;
    Ok(CaseReport { id: case.id.clone(), deviations })
}

fn deviation(tensor: &str, found: Tensor<2>, expected: &[f32]) -> Deviation {
    let data = found.into_data().convert::<f32>();
    let found = data.as_slice::<f32>().expect("converted to f32");
    // A difference that is not a number must not pass for a small one.
    let larger = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
    let absolute = found.iter().zip(expected).map(|(&a, &b)| f64::from(a - b).abs()).fold(0.0, larger);
    let magnitude = expected.iter().map(|&value| f64::from(value).abs()).fold(0.0, larger);
    let relative = if absolute > 0.0 || absolute.is_nan() { absolute / magnitude } else { 0.0 };
    Deviation { tensor: tensor.to_owned(), absolute, relative }
}
