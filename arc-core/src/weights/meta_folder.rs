//! A backbone in the format that Meta and Mistral publish, or OLMo's own: `params.json` beside one
//! safetensors file.
//!
//! Tensors are found by Meta's names (`layers.0.attention.wq.weight`), whatever the file calls
//! them. OLMo 7B fuses projections; the parts are slices of the mapped bytes. Sources: Meta's
//! `llama` and `mistral-inference` for the sizes that `params.json` leaves out, the OLMo 7B
//! checkpoint for its names, and the public ARC-Encoder code for how it reads all three.

use std::{collections::BTreeMap, path::Path};

use arc_adapters::ModelShape;
use serde::{Deserialize, Serialize};

use super::{MappedBytes, RawTensor, SafetensorsFile, TensorSource};
use crate::bounded_file::{CONFIG, read_json};
use crate::{Error, Result};

const PARAMS: &str = "params.json";
const WEIGHTS: [&str; 2] = ["consolidated.safetensors", "model.safetensors"];
const PICKLE: &str = "consolidated.00.pth";

/// The prefix of OLMo's own names.
const OLMO: &str = "model.transformer.";

/// The base of the rotary frequencies where a configuration gives none.
const DEFAULT_THETA: f64 = 1e6;

/// The base of Llama 1 and 2, whose `params.json` does not mention it.
const LLAMA_THETA: f64 = 1e4;

/// A Llama-style backbone's sizes: `model_args` of a released encoder, or a complete `params.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelArgs {
    /// The model width.
    pub dim: usize,
    /// Blocks of the whole backbone, before an encoder drops its last ones.
    pub n_layers: usize,
    /// The width of an attention head.
    pub head_dim: usize,
    /// The width inside the feed-forward part.
    pub hidden_dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// What norms add to the mean square.
    pub norm_eps: f64,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// The base of the rotary frequencies; see [`ModelArgs::theta`].
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// `LayerNorm` without weights instead of `RMSNorm`, and half-split rotary embedding: OLMo.
    #[serde(default)]
    pub non_parametric_norm: bool,
}

impl ModelArgs {
    /// The base of the rotary frequencies: 1,000,000 where the configuration gives none, or 0.
    #[must_use]
    pub fn theta(&self) -> f64 {
        self.rope_theta.filter(|theta| *theta != 0.0).unwrap_or(DEFAULT_THETA)
    }

