//! Exact nearest neighbours: every pooled vector is compared with the question's.
//!
//! A pooled vector is stored as whole numbers from -127 to 127 and a scale, which is a quarter of what
//! 32-bit floats take, and all of them are in memory: so many bytes for each chunk as a latent is wide, and
//! eight more. Similarity is the cosine of what sets a vector and the question apart from the mean of the
//! store: what all latents of an encoder share says nothing of a text.

use std::sync::Arc;

use rayon::prelude::*;

use crate::manifest::{Manifest, Segment};
use crate::segment::{Column, POOLED, read_i8};
use crate::store::{Store, lock};
use crate::{Error, Result};

/// Rows that a thread compares at once.
const ROWS_AT_ONCE: usize = 4096;

/// The question's whole numbers are this large at most: with vectors of up to 8192 dimensions, sums of
/// products stay below 2^31.
const QUERY_RANGE: f32 = 2047.0;

/// The pooled vectors of a store.
#[derive(Debug)]
pub(crate) struct Vectors {
    version: u64,
    segments: Vec<SegmentVectors>,
    /// The mean of all vectors.
    mean: Vec<f32>,
}

#[derive(Debug)]
struct SegmentVectors {
    rows: Arc<SegmentRows>,
    /// For each row 1 over the length of what sets it apart from the mean; 0 for rows that were removed.
    inverse_lengths: Vec<f32>,
}

/// What a segment's file holds, which never changes.
#[derive(Debug)]
struct SegmentRows {
    file: String,
    removed: usize,
    live: Option<Vec<bool>>,
    codes: Vec<i8>,
    scales: Vec<f32>,
    /// The sum of its live vectors, and how many there are.
    sum: Vec<f64>,
    count: usize,
}

/// A chunk that was found.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Hit {
    /// The document's id.
    pub document_id: String,
    /// The number of the chunk in it.
    pub chunk: u32,
    /// How well it fits; comparable within a search.
    pub score: f32,
}

/// A row with its score.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Scored {
    score: f32,
    segment: u32,
    row: u32,
}

impl Store {
    /// The chunks whose pooled vectors are nearest to a question's, `[d_encoder]`, best first.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a question of another width; [`Error::Damaged`] if the vectors
    /// cannot be read.
    pub fn nearest(&self, question: &[f32], count: usize) -> Result<Vec<Hit>> {
        let search = || {
            let manifest = self.manifest();
            let d = manifest.settings.d_encoder;
            if question.len() != d {
                let width = question.len();
                let reason = format!("the question has a vector of width {width}, the store's have {d}");
                return Err(Error::InvalidArgument(reason));
            }
            let vectors = self.vectors(&manifest)?;
            self.hits(&manifest, &vectors.nearest(question, count))
        };
        self.again_if_moved(search)
    }

    /// Reads the pooled vectors of the store into memory, which a search does otherwise.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if they cannot be read.
    pub fn load_vectors(&self) -> Result<()> {
        self.again_if_moved(|| self.vectors(&self.manifest()).map(drop))
    }

    fn vectors(&self, manifest: &Manifest) -> Result<Arc<Vectors>> {
        let mut held = lock(&self.vectors);
        if let Some(vectors) = held.as_ref().filter(|vectors| vectors.version == manifest.version) {
            return Ok(Arc::clone(vectors));
        }
        let earlier = held.take();
        let kept = |segment: &Segment| {
            let segments = &earlier.as_ref()?.segments;
            let same = |rows: &&SegmentVectors| {
                rows.rows.file == segment.file && rows.rows.removed == segment.removed.len()
            };
            Some(Arc::clone(&segments.iter().find(same)?.rows))
        };
        let rows = manifest
            .segments
            .iter()
            .map(|segment| match kept(segment) {
                Some(rows) => Ok(rows),
                None => self.read_vectors(segment, manifest.settings.d_encoder).map(Arc::new),
            })
            .collect::<Result<Vec<_>>>()?;
        let vectors = Arc::new(Vectors::new(manifest.version, manifest.settings.d_encoder, rows));
        *held = Some(Arc::clone(&vectors));
        Ok(vectors)
    }

