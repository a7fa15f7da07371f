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

use super::InstructionSet;
use crate::weights::StorageType;

/// Dequantises whole rows; `rows` are stored bytes, `values` is `[rows, cols]`.
pub(super) fn decode(set: InstructionSet, dtype: StorageType, rows: &[u8], cols: usize, values: &mut [f32]) {
    check_rows(dtype, rows, cols, values.len() / cols);
    assert_eq!(values.len() % cols, 0, "values are whole rows");
    match set {
        InstructionSet::Portable => dtype.dequantise(rows, values),
        // SAFETY: the set was detected; `rows` and `values` are whole rows of equal number.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { x86::decode_avx2(dtype, rows, values) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { x86::decode_avx512(dtype, rows, values) },
    }
}

/// Multiplies whole rows by activations: `x` is `[m, cols]`, `y` is `[rows, m]`.
pub(super) fn dot(
    set: InstructionSet,
    dtype: StorageType,
    rows: &[u8],
    cols: usize,
    x: &[f32],
    y: &mut [f32],
) {
    let m = x.len() / cols;
    assert_eq!(x.len(), m * cols, "x is [m, cols]");
    assert_eq!(y.len() % m.max(1), 0, "y is [rows, m]");
    if m == 0 {
        return;
    }
    check_rows(dtype, rows, cols, y.len() / m);
    match set {
        InstructionSet::Portable => dot_portable(dtype, rows, cols, x, m, y),
        // SAFETY: the set was detected; rows, x and y have the lengths asserted above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { x86::dot_avx2(dtype, rows, cols, x, m, y) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { x86::dot_avx512(dtype, rows, cols, x, m, y) },
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

    use crate::weights::StorageType;

    /// Values decoded at a time: one block of the small types, an eighth of the large ones.
    const GROUP: usize = 32;
    /// Blocks whose headers are converted ahead.
    const RUN: usize = 16;

    /// 32 quants as signed bytes, and what turns them into values: `q * scale + offset`, with one
    /// scale and offset for each half.
    struct Quants {
        q: __m256i,
        scale: [f32; 2],
        offset: [f32; 2],
    }

    impl Quants {
        #[inline(always)]
        fn scaled(q: __m256i, scale: f32) -> Self {
            Self { q, scale: [scale; 2], offset: [0.0; 2] }
        }

        #[inline(always)]
        fn scaled_from(q: __m256i, scale: f32, offset: f32) -> Self {
            Self { q, scale: [scale; 2], offset: [offset; 2] }
        }
    }

    /// A storage type whose blocks can be decoded, group by group.
    trait Format {
        const BLOCK_BYTES: usize;
        /// Groups in a block.
        const GROUPS: usize;
        /// Whether values have an offset; where not, no time is spent on adding zero.
        const OFFSET: bool;
        /// A block's scales and offsets as f32. Kernels convert those of a run of blocks ahead and
        /// keep them in memory: broadcasting from memory is free, while conversion and broadcast
        /// in registers compete with the decoding for the one port that shuffles.
        type Header: Copy;

        unsafe fn header(block: *const u8) -> Self::Header;
        unsafe fn quants(header: Self::Header, block: *const u8, group: usize) -> Quants;

        #[inline(always)]
        unsafe fn group_avx2(header: Self::Header, block: *const u8, group: usize) -> [__m256; 4] {
            unsafe {
                let Quants { q, scale, offset } = Self::quants(header, block, group);
                let (low, high) = (_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q));
                let bytes = [low, _mm_unpackhi_epi64(low, low), high, _mm_unpackhi_epi64(high, high)];
                let mut values = [_mm256_setzero_ps(); 4];
                for i in 0..4 {
                    let q = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes[i]));
                    let scale = _mm256_set1_ps(scale[i / 2]);
                    values[i] = if Self::OFFSET {
                        _mm256_fmadd_ps(q, scale, _mm256_set1_ps(offset[i / 2]))
                    } else {
                        _mm256_mul_ps(q, scale)
                    };
                }
                values
            }
        }

        #[inline(always)]
        unsafe fn group_avx512(header: Self::Header, block: *const u8, group: usize) -> [__m512; 2] {
            unsafe {
                let Quants { q, scale, offset } = Self::quants(header, block, group);
                let bytes = [_mm256_castsi256_si128(q), _mm256_extracti128_si256::<1>(q)];
                let mut values = [_mm512_setzero_ps(); 2];
                for i in 0..2 {
                    let q = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes[i]));
                    let scale = _mm512_set1_ps(scale[i]);
                    values[i] = if Self::OFFSET {
                        _mm512_fmadd_ps(q, scale, _mm512_set1_ps(offset[i]))
                    } else {
                        _mm512_mul_ps(q, scale)
                    };
                }
                values
            }
        }
    }

    /// The f16 at byte `at`, as f32.
    #[inline(always)]
    unsafe fn half_at(block: *const u8, at: usize) -> f32 {
        unsafe {
            let bits = block.add(at).cast::<u16>().read_unaligned();
            _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
        }
    }

    /// The two f16 at the start of a block, as f32.
    #[inline(always)]
    unsafe fn two_halves(block: *const u8) -> [f32; 2] {
        unsafe {
            let bits = block.cast::<i32>().read_unaligned();
            let mut halves = [0.0_f32; 2];
            let values = _mm_castps_si128(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
            _mm_storel_epi64((&raw mut halves).cast(), values);
            halves
        }
    }

    #[inline(always)]
    unsafe fn load_16(bytes: *const u8) -> __m128i {
        unsafe { _mm_loadu_si128(bytes.cast()) }
    }

    #[inline(always)]
    unsafe fn load_32(bytes: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(bytes.cast()) }
    }

    /// 16 bytes of nibbles as 32 bytes: the lower halves, then the upper.
    #[inline(always)]
    unsafe fn nibbles(bytes: *const u8) -> __m256i {
        unsafe {
            let bytes = load_16(bytes);
            let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
            _mm256_and_si256(both, _mm256_set1_epi8(15))
        }
    }

    /// 0x10 in the bytes whose bit is set in the 32 bits at `bits`.
    #[inline(always)]
    unsafe fn fifth_bits(bits: *const u8) -> __m256i {
        unsafe {
            let bits = _mm256_set1_epi32(bits.cast::<i32>().read_unaligned());
            // Byte i of the 32 bits goes to bytes 8i to 8i + 7, each of which keeps its own bit.
            let spread =
                _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
            let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
            let kept = _mm256_and_si256(_mm256_shuffle_epi8(bits, spread), own);
            _mm256_and_si256(_mm256_cmpeq_epi8(kept, own), _mm256_set1_epi8(16))
        }
    }

    /// The values of 16 bytes of nibbles, looked up in a table of the block's 16 values: cheaper
    /// than converting and scaling each.
    #[inline(always)]
    unsafe fn look_up_nibbles(bytes: __m128i, table: __m512) -> [__m512; 2] {
        unsafe {
            // The look-up uses the lower four bits of each index alone.
            let low = _mm512_cvtepu8_epi32(bytes);
            let high = _mm512_srli_epi32::<4>(low);
            [_mm512_permutexvar_ps(low, table), _mm512_permutexvar_ps(high, table)]
        }
    }

    /// `0, 1, … 15`, plus `first`.
    #[inline(always)]
    unsafe fn count_from(first: f32) -> __m512 {
        unsafe {
            let count = _mm512_setr_ps(
                0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
            );
            _mm512_add_ps(count, _mm512_set1_ps(first))
        }
    }

    struct Q8_0;

    impl Format for Q8_0 {
        const BLOCK_BYTES: usize = 34;
        const GROUPS: usize = 1;
        const OFFSET: bool = false;
        type Header = f32;

        #[inline(always)]
        unsafe fn header(block: *const u8) -> f32 {
            unsafe { half_at(block, 0) }
        }

        #[inline(always)]
        unsafe fn quants(d: f32, block: *const u8, _: usize) -> Quants {
            unsafe { Quants::scaled(load_32(block.add(2)), d) }
        }
    }

    struct Q4_0;

    impl Format for Q4_0 {
        const BLOCK_BYTES: usize = 18;
        const GROUPS: usize = 1;
        const OFFSET: bool = false;
        type Header = f32;

        #[inline(always)]
        unsafe fn header(block: *const u8) -> f32 {
            unsafe { half_at(block, 0) }
        }

        #[inline(always)]
        unsafe fn quants(d: f32, block: *const u8, _: usize) -> Quants {
            unsafe {
                let q = _mm256_sub_epi8(nibbles(block.add(2)), _mm256_set1_epi8(8));
                Quants::scaled(q, d)
            }
        }

        #[inline(always)]
        unsafe fn group_avx512(d: f32, block: *const u8, _: usize) -> [__m512; 2] {
            unsafe {
                let d = _mm512_set1_ps(d);
                look_up_nibbles(load_16(block.add(2)), _mm512_mul_ps(count_from(-8.0), d))
            }
        }
    }

    struct Q4_1;

    impl Format for Q4_1 {
        const BLOCK_BYTES: usize = 20;
        const GROUPS: usize = 1;
        const OFFSET: bool = true;
        /// The scale and the offset.
        type Header = [f32; 2];

        #[inline(always)]
        unsafe fn header(block: *const u8) -> [f32; 2] {
            unsafe { two_halves(block) }
        }

        #[inline(always)]
        unsafe fn quants([d, m]: [f32; 2], block: *const u8, _: usize) -> Quants {
            unsafe {
                let q = nibbles(block.add(4));
                Quants::scaled_from(q, d, m)
            }
        }

        #[inline(always)]
        unsafe fn group_avx512([d, m]: [f32; 2], block: *const u8, _: usize) -> [__m512; 2] {
            unsafe {
                let (d, m) = (_mm512_set1_ps(d), _mm512_set1_ps(m));
                look_up_nibbles(load_16(block.add(4)), _mm512_fmadd_ps(count_from(0.0), d, m))
            }
        }
    }

    struct Q5_0;

    impl Format for Q5_0 {
        const BLOCK_BYTES: usize = 22;
        const GROUPS: usize = 1;
        const OFFSET: bool = false;
        type Header = f32;

        #[inline(always)]
        unsafe fn header(block: *const u8) -> f32 {
            unsafe { half_at(block, 0) }
        }

        #[inline(always)]
        unsafe fn quants(d: f32, block: *const u8, _: usize) -> Quants {
            unsafe {
                let q = _mm256_or_si256(nibbles(block.add(6)), fifth_bits(block.add(2)));
                Quants::scaled(_mm256_sub_epi8(q, _mm256_set1_epi8(16)), d)
            }
        }
    }

    struct Q5_1;

    impl Format for Q5_1 {
        const BLOCK_BYTES: usize = 24;
        const GROUPS: usize = 1;
        const OFFSET: bool = true;
        /// The scale and the offset.
        type Header = [f32; 2];

        #[inline(always)]
        unsafe fn header(block: *const u8) -> [f32; 2] {
            unsafe { two_halves(block) }
        }

        #[inline(always)]
        unsafe fn quants([d, m]: [f32; 2], block: *const u8, _: usize) -> Quants {
            unsafe {
                let q = _mm256_or_si256(nibbles(block.add(8)), fifth_bits(block.add(4)));
                Quants::scaled_from(q, d, m)
            }
        }
    }

    /// The scales and negated offsets of a block's eight sub-blocks, of Q4_K and Q5_K.
    #[derive(Clone, Copy)]
    struct SubBlocks {
        scale: [f32; 8],
        offset: [f32; 8],
    }

    impl SubBlocks {
        #[inline(always)]
        unsafe fn read(block: *const u8) -> Self {
            unsafe {
                let [d, d_min] = two_halves(block);
                // Four sub-blocks at a time in the bytes of a word: `scale_and_offset` in
                // `quantisation.rs` has the layout.
                let word = |at: usize| u64::from(block.add(at).cast::<u32>().read_unaligned());
                let (a, b, c) = (word(4), word(8), word(12));
                let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
                let upper = |low: u64, high: u64| (low & four | (high >> 6 & two) << 4) << 32;
                let scales = a & six | upper(c, a);
                let offsets = b & six | upper(c >> 4, b);
                let mut sub_blocks = Self { scale: [0.0; 8], offset: [0.0; 8] };
                for (bytes, factor, to) in
                    [(scales, d, &mut sub_blocks.scale), (offsets, -d_min, &mut sub_blocks.offset)]
                {
                    let bytes = _mm_cvtsi64_si128(bytes.cast_signed());
                    let values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
                    let values = _mm256_mul_ps(values, _mm256_set1_ps(factor));
                    _mm256_storeu_ps(to.as_mut_ptr(), values);
                }
                sub_blocks
            }
        }
    }

    /// The 32 nibbles of sub-block `group`: the lower halves of 32 bytes for even ones, the upper
    /// for odd ones.
    #[inline(always)]
    unsafe fn half_of_bytes(bytes: *const u8, group: usize) -> __m256i {
        unsafe {
            let bytes = load_32(bytes.add(group / 2 * 32));
            let half = if group.is_multiple_of(2) { bytes } else { _mm256_srli_epi16::<4>(bytes) };
            _mm256_and_si256(half, _mm256_set1_epi8(15))
        }
    }

    struct Q4K;

    impl Format for Q4K {
        const BLOCK_BYTES: usize = 144;
        const GROUPS: usize = 8;
        const OFFSET: bool = true;
        type Header = SubBlocks;

        #[inline(always)]
        unsafe fn header(block: *const u8) -> SubBlocks {
            unsafe { SubBlocks::read(block) }
        }

        #[inline(always)]
        unsafe fn quants(header: SubBlocks, block: *const u8, group: usize) -> Quants {
            unsafe {
                let q = half_of_bytes(block.add(16), group);
                Quants::scaled_from(q, header.scale[group], header.offset[group])
            }
        }
    }

    struct Q5K;

    impl Format for Q5K {
        const BLOCK_BYTES: usize = 176;
        const GROUPS: usize = 8;
        const OFFSET: bool = true;
        type Header = SubBlocks;

        #[inline(always)]
        unsafe fn header(block: *const u8) -> SubBlocks {
            unsafe { SubBlocks::read(block) }
        }

        #[inline(always)]
        unsafe fn quants(header: SubBlocks, block: *const u8, group: usize) -> Quants {
            unsafe {
                let own = _mm256_set1_epi8((1_u8 << group).cast_signed());
                let kept = _mm256_and_si256(load_32(block.add(16)), own);
                let fifth = _mm256_and_si256(_mm256_cmpeq_epi8(kept, own), _mm256_set1_epi8(16));
                let q = _mm256_or_si256(half_of_bytes(block.add(48), group), fifth);
                Quants::scaled_from(q, header.scale[group], header.offset[group])
            }
        }
    }

    struct Q6K;

    impl Format for Q6K {
        const BLOCK_BYTES: usize = 210;
        const GROUPS: usize = 8;
        const OFFSET: bool = false;
        /// The scales of the 16 half groups.
        type Header = [f32; 16];

        #[inline(always)]
        unsafe fn header(block: *const u8) -> [f32; 16] {
            unsafe {
                let d = _mm256_set1_ps(half_at(block, 208));
                let mut scales = [0.0; 16];
                for i in 0..2 {
                    let bytes = _mm_loadl_epi64(block.add(192 + i * 8).cast());
                    let values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
                    _mm256_storeu_ps(scales.as_mut_ptr().add(i * 8), _mm256_mul_ps(values, d));
                }
                scales
            }
        }

        #[inline(always)]
        unsafe fn quants(scales: [f32; 16], block: *const u8, group: usize) -> Quants {
            unsafe {
                let (half, g) = (group / 4, group % 4);
                let low = load_32(block.add(half * 64 + g % 2 * 32));
                let low = if g < 2 { low } else { _mm256_srli_epi16::<4>(low) };
                let low = _mm256_and_si256(low, _mm256_set1_epi8(15));
                let high = load_32(block.add(128 + half * 32));
                // Bits 2g and 2g + 1 move to bits 4 and 5.
                let high = match g {
                    0 => _mm256_slli_epi16::<4>(high),
                    1 => _mm256_slli_epi16::<2>(high),
                    2 => high,
                    _ => _mm256_srli_epi16::<2>(high),
                };
                let high = _mm256_and_si256(high, _mm256_set1_epi8(0x30));
                let q = _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
                let scale = [scales[group * 2], scales[group * 2 + 1]];
                Quants { q, scale, offset: [0.0; 2] }
            }
        }
    }

    /// Declares a type whose values are not quantised: groups are loaded, not scaled.
    macro_rules! plain_format {
        ($name:ident: $bytes:literal bytes; $at8:ident => $load_8:expr; $at16:ident => $load_16:expr) => {
            struct $name;

            impl Format for $name {
                const BLOCK_BYTES: usize = $bytes * GROUP;
                const GROUPS: usize = 1;
                const OFFSET: bool = false;
                type Header = ();

                #[inline(always)]
                unsafe fn header(_: *const u8) {}

                #[inline(always)]
                unsafe fn quants((): (), _: *const u8, _: usize) -> Quants {
                    unreachable!("groups of this type are loaded as they are")
                }

                #[inline(always)]
                unsafe fn group_avx2((): (), block: *const u8, _: usize) -> [__m256; 4] {
                    unsafe {
                        let mut values = [_mm256_setzero_ps(); 4];
                        for i in 0..4 {
                            let $at8 = block.add(i * 8 * $bytes);
                            values[i] = $load_8;
                        }
                        values
                    }
                }

                #[inline(always)]
                unsafe fn group_avx512((): (), block: *const u8, _: usize) -> [__m512; 2] {
                    unsafe {
                        let mut values = [_mm512_setzero_ps(); 2];
                        for i in 0..2 {
                            let $at16 = block.add(i * 16 * $bytes);
                            values[i] = $load_16;
                        }
                        values
                    }
                }
            }
        };
    }

    plain_format! {
        F32: 4 bytes; at => _mm256_loadu_ps(at.cast()); at => _mm512_loadu_ps(at.cast())
    }
    plain_format! {
        F16: 2 bytes; at => _mm256_cvtph_ps(load_16(at)); at => _mm512_cvtph_ps(load_32(at))
    }
    plain_format! {
        BF16: 2 bytes;
        at => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(load_16(at))));
        at => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(load_32(at))))
    }

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

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn sum_256(v: __m256) -> f32 {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
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
