//! What one TOML file says about a run.

use arc_adapters::setters;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bounded_file::{DESCRIPTION, read_text};
use crate::{Error, Result};

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RunConfig {
    /// Everything that is drawn is drawn from this.
    #[serde(default)]
    pub seed: u64,
    /// What products are computed in. A run that goes on may change it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: TrainPrecision,
    /// What an earlier run ended with, to go on from with a fresh optimiser: its encoder in place of what
    /// `encoder` says, and its adapters in place of the `start` of the decoders that have one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_from: Option<StartFrom>,
    /// What compresses.
    pub encoder: EncoderConfig,
    /// Who reads: each step trains one of them.
    pub decoders: Vec<AdapterConfig>,
    /// The text.
    pub data: DataConfig,
    /// What is learned from it.
    #[serde(default)]
    pub objective: ObjectiveConfig,
    /// How the parameters move.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// How long, and what is written when.
    pub schedule: ScheduleConfig,
    /// What is measured on held-out text.
    #[serde(default)]
    pub evaluation: EvaluationConfig,
}

/// Packages that a run begins from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StartFrom {
    /// A folder with a `registry.toml`, as a run's `final/` is, or of an encoder's package alone.
    Folder(PathBuf),
    /// An encoder of the registry, by its name or an alias.
    Encoder(String),
}

/// What the products of matrices are computed in, forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TrainPrecision {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16, where the device has it, for the linear maps of the encoder and the decoders.
    /// Trained weights, their gradients, the optimiser, attention and everything between products
    /// stay in 32 bits; a decoder's matrices are kept in 16.
    Bf16,
}

impl TrainPrecision {
    /// Its name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// Settings that were added since, and that are not used, leave the hash of a run as it was.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The encoder of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct EncoderConfig {
    /// The name of the package that the run ends with.
    pub name: String,
    /// A decoder of the registry that the encoder is cut from; one of this and `start`.
    #[serde(default)]
    pub backbone: Option<String>,
    /// How many of the backbone's layers are kept.
    #[serde(default)]
    pub layers: Option<usize>,
    /// An encoder of the registry to go on from; one of this and `backbone`.
    #[serde(default)]
    pub start: Option<String>,
    /// How many tokens a latent stands for; each step draws one of several.
    #[serde(default = "default_factors")]
    pub pooling_factors: Vec<usize>,
    /// How often each of them is drawn, on any scale; all alike where it is left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub factor_weights: Vec<f64>,
    /// The same while the rate of a [`ScheduleShape::WarmupStableDecay`] comes down.
    #[serde(default, skip_serializing_if = "is_default")]
    pub factor_weights_in_decay: Vec<f64>,
    /// Train one factor after the other, in equal parts of the run, in place of drawing.
    #[serde(default)]
    pub factor_curriculum: bool,
    /// How groups are pooled, as the reference spells it; `mean_pooled_queries` where it is left
    /// out. This and the next two are those of `start`, where there is one.
    #[serde(default)]
    pub pool_type: Option<String>,
    /// Where groups end, for an encoder that is cut from a backbone; `start` keeps its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub groups: Groups,
    /// Whether positions see only earlier ones.
    #[serde(default)]
    pub causal: Option<bool>,
    /// Longer texts are cut into chunks of this many tokens, 256 where it is left out.
    #[serde(default)]
    pub chunk_tokens: Option<usize>,
    /// What of its layers is trained.
    #[serde(default)]
    pub train: TrainedPart,
    /// Whether the token embeddings are trained too.
    #[serde(default)]
    pub train_embedding: bool,
    /// Compute cheap activations again in the backward pass instead of keeping them.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// How the package at the end holds trained matrices.
    #[serde(default)]
    pub weights: StoredWeights,
}

/// Where the groups of an encoder end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Groups {
    /// After so many tokens, as in the paper.
    #[default]
    Even,
    /// Behind words that are rare in the text of the run: see [`TokenRarity`](crate::encoder::TokenRarity).
    RareWords,
}

