//! Adapter packages: a folder with `adapter.json` and the weights that it names.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};

use crate::digest::sha256_hex;
use crate::files::{read_bytes, sync_folder};
use crate::manifest::{MANIFEST_FILE, WEIGHTS_FILE};
use crate::staging::Staging;
use crate::{AdapterManifest, Error, Result};

const WHAT: &str = "safetensors file";

/// An adapter that was read and verified: its hashes, shapes and values are what the manifest
/// says.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Adapter {
    /// What it is made for and what it computes.
    pub manifest: AdapterManifest,
    /// The weights, held in memory: they are the very bytes that were hashed.
    pub weights: AdapterWeights,
    /// The folder or plugin file that it was read from.
    pub origin: PathBuf,
    /// SHA-256 of the manifest as it was read. It stands for the whole adapter: the hash of the
    /// weights is in there.
    pub manifest_sha256: String,
    host: Option<Arc<dyn HostProjector>>,
}

/// A projector that runs on host memory, in foreign code.
pub trait HostProjector: fmt::Debug + Send + Sync {
    /// Projects `n` rows of width `d_in` to `n` rows of width `d_out`.
    ///
    /// # Errors
    /// Whatever the foreign code reported, or did wrong and was caught doing.
    fn project(&self, x: &[f32], n: usize) -> Result<Vec<f32>>;
}

impl Adapter {
    /// Reads a package folder and verifies it.
    ///
    /// # Errors
    /// [`Error::Io`] when a file cannot be read; [`Error::Invalid`] or
    /// [`Error::UnsupportedSchema`] for the manifest; [`Error::NotImported`] when the weights are
    /// published elsewhere and not here; [`Error::Sha256Mismatch`] when the weights
    /// are not the ones that the manifest names; the tensor errors when they do not fit it.
    pub fn open(folder: &Path) -> Result<Self> {
        let (manifest, manifest_sha256) = AdapterManifest::open_with_sha256(folder)?;
        if manifest.projector.is_custom() {
            return Err(Error::Invalid {
                path: folder.join(MANIFEST_FILE),
                what: "adapter manifest",
                reason: "a `custom` projector is code, a data package has none".to_owned(),
            });
        }
        if manifest.weights.sha256.is_empty() {
            return Err(Error::NotImported { adapter: manifest.name, encoder: manifest.encoder.name });
        }
        let weights_path = folder.join(&manifest.weights.file);
        let bytes = read_bytes(&weights_path, "weights file", manifest.largest_weights())?;
        Self::from_parts((manifest, manifest_sha256), bytes, &weights_path, folder.to_owned(), None)
    }

    /// Verifies the weights against the manifest, wherever both come from.
    pub(crate) fn from_parts(
        (manifest, manifest_sha256): (AdapterManifest, String),
        weights: Vec<u8>,
        weights_path: &Path,
        origin: PathBuf,
        host: Option<Arc<dyn HostProjector>>,
    ) -> Result<Self> {
        let found = sha256_hex(&weights);
        if found != manifest.weights.sha256 {
            return Err(Error::Sha256Mismatch {
                path: weights_path.to_owned(),
                expected: manifest.weights.sha256,
                found,
            });
        }
        let weights = AdapterWeights::parse(weights, weights_path)?;
        weights.check(&manifest)?;
        Ok(Self { manifest, weights, origin, manifest_sha256, host })
    }

    /// The plugin's own projector, for a `custom` projector or to compare with the built-in one.
    #[must_use]
    pub fn host_projector(&self) -> Option<&Arc<dyn HostProjector>> {
        self.host.as_ref()
    }

    /// Whether the host can build the projector itself, and so train it.
    #[must_use]
    pub fn is_trainable(&self) -> bool {
        !self.manifest.projector.is_custom()
    }
}

/// The named tensors of an adapter.
#[derive(Clone)]
pub struct AdapterWeights {
    path: PathBuf,
    bytes: Arc<[u8]>,
    tensors: BTreeMap<String, StoredTensor>,
}

#[derive(Debug, Clone)]
struct StoredTensor {
    dtype: WeightType,
    shape: Vec<usize>,
    /// Within the bytes of the file.
    range: std::ops::Range<usize>,
}

/// The number formats that adapter weights are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of a binary32.
    Bf16,
}

/// A tensor as float32.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorF32 {
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The values in row-major order.
    pub values: Vec<f32>,
}

