//! Everything that a run reads before its first step: models, text, questions, and the starts of its adapters.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_adapters::{Adapter, EncoderManifest, sha256_file};
use burn::tensor::{Device, FloatDType};

use super::config::{EncoderConfig, Groups, RunConfig, Start, TrainPrecision, TrainedPart};
use super::corpus::{Corpus, Mixture};
use super::draw::{Purpose, mix};
use super::model::{TrainedAdapter, TrainedModel};
use super::observer::Observer;
use super::package::{EncoderStart, backbone_manifest, compress_rates};
use super::questions::Questions;
use super::start_from::Started;
use crate::decoder::Decoder;
use crate::encoder::{Encoder, EncoderNetwork, TokenRarity, encoder_id, layers_of_package};
use crate::fit::Fit;
use crate::host::multiplies_bfloat16;
use crate::nn::Residence;
use crate::{Error, Result, Session};

/// A ridge start is fitted on so many texts at least.
const RIDGE_TEXTS: u64 = 40;

/// A run's parts, loaded.
pub(super) struct Parts {
    pub(super) encoder_start: EncoderStart,
    pub(super) decoders: Vec<Decoder>,
    pub(super) mixture: Mixture,
    pub(super) questions: Questions,
    pub(super) model: TrainedModel,
    pub(super) device: Device,
}

/// Loads everything that a run needs. A run that goes on takes its weights from the checkpoint, so
/// nothing is fitted for it.
pub(super) fn load(
    started: &Started,
    session: &Session,
    out: &Path,
    resumes: bool,
    observer: &mut dyn Observer,
) -> Result<Parts> {
    let device = session.device().clone();
    let config = &started.config;
    let (encoder_start, mut encoder) = open_encoder(started, session, &device)?;
    let products = Products::of(config, &device)?;
    let decoders = config
        .decoders
        .iter()
        .map(|decoder| products.decoder(session, &decoder.name))
        .collect::<Result<Vec<_>>>()?;
    let mut corpora = Vec::new();
    for source in &config.data.sources {
        let corpus =
            Corpus::open(&source.path, &encoder.tokenizer, config.window_tokens(), config.data.shortest)?;
        corpora.push((corpus, source.weight));
    }
    let mixture = Mixture::new(corpora, config.seed)?;
    if config.encoder.groups == Groups::RareWords {
        let vocabulary = encoder.network.vocabulary();
        let rarity = TokenRarity::of_text(mixture.tokens()?, vocabulary, &encoder.tokenizer);
        encoder.network = encoder.network.clone().with_rarity(Arc::new(rarity));
    }
    let questions = match config.data.questions.as_slice() {
        [] => Questions::default(),
        _ => Questions::open(config, &encoder.tokenizer)?,
    };
    let mut adapters = Vec::new();
    for (index, (decoder, settings)) in decoders.iter().zip(&config.decoders).enumerate() {
        let d_encoder = encoder.network.d_model();
        let d_decoder = decoder.network.config().d_model();
        let seed = mix(mix(config.seed ^ Purpose::Weights as u64) ^ index as u64);
        adapters.push(match &settings.start {
            Start::Package(folder) => TrainedAdapter::from_package(&Adapter::open(folder)?, &device)?,
            Start::Ridge => {
                let folder = out.join("start").join(&decoder.name);
                // A run that goes on takes its shape from the start that it made, and its weights
                // from the checkpoint.
                if !resumes {
                    observer.message(&format!("fitting a start for `{}`", decoder.name));
                    let factor = config.encoder.pooling_factors[0];
                    let factor = (factor, config.data.fit_latents);
                    ridge_start(&encoder, decoder, factor, &mixture, &settings.template, &folder)?;
                }
                TrainedAdapter::from_package(&Adapter::open(&folder)?, &device)?
            }
            Start::Scratch => {
                let hidden = settings.hidden.unwrap_or(d_decoder);
                let spec = arc_adapters::ProjectorSpec::two_linear(d_encoder, hidden, d_decoder);
                TrainedAdapter::from_scratch(spec, d_encoder, seed, &device)?
            }
        });
    }
    if config.optimizer.scale_rate > 0.0 {
        adapters = adapters.into_iter().map(TrainedAdapter::with_scale).collect::<Result<_>>()?;
    }
    let model = products.model(TrainedModel { encoder: encoder.trainable()?.clone(), adapters });
    Ok(Parts { encoder_start, decoders, mixture, questions, model, device })
}