    fn read_vectors(&self, segment: &Segment, d: usize) -> Result<SegmentRows> {
        let open = self.open_segment(segment)?;
        let rows = segment.rows as usize;
        let (mut codes, mut scales) = (Vec::with_capacity(rows * d), Vec::with_capacity(rows));
        for batch in open.scan(&POOLED, None, None)? {
            let batch = batch?;
            let (pooled, scale) = (
                open.checked(Column::Pooled.binary(&batch))?,
                open.checked(Column::PooledScale.float(&batch))?,
            );
            for row in 0..batch.num_rows() {
                let (code, scale) = (pooled.value(row), scale.value(row));
                if code.len() != d || !scale.is_finite() {
                    return Err(
                        open.damaged(format!("row {} has no pooled vector of width {d}", scales.len()))
                    );
                }
                codes.extend(read_i8(code));
                scales.push(scale);
            }
        }
        let live = if segment.removed.is_empty() {
            None
        } else {
            Some(open.ids()?.iter().map(|id| !segment.removed.contains(id)).collect::<Vec<_>>())
        };
        let (mut sum, mut count) = (vec![0f64; d], 0);
        for (row, code) in codes.chunks_exact(d).enumerate() {
            if live.as_ref().is_none_or(|live| live[row]) {
                count += 1;
                let scale = f64::from(scales[row]);
                sum.iter_mut().zip(code).for_each(|(sum, &code)| *sum += scale * f64::from(code));
            }
        }
        let (file, removed) = (segment.file.clone(), segment.removed.len());
        Ok(SegmentRows { file, removed, live, codes, scales, sum, count })
    }

    /// The rows with the ids of their documents.
    fn hits(&self, manifest: &Manifest, scored: &[Scored]) -> Result<Vec<Hit>> {
        let mut hits: Vec<Option<Hit>> = vec![None; scored.len()];
        for (index, segment) in manifest.segments.iter().enumerate() {
            let mut here: Vec<(usize, usize)> = scored
                .iter()
                .enumerate()
                .filter(|(_, scored)| scored.segment as usize == index)
                .map(|(place, scored)| (scored.row as usize, place))
                .collect();
            if here.is_empty() {
                continue;
            }
            here.sort_unstable();
            let rows: Vec<usize> = here.iter().map(|(row, _)| *row).collect();
            let open = self.open_segment(segment)?;
            let mut places = here.iter();
            for batch in open.rows_at(&[Column::DocumentId, Column::Chunk], &rows)? {
                let batch = batch?;
                let ids = open.checked(Column::DocumentId.text(&batch))?;
                let chunks = open.checked(Column::Chunk.int(&batch))?;
                for row in 0..batch.num_rows() {
                    let Some(&(_, place)) = places.next() else { break };
                    hits[place] = Some(Hit {
                        document_id: ids.value(row).to_owned(),
                        chunk: chunks.value(row).cast_unsigned(),
                        score: scored[place].score,
                    });
                }
            }
        }
        Ok(hits.into_iter().flatten().collect())
    }
}

impl Vectors {
    fn new(version: u64, d: usize, segments: Vec<Arc<SegmentRows>>) -> Self {
        let count: usize = segments.iter().map(|segment| segment.count).sum();
        let mut mean = vec![0f64; d];
        for segment in &segments {
            mean.iter_mut().zip(&segment.sum).for_each(|(mean, sum)| *mean += sum / count.max(1) as f64);
        }
        let mut mean: Vec<f32> = mean.into_iter().map(|mean| mean as f32).collect();
        if count < 2 {
            // Nothing sets a single vector apart from itself.
            mean.fill(0.0);
        }
        let segments = segments
            .into_iter()
            .map(|rows| {
                let inverse = |(row, code): (usize, &[i8])| {
                    if rows.live.as_ref().is_some_and(|live| !live[row]) {
                        return 0.0;
                    }
                    let scale = rows.scales[row];
                    let apart = code.iter().zip(&mean).map(|(&code, mean)| f32::from(code) * scale - mean);
                    let length = apart.map(|value| value * value).sum::<f32>().sqrt();
                    // A vector that is the mean itself is as near to any question as to another.
                    1.0 / length.max(f32::MIN_POSITIVE.sqrt())
                };
                let inverse_lengths = rows.codes.par_chunks_exact(d).enumerate().map(inverse).collect();
                SegmentVectors { inverse_lengths, rows }
            })
            .collect();
        Self { version, segments, mean }
    }