impl AdapterWeights {
    /// Reads a safetensors file that is in memory; `path` is the file named in errors.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not a safetensors file, [`Error::TensorDtype`] when a tensor
    /// is not float32, float16 or bfloat16.
    pub fn parse(bytes: Vec<u8>, path: &Path) -> Result<Self> {
        let invalid =
            |e: SafeTensorError| Error::Invalid { path: path.to_owned(), what: WHAT, reason: e.to_string() };
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(invalid)?;
        // Deserializing checks that the offsets tile the file exactly.
        SafeTensors::deserialize(&bytes).map_err(invalid)?;
        let mut tensors = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            let dtype = match info.dtype {
                Dtype::F32 => WeightType::F32,
                Dtype::F16 => WeightType::F16,
                Dtype::BF16 => WeightType::Bf16,
                other => {
                    return Err(Error::TensorDtype {
                        path: path.to_owned(),
                        tensor: name,
                        found: format!("{other:?}"),
                    });
                }
            };
            // The header is preceded by its own length, 8 bytes.
            let data = header.saturating_add(8);
            let range = data.saturating_add(info.data_offsets.0)..data.saturating_add(info.data_offsets.1);
            tensors.insert(name, StoredTensor { dtype, shape: info.shape.clone(), range });
        }
        Ok(Self { path: path.to_owned(), bytes: bytes.into(), tensors })
    }

    /// Checks that these are exactly the tensors that the manifest asks for, and finite.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::UnexpectedTensor`], [`Error::TensorShape`] or
    /// [`Error::NotFinite`].
    pub fn check(&self, manifest: &AdapterManifest) -> Result<()> {
        let (required, optional) = (manifest.required_tensors(), manifest.optional_tensors());
        if let Some(slot) = required.iter().find(|slot| !self.tensors.contains_key(&slot.name)) {
            return Err(Error::MissingTensor { path: self.path.clone(), tensor: slot.name.clone() });
        }
        for (name, tensor) in &self.tensors {
            let Some(slot) = required.iter().chain(&optional).find(|slot| slot.name == *name) else {
                return Err(Error::UnexpectedTensor { path: self.path.clone(), tensor: name.clone() });
            };
            if slot.shape != tensor.shape {
                return Err(Error::TensorShape {
                    path: self.path.clone(),
                    tensor: name.clone(),
                    expected: slot.shape.clone(),
                    found: tensor.shape.clone(),
                });
            }
            let not_finite = self.stored_values(tensor).enumerate().find(|(_, v)| !v.is_finite());
            if let Some((index, value)) = not_finite {
                return Err(Error::NotFinite { path: self.path.clone(), tensor: name.clone(), value, index });
            }
        }
        Ok(())
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor, outermost dimension first.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// The number format that a tensor is stored in.
    #[must_use]
    pub fn dtype(&self, name: &str) -> Option<WeightType> {
        self.tensors.get(name).map(|t| t.dtype)
    }

    /// A tensor converted to float32.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<TensorF32> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::MissingTensor { path: self.path.clone(), tensor: name.to_owned() })?;
        Ok(TensorF32 { shape: tensor.shape.clone(), values: self.stored_values(tensor).collect() })
    }

    /// The safetensors file as it was read.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn stored_values(&self, tensor: &StoredTensor) -> impl Iterator<Item = f32> {
        let bytes = self.bytes.get(tensor.range.clone()).unwrap_or_default();
        let dtype = tensor.dtype;
        bytes.chunks_exact(dtype.size()).map(move |value| match (dtype, value) {
            (WeightType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
            (WeightType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
            (WeightType::Bf16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
            // Chunks have the size of the type.
            _ => f32::NAN,
        })
    }
}

impl fmt::Debug for AdapterWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdapterWeights")
            .field("path", &self.path)
            .field("tensors", &self.tensors)
            .finish_non_exhaustive()
    }
}

