//! The inner loops of [`PackedMatrix`](super::PackedMatrix): rows of blocks are decoded into
//! vector registers, and there multiplied by activations or written out.
//!
//! One portable path, which dequantises into a small buffer, and two for x86-64, chosen once at
//! run time: AVX2 (with FMA and F16C) and AVX-512 (F, BW, DQ and VL besides). All decode exactly
//! the same values (`quantisation.rs` says why a fused multiply-add changes none); their sums
//! differ by the order of additions alone.
//!
//! The vector functions are `unsafe` for two reasons, which every call upholds: the CPU must have the
//! instructions, and pointers must be good for the blocks and values that the lengths say. Helpers
//! are `inline(always)` because only then do they take on the instructions of their caller.

use super::Vectors;
use crate::weights::StorageType;

/// Dequantises whole rows; `rows` are stored bytes, `values` is `[rows, cols]`.
pub(super) fn decode(set: Vectors, dtype: StorageType, rows: &[u8], cols: usize, values: &mut [f32]) {
    check_rows(dtype, rows, cols, values.len() / cols);
    assert_eq!(values.len() % cols, 0, "values are whole rows");
    match set {
        Vectors::Portable => dtype.dequantise(rows, values),
        // SAFETY: the set was detected; `rows` and `values` are whole rows of equal number.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { x86::decode_avx2(dtype, rows, values) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { x86::decode_avx512(dtype, rows, values) },
    }
}

/// Multiplies whole rows by activations: `x` is `[m, cols]`, `y` is `[rows, m]`.
pub(super) fn dot(set: Vectors, dtype: StorageType, rows: &[u8], cols: usize, x: &[f32], y: &mut [f32]) {
    let m = x.len() / cols;
    assert_eq!(x.len(), m * cols, "x is [m, cols]");
    assert_eq!(y.len() % m.max(1), 0, "y is [rows, m]");
    if m == 0 {
        return;
    }
    check_rows(dtype, rows, cols, y.len() / m);
    match set {
        Vectors::Portable => dot_portable(dtype, rows, cols, x, m, y),
        // SAFETY: the set was detected; rows, x and y have the lengths asserted above.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 => unsafe { x86::dot_avx2(dtype, rows, cols, x, m, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx512 => unsafe { x86::dot_avx512(dtype, rows, cols, x, m, y) },
    }
}

fn check_rows(dtype: StorageType, bytes: &[u8], cols: usize, rows: usize) {
    assert_eq!(dtype.bytes_of_shape(&[rows, cols]), Some(bytes.len()), "{rows} rows of {cols}");
}

