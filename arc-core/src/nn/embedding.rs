//! The token-embedding table, dense or as stored, and the output head that may share it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::Linear;
use super::linear::shared;
use crate::host::{HostMatrix, PackedMatrix};

/// A table of `[vocabulary, d]`.
///
/// See [`Linear`] for what *packed* means. Token ids live on the host throughout this crate, so a
/// packed table is read row by row and only the rows asked for are ever touched: a vocabulary of
/// 262,144 costs no memory beyond the mapped file.
#[derive(Module, Debug)]
pub struct Embedding {
    table: Option<Param<Tensor<2>>>,
    #[module(skip)]
    packed: Option<PackedMatrix>,
}

impl Embedding {
    /// A trainable table of shape `[vocabulary, d]`.
    #[must_use]
    pub fn dense(table: Tensor<2>) -> Self {
        Self { table: Some(Param::from_tensor(table)), packed: None }
    }

    /// A table that stays as stored.
    #[must_use]
    pub fn packed(matrix: PackedMatrix) -> Self {
        Self { table: None, packed: Some(matrix) }
    }

    /// The dense table, unless it is packed.
    #[must_use]
    pub fn table(&self) -> Option<Tensor<2>> {
        self.table.as_ref().map(Param::val)
    }

    /// Moves a dense table on the CPU device into memory that the tensor and the result share,
    /// `[vocabulary, d]`; `None` if it is packed.
    pub(crate) fn share_with_host(&mut self) -> Option<HostMatrix> {
        let table = self.table.take()?.into_value();
        let device = table.device();
        let data = shared(table.into_data());
        self.table = Some(Param::from_tensor(Tensor::from_data(data.clone(), &device)));
        Some(HostMatrix::new(data))
    }

    /// `[vocabulary, d]`.
    #[must_use]
    pub fn dims(&self) -> [usize; 2] {
        match (&self.table, &self.packed) {
            (Some(table), _) => table.dims(),
            (None, Some(matrix)) => [matrix.rows(), matrix.cols()],
            (None, None) => unreachable!("both constructors set one of the two"),
        }
    }

    /// The rows of `ids`, `[ids.len(), d]`.
    ///
    /// # Panics
    ///
    /// Panics if an id is outside the vocabulary; tokenizers never make such an id.
    #[must_use]
    pub fn forward(&self, ids: &[u32], device: &Device) -> Tensor<2> {
        let [vocabulary, d] = self.dims();
        assert!(ids.iter().all(|&id| (id as usize) < vocabulary), "token id outside the vocabulary");
        match (&self.table, &self.packed) {
            (Some(table), _) => {
                let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
                let n = ids.len();
                let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [n]), device);
                table.val().select(0, ids)
            }
            (None, Some(matrix)) => {
                let mut rows = vec![0.0f32; ids.len() * d];
                for (row, &id) in rows.chunks_exact_mut(d).zip(ids) {
                    matrix.row(id as usize, row);
                }
                Tensor::from_data(TensorData::new(rows, [ids.len(), d]), device)
            }
            (None, None) => unreachable!("both constructors set one of the two"),
        }
    }

    /// An output head that shares this table: no second copy is made.
    #[must_use]
    pub fn tied_head(&self) -> Linear {
        match (&self.table, &self.packed) {
            // A transposed view; the storage is shared.
            (Some(table), _) => Linear::dense(table.val().transpose(), None),
            (None, Some(matrix)) => Linear::packed(matrix.clone(), None),
            (None, None) => unreachable!("both constructors set one of the two"),
        }
    }
}
