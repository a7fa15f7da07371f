//! Products of rows that are stored in up to 8 bits with activations that are rounded to 8 bits.
//!
//! A block of 32 activations has one scale, `largest / 127`, as in llama.cpp's `Q8_0`; weights are
//! multiplied as the integers that they are stored as, whose sums are exact, and only the sum of a
//! block is scaled: `Σ_blocks d_x (d_w Σ q_w q_x + m_w Σ q_x)`, where a weight is `d_w q_w + m_w`.
//!
//! [`dot`] multiplies rows as they lie by a few activations: what decoding does, which is bound by
//! reading them. [`multiply`] lays sixteen rows out first, four values of each side by side, and
//! takes as many activations as there are through them: what reading a prompt does.
//!
//! A vector instruction multiplies bytes and adds two neighbours into 16 bits, so up to eight such
//! sums of 4-bit weights fit before they must be widened, four of 5-bit, two of 6-bit ones; 8-bit
//! weights have signs, which move to the activations.
//!
//! The unsafe functions are so for the reasons that `quantised_rows.rs` gives.

use rayon::prelude::*;

use super::Vectors;
use super::kernels::for_each_instruction_set;
use super::product::SharedOutput;
use crate::weights::StorageType;

/// Activations that share a scale, and the weights that are multiplied before a sum is scaled.
pub(super) const GROUP: usize = 32;
/// Activations that one thread rounds at a time.
const ROUNDED_AT_ONCE: usize = 64 * 1024;
/// Rows that are laid out together.
pub(super) const ROWS_TOGETHER: usize = 16;

/// Activations `[m, cols]`, rounded to 8 bits.
#[derive(Debug, Default)]
pub(super) struct RoundedRows {
    /// `[m, cols]`
    pub(super) quants: Vec<i8>,
    /// What the quants of a group are multiplied by, `[m, cols / 32]`.
    pub(super) scales: Vec<f32>,
    /// The sums of the quants of the halves of a group, `[m, cols / 16]`.
    pub(super) totals: Vec<i32>,
    /// The same, scaled.
    pub(super) sums: Vec<f32>,
    pub(super) cols: usize,
}

impl RoundedRows {
    /// Rounds rows of whole groups.
    pub(super) fn new(x: &[f32], cols: usize) -> Self {
        assert!(cols.is_multiple_of(GROUP) && x.len().is_multiple_of(cols), "x is rows of whole groups");
        let groups = x.len() / GROUP;
        let mut rounded = Self {
            quants: vec![0; x.len()],
            scales: vec![0.0; groups],
            totals: vec![0; 2 * groups],
            sums: vec![0.0; 2 * groups],
            cols,
        };
        let Self { quants, scales, totals, sums, .. } = &mut rounded;
        if x.len() <= ROUNDED_AT_ONCE {
            round(x, quants, scales, totals, sums);
        } else {
            let quants = quants.par_chunks_mut(ROUNDED_AT_ONCE);
            let scales = scales.par_chunks_mut(ROUNDED_AT_ONCE / GROUP);
            let totals = totals.par_chunks_mut(2 * ROUNDED_AT_ONCE / GROUP);
            let sums = sums.par_chunks_mut(2 * ROUNDED_AT_ONCE / GROUP);
            let jobs = x.par_chunks(ROUNDED_AT_ONCE).zip(quants).zip(scales).zip(totals).zip(sums);
            jobs.for_each(|((((x, quants), scales), totals), sums)| round(x, quants, scales, totals, sums));
        }
        rounded
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.quants.len() / self.cols
    }

    /// The values that the quants stand for, `[m, cols]`.
    #[cfg(test)]
    pub(super) fn values(&self) -> Vec<f32> {
        let groups = self.quants.chunks_exact(GROUP).zip(&self.scales);
        groups.flat_map(|(quants, scale)| quants.iter().map(move |&q| f32::from(q) * scale)).collect()
    }
}

