//! Attention with its projections: of the batches that inference reads, and of the sequences that
//! training reads forward and backward.
//!
//! Scores, probabilities and their sums are float32 in training too: scores are large beside their
//! differences, and rounded to bfloat16 they turn gradients by more than a tenth of a radian.
//!
//! Shapes: `r` positions of all sequences, `l` those of them from which on a gradient is asked for,
//! `d` model width, `h` query heads, `g` key/value heads, `k` head width. `d_` before a name is the
//! gradient of the loss at it.

use std::ops::Range;
use std::sync::Arc;

use super::attend::{NextRow, attend, attend_next};
use super::frame::{BatchFrame, HostFrame, NextFrame};
use super::gradients::{BlockGradients, Keep, LinearGradient};
use super::kernels::{exponentials, softmax_backward};
use super::key_value::HostKeyValue;
use super::linear::{HostLinear, HostNorm};
use super::product::{View, multiply, multiply_into};
use super::sequences::{Sequence, Sequences};
use crate::nn::{AttentionConfig, Visible};

/// Projections to queries, keys and values, attention, and the projection back.
#[derive(Clone, Debug)]
pub(crate) struct HostAttention {
    /// `[d, h·k]`
    pub(crate) query: HostLinear,
    /// `[d, g·k]`
    pub(crate) key: HostLinear,
    /// `[d, g·k]`
    pub(crate) value: HostLinear,
    /// `[h·k, d]`
    pub(crate) output: HostLinear,
    /// Normalises each query head before the rotation (Gemma 3).
    pub(crate) query_norm: Option<HostNorm>,
    /// Normalises each key head before the rotation (Gemma 3).
    pub(crate) key_norm: Option<HostNorm>,
    pub(crate) config: AttentionConfig,
}

/// What attention's forward pass keeps.
#[derive(Debug)]
pub(super) struct AttentionTape {
    /// As projected, `[l, h·k]`, if they are normalised then.
    plain_queries: Option<Vec<f32>>,
    /// As projected, `[l, g·k]`, if they are normalised then.
    plain_keys: Option<Vec<f32>>,
    /// Rotated, `[l, h·k]`
    queries: Vec<f32>,
    /// Rotated, `[r, g·k]`
    keys: Vec<f32>,
    /// `[r, g·k]`
    values: Vec<f32>,
    /// For each sequence and head, a row of its keys for each of its queries with a gradient.
    probabilities: Vec<f32>,
    /// The sums of values, `[l, h·k]`, where the output's weight is trained.
    attended: Option<Vec<f32>>,
}

impl HostAttention {
    /// Rotated and scaled queries of a batch, `[b·s, d] → [b·s, h·k]`.
    pub(super) fn queries(&self, projected: Vec<f32>, frame: &BatchFrame) -> Vec<f32> {
        let AttentionConfig { n_heads: h, head_dim: k, .. } = self.config;
        let mut heads = normed(&self.query_norm, projected);
        frame.rotate(&mut heads, h, k);
        // Scores are scaled by 1/√k; another scale is folded into the queries.
        let natural = 1.0 / (k as f64).sqrt();
        if (self.config.scale - natural).abs() >= 1e-12 {
            let scale = (self.config.scale / natural) as f32;
            heads.iter_mut().for_each(|value| *value *= scale);
        }
        heads
    }

    /// Rotated keys of a batch, `[b·s, g·k] → [b·s, g·k]`.
    fn keys(&self, projected: Vec<f32>, frame: &BatchFrame) -> Vec<f32> {
        let AttentionConfig { n_kv_heads: g, head_dim: k, .. } = self.config;
        let mut heads = normed(&self.key_norm, projected);
        frame.rotate(&mut heads, g, k);
        heads
    }

    /// Reads the next positions of a batch into a context that has `from`, and attends from them to
    /// all of it, `[b·s, d] → [b·s, d]`.
    pub(super) fn read(
        &self,
        x: &[f32],
        frame: &BatchFrame,
        context: &mut HostKeyValue,
        from: usize,
    ) -> Vec<f32> {
        let [queries, keys, values] = HostLinear::read_together([&self.query, &self.key, &self.value], x);
        context.write(from, &self.keys(keys, frame), &values);
        self.attend(queries, frame, (context, from + frame.positions()), &frame.visible)
    }

