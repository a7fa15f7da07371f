//! The loss at target positions, with its gradient, a slice of positions at a time.
//!
//! The decoder's head is frozen, so the gradient of the loss with respect to the hidden states is
//! known in closed form and needs no graph: `softmax(h W) Wᵀ − Wᵀ[target]`. Logits exist for one
//! slice at a time and are never kept for the backward pass, so a vocabulary of 262,144 does not
//! set the peak memory.
//!
//! Shapes: `n` targets, `d` decoder width, `v` vocabulary.

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use rayon::prelude::*;

use crate::decoder::Transformer;
use crate::nn::product_in;
use crate::{Error, Result};

/// Logits are made for about this many (position, token) pairs at once: 64 MiB in f32.
const PAIRS_AT_ONCE: usize = 16 << 20;

/// Exponents are added up in f32 in parts of so many, and the parts in f64.
const SUMMED_AT_ONCE: usize = 256;

/// A loss summed over targets, and what carries its gradient into the graph.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TargetLoss {
    /// The negative log-likelihood summed over the targets, in nats, `[1]`, without a graph. With
    /// distillation: the divergence from the teacher.
    pub sum: Tensor<1>,
    /// The number of targets whose most likely token is right, `[1]`, if it was asked for.
    pub correct: Option<Tensor<1>>,
    /// The gradient of `sum` with respect to the hidden states, `[n, d]`, without a graph.
    pub gradient: Tensor<2>,
}

/// What the hidden states are held against.
#[derive(Clone, Debug)]
pub struct Targets<'a> {
    /// The tokens that follow.
    pub ids: &'a [u32],
    /// The hidden states `[n, d]` of the same decoder reading the full text, and the share of the
    /// loss that is their divergence: distillation.
    pub teacher: Option<(Tensor<2>, f64)>,
    /// Whether to count right predictions.
    pub count_correct: bool,
}

/// The loss of hidden states `[n, d]` under a head of weight `[d, v]`. Products are computed in the
/// head's type, all else in that of the hidden states.
///
/// # Panics
///
/// Panics unless there is one target per hidden state.
#[must_use]
pub fn target_loss(hidden: Tensor<2>, head: &Tensor<2>, targets: &Targets) -> TargetLoss {
    let hidden = hidden.inner();
    let [n, d] = hidden.dims();
    let vocabulary = head.dims()[1];
    assert_eq!(n, targets.ids.len(), "one target per hidden state");
    let device = hidden.device();
    let rows = (PAIRS_AT_ONCE / vocabulary.max(1)).max(1);
    // `[v, d]`; a view.
    let table = head.clone().transpose();
    let (kind, products) = (FloatDType::from(hidden.dtype()), FloatDType::from(head.dtype()));
    let product = |a: Tensor<2>, b: &Tensor<2>| product_in(products, a, b.clone());

    let mut sum = Tensor::<1>::zeros([1], &device);
    let mut correct = targets.count_correct.then(|| Tensor::<1>::zeros([1], &device));
    let mut gradients = Vec::new();
    for (slice, ids) in targets.ids.chunks(rows).enumerate() {
        let (start, count) = (slice * rows, ids.len());
        let h = hidden.clone().narrow(0, start, count);
        let logits = product(h.clone(), head);
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device);
        if let Some(correct) = &mut correct {
            let best = logits.clone().argmax(1).reshape([count]);
            *correct = correct.clone() + best.equal(ids.clone()).float().sum();
        }
        let student = Softmax::new(logits, targets.teacher.is_some());
        let target_rows = table.clone().select(0, ids).cast(kind);
        let target_logits = (h.clone() * target_rows.clone()).sum_dim(1);
        let likelihood = (student.log_sum() - target_logits).sum();
        let expected = product(student.exponents.clone(), &table) / student.sums.clone();
        let share = targets.teacher.as_ref().map_or(0.0, |(_, share)| *share);
        let mut loss = likelihood * (1.0 - share);
        let mut gradient = expected.clone() - target_rows * (1.0 - share);
        if let Some((teacher, _)) = &targets.teacher {
            let teacher = teacher.clone().inner().narrow(0, start, count);
            let teacher = Softmax::new(product(teacher, head), true);
            let probabilities = teacher.exponents.clone() / teacher.sums.clone();
            // KL(teacher ‖ student); its gradient is the difference of the expected rows.
            let difference = teacher.log_probabilities() - student.log_probabilities();
            // Row by row: the sum of so many numbers at once follows how threads shared them out.
            loss = loss + (probabilities.clone() * difference).sum_dim(1).sum() * share;
            gradient = gradient - product(probabilities, &table) * share;
        }
        sum = sum + loss;
        gradients.push(gradient);
    }
    let gradient =
        if gradients.is_empty() { Tensor::zeros([0, d], &device) } else { Tensor::cat(gradients, 0) };
    TargetLoss { sum, correct, gradient }
}