for_each_instruction_set! {
    /// Rounds groups: quants, scales, and the sums of their halves, plain and scaled.
    fn round(x: &[f32], quants: &mut [i8], scales: &mut [f32], totals: &mut [i32], sums: &mut [f32]) {
        let (x, _) = x.as_chunks::<GROUP>();
        let (quants, _) = quants.as_chunks_mut::<GROUP>();
        let (totals, _) = totals.as_chunks_mut::<2>();
        let (sums, _) = sums.as_chunks_mut::<2>();
        for ((((x, quants), scale), totals), sums) in x.iter().zip(quants).zip(scales).zip(totals).zip(sums) {
            let mut largest = [0.0_f32; 8];
            for x in x.as_chunks::<8>().0 {
                for (largest, x) in largest.iter_mut().zip(x) {
                    *largest = if x.abs() > *largest { x.abs() } else { *largest };
                }
            }
            let largest = largest.iter().fold(0.0_f32, |a, &b| if b > a { b } else { a });
            *scale = largest / 127.0;
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (half, (x, quants)) in
                x.as_chunks::<16>().0.iter().zip(quants.as_chunks_mut::<16>().0).enumerate()
            {
                let mut sum = 0_i32;
                for (x, q) in x.iter().zip(quants) {
                    // Adding it rounds to an integer, ties to even, which then stands in the lowest bits.
                    const ROUND: f32 = 12_582_912.0;
                    let rounded = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
                    *q = rounded as i8;
                    sum += rounded;
                }
                totals[half] = sum;
                sums[half] = sum as f32 * *scale;
            }
        }
    }
}

/// Whether rows of a type are multiplied so.
pub(super) fn has(dtype: StorageType) -> bool {
    !matches!(dtype, StorageType::F32 | StorageType::F16 | StorageType::BF16)
}

/// Rows laid out for a thread's use.
#[derive(Default)]
pub(super) struct Workspace {
    #[cfg(target_arch = "x86_64")]
    panel: x86::Panel,
}

/// Multiplies whole rows by many activations, into the columns of `y` from `first` on.
///
/// # Safety
/// The slice that `y` was made of is still borrowed for it, and no other thread writes the same
/// columns meanwhile.
pub(super) unsafe fn multiply(
    set: Vectors,
    dtype: StorageType,
    rows: &[u8],
    x: &RoundedRows,
    workspace: &mut Workspace,
    y: SharedOutput,
    first: usize,
) {
    let row_bytes = dtype.bytes_of_shape(&[1, x.cols]).unwrap_or(0);
    assert!(has(dtype) && rows.len().is_multiple_of(row_bytes.max(1)), "whole rows");
    let count = rows.len() / row_bytes.max(1);
    y.check(x.rows(), first, count);
    let together = match set {
        Vectors::Portable => 1,
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 | Vectors::Avx512 => ROWS_TOGETHER,
    };
    for (index, rows) in rows.chunks(together * row_bytes).enumerate() {
        let first = first + index * together;
        match set {
            Vectors::Portable => {
                let _ = &workspace;
                let mut products = vec![0.0; x.rows()];
                portable::dot(dtype, rows, x, x.rows(), &mut products);
                for (column, product) in products.into_iter().enumerate() {
                    // SAFETY: checked above; the caller promises that nobody else writes there.
                    unsafe { y.at(column, first).write(product) };
                }
            }
            // SAFETY: the set was detected; that the places are inside `y` was checked above, and the
            // caller promises that nobody else writes there.
            #[cfg(target_arch = "x86_64")]
            Vectors::Avx2 | Vectors::Avx512 => unsafe {
                let count = rows.len() / row_bytes;
                let to = y.at(0, first);
                x86::multiply(dtype, rows, count, x, &mut workspace.panel, to, y.row_stride());
            },
        }
    }
}

/// Multiplies whole rows by a few activations; `y` is `[rows, m]`.
pub(super) fn dot(set: Vectors, dtype: StorageType, rows: &[u8], x: &RoundedRows, y: &mut [f32]) {
    let m = x.rows();
    assert!(has(dtype) && m > 0 && y.len().is_multiple_of(m), "y is [rows, m]");
    assert_eq!(dtype.bytes_of_shape(&[y.len() / m, x.cols]), Some(rows.len()), "rows of {}", x.cols);
    match set {
        Vectors::Portable => portable::dot(dtype, rows, x, m, y),
        // SAFETY: the set was detected; rows, x and y have the lengths asserted above.
        #[cfg(target_arch = "x86_64")]
        Vectors::Avx2 | Vectors::Avx512 => unsafe { x86::dot(dtype, rows, x, m, y) },
    }
}

