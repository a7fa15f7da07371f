//! What every checkpoint file or folder offers: tensors by name.

use std::{collections::HashSet, path::Path};

use super::RawTensor;
use crate::{Error, Result};

/// Names less similar than this (Jaro-Winkler, 0 to 1) are not worth suggesting.
const WORTH_SUGGESTING: f64 = 0.7;

/// Tensors of old checkpoints that are no weights: rotary frequencies, which the configuration gives.
const ROTARY_TABLES: [&str; 2] = ["rotary_emb.inv_freq", "rope.freqs"];

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
    /// [`Error::UnusedTensors`] naming the first few of them.
    fn expect_all_read(&self, read: &HashSet<String>) -> Result<()> {
        const NAMED: usize = 4;
        let is_table = |name: &str| ROTARY_TABLES.iter().any(|table| name.ends_with(table));
        let mut unread = self.names();
        unread.retain(|name| !read.contains(*name) && !is_table(name));
        if unread.is_empty() {
            return Ok(());
        }
        let named: Vec<_> = unread.iter().take(NAMED).map(|name| format!("`{name}`")).collect();
        let rest = unread.len().saturating_sub(NAMED);
        let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
        Err(Error::UnusedTensors {
            path: self.path().to_owned(),
            named: format!("{}{more}", named.join(", ")),
        })
    }
}
