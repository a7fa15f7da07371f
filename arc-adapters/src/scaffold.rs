//! `arc adapters new`: an untrained package, or the crate of a code plugin, that verifies as it is.

use std::path::Path;

use crate::atomic_file::replace;
use crate::manifest::check_new_name;
use crate::setters;
use crate::{
    AdapterManifest, AdapterPackage, AdapterTensor, DEFAULT_PROMPT, DecoderPin, EncoderPin, Error,
    MANIFEST_FILE, ProjectorSpec, Result, WEIGHTS_FILE, WeightType, WeightsFile,
};

/// What a new adapter is for.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Scaffold {
    /// Its name.
    pub name: String,
    /// The decoder, with the hashes of its embedding table and tokenizer.
    pub decoder: DecoderPin,
    /// Width of the decoder's token embeddings.
    pub d_decoder: usize,
    /// The encoder.
    pub encoder: EncoderPin,
    /// Width of the latents.
    pub d_encoder: usize,
    /// Width between the two linear layers.
    pub d_hidden: usize,
    /// The poolings that it is to be trained for.
    pub pooling_factors: Vec<u32>,
    /// The prompt as Jinja source; [`DEFAULT_PROMPT`] is one.
    pub prompt_template: String,
}

setters!(Scaffold {
    d_hidden: usize,
    pooling_factors: Vec<u32>,
    prompt_template: String,
});

impl Scaffold {
    /// An adapter between an encoder and a decoder, each with its width; the usual prompt, as wide between
    /// its layers as the decoder, for no pooling in particular.
    #[must_use]
    pub fn new(
        name: impl Into<String>,
        (decoder, d_decoder): (DecoderPin, usize),
        (encoder, d_encoder): (EncoderPin, usize),
    ) -> Self {
        Self {
            name: name.into(),
            decoder,
            d_decoder,
            encoder,
            d_encoder,
            d_hidden: d_decoder,
            pooling_factors: Vec::new(),
            prompt_template: DEFAULT_PROMPT.to_owned(),
        }
    }
}

impl Scaffold {
    /// Makes a package with random weights: it loads and runs, and says nothing of use before it
    /// is trained.
    ///
    /// # Errors
    /// [`Error::InvalidName`] when the name cannot be one, [`Error::Exists`] when the folder is there
    /// already, otherwise as [`AdapterPackage::write`].
    pub fn package(&self, folder: &Path) -> Result<AdapterManifest> {
        check_new_name(&self.name)?;
        if folder.exists() {
            return Err(Error::Exists { path: folder.to_owned() });
        }
        let manifest = self.manifest();
        // Checked before memory is taken for the widths that it names.
        manifest.check(&folder.join(MANIFEST_FILE))?;
        let written = AdapterPackage::write(folder, &manifest, &random_tensors(&manifest))?;
        let readme = format!(
            "# {}\n\nAn adapter of arc-encoder: it lets `{}` read the latents of encoder `{}`.\n\
             The weights are untrained. `arc register` trains them.\n",
            self.name, self.decoder.name, self.encoder.name
        );
        write_text(&folder.join("README.md"), &readme)?;
        Ok(written)
    }

