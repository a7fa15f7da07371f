//! What every checkpoint file or folder offers: tensors by name.

use std::{collections::HashSet, path::Path};

use super::RawTensor;
use crate::{Error, Result};

/// Names less similar than this (Jaro-Winkler, 0 to 1) are not worth suggesting.
const WORTH_SUGGESTING: f64 = 0.7;

/// A checkpoint that finds tensors by name.
pub trait TensorSource: Send + Sync {
    /// The tensor of that name, as it is stored; no bytes are copied.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] with the nearest name; [`Error::UnsupportedQuantisation`] if it is
    /// stored in a type that cannot be read.
    fn tensor(&self, name: &str) -> Result<RawTensor>;

    /// Whether there is a tensor of that name.
    fn has(&self, name: &str) -> bool;

    /// The names of all tensors, sorted.
    fn names(&self) -> Vec<&str>;

    /// The checkpoint's file or folder.
    fn path(&self) -> &Path;

    /// The tensor of that name, whose shape must be `shape` (outermost dimension first).
    ///
    /// # Errors
    /// As [`Self::tensor`], and [`Error::TensorShape`].
    fn tensor_of_shape(&self, name: &str, shape: &[usize]) -> Result<RawTensor> {
        let tensor = self.tensor(name)?;
        tensor.expect_shape(shape)?;
        Ok(tensor)
    }

    /// The error for a tensor that is not there.
    fn missing(&self, name: &str) -> Error {
        let nearest_name = self
            .names()
            .into_iter()
            .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
            .filter(|(similarity, _)| *similarity >= WORTH_SUGGESTING)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, candidate)| candidate.to_owned());
        Error::MissingTensor { path: self.path().to_owned(), tensor: name.to_owned(), nearest_name }
    }

    /// Refuses a checkpoint that holds tensors which the model did not read.
    ///
    /// A tensor that is left over is a bias or a norm that the model ignores, or another model.
    ///
    /// # Errors
    /// [`Error::InvalidFile`] naming the first few of them.
    fn expect_all_read(&self, read: &HashSet<String>) -> Result<()> {
        const NAMED: usize = 4;
        let unread: Vec<_> = self.names().into_iter().filter(|name| !read.contains(*name)).collect();
        if unread.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = unread.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
        let rest = unread.len().saturating_sub(NAMED);
        let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
        Err(Error::InvalidFile {
            path: self.path().to_owned(),
            format: "checkpoint",
            reason: format!("the model does not use its tensors {}{more}", named.join(", ")),
        })
    }
}
