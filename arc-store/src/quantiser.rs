//! Product quantisation of latents (Jégou, Douze and Schmid, 2011): the width is cut into subspaces, and
//! in each a latent is written as the number of the nearest of 256 centroids, one byte. Further stages
//! write what the ones before left over in the same way.

use rand::rngs::StdRng;
use rand::seq::index::sample;
use rand::{RngExt as _, SeedableRng as _};
use rayon::prelude::*;

use crate::{Error, Result};

/// Centroids of a subspace, so that a code is one byte.
pub const CENTROIDS: usize = 256;

/// Rounds of k-means; more change the error in its third digit.
const ROUNDS: usize = 15;

/// Trained centroids.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantiser {
    /// The width of a latent.
    width: usize,
    /// The width of a subspace, which divides `width`.
    subspace: usize,
    /// How often what is left over is written.
    stages: usize,
    /// `[stages, width / subspace, 256, subspace]`.
    centroids: Vec<f32>,
}

impl Quantiser {
    /// Trains centroids on a sample of latents, `[n, width]`, by k-means in each subspace, stage after
    /// stage. The same seed gives the same centroids.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the subspaces do not divide the width, or the sample has fewer than
    /// 256 latents.
    pub fn train(latents: &[f32], width: usize, subspace: usize, stages: usize, seed: u64) -> Result<Self> {
        if subspace == 0 || stages == 0 || width == 0 || !width.is_multiple_of(subspace) {
            return Err(Error::InvalidArgument(format!(
                "{stages} stages of subspaces of {subspace} dimensions do not make up latents of {width}"
            )));
        }
        let n = latents.len() / width;
        if n < CENTROIDS {
            return Err(Error::InvalidArgument(format!(
                "{n} latents are too few to train {CENTROIDS} centroids on"
            )));
        }
        let mut left = latents[..n * width].to_vec();
        let mut quantiser = Self { width, subspace, stages: 0, centroids: Vec::new() };
        for stage in 0..stages {
            let trained: Vec<Vec<f32>> = (0..quantiser.subspaces())
                .into_par_iter()
                .map(|part| {
                    let start = part * subspace;
                    let points: Vec<f32> = left
                        .chunks_exact(width)
                        .flat_map(|row| &row[start..start + subspace])
                        .copied()
                        .collect();
                    k_means(&points, subspace, seed ^ ((stage as u64) << 32 | part as u64))
                })
                .collect();
            quantiser.centroids.extend(trained.into_iter().flatten());
            quantiser.stages += 1;
            left.par_chunks_exact_mut(width).for_each(|row| {
                let codes = quantiser.codes_of_stage(row, stage);
                quantiser.take_off(row, &codes, stage);
            });
        }
        Ok(quantiser)
    }

    /// Centroids that were read from a file: `[stages, width / subspace, 256, subspace]`.
    pub(crate) fn of_centroids(
        width: usize,
        subspace: usize,
        stages: usize,
        centroids: Vec<f32>,
    ) -> Result<Self, String> {
        let fits = subspace > 0
            && width.is_multiple_of(subspace)
            && stages.checked_mul(width * CENTROIDS) == Some(centroids.len())
            && stages > 0;
        if !fits {
            return Err(format!(
                "{} values do not make {stages} stages of {CENTROIDS} centroids for latents of {width} in \
                 subspaces of {subspace}",
                centroids.len()
            ));
        }
        if !centroids.iter().all(|value| value.is_finite()) {
            return Err("a centroid is not finite".into());
        }
        Ok(Self { width, subspace, stages, centroids })
    }

    /// The width of a latent.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The width of a subspace.
    #[must_use]
    pub fn subspace(&self) -> usize {
        self.subspace
    }

    /// How often what is left over is written.
    #[must_use]
    pub fn stages(&self) -> usize {
        self.stages
    }

    fn subspaces(&self) -> usize {
        self.width / self.subspace
    }

    /// Bytes of one latent.
    #[must_use]
    pub fn code_bytes(&self) -> usize {
        self.stages * self.subspaces()
    }