impl WeightType {
    /// Bytes in a value.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterTensor {
    name: String,
    dtype: WeightType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl AdapterTensor {
    /// A tensor of `shape` (outermost dimension first) with `values` in row-major order, rounded
    /// to `dtype`.
    #[must_use]
    pub fn new(name: &str, shape: &[usize], values: &[f32], dtype: WeightType) -> Self {
        let bytes = match dtype {
            WeightType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            WeightType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            WeightType::Bf16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        };
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
    }
}

/// Writes adapter packages.
#[derive(Debug)]
pub struct AdapterPackage;

impl AdapterPackage {
    /// Writes `adapter.json` and the weights into `folder`, and returns the manifest as written:
    /// with the SHA-256 of the weights.
    ///
    /// A new package appears as a whole or not at all. In a folder that is there already each of
    /// the two files is replaced as a whole, the weights first; a crash between the two leaves a
    /// package that [`Adapter::open`] refuses by its hash. Other files in it are left alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the manifest contradicts itself, the tensor errors when the tensors
    /// do not fit it, [`Error::Io`] when something cannot be written.
    pub fn write(
        folder: &Path,
        manifest: &AdapterManifest,
        tensors: &[AdapterTensor],
    ) -> Result<AdapterManifest> {
        let manifest_path = folder.join(MANIFEST_FILE);
        let mut manifest = manifest.clone();
        let bytes = serialize(tensors, &folder.join(WEIGHTS_FILE))?;
        manifest.weights.sha256 = sha256_hex(&bytes);
        // The name is checked before a path is made of it.
        let json = manifest.to_json(&manifest_path)?;
        let weights_path = folder.join(&manifest.weights.file);
        let weights = AdapterWeights::parse(bytes, &weights_path)?;
        weights.check(&manifest)?;

        if folder.exists() {
            crate::atomic_file::replace(&weights_path, |file| file.write_all(weights.as_bytes()))?;
            crate::atomic_file::replace(&manifest_path, |file| file.write_all(json.as_bytes()))?;
            sync_folder(folder)?;
            return Ok(manifest);
        }
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let staging = Staging::within(parent)?;
        let inside = staging.new_folder();
        crate::atomic_file::replace(&inside.join(&manifest.weights.file), |f| {
            f.write_all(weights.as_bytes())
        })?;
        crate::atomic_file::replace(&inside.join(MANIFEST_FILE), |f| f.write_all(json.as_bytes()))?;
        staging.publish(folder)?;
        Ok(manifest)
    }
}

fn serialize(tensors: &[AdapterTensor], path: &Path) -> Result<Vec<u8>> {
    let invalid = |reason: String| Error::Invalid { path: path.to_owned(), what: WHAT, reason };
    let mut views = BTreeMap::new();
    for tensor in tensors {
        let dtype = match tensor.dtype {
            WeightType::F32 => Dtype::F32,
            WeightType::F16 => Dtype::F16,
            WeightType::Bf16 => Dtype::BF16,
        };
        let view = TensorView::new(dtype, tensor.shape.clone(), &tensor.bytes)
            .map_err(|e| invalid(format!("tensor `{}`: {e}", tensor.name)))?;
        if views.insert(tensor.name.as_str(), view).is_some() {
            return Err(invalid(format!("tensor `{}` is given twice", tensor.name)));
        }
    }
    safetensors::serialize(views, None).map_err(|e| invalid(e.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::manifest::tests::example;

    /// The tensors of [`example`]: values count up from 0 in steps of 1/8.
    pub(crate) fn tensors(dtype: WeightType) -> Vec<AdapterTensor> {
        let ramp = |n: u16| (0..n).map(|i| f32::from(i) / 8.0).collect::<Vec<_>>();
        vec![
            AdapterTensor::new("projector.0.weight", &[2, 4], &ramp(8), dtype),
            AdapterTensor::new("projector.1.weight", &[6, 2], &ramp(12), dtype),
            AdapterTensor::new("tokens.cont", &[4], &ramp(4), dtype),
            AdapterTensor::new("tokens.rec", &[4], &ramp(4), dtype),
        ]
    }

    #[test]
    fn a_package_is_read_back_as_it_was_written_in_each_format() {
        let root = tempfile::tempdir().unwrap();
        for dtype in [WeightType::F32, WeightType::F16, WeightType::Bf16] {
            let folder = root.path().join(format!("{dtype:?}"));
            let written = AdapterPackage::write(&folder, &example(), &tensors(dtype)).unwrap();
            let adapter = Adapter::open(&folder).unwrap();
            assert_eq!(adapter.manifest, written);
            let weight = adapter.weights.tensor("projector.1.weight").unwrap();
            assert_eq!(weight.shape, [6, 2]);
            assert_eq!(weight.values[11], 11.0 / 8.0);
            assert_eq!(adapter.weights.dtype("tokens.rec"), Some(dtype));
            // Another reader of the format agrees.
            let bytes = std::fs::read(folder.join(WEIGHTS_FILE)).unwrap();
            assert_eq!(SafeTensors::deserialize(&bytes).unwrap().len(), 4);
        }
        let names: Vec<_> = std::fs::read_dir(root.path()).unwrap().collect();
        assert_eq!(names.len(), 3, "temporary folders are left: {names:?}");
    }

    #[test]
    fn rewriting_a_package_keeps_other_files() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("p");
        AdapterPackage::write(&folder, &example(), &tensors(WeightType::F16)).unwrap();
        std::fs::write(folder.join("README.md"), "mine").unwrap();
        AdapterPackage::write(&folder, &example(), &tensors(WeightType::F32)).unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("README.md")).unwrap(), "mine");
        assert_eq!(Adapter::open(&folder).unwrap().weights.dtype("tokens.cont"), Some(WeightType::F32));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
    }