    /// The best rows, best first; of equal ones the first.
    fn nearest(&self, question: &[f32], count: usize) -> Vec<Scored> {
        let question: Vec<f32> = question.iter().zip(&self.mean).map(|(value, mean)| value - mean).collect();
        let length = question.iter().map(|value| value * value).sum::<f32>().sqrt();
        if length == 0.0 || count == 0 {
            return Vec::new();
        }
        let question: Vec<f32> = question.iter().map(|value| value / length).collect();
        let query = RoundedQuery::new(&question, &self.mean);
        // Rounding moves a score by no more than the query's own error times the length of a vector over
        // that of what sets it apart, which each row knows; so the best by rounded scores, down to that
        // much below the last of them, hold all of the truly best.
        let mut candidates: Vec<(Scored, f32)> = self
            .blocks()
            .flat_map_iter(|(segment, start, end)| {
                self.segments[segment].best(segment as u32, start..end, &query, count)
            })
            .collect();
        candidates.par_sort_unstable_by(|a, b| b.0.score.total_cmp(&a.0.score));
        let lower = |(scored, error): &(Scored, f32)| scored.score - error;
        let mut lowers: Vec<f32> = candidates.iter().map(lower).collect();
        lowers.sort_unstable_by(|a, b| b.total_cmp(a));
        let least =
            lowers.get(count.min(lowers.len()).saturating_sub(1)).copied().unwrap_or(f32::NEG_INFINITY);
        let mut exact: Vec<Scored> = candidates
            .into_iter()
            .filter(|(scored, error)| scored.score + error >= least)
            .map(|(scored, _)| Scored { score: self.score(&question, scored), ..scored })
            .collect();
        let place = |scored: &Scored| (scored.segment, scored.row);
        exact.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(place(a).cmp(&place(b))));
        exact.truncate(count);
        exact
    }

    fn blocks(&self) -> impl ParallelIterator<Item = (usize, usize, usize)> + '_ {
        let blocks: Vec<_> = self
            .segments
            .iter()
            .enumerate()
            .flat_map(|(index, segment)| {
                let rows = segment.inverse_lengths.len();
                (0..rows)
                    .step_by(ROWS_AT_ONCE)
                    .map(move |start| (index, start, rows.min(start + ROWS_AT_ONCE)))
            })
            .collect();
        blocks.into_par_iter()
    }

    /// The cosine of a row and the question, both apart from the mean.
    fn score(&self, question: &[f32], scored: Scored) -> f32 {
        let segment = &self.segments[scored.segment as usize];
        let (row, d) = (scored.row as usize, self.mean.len());
        let code = &segment.rows.codes[row * d..(row + 1) * d];
        let scale = segment.rows.scales[row];
        let product: f64 = code
            .iter()
            .zip(question.iter().zip(&self.mean))
            .map(|(&code, (value, mean))| f64::from(*value) * f64::from(f32::from(code) * scale - mean))
            .sum();
        (product * f64::from(segment.inverse_lengths[row])) as f32
    }
}

/// A question in whole numbers.
struct RoundedQuery {
    values: Vec<i16>,
    scale: f32,
    /// Its product with the mean, which every row has in it.
    mean_product: f32,
    /// The length of what rounding took off.
    error: f32,
}

impl RoundedQuery {
    fn new(question: &[f32], mean: &[f32]) -> Self {
        let largest = question.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let range =
            if question.len() > 8192 { QUERY_RANGE * 8192.0 / question.len() as f32 } else { QUERY_RANGE };
        let scale = largest / range.max(1.0);
        let values: Vec<i16> = question.iter().map(|value| (value / scale).round() as i16).collect();
        let error = question.iter().zip(&values).map(|(value, &rounded)| value - f32::from(rounded) * scale);
        let error = error.map(|error| error * error).sum::<f32>().sqrt();
        let mean_product = question.iter().zip(mean).map(|(value, mean)| value * mean).sum();
        Self { values, scale, mean_product, error }
    }
}

impl SegmentVectors {
    /// The best rows of a block by rounded scores, with how far each can be off; and all that could be as
    /// good as them.
    fn best(
        &self,
        segment: u32,
        rows: std::ops::Range<usize>,
        query: &RoundedQuery,
        count: usize,
    ) -> Vec<(Scored, f32)> {
        let d = query.values.len();
        let mut best: Vec<(Scored, f32)> = Vec::with_capacity(2 * count + 64);
        let mut least = f32::NEG_INFINITY;
        for row in rows {
            let inverse = self.inverse_lengths[row];
            if inverse == 0.0 {
                continue;
            }
            let code = &self.rows.codes[row * d..(row + 1) * d];
            let scale = self.rows.scales[row];
            let product = dot(code, &query.values) as f32 * scale * query.scale;
            let score = (product - query.mean_product) * inverse;
            // Twice what rounding can do, for the rounding of these very sums.
            let length = scale * 127.0 * (d as f32).sqrt();
            let error = 2.0 * query.error * length * inverse + 1e-6;
            if score + error >= least {
                best.push((Scored { score, segment, row: row as u32 }, error));
                if best.len() >= 2 * count + 64 {
                    least = shrink(&mut best, count);
                }
            }
        }
        shrink(&mut best, count);
        best
    }
}

/// Leaves what can be among the best `count`, and returns what the next one must reach.
fn shrink(best: &mut Vec<(Scored, f32)>, count: usize) -> f32 {
    if best.len() <= count {
        return f32::NEG_INFINITY;
    }
    let mut lowers: Vec<f32> = best.iter().map(|(scored, error)| scored.score - error).collect();
    let (_, &mut least, _) = lowers.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    best.retain(|(scored, error)| scored.score + error >= least);
    least
}

