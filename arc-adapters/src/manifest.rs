//! `adapter.json`: what an adapter is made for, what it computes, and where it came from.

use std::path::Path;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::{is_sha256_hex, sha256_hex};
use crate::files::read_text;
use crate::names::{check_file_name, check_name, is_name};
use crate::setters;
use crate::{Error, Pin, ProjectorSpec, Result, WeightSlot};

/// The schema number that this version reads and writes.
pub const ADAPTER_SCHEMA: u32 = 1;

/// The name of the manifest inside an adapter package.
pub const MANIFEST_FILE: &str = "adapter.json";

/// The usual name of the weights inside an adapter package.
pub const WEIGHTS_FILE: &str = "adapter.safetensors";

/// The prompt of a new adapter: the document, then the question.
pub const DEFAULT_PROMPT: &str = "{{ document }}\n\n{{ question }}";

/// A projector for a decoder of width 16,384 in float32 fits; nothing sensible is larger.
pub(crate) const MAX_WEIGHTS_BYTES: u64 = 4 << 30;

/// Manifests are a few kilobytes; anything larger is not one.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 1 << 20;

const WHAT: &str = "adapter manifest";

/// The content of `adapter.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdapterManifest {
    /// [`ADAPTER_SCHEMA`].
    pub schema: u32,
    /// The adapter's name: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// The decoder it maps into.
    pub decoder: DecoderPin,
    /// The encoder whose latents it reads.
    pub encoder: EncoderPin,
    /// Width of the latents.
    pub d_encoder: usize,
    /// Width between the two linear layers of the paper's projector; none for other projectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_hidden: Option<usize>,
    /// Width of the decoder's token embeddings.
    pub d_decoder: usize,
    /// What maps the one to the other.
    pub projector: ProjectorSpec,
    /// How many tokens a latent stood for in training, for each pooling that was trained.
    pub pooling_factors: Vec<u32>,
    /// What follows the latents of each context.
    #[serde(default)]
    pub append: Append,
    /// The prompt as Jinja source; `document` is where the latents go, `question` is text.
    pub prompt_template: String,
    /// What an answer to that prompt is, and so where it ends.
    #[serde(default, skip_serializing_if = "AnswerEnd::is_model")]
    pub answer_ends: AnswerEnd,
    /// The weights file.
    pub weights: WeightsFile,
    /// How it was trained: data, steps, seeds. Free form, shown to users as it is.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub training: serde_json::Value,
    /// What was measured. Free form, shown to users as it is.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub scores: serde_json::Value,
}

/// The decoder that an adapter was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DecoderPin {
    /// Its name in the registry of the maker.
    pub name: String,
    /// Its architecture: `llama`, `qwen2`, `gemma3`, …
    pub architecture: String,
    /// SHA-256 of the input-embedding table. Empty where nobody has seen it yet: an adapter that
    /// was imported or published without its decoder at hand.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub embedding_sha256: String,
    /// SHA-256 of the tokenizer; empty likewise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tokenizer_sha256: String,
}

setters!(DecoderPin { embedding_sha256: String, tokenizer_sha256: String });

impl DecoderPin {
    /// A decoder that nobody has seen yet: it is known by its name and its architecture.
    #[must_use]
    pub fn new(name: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            architecture: architecture.into(),
            embedding_sha256: String::new(),
            tokenizer_sha256: String::new(),
        }
    }
}

/// The encoder that an adapter was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EncoderPin {
    /// Its name in the registry of the maker.
    pub name: String,
    /// The identity of its weights and settings.
    pub encoder_id: String,
}

impl EncoderPin {
    /// An encoder by its name and identity.
    #[must_use]
    pub fn new(name: impl Into<String>, encoder_id: impl Into<String>) -> Self {
        Self { name: name.into(), encoder_id: encoder_id.into() }
    }
}

/// Which learned vector follows the latents of each context when the decoder is to continue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Append {
    /// `tokens.cont`, in encoder space, so that it passes through the projector like a latent.
    #[default]
    Cont,
    /// Nothing.
    None,
}

