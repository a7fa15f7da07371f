//! Attention on host memory, for inference on the CPU.
//!
//! Scores of a block of queries are one matrix product, of a size that stays in the cache; what a
//! causal block cannot see is not computed. burn's CPU backend takes scores one at a time.

use burn::tensor::{Bool, Tensor, TensorData};
use rayon::prelude::*;

use super::kernels::{View, exponentials, multiply, scores_of_few, sums_of_few};
use crate::nn::{AttentionConfig, Context, KeyValue, Visibility};

/// Queries of one block: with 512 keys the scores take 64 KiB, half of a first-level cache at
/// worst, and 512 queries make sixteen blocks to share out.
const BLOCK: usize = 32;
/// Fewer multiplications than this are not worth waking another thread for (a few microseconds).
const WORTH_A_THREAD: usize = 64 * 1024;
/// What a hidden key's score becomes: finite, so that differences are, and its exponential vanishes
/// beside any other.
const HIDDEN: f32 = f32::MIN / 2.0;

/// Keys and values of one layer in host memory, with room for more: `[b·g, capacity, k]`.
#[derive(Clone, Debug, Default)]
pub struct HostKeyValue {
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `b·g`
    sequences: usize,
    capacity: usize,
    /// `k`
    width: usize,
}

impl HostKeyValue {
    /// Makes room for `capacity` slots and keeps the first `filled`.
    ///
    /// # Panics
    ///
    /// Panics if more slots are to be kept than there are.
    #[must_use]
    pub fn with_capacity(self, [b, g, k]: [usize; 3], filled: usize, capacity: usize) -> Self {
        let grow = |old: &[f32]| {
            let mut new = vec![0.0; b * g * capacity * k];
            if filled > 0 {
                for (new, old) in new.chunks_exact_mut(capacity * k).zip(old.chunks_exact(self.capacity * k))
                {
                    new[..filled * k].copy_from_slice(&old[..filled * k]);
                }
            }
            new
        };
        Self { keys: grow(&self.keys), values: grow(&self.values), sequences: b * g, capacity, width: k }
    }

    /// How many slots there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes `[b, g, s, k]` into the slots from `from` on.
    ///
    /// # Panics
    ///
    /// Panics if there is no room.
    pub fn write(&mut self, from: usize, new: KeyValue) {
        let k = self.width;
        for (slots, new) in [(&mut self.keys, new.keys), (&mut self.values, new.values)] {
            let s = new.dims()[2];
            let data = new.into_data();
            for (slots, new) in
                slots.chunks_exact_mut(self.capacity * k).zip(slice(&data).chunks_exact(s * k))
            {
                slots[from * k..(from + s) * k].copy_from_slice(new);
            }
        }
    }

    /// The same `times` times over, for as many rows of a batch, of which this is one.
    #[must_use]
    pub fn repeated(&self, times: usize) -> Self {
        Self {
            keys: self.keys.repeat(times),
            values: self.values.repeat(times),
            sequences: self.sequences * times,
            ..*self
        }
    }

    /// Keeps these rows of a batch of `of`, in ascending order, without another copy.
    pub fn keep(&mut self, rows: &[usize], of: usize) {
        let size = self.keys.len() / of.max(1);
        for slots in [&mut self.keys, &mut self.values] {
            for (place, &row) in rows.iter().enumerate() {
                slots.copy_within(row * size..(row + 1) * size, place * size);
            }
            slots.truncate(rows.len() * size);
        }
        self.sequences = self.sequences / of.max(1) * rows.len();
    }

    /// What it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.keys) + size_of_val(&*self.values)
    }
}

/// The sizes of one call.
struct Sizes {
    s: usize,
    /// Keys that are there.
    n: usize,
    /// Keys that there is room for: from one sequence's to the next one's.
    capacity: usize,
    h: usize,
    g: usize,
    k: usize,
}