    /// Makes the crate of a code plugin around such a package. `dependency` is what its
    /// `Cargo.toml` says about `arc-plugin`, such as `"0.1"` or `{ path = "…" }`.
    ///
    /// # Errors
    /// As [`Scaffold::package`], and [`Error::Invalid`] when `dependency` is not a TOML value.
    pub fn plugin_crate(&self, folder: &Path, dependency: &str) -> Result<AdapterManifest> {
        let path = folder.join("Cargo.toml");
        let invalid = |reason: String| Error::Invalid { path: path.clone(), what: "Cargo.toml", reason };
        let dependency: toml_edit::Value =
            dependency.parse().map_err(|e: toml_edit::TomlError| invalid(e.message().replace('\n', ", ")))?;
        check_new_name(&self.name)?;
        let crate_name = format!("arc-adapter-{}", self.name.replace('.', "-").to_lowercase());
        let manifest = self.package(folder)?;
        let dependency = dependency.to_string();
        write_text(
            &path,
            &format!(
                "[package]\nname = \"{crate_name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
                 publish = false\n\n[lib]\ncrate-type = [\"cdylib\"]\n\n[dependencies]\n\
                 arc-plugin = {}\n\n\
                 # Stands alone wherever it lies; remove this to make it a member of a workspace.\n\
                 [workspace]\n",
                dependency.trim()
            ),
        )?;
        write_text(
            &folder.join("src/lib.rs"),
            &format!(
                "//! The adapter `{}` as a code plugin.\n\n\
                 arc_plugin::export_adapter! {{\n    \
                 manifest: include_bytes!(\"../{MANIFEST_FILE}\"),\n    \
                 weights: include_bytes!(\"../{WEIGHTS_FILE}\"),\n}}\n",
                self.name
            ),
        )?;
        Ok(manifest)
    }

    fn manifest(&self) -> AdapterManifest {
        let projector = ProjectorSpec::two_linear(self.d_encoder, self.d_hidden, self.d_decoder);
        let decoder = (self.decoder.clone(), self.d_decoder);
        AdapterManifest::new(decoder, (self.encoder.clone(), self.d_encoder), projector)
            .name(self.name.clone())
            .pooling_factors(self.pooling_factors.clone())
            .prompt_template(&self.prompt_template)
            // Set when the weights are written.
            .weights(WeightsFile::new(WEIGHTS_FILE, "0".repeat(64)))
            .training(serde_json::json!({ "state": "untrained" }))
    }
}

/// Weights uniform in ±1/√d_in, the usual start of a linear layer, the same for the same name.
fn random_tensors(manifest: &AdapterManifest) -> Vec<AdapterTensor> {
    let seed = manifest.name.bytes().fold(0u64, |seed, b| seed.wrapping_mul(257).wrapping_add(b.into()));
    let mut numbers = SplitMix64(seed);
    manifest
        .required_tensors()
        .into_iter()
        .chain(manifest.optional_tensors())
        .map(|slot| {
            let n: usize = slot.shape.iter().product();
            let d_in = slot.shape.last().copied().unwrap_or(1);
            let bound = 1.0 / (d_in as f32).sqrt();
            let values: Vec<f32> = (0..n).map(|_| bound * numbers.uniform()).collect();
            AdapterTensor::new(&slot.name, &slot.shape, &values, WeightType::F32)
        })
        .collect()
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
struct SplitMix64(u64);

impl SplitMix64 {
    /// Uniform in [-1, 1).
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The upper 24 bits: as many as a float32 keeps.
        (z >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    replace(path, |file| file.write_all(text.as_bytes()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Adapter;

    pub(crate) fn scaffold(name: &str) -> Scaffold {
        Scaffold {
            name: name.into(),
            decoder: DecoderPin {
                name: "tiny".into(),
                architecture: "llama".into(),
                embedding_sha256: "a".repeat(64),
                tokenizer_sha256: "b".repeat(64),
            },
            d_decoder: 12,
            encoder: EncoderPin { name: "start".into(), encoder_id: "e".into() },
            d_encoder: 8,
            d_hidden: 4,
            pooling_factors: vec![4],
            prompt_template: DEFAULT_PROMPT.into(),
        }
    }

    #[test]
    fn a_new_package_verifies_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("new");
        let manifest = scaffold("new").package(&folder).unwrap();
        let adapter = Adapter::open(&folder).unwrap();
        assert_eq!(adapter.manifest, manifest);
        let weight = adapter.weights.tensor("projector.0.weight").unwrap().values;
        assert!(weight.iter().all(|v| v.abs() <= 1.0 / 8f32.sqrt()));
        assert!(weight.iter().any(|v| *v > 0.1) && weight.iter().any(|v| *v < -0.1));
        assert!(matches!(scaffold("new").package(&folder), Err(Error::Exists { .. })));
    }

    #[test]
    fn names_and_widths_are_checked_before_anything_is_written() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("new");
        assert!(matches!(scaffold("../up").package(&folder), Err(Error::InvalidName { .. })));
        let injected = scaffold("a\"\n[x]").plugin_crate(&folder, "\"0.1\"");
        assert!(matches!(injected, Err(Error::InvalidName { .. })));
        assert!(scaffold("new").plugin_crate(&folder, "0.1 [x]").is_err());
        let wide = Scaffold { d_decoder: usize::MAX, ..scaffold("new") };
        assert!(wide.package(&folder).is_err());
        assert!(!folder.exists());
    }
}