/// Sums in eight lanes, which compilers turn into whatever vectors the target has.
fn dot_portable(dtype: StorageType, rows: &[u8], cols: usize, x: &[f32], m: usize, y: &mut [f32]) {
    const LANES: usize = 8;
    let mut row = vec![0.0; cols];
    let row_bytes = rows.len() / (y.len() / m).max(1);
    for (bytes, y) in rows.chunks_exact(row_bytes).zip(y.chunks_exact_mut(m)) {
        dtype.dequantise(bytes, &mut row);
        for (x, y) in x.chunks_exact(cols).zip(y) {
            let (x, x_tail) = x.as_chunks::<LANES>();
            let (w, w_tail) = row.as_chunks::<LANES>();
            let mut sums = [0.0; LANES];
            for (x, w) in x.iter().zip(w) {
                for lane in 0..LANES {
                    sums[lane] += x[lane] * w[lane];
                }
            }
            let tail: f32 = x_tail.iter().zip(w_tail).map(|(x, w)| x * w).sum();
            *y = sums.iter().sum::<f32>() + tail;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, mem::MaybeUninit};

    use super::super::block_formats::{
        BF16, F16, F32, Format, GROUP, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, sum_256,
    };
    use crate::weights::StorageType;

    /// Blocks whose headers are converted ahead.
    const RUN: usize = 16;

    /// Calls a function generic over [`Format`] with the format of `$dtype`.
    macro_rules! with_format {
        ($dtype:expr, $function:ident::<_ $(, $generic:tt)*>($($argument:expr),*)) => {
            match $dtype {
                StorageType::F32 => $function::<F32 $(, $generic)*>($($argument),*),
                StorageType::F16 => $function::<F16 $(, $generic)*>($($argument),*),
                StorageType::BF16 => $function::<BF16 $(, $generic)*>($($argument),*),
                StorageType::Q8_0 => $function::<Q8_0 $(, $generic)*>($($argument),*),
                StorageType::Q4_0 => $function::<Q4_0 $(, $generic)*>($($argument),*),
                StorageType::Q4_1 => $function::<Q4_1 $(, $generic)*>($($argument),*),
                StorageType::Q5_0 => $function::<Q5_0 $(, $generic)*>($($argument),*),
                StorageType::Q5_1 => $function::<Q5_1 $(, $generic)*>($($argument),*),
                StorageType::Q4K => $function::<Q4K $(, $generic)*>($($argument),*),
                StorageType::Q5K => $function::<Q5K $(, $generic)*>($($argument),*),
                StorageType::Q6K => $function::<Q6K $(, $generic)*>($($argument),*),
            }
        };
    }

    /// Declares the kernels of one instruction set.
    macro_rules! kernels {
        (
            features: $features:literal, vector: $vector:ty, group: $group:ident,
            zero: $zero:ident, load: $load:ident, store: $store:ident, fma: $fma:ident,
            lanes: $lanes:literal, sum: $sum:expr,
            rows_at_once: $rows_at_once:literal,
            decode: $decode:ident / $decode_format:ident,
            dot: $dot:ident / $dot_format:ident / $dot_block:ident
        ) => {
            /// Decodes all `values`, of whole rows.
            ///
            /// # Safety
            /// The CPU has the instructions; `bytes` holds as many blocks as `values` takes.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $decode(dtype: StorageType, bytes: &[u8], values: &mut [f32]) {
                unsafe { with_format!(dtype, $decode_format::<_>(dtype, bytes, values)) }
            }

            #[target_feature(enable = $features)]
            unsafe fn $decode_format<F: Format>(dtype: StorageType, bytes: &[u8], values: &mut [f32]) {
                let blocks = values.len() / (F::GROUPS * GROUP);
                for b in 0..blocks {
                    // SAFETY: block `b` and its values are inside their slices.
                    unsafe {
                        let block = bytes.as_ptr().add(b * F::BLOCK_BYTES);
                        let header = F::header(block);
                        for g in 0..F::GROUPS {
                            let out = values.as_mut_ptr().add((b * F::GROUPS + g) * GROUP);
                            for (i, v) in F::$group(header, block, g).into_iter().enumerate() {
                                $store(out.add(i * $lanes), v);
                            }
                        }
                    }
                }
                // Rows of the plain types may end in part of a group.
                dtype
                    .dequantise(&bytes[blocks * F::BLOCK_BYTES..], &mut values[blocks * F::GROUPS * GROUP..]);
            }

            /// `y[rows, m] = rows · x[m, cols]`.
            ///
            /// # Safety
            /// The CPU has the instructions; `bytes` holds `y.len() / m` rows of `cols` values, and
            /// `x` has `m * cols`.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $dot(
                dtype: StorageType,
                bytes: &[u8],
                cols: usize,
                x: &[f32],
                m: usize,
                y: &mut [f32],
            ) {
                unsafe { with_format!(dtype, $dot_format::<_>(dtype, bytes, cols, x, m, y)) }
            }

            #[target_feature(enable = $features)]
            unsafe fn $dot_format<F: Format>(
                dtype: StorageType,
                bytes: &[u8],
                cols: usize,
                x: &[f32],
                m: usize,
                y: &mut [f32],
            ) {
                const R: usize = $rows_at_once;
                let rows = y.len() / m;
                let row_bytes = bytes.len() / rows.max(1);
                let mut first = 0;
                while first < rows {
                    let many = rows - first >= R;
                    let y = &mut y[first * m..];
                    let bytes = &bytes[first * row_bytes..];
                    let mut i = 0;
                    while i < m {
                        let x = &x[i * cols..];
                        // SAFETY: that many rows and activations are left.
                        unsafe {
                            i += match (many, m - i) {
                                (true, 4..) => {
                                    $dot_block::<F, R, 4>(dtype, bytes, row_bytes, cols, x, m, i, y)
                                }
                                (true, 2..) => {
                                    $dot_block::<F, R, 2>(dtype, bytes, row_bytes, cols, x, m, i, y)
                                }
                                (true, _) => $dot_block::<F, R, 1>(dtype, bytes, row_bytes, cols, x, m, i, y),
                                (false, _) => {
                                    $dot_block::<F, 1, 1>(dtype, bytes, row_bytes, cols, x, m, i, y)
                                }
                            };
                        }
                    }
                    first += if many { R } else { 1 };
                }
            }

            /// `R` rows by `M` activations; returns `M`.
            #[target_feature(enable = $features)]
            #[expect(clippy::too_many_arguments, reason = "a kernel's sizes and strides")]
            unsafe fn $dot_block<F: Format, const R: usize, const M: usize>(
                dtype: StorageType,
                bytes: &[u8],
                row_bytes: usize,
                cols: usize,
                x: &[f32],
                m: usize,
                column: usize,
                y: &mut [f32],
            ) -> usize {
                let mut sums = [[$zero(); M]; R];
                let blocks = cols / (F::GROUPS * GROUP);
                let mut headers = [[MaybeUninit::<F::Header>::uninit(); RUN]; R];
                for run in (0..blocks).step_by(RUN) {
                    let run_len = RUN.min(blocks - run);
                    for r in 0..R {
                        for b in 0..run_len {
                            // SAFETY: row `r` has block `run + b`.
                            unsafe {
                                let at = r * row_bytes + (run + b) * F::BLOCK_BYTES;
                                headers[r][b].write(F::header(bytes.as_ptr().add(at)));
                            }
                        }
                    }
                    for b in 0..run_len {
                        // SAFETY: block `run + b` of each of the `R` rows, and its values in each
                        // of the `M` activations, are inside their slices; its headers are written.
                        unsafe {
                            let block = bytes.as_ptr().add((run + b) * F::BLOCK_BYTES);
                            for g in 0..F::GROUPS {
                                let x = x.as_ptr().add(((run + b) * F::GROUPS + g) * GROUP);
                                for r in 0..R {
                                    let header = headers[r][b].assume_init();
                                    let w = F::$group(header, block.add(r * row_bytes), g);
                                    for i in 0..M {
                                        for j in 0..w.len() {
                                            let x = $load(x.add(i * cols + j * $lanes));
                                            sums[r][i] = $fma(w[j], x, sums[r][i]);
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                let done = blocks * F::GROUPS * GROUP;
                for r in 0..R {
                    for i in 0..M {
                        let sum: f32 = ($sum)(sums[r][i]);
                        let tail = if done < cols {
                            let bytes = &bytes[r * row_bytes..][..row_bytes];
                            let bytes = &bytes[blocks * F::BLOCK_BYTES..];
                            dot_tail(dtype, bytes, &x[i * cols + done..(i + 1) * cols])
                        } else {
                            0.0
                        };
                        y[r * m + column + i] = sum + tail;
                    }
                }
                M
            }
        };
    }

    /// The part of a row of a plain type that is less than a group.
    fn dot_tail(dtype: StorageType, bytes: &[u8], x: &[f32]) -> f32 {
        let mut values = [0.0; GROUP];
        let values = &mut values[..x.len()];
        dtype.dequantise(bytes, values);
        values.iter().zip(x).map(|(w, x)| w * x).sum()
    }

    kernels! {
        features: "avx2,fma,f16c", vector: __m256, group: group_avx2,
        zero: _mm256_setzero_ps, load: _mm256_loadu_ps, store: _mm256_storeu_ps,
        fma: _mm256_fmadd_ps,
        lanes: 8, sum: |v| sum_256(v),
        rows_at_once: 2,
        decode: decode_avx2 / decode_format_avx2,
        dot: dot_avx2 / dot_format_avx2 / dot_block_avx2
    }

    kernels! {
        features: "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl", vector: __m512,
        group: group_avx512,
        zero: _mm512_setzero_ps, load: _mm512_loadu_ps, store: _mm512_storeu_ps,
        fma: _mm512_fmadd_ps,
        lanes: 16, sum: |v| _mm512_reduce_add_ps(v),
        rows_at_once: 4,
        decode: decode_avx512 / decode_format_avx512,
        dot: dot_avx512 / dot_format_avx512 / dot_block_avx512
    }
}
