//! The loss at target positions on host memory, over slices of the vocabulary.
//!
//! The mathematics of [`target_loss`](super::target_loss): the gradient at the hidden states is
//! `softmax(h W) Wᵀ − Wᵀ[target]`. Here all positions meet one slice of the vocabulary after
//! another, as in an attention over the table's rows with a running maximum (Milakov and
//! Gimelshein, 2018), so the table is read once for many positions and logits never exist for more
//! than a slice.
//!
//! Shapes: `n` targets, `d` decoder width, `v` vocabulary.

use std::ops::Range;

use rayon::prelude::*;

use super::kernels::{add, exponentials_above, largest};
use super::linear::HostMatrix;
use super::product::{View, multiply, multiply_into};
use super::tiles::{Part, TileKernel, Tiles, multiply_tiles};

/// Targets that meet a slice together: their sums, 1 MiB for 512 of width 576, stay in a cache.
const TARGETS_TOGETHER: usize = 512;
/// Tokens in a slice: with so many, its logits take 1 MiB.
const TOKENS_TOGETHER: usize = 512;
/// The vocabulary is shared out to threads in so many parts, whatever the number of threads, so
/// that sums do not depend on it.
const PARTS: usize = 8;

/// A loss summed over targets.
#[derive(Debug)]
pub(crate) struct HostLoss {
    /// The negative log-likelihood, nats.
    pub(crate) sum: f64,
    /// The targets that are the most likely token.
    pub(crate) correct: usize,
    /// The gradient at the hidden states, `[n, d]`.
    pub(crate) gradient: Vec<f32>,
}

/// An output head that is multiplied in bfloat16.
#[derive(Debug)]
pub(crate) struct TiledHead {
    kernel: TileKernel,
    /// Of `logits = hidden Wᵀ`, `[d, v]`
    logits: Tiles,
    /// Of `Σ weight · row`, `[v, d]`
    rows: Tiles,
}

impl TiledHead {
    /// A head `[v, d]`, if this machine has instructions for it.
    pub(crate) fn new(head: &HostMatrix) -> Option<Self> {
        let kernel = TileKernel::here()?;
        let table = View::rows_of(head.values(), head.rows(), head.columns());
        let (logits, rows) = rayon::join(|| Tiles::right(table.transposed()), || Tiles::right(table));
        Some(Self { kernel, logits, rows })
    }
}

/// The loss of hidden states `[n, d]` under a head `[v, d]`, whose products are those of `tiles` where there
/// are some.
pub(crate) fn host_loss(
    hidden: &[f32],
    head: &HostMatrix,
    tiles: Option<&TiledHead>,
    targets: &[u32],
) -> HostLoss {
    let d = head.columns();
    assert_eq!(hidden.len(), targets.len() * d, "one target per hidden state");
    let mut loss = HostLoss { sum: 0.0, correct: 0, gradient: Vec::with_capacity(hidden.len()) };
    for (hidden, targets) in hidden.chunks(TARGETS_TOGETHER * d).zip(targets.chunks(TARGETS_TOGETHER)) {
        let mut part = head.rows().div_ceil(PARTS).max(1);
        if tiles.is_some() {
            // Slices are whole tiles.
            part = part.next_multiple_of(TOKENS_TOGETHER);
        }
        let hidden = Hidden::new(hidden, d, tiles);
        let found: Vec<Expectation> = (0..head.rows())
            .step_by(part)
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|start| Expectation::over(&hidden, head, start..(start + part).min(head.rows()), targets))
            .collect();
        let all = found.into_iter().reduce(|all, part| all.joined_with(&part, d));
        let Some(Expectation { maxima, sums, rows, target_logits }) = all else { continue };
        for (place, &target) in targets.iter().enumerate() {
            let (logit, maximum, sum) = (target_logits[place], maxima[place], sums[place]);
            loss.sum += f64::from(maximum) + sum.ln() - f64::from(logit);
            // No number is the largest of logits that are none.
            loss.correct += usize::from(logit.is_finite() && logit >= maximum);
            let row = &rows[place * d..][..d];
            let scale = sum.recip() as f32;
            let target = &head.values()[target as usize * d..][..d];
            loss.gradient.extend(row.iter().zip(target).map(|(row, target)| row * scale - target));
        }
    }
    loss
}

/// Hidden states, and what multiplies them.
struct Hidden<'a> {
    /// `[n, d]`
    values: &'a [f32],
    tiled: Option<(&'a TiledHead, Tiles)>,
}

impl<'a> Hidden<'a> {
    fn new(values: &'a [f32], d: usize, head: Option<&'a TiledHead>) -> Self {
        let left = || Tiles::left(View::rows_of(values, values.len() / d, d));
        Self { values, tiled: head.map(|head| (head, left())) }
    }
}

/// What a softmax over some of the vocabulary says of the head's rows.
struct Expectation {
    /// The largest logit of each position, `[n]`
    maxima: Vec<f32>,
    /// `Σ exp(logit − maximum)`, `[n]`
    sums: Vec<f64>,
    /// `Σ exp(logit − maximum) · row`, `[n, d]`
    rows: Vec<f32>,
    /// The logit of each target, or less than any if it is not among the tokens, `[n]`
    target_logits: Vec<f32>,
}