/// Where an answer ends, besides the tokens with which a decoder ends what it writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AnswerEnd {
    /// Nowhere else.
    #[default]
    Model,
    /// With its first line: what follows is no part of it. Blank lines before it do not count.
    Line,
}

impl AnswerEnd {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Model, Self::Line];

    /// What the answers to a new prompt are: one that ends in a label, such as `Answer:`, asks for what
    /// stands behind a label, which is a line. Models that were not trained to chat go on with another
    /// question, or with the same line, until they are stopped.
    #[must_use]
    pub fn of_template(template: &str) -> Self {
        if template.trim_end().ends_with(':') { Self::Line } else { Self::Model }
    }

    /// As manifests and registries spell it; it parses back.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Line => "line",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_model(&self) -> bool {
        *self == Self::Model
    }
}

impl FromStr for AnswerEnd {
    /// What was expected.
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || format!("`{}`", Self::ALL.map(Self::name).join("` or `"));
        Self::ALL.into_iter().find(|end| end.name() == text).ok_or_else(expected)
    }
}

/// A weights file beside the manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WeightsFile {
    /// A file name in the folder of the manifest.
    pub file: String,
    /// SHA-256 of the file. Empty in an adapter whose weights are published elsewhere and were not
    /// imported yet; such a package describes and cannot be opened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha256: String,
}

impl WeightsFile {
    /// A file name, and the SHA-256 of the file: empty until it is written, as
    /// [`AdapterPackage::write`](crate::AdapterPackage::write) does.
    #[must_use]
    pub fn new(file: impl Into<String>, sha256: impl Into<String>) -> Self {
        Self { file: file.into(), sha256: sha256.into() }
    }
}

setters!(AdapterManifest {
    name: String,
    d_hidden: Option<usize>,
    pooling_factors: Vec<u32>,
    append: Append,
    answer_ends: AnswerEnd,
    weights: WeightsFile,
    training: serde_json::Value,
    scores: serde_json::Value,
});

impl AdapterManifest {
    /// An adapter from latents of a width to embeddings of a width, named as its decoder. It has seen latents of
    /// one token each, appends `tokens.cont`, and asks with [`DEFAULT_PROMPT`]; its
    /// weights are in [`WEIGHTS_FILE`], whose hash is known when they are written.
    #[must_use]
    pub fn new(
        (decoder, d_decoder): (DecoderPin, usize),
        (encoder, d_encoder): (EncoderPin, usize),
        projector: ProjectorSpec,
    ) -> Self {
        Self {
            schema: ADAPTER_SCHEMA,
            name: decoder.name.clone(),
            decoder,
            encoder,
            d_encoder,
            d_hidden: projector.width_between(),
            d_decoder,
            projector,
            pooling_factors: vec![1],
            append: Append::default(),
            prompt_template: DEFAULT_PROMPT.to_owned(),
            answer_ends: AnswerEnd::of_template(DEFAULT_PROMPT),
            weights: WeightsFile::new(WEIGHTS_FILE, ""),
            training: serde_json::Value::Null,
            scores: serde_json::Value::Null,
        }
    }

    /// The same with another prompt, and what the answers to it are.
    #[must_use]
    pub fn prompt_template(self, template: impl Into<String>) -> Self {
        let prompt_template = template.into();
        Self { answer_ends: AnswerEnd::of_template(&prompt_template), prompt_template, ..self }
    }

    /// Reads and checks the `adapter.json` of a package folder, whether or not its weights are here.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, otherwise as [`AdapterManifest::parse`].
    pub fn open(folder: &Path) -> Result<Self> {
        Ok(Self::open_with_sha256(folder)?.0)
    }

    /// The same with the SHA-256 of the file.
    pub(crate) fn open_with_sha256(folder: &Path) -> Result<(Self, String)> {
        let path = folder.join(MANIFEST_FILE);
        let text = read_text(&path, WHAT, MAX_MANIFEST_BYTES)?;
        Ok((Self::parse(&text, &path)?, sha256_hex(text.as_bytes())))
    }