    /// Reads the next position of each of several sequences into its context, and attends from it to all of
    /// that, `[b, d] → [b, d]`. `froms` says how much each context has.
    pub(super) fn read_next(
        &self,
        x: &[f32],
        frame: &NextFrame,
        contexts: &mut [&mut HostKeyValue],
        froms: &[usize],
    ) -> Vec<f32> {
        let [queries, keys, values] = HostLinear::read_together([&self.query, &self.key, &self.value], x);
        let queries = self.queries(queries, &frame.positions);
        let keys = self.keys(keys, &frame.positions);
        let width = self.config.n_kv_heads * self.config.head_dim;
        let new = keys.chunks_exact(width).zip(values.chunks_exact(width));
        for ((context, &from), (keys, values)) in contexts.iter_mut().zip(froms).zip(new) {
            context.write(from, keys, values);
        }
        let rows = contexts.iter().zip(froms).zip(&frame.visible).map(|((context, &from), visible)| {
            let hidden = match visible {
                Visible::All | Visible::Causal => None,
                Visible::Masked(hidden) => Some(&hidden[..]),
            };
            NextRow { context, row: 0, n: from + 1, hidden }
        });
        self.output.read(&attend_next(self.config, &queries, &rows.collect::<Vec<_>>()))
    }

    /// Attends from pooled positions to those that they were pooled from,
    /// `[b·n, d]`, `[b·s, d]` → `[b·n, d]`.
    pub(super) fn read_pooled(
        &self,
        (pooled, after): (&[f32], &BatchFrame),
        (x, before): (&[f32], &BatchFrame),
        visible: &Visible,
    ) -> Vec<f32> {
        let AttentionConfig { n_kv_heads: g, head_dim: k, .. } = self.config;
        let queries = self.query.read(pooled);
        let [keys, values] = HostLinear::read_together([&self.key, &self.value], x);
        let s = before.positions();
        let b = values.len() / (s * g * k).max(1);
        let mut context = HostKeyValue::default().with_capacity([b, g, k], 0, s);
        context.write(0, &self.keys(keys, before), &values);
        self.attend(queries, after, (&context, s), visible)
    }

    fn attend(
        &self,
        projected: Vec<f32>,
        frame: &BatchFrame,
        context: (&HostKeyValue, usize),
        visible: &Visible,
    ) -> Vec<f32> {
        let queries = self.queries(projected, frame);
        self.output.read(&attend(self.config, &queries, frame.positions(), context, visible))
    }

    /// `[r, d] → [r, d]`
    pub(super) fn forward(
        &self,
        x: &[f32],
        sequences: &Sequences,
        frame: &HostFrame,
        keep: Keep,
    ) -> (Vec<f32>, Option<AttentionTape>) {
        let AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, .. } = self.config;
        let heads = |plain: Vec<f32>, norm: &Option<HostNorm>| {
            let (mut heads, plain) = match norm {
                Some(norm) => (norm.forward(&plain), Some(plain)),
                None => (plain, None),
            };
            let positions = sequences.iter().flat_map(|sequence| 0..sequence.rows.len());
            frame.rotate(&mut heads, k, positions, 1.0);
            (heads, plain)
        };
        let [queries, keys, values] = HostLinear::forward_together([&self.query, &self.key, &self.value], x);
        let (queries, plain_queries) = heads(queries, &self.query_norm);
        let (keys, plain_keys) = heads(keys, &self.key_norm);

