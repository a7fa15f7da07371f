//! Keys and values in 16 bits: attention of a few queries to them, and the way there and back.
//!
//! What bounds a query behind hundreds of positions is reading their keys and values, of which this
//! halves the bytes. Everything is computed in float32.

use half::f16;

use super::Vectors;

/// Rows of queries, or of sums, that one pass over keys or values serves.
const TOGETHER: usize = 4;

/// Rounds to 16 bits, to the nearest; what is beyond them becomes their largest.
pub(super) fn round(from: &[f32], to: &mut [f16]) {
    assert_eq!(from.len(), to.len(), "as many values");
    match Vectors::best() {
        Vectors::Portable => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = rounded(*from);
            }
        }
        // SAFETY (of each): `best` names only instructions that this CPU has; lengths were asserted.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { avx2::round(from, to) },
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { avx512::round(from, to) },
    }
}

fn rounded(value: f32) -> f16 {
    f16::from_f32(value.clamp(f16::MIN.to_f32_const(), f16::MAX.to_f32_const()))
}

/// The same values in float32.
pub(super) fn widen(from: &[f16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "as many values");
    match Vectors::best() {
        Vectors::Portable => {
            for (to, from) in to.iter_mut().zip(from) {
                *to = from.to_f32();
            }
        }
        // SAFETY (of each): as above.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { avx2::widen(from, to) },
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { avx512::widen(from, to) },
    }
}

/// `scores[r, j] = scale · queries[r] · keys[j]`, `[rows, k]`, `[n, k]` → `[rows, n]`.
pub(super) fn scores(queries: &[f32], keys: &[f16], k: usize, scale: f32, scores: &mut [f32]) {
    assert!(k > 0 && queries.len().is_multiple_of(k) && keys.len().is_multiple_of(k), "whole rows");
    let n = keys.len() / k;
    assert_eq!(scores.len(), queries.len() / k * n, "a score for each");
    match Vectors::best() {
        Vectors::Portable => {
            let mut wide = vec![0.0; k];
            for (j, key) in keys.chunks_exact(k).enumerate() {
                widen(key, &mut wide);
                for (query, scores) in queries.chunks_exact(k).zip(scores.chunks_exact_mut(n)) {
                    scores[j] = query.iter().zip(&wide).map(|(q, key)| q * key).sum::<f32>() * scale;
                }
            }
        }
        // SAFETY (of each): `best` names only instructions that this CPU has; sizes were asserted.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { avx2::scores(queries, keys, k, scale, scores) },
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { avx512::scores(queries, keys, k, scale, scores) },
    }
}

/// `sums[r] = Σ weights[r, j] · values[j]`, `[rows, n]`, `[n, k]` → `[rows, k]`.
pub(super) fn sums(weights: &[f32], values: &[f16], k: usize, sums: &mut [f32]) {
    assert!(k > 0 && sums.len().is_multiple_of(k) && values.len().is_multiple_of(k), "whole rows");
    let n = values.len() / k;
    assert_eq!(weights.len(), sums.len() / k * n, "a weight for each");
    match Vectors::best() {
        Vectors::Portable => {
            let mut wide = vec![0.0; k];
            sums.fill(0.0);
            for (j, value) in values.chunks_exact(k).enumerate() {
                widen(value, &mut wide);
                for (weights, sums) in weights.chunks_exact(n).zip(sums.chunks_exact_mut(k)) {
                    for (sum, value) in sums.iter_mut().zip(&wide) {
                        *sum += weights[j] * value;
                    }
                }
            }
        }
        // SAFETY (of each): as above.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { avx2::sums(weights, values, k, sums) },
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { avx512::sums(weights, values, k, sums) },
    }
}