/// How an encoder package holds trained matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StoredWeights {
    /// As they were trained, to the last bit.
    #[default]
    F32,
    /// Rounded, in half the space.
    F16,
    /// Rounded to 8 bits with a scale for each block of [`BLOCK`](crate::weights::EIGHT_BIT_BLOCK)
    /// weights, in about a quarter.
    Q8,
}

fn default_factors() -> Vec<usize> {
    vec![4]
}

/// A shorter text has nothing to compress.
const SHORTEST_CONTEXT: usize = 16;
/// How groups are pooled where a configuration says nothing.
pub(super) const DEFAULT_POOL_TYPE: &str = "mean_pooled_queries";
/// The longest chunk where a configuration says nothing.
pub(super) const DEFAULT_CHUNK_TOKENS: usize = 256;

/// Which of the encoder's layers are trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum TrainedPart {
    /// None: only adapters are.
    None,
    /// All of them.
    #[default]
    All,
    /// The last ones.
    LastLayers(usize),
    /// A low-rank delta on every matrix.
    Lora {
        /// Its rank.
        rank: usize,
        /// The delta is `alpha / rank · B A`.
        alpha: f64,
    },
}

/// A decoder of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AdapterConfig {
    /// Its name in the registry.
    pub name: String,
    /// What its projector starts from.
    #[serde(default)]
    pub start: Start,
    /// The width between the projector's layers; the decoder's own where it is left out.
    #[serde(default)]
    pub hidden: Option<usize>,
    /// The full learning rate of its projector, where it is not `optimizer.projector_rate`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub projector_rate: Option<f64>,
    /// The prompt template of the package; asks plainly where it is left out.
    #[serde(default = "default_template")]
    pub template: String,
}

fn default_template() -> String {
    "{{ document }}\nQuestion: {{ question }}\nAnswer:".into()
}

/// What a projector starts from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Start {
    /// A regression from latents to token embeddings.
    #[default]
    Ridge,
    /// Random linear layers, special vectors of ones.
    Scratch,
    /// An adapter package.
    Package(PathBuf),
}

/// The text of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DataConfig {
    /// Corpora that `arc data prepare` made; none is needed where all steps answer questions.
    #[serde(default)]
    pub sources: Vec<SourceConfig>,
    /// The most encoder tokens that are compressed.
    #[serde(default = "default_tokens")]
    pub context_tokens: usize,
    /// How many encoder tokens are compressed, drawn for each step; `context_tokens` where it is empty.
    /// More than `context_tokens` are compressed in several contexts of one length.
    #[serde(default, skip_serializing_if = "is_default")]
    pub context_lengths: Vec<usize>,
    /// The most decoder tokens that are continued or repeated.
    #[serde(default = "default_tokens")]
    pub target_tokens: usize,
    /// The most tokens of text before the compressed span, for continuation.
    #[serde(default = "default_tokens")]
    pub prefix_tokens: usize,
    /// Latents for each dimension of the encoder that a ridge start is fitted on.
    #[serde(default = "default_fit_latents", skip_serializing_if = "is_default_fit")]
    pub fit_latents: usize,
    /// Shorter pieces of text are left out.
    #[serde(default = "default_shortest")]
    pub shortest: usize,
    /// Files of questions.
    #[serde(default)]
    pub questions: Vec<QuestionsConfig>,
    /// Whether the contexts of a question's document are followed by one special vector, as where a
    /// compressed document is asked about. Without it each of them is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub one_special: bool,
    /// How questions are put.
    #[serde(default, skip_serializing_if = "is_default")]
    pub question_form: QuestionForm,
}

/// How a question about a document is put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum QuestionForm {
    /// In the same words for every decoder.
    #[default]
    Plain,
    /// In the decoder's `template`, as it is asked when the run is over.
    Template,
}

