//! A linear map whose weight is a burn tensor, or stays in the file as it is stored.

use burn::module::{Module, Param};
use burn::tensor::{FloatDType, Tensor, TensorData};

use super::count_products;
use crate::host::{HostLinear, HostMatrix, PackedMatrix};

/// `y = x Wᵀ + b`, with `W` of shape `[d_out, d_in]` in checkpoints.
///
/// A *dense* weight is a burn parameter of shape `[d_in, d_out]` and can be trained on any device.
/// A *packed* weight is the checkpoint's own memory-mapped bytes, quantised or not; it is read
/// where it lies and multiplied in `f32`. Packed weights exist for inference on the CPU: they make
/// loading free, keep the resident size at the file's size, and turn decoding, which is bound by
/// memory bandwidth, into a read of the quantised bytes. They carry no gradient.
///
/// Products may be computed in another type than that of the activations, as mixed precision has it:
/// everything between two products stays in `f32`.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Option<Param<Tensor<2>>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    packed: Option<PackedMatrix>,
    #[module(skip)]
    products: Option<FloatDType>,
}

impl Linear {
    /// A trainable map from a weight of shape `[d_in, d_out]`.
    #[must_use]
    pub fn dense(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight: Some(Param::from_tensor(weight)),
            bias: bias.map(Param::from_tensor),
            packed: None,
            products: None,
        }
    }

    /// A map whose weight `[d_out, d_in]` stays as stored. For tensors on the CPU device only.
    #[must_use]
    pub fn packed(matrix: PackedMatrix, bias: Option<Tensor<1>>) -> Self {
        Self { weight: None, bias: bias.map(Param::from_tensor), packed: Some(matrix), products: None }
    }

    /// The dense weight, `[d_in, d_out]`, unless the weight is packed.
    #[must_use]
    pub fn weight(&self) -> Option<Tensor<2>> {
        self.weight.as_ref().map(Param::val)
    }

    /// Whether the weight stays as stored: inference on the CPU.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// `[d_in, d_out]` of the map.
    #[must_use]
    pub fn dims(&self) -> [usize; 2] {
        match (&self.weight, &self.packed) {
            (Some(weight), _) => weight.dims(),
            (None, Some(matrix)) => [matrix.cols(), matrix.rows()],
            (None, None) => unreachable!("both constructors set one of the two"),
        }
    }

    /// Computes products in this type from now on. A dense weight stays as it is, and so does its
    /// gradient: it is what an optimiser moves, and is rounded anew in each product.
    pub(crate) fn multiply_in(&mut self, products: FloatDType) {
        self.products = Some(products);
    }

    /// Keeps a dense weight in this type too: for weights that are not trained.
    pub(crate) fn keep_in(&mut self, products: FloatDType) {
        self.multiply_in(products);
        self.weight = self.weight.take().map(|weight| weight.map(|weight| weight.cast(products)));
    }

    /// Moves a dense weight on the CPU device into memory that the tensor and the result share,
    /// `[d_out, d_in]` if `is_transposed`; `None` if it is packed.
    pub(crate) fn share_with_host(&mut self, is_transposed: bool) -> Option<HostLinear> {
        let turned = |weight: Tensor<2>| if is_transposed { weight.transpose() } else { weight };
        let weight = self.weight.take()?.into_value();
        let device = weight.device();
        let data = shared(turned(weight).into_data());
        self.weight = Some(Param::from_tensor(turned(Tensor::from_data(data.clone(), &device))));
        Some(HostLinear::new(HostMatrix::new(data), is_transposed, self.host_bias()))
    }

    /// The values of a dense weight; `None` if it is packed, or stands beside a LoRA delta.
    pub(super) fn copied_to_host(&self) -> Option<HostLinear> {
        let weight = self.weight.as_ref().filter(|weight| weight.adapter().is_none())?;
        let data = weight.val().inner().into_data();
        Some(HostLinear::new(HostMatrix::new(data), false, self.host_bias()))
    }

    fn host_bias(&self) -> Option<Vec<f32>> {
        let bias = self.bias.as_ref()?.val().inner().into_data();
        Some(bias.try_into_vec().expect("dense weights are f32 on the CPU device"))
    }

    /// Applies the map to the last dimension.
    ///
    /// # Shapes
    ///
    /// - input: `[b, s, d_in]`
    /// - output: `[b, s, d_out]`
    ///
    /// # Panics
    ///
    /// Panics if the input's width is not `d_in`, or if a packed weight meets a tensor that is
    /// being differentiated: its result would silently carry no gradient.
    #[must_use]
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, s, _] = x.dims();
        let [d_in, d_out] = self.dims();
        count_products(1, [b * s, d_in, d_out]);
        let y = match &self.packed {
            Some(matrix) => matmul_packed(x, matrix),
            None => {
                let weight = self.weight.as_ref().expect("dense where not packed").val();
                // One large product: a batched one would multiply row by row on some backends.
                let x = x.reshape([b * s, d_in]);
                let y = match self.products {
                    Some(products) => product_in(products, x, weight),
                    None => x.matmul(weight),
                };
                y.reshape([b, s, d_out])
            }
        };
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }
}

/// `a b` computed in a type, in the type of `a`.
pub(crate) fn product_in(products: FloatDType, a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let result = FloatDType::from(a.dtype());
    a.cast(products).matmul(b.cast(products)).cast(result)
}

/// The same values in memory whose copies are references to it.
pub(super) fn shared(data: TensorData) -> TensorData {
    let (bytes, shape, dtype) = data.into_parts();
    TensorData::from_bytes(bytes.shared(), shape, dtype)
}

/// `x Wᵀ` on host memory; on the CPU device both copies are moves.
fn matmul_packed(x: Tensor<3>, matrix: &PackedMatrix) -> Tensor<3> {
    let device = x.device();
    assert!(!device.is_autodiff(), "packed weights carry no gradient: load the model dense to train");
    let [b, s, d_in] = x.dims();
    assert_eq!(d_in, matrix.cols(), "input width of a packed linear map");
    let data = x.into_data();
    let x = data.as_slice::<f32>().expect("activations are f32 on the CPU device");
    let mut y = vec![0.0f32; b * s * matrix.rows()];
    matrix.matmul(x, b * s, &mut y);
    Tensor::from_data(TensorData::new(y, [b, s, matrix.rows()]), &device)
}
