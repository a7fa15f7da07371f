//! The token-embedding table, and the output head that may share it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::Linear;
use crate::weights::RawTensor;

/// A table of `[vocabulary, d]`. Token ids live on the host throughout this crate.
#[derive(Module, Debug)]
pub struct Embedding {
    table: Param<Tensor<2>>,
}

impl Embedding {
    /// A trainable table of shape `[vocabulary, d]`.
    #[must_use]
    pub fn new(table: Tensor<2>) -> Self {
        Self { table: Param::from_tensor(table) }
    }

    /// The table of a checkpoint, as `f32` on a device.
    #[must_use]
    pub(crate) fn from_stored(table: &RawTensor, device: &Device) -> Self {
        Self::new(Tensor::from_data(TensorData::new(table.to_f32(), table.shape().to_vec()), device))
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> Tensor<2> {
        self.table.val()
    }

    /// `[vocabulary, d]`.
    #[must_use]
    pub fn dims(&self) -> [usize; 2] {
        self.table.dims()
    }

    /// The rows of `ids`, `[ids.len(), d]`.
    ///
    /// # Panics
    ///
    /// Panics if an id is outside the vocabulary; tokenizers never make such an id.
    #[must_use]
    pub fn forward(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        let [vocabulary, _] = self.dims();
        assert!(ids.iter().all(|&id| (id as usize) < vocabulary), "token id outside the vocabulary");
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let n = ids.len();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [n]), device);
        self.table.val().select(0, ids)
    }

    /// An output head that shares this table: no second copy is made.
    #[must_use]
    pub fn tied_head(&self) -> Linear {
        // A transposed view; the storage is shared.
        Linear::new(self.table.val().transpose(), None)
    }
}
