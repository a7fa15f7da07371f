//! Attention of the positions of a batch to what was read before them, for inference on the CPU.
//!
//! Scores of a block of queries are one matrix product, of a size that stays in the cache; what a
//! causal block cannot see is not computed. burn's CPU backend takes scores one at a time.

use rayon::prelude::*;

use super::halves;
use super::kernels::{exponentials, scores_of_few, sums_of_few};
use super::key_value::{HostKeyValue, Kept};
use super::product::{View, multiply};
use crate::nn::{AttentionConfig, Visible, count_products};

/// Queries of one block: with 512 keys the scores take 64 KiB, half of a first-level cache at
/// worst, and 512 queries make sixteen blocks to share out.
const BLOCK: usize = 32;
/// Fewer multiplications than this are not worth waking another thread for (a few microseconds).
const WORTH_A_THREAD: usize = 64 * 1024;
/// What a hidden key's score becomes: finite, so that differences are, and its exponential vanishes
/// beside any other.
const HIDDEN: f32 = f32::MIN / 2.0;

/// The sizes of one call.
struct Sizes {
    s: usize,
    /// Keys that are there.
    n: usize,
    h: usize,
    g: usize,
    k: usize,
}

/// Attends to the first `n` slots of a context, `[b, s, h·k] → [b, s, h·k]`. Scores are scaled by
/// `1/√k`.
pub(super) fn attend(
    config: AttentionConfig,
    queries: &[f32],
    s: usize,
    (context, n): (&HostKeyValue, usize),
    visible: &Visible,
) -> Vec<f32> {
    let AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, .. } = config;
    let row = h * k;
    let b = queries.len() / (s * row).max(1);
    let hidden = match visible {
        Visible::All | Visible::Causal => None,
        Visible::Masked(hidden) => Some(&hidden[..]),
    };
    if s == 1 {
        let hidden = |row| hidden.map(|hidden| &hidden[row * n..][..n]);
        let rows: Vec<NextRow<'_>> =
            (0..b).map(|row| NextRow { context, row, n, hidden: hidden(row) }).collect();
        return attend_next(config, queries, &rows);
    }

    // The scores, and the sum of values that they weigh.
    count_products(b * h, [s, k, n]);
    count_products(b * h, [s, n, k]);
    let sizes = Sizes { s, n, h, g, k };
    let mut joined = vec![0.0; queries.len()];
    let causal = matches!(visible, Visible::Causal);
    let mut blocks: Vec<QueryBlock<'_>> = Vec::with_capacity(b * s.div_ceil(BLOCK));
    for (batch, sequence) in joined.chunks_mut((s * row).max(1)).enumerate() {
        for (index, out) in sequence.chunks_mut(BLOCK * row).enumerate() {
            blocks.push(QueryBlock { batch, first: index * BLOCK, out });
        }
    }
    let run = |block: QueryBlock<'_>| block.attend(&sizes, causal, queries, context, hidden);
    if n * s * row < WORTH_A_THREAD || blocks.len() == 1 {
        blocks.into_iter().for_each(run);
    } else {
        blocks.into_par_iter().for_each(run);
    }
    joined
}

/// What the next position of a sequence sees.
#[derive(Clone, Copy)]
pub(super) struct NextRow<'a> {
    /// Where its keys and values are.
    pub(super) context: &'a HostKeyValue,
    /// Which row of that it is.
    pub(super) row: usize,
    /// How many slots there are.
    pub(super) n: usize,
    /// Which of them it does not see.
    pub(super) hidden: Option<&'a [bool]>,
}

/// Attends from the next position of each of several sequences, `[b, h·k] → [b, h·k]`. Scores are scaled by `1/√k`.
pub(super) fn attend_next(config: AttentionConfig, queries: &[f32], rows: &[NextRow<'_>]) -> Vec<f32> {
    let AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, .. } = config;
    let slots: usize = rows.iter().map(|row| row.n).sum();
    count_products(h, [1, k, slots]);
    count_products(h, [1, slots, k]);
    // The heads that share keys are rows of one product, or of a few where that shares it out better.
    let threads = if h * k * slots < WORTH_A_THREAD { 1 } else { rayon::current_num_threads() };
    let parts = parts_of_heads(h / g, rows.len() * g, threads);
    let share = h / g / parts * k;
    let run = |(part, out): (usize, &mut [f32])| {
        let sequence = part / parts;
        let NextRow { context, row, n, hidden } = rows[sequence / g];
        let queries = &queries[part * share..][..share];
        attend_one(n, k, queries, context.of(row, sequence % g, n), hidden, out);
    };
    let mut joined = vec![0.0; queries.len()];
    if threads == 1 {
        joined.chunks_exact_mut(share).enumerate().for_each(run);
    } else {
        joined.par_chunks_exact_mut(share).enumerate().for_each(run);
    }
    joined
}