    /// The 256 centroids of a subspace, `[256, subspace]`.
    pub(crate) fn centroids_of(&self, stage: usize, part: usize) -> &[f32] {
        let length = CENTROIDS * self.subspace;
        let start = (stage * self.subspaces() + part) * length;
        &self.centroids[start..start + length]
    }

    /// Writes latents, `[n, width]`, as codes, `[n, code_bytes]`, stage by stage.
    #[must_use]
    pub fn encode(&self, latents: &[f32]) -> Vec<u8> {
        let rows: Vec<Vec<u8>> = latents
            .par_chunks_exact(self.width)
            .map(|row| {
                let mut left = row.to_vec();
                let mut codes = Vec::with_capacity(self.code_bytes());
                for stage in 0..self.stages {
                    let of_stage = self.codes_of_stage(&left, stage);
                    self.take_off(&mut left, &of_stage, stage);
                    codes.extend(of_stage);
                }
                codes
            })
            .collect();
        rows.concat()
    }

    /// Reads codes, `[n, code_bytes]`, as latents, `[n, width]`.
    #[must_use]
    pub fn decode(&self, codes: &[u8]) -> Vec<f32> {
        let mut latents = Vec::with_capacity(codes.len() / self.code_bytes() * self.width);
        for row in codes.chunks_exact(self.code_bytes()) {
            let start = latents.len();
            latents.resize(start + self.width, 0.0);
            let latent = &mut latents[start..];
            for (stage, of_stage) in row.chunks_exact(self.subspaces()).enumerate() {
                for (part, (&code, values)) in
                    of_stage.iter().zip(latent.chunks_exact_mut(self.subspace)).enumerate()
                {
                    let centroid = self.centroid(stage, part, code);
                    values.iter_mut().zip(centroid).for_each(|(value, centroid)| *value += centroid);
                }
            }
        }
        latents
    }

    fn centroid(&self, stage: usize, part: usize, code: u8) -> &[f32] {
        let start = usize::from(code) * self.subspace;
        &self.centroids_of(stage, part)[start..start + self.subspace]
    }

    fn codes_of_stage(&self, row: &[f32], stage: usize) -> Vec<u8> {
        let parts = row.chunks_exact(self.subspace).enumerate();
        parts.map(|(part, point)| nearest(point, self.centroids_of(stage, part)).0 as u8).collect()
    }

    fn take_off(&self, row: &mut [f32], codes: &[u8], stage: usize) {
        for (part, (values, &code)) in row.chunks_exact_mut(self.subspace).zip(codes).enumerate() {
            let centroid = self.centroid(stage, part, code);
            values.iter_mut().zip(centroid).for_each(|(value, centroid)| *value -= centroid);
        }
    }
}

/// The nearest centroid and the squared distance to it; of equally near ones the first.
fn nearest(point: &[f32], centroids: &[f32]) -> (usize, f32) {
    let mut best = (0, f32::INFINITY);
    for (index, centroid) in centroids.chunks_exact(point.len()).enumerate() {
        let distance: f32 = point.iter().zip(centroid).map(|(a, b)| (a - b) * (a - b)).sum();
        if distance < best.1 {
            best = (index, distance);
        }
    }
    best
}

