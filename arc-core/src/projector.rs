//! The projector: latents into a decoder's embedding space, built from an adapter's description.

use std::sync::Arc;

use arc_adapters::{Adapter, HostProjector, ProjectorLayer, ProjectorSpec, TensorF32};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::nn::count_products;
use crate::{Error, Result};

/// The weights of one described layer.
#[derive(Module, Debug)]
pub struct ProjectorWeights {
    /// `[d_in, d_out]` of a linear layer.
    pub matrix: Option<Param<Tensor<2>>>,
    /// `[d]` of a normalisation.
    pub scale: Option<Param<Tensor<1>>>,
    /// `[d_out]` of a linear layer with a bias, `[d]` of a layer normalisation.
    pub bias: Option<Param<Tensor<1>>>,
    /// The inner layers of a residual.
    pub inner: Vec<ProjectorWeights>,
}

/// A trainable projector, `[n, d_encoder] → [n, d_decoder]`.
#[derive(Module, Debug)]
pub struct Projector {
    /// The weights of each layer, in order.
    pub layers: Vec<ProjectorWeights>,
    #[module(skip)]
    spec: ProjectorSpec,
    /// A plugin's own function, for what the description cannot say.
    #[module(skip)]
    host: Option<Arc<dyn HostProjector>>,
}

impl Projector {
    /// Builds an adapter's projector on a device.
    ///
    /// # Errors
    ///
    /// An error of the adapter if a weight is missing.
    pub fn from_adapter(adapter: &Adapter, device: &Device) -> Result<Self> {
        let spec = adapter.manifest.projector.clone();
        if spec.is_custom() {
            let host = adapter.host_projector().cloned();
            return Ok(Self { layers: Vec::new(), spec, host });
        }
        let load = |name: &str| Ok(adapter.weights.tensor(name)?);
        let layers = build("projector", &spec.layers, &load, device)?;
        Ok(Self { layers, spec, host: None })
    }

    /// Builds a described projector from its weights by name, in torch layout.
    ///
    /// # Errors
    ///
    /// Whatever `load` returns for a weight.
    pub fn from_weights(
        spec: ProjectorSpec,
        load: &dyn Fn(&str) -> Result<TensorF32>,
        device: &Device,
    ) -> Result<Self> {
        let layers = build("projector", &spec.layers, load, device)?;
        Ok(Self { layers, spec, host: None })
    }

    /// What the projector computes.
    #[must_use]
    pub fn spec(&self) -> &ProjectorSpec {
        &self.spec
    }

    /// Maps latents, `[n, d_encoder] → [n, d_decoder]`.
    ///
    /// # Errors
    ///
    /// Only for a plugin's own function: whatever it reports.
    pub fn forward(&self, latents: Tensor<2>) -> Result<Tensor<2>> {
        let Some(host) = &self.host else {
            return Ok(apply(&self.spec.layers, &self.layers, latents));
        };
        let device = latents.device();
        if device.is_autodiff() {
            return Err(Error::Mismatch {
                what: "training".into(),
                expected: "a projector made of layers".into(),
                found: "a function of a code plugin".into(),
                hint: "describe the projector by its layers in `adapter.json`, or use it as it is".into(),
            });
        }
        let [n, _] = latents.dims();
        let data = latents.into_data().convert::<f32>();
        let projected = host.project(data.as_slice::<f32>().expect("converted to f32"), n)?;
        let d_decoder = projected.len() / n.max(1);
        Ok(Tensor::from_data(TensorData::new(projected, [n, d_decoder]), &device))
    }
}

fn build(
    prefix: &str,
    layers: &[ProjectorLayer],
    load: &dyn Fn(&str) -> Result<TensorF32>,
    device: &Device,
) -> Result<Vec<ProjectorWeights>> {
    layers
        .iter()
        .enumerate()
        .map(|(index, layer)| {
            let name = format!("{prefix}.{index}");
            let vector = |field: &str| -> Result<Param<Tensor<1>>> {
                let tensor = load(&format!("{name}.{field}"))?;
                let data = TensorData::new(tensor.values, tensor.shape);
                Ok(Param::from_tensor(Tensor::from_data(data, device)))
            };
            let mut weights = ProjectorWeights { matrix: None, scale: None, bias: None, inner: Vec::new() };
            match layer {
                ProjectorLayer::Linear { bias, .. } => {
                    let tensor = load(&format!("{name}.weight"))?;
                    let data = TensorData::new(tensor.values, tensor.shape);
                    // Files are in torch layout, `[d_out, d_in]`.
                    let matrix = Tensor::<2>::from_data(data, device).transpose();
                    weights.matrix = Some(Param::from_tensor(matrix));
                    weights.bias = bias.then(|| vector("bias")).transpose()?;
                }
                ProjectorLayer::RmsNorm { .. } => weights.scale = Some(vector("weight")?),
                ProjectorLayer::LayerNorm { .. } => {
                    weights.scale = Some(vector("weight")?);
                    weights.bias = Some(vector("bias")?);
                }
                ProjectorLayer::Residual { layers } => {
                    weights.inner = build(&name, layers, load, device)?;
                }
                _ => {}
            }
            Ok(weights)
        })
        .collect()
}

fn apply(layers: &[ProjectorLayer], weights: &[ProjectorWeights], x: Tensor<2>) -> Tensor<2> {
    layers.iter().zip(weights).fold(x, |x, (layer, weights)| apply_one(layer, weights, x))
}

fn apply_one(layer: &ProjectorLayer, weights: &ProjectorWeights, x: Tensor<2>) -> Tensor<2> {
    let scaled = |x: Tensor<2>| match &weights.scale {
        Some(scale) => x * scale.val().unsqueeze(),
        None => x,
    };
    let biased = |x: Tensor<2>| match &weights.bias {
        Some(bias) => x + bias.val().unsqueeze(),
        None => x,
    };
    match layer {
        ProjectorLayer::Linear { .. } => {
            let matrix = weights.matrix.as_ref().expect("built with the layer").val();
            let ([n, d_in], [_, d_out]) = (x.dims(), matrix.dims());
            count_products(1, [n, d_in, d_out]);
            biased(x.matmul(matrix))
        }
        ProjectorLayer::RmsNorm { eps, .. } => {
            let rms = (x.clone().square().mean_dim(1) + *eps).sqrt();
            scaled(x / rms)
        }
        ProjectorLayer::LayerNorm { eps, .. } => {
            let centred = x.clone() - x.mean_dim(1);
            let deviation = (centred.clone().square().mean_dim(1) + *eps).sqrt();
            biased(scaled(centred / deviation))
        }
        ProjectorLayer::Gelu {} => activation::gelu(x),
        ProjectorLayer::Silu {} => activation::silu(x),
        ProjectorLayer::Residual { layers } => x.clone() + apply(layers, &weights.inner, x),
        ProjectorLayer::Scale { factor } => x * *factor,
        // `Projector::forward` sends a custom projector to its function; the contract crate
        // allows no other layer beside it.
        _ => unreachable!("a described layer"),
    }
}