/// The product of a stored vector and a question, without rounding.
fn dot(code: &[i8], query: &[i16]) -> i32 {
    code.iter().zip(query).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;
    use crate::latent_code::pooled;

    fn segment(vectors: &[Vec<f32>], live: Option<Vec<bool>>) -> Arc<SegmentRows> {
        let d = vectors[0].len();
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        let (mut sum, mut count) = (vec![0f64; d], 0);
        for (row, vector) in vectors.iter().enumerate() {
            let (code, scale) = pooled(vector, d);
            if live.as_ref().is_none_or(|live| live[row]) {
                count += 1;
                let values = code.iter().map(|&code| f64::from(code) * f64::from(scale));
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
            codes.extend(code);
            scales.push(scale);
        }
        let removed = live.iter().flatten().filter(|live| !**live).count();
        Arc::new(SegmentRows { file: String::new(), removed, live, codes, scales, sum, count })
    }

    /// Cosines after the mean is taken off, in float64, of every vector.
    fn by_hand(vectors: &Vectors, question: &[f32]) -> Vec<(f64, u32, u32)> {
        let apart = |value: f32, mean: f32| f64::from(value) - f64::from(mean);
        let question: Vec<f64> = question.iter().zip(&vectors.mean).map(|(&v, &m)| apart(v, m)).collect();
        let mut scored = Vec::new();
        for (index, segment) in vectors.segments.iter().enumerate() {
            for (row, code) in segment.rows.codes.chunks_exact(question.len()).enumerate() {
                if segment.rows.live.as_ref().is_some_and(|live| !live[row]) {
                    continue;
                }
                let scale = segment.rows.scales[row];
                let row_values: Vec<f64> =
                    code.iter().zip(&vectors.mean).map(|(&c, &m)| apart(f32::from(c) * scale, m)).collect();
                let product: f64 = row_values.iter().zip(&question).map(|(a, b)| a * b).sum();
                let length = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
                scored.push((product / length(&row_values) / length(&question), index as u32, row as u32));
            }
        }
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored
    }

    #[test]
    fn the_nearest_are_those_of_float64_even_where_vectors_hardly_differ() {
        let mut random = StdRng::seed_from_u64(1);
        for (d, spread) in [(24, 1.0), (64, 0.02), (64, 1e-3)] {
            let shared: Vec<f32> = (0..d).map(|_| random.random_range(-3.0..3.0)).collect();
            let mut draw = |n: usize| -> Vec<Vec<f32>> {
                let vector =
                    |_| shared.iter().map(|v| v + spread * random.random_range(-1.0f32..1.0)).collect();
                (0..n).map(vector).collect()
            };
            let live = (0..700).map(|row| row % 7 != 0).collect();
            let segments = vec![segment(&draw(5000), None), segment(&draw(700), Some(live))];
            let vectors = Vectors::new(1, d, segments);
            for question in draw(20) {
                let expected = by_hand(&vectors, &question);
                let found = vectors.nearest(&question, 10);
                assert_eq!(found.len(), 10);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((f64::from(found.score) - expected.0).abs() < 1e-5, "{found:?} {expected:?}");
                }
                let tenth = expected[9].0 - 1e-5;
                for scored in &found {
                    assert!(!(scored.segment == 1 && scored.row % 7 == 0), "removed rows are not found");
                    let exact = expected.iter().find(|e| (e.1, e.2) == (scored.segment, scored.row)).unwrap();
                    assert!(exact.0 >= tenth);
                }
            }
        }
    }

    #[test]
    fn the_largest_products_do_not_overflow() {
        for d in [1, 576, 8192, 16384] {
            let question = vec![1.0; d];
            let query = RoundedQuery::new(&question, &vec![0.0; d]);
            let code = vec![127i8; d];
            let wide: i64 = code.iter().zip(&query.values).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum();
            assert_eq!(i64::from(dot(&code, &query.values)), wide);
        }
    }

    #[test]
    fn a_store_of_one_row_or_of_equal_rows_finds_them() {
        let one = Vectors::new(1, 3, vec![segment(&[vec![1.0, 2.0, 3.0]], None)]);
        assert_eq!(one.nearest(&[1.0, 2.0, 3.0], 4).len(), 1);
        let equal = Vectors::new(1, 3, vec![segment(&vec![vec![1.0, 2.0, 3.0]; 5], None)]);
        let found = equal.nearest(&[3.0, 1.0, 0.0], 4);
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|found| found.score.is_finite()));
        assert!(one.nearest(&[1.0, 2.0, 3.0], 0).is_empty());
    }
}
