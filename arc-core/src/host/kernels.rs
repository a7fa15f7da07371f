//! Loops over host memory that inference and training on the CPU spend their time in, besides
//! packed weights'.
//!
//! Each loop is plain Rust, compiled once more for AVX2 and for AVX-512 and chosen at run time: the
//! compiler vectorises it, what it computes is the same but for rounding. The unsafe code here is
//! the call of a function whose instructions the CPU was found to have.

use super::Vectors;

/// Defines a function that runs its body with the best instructions of this CPU.
macro_rules! for_each_instruction_set {
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        pub(crate) fn $name($($argument: $kind),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($argument: $kind),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $kind),*) $(-> $result)? { portable($($argument),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($argument: $kind),*) $(-> $result)? { portable($($argument),*) }
            match Vectors::best() {
                Vectors::Portable => portable($($argument),*),
                // SAFETY: `best` names only instructions that this CPU has.
                #[cfg(target_arch = "x86_64")]
                Vectors::Avx2 => unsafe { avx2($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Vectors::Avx512 => unsafe { avx512($($argument),*) },
            }
        }
    };
}

pub(super) use for_each_instruction_set;

for_each_instruction_set! {
    /// Replaces a row of scores by `exp(score − max)` and returns the sum. Scores are finite.
    fn exponentials(row: &mut [f32]) -> f32 {
        let max = lanes(row, f32::NEG_INFINITY, |a, b| if a > b { a } else { b });
        for value in row.iter_mut() {
            *value = exp(*value - max);
        }
        lanes(row, 0.0, |a, b| a + b)
    }
}

for_each_instruction_set! {
    /// `gate = silu(gate) · up`, where `silu(x) = x · sigmoid(x)`.
    fn silu_gate(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

for_each_instruction_set! {
    /// `gate = gelu(gate) · up`, GELU in its tanh approximation.
    fn gelu_tanh_gate(gate: &mut [f32], up: &[f32]) {
        for (gate, up) in gate.iter_mut().zip(up) {
            let x = *gate;
            let inner = GELU_SCALE * (x + GELU_CUBE * x * x * x);
            // (1 + tanh u) / 2 = sigmoid(2u)
            *gate = x / (1.0 + exp(-2.0 * inner)) * up;
        }
    }
}

for_each_instruction_set! {
    /// The gradients of [`silu_gate`]: from that of the product in `d`, those of `gate` (left in
    /// `d`) and of `up`.
    fn silu_gate_backward(gate: &[f32], up: &[f32], d: &mut [f32], d_up: &mut [f32]) {
        for (((gate, up), d), d_up) in gate.iter().zip(up).zip(d).zip(d_up) {
            let sigmoid = 1.0 / (1.0 + exp(-gate));
            *d_up = *d * gate * sigmoid;
            *d *= up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
        }
    }
}

for_each_instruction_set! {
    /// The gradients of [`gelu_tanh_gate`], as [`silu_gate_backward`].
    fn gelu_tanh_gate_backward(gate: &[f32], up: &[f32], d: &mut [f32], d_up: &mut [f32]) {
        for (((&x, up), d), d_up) in gate.iter().zip(up).zip(d).zip(d_up) {
            let inner = GELU_SCALE * (x + GELU_CUBE * x * x * x);
            let slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBE * x * x);
            let sigmoid = 1.0 / (1.0 + exp(-2.0 * inner));
            *d_up = *d * x * sigmoid;
            *d *= up * sigmoid * (1.0 + 2.0 * x * (1.0 - sigmoid) * slope);
        }
    }
}

for_each_instruction_set! {
    /// `y = x / sqrt(mean(x²) + ε) · weight`, for rows of the weight's width.
    fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
        let d = weight.len();
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let scale = (dot(x, x) / d as f32 + epsilon).sqrt().recip();
            for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * weight;
            }
        }
    }
}

for_each_instruction_set! {
    /// Adds the gradient of [`rms_norm`] to `dx`: with `r` the root and `g = weight · dy`, it is
    /// `g / r − x ⟨x, g⟩ / (d r³)`.
    fn rms_norm_backward(x: &[f32], weight: &[f32], epsilon: f32, dy: &[f32], dx: &mut [f32]) {
        let d = weight.len();
        for ((x, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let scale = (dot(x, x) / d as f32 + epsilon).sqrt().recip();
            for ((dx, dy), weight) in dx.iter_mut().zip(dy).zip(weight) {
                *dx += dy * weight * scale;
            }
            let along = dot_of_three(x, weight, dy) * scale * scale * scale / d as f32;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx -= x * along;
            }
        }
    }
}