/// Attends, `[b, h, s, k]`, `[b, g, n, k]` → `[b, s, h·k]`. Scores are scaled by `1/√k`.
pub(crate) fn attend(
    config: AttentionConfig,
    queries: Tensor<4>,
    context: Context<'_>,
    visibility: &Visibility,
) -> Tensor<3> {
    let [b, h, s, k] = queries.dims();
    let device = queries.device();
    // On the CPU device these are moves, or copies of what is not contiguous.
    let queries = queries.into_data();
    let (tensors, host);
    let (keys, values, n, capacity) = match context {
        Context::Tensors(context) => {
            let n = context.keys.dims()[2];
            tensors = (context.keys.into_data(), context.values.into_data());
            (slice(&tensors.0), slice(&tensors.1), n, n)
        }
        Context::Host(context, n) => {
            host = context;
            (&host.keys[..], &host.values[..], n, host.capacity)
        }
    };
    let sizes = Sizes { s, n, capacity, h, g: config.n_kv_heads, k };
    let hidden = match visibility {
        Visibility::All | Visibility::Causal => None,
        Visibility::Masked(mask) => Some(hidden(mask.clone())),
    };
    let causal = matches!(visibility, Visibility::Causal);
    let row = h * k;
    let mut joined = vec![0.0; b * s * row];
    if s == 1 {
        // The heads that share keys are rows of one product.
        let share = h / sizes.g * k;
        let run = |(sequence, out): (usize, &mut [f32])| {
            let queries = &slice(&queries)[sequence * share..][..share];
            let own = sequence * capacity * k..(sequence * capacity + n) * k;
            let hidden = hidden.as_deref().map(|hidden| &hidden[sequence / sizes.g * n..][..n]);
            attend_one(&sizes, queries, &keys[own.clone()], &values[own], hidden, out);
        };
        if b * row * n < WORTH_A_THREAD {
            joined.chunks_exact_mut(share).enumerate().for_each(run);
        } else {
            joined.par_chunks_exact_mut(share).enumerate().for_each(run);
        }
        return Tensor::from_data(TensorData::new(joined, [b, s, row]), &device);
    }

    let mut blocks: Vec<Block<'_>> = Vec::with_capacity(b * s.div_ceil(BLOCK));
    for (batch, sequence) in joined.chunks_mut((s * row).max(1)).enumerate() {
        for (index, out) in sequence.chunks_mut(BLOCK * row).enumerate() {
            blocks.push(Block { batch, first: index * BLOCK, out });
        }
    }
    let run = |block: Block<'_>| {
        block.attend(&sizes, causal, slice(&queries), keys, values, hidden.as_deref());
    };
    if sizes.n * s * row < WORTH_A_THREAD || blocks.len() == 1 {
        blocks.into_iter().for_each(run);
    } else {
        blocks.into_par_iter().for_each(run);
    }
    Tensor::from_data(TensorData::new(joined, [b, s, row]), &device)
}

/// One position's queries of the heads that share keys, `[h/g, k]`, and their keys and values,
/// `[n, k]`.
fn attend_one(
    &Sizes { n, k, .. }: &Sizes,
    queries: &[f32],
    keys: &[f32],
    values: &[f32],
    hidden: Option<&[bool]>,
    out: &mut [f32],
) {
    let mut scores = vec![0.0; queries.len() / k * n];
    scores_of_few(queries, keys, k, (k as f32).sqrt().recip(), &mut scores);
    for row in scores.chunks_exact_mut(n) {
        for (score, _) in row.iter_mut().zip(hidden.unwrap_or_default()).filter(|(_, hidden)| **hidden) {
            *score = HIDDEN;
        }
        let sum = exponentials(row);
        row.iter_mut().for_each(|weight| *weight /= sum);
    }
    sums_of_few(&scores, values, k, out);
}

/// Queries `first..` of one sequence, for all heads.
struct Block<'a> {
    batch: usize,
    first: usize,
    /// `[queries, h·k]`
    out: &'a mut [f32],
}

