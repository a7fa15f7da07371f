//! Rotary position embedding (Su et al., 2021) at arbitrary positions.
//!
//! burn's own module takes one contiguous range of positions. Pooled queries restart at zero while
//! their keys do not, and the rows of a batch start at different places, so positions are given
//! one by one here.

use burn::tensor::{Device, Tensor, TensorData};

/// How the two halves of a rotated pair lie in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RopeLayout {
    /// Pairs are neighbours, `(0,1), (2,3), …`: Meta's checkpoints and llama models in GGUF.
    Interleaved,
    /// Pairs are half a head apart, `(0,k/2), (1,k/2+1), …`: Hugging Face, and other GGUF models.
    HalfSplit,
}

/// A change of the frequencies for contexts longer than the pretraining's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Positions are divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided by a factor, high ones kept, smooth in between.
    Llama3 {
        /// The factor for low frequencies.
        factor: f64,
        /// Wavelengths longer than `original_context / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context length of the pretraining, in tokens.
        original_context: f64,
    },
}

/// The rotation of one model, or of one kind of layer in it.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies.
    pub theta: f64,
    /// The width of a head; even.
    pub head_dim: usize,
    /// How pairs lie in a head.
    pub layout: RopeLayout,
    /// A change of the frequencies, if any.
    pub scaling: Option<RopeScaling>,
    /// Divisors of the single frequencies, `[head_dim / 2]`, where a checkpoint carries them
    /// (`rope_freqs.weight` in GGUF, which replaces [`RopeScaling::Llama3`] there).
    pub divisors: Option<Vec<f32>>,
}

impl RopeConfig {
    /// Rotation without scaling.
    #[must_use]
    pub fn new(theta: f64, head_dim: usize, layout: RopeLayout) -> Self {
        Self { theta, head_dim, layout, scaling: None, divisors: None }
    }

    /// A rotation by nothing, for layers that know no positions.
    #[must_use]
    pub fn none(head_dim: usize, layout: RopeLayout) -> Self {
        Self { divisors: Some(vec![f32::INFINITY; head_dim / 2]), ..Self::new(1.0, head_dim, layout) }
    }

    /// Takes back every change of the frequencies.
    pub(crate) fn unscale(&mut self) {
        self.scaling = None;
        // What is not rotated stays so.
        self.divisors = self.divisors.take().filter(|divisors| divisors.iter().all(|by| by.is_infinite()));
    }

    /// The angle per position of each pair, `[head_dim / 2]`, in radians.
    #[must_use]
    pub fn frequencies(&self) -> Vec<f64> {
        (0..self.head_dim / 2)
            .map(|i| {
                let base = self.theta.powf(-((2 * i) as f64) / self.head_dim as f64);
                let scaled = self.scaling.map_or(base, |scaling| scaling.apply(base));
                let divisor = self.divisors.as_ref().and_then(|d| d.get(i)).map_or(1.0, |&d| f64::from(d));
                scaled / divisor
            })
            .collect()
    }

    /// Cosines and sines of each position's angles, `[positions, head_dim / 2]` each.
    pub(crate) fn table(&self, positions: impl Iterator<Item = usize>) -> (Vec<f32>, Vec<f32>) {
        let frequencies = self.frequencies();
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in &frequencies {
                // In f64: at position 100,000 an f32 angle is off by a hundredth.
                let (sine, cosine) = (position as f64 * frequency).sin_cos();
                cos.push(cosine as f32);
                sin.push(sine as f32);
            }
        }
        (cos, sin)
    }

    /// The rotation at `positions`, one list of `s` positions per row of the batch; a single list
    /// serves all rows.
    ///
    /// # Panics
    ///
    /// Panics if the lists differ in length.
    #[must_use]
    pub fn at(&self, positions: &[Vec<usize>], device: &Device) -> Rotation {
        let (b, s) = (positions.len(), positions.first().map_or(0, Vec::len));
        assert!(positions.iter().all(|row| row.len() == s), "rows of positions have one length");
        let (cos, sin) = self.table(positions.iter().flatten().copied());
        let (cos, sin, width) = match self.layout {
            RopeLayout::HalfSplit => (cos, sin, self.head_dim / 2),
            RopeLayout::Interleaved => (
                cos.into_iter().flat_map(|cosine| [cosine, cosine]).collect(),
                sin.into_iter().flat_map(|sine| [-sine, sine]).collect(),
                self.head_dim,
            ),
        };
        let shape = [b, 1, s, width];
        Rotation {
            cos: Tensor::from_data(TensorData::new(cos, shape), device),
            sin: Tensor::from_data(TensorData::new(sin, shape), device),
            layout: self.layout,
        }
    }
}

impl RopeScaling {
    /// The scaled frequency, radians per position.
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                let smooth =
                    (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let smooth = smooth.clamp(0.0, 1.0);
                frequency * (smooth + (1.0 - smooth) / factor)
            }
        }
    }
}

/// Cosines and sines at the positions of one forward pass, shared by its layers.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[b or 1, 1, s, k/2]`; `[b or 1, 1, s, k]` where pairs are neighbours, each value twice.
    cos: Tensor<4>,
    /// As `cos`; where pairs are neighbours, the first of each has the sine's negative.
    sin: Tensor<4>,
    layout: RopeLayout,
}

impl Rotation {
    /// Rotates queries or keys.
    ///
    /// # Shapes
    ///
    /// - input and output: `[b, heads, s, k]`
    #[must_use]
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, h, s, k] = x.dims();
        let half = k / 2;
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        match self.layout {
            RopeLayout::HalfSplit => {
                let first = x.clone().narrow(3, 0, half);
                let second = x.narrow(3, half, half);
                Tensor::cat(
                    vec![
                        first.clone() * cos.clone() - second.clone() * sin.clone(),
                        second * cos + first * sin,
                    ],
                    3,
                )
            }
            RopeLayout::Interleaved => {
                // Each with its neighbour in its place: fewer passes than taking pairs apart.
                let changed_over = x.clone().reshape([b, h, s, half, 2]).flip([4]).reshape([b, h, s, k]);
                x * cos + changed_over * sin
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_frequencies_equal_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/architectures/frequencies.json");
        let all: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(all.len(), 2);
        for (name, golden) in all {
            let number = |field: &str| golden[field].as_f64().unwrap();
            let head_dim = number("head_dim") as usize;
            let mut rope = RopeConfig::new(number("rope_theta"), head_dim, RopeLayout::HalfSplit);
            let unscaled = rope.frequencies();
            rope.scaling = Some(RopeScaling::Llama3 {
                factor: number("factor"),
                low_freq_factor: number("low_freq_factor"),
                high_freq_factor: number("high_freq_factor"),
                original_context: number("original_max_position_embeddings"),
            });
            let expected: Vec<f64> = serde_json::from_value(golden["frequencies"].clone()).unwrap();
            assert_eq!(expected.len(), head_dim / 2);
            for ((found, expected), unscaled) in rope.frequencies().iter().zip(&expected).zip(&unscaled) {
                // transformers computes them in float32.
                assert!((found / expected - 1.0).abs() < 2e-6, "{name}: {found}, expected {expected}");
                assert!(*found <= *unscaled, "{name}");
            }
            let kept = rope.frequencies().iter().zip(&unscaled).filter(|(found, base)| found == base).count();
            assert!(kept > 0 && kept < head_dim / 2, "{name}: {kept} frequencies are kept");
        }
    }
}