    /// Which hashes of its decoder the adapter does not pin, so that nothing tells whether it meets
    /// the model that it was made for.
    #[must_use]
    pub fn unpinned(&self) -> Vec<Pin> {
        let pins = [
            (Pin::EmbeddingTable, &self.decoder.embedding_sha256),
            (Pin::Tokenizer, &self.decoder.tokenizer_sha256),
        ];
        pins.into_iter().filter(|(_, sha256)| sha256.is_empty()).map(|(pin, _)| pin).collect()
    }

    /// Reads a manifest and checks it; `origin` is the file named in errors.
    ///
    /// # Errors
    /// [`Error::UnsupportedSchema`] for another format version, [`Error::Invalid`] for anything
    /// that is not a manifest or contradicts itself.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let manifest: Self = parse_versioned(text, origin, (WHAT, "projector"), ADAPTER_SCHEMA)?;
        manifest.check(origin)?;
        Ok(manifest)
    }

    /// The manifest as it is written to `adapter.json`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the manifest contradicts itself.
    pub fn to_json(&self, origin: &Path) -> Result<String> {
        self.check(origin)?;
        let mut json = serde_json::to_string_pretty(self).map_err(|e| invalid(origin, e.to_string()))?;
        json.push('\n');
        Ok(json)
    }

    /// Checks everything that can be checked without the weights.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first contradiction found.
    pub fn check(&self, origin: &Path) -> Result<()> {
        let fail = |reason: String| Err(invalid(origin, reason));
        if self.schema != ADAPTER_SCHEMA {
            return fail(format!("schema is {}, expected {ADAPTER_SCHEMA}", self.schema));
        }
        check_name("name", &self.name).or_else(fail)?;
        check_name("decoder.name", &self.decoder.name).or_else(fail)?;
        check_name("encoder.name", &self.encoder.name).or_else(fail)?;
        for (field, text) in [
            ("decoder.architecture", &self.decoder.architecture),
            ("encoder.encoder_id", &self.encoder.encoder_id),
            ("prompt_template", &self.prompt_template),
        ] {
            if text.trim().is_empty() {
                return fail(format!("`{field}` is empty"));
            }
        }
        for (field, digest) in [
            ("decoder.embedding_sha256", &self.decoder.embedding_sha256),
            ("decoder.tokenizer_sha256", &self.decoder.tokenizer_sha256),
            ("weights.sha256", &self.weights.sha256),
        ] {
            if !digest.is_empty() {
                check_sha256(field, digest).or_else(fail)?;
            }
        }
        check_file_name("weights.file", &self.weights.file).or_else(fail)?;
        self.projector.fault(self.d_encoder, self.d_decoder).or_else(fail)?;
        if let Some(d_hidden) = self.d_hidden {
            use crate::ProjectorLayer::Linear;
            if !self.projector.layers.iter().any(|l| matches!(l, Linear { d_out, .. } if *d_out == d_hidden))
            {
                return fail(format!("d_hidden is {d_hidden}, no linear layer gives that width"));
            }
        }
        if self.pooling_factors.is_empty() {
            return fail("`pooling_factors` is empty".to_owned());
        }
        if let Some(factor) = self.pooling_factors.iter().find(|f| !(1..=4096).contains(*f)) {
            return fail(format!("`pooling_factors` has {factor}, expected 1 to 4096"));
        }
        Ok(())
    }

    /// The tensors that the weights must have.
    #[must_use]
    pub fn required_tensors(&self) -> Vec<WeightSlot> {
        let mut slots = self.projector.weight_slots();
        if self.append == Append::Cont {
            slots.push(WeightSlot { name: "tokens.cont".to_owned(), shape: vec![self.d_encoder] });
        }
        slots
    }

    /// The tensors that the weights may have beside the required ones.
    #[must_use]
    pub fn optional_tensors(&self) -> Vec<WeightSlot> {
        let mut slots = vec![WeightSlot { name: "tokens.rec".to_owned(), shape: vec![self.d_encoder] }];
        if self.append == Append::None {
            slots.push(WeightSlot { name: "tokens.cont".to_owned(), shape: vec![self.d_encoder] });
        }
        slots
    }

    /// How long the weights file can sensibly be: every tensor in float32, and its header.
    pub(crate) fn largest_weights(&self) -> u64 {
        const HEADER: u64 = 1 << 20;
        let (required, optional) = (self.required_tensors(), self.optional_tensors());
        let numbers = required
            .iter()
            .chain(&optional)
            .map(|slot| slot.shape.iter().fold(1u64, |n, d| n.saturating_mul(*d as u64)))
            .fold(0u64, u64::saturating_add);
        numbers.saturating_mul(4).saturating_add(HEADER).min(MAX_WEIGHTS_BYTES)
    }

    /// Checks that the adapter was made for this encoder.
    ///
    /// # Errors
    /// [`Error::PinMismatch`].
    pub fn check_encoder(&self, encoder_id: &str) -> Result<()> {
        self.check_pin(Pin::Encoder, &self.encoder.encoder_id, encoder_id)
    }

    /// Checks that the adapter was made for this decoder. Hashes that the manifest does not have
    /// are not compared.
    ///
    /// # Errors
    /// [`Error::PinMismatch`] with the first difference, the architecture before the hashes.
    pub fn check_decoder(
        &self,
        architecture: &str,
        embedding_sha256: &str,
        tokenizer_sha256: &str,
    ) -> Result<()> {
        let mismatches = self.decoder_mismatches(architecture, embedding_sha256, tokenizer_sha256);
        mismatches.into_iter().next().map_or(Ok(()), Err)
    }

    /// Every [`Error::PinMismatch`] of [`AdapterManifest::check_decoder`], for who goes on in spite
    /// of them.
    #[must_use]
    pub fn decoder_mismatches(
        &self,
        architecture: &str,
        embedding_sha256: &str,
        tokenizer_sha256: &str,
    ) -> Vec<Error> {
        [
            (Pin::Architecture, &self.decoder.architecture, architecture),
            (Pin::EmbeddingTable, &self.decoder.embedding_sha256, embedding_sha256),
            (Pin::Tokenizer, &self.decoder.tokenizer_sha256, tokenizer_sha256),
        ]
        .into_iter()
        // An adapter that was imported does not know the hashes of its decoder.
        .filter(|(pin, expected, _)| *pin == Pin::Architecture || !expected.is_empty())
        .filter_map(|(pin, expected, found)| self.check_pin(pin, expected, found).err())
        .collect()
    }

    fn check_pin(&self, what: Pin, expected: &str, found: &str) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(Error::PinMismatch {
            adapter: self.name.clone(),
            what,
            expected: expected.to_owned(),
            found: found.to_owned(),
        })
    }
}