impl Block<'_> {
    fn attend(
        self,
        sizes: &Sizes,
        causal: bool,
        queries: &[f32],
        keys: &[f32],
        values: &[f32],
        hidden: Option<&[bool]>,
    ) {
        let &Sizes { s, n, capacity, h, g, k } = sizes;
        let rows = self.out.len() / (h * k);
        // The last query sees the last key; the keys that no query of the block sees are left out.
        let seen = |row: usize| if causal { self.first + row + 1 + n - s } else { n };
        let visible = seen(rows - 1);
        let mut scores = vec![0.0; rows * visible];
        let mut attended = vec![0.0; rows * k];
        for head in 0..h {
            // The heads of a group share the keys of one head.
            let group = head * g / h;
            let queries = &queries[((self.batch * h + head) * s + self.first) * k..][..rows * k];
            let keys = &keys[(self.batch * g + group) * capacity * k..][..visible * k];
            let values = &values[(self.batch * g + group) * capacity * k..][..visible * k];
            let scale = (k as f32).sqrt().recip();
            let keys = View::rows_of(keys, visible, k).transposed();
            multiply(View::rows_of(queries, rows, k), keys, scale, &mut scores);
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

fn slice(data: &TensorData) -> &[f32] {
    data.as_slice::<f32>().expect("activations are f32 on the CPU device")
}

/// Which keys are hidden, `[b, s, n]`.
fn hidden(mask: Tensor<4, Bool>) -> Vec<bool> {
    mask.into_data().iter::<bool>().collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

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
    fn every_visibility_gives_what_the_formula_gives() {
        let device = Device::flex();
        // More queries than a block, and one; keys from before, and heads that share keys.
        for s in [70, 1] {
            check_visibilities(s, &device);
        }
    }

    fn check_visibilities(s: usize, device: &Device) {
        let (b, h, g, n, k) = (2, 4, 2, 75, 16);
        let config = AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, scale: 0.25 };
        let (q, kv, vv) = (values(b * h * s * k, 1), values(b * g * n * k, 2), values(b * g * n * k, 3));
        let mask: Vec<bool> = (0..b * s * n).map(|i| (i * 31 % 7 < 3) && i % n != i / n % s).collect();
        let tensor = |values: &[f32], shape: [usize; 4]| {
            Tensor::<4>::from_data(TensorData::new(values.to_vec(), shape), device)
        };
        let masked = Tensor::from_data(TensorData::new(mask.clone(), [b, 1, s, n]), device);
        for visibility in [Visibility::All, Visibility::Causal, Visibility::Masked(masked)] {
            let context = KeyValue { keys: tensor(&kv, [b, g, n, k]), values: tensor(&vv, [b, g, n, k]) };
            // In two pieces, with room left, and moved between the two.
            let mut host = HostKeyValue::default().with_capacity([b, g, k], 0, 60);
            let piece = |from, to| KeyValue {
                keys: context.keys.clone().slice([0..b, 0..g, from..to, 0..k]),
                values: context.values.clone().slice([0..b, 0..g, from..to, 0..k]),
            };
            host.write(0, piece(0, 50));
            let mut host = host.with_capacity([b, g, k], 50, 80);
            host.write(50, piece(50, n));
            let queries = tensor(&q, [b, h, s, k]);
            let joined = attend(config, queries.clone(), context.into(), &visibility).into_data();
            let of_host = attend(config, queries, Context::Host(&host, n), &visibility).into_data();
            assert_eq!(joined, of_host);
            let joined = joined.as_slice::<f32>().unwrap();
            for batch in 0..b {
                for head in 0..h {
                    for query in 0..s {
                        let visible: Vec<usize> = (0..n)
                            .filter(|&key| match &visibility {
                                Visibility::All => true,
                                Visibility::Causal => key <= query + n - s,
                                Visibility::Masked(_) => !mask[(batch * s + query) * n + key],
                            })
                            .collect();
                        let rows = |all: &'_ [f32]| -> Vec<Vec<f32>> {
                            let start = (batch * g + head * g / h) * n;
                            visible.iter().map(|key| all[(start + key) * k..][..k].to_vec()).collect()
                        };
                        let query_row = &q[((batch * h + head) * s + query) * k..][..k];
                        let expected = expected(query_row, &rows(&kv), &rows(&vv));
                        let found = &joined[(batch * s + query) * h * k + head * k..][..k];
                        for (found, expected) in found.iter().zip(expected) {
                            assert!(
                                (f64::from(*found) - expected).abs() < 1e-5,
                                "{found}, expected {expected}"
                            );
                        }
                    }
                }
            }
        }
    }
}
