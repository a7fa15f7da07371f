//! A linear map whose weight is a burn tensor.

use burn::module::{Module, Param};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use super::count_products;
use super::loader::StoredLinear;

/// `y = x Wᵀ + b`, with `W` of shape `[d_out, d_in]` in checkpoints.
///
/// Products may be computed in another type than that of the activations, as mixed precision has it:
/// everything between two products stays in `f32`.
#[derive(Module, Debug)]
pub struct Linear {
    weight: Param<Tensor<2>>,
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    products: Option<FloatDType>,
}

impl Linear {
    /// A trainable map from a weight of shape `[d_in, d_out]`.
    #[must_use]
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self { weight: Param::from_tensor(weight), bias: bias.map(Param::from_tensor), products: None }
    }

    /// The map of a checkpoint, as `f32` on a device.
    #[must_use]
    pub(crate) fn from_stored(stored: &StoredLinear, device: &Device) -> Self {
        let [d_in, d_out] = stored.dims();
        let weight: Tensor<2> =
            Tensor::from_data(TensorData::new(stored.weight.to_f32(), [d_out, d_in]), device);
        let bias = stored.bias.as_ref();
        let bias = bias.map(|bias| Tensor::from_data(TensorData::new(bias.clone(), [d_out]), device));
        Self::new(weight.transpose(), bias)
    }

    /// The weight, `[d_in, d_out]`.
    #[must_use]
    pub fn weight(&self) -> Tensor<2> {
        self.weight.val()
    }

    /// The weight as a parameter, which may stand beside a LoRA delta.
    pub(crate) fn parameter(&self) -> &Param<Tensor<2>> {
        &self.weight
    }

    /// The bias, `[d_out]`, where there is one.
    #[must_use]
    pub fn bias(&self) -> Option<Tensor<1>> {
        self.bias.as_ref().map(Param::val)
    }

    /// `[d_in, d_out]` of the map.
    #[must_use]
    pub fn dims(&self) -> [usize; 2] {
        self.weight.dims()
    }

    /// Computes products in this type from now on. The weight stays as it is, and so does its
    /// gradient: it is what an optimiser moves, and is rounded anew in each product.
    pub(crate) fn multiply_in(&mut self, products: FloatDType) {
        self.products = Some(products);
    }

    /// The type that products are computed in, where it is not that of the activations.
    pub(crate) fn products(&self) -> Option<FloatDType> {
        self.products
    }

    /// Keeps the weight in this type too: for weights that are not trained.
    pub(crate) fn keep_in(&mut self, products: FloatDType) {
        self.multiply_in(products);
        self.weight = Param::initialized(self.weight.id, self.weight.val().cast(products));
    }

    /// Makes the map one to zeros.
    pub(crate) fn silence(&mut self) {
        // Parameters of their own: what `initialized` makes of values is not trained.
        self.weight = Param::from_tensor(self.weight.val().zeros_like());
        self.bias = self.bias.as_ref().map(|bias| Param::from_tensor(bias.val().zeros_like()));
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
    /// Panics if the input's width is not `d_in`.
    #[must_use]
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, s, _] = x.dims();
        let [d_in, d_out] = self.dims();
        count_products(1, [b * s, d_in, d_out]);
        let weight = self.weight.val();
        // One large product: a batched one would multiply row by row on some backends.
        let x = x.reshape([b * s, d_in]);
        let y = match self.products {
            Some(products) => product_in(products, x, weight),
            None => x.matmul(weight),
        };
        let y = y.reshape([b, s, d_out]);
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
