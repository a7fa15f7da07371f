//! Rows of numbers between tensors and numpy.

use arc_core::burn::tensor::Tensor;
use arc_core::{Error, Result};
use numpy::{PyArray1, PyArray2, PyArrayMethods as _};
use pyo3::prelude::*;

/// Rows on the host.
pub(crate) struct Rows {
    values: Vec<f32>,
    shape: [usize; 2],
}

impl Rows {
    /// The values of a tensor, moved where nothing else holds them.
    pub(crate) fn of(tensor: Tensor<2>) -> Result<Self> {
        let shape = tensor.dims();
        let values = tensor
            .into_data()
            .convert::<f32>()
            .try_into_vec()
            .map_err(|error| Error::DeviceData { what: "rows", reason: format!("{error:?}") })?;
        Ok(Self { values, shape })
    }

    /// The rows as an array that owns them: they are not copied.
    pub(crate) fn into_array(self, py: Python<'_>) -> PyResult<Bound<'_, PyArray2<f32>>> {
        PyArray1::from_vec(py, self.values).reshape(self.shape)
    }

    /// The same, and nobody may write to it.
    pub(crate) fn into_constant(self, py: Python<'_>) -> PyResult<Bound<'_, PyArray2<f32>>> {
        let array = self.into_array(py)?;
        array.readwrite().make_nonwriteable();
        Ok(array)
    }
}
