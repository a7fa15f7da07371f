//! Matrices in 8 bits with a scale for each block of a row, as encoder packages store them.
//!
//! In a safetensors file a matrix `NAME` is `[d_out, d_in]` of I8, and `NAME.scales` is `[d_out, d_in /
//! block]` of F16: a weight is its integer times the scale of its block, exactly, in any program that reads
//! the file. In memory it is ggml's `Q8_0`, whose blocks are of 32 weights, so that it can be multiplied by
//! as it lies.

use half::f16;

use super::{MappedBytes, RawTensor, StorageType};
use crate::{Error, Result};

/// The weights of one row that share a scale, as this build writes them.
pub const EIGHT_BIT_BLOCK: usize = 64;
/// What follows a matrix's name in the name of its scales.
pub(super) const SCALES_SUFFIX: &str = ".scales";

/// The weights of a block of `Q8_0`, and its bytes: the scale, and an integer for each.
const HALF: usize = 32;
const HALF_BYTES: usize = 2 + HALF;
/// The largest integer: the range is the same on both sides.
const LARGEST: f32 = 127.0;

/// Whether a matrix of this shape can be stored so.
pub(crate) fn fits(shape: &[usize]) -> bool {
    shape.len() == 2 && shape[1] > 0 && shape[1].is_multiple_of(EIGHT_BIT_BLOCK)
}

/// Rounds a matrix `[d_out, d_in]`, whose `d_in` is a whole number of blocks.
///
/// # Errors
/// [`Error::DoesNotFit`] for a weight that is not finite or whose block's scale does not fit into 16
/// bits; as [`RawTensor::new`].
pub(crate) fn quantise(name: &str, shape: Vec<usize>, values: &[f32]) -> Result<RawTensor> {
    quantise_in(EIGHT_BIT_BLOCK, name, shape, values)
}

fn quantise_in(block: usize, name: &str, shape: Vec<usize>, values: &[f32]) -> Result<RawTensor> {
    let mut bytes = Vec::with_capacity(values.len() / HALF * HALF_BYTES);
    for block in values.chunks(block) {
        let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scale = f16::from_f32(largest / LARGEST);
        if !scale.is_finite() || block.iter().any(|value| !value.is_finite()) {
            return Err(Error::DoesNotFit { tensor: name.to_owned(), value: largest, bits: 8 });
        }
        // The integers are those of the scale as it is stored.
        let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
        for half in block.chunks(HALF) {
            bytes.extend(scale.to_le_bytes());
            let integer = |value: &f32| (value * inverse).round().clamp(-LARGEST, LARGEST) as i8;
            bytes.extend(half.iter().map(|value| integer(value).to_le_bytes()[0]));
        }
    }
    RawTensor::new(name, StorageType::Q8_0, shape, bytes.into(), "(memory)")
}

/// The tensor of the scales of a matrix.
pub(crate) fn scales_name(matrix: &str) -> String {
    format!("{matrix}{SCALES_SUFFIX}")
}

/// Rounds rows of `d` values, a whole number of blocks of 64 or else of 32, `[n, d]`.
///
/// # Errors
/// As [`quantise`].
pub(crate) fn quantise_rows(name: &str, n: usize, d: usize, values: &[f32]) -> Result<RawTensor> {
    let block = if d.is_multiple_of(EIGHT_BIT_BLOCK) { EIGHT_BIT_BLOCK } else { HALF };
    quantise_in(block, name, vec![n, d], values)
}

/// A `Q8_0` tensor's integers, and its scales, one for each block of so many values: those of 64 have the same
/// in both halves.
pub(crate) fn split_by(tensor: &RawTensor, block: usize) -> (Vec<u8>, Vec<u8>) {
    let blocks = || tensor.bytes().chunks_exact(HALF_BYTES);
    let integers = blocks().flat_map(|half| &half[2..]).copied().collect();
    let scales = blocks().step_by(block / HALF).flat_map(|half| &half[..2]).copied().collect();
    (integers, scales)
}

/// A `Q8_0` tensor's integers, and its scales with their shape: of one for each [`EIGHT_BIT_BLOCK`] weights
/// where neighbours agree, else for each 32.
pub(super) fn split(tensor: &RawTensor) -> (Vec<u8>, Vec<u8>, Vec<usize>) {
    let blocks = || tensor.bytes().chunks_exact(HALF_BYTES);
    let integers = blocks().flat_map(|block| &block[2..]).copied().collect();
    let scales: Vec<[u8; 2]> = blocks().map(|block| [block[0], block[1]]).collect();
    let mut shape = tensor.shape().to_vec();
    let columns = shape.last().copied().unwrap_or(0);
    let agree = columns.is_multiple_of(EIGHT_BIT_BLOCK)
        && scales.chunks(EIGHT_BIT_BLOCK / HALF).all(|pair| pair.iter().all(|scale| scale == &pair[0]));
    let (block, step) = if agree { (EIGHT_BIT_BLOCK, EIGHT_BIT_BLOCK / HALF) } else { (HALF, 1) };
    if let Some(last) = shape.last_mut() {
        *last /= block;
    }
    (integers, scales.into_iter().step_by(step).flatten().collect(), shape)
}