    /// Refuses sizes that no model can have.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] that names the field; `path` is the configuration's file.
    pub fn validate(&self, path: &Path) -> Result<()> {
        let invalid = |reason| Err(Error::InvalidConfig { path: path.to_owned(), reason });
        for (field, value) in [
            ("dim", self.dim),
            ("n_layers", self.n_layers),
            ("head_dim", self.head_dim),
            ("hidden_dim", self.hidden_dim),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("vocab_size", self.vocab_size),
        ] {
            if value == 0 {
                return invalid(format!("`{field}` is 0, expected at least 1"));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return invalid(format!(
                "`n_heads` is {}, expected a multiple of `n_kv_heads`, which is {}",
                self.n_heads, self.n_kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return invalid(format!("`head_dim` is {}, expected an even number", self.head_dim));
        }
        if self.norm_eps.is_nan() || self.norm_eps < 0.0 {
            return invalid(format!("`norm_eps` is {}, expected 0 or more", self.norm_eps));
        }
        if !self.theta().is_finite() || self.theta() < 0.0 {
            return invalid(format!("`rope_theta` is {}, expected a positive number", self.theta()));
        }
        if [self.n_heads, self.n_kv_heads].iter().any(|n| n.checked_mul(self.head_dim).is_none()) {
            return invalid("`head_dim` times `n_heads` is too large".to_owned());
        }
        Ok(())
    }

    /// The sizes as packages and registries state them.
    #[must_use]
    pub fn shape(&self) -> ModelShape {
        ModelShape::default()
            .n_layers(self.n_layers)
            .d_model(self.dim)
            .n_heads(self.n_heads)
            .n_kv_heads(self.n_kv_heads)
            .d_head(self.head_dim)
            .d_ff(self.hidden_dim)
            .vocab_size(self.vocab_size)
            .norm_eps(self.norm_eps)
            .rope_theta(self.theta())
    }

    /// The sizes of a model that is described and not here.
    #[must_use]
    pub fn from_shape(shape: &ModelShape, non_parametric_norm: bool) -> Self {
        Self {
            dim: shape.d_model,
            n_layers: shape.n_layers,
            head_dim: shape.d_head,
            hidden_dim: shape.d_ff,
            n_heads: shape.n_heads,
            n_kv_heads: shape.n_kv_heads,
            norm_eps: shape.norm_eps,
            vocab_size: shape.vocab_size,
            rope_theta: Some(shape.rope_theta),
            non_parametric_norm,
        }
    }

    /// The tensors of block `layer` and their shapes, by Meta's names.
    ///
    /// Call [`Self::validate`] first: sizes are multiplied here.
    pub(crate) fn layer_tensors(&self, layer: usize) -> impl Iterator<Item = (String, Vec<usize>)> {
        let (d, h) = (self.dim, self.hidden_dim);
        let (q, kv) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let norms = [("attention_norm", vec![d]), ("ffn_norm", vec![d])];
        let parts = [
            ("attention.wq", vec![q, d]),
            ("attention.wk", vec![kv, d]),
            ("attention.wv", vec![kv, d]),
            ("attention.wo", vec![d, q]),
            ("feed_forward.w1", vec![h, d]),
            ("feed_forward.w2", vec![d, h]),
            ("feed_forward.w3", vec![h, d]),
        ];
        let norms = norms.into_iter().filter({
            let parametric = !self.non_parametric_norm;
            move |_| parametric
        });
        let parts = parts.into_iter().chain(norms);
        parts.map(move |(part, shape)| (format!("layers.{layer}.{part}.weight"), shape))
    }
}

/// `params.json` as it may be: Meta and OLMo leave out what Mistral and the reference spell out.
#[derive(Deserialize)]
struct Params {
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    vocab_size: usize,
    norm_eps: f64,
    n_kv_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_dim: Option<usize>,
    multiple_of: Option<usize>,
    ffn_dim_multiplier: Option<f64>,
    rope_theta: Option<f64>,
    #[serde(default)]
    non_parametric_norm: bool,
}

impl Params {
    /// Meta's rule: two thirds of four times the width, scaled, rounded up to a multiple.
    fn ruled_hidden_dim(&self) -> Option<usize> {
        let multiple = self.multiple_of.filter(|multiple| *multiple > 0)?;
        let base = self.dim.checked_mul(8)? / 3;
        let scaled = match self.ffn_dim_multiplier {
            // Rounds down, as the rule does; a negative or absurd factor saturates.
            Some(factor) => (factor * base as f64) as usize,
            None => base,
        };
        scaled.checked_next_multiple_of(multiple)
    }
}

/// A backbone's folder, its weights mapped.
#[derive(Clone, Debug)]
pub struct MetaFolder {
    args: ModelArgs,
    weights: SafetensorsFile,
    places: BTreeMap<String, Place>,
}

/// Where a tensor is in the file.
#[derive(Clone, Debug)]
struct Place {
    key: String,
    /// Which of how many equal parts of the rows it is.
    part: (usize, usize),
}

impl MetaFolder {
    /// Reads `params.json` and maps `consolidated.safetensors`, or else `model.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::InvalidFile`] if one is not of its format,
    /// such as a torch pickle; [`Error::InvalidConfig`] if sizes are missing or impossible.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let pickle = dir.join(PICKLE);
        let candidates = WEIGHTS.map(|name| dir.join(name));
        let weights = match candidates.iter().find(|path| path.exists()) {
            None if pickle.exists() => {
                return Err(Error::InvalidFile {
                    path: pickle,
                    format: "safetensors",
                    reason: "it is a torch pickle, which is not read: it can run code".to_owned(),
                });
            }
            // A folder with none of them gets the error of the usual one.
            found => SafetensorsFile::open(found.unwrap_or(&candidates[0]))?,
        };
        let places = places(&weights);
        let path = dir.join(PARAMS);
        let args = complete(read_params(&path)?, &path, &weights, &places)?;
        args.validate(&path)?;
        Ok(Self { args, weights, places })
    }

    /// The backbone's sizes.
    #[must_use]
    pub fn args(&self) -> &ModelArgs {
        &self.args
    }
}

impl TensorSource for MetaFolder {
    fn tensor(&self, name: &str) -> Result<RawTensor> {
        let place = self.places.get(name).ok_or_else(|| self.missing(name))?;
        let whole = self.weights.tensor(&place.key)?;
        rows_of(&whole, name, place.part)
    }

    fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    fn names(&self) -> Vec<&str> {
        self.places.keys().map(String::as_str).collect()
    }

    fn path(&self) -> &Path {
        self.weights.path()
    }
}

/// Reads only the sizes of a backbone; those that the file leaves out follow Meta's rules.
///
/// # Errors
/// As [`MetaFolder::open`]. OLMo's sizes are not complete without its weights.
pub(crate) fn read_model_args(path: &Path) -> Result<ModelArgs> {
    let params = read_params(path)?;
    let hidden_dim = params.hidden_dim.or_else(|| params.ruled_hidden_dim());
    let args = with_hidden_dim(params, hidden_dim, path)?;
    args.validate(path)?;
    Ok(args)
}

fn read_params(path: &Path) -> Result<Params> {
    read_json(path, CONFIG.called(PARAMS))
}

/// Fills in what `params.json` leaves out: by Meta's rules, and for OLMo from the weights.
fn complete(
    params: Params,
    path: &Path,
    weights: &SafetensorsFile,
    places: &BTreeMap<String, Place>,
) -> Result<ModelArgs> {
    let olmo = weights.names().iter().any(|name| name.starts_with(OLMO));
    let hidden_dim = match params.hidden_dim.or_else(|| params.ruled_hidden_dim()) {
        Some(hidden_dim) => Some(hidden_dim),
        None => match places.get("layers.0.feed_forward.w1.weight") {
            Some(place) => {
                let gate = rows_of(&weights.tensor(&place.key)?, &place.key, place.part)?;
                gate.shape().first().copied()
            }
            None => None,
        },
    };
    let args = with_hidden_dim(params, hidden_dim, path)?;
    Ok(ModelArgs { non_parametric_norm: args.non_parametric_norm || olmo, ..args })
}

fn with_hidden_dim(params: Params, hidden_dim: Option<usize>, path: &Path) -> Result<ModelArgs> {
    let invalid = |reason| Error::InvalidConfig { path: path.to_owned(), reason };
    let hidden_dim =
        hidden_dim.ok_or_else(|| invalid("it has neither `hidden_dim` nor `multiple_of`".to_owned()))?;
    let head_dim = match params.head_dim {
        Some(head_dim) => head_dim,
        None => params
            .dim
            .checked_div(params.n_heads)
            .filter(|head_dim| head_dim * params.n_heads == params.dim)
            .ok_or_else(|| {
                let (dim, n_heads) = (params.dim, params.n_heads);
                invalid(format!("`dim` is {dim}, expected a multiple of `n_heads`, {n_heads}"))
            })?,
    };
    Ok(ModelArgs {
        dim: params.dim,
        n_layers: params.n_layers,
        head_dim,
        hidden_dim,
        n_heads: params.n_heads,
        n_kv_heads: params.n_kv_heads.unwrap_or(params.n_heads),
        norm_eps: params.norm_eps,
        vocab_size: params.vocab_size,
        // Who spells out the width of a head (Mistral) leaves the base at its own default.
        rope_theta: params.rope_theta.or(params.head_dim.is_none().then_some(LLAMA_THETA)),
        non_parametric_norm: params.non_parametric_norm,
    })
}

/// Meta's name for every tensor of a file.
fn places(weights: &SafetensorsFile) -> BTreeMap<String, Place> {
    /// OLMo's name within a block, and Meta's for the equal parts of its rows, in order. The
    /// first half of `ff_proj` is the linear part, the second the gate.
    const FUSED: [(&str, &[&str]); 4] = [
        ("att_proj", &["attention.wq", "attention.wk", "attention.wv"]),
        ("ff_proj", &["feed_forward.w3", "feed_forward.w1"]),
        ("attn_out", &["attention.wo"]),
        ("ff_out", &["feed_forward.w2"]),
    ];

    let mut places = BTreeMap::new();
    let mut insert = |name: String, key: &str, part| {
        places.insert(name, Place { key: key.to_owned(), part });
    };
    for key in weights.names() {
        // Llama 2 stores the rotary frequencies, which follow from the sizes.
        if key == "rope.freqs" {
            continue;
        }
        let whole = (0, 1);
        match key.strip_prefix(OLMO) {
            Some("wte.weight") => insert("tok_embeddings.weight".to_owned(), key, whole),
            Some("ff_out.weight") => insert("output.weight".to_owned(), key, whole),
            Some(name) => {
                let in_block = name
                    .strip_prefix("blocks.")
                    .and_then(|name| name.strip_suffix(".weight"))
                    .and_then(|name| name.split_once('.'));
                let fused = in_block.and_then(|(layer, name)| {
                    let (_, parts) = FUSED.iter().find(|(fused, _)| *fused == name)?;
                    Some((layer, parts))
                });
                match fused {
                    Some((layer, parts)) => {
                        for (i, part) in parts.iter().enumerate() {
                            insert(format!("layers.{layer}.{part}.weight"), key, (i, parts.len()));
                        }
                    }
                    // Kept under its own name, so that a check for unread tensors finds it.
                    None => insert(key.to_owned(), key, whole),
                }
            }
            None => insert(key.to_owned(), key, whole),
        }
    }
    places
}

/// Part `part` of `of` equal parts of a tensor's rows, without copying.
fn rows_of(whole: &RawTensor, name: &str, (part, of): (usize, usize)) -> Result<RawTensor> {
    let invalid =
        |reason| Error::InvalidFile { path: whole.path().to_owned(), format: "safetensors", reason };
    let mut shape = whole.shape().to_vec();
    let bytes: &MappedBytes = whole.bytes();
    let size = bytes.len() / of;
    match shape.first_mut() {
        Some(rows) if *rows % of == 0 => *rows /= of,
        _ if of == 1 => {}
        _ => {
            return Err(invalid(format!(
                "tensor `{}` has shape {shape:?}, expected rows of {of} equal parts",
                whole.name()
            )));
        }
    }
    let range = part * size..(part + 1) * size;
    let bytes = bytes.slice(range).ok_or_else(|| invalid(format!("tensor `{}` is cut off", whole.name())))?;
    RawTensor::new(name, whole.dtype(), shape, bytes, whole.path())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use safetensors::{Dtype, tensor::TensorView};

    fn write(dir: &Path, params: &str, tensors: &[(&str, &[usize])]) {
        fs::write(dir.join(PARAMS), params).unwrap();
        let mut next = 0.0_f32;
        let data: Vec<_> = tensors
            .iter()
            .map(|(_, shape)| {
                let count: usize = shape.iter().product();
                let values = std::iter::repeat_with(|| {
                    next += 1.0;
                    next.to_le_bytes()
                });
                values.take(count).flatten().collect::<Vec<u8>>()
            })
            .collect();
        let views = tensors
            .iter()
            .zip(&data)
            .map(|((name, shape), data)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap()));
        let bytes = safetensors::serialize(views, None).unwrap();
        fs::write(dir.join("model.safetensors"), bytes).unwrap();
    }

    const OLMO_PARAMS: &str =
        r#"{"dim": 4, "n_heads": 2, "n_layers": 1, "norm_eps": 1e-05, "vocab_size": 3}"#;
    const OLMO_TENSORS: [(&str, &[usize]); 6] = [
        ("model.transformer.wte.weight", &[3, 4]),
        ("model.transformer.ff_out.weight", &[3, 4]),
        ("model.transformer.blocks.0.att_proj.weight", &[12, 4]),
        ("model.transformer.blocks.0.attn_out.weight", &[4, 4]),
        ("model.transformer.blocks.0.ff_proj.weight", &[12, 4]),
        ("model.transformer.blocks.0.ff_out.weight", &[4, 6]),
    ];

    #[test]
    fn olmo_names_are_found_by_metas_and_fused_projections_are_their_rows() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), OLMO_PARAMS, &OLMO_TENSORS);
        let folder = MetaFolder::open(dir.path()).unwrap();

        let args = folder.args();
        assert_eq!((args.hidden_dim, args.head_dim, args.n_kv_heads), (6, 2, 2));
        assert!(args.non_parametric_norm);
        assert_eq!(args.theta(), 10_000.0);
        for (name, shape) in args.layer_tensors(0) {
            folder.tensor_of_shape(&name, &shape).unwrap();
        }

        let file = SafetensorsFile::open(dir.path().join("model.safetensors")).unwrap();
        let fused = file.tensor("model.transformer.blocks.0.ff_proj.weight").unwrap().to_f32();
        let value = |name: &str| folder.tensor(name).unwrap().to_f32();
        assert_eq!(value("layers.0.feed_forward.w3.weight"), fused[..24]);
        assert_eq!(value("layers.0.feed_forward.w1.weight"), fused[24..]);
        let fused = file.tensor("model.transformer.blocks.0.att_proj.weight").unwrap().to_f32();
        assert_eq!(value("layers.0.attention.wq.weight"), fused[..16]);
        assert_eq!(value("layers.0.attention.wv.weight"), fused[32..]);
    }

    #[test]
    fn a_tensor_that_olmo_does_not_have_keeps_its_name_and_is_seen_as_unread() {
        let dir = tempfile::tempdir().unwrap();
        let extra = ("model.transformer.blocks.0.attn_norm.weight", [4_usize].as_slice());
        write(dir.path(), OLMO_PARAMS, &[OLMO_TENSORS.as_slice(), &[extra]].concat());
        let folder = MetaFolder::open(dir.path()).unwrap();
        let read = folder.names().into_iter().filter(|name| *name != extra.0).map(str::to_owned);
        let error = folder.expect_all_read(&read.collect()).unwrap_err().to_string();
        assert!(error.contains(extra.0), "{error}");
    }

    /// The published `params.json` of three backbones, and the sizes of the models.
    #[test]
    fn sizes_that_meta_leaves_out_are_those_of_the_published_models() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PARAMS);
        let sizes = |text: &str| {
            fs::write(&path, text).unwrap();
            let args = read_model_args(&path).unwrap();
            (args.hidden_dim, args.head_dim, args.n_kv_heads, args.theta())
        };
        let llama_3_2_3b = r#"{"dim": 3072, "ffn_dim_multiplier": 1.0, "multiple_of": 256,
            "n_heads": 24, "n_kv_heads": 8, "n_layers": 28, "norm_eps": 1e-05,
            "rope_theta": 500000.0, "use_scaled_rope": true, "vocab_size": 128256}"#;
        assert_eq!(sizes(llama_3_2_3b), (8192, 128, 8, 500_000.0));
        let llama_3_1_8b = r#"{"dim": 4096, "ffn_dim_multiplier": 1.3, "multiple_of": 1024,
            "n_heads": 32, "n_kv_heads": 8, "n_layers": 32, "norm_eps": 1e-05,
            "rope_theta": 500000.0, "vocab_size": 128256}"#;
        assert_eq!(sizes(llama_3_1_8b), (14336, 128, 8, 500_000.0));
        let llama_2_7b = r#"{"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32,
            "norm_eps": 1e-05, "vocab_size": 32000}"#;
        assert_eq!(sizes(llama_2_7b), (11008, 128, 32, 10_000.0));
        let without_theta = r#"{"dim": 32, "n_layers": 4, "head_dim": 8, "hidden_dim": 64,
            "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-05, "vocab_size": 61}"#;
        assert_eq!(sizes(without_theta), (64, 8, 2, 1_000_000.0));
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PARAMS);
        for (text, field) in [
            (
                r#"{"dim": 4, "n_heads": 3, "n_layers": 1, "norm_eps": 0.1, "vocab_size": 3, "hidden_dim": 1}"#,
                "`n_heads`",
            ),
            (r#"{"dim": 4, "n_heads": 2, "n_layers": 1, "norm_eps": 0.1, "vocab_size": 3}"#, "`hidden_dim`"),
            (
                r#"{"dim": 4, "n_heads": 2, "n_kv_heads": 0, "n_layers": 1, "norm_eps": 0.1, "vocab_size": 3, "hidden_dim": 1}"#,
                "`n_kv_heads`",
            ),
            (
                r#"{"dim": 4, "n_heads": 0, "n_layers": 1, "norm_eps": 0.1, "vocab_size": 3, "hidden_dim": 1}"#,
                "`n_heads`",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = read_model_args(&path).unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn a_torch_pickle_is_refused_and_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(PARAMS), OLMO_PARAMS).unwrap();
        fs::write(dir.path().join(PICKLE), b"\x80\x02").unwrap();
        let error = MetaFolder::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(PICKLE) && error.contains("pickle"), "{error}");
    }
}