/// What a run computes products in.
#[derive(Clone, Copy)]
pub(super) enum Products {
    /// As everything else.
    Float32,
    /// On host memory, which has products of its own.
    OnHost(FloatDType),
    /// In burn's graph.
    InGraph(FloatDType),
}

impl Products {
    pub(super) fn of(config: &RunConfig, device: &Device) -> Result<Self> {
        let is_on_host = *device == Device::flex();
        match config.precision {
            TrainPrecision::F32 => Ok(Self::Float32),
            TrainPrecision::Bf16 if is_on_host && multiplies_bfloat16() => Ok(Self::OnHost(FloatDType::BF16)),
            TrainPrecision::Bf16 if is_on_host || !device.supports_dtype(FloatDType::BF16) => {
                Err(Error::Device {
                    name: if is_on_host { "cpu".into() } else { format!("{device:?}") },
                    reason: "it does not multiply in bfloat16, which `precision` asks for".into(),
                    hint: "leave out `precision`, or train on a processor or GPU that has it".into(),
                })
            }
            TrainPrecision::Bf16 => Ok(Self::InGraph(FloatDType::BF16)),
        }
    }

    /// A decoder of the registry, its matrices kept in this type.
    pub(super) fn decoder(self, session: &Session, name: &str) -> Result<Decoder> {
        let mut decoder = session.dense_model(name)?;
        if let Self::OnHost(products) | Self::InGraph(products) = self {
            decoder.network = decoder.network.with_matrices_in(products);
        }
        Ok(decoder)
    }

    pub(super) fn model(self, model: TrainedModel) -> TrainedModel {
        match self {
            Self::Float32 => model,
            Self::InGraph(products) => model.with_products_in(products),
            // burn takes bfloat16 on the CPU only to compute in 32 bits.
            Self::OnHost(products) => model.with_products_on_host_in(products),
        }
    }
}

/// The encoder that a run starts from, with the manifest of its package.
pub(super) fn open_encoder(
    started: &Started,
    session: &Session,
    device: &Device,
) -> Result<(EncoderStart, Encoder)> {
    let Started { config, package } = started;
    let settings = &config.encoder;
    let named = match (package, &settings.start) {
        (Some(package), _) => Some(package.clone()),
        (None, Some(name)) => Some(session.registry().encoder(name)?.package.clone()),
        (None, None) => None,
    };
    if let Some(package) = named {
        let mut manifest = EncoderManifest::open(&package)?;
        check_start(config, &manifest.name, &manifest)?;
        let backbone = backbone_of(&manifest, session)?;
        let open = |manifest: &_| {
            Encoder::open_as(manifest, &package, backbone.as_deref(), device, Residence::Dense)
        };
        let found = layers_of_package(&manifest, &package, backbone.as_deref())?;
        let encoder = match settings.layers {
            Some(layers) if layers > found => {
                let deeper = deepened(manifest, (found, layers), settings, open)?;
                manifest = deeper.0;
                deeper.1
            }
            Some(layers) if layers < found => {
                return Err(Error::Mismatch {
                    what: format!("encoder `{}` (`encoder.layers`)", manifest.name),
                    expected: layers.to_string(),
                    found: found.to_string(),
                    hint: "leave out `encoder.layers`, or give more than what the run starts from has".into(),
                });
            }
            // Said again by a configuration that goes on from what it made.
            _ => open(&manifest)?,
        };
        manifest.name.clone_from(&settings.name);
        if manifest.memory_tokens == 0 {
            manifest.compress_rates = compress_rates(settings);
        }
        check_layers(settings, &encoder)?;
        return Ok((EncoderStart { manifest, package: Some(package) }, encoder));
    }
    let name = settings.backbone.as_deref().unwrap_or_default();
    let model = session.decoder(name)?;
    let registry = session.registry();
    let entry = registry.decoder(name)?;
    let sha256 = match &entry.model.sha256 {
        Some(sha256) => sha256.clone(),
        None => sha256_file(model.path())?,
    };
    let network = model.network.config();
    let manifest = backbone_manifest(settings, &entry.name, &sha256, network.d_model(), network.n_layers)?;
    let encoder =
        Encoder::open_as(&manifest, Path::new(&settings.name), Some(model.path()), device, Residence::Dense)?;
    check_layers(settings, &encoder)?;
    Ok((EncoderStart { manifest, package: None }, encoder))
}

