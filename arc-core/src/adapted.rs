//! A decoder with its adapter: what reads latents and answers.

use std::sync::{Arc, Mutex, PoisonError};

use arc_adapters::{Adapter, AnswerEnd, Append, Pin};
use burn::tensor::{Tensor, TensorData};
use serde::Serialize;

use crate::decoder::{Decoder, GenerateOptions, Generations};
use crate::encoder::Latents;
use crate::projector::Projector;
use crate::prompt::Prompt;
use crate::prompt::{PromptPart, PromptTemplate};
use crate::{Error, Result};

/// Which learned vector follows the latents of a context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecialVector {
    /// What the adapter's manifest says: `<Cont>` or nothing.
    #[default]
    Usual,
    /// `<Rec>`: the text is to be repeated.
    Rec,
    /// None, as in the paper's long-context mode.
    None,
}

/// A frozen decoder and the adapter that maps latents into its embedding space.
#[derive(Debug)]
#[non_exhaustive]
pub struct AdaptedDecoder {
    /// The language model.
    pub decoder: Arc<Decoder>,
    /// What the adapter's package says.
    pub adapter: Adapter,
    projector: Projector,
    /// `[1, d_encoder]`, appended after the latents of each context that is to be read.
    cont: Option<Tensor<2>>,
    /// `[1, d_encoder]`, appended after the latents of a context that is to be repeated.
    rec: Option<Tensor<2>>,
    template: PromptTemplate,
    answer_ends: AnswerEnd,
    pins: Pins,
    overridden: Mutex<Vec<OverriddenPin>>,
}

/// What happens where an adapter was made for another encoder, embedding table, tokenizer or
/// architecture than the one at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pins {
    /// It is an error.
    #[default]
    Checked,
    /// It is recorded, and the adapter is used.
    Overridden,
}

impl Pins {
    /// The pin of an error that does not fit, where pins are overridden; else the error.
    pub(crate) fn excuse(self, error: arc_adapters::Error) -> Result<OverriddenPin> {
        use arc_adapters::Error::{PackageChanged, PinMismatch};
        match error {
            PinMismatch { adapter, what: pin, expected, found } if self == Self::Overridden => {
                Ok(OverriddenPin { adapter, pin, expected, found })
            }
            PackageChanged { adapter, expected, found, .. } if self == Self::Overridden => {
                Ok(OverriddenPin { adapter, pin: Pin::Package, expected, found })
            }
            error => Err(error.into()),
        }
    }
}

/// A pin that did not fit, and was overridden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OverriddenPin {
    /// The adapter's name.
    pub adapter: String,
    /// What differs.
    pub pin: Pin,
    /// What the adapter was made for.
    pub expected: String,
    /// What is at hand.
    pub found: String,
}

impl AdaptedDecoder {
    /// The pooling factors that the adapter was made for, where it names some and `factor` is none of
    /// them. Latents of another rate can be read, but nobody has seen how well.
    #[must_use]
    pub fn other_factors(&self, factor: usize) -> Option<&[u32]> {
        let made_for = &self.adapter.manifest.pooling_factors;
        let known = made_for.is_empty() || made_for.iter().any(|known| *known as usize == factor);
        (!known).then_some(made_for)
    }

    /// Puts an adapter before a decoder.
    ///
    /// # Errors
    ///
    /// An error of the adapter if it was made for another decoder, saying which of the pinned
    /// hashes differs; [`Error::Template`] for a template that cannot be read.
    pub fn new(decoder: Arc<Decoder>, adapter: Adapter) -> Result<Self> {
        Self::with_pins(decoder, adapter, Pins::Checked)
    }