fn invalid(origin: &Path, reason: String) -> Error {
    Error::Invalid { path: origin.to_owned(), what: WHAT, reason }
}

/// Reads a JSON object that has a `schema` number. The number is looked at before anything else,
/// so that a newer file is called newer and not malformed. Below the key `of_kinds` are objects that say by
/// name what they are.
pub(crate) fn parse_versioned<T: DeserializeOwned>(
    text: &str,
    origin: &Path,
    (what, of_kinds): (&'static str, &'static str),
    supported: u32,
) -> Result<T> {
    #[derive(Deserialize)]
    struct Schema {
        schema: Option<u64>,
    }
    let invalid = |reason: String| Error::Invalid { path: origin.to_owned(), what, reason };
    if text.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(Error::TooLarge { path: origin.to_owned(), what, limit: MAX_MANIFEST_BYTES });
    }
    let head: Schema = serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
    let Some(found) = head.schema else {
        return Err(invalid("`schema` is missing".to_owned()));
    };
    if found != u64::from(supported) {
        return Err(Error::UnsupportedSchema { path: origin.to_owned(), what, found, supported });
    }
    // serde takes the place of a kind among the others for its name, and a list for an object. Neither is
    // promised.
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
    if let Some(of_kinds_value) = value.get(of_kinds) {
        check_kinds(of_kinds_value).map_err(|reason| invalid(format!("`{of_kinds}`: {reason}")))?;
    }
    serde_json::from_str(text).map_err(|e| invalid(e.to_string()))
}