/// A file of questions and its share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct QuestionsConfig {
    /// JSONL with fields `document`, `question` and `answer`, relative to the configuration file.
    pub path: PathBuf,
    /// Its share of the answer steps, on any scale.
    #[serde(default = "default_weight")]
    pub weight: f64,
    /// The most examples, of the same file, before the question that counts.
    #[serde(default)]
    pub shots: usize,
    /// What is to be answered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub targets: AnswerTargets,
    /// The first so many questions, half of them at most, are measured and not trained on, nor is any
    /// other question about their documents.
    #[serde(default = "default_held_out")]
    pub held_out: usize,
}

/// Which answer to a question is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AnswerTargets {
    /// The file's own.
    #[default]
    Answer,
    /// What each decoder itself answers when it reads the whole document, which
    /// a reader has written into the file: what a reader says of
    /// the text is what it should say of the latents.
    Decoder,
}

fn default_held_out() -> usize {
    32
}

fn default_tokens() -> usize {
    256
}

fn default_fit_latents() -> usize {
    16
}

fn is_default_fit(latents: &usize) -> bool {
    *latents == default_fit_latents()
}

fn default_shortest() -> usize {
    32
}

/// A corpus and its share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SourceConfig {
    /// The folder, relative to the configuration file.
    pub path: PathBuf,
    /// Its share, on any scale.
    #[serde(default = "default_weight")]
    pub weight: f64,
}

fn default_weight() -> f64 {
    1.0
}

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ObjectiveConfig {
    /// The share of steps that repeat the compressed text.
    pub reconstruction: f64,
    /// The share of steps that answer questions about compressed documents.
    pub answer: f64,
    /// The share of the loss that is the divergence from the decoder reading the full text.
    pub distillation: f64,
    /// The share of continuation and reconstruction steps that are put as instructions.
    pub instruct: f64,
    /// Where it is not 0, a text is repeated from a drawn place on, after so many of its tokens in plain.
    #[serde(skip_serializing_if = "is_default")]
    pub cue_tokens: usize,
}

impl Default for ObjectiveConfig {
    fn default() -> Self {
        Self { reconstruction: 0.2, answer: 0.0, distillation: 0.0, instruct: 0.0, cue_tokens: 0 }
    }
}

/// AdamW's settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct OptimizerConfig {
    /// The full learning rate of the encoder.
    pub encoder_rate: f64,
    /// The full learning rate of projectors.
    pub projector_rate: f64,
    /// The full learning rate of special vectors and memory tokens.
    pub special_rate: f64,
    /// The full learning rate of the logarithm of a scale of each projector's output, which is part of the
    /// projector in its package; 0 for none. Decoders differ in the size of their embeddings.
    #[serde(skip_serializing_if = "is_default")]
    pub scale_rate: f64,
    /// The decay of the running mean of gradients.
    pub beta1: f64,
    /// The decay of the running mean of their squares.
    pub beta2: f64,
    /// Keeps the division finite.
    pub epsilon: f64,
    /// The pull of matrices towards zero.
    pub weight_decay: f64,
    /// Gradients of a larger norm are scaled down to it.
    pub clip_norm: f64,
}

setters!(OptimizerConfig {
    encoder_rate: f64,
    projector_rate: f64,
    special_rate: f64,
    scale_rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    clip_norm: f64,
});

impl Default for OptimizerConfig {
    /// The paper's rates.
    fn default() -> Self {
        Self {
            encoder_rate: 1e-5,
            projector_rate: 5e-5,
            special_rate: 1e-5,
            scale_rate: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        }
    }
}

