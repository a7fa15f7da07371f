//! Latents of batches, computed once and kept on disk: a frozen encoder gives the same ones in
//! every epoch.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView};

use crate::encoder::{ArcEncoder, EncodedBatch};
use crate::weights::{SafetensorsFile, TensorSource as _};
use crate::{Error, Result};
use arc_adapters::write_atomically;

/// A folder with a file for each batch.
#[derive(Clone, Debug)]
pub(super) struct LatentsCache {
    folder: PathBuf,
}

impl LatentsCache {
    /// The cache in a folder, which must be of one encoder, one text and one way to cut it.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, batch: u64) -> PathBuf {
        self.folder.join(format!("batch-{batch:06}.safetensors"))
    }

    /// Whether a batch is there.
    pub(super) fn has(&self, batch: u64) -> bool {
        self.path(batch).is_file()
    }

    /// Encodes the contexts of a batch and keeps the latents.
    pub(super) fn fill(
        &self,
        batch: u64,
        encoder: &ArcEncoder,
        contexts: &[Vec<u32>],
        device: &Device,
    ) -> Result<()> {
        let encoded = encoder.forward(contexts, device);
        let path = self.path(batch);
        let shape = encoded.states.dims().to_vec();
        let data = encoded.states.into_data().convert::<f32>();
        let invalid = |reason: String| Error::InvalidFile { path: path.clone(), format: "latents", reason };
        let values = data.as_slice::<f32>().map_err(|error| invalid(format!("{error:?}")))?;
        let latents = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(values))
            .map_err(|error| invalid(error.to_string()))?;
        let lengths = serde_json::json!(encoded.lengths).to_string();
        let metadata = [("lengths".to_owned(), lengths)].into_iter().collect();
        let bytes = safetensors::serialize([("latents", latents)], Some(metadata))
            .map_err(|error| invalid(error.to_string()))?;
        write_atomically(&path, |file| file.write_all(&bytes).map_err(Error::io("write", &path)))
    }

    /// The latents of a batch.
    pub(super) fn read(&self, batch: u64, device: &Device) -> Result<EncodedBatch> {
        let path = self.path(batch);
        let invalid = |reason: &str| Error::InvalidFile {
            path: path.clone(),
            format: "latents",
            reason: reason.to_owned(),
        };
        let file = SafetensorsFile::open(&path)?;
        let latents = file.tensor("latents")?;
        let &[b, n, d] = latents.shape() else { return Err(invalid("`latents` is not of three dimensions")) };
        let lengths =
            file.meta("lengths").and_then(|lengths| serde_json::from_str::<Vec<usize>>(lengths).ok());
        let lengths =
            lengths.filter(|lengths| lengths.len() == b && lengths.iter().all(|&length| length <= n));
        Ok(EncodedBatch {
            states: Tensor::from_data(TensorData::new(latents.to_f32(), [b, n, d]), device),
            lengths: lengths.ok_or_else(|| invalid("its `lengths` do not fit"))?,
        })
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}