for_each_instruction_set! {
    /// Adds the gradient of [`rms_norm`]'s weight, `Σ dy · x / r`, to `d_weight`.
    fn rms_norm_weight_gradient(x: &[f32], epsilon: f32, dy: &[f32], d_weight: &mut [f32]) {
        let d = d_weight.len();
        for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
            let scale = (dot(x, x) / d as f32 + epsilon).sqrt().recip();
            for ((sum, x), dy) in d_weight.iter_mut().zip(x).zip(dy) {
                *sum += x * scale * dy;
            }
        }
    }
}

for_each_instruction_set! {
    /// `y = (x − mean(x)) / sqrt(var(x) + ε)`, for rows of width `d`.
    fn layer_norm(x: &[f32], d: usize, epsilon: f32, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let mean = lanes(x, 0.0, |a, b| a + b) / d as f32;
            for (y, x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let scale = (dot(y, y) / d as f32 + epsilon).sqrt().recip();
            y.iter_mut().for_each(|y| *y *= scale);
        }
    }
}

for_each_instruction_set! {
    /// Adds the gradient of [`layer_norm`] to `dx`: `(dy − mean(dy) − y mean(y · dy)) / r`.
    fn layer_norm_backward(x: &[f32], d: usize, epsilon: f32, dy: &[f32], dx: &mut [f32]) {
        let mut y = vec![0.0; d];
        for ((x, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let mean = lanes(x, 0.0, |a, b| a + b) / d as f32;
            for (y, x) in y.iter_mut().zip(x) {
                *y = x - mean;
            }
            let scale = (dot(&y, &y) / d as f32 + epsilon).sqrt().recip();
            let flat = lanes(dy, 0.0, |a, b| a + b) / d as f32;
            let along = dot(&y, dy) * scale * scale / d as f32;
            for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(&y) {
                *dx += (dy - flat - y * along) * scale;
            }
        }
    }
}

for_each_instruction_set! {
    /// Rotates the heads of one position, pairs half a head apart; `sign` of −1 rotates back.
    fn rotate_half_split(heads: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        for head in heads.chunks_exact_mut(2 * cos.len()) {
            let (first, second) = head.split_at_mut(cos.len());
            for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let (a, b, sin) = (*first, *second, sign * sin);
                (*first, *second) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
    }
}

for_each_instruction_set! {
    /// Rotates the heads of one position, pairs of neighbours; `sign` of −1 rotates back.
    fn rotate_interleaved(heads: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        for head in heads.chunks_exact_mut(2 * cos.len()) {
            let (pairs, _) = head.as_chunks_mut::<2>();
            for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
                let (sin, [a, b]) = (sign * sin, *pair);
                *pair = [a * cos - b * sin, b * cos + a * sin];
            }
        }
    }
}

for_each_instruction_set! {
    /// The gradient of a softmax, in place of that of its result: `p (dp − ⟨p, dp⟩) · scale`, for
    /// rows of `n`.
    fn softmax_backward(p: &[f32], dp: &mut [f32], n: usize, scale: f32) {
        for (p, dp) in p.chunks_exact(n).zip(dp.chunks_exact_mut(n)) {
            let along = dot(p, dp);
            for (dp, p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - along) * scale;
            }
        }
    }
}

for_each_instruction_set! {
    /// `sum += part`
    fn add(sum: &mut [f32], part: &[f32]) {
        for (sum, part) in sum.iter_mut().zip(part) {
            *sum += part;
        }
    }
}

for_each_instruction_set! {
    /// Replaces a row by `exp(value − base)` and returns the sum.
    fn exponentials_above(row: &mut [f32], base: f32) -> f32 {
        for value in row.iter_mut() {
            *value = exp(*value - base);
        }
        lanes(row, 0.0, |a, b| a + b)
    }
}