/// How long a run is, and what is written when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ScheduleConfig {
    /// Steps of the optimiser.
    pub steps: u64,
    /// Samples in a batch.
    pub batch: usize,
    /// Batches in a step.
    #[serde(default = "default_one")]
    pub accumulation: usize,
    /// Steps until the full learning rate.
    #[serde(default)]
    pub warmup: u64,
    /// How the rate goes from there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shape: ScheduleShape,
    /// How many steps the rate of a [`ScheduleShape::WarmupStableDecay`] takes to come down: the last of
    /// `steps`, or those after a run is told to end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub decay_steps: u64,
    /// The first rate is the full one divided by this.
    #[serde(default = "default_start_divisor")]
    pub start_divisor: f64,
    /// The last rate is the full one divided by this.
    #[serde(default = "default_end_divisor")]
    pub end_divisor: f64,
    /// Losses are read from the device after so many steps.
    #[serde(default = "default_one_step")]
    pub log_every: u64,
    /// A checkpoint is written after so many steps.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// The last so many checkpoints are kept, and the best.
    #[serde(default = "default_keep")]
    pub keep: usize,
    /// A loss this much above its running mean stops the run, in nats.
    #[serde(default = "default_spike")]
    pub spike: f64,
}

/// How the rate goes after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ScheduleShape {
    /// Down along a cosine over all the other steps.
    #[default]
    OneCycle,
    /// Constant, and down over the last `decay_steps`, which may be begun at any time: such a run has no
    /// length of its own.
    WarmupStableDecay,
}

impl ScheduleShape {
    /// The name that a configuration has for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OneCycle => "one_cycle",
            Self::WarmupStableDecay => "warmup_stable_decay",
        }
    }
}

fn default_one() -> usize {
    1
}

fn default_one_step() -> u64 {
    1
}

fn default_start_divisor() -> f64 {
    25.0
}

fn default_end_divisor() -> f64 {
    1e4
}

fn default_checkpoint_every() -> u64 {
    200
}

fn default_keep() -> usize {
    2
}

fn default_spike() -> f64 {
    6.0
}

/// What is measured as a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EvaluationConfig {
    /// Measure after so many steps; 0 only at the end.
    pub every: u64,
    /// Samples measured.
    pub samples: usize,
    /// Which text they are of.
    #[serde(skip_serializing_if = "is_default")]
    pub on: MeasuredText,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self { every: 200, samples: 24, on: MeasuredText::default() }
    }
}

/// The text that a run is measured on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MeasuredText {
    /// What was kept from training.
    #[default]
    HeldOut,
    /// What is trained on: whether a model can learn a text by heart at all. Questions that are
    /// measured are held out all the same.
    Training,
}

impl MeasuredText {
    /// Its name in a card's scores.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::HeldOut => "held_out",
            Self::Training => "training",
        }
    }

    /// Its name in words.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::HeldOut => "Held-out text",
            Self::Training => "Text that is trained on",
        }
    }
}

impl RunConfig {
    /// Reads and checks a file: TOML, or the `config.json` of a run. Paths in it are relative to
    /// its folder.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if it cannot be read, [`Error::InvalidConfig`] for an unknown key, a wrong
    /// type or settings that contradict each other.
    pub fn open(path: &Path) -> Result<Self> {
        let text = read_text(path, DESCRIPTION.called("run configuration"))?;
        let is_json = path.extension().is_some_and(|extension| extension == "json");
        let mut config = if is_json { Self::parse_json(&text, path)? } else { Self::parse(&text, path)? };
        let folder = path.parent().unwrap_or(Path::new("."));
        config.paths().for_each(|path| *path = folder.join(&path));
        Ok(config)
    }

    /// Whether so many processes can share the batches of a step evenly.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidValue`] if they cannot.
    pub fn check_shared_by(&self, processes: usize) -> Result<()> {
        let batches = self.schedule.accumulation;
        if processes > 0 && batches.is_multiple_of(processes) {
            return Ok(());
        }
        Err(Error::InvalidValue {
            what: "`schedule.accumulation`".into(),
            found: batches.to_string(),
            expected: format!("a number of batches that {processes} processes can share evenly"),
        })
    }

    /// The configuration with what `replace` makes of each of its paths.
    #[must_use]
    pub(super) fn with_paths(&self, replace: impl Fn(&Path) -> PathBuf) -> Self {
        let mut config = self.clone();
        config.paths().for_each(|path| *path = replace(path));
        config
    }