/// Refuses what says what it is in another way than by the name under `kind`, here or among its layers.
fn check_kinds(value: &serde_json::Value) -> Result<(), String> {
    let Some(object) = value.as_object() else {
        return Err(format!("`{value}` stands where an object is expected"));
    };
    if let Some(kind) = object.get("kind").filter(|kind| !kind.is_string()) {
        return Err(format!("`kind` is `{kind}`, expected its name"));
    }
    object.get("layers").and_then(serde_json::Value::as_array).into_iter().flatten().try_for_each(check_kinds)
}

/// Checks a name that somebody chose for something new.
pub(crate) fn check_new_name(name: &str) -> Result<()> {
    if !is_name(name) {
        return Err(Error::InvalidName { name: name.to_owned() });
    }
    Ok(())
}

pub(crate) fn check_sha256(field: &str, digest: &str) -> Result<(), String> {
    if is_sha256_hex(digest) {
        return Ok(());
    }
    Err(format!("`{field}` is not 64 lowercase hexadecimal digits"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_names_of_answer_ends_are_those_of_files() {
        for end in AnswerEnd::ALL {
            assert_eq!(json!(end), json!(end.name()));
            assert_eq!(end.name().parse(), Ok(end));
        }
        assert_eq!("page".parse::<AnswerEnd>(), Err("`model` or `line`".to_owned()));
    }

    pub(crate) fn example() -> AdapterManifest {
        AdapterManifest {
            schema: ADAPTER_SCHEMA,
            name: "tiny".into(),
            decoder: DecoderPin {
                name: "tiny".into(),
                architecture: "llama".into(),
                embedding_sha256: "a".repeat(64),
                tokenizer_sha256: "b".repeat(64),
            },
            encoder: EncoderPin { name: "start".into(), encoder_id: "c".repeat(64) },
            d_encoder: 4,
            d_hidden: Some(2),
            d_decoder: 6,
            projector: ProjectorSpec::two_linear(4, 2, 6),
            pooling_factors: vec![4, 8],
            append: Append::Cont,
            prompt_template: "{{ document }}\nQuestion: {{ question }}\nAnswer:".into(),
            answer_ends: AnswerEnd::Line,
            weights: WeightsFile { file: "adapter.safetensors".into(), sha256: "d".repeat(64) },
            training: json!({"steps": 3}),
            scores: serde_json::Value::Null,
        }
    }

    fn parse(value: &serde_json::Value) -> Result<AdapterManifest> {
        AdapterManifest::parse(&value.to_string(), Path::new("adapter.json"))
    }

    #[test]
    fn a_manifest_is_read_back_as_it_was_written() {
        let manifest = example();
        let json = manifest.to_json(Path::new("adapter.json")).unwrap();
        assert_eq!(AdapterManifest::parse(&json, Path::new("adapter.json")).unwrap(), manifest);
    }

    /// Found by fuzzing: read to the nearest float but one, a score changed whenever it was written.
    #[test]
    fn every_number_of_a_manifest_survives_being_written_and_read() {
        let mut value = serde_json::to_value(example()).unwrap();
        value["scores"] = json!({"loss": 0.5});
        let text = value.to_string().replace("0.5", "1.26697321971957266");
        let read = AdapterManifest::parse(&text, Path::new("adapter.json")).unwrap();
        assert_eq!(read.scores["loss"].as_f64(), Some(1.266_973_219_719_572_7));
        let json = read.to_json(Path::new("adapter.json")).unwrap();
        assert_eq!(AdapterManifest::parse(&json, Path::new("adapter.json")).unwrap(), read);
    }

    #[test]
    fn a_newer_schema_is_called_newer_and_not_malformed() {
        let error = parse(&json!({"schema": 2, "flavour": "new"})).unwrap_err();
        assert!(matches!(error, Error::UnsupportedSchema { found: 2, supported: 1, .. }), "{error}");
        assert!(error.hint().unwrap().to_string().contains("update"));
    }

    #[test]
    fn every_contradiction_is_refused_with_its_field() {
        let good = serde_json::to_value(example()).unwrap();
        assert!(parse(&good).is_ok());
        for (pointer, value, expected) in [
            ("/name", json!("../x"), "`name`"),
            ("/name", json!(""), "`name`"),
            ("/name", json!("-rf"), "`name`"),
            ("/decoder/embedding_sha256", json!("abc"), "`decoder.embedding_sha256`"),
            ("/weights/sha256", json!("D".repeat(64)), "`weights.sha256`"),
            ("/weights/file", json!("../w"), "`weights.file`"),
            ("/weights/file", json!(".."), "`weights.file`"),
            ("/d_encoder", json!(5), "takes width 4, it is given 5"),
            ("/d_decoder", json!(0), "d_decoder is 0"),
            ("/d_decoder", json!(-1), "invalid value"),
            ("/d_hidden", json!(3), "d_hidden is 3"),
            ("/pooling_factors", json!([]), "`pooling_factors` is empty"),
            ("/pooling_factors", json!([0]), "`pooling_factors` has 0"),
            ("/prompt_template", json!(" "), "`prompt_template` is empty"),
            ("/append", json!("both"), "unknown variant `both`"),
            ("/schema", json!("1"), "invalid type"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value;
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{pointer}: {error}");
        }
    }

    #[test]
    fn a_kind_is_given_by_its_name_and_by_nothing_else() {
        let residual = json!({"kind": "residual", "layers": [{"kind": "gelu"}]});
        let mut good = serde_json::to_value(example()).unwrap();
        good["projector"]["layers"].as_array_mut().unwrap().insert(0, residual);
        assert!(parse(&good).is_ok());
        for (pointer, value, expected) in [
            ("/projector/layers/1/kind", json!(0), "`projector`: `kind` is `0`, expected its name"),
            ("/projector/layers/0/layers/0/kind", json!(3), "`kind` is `3`, expected its name"),
            (
                "/projector/layers/0/layers/0",
                json!(["gelu"]),
                "`[\"gelu\"]` stands where an object is expected",
            ),
            ("/projector/layers/1", json!(["linear", 4, 2, false]), "stands where an object is expected"),
            ("/projector", json!([good["projector"]["layers"]]), "stands where an object is expected"),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).unwrap() = value;
            let error = parse(&bad).unwrap_err();
            assert!(error.to_string().contains(expected), "{pointer}: {error}");
        }
        // What is shown as it is may have anything.
        good["training"] = json!({"kind": 0});
        assert!(parse(&good).is_ok());
    }

    #[test]
    fn unknown_fields_are_named() {
        let mut value = serde_json::to_value(example()).unwrap();
        value["decoder"]["colour"] = json!(1);
        assert!(parse(&value).unwrap_err().to_string().contains("unknown field `colour`"));
    }

    #[test]
    fn a_pin_mismatch_says_which_pin() {
        let manifest = example();
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        assert!(manifest.check_decoder("llama", &a, &b).is_ok());
        for (error, pin) in [
            (manifest.check_decoder("qwen2", &a, &b), Pin::Architecture),
            (manifest.check_decoder("llama", &b, &b), Pin::EmbeddingTable),
            (manifest.check_decoder("llama", &a, &a), Pin::Tokenizer),
            (manifest.check_encoder("other"), Pin::Encoder),
        ] {
            assert!(matches!(error, Err(Error::PinMismatch { what, .. }) if what == pin));
        }
    }
}
