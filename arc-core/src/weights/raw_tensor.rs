//! One tensor as its file stores it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{MappedBytes, StorageType};
use crate::{Error, Result};

/// A named view of a tensor's stored bytes. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct RawTensor {
    name: String,
    dtype: StorageType,
    shape: Vec<usize>,
    bytes: MappedBytes,
    path: PathBuf,
}

impl RawTensor {
    /// A tensor of `bytes`; `path` is only named in errors.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] if `bytes` is not what `shape` takes in `dtype`, or if the innermost
    /// dimension is not a whole number of the type's blocks.
    pub fn new(
        name: impl Into<String>,
        dtype: StorageType,
        shape: Vec<usize>,
        bytes: MappedBytes,
        path: impl Into<PathBuf>,
    ) -> Result<Self> {
        let (name, path) = (name.into(), path.into());
        let expected = dtype.bytes_of_shape(&shape);
        if expected != Some(bytes.len()) {
            let reason = match expected {
                Some(expected) => format!(
                    "tensor `{name}` of {dtype} {shape:?} takes {expected} bytes, found {}",
                    bytes.len()
                ),
                None => format!(
                    "tensor `{name}` of shape {shape:?} cannot be stored as {dtype}, \
                     whose blocks are of {}",
                    dtype.block_len()
                ),
            };
            return Err(Error::InvalidFile { path, format: "tensor", reason });
        }
        Ok(Self { name, dtype, shape, bytes, path })
    }

    /// A tensor of values in memory, stored as F32.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] if `values` is not as long as `shape` asks for.
    pub fn from_f32(name: impl Into<String>, shape: Vec<usize>, values: &[f32]) -> Result<Self> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::new(name, StorageType::F32, shape, bytes.into(), "(memory)")
    }

    /// The same bytes under another name and in another shape of as many values.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn relabelled(&self, name: impl Into<String>, shape: Vec<usize>) -> Result<Self> {
        Self::new(name, self.dtype, shape, self.bytes.clone(), self.path.clone())
    }

    /// The name in the checkpoint.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the values are stored.
    #[must_use]
    pub fn dtype(&self) -> StorageType {
        self.dtype
    }

    /// The shape, outermost dimension first.
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The stored bytes, blocks in row-major order.
    #[must_use]
    pub fn bytes(&self) -> &MappedBytes {
        &self.bytes
    }

    /// The file it comes from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        // Cannot overflow: `new` has checked it.
        self.shape.iter().product()
    }

    /// Whether it holds no values.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values as f32, row-major: for the quantised types, exactly those of ggml.
    #[must_use]
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.len()];
        self.dtype.dequantise(&self.bytes, &mut values);
        values
    }

    /// Rows of a matrix as they are stored, without copying them.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] for rows that are not there, or a tensor that is no matrix.
    pub(crate) fn rows(&self, rows: Range<usize>) -> Result<Self> {
        let part = match self.shape[..] {
            [n, d] if rows.start <= rows.end && rows.end <= n => {
                let row = self.dtype.bytes_of_shape(&[1, d]).unwrap_or_default();
                self.bytes.slice(rows.start * row..rows.end * row).map(|bytes| (d, bytes))
            }
            _ => None,
        };
        let Some((d, bytes)) = part else {
            let reason = format!("tensor `{}` of shape {:?} has no rows {rows:?}", self.name, self.shape);
            return Err(Error::InvalidFile { path: self.path.clone(), format: "tensor", reason });
        };
        Self::new(self.name.clone(), self.dtype, vec![rows.len(), d], bytes, self.path.clone())
    }

    /// The sha256 of the stored bytes, in hexadecimal. A mapped file's memory is given back behind it: a table
    /// that is laid out elsewhere is read for nothing else.
    #[must_use]
    pub fn sha256(&self) -> String {
        const AT_ONCE: usize = 4 << 20;
        let mut hasher = Sha256::new();
        let mut read = 0;
        for piece in self.bytes.chunks(AT_ONCE) {
            hasher.update(piece);
            read += piece.len();
            self.bytes.give_back(0..read);
        }
        arc_adapters::hexadecimal(&hasher.finalize())
    }

    /// Refuses another shape than `expected` (outermost dimension first).
    ///
    /// # Errors
    /// [`Error::TensorShape`].
    pub fn expect_shape(&self, expected: &[usize]) -> Result<()> {
        if self.shape == expected {
            return Ok(());
        }
        Err(Error::TensorShape {
            path: self.path.clone(),
            tensor: self.name.clone(),
            expected: expected.to_vec(),
            found: self.shape.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_of_the_stored_bytes() {
        // The sha256 of "abcd", which is one F32.
        let tensor = RawTensor::new("t", StorageType::F32, vec![1], b"abcd".to_vec().into(), "x").unwrap();
        assert_eq!(tensor.sha256(), "88d4266fd4e6338d13b845fcf289579d209c897823b9217da3e161936f031589");
    }

    #[test]
    fn bytes_that_are_not_what_the_shape_takes_are_refused() {
        let new = |dtype, shape: &[usize], len| {
            RawTensor::new("t", dtype, shape.to_vec(), vec![0; len].into(), "x")
        };
        assert!(new(StorageType::Q8_0, &[2, 32], 68).is_ok());
        for (dtype, shape, len) in [
            (StorageType::Q8_0, &[2, 32][..], 67),
            (StorageType::Q8_0, &[2, 33], 68),
            (StorageType::F32, &[usize::MAX, usize::MAX], 4),
        ] {
            let error = new(dtype, shape, len).unwrap_err().to_string();
            assert!(error.contains("tensor `t` of"), "{error}");
        }
    }
}