for_each_instruction_set! {
    /// The largest value of a row.
    fn largest(row: &[f32]) -> f32 {
        lanes(row, f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
}

/// `scores[r, j] = scale · queries[r] · keys[j]`, `[rows, k]`, `[n, k]` → `[rows, n]`, for a few rows: each key
/// is read once, and nothing is packed.
pub(crate) fn scores_of_few(queries: &[f32], keys: &[f32], k: usize, scale: f32, scores: &mut [f32]) {
    assert!(k > 0 && queries.len().is_multiple_of(k) && keys.len().is_multiple_of(k), "whole rows");
    assert_eq!(scores.len(), queries.len() / k * (keys.len() / k), "a score for each");
    match Vectors::best() {
        Vectors::Portable => {
            let n = keys.len() / k;
            for (j, key) in keys.chunks_exact(k).enumerate() {
                for (query, scores) in queries.chunks_exact(k).zip(scores.chunks_exact_mut(n)) {
                    scores[j] = dot(query, key) * scale;
                }
            }
        }
        // SAFETY: `best` names only instructions that this CPU has; sizes were asserted.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { scores::avx2(queries, keys, k, scale, scores) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { scores::avx512(queries, keys, k, scale, scores) },
    }
}

/// Compilers make pairs of what adds up the lanes of a short row, so that this is written out.
#[cfg(target_arch = "x86_64")]
mod scores {
    use std::arch::x86_64::*;

    use super::super::block_formats::sum_256;

    macro_rules! scores {
        ($name:ident, $features:literal, $lanes:literal, $zero:ident, $load:ident, $fma:ident, $add:ident, $sum:expr) => {
            /// # Safety
            /// The CPU has the instructions; `queries` and `keys` are whole rows, and `scores` has one for each pair.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(
                queries: &[f32],
                keys: &[f32],
                k: usize,
                scale: f32,
                scores: &mut [f32],
            ) {
                let n = keys.len() / k;
                let whole = k / $lanes * $lanes;
                for (j, key) in keys.chunks_exact(k).enumerate() {
                    for (query, scores) in queries.chunks_exact(k).zip(scores.chunks_exact_mut(n)) {
                        let mut sums = [$zero(); 2];
                        for (step, at) in (0..whole).step_by($lanes).enumerate() {
                            // SAFETY: that many values are there.
                            unsafe {
                                let (q, key) = ($load(query.as_ptr().add(at)), $load(key.as_ptr().add(at)));
                                sums[step % 2] = $fma(q, key, sums[step % 2]);
                            }
                        }
                        let rest =
                            query[whole..].iter().zip(&key[whole..]).map(|(q, key)| q * key).sum::<f32>();
                        let sum: f32 = ($sum)($add(sums[0], sums[1]));
                        scores[j] = (sum + rest) * scale;
                    }
                }
            }
        };
    }

    // SAFETY (of the sums): the instructions are the function's.
    scores! { avx2, "avx2,fma", 8, _mm256_setzero_ps, _mm256_loadu_ps, _mm256_fmadd_ps, _mm256_add_ps, |v| unsafe { sum_256(v) } }
    scores! {
        avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma", 16, _mm512_setzero_ps, _mm512_loadu_ps,
        _mm512_fmadd_ps, _mm512_add_ps, |v| _mm512_reduce_add_ps(v)
    }
}

for_each_instruction_set! {
    /// `sums[r] = Σ weights[r, j] · values[j]`, `[rows, n]`, `[n, k]` → `[rows, k]`, for a few rows.
    fn sums_of_few(weights: &[f32], values: &[f32], k: usize, sums: &mut [f32]) {
        let n = values.len() / k;
        let mut row = 0;
        while row < sums.len() / k {
            let (weights, sums) = (&weights[row * n..], &mut sums[row * k..]);
            row += match sums.len() / k {
                4.. => sums_of::<4>(weights, values, n, k, sums),
                2.. => sums_of::<2>(weights, values, n, k, sums),
                _ => sums_of::<1>(weights, values, n, k, sums),
            };
        }
    }
}

/// `R` rows of sums, some columns at a time, which stay in registers; returns `R`.
#[inline(always)]
fn sums_of<const R: usize>(weights: &[f32], values: &[f32], n: usize, k: usize, sums: &mut [f32]) -> usize {
    const COLUMNS: usize = 32;
    for first in (0..k).step_by(COLUMNS) {
        let columns = COLUMNS.min(k - first);
        let mut found = [[0.0_f32; COLUMNS]; R];
        for (j, value) in values.chunks_exact(k).enumerate() {
            let value = &value[first..first + columns];
            for (row, found) in found.iter_mut().enumerate() {
                let weight = weights[row * n + j];
                match value.first_chunk::<COLUMNS>() {
                    Some(value) => {
                        for (sum, value) in found.iter_mut().zip(value) {
                            *sum += weight * value;
                        }
                    }
                    None => {
                        for (sum, value) in found.iter_mut().zip(value) {
                            *sum += weight * value;
                        }
                    }
                }
            }
        }
        for (row, found) in found.iter().enumerate() {
            sums[row * k + first..][..columns].copy_from_slice(&found[..columns]);
        }
    }
    R
}

/// `sqrt(2 / π)`
const GELU_SCALE: f32 = 0.797_884_6;
/// What the cube is multiplied by in GELU's tanh approximation.
const GELU_CUBE: f32 = 0.044_715;

/// A dot product in sixteen lanes: a sum in order could not be vectorised.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// `Σ a b c`, in sixteen lanes.
#[inline(always)]
fn dot_of_three(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let ((a, a_rest), (b, b_rest), (c, c_rest)) =
        (a.as_chunks::<16>(), b.as_chunks::<16>(), c.as_chunks::<16>());
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for (((lane, a), b), c) in lanes.iter_mut().zip(a).zip(b).zip(c) {
            *lane += a * b * c;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).zip(c_rest).map(|((a, b), c)| a * b * c).sum();
    lanes.iter().sum::<f32>() + rest
}

/// Folds a row in sixteen lanes: a sum in order could not be vectorised.
#[inline(always)]
fn lanes(row: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let (whole, rest) = row.as_chunks::<16>();
    for chunk in whole {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = fold(*lane, value);
        }
    }
    rest.iter().chain(&lanes).fold(start, |a, &b| fold(a, b))
}