    /// What a run keeps from its beginning to its end: its precision may be another where it is resumed, and an
    /// open-ended one may be told of more steps.
    pub(super) fn lasting(&self) -> Self {
        let mut config = self.clone();
        config.precision = TrainPrecision::default();
        if config.schedule.shape == ScheduleShape::WarmupStableDecay {
            config.schedule.steps = 0;
        }
        config
    }

    /// The configuration as it stands in the cards of packages, which are handed on: paths by their last
    /// part, since the others say something of the machine and nothing of the run.
    pub(super) fn for_cards(&self) -> Self {
        let mut config = self.clone();
        config.paths().for_each(|path| *path = path.file_name().map(PathBuf::from).unwrap_or_default());
        config
    }

    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let start_from = match &mut self.start_from {
            Some(StartFrom::Folder(folder)) => Some(folder),
            _ => None,
        };
        (self.data.sources.iter_mut().map(|source| &mut source.path))
            .chain(start_from)
            .chain(self.data.questions.iter_mut().map(|questions| &mut questions.path))
            .chain(self.decoders.iter_mut().filter_map(|decoder| match &mut decoder.start {
                Start::Package(path) => Some(path),
                _ => None,
            }))
    }

    fn parse_json(text: &str, origin: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidConfig { path: origin.to_owned(), reason };
        let config: Self = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
        match config.contradiction() {
            Some(reason) => Err(invalid(reason)),
            None => Ok(config),
        }
    }

    /// Reads and checks a configuration; `origin` is the file named in errors.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::open`].
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::InvalidConfig { path: origin.to_owned(), reason };
        let config: Self = arc_adapters::from_toml(text).map_err(invalid)?;
        match config.contradiction() {
            Some(reason) => Err(invalid(reason)),
            None => Ok(config),
        }
    }

    fn contradiction(&self) -> Option<String> {
        let Self { encoder, decoders, data, objective, optimizer, schedule, .. } = self;
        let share = |name: &str, value: f64| {
            (!(0.0..=1.0).contains(&value)).then(|| format!("`{name}` is {value}, expected 0 to 1"))
        };
        // At 1 a mean never moves, and its bias cannot be divided out.
        let decay = |name: &str, value: f64| {
            (!(0.0..1.0).contains(&value)).then(|| format!("`{name}` is {value}, expected 0 to below 1"))
        };
        let positive = |name: &str, value: f64| {
            (!(value > 0.0 && value.is_finite()))
                .then(|| format!("`{name}` is {value}, expected more than 0"))
        };
        let not_negative = |name: &str, value: f64| {
            (!(value >= 0.0 && value.is_finite())).then(|| format!("`{name}` is {value}, expected 0 or more"))
        };
        let at_least_one =
            |name: &str, value: usize| (value == 0).then(|| format!("`{name}` is 0, expected at least 1"));
        let mut names: Vec<&str> = decoders.iter().map(|decoder| decoder.name.as_str()).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        let checks = [
            match (&encoder.backbone, &encoder.start) {
                (Some(_), Some(_)) => {
                    Some("`encoder.backbone` and `encoder.start` are both given: one is needed".into())
                }
                (None, None) if self.start_from.is_none() => {
                    Some("`encoder` has neither `backbone` nor `start`".into())
                }
                (None, Some(_)) if encoder.layers.is_some() => {
                    Some("`encoder.layers` is given, but `encoder.start` says how many there are".into())
                }
                _ => None,
            },
            (encoder.layers == Some(0)).then(|| "`encoder.layers` is 0, expected at least 1".into()),
            encoder.pooling_factors.is_empty().then(|| "`encoder.pooling_factors` is empty".into()),
            encoder
                .pooling_factors
                .iter()
                .find(|&&factor| !(1..=4096).contains(&factor))
                .map(|factor| format!("`encoder.pooling_factors` has {factor}, expected 1 to 4096")),
            factor_weights_fault("encoder.factor_weights", encoder, &encoder.factor_weights),
            factor_weights_fault(
                "encoder.factor_weights_in_decay",
                encoder,
                &encoder.factor_weights_in_decay,
            ),
            (!encoder.factor_weights_in_decay.is_empty()
                && schedule.shape != ScheduleShape::WarmupStableDecay)
                .then(|| {
                    "`encoder.factor_weights_in_decay` is given, but `schedule.shape` is not \
                     `warmup_stable_decay`"
                        .into()
                }),
            encoder.start.as_ref().and_then(|_| {
                let given = [
                    ("pool_type", encoder.pool_type.is_some()),
                    ("groups", encoder.groups != Groups::Even),
                    ("causal", encoder.causal.is_some()),
                    ("chunk_tokens", encoder.chunk_tokens.is_some()),
                ];
                let (name, _) = given.into_iter().find(|(_, given)| *given)?;
                Some(format!("`encoder.{name}` is given, but it is that of `encoder.start`"))
            }),
            encoder
                .pool_type
                .as_deref()
                .filter(|name| encoder.groups == Groups::RareWords && name.contains("kmeans"))
                .map(|name| {
                    format!("`encoder.groups` is `rare_words`, but `{name}` makes groups of its own")
                }),
            encoder
                .pool_type
                .as_deref()
                .filter(|name| name.contains("kmeans"))
                .filter(|_| decoders.iter().any(|decoder| decoder.start == Start::Ridge))
                .map(|name| {
                    format!(
                        "`encoder.pool_type` is `{name}`, but a decoder's `start` is `ridge`, which is fitted \
                         on groups of consecutive positions"
                    )
                }),
            encoder.chunk_tokens.and_then(|tokens| at_least_one("encoder.chunk_tokens", tokens)),
            match encoder.train {
                TrainedPart::LastLayers(0) => Some("`encoder.train` has 0 layers: use `none`".into()),
                TrainedPart::Lora { rank: 0, .. } => Some("`encoder.train` has rank 0: use `none`".into()),
                TrainedPart::Lora { .. } if encoder.train_embedding => Some(
                    "`encoder.train_embedding` is set, but a LoRA package has no room for a table".into(),
                ),
                TrainedPart::None if encoder.train_embedding => {
                    Some("`encoder.train_embedding` is set, but `encoder.train` is `none`".into())
                }
                _ => None,
            },
            decoders.is_empty().then(|| "`decoders` is empty".into()),
            decoders.iter().find(|decoder| decoder.hidden.is_some() && decoder.start != Start::Scratch).map(
                |decoder| {
                    format!(
                        "`hidden` of decoder `{}` is given, but its `start` says how wide it is",
                        decoder.name
                    )
                },
            ),
            decoders.iter().find_map(|decoder| {
                decoder.projector_rate.and_then(|rate| not_negative("decoders.projector_rate", rate))
            }),
            twice.map(|name| format!("`decoders` has `{name}` twice")),
            (data.sources.is_empty() && objective.answer < 1.0).then(|| "`data.sources` is empty".into()),
            (data.sources.is_empty() && decoders.iter().any(|decoder| decoder.start == Start::Ridge)).then(
                || {
                    "`data.sources` is empty, but a decoder's `start` is `ridge`, which is fitted on text"
                        .into()
                },
            ),
            data.sources.iter().find_map(|source| positive("data.sources.weight", source.weight)),
            data.questions.iter().find_map(|file| positive("data.questions.weight", file.weight)),
            at_least_one("data.context_tokens", data.context_tokens),
            data.context_lengths.iter().find(|&&length| length < SHORTEST_CONTEXT).map(|length| {
                format!("`data.context_lengths` has {length}, expected at least {SHORTEST_CONTEXT}")
            }),
            at_least_one("data.target_tokens", data.target_tokens),
            (data.shortest < 16)
                .then(|| format!("`data.shortest` is {}, expected at least 16", data.shortest)),
            encoder.start.is_none().then_some(encoder.chunk_tokens.unwrap_or(DEFAULT_CHUNK_TOKENS)).and_then(
                |chunk| {
                    (data.context_tokens > chunk).then(|| {
                        format!(
                            "`data.context_tokens` is {}, but `encoder.chunk_tokens` is {chunk}",
                            data.context_tokens
                        )
                    })
                },
            ),
            data.questions
                .windows(2)
                .find(|pair| pair[0].path == pair[1].path)
                .map(|pair| format!("`data.questions` has `{}` twice", pair[0].path.display())),
            share("objective.reconstruction", objective.reconstruction),
            share("objective.answer", objective.answer),
            share("objective.distillation", objective.distillation),
            share("objective.instruct", objective.instruct),
            (objective.reconstruction + objective.answer > 1.0)
                .then(|| "`objective.reconstruction` and `objective.answer` are more than 1 together".into()),
            (objective.answer > 0.0 && data.questions.is_empty())
                .then(|| "`objective.answer` is set, but `data.questions` is empty".into()),
            (objective.answer == 0.0 && !data.questions.is_empty())
                .then(|| "`data.questions` is given, but `objective.answer` is 0".into()),
            not_negative("optimizer.encoder_rate", optimizer.encoder_rate),
            not_negative("optimizer.projector_rate", optimizer.projector_rate),
            not_negative("optimizer.special_rate", optimizer.special_rate),
            not_negative("optimizer.scale_rate", optimizer.scale_rate),
            not_negative("optimizer.weight_decay", optimizer.weight_decay),
            positive("optimizer.clip_norm", optimizer.clip_norm),
            positive("optimizer.epsilon", optimizer.epsilon),
            decay("optimizer.beta1", optimizer.beta1),
            decay("optimizer.beta2", optimizer.beta2),
            (schedule.steps == 0).then(|| "`schedule.steps` is 0, expected at least 1".into()),
            at_least_one("schedule.batch", schedule.batch),
            at_least_one("schedule.accumulation", schedule.accumulation),
            at_least_one("schedule.keep", schedule.keep),
            (schedule.log_every == 0).then(|| "`schedule.log_every` is 0, expected at least 1".into()),
            (schedule.checkpoint_every == 0)
                .then(|| "`schedule.checkpoint_every` is 0, expected at least 1".into()),
            (schedule.warmup > schedule.steps).then(|| {
                format!(
                    "`schedule.warmup` is {}, but `schedule.steps` is {}",
                    schedule.warmup, schedule.steps
                )
            }),
            match schedule.shape {
                ScheduleShape::OneCycle if schedule.decay_steps > 0 => Some(
                    "`schedule.decay_steps` is given, but `schedule.shape` is not `warmup_stable_decay`"
                        .into(),
                ),
                ScheduleShape::WarmupStableDecay if schedule.decay_steps == 0 => {
                    Some("`schedule.decay_steps` is 0, expected at least 1".into())
                }
                ScheduleShape::WarmupStableDecay
                    if schedule.warmup.saturating_add(schedule.decay_steps) > schedule.steps =>
                {
                    Some(format!(
                        "`schedule.warmup` and `schedule.decay_steps` are {} and {}, but `schedule.steps` is {}",
                        schedule.warmup, schedule.decay_steps, schedule.steps
                    ))
                }
                _ => None,
            },
            positive("schedule.start_divisor", schedule.start_divisor),
            positive("schedule.end_divisor", schedule.end_divisor),
            positive("schedule.spike", schedule.spike),
        ];
        checks.into_iter().flatten().next()
    }

    /// The most encoder tokens that a step reads of one document.
    pub(super) fn window_tokens(&self) -> usize {
        // A target token of a decoder may stand for more text than one of the encoder.
        let context = self.data.context_lengths.iter().copied().max().unwrap_or(self.data.context_tokens);
        self.data.prefix_tokens + context + self.data.target_tokens + super::objective::SLACK
    }
}