mod portable {
    use super::{GROUP, RoundedRows};
    use crate::weights::StorageType;

    /// The same sums, with weights whose quants are found from their values.
    pub(super) fn dot(dtype: StorageType, rows: &[u8], x: &RoundedRows, m: usize, y: &mut [f32]) {
        let cols = x.cols;
        let row_bytes = rows.len() / (y.len() / m);
        let mut values = vec![0.0; cols];
        for (bytes, y) in rows.chunks_exact(row_bytes).zip(y.chunks_exact_mut(m)) {
            dtype.dequantise(bytes, &mut values);
            for (i, y) in y.iter_mut().enumerate() {
                let quants = x.quants[i * cols..][..cols].chunks_exact(GROUP);
                let scales = &x.scales[i * cols / GROUP..];
                *y = quants
                    .zip(values.chunks_exact(GROUP))
                    .zip(scales)
                    .map(|((q, w), scale)| {
                        scale * q.iter().zip(w).map(|(&q, w)| f32::from(q) * w).sum::<f32>()
                    })
                    .sum();
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Integers, changed_over, with_integers};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::block_formats::{
        Format, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, SubBlocks, fifth_bits, half_of_bytes, load_32,
        nibbles, sum_256,
    };
    use super::{GROUP, ROWS_TOGETHER, RoundedRows};
    use crate::weights::StorageType;

    /// A storage type whose quants are multiplied as integers.
    pub(in super::super) trait Integers: Format {
        /// How many sums of two products fit into 16 bits.
        const PAIRS: usize;
        /// Whether quants have a sign; where not, they are 0 or more.
        const SIGNED: bool = false;
        /// Whether values have an offset, which quants without a sign have even where the type has none.
        const SHIFTED: bool = true;
        /// The scales of a group: of its halves, or one.
        const SCALES: usize = 1;

        /// The 32 quants of a group.
        unsafe fn integers(block: *const u8, group: usize) -> __m256i;
        /// The scale and the offset of a part of a group.
        unsafe fn scale(header: Self::Header, group: usize, part: usize) -> [f32; 2];
        /// The scale and the offset of a block, in 16 bits, as a block that is one group has them, or to be
        /// multiplied. An offset that is none of its own is anything.
        unsafe fn factors(block: *const u8) -> [u16; 2];
        /// What they are multiplied by for a part of a group, where a block has several.
        #[inline(always)]
        unsafe fn multiples(_block: *const u8, _group: usize, _part: usize) -> [i8; 2] {
            [1; 2]
        }
    }

    /// The 16 bits at byte `at`.
    #[inline(always)]
    unsafe fn word(block: *const u8, at: usize) -> u16 {
        unsafe { block.add(at).cast::<u16>().read_unaligned() }
    }

    /// The scale of a block and the offset of `Q4_K` and `Q5_K`, which is subtracted.
    #[inline(always)]
    unsafe fn factors_of_sub_blocks(block: *const u8) -> [u16; 2] {
        const SIGN: u16 = 1 << 15;
        unsafe { [word(block, 0), word(block, 2) ^ SIGN] }
    }

    /// Six bits each.
    #[inline(always)]
    unsafe fn multiples_of_sub_blocks(block: *const u8, group: usize) -> [i8; 2] {
        unsafe { SubBlocks::multiples(block).map(|bytes| bytes.to_le_bytes()[group].cast_signed()) }
    }

    macro_rules! integers {
        ($name:ident: $pairs:literal pairs $(, $constant:ident = $value:literal)*;
         |$block:ident, $group:ident| $integers:expr;
         |$header:pat_param, $own:ident, $part:ident| $scale:expr;
         |$whole:ident| $factors:expr
         $(; |$several:ident, $of:ident, $half:ident| $multiples:expr)?) => {
            impl Integers for $name {
                const PAIRS: usize = $pairs;
                $(const $constant: integers!(@kind $constant) = $value;)*

                #[inline(always)]
                unsafe fn integers($block: *const u8, $group: usize) -> __m256i {
                    let _ = $group;
                    unsafe { $integers }
                }

                #[inline(always)]
                unsafe fn scale($header: Self::Header, $own: usize, $part: usize) -> [f32; 2] {
                    let _ = ($own, $part);
                    $scale
                }

                #[inline(always)]
                unsafe fn factors($whole: *const u8) -> [u16; 2] {
                    unsafe { $factors }
                }

                $(
                    #[inline(always)]
                    unsafe fn multiples($several: *const u8, $of: usize, $half: usize) -> [i8; 2] {
                        let _ = $half;
                        unsafe { $multiples }
                    }
                )?
            }
        };
        (@kind SIGNED) => { bool };
        (@kind SHIFTED) => { bool };
        (@kind SCALES) => { usize };
    }

    integers! {
        Q4_0: 8 pairs;
        |block, group| nibbles(block.add(2));
        |d, group, part| [d, -8.0 * d];
        |block| [word(block, 0), 0]
    }
    integers! {
        Q4_1: 8 pairs;
        |block, group| nibbles(block.add(4));
        |[d, m], group, part| [d, m];
        |block| [word(block, 0), word(block, 2)]
    }
    integers! {
        Q5_0: 4 pairs;
        |block, group| _mm256_or_si256(nibbles(block.add(6)), fifth_bits(block.add(2)));
        |d, group, part| [d, -16.0 * d];
        |block| [word(block, 0), 0]
    }
    integers! {
        Q5_1: 4 pairs;
        |block, group| _mm256_or_si256(nibbles(block.add(8)), fifth_bits(block.add(4)));
        |[d, m], group, part| [d, m];
        |block| [word(block, 0), word(block, 2)]
    }
    integers! {
        Q8_0: 1 pairs, SIGNED = true, SHIFTED = false;
        |block, group| load_32(block.add(2));
        |d, group, part| [d, 0.0];
        |block| [word(block, 0), 0]
    }
    integers! {
        Q4K: 8 pairs;
        |block, group| half_of_bytes(block.add(16), group);
        |header, group, part| [header.scale[group], header.offset[group]];
        |block| factors_of_sub_blocks(block);
        |block, group, part| multiples_of_sub_blocks(block, group)
    }
    integers! {
        Q5K: 4 pairs;
        |block, group| Q5K::unsigned(block, group);
        |header, group, part| [header.scale[group], header.offset[group]];
        |block| factors_of_sub_blocks(block);
        |block, group, part| multiples_of_sub_blocks(block, group)
    }
    integers! {
        Q6K: 2 pairs, SCALES = 2;
        |block, group| Q6K::unsigned(block, group);
        |scales, group, part| [scales[2 * group + part], -32.0 * scales[2 * group + part]];
        |block| [word(block, 208), 0];
        |block, group, part| [block.add(192 + 2 * group + part).read().cast_signed(), 0]
    }

    /// Calls a function generic over [`Integers`] with the format of `$dtype`.
    macro_rules! with_integers {
        ($dtype:expr, $function:ident::<_ $(, $generic:tt)*>($($argument:expr),*)) => {
            match $dtype {
                StorageType::Q8_0 => $function::<Q8_0 $(, $generic)*>($($argument),*),
                StorageType::Q4_0 => $function::<Q4_0 $(, $generic)*>($($argument),*),
                StorageType::Q4_1 => $function::<Q4_1 $(, $generic)*>($($argument),*),
                StorageType::Q5_0 => $function::<Q5_0 $(, $generic)*>($($argument),*),
                StorageType::Q5_1 => $function::<Q5_1 $(, $generic)*>($($argument),*),
                StorageType::Q4K => $function::<Q4K $(, $generic)*>($($argument),*),
                StorageType::Q5K => $function::<Q5K $(, $generic)*>($($argument),*),
                StorageType::Q6K => $function::<Q6K $(, $generic)*>($($argument),*),
                StorageType::F32 | StorageType::F16 | StorageType::BF16 => {
                    unreachable!("asserted: values of these types are no integers")
                }
            }
        };
    }

    pub(in super::super) use with_integers;

    /// # Safety
    /// The CPU has AVX2, FMA and F16C; `bytes` holds `y.len() / m` rows of `x.cols` values, and `x` has
    /// `m` rows.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn dot(dtype: StorageType, bytes: &[u8], x: &RoundedRows, m: usize, y: &mut [f32]) {
        unsafe { with_integers!(dtype, dot_rows::<_>(bytes, x, m, y)) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot_rows<F: Integers>(bytes: &[u8], x: &RoundedRows, m: usize, y: &mut [f32]) {
        let rows = y.len() / m;
        let row_bytes = bytes.len() / rows;
        let mut first = 0;
        while first < rows {
            let many = rows - first >= 2;
            let bytes = unsafe { bytes.as_ptr().add(first * row_bytes) };
            let mut i = 0;
            while i < m {
                // SAFETY: that many rows and activations are left.
                unsafe {
                    let y = y.as_mut_ptr().add(first * m + i);
                    i += match (many, m - i) {
                        (true, 4..) => dot_block::<F, 2, 4>(bytes, row_bytes, x, i, m, y),
                        (true, 2..) => dot_block::<F, 2, 2>(bytes, row_bytes, x, i, m, y),
                        (true, _) => dot_block::<F, 2, 1>(bytes, row_bytes, x, i, m, y),
                        (false, _) => dot_block::<F, 1, 1>(bytes, row_bytes, x, i, m, y),
                    };
                }
            }
            first += if many { 2 } else { 1 };
        }
    }

    /// Eight sums of four products of a group's quants.
    #[inline(always)]
    unsafe fn products<F: Integers>(w: __m256i, x: __m256i) -> __m256i {
        unsafe {
            let pairs = if F::SIGNED {
                _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
            } else {
                _mm256_maddubs_epi16(w, x)
            };
            _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
        }
    }

    /// `R` rows by `M` activations from `column` on, into `[R, m]`; returns `M`.
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn dot_block<F: Integers, const R: usize, const M: usize>(
        bytes: *const u8,
        row_bytes: usize,
        x: &RoundedRows,
        column: usize,
        m: usize,
        y: *mut f32,
    ) -> usize {
        let groups = x.cols / GROUP;
        let mut sums = [[_mm256_setzero_ps(); M]; R];
        let mut shifts = [[0.0_f32; M]; R];
        for block in 0..groups / F::GROUPS {
            // SAFETY: each of the `R` rows has that block, and each of the `M` activations its groups.
            unsafe {
                for r in 0..R {
                    let bytes = bytes.add(r * row_bytes + block * F::BLOCK_BYTES);
                    let header = F::header(bytes);
                    for g in 0..F::GROUPS {
                        let group = block * F::GROUPS + g;
                        let w = F::integers(bytes, g);
                        let [scale, shift] = F::scale(header, g, 0);
                        let [last_scale, last_shift] = F::scale(header, g, F::SCALES - 1);
                        for i in 0..M {
                            let at = (column + i) * groups + group;
                            let quants = load_32(x.quants.as_ptr().add(at * GROUP).cast());
                            let products = _mm256_cvtepi32_ps(products::<F>(w, quants));
                            let own = *x.scales.get_unchecked(at);
                            let scale = if F::SCALES == 1 {
                                _mm256_set1_ps(scale * own)
                            } else {
                                _mm256_set_m128(_mm_set1_ps(last_scale * own), _mm_set1_ps(scale * own))
                            };
                            sums[r][i] = _mm256_fmadd_ps(products, scale, sums[r][i]);
                            if F::SHIFTED {
                                let halves = x.sums.as_ptr().add(2 * at);
                                shifts[r][i] += shift * *halves + last_shift * *halves.add(1);
                            }
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for i in 0..M {
                // SAFETY: the caller has room for that many products.
                unsafe { *y.add(r * m + i) = sum_256(sums[r][i]) + shifts[r][i] };
            }
        }
        M
    }

    /// Quads of values of a group: what an instruction multiplies of a row.
    const QUADS: usize = GROUP / 4;
    /// The bytes of a group of a panel.
    const GROUP_BYTES: usize = GROUP * ROWS_TOGETHER;

    /// Sixteen rows laid out for [`multiply`].
    #[derive(Default)]
    pub(super) struct Panel {
        /// `[groups, quads, rows, 4]`
        quants: Vec<u8>,
        /// `[groups, parts, rows]`
        scales: Vec<f32>,
        /// `[groups, parts, rows]`
        shifts: Vec<f32>,
    }

    /// Lays out up to sixteen rows; those that are not there are zeros.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C; `bytes` holds `rows` rows of `groups` groups.
    #[expect(clippy::needless_range_loop, reason = "rows and groups index memory too")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn lay_out<F: Integers>(bytes: &[u8], rows: usize, groups: usize, panel: &mut Panel) {
        let Panel { quants, scales, shifts } = panel;
        quants.clear();
        quants.resize(groups * GROUP_BYTES, 0);
        for values in [&mut *scales, &mut *shifts] {
            values.clear();
            values.resize(groups * F::SCALES * ROWS_TOGETHER, 0.0);
        }
        let row_bytes = bytes.len() / rows;
        for block in 0..groups / F::GROUPS {
            for half in 0..2_usize {
                let own = rows.saturating_sub(8 * half).min(8);
                let mut lines = [[_mm256_setzero_si256(); 8]; 8];
                for r in 0..own {
                    let row = 8 * half + r;
                    // SAFETY: the row has that block, and the panel its groups.
                    unsafe {
                        let bytes = bytes.as_ptr().add(row * row_bytes + block * F::BLOCK_BYTES);
                        let header = F::header(bytes);
                        for g in 0..F::GROUPS {
                            lines[g][r] = F::integers(bytes, g);
                            for part in 0..F::SCALES {
                                let [scale, shift] = F::scale(header, g, part);
                                let at = ((block * F::GROUPS + g) * F::SCALES + part) * ROWS_TOGETHER + row;
                                *scales.get_unchecked_mut(at) = scale;
                                *shifts.get_unchecked_mut(at) = shift;
                            }
                        }
                    }
                }
                for (g, lines) in lines.iter().enumerate().take(F::GROUPS) {
                    let at = (block * F::GROUPS + g) * GROUP_BYTES + 32 * half;
                    for (quad, line) in changed_over(lines).into_iter().enumerate() {
                        // SAFETY: the quad of these eight rows is inside the group.
                        unsafe {
                            let to = quants.as_mut_ptr().add(at + quad * 4 * ROWS_TOGETHER);
                            _mm256_storeu_si256(to.cast(), line);
                        }
                    }
                }
            }
        }
    }

    /// Eight rows of eight quads as eight quads of eight rows.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in super::super) fn changed_over(rows: &[__m256i; 8]) -> [__m256i; 8] {
        let mut pairs = [_mm256_setzero_si256(); 8];
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // Of rows 4h to 4h + 3: quads j and j + 4.
        let mut fours = [[_mm256_setzero_si256(); 4]; 2];
        for (h, fours) in fours.iter_mut().enumerate() {
            let [low_a, high_a, low_b, high_b] = [0, 1, 2, 3].map(|i| pairs[4 * h + i]);
            *fours = [
                _mm256_unpacklo_epi64(low_a, low_b),
                _mm256_unpackhi_epi64(low_a, low_b),
                _mm256_unpacklo_epi64(high_a, high_b),
                _mm256_unpackhi_epi64(high_a, high_b),
            ];
        }
        let mut quads = [_mm256_setzero_si256(); 8];
        for j in 0..4 {
            quads[j] = _mm256_permute2x128_si256::<0x20>(fours[0][j], fours[1][j]);
            quads[j + 4] = _mm256_permute2x128_si256::<0x31>(fours[0][j], fours[1][j]);
        }
        quads
    }

    /// Multiplies up to sixteen rows by all activations, into columns of `[x.rows(), stride]`.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C; `bytes` holds `rows` rows of `x.cols` values; `y` has room for
    /// `rows` values at each of `x.rows()` places that are `stride` apart, which nobody else uses.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn multiply(
        dtype: StorageType,
        bytes: &[u8],
        rows: usize,
        x: &RoundedRows,
        panel: &mut Panel,
        y: *mut f32,
        stride: usize,
    ) {
        unsafe { with_integers!(dtype, multiply_rows::<_>(bytes, rows, x, panel, y, stride)) }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn multiply_rows<F: Integers>(
        bytes: &[u8],
        rows: usize,
        x: &RoundedRows,
        panel: &mut Panel,
        y: *mut f32,
        stride: usize,
    ) {
        // SAFETY: as the caller says.
        unsafe { lay_out::<F>(bytes, rows, x.cols / GROUP, panel) };
        let m = x.rows();
        let mut column = 0;
        while column < m {
            // SAFETY: that many activations are left.
            unsafe {
                let y = y.add(column * stride);
                column += match m - column {
                    4.. => multiply_columns::<F, 4>(panel, rows, x, column, y, stride),
                    3 => multiply_columns::<F, 3>(panel, rows, x, column, y, stride),
                    2 => multiply_columns::<F, 2>(panel, rows, x, column, y, stride),
                    _ => multiply_columns::<F, 1>(panel, rows, x, column, y, stride),
                };
            }
        }
    }

    /// Sixteen rows by `M` activations; returns `M`.
    #[expect(clippy::needless_range_loop, reason = "activations index memory too")]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn multiply_columns<F: Integers, const M: usize>(
        panel: &Panel,
        rows: usize,
        x: &RoundedRows,
        column: usize,
        y: *mut f32,
        stride: usize,
    ) -> usize {
        let groups = x.cols / GROUP;
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        for group in 0..groups {
            for part in 0..F::SCALES {
                let quads = QUADS / F::SCALES;
                let first = part * quads;
                let mut wide = [[_mm256_setzero_si256(); 2]; M];
                let mut quad = first;
                while quad < first + quads {
                    let mut narrow = [[_mm256_setzero_si256(); 2]; M];
                    for step in 0..F::PAIRS {
                        // SAFETY: the panel has the quad of sixteen rows, each activation its own.
                        unsafe {
                            let at = group * GROUP_BYTES + (quad + step) * 4 * ROWS_TOGETHER;
                            let w = panel.quants.as_ptr().add(at);
                            let w = [load_32(w), load_32(w.add(32))];
                            for i in 0..M {
                                let at = ((column + i) * groups + group) * GROUP + (quad + step) * 4;
                                let quants = x.quants.as_ptr().add(at).cast::<i32>().read_unaligned();
                                let quants = _mm256_set1_epi32(quants);
                                for half in 0..2 {
                                    let pairs = if F::SIGNED {
                                        let magnitude = _mm256_abs_epi8(w[half]);
                                        _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(quants, w[half]))
                                    } else {
                                        _mm256_maddubs_epi16(w[half], quants)
                                    };
                                    narrow[i][half] = if step == 0 {
                                        pairs
                                    } else {
                                        _mm256_add_epi16(narrow[i][half], pairs)
                                    };
                                }
                            }
                        }
                    }
                    for (wide, narrow) in wide.iter_mut().zip(&narrow) {
                        for half in 0..2 {
                            let sum = _mm256_madd_epi16(narrow[half], _mm256_set1_epi16(1));
                            wide[half] = _mm256_add_epi32(wide[half], sum);
                        }
                    }
                    quad += F::PAIRS;
                }
                // SAFETY: as above, of scales and sums.
                unsafe {
                    let at = (group * F::SCALES + part) * ROWS_TOGETHER;
                    for half in 0..2 {
                        let scale = _mm256_loadu_ps(panel.scales.as_ptr().add(at + 8 * half));
                        let shift = _mm256_loadu_ps(panel.shifts.as_ptr().add(at + 8 * half));
                        for i in 0..M {
                            let own = (column + i) * groups + group;
                            let by = _mm256_mul_ps(scale, _mm256_broadcast_ss(x.scales.get_unchecked(own)));
                            let sum = _mm256_cvtepi32_ps(wide[i][half]);
                            sums[i][half] = _mm256_fmadd_ps(sum, by, sums[i][half]);
                            if F::SHIFTED {
                                let halves = x.sums.as_ptr().add(2 * own);
                                let sum =
                                    if F::SCALES == 1 { *halves + *halves.add(1) } else { *halves.add(part) };
                                sums[i][half] = _mm256_fmadd_ps(shift, _mm256_set1_ps(sum), sums[i][half]);
                            }
                        }
                    }
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: the caller has room for `rows` products of each activation.
            unsafe {
                let y = y.add(i * stride);
                if rows == ROWS_TOGETHER {
                    _mm256_storeu_ps(y, sums[0]);
                    _mm256_storeu_ps(y.add(8), sums[1]);
                } else {
                    let mut values = [0.0_f32; ROWS_TOGETHER];
                    _mm256_storeu_ps(values.as_mut_ptr(), sums[0]);
                    _mm256_storeu_ps(values.as_mut_ptr().add(8), sums[1]);
                    std::ptr::copy_nonoverlapping(values.as_ptr(), y, rows);
                }
            }
        }
        M
    }
}
