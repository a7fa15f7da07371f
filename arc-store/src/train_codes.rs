//! Training product codes on a store's own latents.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::index::sample;

use crate::latent_code::LatentCode;
use crate::quantiser::Quantiser;
use crate::segment::Column;
use crate::store::Store;
use crate::{Error, Result};

/// Of the latents that are drawn, one in so many is kept to measure on.
const HELD_OUT: usize = 10;

/// What training came to.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct TrainedCodes {
    /// Bytes of one latent.
    pub bytes_of_latent: usize,
    /// Latents that were trained on.
    pub sample: usize,
    /// Other latents, that were measured on.
    pub held_out: usize,
    /// The share of their variance that the codes leave out.
    pub lost_variance: f64,
}

impl Store {
    /// Trains codes on about `wanted` latents of random chunks, and has the store write new latents by
    /// them. A compaction rewrites what is there.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for subspaces that do not divide the width, or too few latents;
    /// [`Error::Search`] if latents are codes already; as [`Store::get`] otherwise.
    pub fn train_codes(
        &self,
        subspace: usize,
        stages: usize,
        wanted: usize,
        seed: u64,
    ) -> Result<TrainedCodes> {
        self.refresh()?;
        let width = self.manifest().settings.d_encoder;
        let mut latents = self.drawn_latents(wanted + wanted / HELD_OUT, seed)?;
        let held_out = latents.split_off(latents.len() / width * (HELD_OUT - 1) / HELD_OUT * width);
        let quantiser = Quantiser::train(&latents, width, subspace, stages, seed)?;
        let lost_variance = lost_variance(&quantiser, &held_out);
        self.set_codebooks(&quantiser)?;
        Ok(TrainedCodes {
            bytes_of_latent: quantiser.code_bytes(),
            sample: latents.len() / width,
            held_out: held_out.len() / width,
            lost_variance,
        })
    }

    /// About so many latents of random chunks, `[n, d_encoder]`, in a random order of chunks.
    pub(crate) fn drawn_latents(&self, wanted: usize, seed: u64) -> Result<Vec<f32>> {
        let manifest = self.manifest();
        let segments = &manifest.segments;
        if let Some(segment) = segments.iter().find(|segment| segment.latents == LatentCode::Pq) {
            return Err(Error::Search {
                place: self.place.to_string(),
                reason: format!(
                    "has codes in place of latents in `{}`: what they left out is gone",
                    segment.file
                ),
                hint: "add the sources to a new store, and train its codes before it is compacted".into(),
            });
        }
        let rows = segments.iter().map(|segment| segment.rows).sum::<u64>() as usize;
        let latents = segments.iter().map(|segment| segment.latent_count).sum::<u64>().max(1) as usize;
        let count = (wanted * rows).div_ceil(latents).min(rows);
        let mut random = StdRng::seed_from_u64(seed);
        let mut drawn: Vec<(usize, usize)> = sample(&mut random, rows, count)
            .into_iter()
            .enumerate()
            .map(|(place, row)| (row, place))
            .collect();
        drawn.sort_unstable();
        let mut by_place: Vec<Vec<f32>> = vec![Vec::new(); count];
        let (mut start, mut drawn) = (0, drawn.into_iter().peekable());
        for segment in segments {
            let end = start + segment.rows as usize;
            let mut here = Vec::new();
            while let Some((row, place)) = drawn.next_if(|(row, _)| *row < end) {
                here.push((row - start, place));
            }
            start = end;
            if here.is_empty() {
                continue;
            }
            let open = self.open_segment(segment)?;
            let rows: Vec<usize> = here.iter().map(|(row, _)| *row).collect();
            let mut places = here.iter();
            for batch in open.rows_at(&[Column::Latents], &rows)? {
                let batch = batch?;
                let codes = open.checked(Column::Latents.binary(&batch))?;
                for row in 0..batch.num_rows() {
                    let Some(&(_, place)) = places.next() else { break };
                    by_place[place] = self.with_coder(segment, |coder| Ok(coder.decode(codes.value(row))))?;
                }
            }
        }
        Ok(by_place.concat())
    }
}

/// The squared error of codes as a share of the variance of what is coded.
fn lost_variance(quantiser: &Quantiser, latents: &[f32]) -> f64 {
    let width = quantiser.width();
    let n = (latents.len() / width).max(1) as f64;
    let mut mean = vec![0f64; width];
    for row in latents.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) / n);
    }
    let decoded = quantiser.decode(&quantiser.encode(latents));
    let (mut error, mut variance) = (0f64, 0f64);
    for (row, decoded) in latents.chunks_exact(width).zip(decoded.chunks_exact(width)) {
        for ((value, decoded), mean) in row.iter().zip(decoded).zip(&mean) {
            error += f64::from(value - decoded).powi(2);
            variance += (f64::from(*value) - mean).powi(2);
        }
    }
    if variance > 0.0 { error / variance } else { 0.0 }
}