/// Lloyd's rounds from points drawn without replacement. A centroid that nobody is nearest to moves to
/// the point that is farthest from its own.
fn k_means(points: &[f32], width: usize, seed: u64) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(seed);
    let n = points.len() / width;
    let point = |index: usize| &points[index * width..(index + 1) * width];
    let mut centroids: Vec<f32> =
        sample(&mut random, n, CENTROIDS).into_iter().flat_map(|index| point(index).to_vec()).collect();
    for _ in 0..ROUNDS {
        let mut sums = vec![0f64; CENTROIDS * width];
        let mut counts = [0usize; CENTROIDS];
        let mut farthest: Vec<(f32, usize)> = Vec::with_capacity(n);
        for index in 0..n {
            let (of, distance) = nearest(point(index), &centroids);
            counts[of] += 1;
            let sum = &mut sums[of * width..(of + 1) * width];
            sum.iter_mut().zip(point(index)).for_each(|(sum, value)| *sum += f64::from(*value));
            farthest.push((distance, index));
        }
        if counts.contains(&0) {
            farthest.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        }
        let mut lonely = farthest.iter().map(|&(_, index)| index);
        for (of, centroid) in centroids.chunks_exact_mut(width).enumerate() {
            if counts[of] == 0 {
                let index = lonely.next().unwrap_or_else(|| random.random_range(0..n));
                centroid.copy_from_slice(point(index));
            } else {
                let sum = &sums[of * width..(of + 1) * width];
                let mean = sum.iter().map(|sum| (sum / counts[of] as f64) as f32);
                centroid.iter_mut().zip(mean).for_each(|(centroid, mean)| *centroid = mean);
            }
        }
    }
    centroids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(n: usize, seed: u64) -> Vec<f32> {
        let mut random = StdRng::seed_from_u64(seed);
        (0..n).map(|_| random.random_range(-1.0..1.0)).collect()
    }

    fn squared_error(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
    }

    #[test]
    fn a_code_is_that_of_the_nearest_centroid() {
        let latents = draws(1000 * 8, 1);
        let quantiser = Quantiser::train(&latents, 8, 2, 1, 7).unwrap();
        let codes = quantiser.encode(&latents);
        assert_eq!(codes.len(), 1000 * 4);
        for (row, codes) in latents.chunks(8).zip(codes.chunks(4)) {
            for (part, (point, &code)) in row.chunks(2).zip(codes).enumerate() {
                let distance = |code: usize| {
                    let centroid = &quantiser.centroids_of(0, part)[code * 2..code * 2 + 2];
                    (point[0] - centroid[0]).powi(2) + (point[1] - centroid[1]).powi(2)
                };
                let best = (0..256).map(distance).fold(f32::INFINITY, f32::min);
                assert_eq!(distance(usize::from(code)), best);
            }
        }
    }

    #[test]
    fn more_bytes_and_more_stages_leave_less_over() {
        let (sample, held_out) = (draws(4000 * 8, 1), draws(500 * 8, 2));
        let error = |subspace, stages| {
            let quantiser = Quantiser::train(&sample, 8, subspace, stages, 7).unwrap();
            squared_error(&held_out, &quantiser.decode(&quantiser.encode(&held_out)))
        };
        let errors = [error(8, 1), error(4, 1), error(2, 1), error(1, 1)];
        assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
        assert!(error(2, 2) < errors[2] / 20.0, "a second stage writes what the first left");
        // A uniform scalar in 256 steps is off by a step's width squared over twelve.
        let uniform = (2.0f64 / 256.0).powi(2) / 12.0;
        assert!((0.5..2.5).contains(&(errors[3] / uniform)), "{} beside {uniform}", errors[3]);
    }

    #[test]
    fn fewer_distinct_points_than_centroids_come_back_exactly() {
        let few = draws(3 * 4, 5);
        let latents: Vec<f32> = (0..300).flat_map(|row| few[row % 3 * 4..row % 3 * 4 + 4].to_vec()).collect();
        let quantiser = Quantiser::train(&latents, 4, 4, 1, 0).unwrap();
        let back = quantiser.decode(&quantiser.encode(&latents));
        assert!(squared_error(&latents, &back) < 1e-12);
    }

    #[test]
    fn what_cannot_be_trained_is_refused() {
        for (n, width, subspace, stages) in [(255, 4, 2, 1), (300, 4, 3, 1), (300, 4, 0, 1), (300, 4, 2, 0)] {
            let refused = Quantiser::train(&draws(n * width, 0), width, subspace, stages, 0);
            assert!(matches!(refused, Err(Error::InvalidArgument(_))), "{n} {width} {subspace} {stages}");
        }
    }
}