/// In how many equal parts heads that share keys are best read, of which there are `groups` times as many, so
/// that no thread has much more to do than another: the fewest, since each part reads all keys. What a head
/// computes does not depend on it.
fn parts_of_heads(heads: usize, groups: usize, threads: usize) -> usize {
    let most_for_a_thread = |parts: usize| (groups * parts).div_ceil(threads) * (heads / parts);
    let possible = (1..=heads).filter(|parts| heads.is_multiple_of(*parts));
    possible.min_by_key(|&parts| (most_for_a_thread(parts), parts)).unwrap_or(1)
}

/// One position's queries of the heads that share keys, `[h/g, k]`, and their keys and values,
/// `[n, k]`.
fn attend_one(
    n: usize,
    k: usize,
    queries: &[f32],
    [keys, values]: [Kept<'_>; 2],
    hidden: Option<&[bool]>,
    out: &mut [f32],
) {
    let mut scores = vec![0.0; queries.len() / k * n];
    let scale = (k as f32).sqrt().recip();
    match keys {
        Kept::Singles(keys) => scores_of_few(queries, keys, k, scale, &mut scores),
        Kept::Halves(keys) => halves::scores(queries, keys, k, scale, &mut scores),
    }
    for row in scores.chunks_exact_mut(n) {
        for (score, _) in row.iter_mut().zip(hidden.unwrap_or_default()).filter(|(_, hidden)| **hidden) {
            *score = HIDDEN;
        }
        let sum = exponentials(row);
        row.iter_mut().for_each(|weight| *weight /= sum);
    }
    match values {
        Kept::Singles(values) => sums_of_few(&scores, values, k, out),
        Kept::Halves(values) => halves::sums(&scores, values, k, out),
    }
}

/// Queries `first..` of one sequence, for all heads.
struct QueryBlock<'a> {
    batch: usize,
    first: usize,
    /// `[queries, h·k]`
    out: &'a mut [f32],
}

impl QueryBlock<'_> {
    fn attend(
        self,
        sizes: &Sizes,
        causal: bool,
        queries: &[f32],
        context: &HostKeyValue,
        hidden: Option<&[bool]>,
    ) {
        let &Sizes { s, n, h, g, k } = sizes;
        let rows = self.out.len() / (h * k);
        // The last query sees the last key; the keys that no query of the block sees are left out.
        let seen = |row: usize| if causal { self.first + row + 1 + n - s } else { n };
        let visible = seen(rows - 1);
        let mut scores = vec![0.0; rows * visible];
        let mut attended = vec![0.0; rows * k];
        let mut wide = [Vec::new(), Vec::new()];
        for head in 0..h {
            // The heads of a group share the keys of one head.
            let group = head * g / h;
            let [keys, values] = context.of(self.batch, group, visible);
            let is_first = head == 0 || (head - 1) * g / h != group;
            let [wide_keys, wide_values] = &mut wide;
            let (keys, values) = (keys.wide(is_first, wide_keys), values.wide(is_first, wide_values));
            let queries = View {
                values: &queries[((self.batch * s + self.first) * h + head) * k..],
                rows,
                columns: k,
                row_stride: h * k,
                column_stride: 1,
            };
            let scale = (k as f32).sqrt().recip();
            let keys = View::rows_of(keys, visible, k).transposed();
            multiply(queries, keys, scale, &mut scores);
            let mut sums = [0.0; BLOCK];
            for (row, sum) in sums[..rows].iter_mut().enumerate() {
                let (seen_scores, later) = scores[row * visible..][..visible].split_at_mut(seen(row));
                later.fill(0.0);
                if let Some(hidden) = hidden {
                    let hidden = &hidden[(self.batch * s + self.first + row) * n..][..visible];
                    for (score, _) in seen_scores.iter_mut().zip(hidden).filter(|(_, hidden)| **hidden) {
                        *score = HIDDEN;
                    }
                }
                *sum = exponentials(seen_scores);
            }
            multiply(
                View::rows_of(&scores, rows, visible),
                View::rows_of(values, visible, k),
                1.0,
                &mut attended,
            );
            for (row, sum) in sums[..rows].iter().enumerate() {
                let out = &mut self.out[row * h * k + head * k..][..k];
                for (out, value) in out.iter_mut().zip(&attended[row * k..]) {
                    *out = value / sum;
                }
            }
        }
    }
}

