//! How latents are written: as 32-bit or 16-bit floats, or as codes of a product quantiser.

use half::f16;
use serde::{Deserialize, Serialize};

use crate::quantiser::Quantiser;

/// How the latents of a segment are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LatentCode {
    /// Little-endian IEEE 754 single precision, row by row.
    F32,
    /// Little-endian IEEE 754 half precision, row by row.
    F16,
    /// One byte for each subspace of each stage of the segment's codebooks, row by row.
    Pq,
}

impl LatentCode {
    /// As it is spelled in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Pq => "pq",
        }
    }
}

impl std::fmt::Display for LatentCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A code that can be written and read: product codes with their codebooks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Coder<'a> {
    F32,
    F16,
    Pq(&'a Quantiser),
}

impl Coder<'_> {
    /// Bytes of one latent of width `d`.
    pub(crate) fn bytes_of_latent(self, d: usize) -> usize {
        match self {
            Self::F32 => 4 * d,
            Self::F16 => 2 * d,
            Self::Pq(quantiser) => quantiser.code_bytes(),
        }
    }

    /// Writes latents, `[n, d]`.
    pub(crate) fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Self::Pq(quantiser) => quantiser.encode(values),
        }
    }

    /// Reads latents, `[n, d]`; the length was checked.
    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
            Self::F16 => {
                bytes.as_chunks::<2>().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()).collect()
            }
            Self::Pq(quantiser) => quantiser.decode(bytes),
        }
    }
}

/// The mean of latents `[n, d]` as whole numbers from -127 to 127 and what one of them stands for: what
/// search compares.
pub(crate) fn pooled(values: &[f32], d: usize) -> (Vec<i8>, f32) {
    let n = (values.len() / d).max(1) as f32;
    let mut mean = vec![0f32; d];
    for row in values.chunks_exact(d) {
        mean.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    mean.iter_mut().for_each(|sum| *sum /= n);
    let largest = mean.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    (mean.iter().map(|value| (value / scale).round() as i8).collect(), scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_come_back_as_they_were_or_as_the_nearest_half() {
        let values = [0.0, -1.5, 3.140_625, 1e-3, 65504.0];
        assert_eq!(Coder::F32.decode(&Coder::F32.encode(&values)), values);
        let halves = Coder::F16.decode(&Coder::F16.encode(&values));
        for (value, half) in values.iter().zip(halves) {
            // Eleven bits of precision: half a step of 2^-11.
            assert!((value - half).abs() <= value.abs() / 2048.0, "{value} became {half}");
        }
    }

    #[test]
    fn the_pooled_vector_is_the_mean_to_half_a_step() {
        let (codes, scale) = pooled(&[1.0, -2.0, 0.5, 3.0, -4.0, 0.0], 3);
        let mean = [2.0, -3.0, 0.25];
        for (code, mean) in codes.iter().zip(mean) {
            assert!((f32::from(*code) * scale - mean).abs() <= scale / 2.0 + 1e-6);
        }
        assert_eq!(pooled(&[0.0; 4], 2).0, [0, 0], "nothing is divided by zero");
    }
}