/// The encoder of a package with more of its backbone's layers, before those that pool, and the manifest of
/// that. What it computes is the same at first: the branches of the layers that come in end in zeros, from
/// which they learn (as LLaMA Pro expands a model, arXiv 2401.02415).
fn deepened(
    mut manifest: EncoderManifest,
    (before, layers): (usize, usize),
    settings: &EncoderConfig,
    open: impl Fn(&EncoderManifest) -> Result<Encoder>,
) -> Result<(EncoderManifest, Encoder)> {
    let invalid = |reason: String| Error::InvalidEncoder { encoder: manifest.name.clone(), reason };
    if settings.train != TrainedPart::All {
        // A package holds what is trained by the places of layers, which change here.
        return Err(invalid(format!(
            "it has {before} layers and `encoder.layers` is {layers}: that needs `encoder.train = \"all\"`"
        )));
    }
    let added = layers - before;
    let left = manifest.backbone.as_ref().map_or(0, |_| manifest.n_truncated_layers);
    let Some(n_truncated_layers) = left.checked_sub(added) else {
        return Err(invalid(format!(
            "`encoder.layers` is {layers}, but it has {before} and its backbone {left} more"
        )));
    };
    manifest.n_truncated_layers = n_truncated_layers;
    manifest.encoder_id = encoder_id(&manifest);
    let mut encoder = open(&manifest)?;
    // See `check_start`: the last layer pools, or none does.
    let first = before - usize::from(!manifest.compress_rates.is_empty());
    encoder.network = EncoderNetwork::Graph(encoder.trainable()?.clone().with_silent_layers(first, added));
    Ok((manifest, encoder))
}

/// Refuses a start that a run cannot go on from: a step pools once, by one factor.
fn check_start(config: &RunConfig, name: &str, manifest: &EncoderManifest) -> Result<()> {
    let invalid = |reason: String| Err(Error::InvalidEncoder { encoder: name.to_owned(), reason });
    let rates = &manifest.compress_rates;
    let is_one_factor =
        rates.last().is_none_or(|&rate| rate < 0) && rates.iter().rev().skip(1).all(|&rate| rate == -1);
    if !is_one_factor {
        return invalid(format!(
            "it pools with rates {rates:?}: only one layer that pools by a factor can be trained"
        ));
    }
    if manifest.memory_tokens > 0 && config.encoder.pooling_factors.len() > 1 {
        return invalid(
            "it has memory tokens and pools nothing: give one of `encoder.pooling_factors`".into(),
        );
    }
    if config.data.context_tokens > manifest.chunk_tokens {
        return invalid(format!(
            "it has chunks of {} tokens, but `data.context_tokens` is {}",
            manifest.chunk_tokens, config.data.context_tokens
        ));
    }
    Ok(())
}

fn check_layers(settings: &EncoderConfig, encoder: &Encoder) -> Result<()> {
    match (&settings.train, encoder.network.config().n_layers) {
        (&TrainedPart::LastLayers(count), layers) if count > layers => Err(Error::InvalidValue {
            what: "`encoder.train`".into(),
            found: format!("the last {count} layers"),
            expected: format!("at most the {layers} that the encoder has"),
        }),
        _ => Ok(()),
    }
}

/// The encoder of a package with dense weights.
pub(super) fn open_encoder_of(
    manifest: &EncoderManifest,
    package: &Path,
    session: &Session,
    device: &Device,
) -> Result<Encoder> {
    let backbone = backbone_of(manifest, session)?;
    Encoder::open_as(manifest, package, backbone.as_deref(), device, Residence::Dense)
}

/// The file of an encoder's backbone, if it has one.
fn backbone_of(manifest: &EncoderManifest, session: &Session) -> Result<Option<PathBuf>> {
    manifest.backbone.is_some().then(|| session.backbone(manifest)).transpose()
}

/// Fits an adapter at a pooling factor on so many latents for each dimension of the encoder, of the first
/// windows of the text, and writes it as a package.
pub(super) fn ridge_start(
    encoder: &Encoder,
    decoder: &Decoder,
    (factor, latents): (usize, usize),
    mixture: &Mixture,
    template: &str,
    folder: &Path,
) -> Result<()> {
    let mut fit = Fit::new(encoder, decoder, factor)?;
    let enough = latents * encoder.network.d_model();
    let all: u64 = mixture.corpora().iter().map(|(corpus, _)| corpus.windows()).sum();
    for number in 0..all {
        for window in mixture.windows(number, 1)? {
            fit.add(&window.text)?;
        }
        // One text in ten is kept from the fit to judge it by.
        if fit.latents() >= enough && number >= RIDGE_TEXTS {
            break;
        }
    }
    let report = fit.finish(&decoder.name, template)?;
    arc_adapters::AdapterPackage::write(folder, &report.manifest, &report.tensors)?;
    Ok(())
}
