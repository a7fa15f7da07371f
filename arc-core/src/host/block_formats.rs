//! The storage types as vector instructions of x86-64 read them.
//!
//! A block is read in groups of 32 quants. Helpers are `inline(always)` because only then do they
//! take on the instructions of their caller, which must have been found to be there; they are
//! `unsafe` for that, and because pointers must be good for a block.

use std::arch::x86_64::*;

/// Values decoded at a time: one block of the small types, an eighth of the large ones.
pub(super) const GROUP: usize = 32;

/// 32 quants as signed bytes, and what turns them into values: `q * scale + offset`, with one
/// scale and offset for each half.
pub(super) struct Quants {
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
pub(super) trait Format {
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
pub(super) unsafe fn half_at(block: *const u8, at: usize) -> f32 {
    unsafe {
        let bits = block.add(at).cast::<u16>().read_unaligned();
        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
    }
}

/// The two f16 at the start of a block, as f32.
#[inline(always)]
pub(super) unsafe fn two_halves(block: *const u8) -> [f32; 2] {
    unsafe {
        let bits = block.cast::<i32>().read_unaligned();
        let mut halves = [0.0_f32; 2];
        let values = _mm_castps_si128(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
        _mm_storel_epi64((&raw mut halves).cast(), values);
        halves
    }
}

#[inline(always)]
pub(super) unsafe fn load_16(bytes: *const u8) -> __m128i {
    unsafe { _mm_loadu_si128(bytes.cast()) }
}

#[inline(always)]
pub(super) unsafe fn load_32(bytes: *const u8) -> __m256i {
    unsafe { _mm256_loadu_si256(bytes.cast()) }
}

/// 16 bytes of nibbles as 32 bytes: the lower halves, then the upper.
#[inline(always)]
pub(super) unsafe fn nibbles(bytes: *const u8) -> __m256i {
    unsafe {
        let bytes = load_16(bytes);
        let both = _mm256_set_m128i(_mm_srli_epi16::<4>(bytes), bytes);
        _mm256_and_si256(both, _mm256_set1_epi8(15))
    }
}

/// 0x10 in the bytes whose bit is set in the 32 bits at `bits`.
#[inline(always)]
pub(super) unsafe fn fifth_bits(bits: *const u8) -> __m256i {
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
pub(super) unsafe fn look_up_nibbles(bytes: __m128i, table: __m512) -> [__m512; 2] {
    unsafe {
        // The look-up uses the lower four bits of each index alone.
        let low = _mm512_cvtepu8_epi32(bytes);
        let high = _mm512_srli_epi32::<4>(low);
        [_mm512_permutexvar_ps(low, table), _mm512_permutexvar_ps(high, table)]
    }
}

/// `0, 1, … 15`, plus `first`.
#[inline(always)]
pub(super) unsafe fn count_from(first: f32) -> __m512 {
    unsafe {
        let count = _mm512_setr_ps(
            0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
        );
        _mm512_add_ps(count, _mm512_set1_ps(first))
    }
}

pub(super) struct Q8_0;

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

pub(super) struct Q4_0;

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

pub(super) struct Q4_1;

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

pub(super) struct Q5_0;

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

pub(super) struct Q5_1;

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
pub(super) struct SubBlocks {
    pub(super) scale: [f32; 8],
    pub(super) offset: [f32; 8],
}

impl SubBlocks {
    /// What multiplies the block's scale and its offset, a byte for each sub-block.
    #[inline(always)]
    pub(super) unsafe fn multiples(block: *const u8) -> [u64; 2] {
        unsafe {
            // Four sub-blocks at a time in the bytes of a word: `scale_and_offset` in
            // `quantisation.rs` has the layout.
            let word = |at: usize| u64::from(block.add(at).cast::<u32>().read_unaligned());
            let (a, b, c) = (word(4), word(8), word(12));
            let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
            let upper = |low: u64, high: u64| (low & four | (high >> 6 & two) << 4) << 32;
            let scales = a & six | upper(c, a);
            let offsets = b & six | upper(c >> 4, b);
            [scales, offsets]
        }
    }

    #[inline(always)]
    unsafe fn read(block: *const u8) -> Self {
        unsafe {
            let [d, d_min] = two_halves(block);
            let [scales, offsets] = Self::multiples(block);
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
pub(super) unsafe fn half_of_bytes(bytes: *const u8, group: usize) -> __m256i {
    unsafe {
        let bytes = load_32(bytes.add(group / 2 * 32));
        let half = if group.is_multiple_of(2) { bytes } else { _mm256_srli_epi16::<4>(bytes) };
        _mm256_and_si256(half, _mm256_set1_epi8(15))
    }
}

pub(super) struct Q4K;

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

pub(super) struct Q5K;

impl Q5K {
    /// The 32 quants of a group, from 0 to 31.
    #[inline(always)]
    pub(super) unsafe fn unsigned(block: *const u8, group: usize) -> __m256i {
        unsafe {
            let own = _mm256_set1_epi8((1_u8 << group).cast_signed());
            let kept = _mm256_and_si256(load_32(block.add(16)), own);
            let fifth = _mm256_and_si256(_mm256_cmpeq_epi8(kept, own), _mm256_set1_epi8(16));
            _mm256_or_si256(half_of_bytes(block.add(48), group), fifth)
        }
    }
}

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
            Quants::scaled_from(Self::unsigned(block, group), header.scale[group], header.offset[group])
        }
    }
}

pub(super) struct Q6K;

impl Q6K {
    /// The 32 quants of a group, plus 32: from 0 to 63.
    #[inline(always)]
    pub(super) unsafe fn unsigned(block: *const u8, group: usize) -> __m256i {
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
            _mm256_or_si256(low, high)
        }
    }
}

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
            let q = _mm256_sub_epi8(Self::unsigned(block, group), _mm256_set1_epi8(32));
            let scale = [scales[group * 2], scales[group * 2 + 1]];
            Quants { q, scale, offset: [0.0; 2] }
        }
    }
}

/// Declares a type whose values are not quantised: groups are loaded, not scaled.
macro_rules! plain_format {
    ($name:ident: $bytes:literal bytes; $at8:ident => $load_8:expr; $at16:ident => $load_16:expr) => {
        pub(in crate::host) struct $name;

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

/// The sum of the eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sum_256(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_shuffle_ps::<1>(v, v)))
}