/// What is wrong with the weights of a run's pooling factors; none are all alike.
fn factor_weights_fault(name: &str, encoder: &EncoderConfig, weights: &[f64]) -> Option<String> {
    let factors = encoder.pooling_factors.len();
    if weights.is_empty() {
        return None;
    }
    if weights.len() != factors {
        return Some(format!(
            "`{name}` has {} weights, but `encoder.pooling_factors` has {factors}",
            weights.len()
        ));
    }
    if let Some(weight) = weights.iter().find(|weight| !(**weight >= 0.0 && weight.is_finite())) {
        return Some(format!("`{name}` has {weight}, expected 0 or more"));
    }
    if weights.iter().sum::<f64>() <= 0.0 {
        return Some(format!("`{name}` is all 0"));
    }
    encoder
        .factor_curriculum
        .then(|| format!("`{name}` is given, but with `encoder.factor_curriculum` no factor is drawn"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
[encoder]
name = "e"
backbone = "smollm2-135m"
layers = 2

[[decoders]]
name = "smollm2-135m"

[data]
sources = [{ path = "corpus" }]

[schedule]
steps = 10
batch = 2
"#;

    fn parse(text: &str) -> Result<RunConfig> {
        RunConfig::parse(text, Path::new("run.toml"))
    }

    #[test]
    fn what_is_left_out_is_the_papers() {
        let config = parse(EXAMPLE).unwrap();
        assert_eq!(config.optimizer.encoder_rate, 1e-5);
        assert_eq!(config.optimizer.projector_rate, 5e-5);
        assert_eq!(config.objective.reconstruction, 0.2);
        assert_eq!((config.data.context_tokens, config.data.target_tokens), (256, 256));
        assert_eq!(config.encoder.train, TrainedPart::All);
    }

    #[test]
    fn contradictions_and_unknown_keys_are_refused_with_their_name() {
        for (from, to, expected) in [
            ("steps = 10", "steps = 10\nspeed = 3", "unknown field `speed`"),
            ("steps = 10", "steps = \"ten\"", "line 14: invalid type"),
            ("layers = 2", "layers = 2\nstart = \"x\"", "`encoder.backbone` and `encoder.start`"),
            ("backbone = \"smollm2-135m\"\nlayers = 2", "", "neither `backbone` nor `start`"),
            ("layers = 2", "layers = 2\npooling_factors = [0]", "`encoder.pooling_factors` has 0"),
            ("layers = 2", "layers = 2\nchunk_tokens = 64", "`data.context_tokens` is 256"),
            ("layers = 2", "layers = 2\ntrain = { lora = { rank = 0, alpha = 1 } }", "rank 0"),
            ("steps = 10", "steps = 10\nwarmup = 11", "`schedule.warmup` is 11"),
            ("batch = 2", "batch = 0", "`schedule.batch` is 0"),
            ("[schedule]", "[objective]\nanswer = 0.5\n[schedule]", "`data.questions` is empty"),
            ("[schedule]", "[objective]\nreconstruction = 1.5\n[schedule]", "expected 0 to 1"),
            (
                "[data]",
                "[[decoders]]\nname = \"smollm2-135m\"\n[data]",
                "`decoders` has `smollm2-135m` twice",
            ),
            ("sources = [{ path = \"corpus\" }]", "sources = []", "`data.sources` is empty"),
            ("name = \"smollm2-135m\"\n", "name = \"smollm2-135m\"\nhidden = 8\n", "`hidden` of decoder"),
            (
                "backbone = \"smollm2-135m\"\nlayers = 2",
                "start = \"x\"\ncausal = true",
                "`encoder.causal` is given",
            ),
            ("[data]", "[data]\nshots = 2", "unknown field `shots`"),
            (
                "[schedule]",
                "[optimizer]\nbeta1 = 1\n[schedule]",
                "`optimizer.beta1` is 1, expected 0 to below 1",
            ),
            ("[schedule]", "[optimizer]\nbeta2 = 1.0\n[schedule]", "`optimizer.beta2` is 1"),
            (
                "layers = 2",
                "layers = 2\npool_type = 'metric_kmeans_cosine_pooled_queries'",
                "a decoder's `start` is `ridge`",
            ),
        ] {
            let text = EXAMPLE.replacen(from, to, 1);
            assert_ne!(text, EXAMPLE);
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