/// The tensor of integers `[…, d_in]` and scales `[…, d_in / block]`; `Err` says what does not fit.
pub(super) fn join(
    name: &str,
    (shape, integers): (&[usize], &[u8]),
    (scales_shape, scales): (&[usize], &[u8]),
    path: &std::path::Path,
) -> Result<RawTensor> {
    let invalid = || Error::InvalidFile {
        path: path.to_owned(),
        format: "safetensors",
        reason: format!(
            "`{name}` has shape {shape:?}, but its scales have {scales_shape:?}: blocks of 32 weights or a \
             multiple of that are known"
        ),
    };
    let (&[ref rows @ .., columns], &[ref scale_rows @ .., scale_columns]) = (shape, scales_shape) else {
        return Err(invalid());
    };
    let block = columns.checked_div(scale_columns).unwrap_or(0);
    if rows != scale_rows || block == 0 || block * scale_columns != columns || block % HALF != 0 {
        return Err(invalid());
    }
    let mut bytes = Vec::with_capacity(integers.len() / HALF * HALF_BYTES);
    for (scale, block) in scales.chunks_exact(2).zip(integers.chunks(block)) {
        for half in block.chunks(HALF) {
            bytes.extend_from_slice(scale);
            bytes.extend_from_slice(half);
        }
    }
    RawTensor::new(name, StorageType::Q8_0, shape.to_vec(), MappedBytes::from(bytes), path)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Weights of several sizes from block to block.
    fn values(rows: usize, columns: usize) -> Vec<f32> {
        let value = |index: usize| {
            let size = 10.0_f32.powi((index / EIGHT_BIT_BLOCK % 5) as i32 - 3);
            size * ((index * 37 % 255) as f32 / 127.0 - 1.0)
        };
        (0..rows * columns).map(value).collect()
    }

    #[test]
    fn a_weight_is_off_by_half_a_step_of_its_block_at_most() {
        let values = values(3, 128);
        let tensor = quantise("w", vec![3, 128], &values).unwrap();
        let stored = tensor.to_f32();
        for (block, stored) in values.chunks(EIGHT_BIT_BLOCK).zip(stored.chunks(EIGHT_BIT_BLOCK)) {
            let largest = block.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
            // The scale itself is rounded to 11 bits, which the largest integers feel.
            let step = largest / LARGEST;
            for (value, stored) in block.iter().zip(stored) {
                assert!((value - stored).abs() <= 0.5 * step + largest / 1024.0, "{value} became {stored}");
            }
        }
        // What is stored is stored again as it is.
        assert_eq!(quantise("w", vec![3, 128], &stored).unwrap().to_f32(), stored);
    }

    #[test]
    fn what_is_split_is_joined_to_the_same_bytes() {
        let tensor = quantise("w", vec![3, 128], &values(3, 128)).unwrap();
        let (integers, scales, shape) = split(&tensor);
        assert_eq!((integers.len(), scales.len(), shape.as_slice()), (384, 2 * 6, &[3, 2][..]));
        let joined = |scales: &[u8], scales_shape: &[usize]| {
            join("w", (&[3, 128], &integers), (scales_shape, scales), Path::new("x"))
        };
        assert_eq!(&**joined(&scales, &shape).unwrap().bytes(), &**tensor.bytes());
        for wrong in [&[3, 3][..], &[2, 2], &[3], &[3, 0], &[], &[3, 8]] {
            assert!(matches!(joined(&scales, wrong), Err(Error::InvalidFile { .. })), "{wrong:?}");
        }
        // ggml's own, whose neighbours have scales of their own, lose nothing either.
        let mut bytes = tensor.bytes().to_vec();
        bytes[0] ^= 1;
        let tensor = RawTensor::new("w", StorageType::Q8_0, vec![3, 128], bytes.into(), "x").unwrap();
        let (integers, scales, shape) = split(&tensor);
        assert_eq!(shape, [3, 4]);
        let joined = join("w", (&[3, 128], &integers), (&shape, &scales), Path::new("x")).unwrap();
        assert_eq!(&**joined.bytes(), &**tensor.bytes());
    }

    #[test]
    fn zeros_stay_zeros_and_what_is_no_number_is_refused() {
        let zeros = vec![0.0; 64];
        assert_eq!(quantise("w", vec![1, 64], &zeros).unwrap().to_f32(), zeros);
        for bad in [f32::NAN, f32::INFINITY, 1e9] {
            let mut values = zeros.clone();
            values[5] = bad;
            assert!(quantise("w", vec![1, 64], &values).is_err(), "{bad}");
        }
    }
}