/// `exp(x)` to within two units in the last place, in arithmetic that vectorises.
///
/// `x = n ln 2 + r` with `|r| ≤ ln 2 / 2`, then a polynomial in `r` (the coefficients are those of
/// Cephes' `expf`), then `2ⁿ` put together from its bits. Beyond the range of normal numbers the
/// result stops at the smallest or largest of them.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding it rounds to an integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Not `clamp`, which must let NaN through with a branch.
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_5e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let mantissa = p * r * r + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    mantissa * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::super::product::{View, multiply};
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut x = -87.0_f32;
        while x < 88.0 {
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.4e-7, "exp({x}) is off by {error}");
            x += 0.000_37;
        }
        assert!(exp(-1e30) > 0.0 && exp(-1e30) < 2e-38 && exp(1e30).is_finite());
    }

    #[test]
    fn exponentials_add_up_to_what_double_precision_gives() {
        for n in [1, 15, 16, 17, 333] {
            let scores: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
            let max = scores.iter().copied().fold(f32::MIN, f32::max);
            let expected: f64 = scores.iter().map(|&score| f64::from(score - max).exp()).sum();
            let mut row = scores.clone();
            let sum = exponentials(&mut row);
            assert!((f64::from(sum) - expected).abs() < 1e-5 * expected, "{n}: {sum}, expected {expected}");
            for (&value, &score) in row.iter().zip(&scores) {
                assert!((f64::from(value) - f64::from(score - max).exp()).abs() < 3e-7);
            }
        }
    }

    #[test]
    fn gates_are_their_formulas() {
        let gates: Vec<f32> = (-200..200).map(|i| i as f32 / 10.0).collect();
        let ups: Vec<f32> = (0..400).map(|i| ((i * 29 % 97) as f32 - 48.0) / 20.0).collect();
        let (mut silu, mut gelu) = (gates.clone(), gates.clone());
        silu_gate(&mut silu, &ups);
        gelu_tanh_gate(&mut gelu, &ups);
        for (i, (&x, &up)) in gates.iter().zip(&ups).enumerate() {
            let (x, up) = (f64::from(x), f64::from(up));
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            for (found, expected) in
                [(silu[i], x / (1.0 + (-x).exp()) * up), (gelu[i], 0.5 * x * (1.0 + inner.tanh()) * up)]
            {
                assert!((f64::from(found) - expected).abs() < 1e-5, "gate {x}: {found}, expected {expected}");
            }
        }
    }

    #[test]
    fn products_of_views_are_those_of_their_elements() {
        let a: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let b: Vec<f32> = (0..12).map(|i| (i * 7 % 5) as f32).collect();
        let mut product = vec![0.0; 8];
        multiply(View::rows_of(&a, 2, 3), View::rows_of(&b, 4, 3).transposed(), 0.5, &mut product);
        for i in 0..2 {
            for j in 0..4 {
                let expected: f32 = (0..3).map(|k| a[i * 3 + k] * b[j * 3 + k]).sum::<f32>() / 2.0;
                assert_eq!(product[i * 4 + j], expected);
            }
        }
    }

    #[test]
    fn products_of_a_few_rows_are_those_of_their_elements() {
        for (rows, n, k) in [(1, 1, 16), (3, 7, 64), (2, 5, 20)] {
            let values = |len: usize, seed: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * 13 + seed) % 9) as f32 - 4.0).collect()
            };
            let (queries, keys) = (values(rows * k, 1), values(n * k, 2));
            let mut scores = vec![f32::NAN; rows * n];
            scores_of_few(&queries, &keys, k, 0.5, &mut scores);
            let mut sums = vec![f32::NAN; rows * k];
            sums_of_few(&scores, &keys, k, &mut sums);
            for r in 0..rows {
                for j in 0..n {
                    let expected: f32 =
                        (0..k).map(|i| queries[r * k + i] * keys[j * k + i]).sum::<f32>() / 2.0;
                    assert_eq!(scores[r * n + j], expected);
                }
                for i in 0..k {
                    let expected: f32 = (0..n).map(|j| scores[r * n + j] * keys[j * k + i]).sum();
                    assert_eq!(sums[r * k + i], expected);
                }
            }
        }
    }
}