/// Defines the kernels of one set of instructions. All its functions are unsafe because the CPU must have them;
/// sizes are those that the functions above assert.
#[cfg(target_arch = "x86_64")]
macro_rules! kernels {
    (
        $module:ident: $features:literal, $lanes:literal lanes;
        zero: $zero:ident, load: $load:ident, store: $store:ident, all: $all:ident, fma: $fma:ident, add: $add:ident,
        min: $min:ident, max: $max:ident;
        widen($from:ident): $widen:expr; round($single:ident, $place:ident): $round:expr; sum($lane:ident): $sum:expr
    ) => {
        mod $module {
            use std::arch::x86_64::*;

            use half::f16;

            use super::{TOGETHER, rounded};

            #[target_feature(enable = $features)]
            pub(super) unsafe fn round(from: &[f32], to: &mut [f16]) {
                let whole = from.len() / $lanes * $lanes;
                let (least, most) = ($all(f16::MIN.to_f32_const()), $all(f16::MAX.to_f32_const()));
                for at in (0..whole).step_by($lanes) {
                    // SAFETY: that many values are there.
                    unsafe {
                        // The bounds stand first: what is no number stays none.
                        let $single = $min(most, $max(least, $load(from.as_ptr().add(at))));
                        let $place = to.as_mut_ptr().add(at);
                        $round;
                    }
                }
                for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
                    *to = rounded(*from);
                }
            }

            #[target_feature(enable = $features)]
            pub(super) unsafe fn widen(from: &[f16], to: &mut [f32]) {
                let whole = from.len() / $lanes * $lanes;
                for at in (0..whole).step_by($lanes) {
                    // SAFETY: that many values are there.
                    unsafe {
                        let $from = from.as_ptr().add(at);
                        $store(to.as_mut_ptr().add(at), $widen);
                    }
                }
                for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
                    *to = from.to_f32();
                }
            }

            #[target_feature(enable = $features)]
            pub(super) unsafe fn scores(
                queries: &[f32],
                keys: &[f16],
                k: usize,
                scale: f32,
                scores: &mut [f32],
            ) {
                let n = keys.len() / k;
                let mut row = 0;
                while row < queries.len() / k {
                    let (queries, scores) = (&queries[row * k..], &mut scores[row * n..]);
                    // SAFETY: that many rows are left.
                    row += unsafe {
                        match queries.len() / k {
                            TOGETHER.. => scores_of::<TOGETHER>(queries, keys, k, scale, scores),
                            2.. => scores_of::<2>(queries, keys, k, scale, scores),
                            _ => scores_of::<1>(queries, keys, k, scale, scores),
                        }
                    };
                }
            }

            /// `R` rows of scores; returns `R`.
            #[target_feature(enable = $features)]
            unsafe fn scores_of<const R: usize>(
                queries: &[f32],
                keys: &[f16],
                k: usize,
                scale: f32,
                scores: &mut [f32],
            ) -> usize {
                let n = keys.len() / k;
                let whole = k / $lanes * $lanes;
                for (j, key) in keys.chunks_exact(k).enumerate() {
                    // Two sums, so that a row alone waits for none.
                    let mut found = [[$zero(); 2]; R];
                    for (step, at) in (0..whole).step_by($lanes).enumerate() {
                        // SAFETY: that many values are there.
                        unsafe {
                            let $from = key.as_ptr().add(at);
                            let key = $widen;
                            for (row, found) in found.iter_mut().enumerate() {
                                let query = $load(queries.as_ptr().add(row * k + at));
                                found[step % 2] = $fma(query, key, found[step % 2]);
                            }
                        }
                    }
                    for (row, found) in found.iter().enumerate() {
                        let rest = queries[row * k + whole..].iter().zip(&key[whole..]);
                        let rest = rest.map(|(query, key)| query * key.to_f32()).sum::<f32>();
                        let $lane = $add(found[0], found[1]);
                        scores[row * n + j] = ($sum + rest) * scale;
                    }
                }
                R
            }

            #[target_feature(enable = $features)]
            pub(super) unsafe fn sums(weights: &[f32], values: &[f16], k: usize, sums: &mut [f32]) {
                let n = values.len() / k;
                let mut row = 0;
                while row < sums.len() / k {
                    let (weights, sums) = (&weights[row * n..], &mut sums[row * k..]);
                    // SAFETY: that many rows are left.
                    row += unsafe {
                        match sums.len() / k {
                            TOGETHER.. => sums_of::<TOGETHER>(weights, values, k, sums),
                            2.. => sums_of::<2>(weights, values, k, sums),
                            _ => sums_of::<1>(weights, values, k, sums),
                        }
                    };
                }
            }

            /// `R` rows of sums; returns `R`.
            #[target_feature(enable = $features)]
            unsafe fn sums_of<const R: usize>(
                weights: &[f32],
                values: &[f16],
                k: usize,
                sums: &mut [f32],
            ) -> usize {
                let n = values.len() / k;
                let (pairs, whole) = (k / (2 * $lanes) * 2 * $lanes, k / $lanes * $lanes);
                // SAFETY: the columns and rows are there.
                unsafe {
                    for first in (0..pairs).step_by(2 * $lanes) {
                        columns::<R, 2>(weights, values, n, k, first, sums);
                    }
                    if pairs < whole {
                        columns::<R, 1>(weights, values, n, k, pairs, sums);
                    }
                }
                for row in 0..R {
                    for column in whole..k {
                        let terms = weights[row * n..][..n].iter().zip(values[column..].iter().step_by(k));
                        sums[row * k + column] = terms.map(|(weight, value)| weight * value.to_f32()).sum();
                    }
                }
                R
            }

            /// `C` vectors of columns from `first` on, of `R` rows.
            #[target_feature(enable = $features)]
            unsafe fn columns<const R: usize, const C: usize>(
                weights: &[f32],
                values: &[f16],
                n: usize,
                k: usize,
                first: usize,
                sums: &mut [f32],
            ) {
                let mut found = [[$zero(); C]; R];
                for j in 0..n {
                    for c in 0..C {
                        // SAFETY: the caller has such columns, a weight for each value and row.
                        unsafe {
                            let $from = values.as_ptr().add(j * k + first + c * $lanes);
                            let value = $widen;
                            for (row, found) in found.iter_mut().enumerate() {
                                let weight = $all(*weights.as_ptr().add(row * n + j));
                                found[c] = $fma(weight, value, found[c]);
                            }
                        }
                    }
                }
                for (row, found) in found.into_iter().enumerate() {
                    for (c, found) in found.into_iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { $store(sums.as_mut_ptr().add(row * k + first + c * $lanes), found) };
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernels! {
    avx2: "avx2,fma,f16c", 8 lanes;
    zero: _mm256_setzero_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps, all: _mm256_set1_ps,
    fma: _mm256_fmadd_ps, add: _mm256_add_ps, min: _mm256_min_ps, max: _mm256_max_ps;
    widen(from): _mm256_cvtph_ps(_mm_loadu_si128(from.cast()));
    round(single, place): _mm_storeu_si128(place.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(single));
    sum(lanes): super::super::block_formats::sum_256(lanes)
}

#[cfg(target_arch = "x86_64")]
kernels! {
    avx512: "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", 16 lanes;
    zero: _mm512_setzero_ps, load: _mm512_loadu_ps, store: _mm512_storeu_ps, all: _mm512_set1_ps,
    fma: _mm512_fmadd_ps, add: _mm512_add_ps, min: _mm512_min_ps, max: _mm512_max_ps;
    widen(from): _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()));
    round(single, place): _mm256_storeu_si256(place.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(single));
    sum(lanes): _mm512_reduce_add_ps(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::noise::noise;

    #[test]
    fn rounding_is_to_the_nearest_and_stays_finite() {
        let mut values = noise(3, 97);
        values.extend([0.0, -0.0, 1e-8, 65_519.0, 65_520.0, 1e9, f32::MAX, f32::INFINITY, f32::MIN, 6e-8]);
        let mut halves = vec![f16::ZERO; values.len()];
        round(&values, &mut halves);
        for (value, half) in values.iter().zip(&halves) {
            assert_eq!(half.to_bits(), rounded(*value).to_bits(), "{value}");
            assert!(half.is_finite());
        }
        assert_eq!(halves[halves.len() - 4], f16::MAX);
        let mut none = [f16::ZERO; 33];
        round(&[f32::NAN; 33], &mut none);
        assert!(none.iter().all(|value| value.is_nan()), "what is no number stays none");
        let mut wide = vec![0.0; values.len()];
        widen(&halves, &mut wide);
        for (wide, half) in wide.iter().zip(halves) {
            assert_eq!(wide.to_bits(), half.to_f32().to_bits());
        }
    }

    #[test]
    fn products_are_those_of_double_precision() {
        for (case, (rows, n, k)) in
            [(1, 1, 16), (1, 33, 64), (3, 7, 64), (7, 70, 128), (2, 5, 20), (5, 9, 1), (4, 3, 56), (9, 2, 8)]
                .into_iter()
                .enumerate()
        {
            let queries = noise(case as u64, rows * k);
            let mut keys = vec![f16::ZERO; n * k];
            round(&noise(case as u64 + 100, n * k), &mut keys);
            let mut found = vec![f32::NAN; rows * n];
            scores(&queries, &keys, k, 0.5, &mut found);
            let mut summed = vec![f32::NAN; rows * k];
            sums(&found, &keys, k, &mut summed);
            let close = |found: f32, terms: &mut dyn Iterator<Item = f64>, what: &str| {
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                assert!((f64::from(found) - sum).abs() <= 2e-6 * size, "{what} of {rows} by {n} by {k}");
            };
            for r in 0..rows {
                for j in 0..n {
                    let mut terms =
                        (0..k).map(|i| 0.5 * f64::from(queries[r * k + i]) * keys[j * k + i].to_f64());
                    close(found[r * n + j], &mut terms, "a score");
                }
                for i in 0..k {
                    let mut terms = (0..n).map(|j| f64::from(found[r * n + j]) * keys[j * k + i].to_f64());
                    close(summed[r * k + i], &mut terms, "a sum");
                }
            }
        }
    }
}
