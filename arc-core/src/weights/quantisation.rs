//! The storage types and their exact dequantisation.
//!
//! A quantised row is cut into blocks of 32 or 256 values; each block has its own scale, and in
//! some types an offset. Layouts are those of ggml (`ggml-common.h`), the values those of its
//! `dequantize_row_*`. Every product of a scale and a quant has at most 24 significant bits (an
//! f16 scale has 11, a sub-block's scale 6 or 7, a quant 5 at most), so it is exact in f32, and a
//! fused multiply-add gives the same bits as a product and a sum: all paths agree exactly.

use std::fmt;

use half::{bf16, f16};

/// How a tensor's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// Blocks of 32: an f16 scale and 32 signed bytes.
    Q8_0,
    /// Blocks of 32: an f16 scale and 4-bit quants around 8.
    Q4_0,
    /// Blocks of 32: an f16 scale, an f16 offset and 4-bit quants.
    Q4_1,
    /// Blocks of 32: an f16 scale and 5-bit quants around 16.
    Q5_0,
    /// Blocks of 32: an f16 scale, an f16 offset and 5-bit quants.
    Q5_1,
    /// Blocks of 256: 8 sub-blocks with 6-bit scales and offsets, 4-bit quants.
    Q4K,
    /// Blocks of 256: 8 sub-blocks with 6-bit scales and offsets, 5-bit quants.
    Q5K,
    /// Blocks of 256: 16 sub-blocks with 8-bit scales, 6-bit quants around 32.
    Q6K,
}

impl StorageType {
    /// Every storage type that can be read.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// The name that ggml gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Values in a block.
    #[must_use]
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes in a block.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes that a tensor of this shape takes (outermost dimension first), or nothing where the
    /// innermost dimension is not a whole number of blocks or the size overflows.
    #[must_use]
    pub fn bytes_of_shape(self, shape: &[usize]) -> Option<usize> {
        let innermost = shape.last().copied().unwrap_or(1);
        if innermost % self.block_len() != 0 {
            return None;
        }
        let values = shape.iter().try_fold(1_usize, |values, &d| values.checked_mul(d))?;
        (values / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Dequantises whole blocks into `values`, one after the other.
    ///
    /// # Panics
    /// If `values` is not a whole number of blocks, or `bytes` is not exactly those blocks: both
    /// are checked where a tensor is made.
    pub(crate) fn dequantise(self, bytes: &[u8], values: &mut [f32]) {
        assert_eq!(values.len() % self.block_len(), 0, "values are whole blocks");
        assert_eq!(bytes.len(), values.len() / self.block_len() * self.block_bytes());
        match self {
            Self::F32 => each_block(bytes, values, |b: &[u8; 4], [v]: &mut [f32; 1]| {
                *v = f32::from_le_bytes(*b);
            }),
            Self::F16 => each_block(bytes, values, |b: &[u8; 2], [v]: &mut [f32; 1]| {
                *v = f16::from_le_bytes(*b).to_f32();
            }),
            Self::BF16 => each_block(bytes, values, |b: &[u8; 2], [v]: &mut [f32; 1]| {
                *v = bf16::from_le_bytes(*b).to_f32();
            }),
            Self::Q8_0 => each_block(bytes, values, q8_0),
            Self::Q4_0 => each_block(bytes, values, q4_0),
            Self::Q4_1 => each_block(bytes, values, q4_1),
            Self::Q5_0 => each_block(bytes, values, q5_0),
            Self::Q5_1 => each_block(bytes, values, q5_1),
            Self::Q4K => each_block(bytes, values, q4_k),
            Self::Q5K => each_block(bytes, values, q5_k),
            Self::Q6K => each_block(bytes, values, q6_k),
        }
    }
}

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Calls `dequantise` with each block of `B` bytes and its `N` values.
fn each_block<const B: usize, const N: usize>(
    bytes: &[u8],
    values: &mut [f32],
    dequantise: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let (blocks, _) = bytes.as_chunks::<B>();
    let (outputs, _) = values.as_chunks_mut::<N>();
    for (block, output) in blocks.iter().zip(outputs) {
        dequantise(block, output);
    }
}

/// The f16 at byte `at` of a block, as f32.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn q8_0(block: &[u8; 34], values: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (value, &q) in values.iter_mut().zip(&block[2..]) {
        *value = d * f32::from(q.cast_signed());
    }
}

fn q4_0(block: &[u8; 18], values: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, &q) in block[2..].iter().enumerate() {
        values[i] = d * (f32::from(q & 15) - 8.0);
        values[i + 16] = d * (f32::from(q >> 4) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], values: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, &q) in block[4..].iter().enumerate() {
        values[i] = d * f32::from(q & 15) + m;
        values[i + 16] = d * f32::from(q >> 4) + m;
    }
}

fn q5_0(block: &[u8; 22], values: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (i, q) in five_bits(&block[2..]).into_iter().enumerate() {
        values[i] = d * (f32::from(q) - 16.0);
    }
}

fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (i, q) in five_bits(&block[4..]).into_iter().enumerate() {
        values[i] = d * f32::from(q) + m;
    }
}

/// The quants of Q5_0 and Q5_1: 32 high bits, then 16 bytes of low nibbles (0 to 15 in the lower
/// halves, 16 to 31 in the upper).
fn five_bits(packed: &[u8]) -> [u8; 32] {
    let high = u32::from_le_bytes([packed[0], packed[1], packed[2], packed[3]]);
    std::array::from_fn(|i| {
        let byte = packed[4 + i % 16];
        let low = if i < 16 { byte & 15 } else { byte >> 4 };
        low | ((high >> i & 1) as u8) << 4
    })
}

/// The 6-bit scale and offset of sub-block `i` (0 to 7) in the 12 packed bytes of Q4_K and Q5_K.
///
/// Bytes 0 to 3 and 4 to 7 hold the scales and offsets of sub-blocks 0 to 3 in their lower six
/// bits, and the upper two bits of those of sub-blocks 4 to 7, whose lower four are in bytes 8 to 11.
fn scale_and_offset(packed: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        (packed[i + 4] & 15 | (packed[i - 4] >> 6) << 4, packed[i + 4] >> 4 | (packed[i] >> 6) << 4)
    }
}

fn q4_k(block: &[u8; 144], values: &mut [f32; 256]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    for (i, sub_block) in values.chunks_exact_mut(32).enumerate() {
        let (scale, offset) = scale_and_offset(&block[4..16], i);
        let (scale, offset) = (d * f32::from(scale), d_min * f32::from(offset));
        // Two sub-blocks share 32 bytes: the even one in the lower halves.
        let quants = &block[16 + i / 2 * 32..];
        for (value, &q) in sub_block.iter_mut().zip(quants) {
            *value = scale * f32::from(q >> (i % 2 * 4) & 15) - offset;
        }
    }
}

fn q5_k(block: &[u8; 176], values: &mut [f32; 256]) {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let high = &block[16..48];
    for (i, sub_block) in values.chunks_exact_mut(32).enumerate() {
        let (scale, offset) = scale_and_offset(&block[4..16], i);
        let (scale, offset) = (d * f32::from(scale), d_min * f32::from(offset));
        let quants = &block[48 + i / 2 * 32..];
        for ((value, &q), &high) in sub_block.iter_mut().zip(quants).zip(high) {
            // Bit i of the 32 high bytes belongs to sub-block i.
            let q = q >> (i % 2 * 4) & 15 | (high >> i & 1) << 4;
            *value = scale * f32::from(q) - offset;
        }
    }
}

fn q6_k(block: &[u8; 210], values: &mut [f32; 256]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (i, group) in values.chunks_exact_mut(32).enumerate() {
        // Each half of the block has 64 low bytes (groups 0 and 2 in the first 32 of them) and
        // 32 high bytes, of which group g takes bits 2g and 2g + 1.
        let (half, g) = (i / 4, i % 4);
        let low = &low[half * 64 + g % 2 * 32..][..32];
        let high = &high[half * 32..][..32];
        for (j, value) in group.iter_mut().enumerate() {
            let q = low[j] >> (g / 2 * 4) & 15 | (high[j] >> (g * 2) & 3) << 4;
            let scale = d * f32::from(scales[i * 2 + j / 16].cast_signed());
            *value = scale * (f32::from(q) - 32.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{SafetensorsFile, TensorSource};

    /// The golden blocks are bytes, which no [`StorageType`] is: they are read as they lie.
    fn golden(dtype: StorageType) -> (Vec<u8>, Vec<f32>) {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/quants/quants.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let blocks = file.tensor(&format!("{dtype}.blocks")).unwrap().data().to_vec();
        let source = SafetensorsFile::open(path).unwrap();
        (blocks, source.tensor(&format!("{dtype}.values")).unwrap().to_f32())
    }

    #[test]
    fn values_are_those_of_ggml_exactly() {
        for dtype in StorageType::ALL {
            let (blocks, expected) = golden(dtype);
            assert_eq!(dtype.bytes_of_shape(&[3, 256]), Some(blocks.len()), "{dtype}");
            let mut values = vec![f32::NAN; expected.len()];
            dtype.dequantise(&blocks, &mut values);
            for (i, (value, expected)) in values.iter().zip(&expected).enumerate() {
                // Equality of numbers, not of bits: 0 and -0 may differ where a scale is zero.
                assert!(value == expected, "{dtype} value {i}: {value} is not {expected}");
            }
        }
    }

    #[test]
    fn a_row_of_part_of_a_block_has_no_size() {
        assert_eq!(StorageType::Q4_1.bytes_of_shape(&[2, 48]), None);
        assert_eq!(StorageType::Q4K.bytes_of_shape(&[2, 32]), None);
        assert_eq!(StorageType::F32.bytes_of_shape(&[usize::MAX, 2]), None);
    }
}