        let mut attended = vec![0.0; queries.len()];
        let mut probabilities = Vec::new();
        let mut scores = Vec::new();
        for Sequence { rows, first } in sequences.iter().filter(|sequence| !sequence.rows.is_empty()) {
            let n = rows.len();
            scores.resize(n * n, 0.0);
            for head in 0..h {
                let group = head * g / h;
                let queries = head_of(&queries, rows.clone(), h, k, head);
                let keys = head_of(&keys, rows.clone(), g, k, group);
                multiply(queries, keys.transposed(), self.config.scale as f32, &mut scores);
                for (query, scores) in scores.chunks_exact_mut(n).enumerate() {
                    let visible = frame.visibility.of(query, n);
                    scores[..visible.start].fill(0.0);
                    scores[visible.end..].fill(0.0);
                    let weight = exponentials(&mut scores[visible.clone()]).recip();
                    scores[visible].iter_mut().for_each(|score| *score *= weight);
                }
                let values = head_of(&values, rows.clone(), g, k, group);
                let out = &mut attended[rows.start * h * k + head * k..];
                multiply_into(View::rows_of(&scores, n, n), values, 1.0, false, out, h * k);
                if keep != Keep::Nothing {
                    probabilities.extend_from_slice(&scores[first * n..]);
                }
            }
        }
        let y = self.output.forward(&attended);
        let tape = (keep != Keep::Nothing).then(|| AttentionTape {
            plain_queries: plain_queries.map(|plain| sequences.later(plain, h * k)),
            plain_keys: plain_keys.map(|plain| sequences.later(plain, g * k)),
            queries: sequences.later(queries, h * k),
            keys,
            values,
            probabilities,
            attended: (keep == Keep::ForWeights).then(|| sequences.later(attended, h * k)),
        });
        (y, tape)
    }

    /// `[l, d] → [l, d]`; with `gradients` comes the input.
    pub(super) fn backward(
        &self,
        tape: &AttentionTape,
        dy: &[f32],
        sequences: &Sequences,
        frame: &HostFrame,
        gradients: Option<(&mut BlockGradients, Arc<Vec<f32>>)>,
    ) -> Vec<f32> {
        let AttentionConfig { n_heads: h, n_kv_heads: g, head_dim: k, .. } = self.config;
        let mut d_attended = vec![0.0; tape.queries.len()];
        self.output.backward(dy, false, &mut d_attended);

        let later = tape.queries.len() / (h * k);
        let mut d_queries = vec![0.0; later * h * k];
        let mut d_keys = vec![0.0; later * g * k];
        let mut d_values = vec![0.0; later * g * k];
        let mut probabilities = &tape.probabilities[..];
        let mut d_scores = Vec::new();
        for (Sequence { rows, first }, later) in sequences.later_rows().filter(|(_, later)| !later.is_empty())
        {
            let (m, n) = (later.len(), rows.len());
            d_scores.resize(m * n, 0.0);
            for head in 0..h {
                let group = head * g / h;
                let (own, others) = probabilities.split_at(m * n);
                probabilities = others;
                let d_out = head_of(&d_attended, later.clone(), h, k, head);
                let queries = head_of(&tape.queries, later.clone(), h, k, head);
                let keys = head_of(&tape.keys, rows.clone(), g, k, group);
                let values = head_of(&tape.values, rows.clone(), g, k, group);

                multiply(d_out, values.transposed(), 1.0, &mut d_scores);
                softmax_backward(own, &mut d_scores, n, self.config.scale as f32);
                let place = |row: usize, heads: usize, head: usize| (row * heads + head) * k;
                let d_query = &mut d_queries[place(later.start, h, head)..];
                multiply_into(View::rows_of(&d_scores, m, n), keys, 1.0, false, d_query, h * k);
                // Keys and values without a gradient have none from any query.
                let d_key = &mut d_keys[place(later.start, g, group)..];
                let weights = last_columns(&d_scores, m, n, *first).transposed();
                multiply_into(weights, queries, 1.0, true, d_key, g * k);
                let d_value = &mut d_values[place(later.start, g, group)..];
                let weights = last_columns(own, m, n, *first).transposed();
                multiply_into(weights, d_out, 1.0, true, d_value, g * k);
            }
        }
        let back = |d_heads: &mut Vec<f32>, norm: &Option<HostNorm>, plain: &Option<Vec<f32>>| {
            let positions = sequences.iter().flat_map(|sequence| sequence.first..sequence.rows.len());
            frame.rotate(d_heads, k, positions, -1.0);
            let (norm, plain) = norm.as_ref().zip(plain.as_ref())?;
            let mut d_plain = vec![0.0; d_heads.len()];
            norm.backward(plain, d_heads, &mut d_plain);
            Some(std::mem::replace(d_heads, d_plain))
        };
        let d_normed_queries = back(&mut d_queries, &self.query_norm, &tape.plain_queries);
        let d_normed_keys = back(&mut d_keys, &self.key_norm, &tape.plain_keys);
        let mut dx = vec![0.0; dy.len()];
        self.query.backward(&d_queries, false, &mut dx);
        self.key.backward(&d_keys, true, &mut dx);
        self.value.backward(&d_values, true, &mut dx);
        if let Some((gradients, x)) = gradients {
            let attended = Arc::new(tape.attended.clone().expect("kept where weights are trained"));
            gradients.linear.extend([
                LinearGradient::new("attention.query", &self.query, &x, d_queries),
                LinearGradient::new("attention.key", &self.key, &x, d_keys),
                LinearGradient::new("attention.value", &self.value, &x, d_values),
                LinearGradient::new("attention.output", &self.output, &attended, dy.to_vec()),
            ]);
            for (name, norm, plain, d_normed) in [
                ("attention.query_norm", &self.query_norm, &tape.plain_queries, &d_normed_queries),
                ("attention.key_norm", &self.key_norm, &tape.plain_keys, &d_normed_keys),
            ] {
                if let (Some(norm), Some(plain), Some(d_normed)) = (norm, plain, d_normed) {
                    gradients.add_norm(name, norm, plain, d_normed);
                }
            }
        }
        dx
    }
}

/// The columns from `first` on of `[m, n]`.
fn last_columns(values: &[f32], m: usize, n: usize, first: usize) -> View<'_> {
    View { values: &values[first..], rows: m, columns: n - first, row_stride: n, column_stride: 1 }
}

/// One head, `[rows, k]`, of `[r, heads·k]`.
fn head_of(all: &[f32], rows: Range<usize>, heads: usize, k: usize, head: usize) -> View<'_> {
    let start = (rows.start * heads + head) * k;
    View { values: &all[start..], rows: rows.len(), columns: k, row_stride: heads * k, column_stride: 1 }
}

fn normed(norm: &Option<HostNorm>, heads: Vec<f32>) -> Vec<f32> {
    match norm {
        Some(norm) => norm.read(&heads),
        None => heads,
    }
}