    /// Puts an adapter before a decoder, with a say in what its pins mean.
    ///
    /// # Errors
    ///
    /// As [`AdaptedDecoder::new`]; widths that do not fit are an error in any case.
    pub fn with_pins(decoder: Arc<Decoder>, adapter: Adapter, pins: Pins) -> Result<Self> {
        let mismatches = adapter.manifest.decoder_mismatches(
            decoder.network.config().architecture.name(),
            decoder.embedding_sha256(),
            decoder.tokenizer.sha256(),
        );
        let overridden = Mutex::default();
        for mismatch in mismatches {
            override_pin(mismatch, pins, &overridden)?;
        }
        let d_model = decoder.network.config().d_model();
        if adapter.manifest.d_decoder != d_model {
            return Err(Error::Mismatch {
                what: format!("adapter `{}` (d_decoder)", adapter.manifest.name),
                expected: adapter.manifest.d_decoder.to_string(),
                found: d_model.to_string(),
                hint: "fit an adapter for this decoder with `arc fit`".into(),
            });
        }
        let device = decoder.network.device();
        let projector = Projector::from_adapter(&adapter, device)?;
        let vector = |name: &str| -> Result<Tensor<2>> {
            let vector = adapter.weights.tensor(name)?;
            let shape = [1, vector.values.len()];
            Ok(Tensor::from_data(TensorData::new(vector.values, shape), device))
        };
        let has_cont = adapter.manifest.append == Append::Cont;
        let cont = has_cont.then(|| vector("tokens.cont")).transpose()?;
        let rec = adapter.weights.has("tokens.rec").then(|| vector("tokens.rec")).transpose()?;
        let template = PromptTemplate::parse(&adapter.manifest.prompt_template)?;
        let answer_ends = adapter.manifest.answer_ends;
        Ok(Self { decoder, adapter, projector, cont, rec, template, answer_ends, pins, overridden })
    }

    /// The same with another prompt than the adapter's, whose answers are what
    /// [`AnswerEnd::of_template`] says.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] for a template that cannot be read.
    pub fn with_template(mut self, source: &str) -> Result<Self> {
        self.template = PromptTemplate::parse(source)?;
        self.answer_ends = AnswerEnd::of_template(source);
        Ok(self)
    }

    /// The same with answers that end elsewhere than the adapter says.
    #[must_use]
    pub fn with_answer_ends(mut self, answer_ends: AnswerEnd) -> Self {
        self.answer_ends = answer_ends;
        self
    }

    /// Where the answers to [`AdaptedDecoder::prompt`] end, besides the decoder's end tokens.
    #[must_use]
    pub fn answer_ends(&self) -> AnswerEnd {
        self.answer_ends
    }

    /// The same with a pin that was overridden before the two met.
    #[must_use]
    pub(crate) fn overriding(self, pin: Option<OverriddenPin>) -> Self {
        self.overridden.lock().unwrap_or_else(PoisonError::into_inner).extend(pin);
        self
    }

    /// Which hashes of its decoder the adapter does not pin: nothing tells whether this model is the
    /// one that it was made for.
    #[must_use]
    pub fn unpinned(&self) -> Vec<Pin> {
        self.adapter.manifest.unpinned()
    }

