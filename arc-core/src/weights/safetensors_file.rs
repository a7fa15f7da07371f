//! One safetensors file, mapped.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};

use super::eight_bit_blocks::{SCALES_SUFFIX, join};
use super::{MappedBytes, RawTensor, StorageType, TensorSource};
use crate::{Error, Result};

/// The length of the header, before the header.
const PREFIX_BYTES: usize = 8;

/// A safetensors file, mapped.
#[derive(Clone, Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, MappedTensor>,
    bytes: MappedBytes,
}

#[derive(Clone, Debug)]
struct MappedTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    /// In the whole file.
    range: Range<usize>,
}

impl SafetensorsFile {
    /// Maps a file and reads its header; no tensor data is touched.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::InvalidFile`] if it is cut off or corrupt.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(MappedBytes::map_file(path)?, path)
    }

    fn parse(bytes: MappedBytes, path: &Path) -> Result<Self> {
        let invalid = |reason| Error::InvalidFile { path: path.to_owned(), format: "safetensors", reason };
        let (header_len, header) =
            SafeTensors::read_metadata(&bytes).map_err(|error| invalid(error.to_string()))?;
        let data =
            PREFIX_BYTES.checked_add(header_len).ok_or_else(|| invalid("its header overflows".into()))?;
        let mut tensors = BTreeMap::new();
        for (name, info) in header.tensors() {
            let (start, end) = info.data_offsets;
            let range = data
                .checked_add(start)
                .zip(data.checked_add(end))
                .map(|(start, end)| start..end)
                .filter(|range| range.start <= range.end && range.end <= bytes.len())
                .ok_or_else(|| invalid(format!("tensor `{name}` reaches beyond the end of the file")))?;
            let info = MappedTensor { dtype: info.dtype, shape: info.shape.clone(), range };
            tensors.insert(name, info);
        }
        let metadata = header.metadata().iter().flatten();
        let metadata = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { path: path.to_owned(), metadata, tensors, bytes })
    }

    /// The text of that key in the file's `__metadata__`.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    fn bytes_of(&self, name: &str, info: &MappedTensor) -> Result<MappedBytes> {
        self.bytes.slice(info.range.clone()).ok_or_else(|| Error::InvalidFile {
            path: self.path.clone(),
            format: "safetensors",
            reason: format!("tensor `{name}` reaches beyond the end of the file"),
        })
    }

    /// The scales of a matrix in 8 bits, if it has some.
    fn scales_of(&self, name: &str) -> Option<(String, &MappedTensor)> {
        let scales = format!("{name}{SCALES_SUFFIX}");
        let info = self.tensors.get(&scales).filter(|info| info.dtype == Dtype::F16)?;
        Some((scales, info))
    }

    /// Whether a tensor is the scales of another: it is no tensor of its own then.
    fn is_scales(&self, name: &str) -> bool {
        let matrix = name.strip_suffix(SCALES_SUFFIX).and_then(|matrix| {
            self.tensors.get(matrix).filter(|info| info.dtype == Dtype::I8)?;
            self.scales_of(matrix)
        });
        matrix.is_some()
    }

    fn eight_bit_tensor(&self, name: &str, info: &MappedTensor) -> Result<RawTensor> {
        let (scales_name, scales) = self.scales_of(name).ok_or_else(|| self.missing(name))?;
        let (integers, scale_bytes) = (self.bytes_of(name, info)?, self.bytes_of(&scales_name, scales)?);
        join(name, (&info.shape, &integers), (&scales.shape, &scale_bytes), &self.path)
    }
}

impl TensorSource for SafetensorsFile {
    fn tensor(&self, name: &str) -> Result<RawTensor> {
        let info = self.tensors.get(name).ok_or_else(|| self.missing(name))?;
        let dtype = match info.dtype {
            Dtype::F32 => StorageType::F32,
            Dtype::F16 => StorageType::F16,
            Dtype::BF16 => StorageType::BF16,
            Dtype::I8 if self.scales_of(name).is_some() => return self.eight_bit_tensor(name, info),
            other => {
                return Err(Error::UnsupportedQuantisation {
                    path: self.path.clone(),
                    tensor: name.to_owned(),
                    found: other.to_string(),
                });
            }
        };
        RawTensor::new(name, dtype, info.shape.clone(), self.bytes_of(name, info)?, &self.path)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name) && !self.is_scales(name)
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).filter(|name| !self.is_scales(name)).collect()
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    /// A file with `layer.weight` F32 [2, 3] and `layer.ids` I64 [1].
    fn file() -> Vec<u8> {
        let values: Vec<u8> = (0_u8..6).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let tensors = [
            ("layer.weight", TensorView::new(Dtype::F32, vec![2, 3], &values).unwrap()),
            ("layer.ids", TensorView::new(Dtype::I64, vec![1], &[0; 8]).unwrap()),
        ];
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize(tensors, Some(metadata)).unwrap()
    }

    fn parse(bytes: Vec<u8>) -> Result<SafetensorsFile> {
        SafetensorsFile::parse(bytes.into(), Path::new("x.safetensors"))
    }

    #[test]
    fn tensors_are_read_as_they_were_written() {
        let file = parse(file()).unwrap();
        assert_eq!(file.names(), ["layer.ids", "layer.weight"]);
        assert_eq!(file.meta("format"), Some("pt"));
        let weight = file.tensor("layer.weight").unwrap();
        assert_eq!((weight.dtype(), weight.shape()), (StorageType::F32, &[2, 3][..]));
        assert_eq!(weight.to_f32(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(&**file.tensor_of_shape("layer.weight", &[2, 3]).unwrap().bytes(), &**weight.bytes());
    }

    #[test]
    fn a_missing_tensor_names_the_nearest_and_a_wrong_shape_both() {
        let file = parse(file()).unwrap();
        let error = file.tensor("layers.weight").unwrap_err().to_string();
        assert!(error.contains("no tensor `layers.weight`, the nearest is `layer.weight`"), "{error}");
        let error = file.tensor("ωωω").unwrap_err().to_string();
        assert!(error.ends_with("has no tensor `ωωω`"), "{error}");
        let error = file.tensor_of_shape("layer.weight", &[3, 2]).unwrap_err().to_string();
        assert!(error.contains("has shape [2, 3], expected [3, 2]"), "{error}");
    }

    #[test]
    fn a_type_that_is_not_of_weights_is_named_when_its_tensor_is_read() {
        let error = parse(file()).unwrap().tensor("layer.ids").unwrap_err();
        assert!(matches!(&error, Error::UnsupportedQuantisation { found, .. } if found == "I64"), "{error}");
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let whole = file();
        for len in 0..whole.len() {
            let result = parse(whole[..len].to_vec());
            assert!(matches!(result, Err(Error::InvalidFile { .. })), "cut to {len} bytes");
        }
    }

    #[test]
    fn a_header_length_that_lies_is_refused() {
        for len in [0, 1, 1 << 20, 99_000_000, u64::MAX] {
            let mut bytes = file();
            bytes[..8].copy_from_slice(&len.to_le_bytes());
            assert!(matches!(parse(bytes), Err(Error::InvalidFile { .. })), "length {len}");
        }
    }

    #[test]
    fn no_corrupt_byte_makes_it_panic() {
        let whole = file();
        for at in 0..whole.len() {
            for value in [0, b'0', b'9', b'"', b'}', 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(file) = parse(bytes) {
                    for name in file.names() {
                        let _ = file.tensor(name).map(|tensor| tensor.to_f32());
                    }
                }
            }
        }
    }
}