impl Expectation {
    fn over(hidden: &Hidden<'_>, head: &HostMatrix, tokens: Range<usize>, targets: &[u32]) -> Self {
        let (n, d) = (targets.len(), head.columns());
        let mut found = Self {
            maxima: vec![f32::NEG_INFINITY; n],
            sums: vec![0.0; n],
            rows: vec![0.0; n * d],
            target_logits: vec![f32::NEG_INFINITY; n],
        };
        let mut logits = vec![0.0; n * TOKENS_TOGETHER.min(tokens.len())];
        for start in tokens.clone().step_by(TOKENS_TOGETHER) {
            let slice = start..(start + TOKENS_TOGETHER).min(tokens.end);
            let width = slice.len();
            let table = View::rows_of(&head.values()[start * d..slice.end * d], width, d);
            let logits = &mut logits[..n * width];
            match &hidden.tiled {
                Some((TiledHead { kernel, logits: table, .. }, hidden)) => {
                    let table = Part { tiles: table, columns: slice.clone(), inner: 0..d };
                    multiply_tiles(*kernel, hidden, &table, false, logits, width);
                }
                None => multiply(View::rows_of(hidden.values, n, d), table.transposed(), 1.0, logits),
            }
            for (place, logits) in logits.chunks_exact_mut(width).enumerate() {
                if slice.contains(&(targets[place] as usize)) {
                    found.target_logits[place] = logits[targets[place] as usize - start];
                }
                let maximum = largest(logits);
                if maximum > found.maxima[place] {
                    found.rescale(place, d, maximum);
                }
                found.sums[place] += f64::from(exponentials_above(logits, found.maxima[place]));
            }
            let weights = View::rows_of(logits, n, width);
            match &hidden.tiled {
                Some((TiledHead { kernel, rows: table, .. }, _)) => {
                    let table = Part { tiles: table, columns: 0..d, inner: slice };
                    Tiles::with_left(weights, |weights| {
                        multiply_tiles(*kernel, weights, &table, true, &mut found.rows, d);
                    });
                }
                None => multiply_into(weights, table, 1.0, true, &mut found.rows, d),
            }
        }
        found
    }

    /// Puts a new, larger maximum under what was summed.
    fn rescale(&mut self, place: usize, d: usize, maximum: f32) {
        // Zero before the first maximum, when there is nothing to rescale.
        let factor = (self.maxima[place] - maximum).exp();
        self.maxima[place] = maximum;
        self.sums[place] *= f64::from(factor);
        self.rows[place * d..][..d].iter_mut().for_each(|value| *value *= factor);
    }

    /// With the tokens of another part.
    fn joined_with(mut self, other: &Self, d: usize) -> Self {
        for place in 0..self.maxima.len() {
            let maximum = self.maxima[place].max(other.maxima[place]);
            self.rescale(place, d, maximum);
            let factor = (other.maxima[place] - maximum).exp();
            self.sums[place] += f64::from(factor) * other.sums[place];
            let scaled: Vec<f32> = other.rows[place * d..][..d].iter().map(|value| value * factor).collect();
            add(&mut self.rows[place * d..][..d], &scaled);
            self.target_logits[place] = self.target_logits[place].max(other.target_logits[place]);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tensor};

    use super::*;
    use crate::train::{Targets, target_loss};

    #[test]
    fn loss_and_gradient_are_those_of_the_whole_vocabulary_at_once() {
        let device = Device::flex();
        device.seed(3);
        // More targets and more tokens than are taken together, and parts that do not come out even.
        let (n, d, v) = (TARGETS_TOGETHER + 7, 12, PARTS * TOKENS_TOGETHER + 333);
        let hidden = Tensor::<2>::random([n, d], Distribution::Normal(0.0, 1.0), &device);
        let table = Tensor::<2>::random([v, d], Distribution::Normal(0.0, 1.0), &device);
        let ids: Vec<u32> = (0..n as u32).map(|place| place * 7919 % v as u32).collect();
        let values = |tensor: Tensor<2>| tensor.into_data().try_into_vec::<f32>().expect("f32");
        let head = HostMatrix::new(table.clone().into_data());

        let hidden_values = values(hidden.clone());
        let found = host_loss(&hidden_values, &head, None, &ids);
        let targets = Targets { ids: &ids, teacher: None, count_correct: true };
        let expected = target_loss(hidden, &table.transpose(), &targets);
        let sum = f64::from(expected.sum.into_scalar::<f32>());
        assert!((found.sum - sum).abs() < 1e-5 * sum, "{} for {sum}", found.sum);
        assert_eq!(found.correct as f32, expected.correct.expect("asked for").into_scalar::<f32>());
        for (found, expected) in found.gradient.iter().zip(values(expected.gradient)) {
            assert!((found - expected).abs() < 2e-5, "{found} for {expected}");
        }

        if let Some(tiles) = TiledHead::new(&head) {
            let rounded = host_loss(&hidden_values, &head, Some(&tiles), &ids);
            assert!((rounded.sum - found.sum).abs() < 1e-3 * sum, "{} for {sum}", rounded.sum);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let (a, b) = (&rounded.gradient[..], &found.gradient[..]);
            let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(cosine > 0.9999, "gradients in bfloat16 have a cosine of {cosine}");
        }
    }

    #[test]
    fn a_target_that_is_the_most_likely_token_is_correct_and_one_without_a_number_is_not() {
        let head =
            HostMatrix::new(Tensor::<2>::from_data([[1.0, 0.0], [0.0, 1.0]], &Device::flex()).into_data());
        assert_eq!(host_loss(&[3.0, 0.0, 3.0, 0.0], &head, None, &[0, 1]).correct, 1);
        assert_eq!(host_loss(&[f32::NAN, 0.0], &head, None, &[0]).correct, 0);
    }
}