/// The loss of hidden states `[n, d]` under a decoder's head, on the engine that the decoder is on.
///
/// # Errors
///
/// [`Error::NotTrainable`] if the head stays as stored.
pub(super) fn decoder_loss(
    decoder: &Transformer,
    hidden: Tensor<2>,
    targets: &Targets,
) -> Result<TargetLoss> {
    let (shape, device) = (hidden.dims(), hidden.device());
    let on_host = decoder.host().filter(|_| targets.teacher.is_none()).and_then(|decoder| {
        let hidden = hidden.clone().inner().into_data();
        let hidden = hidden.as_slice::<f32>().expect("activations are f32 on the CPU device");
        decoder.loss(hidden, targets.ids)
    });
    let Some(found) = on_host else {
        let head = decoder.head_weight().ok_or_else(|| Error::NotTrainable {
            what: "what a decoder reads".into(),
            reason: "the decoder's weights are packed, and no gradient passes through them",
        })?;
        return Ok(target_loss(hidden, &head, targets));
    };
    let scalar = |value: f32| Tensor::from_data([value], &device);
    Ok(TargetLoss {
        sum: scalar(found.sum as f32),
        correct: targets.count_correct.then(|| scalar(found.correct as f32)),
        gradient: Tensor::from_data(TensorData::new(found.gradient, shape), &device),
    })
}

/// The parts of a softmax over the vocabulary that its uses share.
struct Softmax {
    /// Logits less their maximum, `[n, v]`, where they are asked for.
    shifted: Option<Tensor<2>>,
    /// Their exponents, `[n, v]`
    exponents: Tensor<2>,
    /// The maximum, `[n, 1]`
    maximum: Tensor<2>,
    /// The sum of the exponents, `[n, 1]`
    sums: Tensor<2>,
}

impl Softmax {
    fn new(logits: Tensor<2>, keep_shifted: bool) -> Self {
        if !keep_shifted && logits.device() == Device::flex() {
            return Self::on_host(logits);
        }
        let maximum = logits.clone().max_dim(1);
        let shifted = logits - maximum.clone();
        let (exponents, shifted) =
            if keep_shifted { (shifted.clone().exp(), Some(shifted)) } else { (shifted.exp(), None) };
        let sums = exponents.clone().sum_dim(1);
        Self { shifted, exponents, maximum, sums }
    }

    /// In one pass over host memory, row by row: the CPU backend's exponential runs on one thread.
    fn on_host(logits: Tensor<2>) -> Self {
        let device = logits.device();
        let [n, v] = logits.dims();
        let mut data = logits.into_data();
        let values = data.as_mut_slice::<f32>().expect("logits are f32 on the CPU device");
        let (maxima, sums): (Vec<f32>, Vec<f32>) = values
            .par_chunks_mut(v.max(1))
            .map(|row| {
                let maximum = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut sum = 0.0_f64;
                for values in row.chunks_mut(SUMMED_AT_ONCE) {
                    let mut part = 0.0_f32;
                    for value in values {
                        *value = (*value - maximum).exp();
                        part += *value;
                    }
                    sum += f64::from(part);
                }
                (maximum, sum as f32)
            })
            .unzip();
        let column = |values: Vec<f32>| Tensor::from_data(TensorData::new(values, [n, 1]), &device);
        Self {
            shifted: None,
            exponents: Tensor::from_data(data, &device),
            maximum: column(maxima),
            sums: column(sums),
        }
    }

    /// `[n, v]`; only where `shifted` was kept.
    fn log_probabilities(&self) -> Tensor<2> {
        let shifted = self.shifted.clone().expect("kept for a teacher");
        shifted - self.sums.clone().log()
    }

    /// `log Σ exp(logits)`, `[n, 1]`
    fn log_sum(&self) -> Tensor<2> {
        self.sums.clone().log() + self.maximum.clone()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, activation};

    use super::*;

    fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn largest_difference(a: Tensor<2>, b: Tensor<2>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn loss_and_gradient_are_those_of_autodiff_through_the_whole_vocabulary() {
        let device = Device::flex();
        let (n, d, v) = (5, 4, 7);
        let hidden = random([n, d], &device).autodiff().require_grad();
        let (head, teacher) = (random([d, v], &device), random([n, d], &device));
        let ids = [3, 0, 6, 2, 2];
        for share in [0.0, 0.3, 1.0] {
            let targets = Targets {
                ids: &ids,
                teacher: (share > 0.0).then(|| (teacher.clone(), share)),
                count_correct: true,
            };
            let found = target_loss(hidden.clone(), &head, &targets);

            let log = activation::log_softmax(hidden.clone().matmul(head.clone().autodiff()), 1);
            let places: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
            let places = Tensor::<2, Int>::from_data(TensorData::new(places, [n, 1]), &device);
            let likelihood = log.clone().gather(1, places).sum().neg();
            let expected = activation::softmax(teacher.clone().matmul(head.clone()), 1);
            let divergence = (expected.clone().autodiff() * (expected.log().autodiff() - log)).sum();
            let loss = likelihood * (1.0 - share) + divergence * share;
            let gradient = hidden.grad(&loss.backward()).expect("a gradient");

            let (a, b): (f32, f32) = (found.sum.into_scalar(), loss.into_scalar());
            assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "share {share}: {a} for {b}");
            assert!(largest_difference(found.gradient, gradient) < 1e-5, "share {share}");
        }
    }

    #[test]
    fn right_predictions_are_counted() {
        let device = Device::flex();
        let head = Tensor::<2>::from_data([[1.0, 0.0], [0.0, 1.0]], &device);
        let hidden = Tensor::<2>::from_data([[2.0, 1.0], [1.0, 2.0], [2.0, 1.0]], &device);
        let targets = Targets { ids: &[0, 1, 1], teacher: None, count_correct: true };
        let found = target_loss(hidden, &head, &targets);
        assert_eq!(found.correct.map(|count| count.into_scalar::<f32>()), Some(2.0));
    }
}