impl<'a> Kept<'a> {
    /// The numbers in float32, in memory that holds them already unless they `are_new`.
    fn wide(self, are_new: bool, memory: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Kept::Singles(numbers) => numbers,
            Kept::Halves(numbers) => {
                memory.resize(numbers.len(), 0.0);
                if are_new {
                    halves::widen(numbers, memory);
                }
                memory
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::Precision;

    /// Values that differ and are of the size that activations have.
    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| (((i + seed) * 7919 % 1013) as f32 - 506.0) / 300.0).collect()
    }

    /// One output row in double precision, straight from the formula.
    fn expected(query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        let scores: Vec<f64> =
            keys.iter().map(|key| (dot(query, key) / (query.len() as f64).sqrt()).exp()).collect();
        let sum: f64 = scores.iter().sum();
        (0..query.len())
            .map(|i| scores.iter().zip(values).map(|(p, value)| p * f64::from(value[i])).sum::<f64>() / sum)
            .collect()
    }

    #[test]
    fn heads_are_shared_out_among_threads() {
        // Heads that share keys, groups of them, threads, and the parts of each group.
        for (heads, groups, threads, parts) in
            [(3, 3, 1, 1), (3, 3, 2, 3), (4, 1, 2, 2), (4, 1, 8, 4), (7, 2, 2, 1), (1, 8, 2, 1), (6, 1, 4, 3)]
        {
            assert_eq!(parts_of_heads(heads, groups, threads), parts, "{heads} {groups} {threads}");
        }
    }

    #[test]
    fn every_visibility_gives_what_the_formula_gives() {
        // More queries than a block, and one; keys from before, and heads that share keys.
        for s in [70, 1] {
            check_visibilities(s, Precision::Exact, 1e-5);
            // Of half a step of 16 bits for a key and a value, where the machine keeps those.
            check_visibilities(s, Precision::Fast, 2e-3);
        }
    }

    fn check_visibilities(s: usize, precision: Precision, tolerance: f64) {
        let (b, h, g, n, k) = (2, 4, 2, 75, 16);
        let config = AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, scale: 0.25 };
        let (q, kv, vv) = (values(b * h * s * k, 1), values(b * g * n * k, 2), values(b * g * n * k, 3));
        let mask: Vec<bool> = (0..b * s * n).map(|i| (i * 31 % 7 < 3) && i % n != i / n % s).collect();
        for visible in [Visible::All, Visible::Causal, Visible::Masked(mask.clone())] {
            // In two pieces, with room left, and moved between the two.
            let piece = |all: &[f32], own: std::ops::Range<usize>| -> Vec<f32> {
                let rows = all.chunks_exact(n * g * k);
                rows.flat_map(|row| row[own.start * g * k..own.end * g * k].to_vec()).collect()
            };
            let mut context = HostKeyValue::of_precision(precision).with_capacity([b, g, k], 0, 60);
            context.write(0, &piece(&kv, 0..50), &piece(&vv, 0..50));
            let mut context = context.with_capacity([b, g, k], 50, 80);
            context.write(50, &piece(&kv, 50..n), &piece(&vv, 50..n));
            let joined = attend(config, &q, s, (&context, n), &visible);
            for batch in 0..b {
                for head in 0..h {
                    for query in 0..s {
                        let seen: Vec<usize> = (0..n)
                            .filter(|&key| match &visible {
                                Visible::All => true,
                                Visible::Causal => key <= query + n - s,
                                Visible::Masked(_) => !mask[(batch * s + query) * n + key],
                            })
                            .collect();
                        let rows = |all: &'_ [f32]| -> Vec<Vec<f32>> {
                            let place = |key: usize| ((batch * n + key) * g + head * g / h) * k;
                            seen.iter().map(|&key| all[place(key)..][..k].to_vec()).collect()
                        };
                        let query_row = &q[((batch * s + query) * h + head) * k..][..k];
                        let expected = expected(query_row, &rows(&kv), &rows(&vv));
                        let found = &joined[(batch * s + query) * h * k + head * k..][..k];
                        for (found, expected) in found.iter().zip(expected) {
                            assert!(
                                (f64::from(*found) - expected).abs() < tolerance,
                                "{found}, expected {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}