    /// The pins that did not fit and were overridden, of the decoder and of all latents that were
    /// read so far.
    #[must_use]
    pub fn overridden_pins(&self) -> Vec<OverriddenPin> {
        self.overridden.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the adapter takes in memory, in bytes: its file and its weights in float32.
    #[must_use]
    pub fn adapter_bytes(&self) -> u64 {
        let weights = &self.adapter.weights;
        let values: usize =
            weights.names().filter_map(|name| weights.shape(name)).map(|s| s.iter().product::<usize>()).sum();
        (weights.as_bytes().len() + size_of::<f32>() * values) as u64
    }

    /// Checks that the adapter was made for an encoder, before its latents are made. Where pins are
    /// overridden a mismatch is recorded.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] if it was made for another one and pins are checked.
    pub fn check_encoder(&self, encoder_id: &str) -> Result<()> {
        match self.adapter.manifest.check_encoder(encoder_id) {
            Ok(()) => Ok(()),
            Err(mismatch) => override_pin(mismatch, self.pins, &self.overridden),
        }
    }

    /// Maps the latents of one context into the decoder's embedding space, with the special vector
    /// after them, `[n, d_encoder] → [n or n+1, d_decoder]`.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] if another encoder made the latents and pins are checked,
    /// [`Error::Mismatch`] if they are of another width.
    pub fn project(&self, latents: &Latents) -> Result<Tensor<2>> {
        self.project_with(latents, SpecialVector::Usual)
    }

    /// As [`AdaptedDecoder::project`], with a choice of the vector after the latents.
    ///
    /// # Errors
    ///
    /// As [`AdaptedDecoder::project`], and [`Error::Mismatch`] if the adapter has no `<Rec>`.
    pub fn project_with(&self, latents: &Latents, special: SpecialVector) -> Result<Tensor<2>> {
        self.check_encoder(&latents.encoder_id)?;
        let (expected, found) = (self.adapter.manifest.d_encoder, latents.values.dims()[1]);
        if found != expected {
            return Err(Error::Mismatch {
                what: format!("adapter `{}` (width of the latents)", self.adapter.manifest.name),
                expected: expected.to_string(),
                found: found.to_string(),
                hint: "the latents file was changed after it was made: make it again with `arc compress`"
                    .into(),
            });
        }
        let values = latents.values.clone().to_device(self.decoder.network.device());
        let special = match special {
            SpecialVector::Usual => self.cont.clone(),
            SpecialVector::None => None,
            SpecialVector::Rec => Some(self.rec.clone().ok_or_else(|| Error::Mismatch {
                what: format!("reconstruction with adapter `{}`", self.adapter.manifest.name),
                expected: "tokens.rec".into(),
                found: "no such vector".into(),
                hint: "ask it to continue and not to repeat".into(),
            })?),
        };
        let rows = match special {
            Some(special) => Tensor::cat(vec![values, special], 0),
            None => values,
        };
        self.projector.forward(rows)
    }

    /// The prompt that asks a question about compressed documents.
    ///
    /// # Errors
    ///
    /// As [`AdaptedDecoder::project`], and [`Error::Template`] or [`Error::Tokenizer`].
    pub fn prompt(&self, documents: &[Latents], question: &str) -> Result<Prompt> {
        self.prompt_about(documents, question, SpecialVector::Usual)
    }

    /// As [`AdaptedDecoder::prompt`], with a choice of the vector after each document's latents.
    ///
    /// # Errors
    ///
    /// As [`AdaptedDecoder::prompt`] and [`AdaptedDecoder::project_with`].
    pub fn prompt_about(
        &self,
        documents: &[Latents],
        question: &str,
        special: SpecialVector,
    ) -> Result<Prompt> {
        let projected = documents
            .iter()
            .map(|latents| self.project_with(latents, special))
            .collect::<Result<Vec<_>>>()?;
        self.assemble(question, |prompt| projected.iter().cloned().fold(prompt, Prompt::latents))
    }

    /// The same prompt with a document as plain text: what the decoder would read without an
    /// encoder.
    ///
    /// # Errors
    ///
    /// [`Error::Template`] or [`Error::Tokenizer`].
    pub fn prompt_with_text(&self, document: &str, question: &str) -> Result<Prompt> {
        self.template.prompt_with_text(document, question, &self.decoder.tokenizer)
    }

    /// Asks a question about compressed documents. An answer ends where the adapter says that it does,
    /// unless the options say it.
    ///
    /// # Errors
    ///
    /// As [`AdaptedDecoder::prompt`] and [`Decoder::generate`].
    pub fn ask(
        &self,
        documents: &[Latents],
        question: &str,
        options: &GenerateOptions,
    ) -> Result<Generations> {
        let prompt = self.prompt(documents, question)?;
        let answer_ends = options.answer_ends.or(Some(self.answer_ends));
        let options = GenerateOptions { answer_ends, ..options.clone() };
        self.decoder.generate(&[prompt], &options, |_, _| {})
    }

    /// The number of positions that so many latents take in the decoder, the vector after them
    /// included.
    #[must_use]
    pub fn positions_of(&self, latents: usize) -> usize {
        latents + usize::from(self.cont.is_some())
    }

    fn assemble(&self, question: &str, document: impl Fn(Prompt) -> Prompt) -> Result<Prompt> {
        let parts = self.template.render(question, &self.decoder.tokenizer)?;
        Ok(parts.into_iter().fold(Prompt::new(), |prompt, part| match part {
            PromptPart::Tokens(ids) => prompt.tokens(ids),
            PromptPart::Document => document(prompt),
        }))
    }
}

/// Records a mismatch if pins are overridden, and else gives it back.
fn override_pin(
    mismatch: arc_adapters::Error,
    pins: Pins,
    overridden: &Mutex<Vec<OverriddenPin>>,
) -> Result<()> {
    let pin = pins.excuse(mismatch)?;
    let mut overridden = overridden.lock().unwrap_or_else(PoisonError::into_inner);
    if !overridden.contains(&pin) {
        overridden.push(pin);
    }
    Ok(())
}