    #[test]
    fn changed_weights_are_refused_by_their_hash() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("p");
        AdapterPackage::write(&folder, &example(), &tensors(WeightType::F32)).unwrap();
        let path = folder.join(WEIGHTS_FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Adapter::open(&folder), Err(Error::Sha256Mismatch { path: p, .. }) if p == path));
    }

    #[test]
    fn an_adapter_that_is_only_described_can_be_read_about_and_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let mut manifest = example();
        manifest.weights.sha256.clear();
        manifest.decoder.tokenizer_sha256.clear();
        let json = manifest.to_json(Path::new("x")).unwrap();
        std::fs::write(root.path().join(MANIFEST_FILE), json).unwrap();
        let error = Adapter::open(root.path()).unwrap_err();
        assert!(matches!(error, Error::NotImported { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "the weights of adapter `tiny` are not here: they belong to encoder `start`, which was not imported"
        );
        assert!(error.hint() == Some(crate::Hint::Import { encoder: "start".to_owned() }));
        let read = AdapterManifest::open(root.path()).unwrap();
        assert_eq!(read, manifest);
        assert_eq!(read.unpinned(), [crate::Pin::Tokenizer]);
        assert_eq!(example().unpinned(), []);
    }

    #[test]
    fn tensors_that_do_not_fit_the_manifest_are_not_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("p");
        let write = |change: &dyn Fn(&mut Vec<AdapterTensor>)| {
            let mut tensors = tensors(WeightType::F32);
            change(&mut tensors);
            AdapterPackage::write(&folder, &example(), &tensors).unwrap_err()
        };
        let new = |name, shape: &[usize], v: &[f32]| AdapterTensor::new(name, shape, v, WeightType::F32);
        let error = write(&|t| drop(t.remove(1)));
        assert!(matches!(error, Error::MissingTensor { tensor, .. } if tensor == "projector.1.weight"));
        let error = write(&|t| t.push(new("projector.9.weight", &[1], &[0.0])));
        assert!(matches!(error, Error::UnexpectedTensor { .. }));
        let error = write(&|t| t[0] = new("projector.0.weight", &[4, 2], &[0.0; 8]));
        assert!(matches!(error, Error::TensorShape { found, .. } if found == [4, 2]));
        let error = write(&|t| t[2] = new("tokens.cont", &[4], &[0.0, f32::NAN, 0.0, 0.0]));
        assert!(matches!(error, Error::NotFinite { index: 1, .. }));
        let error = write(&|t| t[2] = new("tokens.cont", &[4], &[0.0; 3]));
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(!folder.exists());
    }

    #[test]
    fn integer_weights_are_refused() {
        let view = TensorView::new(Dtype::I8, vec![1], &[0]).unwrap();
        let bytes = safetensors::serialize([("x", view)], None).unwrap();
        let error = AdapterWeights::parse(bytes, Path::new("w")).unwrap_err();
        assert!(matches!(error, Error::TensorDtype { found, .. } if found == "I8"));
    }

    #[test]
    fn a_cut_off_file_is_refused_at_every_length() {
        let bytes = serialize(&tensors(WeightType::F16), Path::new("w")).unwrap();
        for n in 0..bytes.len() {
            assert!(AdapterWeights::parse(bytes[..n].to_vec(), Path::new("w")).is_err(), "{n} bytes");
        }
        assert!(AdapterWeights::parse(bytes, Path::new("w")).is_ok());
    }
}
