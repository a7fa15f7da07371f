//! Normalisation over the model width.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use super::loader::StoredNorm;

/// Which normalisation, as a configuration states it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum NormConfig {
    /// `x / sqrt(mean(x²) + eps) · weight` (Zhang and Sennrich, 2019).
    Rms {
        /// Added to the mean square.
        epsilon: f64,
    },
    /// Layer normalisation without weight and bias, as in OLMo (Groeneveld et al., 2024).
    NonParametricLayer {
        /// Added to the variance.
        epsilon: f64,
    },
}

/// A normalisation over the last dimension.
#[derive(Module, Debug)]
pub struct Norm {
    weight: Option<Param<Tensor<1>>>,
    epsilon: f64,
}

impl Norm {
    /// RMS normalisation with a weight of shape `[d]`.
    #[must_use]
    pub fn rms(weight: Tensor<1>, epsilon: f64) -> Self {
        Self { weight: Some(Param::from_tensor(weight)), epsilon }
    }

    /// Layer normalisation without parameters.
    #[must_use]
    pub fn non_parametric_layer(epsilon: f64) -> Self {
        Self { weight: None, epsilon }
    }

    /// The normalisation of a checkpoint, as `f32` on a device.
    #[must_use]
    pub(crate) fn from_stored(stored: &StoredNorm, device: &Device) -> Self {
        match &stored.weight {
            Some(weight) => {
                let weight = TensorData::new(weight.clone(), [weight.len()]);
                Self::rms(Tensor::from_data(weight, device), stored.epsilon)
            }
            None => Self::non_parametric_layer(stored.epsilon),
        }
    }

    /// The weight, `[d]`, where the kind has one.
    #[must_use]
    pub fn weight(&self) -> Option<Tensor<1>> {
        self.weight.as_ref().map(Param::val)
    }

    /// What is added to the mean square or the variance.
    #[must_use]
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// Normalises the last dimension; the shape stays.
    #[must_use]
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.weight {
            Some(weight) => {
                let scale = (x.clone().square().mean_dim(D - 1) + self.epsilon).sqrt().recip();
                x * scale * weight.val().unsqueeze()
            }
            None => {
                let centred = x.clone() - x.mean_dim(D - 1);
                let scale = (centred.clone().square().mean_dim(D - 1) + self.epsilon).sqrt().recip();
                centred * scale
            }
        }
    }
}
