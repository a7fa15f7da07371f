//! A decoder with its adapter, as Python holds it.

use std::sync::Arc;

use arc_adapters::AnswerEnd;
use arc_core::burn::tensor::Tensor;
use arc_core::{AdaptedDecoder, Error, Result, SpecialVector};
use arc_encoder::Sampling;
use numpy::PyArray2;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use crate::answer::{Answer, AnswerStream, write};
use crate::arrays::Rows;
use crate::calls::{Call, Work, call, call_with};
use crate::errors::raised;
use crate::latents::Latents;
use crate::prompt::{Messages, Prompt, check_ids, several};
use crate::sampling::Writing;

/// A frozen language model and the adapter that lets it read latents.
///
/// Made by `Session.decoder`. All of its methods may be called from several threads at once.
#[pyclass(frozen, module = "arc_encoder")]
pub(crate) struct Decoder {
    adapted: Arc<AdaptedDecoder>,
}

impl Decoder {
    pub(crate) fn new(adapted: Arc<AdaptedDecoder>) -> Self {
        Self { adapted }
    }

    /// Writes on from a prompt that is made on the way: all of it, or as it comes.
    fn answer(
        &self,
        py: Python<'_>,
        writing: Writing,
        ends: Option<AnswerEnd>,
        stream: bool,
        prompt: impl FnOnce(&AdaptedDecoder) -> Result<arc_core::prompt::Prompt> + Send + 'static,
    ) -> PyResult<Py<PyAny>> {
        let mut options = writing.options().map_err(|error| raised(py, &error))?;
        options.answer_ends = options.answer_ends.or(ends);
        let adapted = Arc::clone(&self.adapted);
        let work = move |work: &Work<Answer, String>| write(work, &adapted, prompt(&adapted)?, options);
        if stream {
            let call = Call::begin(work).map_err(|error| raised(py, &error))?;
            return Ok(Py::new(py, AnswerStream::new(call))?.into_any());
        }
        let answer = call_with(py, work, |_| Ok(()))?;
        Ok(Py::new(py, answer)?.into_any())
    }
}

#[pymethods]
impl Decoder {
    /// Its name in the registry.
    #[getter]
    fn name(&self) -> &str {
        &self.adapted.decoder.name
    }

    /// The architecture: `llama`, `qwen2`, `gemma3` or `olmo`.
    #[getter]
    fn architecture(&self) -> &'static str {
        self.adapted.decoder.network.config().architecture.name()
    }

    /// The width of its embeddings, `d_decoder`.
    #[getter]
    fn width(&self) -> usize {
        self.adapted.decoder.network.config().d_model()
    }

    /// The number of its token embeddings.
    #[getter]
    fn vocabulary(&self) -> usize {
        self.adapted.decoder.network.vocabulary()
    }

    /// The most positions that it reads and writes.
    #[getter]
    fn window(&self) -> usize {
        self.adapted.decoder.network.config().context_length
    }

    /// The file or folder of the model's weights.
    #[getter]
    fn path(&self) -> &std::path::Path {
        self.adapted.decoder.path()
    }

    /// The adapter's name.
    #[getter]
    fn adapter(&self) -> &str {
        &self.adapted.adapter.manifest.name
    }

    /// The identity of the encoder whose latents the adapter reads.
    #[getter]
    fn encoder_id(&self) -> &str {
        &self.adapted.adapter.manifest.encoder.encoder_id
    }

    /// Whether the model has a chat template, as base models have not.
    #[getter]
    fn has_chat_template(&self) -> bool {
        self.adapted.decoder.chat_template.is_some()
    }

    /// Maps latents into the decoder's embedding space: float32 `[n + 1, d_decoder]`, or `[n, d_decoder]` with
    /// `special="none"`.
    ///
    /// `special` is the learned vector after the latents: `"usual"` is what the adapter says, mostly one
    /// that means "read on", `"rec"` the one that means "repeat", where the adapter has it. The array owns its
    /// memory: nothing is copied into it.
    ///
    /// Raises `MismatchError` if another encoder made the latents.
    #[pyo3(signature = (latents, *, special = "usual"))]
    fn project<'py>(
        &self,
        py: Python<'py>,
        latents: &Bound<'py, Latents>,
        special: &str,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let special = special_vector(special).map_err(|error| raised(py, &error))?;
        let (adapted, latents) = (Arc::clone(&self.adapted), Arc::clone(latents.get().inner()));
        let rows = call(py, move |_| Rows::of(adapted.project_with(&latents, special)?))?;
        rows.into_array(py)
    }

    /// What the decoder's first block reads for tokens: float32 `[n, d_decoder]`, with the scale that some
    /// models put on their embeddings. It is the space that `project` maps into.
    fn embed<'py>(&self, py: Python<'py>, token_ids: Vec<u32>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let adapted = Arc::clone(&self.adapted);
        let rows = call(py, move |_| {
            let network = &adapted.decoder.network;
            check_ids(&adapted, &token_ids)?;
            if token_ids.is_empty() {
                let device = network.device();
                return Rows::of(Tensor::zeros([0, network.config().d_model()], device));
            }
            Rows::of(network.embed(&token_ids))
        })?;
        rows.into_array(py)
    }

    /// A text's token ids. Names of special tokens are text, unless `special` is true; no token is added.
    #[pyo3(signature = (text, *, special = false))]
    fn tokenise(&self, py: Python<'_>, text: String, special: bool) -> PyResult<Vec<u32>> {
        use arc_core::tokenizer::SpecialTokens;
        let adapted = Arc::clone(&self.adapted);
        call(py, move |_| {
            let special = if special { SpecialTokens::Recognised } else { SpecialTokens::AsText };
            Ok(adapted.decoder.tokenizer.encode_with(&text, special)?.ids)
        })
    }

    /// The text of token ids, without special tokens unless `special` is true.
    #[pyo3(signature = (token_ids, *, special = false))]
    fn detokenise(&self, token_ids: Vec<u32>, special: bool) -> String {
        self.adapted.decoder.tokenizer.decode(&token_ids, !special)
    }

    /// The prompt that asks a question about compressed documents, one or several, in the adapter's template.
    fn prompt(&self, py: Python<'_>, documents: &Bound<'_, PyAny>, question: String) -> PyResult<Prompt> {
        let (documents, adapted) = (several(documents)?, Arc::clone(&self.adapted));
        let inner = call(py, move |_| adapted.prompt(&documents, &question))?;
        Ok(Prompt { inner, adapted: Arc::clone(&self.adapted) })
    }

    /// The prompt of a conversation in the model's chat template, up to where its next turn begins.
    ///
    /// A message is a mapping with `role` and `content`; `content` is a text or a list of texts, `Latents`,
    /// `{"type": "text", "text": …}` and `{"type": "latents", "latents": …}`. Names of special tokens in texts
    /// are text.
    ///
    /// Raises `InvalidFileError` if the model has no template, or one that cannot be used.
    fn chat_prompt(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<Prompt> {
        let (messages, adapted) = (Messages::read(messages)?, Arc::clone(&self.adapted));
        let inner = call(py, move |_| messages.prompt(&adapted))?;
        Ok(Prompt { inner, adapted: Arc::clone(&self.adapted) })
    }

    /// Asks a question about compressed documents, one or several. Returns an `Answer`, or with `stream=True`
    /// an iterator over pieces of its text.
    ///
    /// At most `max_tokens` are written. `temperature` 0 takes the likeliest token each time; otherwise `top_k`
    /// (0: all), `top_p`, `min_p` and `repetition_penalty` are as in transformers, and `seed` decides. `stop` are
    /// texts that end the answer. `answer_ends` is `"line"` (with its first line) or `"model"` (where the
    /// model ends it); what the adapter says where it is left out.
    ///
    /// Raises `MismatchError` if another encoder made the latents, `WindowExceededError` if they do not fit.
    #[pyo3(signature = (
        documents, question, *, max_tokens = 128, temperature = 0.0, top_k = 0, top_p = 1.0, min_p = 0.0,
        repetition_penalty = 1.0, seed = 0, stop = None, answer_ends = None, stream = false
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn ask(
        &self,
        py: Python<'_>,
        documents: &Bound<'_, PyAny>,
        question: String,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        seed: u64,
        stop: Option<Vec<String>>,
        answer_ends: Option<String>,
        stream: bool,
    ) -> PyResult<Py<PyAny>> {
        let sampling = Sampling {
            max_tokens: Some(max_tokens),
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
            stop: stop.unwrap_or_default(),
        };
        let writing = Writing { sampling, answer_ends };
        let documents = several(documents)?;
        let ends = Some(self.adapted.answer_ends());
        self.answer(py, writing, ends, stream, move |adapted| adapted.prompt(&documents, &question))
    }

    /// Writes on from a prompt. The arguments are those of `ask`; an answer ends where the model ends it, unless
    /// `answer_ends` says otherwise.
    #[pyo3(signature = (
        prompt, *, max_tokens = 128, temperature = 0.0, top_k = 0, top_p = 1.0, min_p = 0.0,
        repetition_penalty = 1.0, seed = 0, stop = None, answer_ends = None, stream = false
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn generate(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, Prompt>,
        max_tokens: usize,
        temperature: f32,
        top_k: usize,
        top_p: f32,
        min_p: f32,
        repetition_penalty: f32,
        seed: u64,
        stop: Option<Vec<String>>,
        answer_ends: Option<String>,
        stream: bool,
    ) -> PyResult<Py<PyAny>> {
        let sampling = Sampling {
            max_tokens: Some(max_tokens),
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed,
            stop: stop.unwrap_or_default(),
        };
        let writing = Writing { sampling, answer_ends };
        let prompt = self.own(prompt)?;
        self.answer(py, writing, None, stream, move |_| Ok(prompt))
    }

    /// The logits at a prompt's last positions, float32 `[last, vocabulary]`. Long prompts are read in pieces of
    /// 512 positions, and `last` lies within the last piece.
    #[pyo3(signature = (prompt, *, last = 1))]
    fn logits<'py>(
        &self,
        py: Python<'py>,
        prompt: &Bound<'py, Prompt>,
        last: usize,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (prompt, adapted) = (self.own(prompt)?, Arc::clone(&self.adapted));
        let rows = call(py, move |_| {
            let decoder = &adapted.decoder;
            let window = decoder.network.config().context_length;
            if prompt.len() > window {
                let (decoder, positions) = (decoder.name.clone(), prompt.len());
                return Err(Error::WindowExceeded { decoder, positions, max_new: 0, window });
            }
            // Long prompts are read in pieces, of which the last one's states are there.
            let (hidden, _) = decoder.prefill(std::slice::from_ref(&prompt));
            let states = hidden.dims()[1];
            if last == 0 || last > states {
                return Err(Error::InvalidValue {
                    what: "last".into(),
                    found: last.to_string(),
                    expected: format!("1 to {states} for this prompt"),
                });
            }
            let logits = decoder.network.logits(hidden.narrow(1, states - last, last));
            Rows::of(logits.squeeze_dim(0))
        })?;
        rows.into_array(py)
    }

    fn __repr__(&self) -> String {
        format!("Decoder('{}', adapter '{}')", self.adapted.decoder.name, self.adapted.adapter.manifest.name)
    }

    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("arc_encoder._show")?.call_method1("decoder", (slf,))
    }
}

impl Decoder {
    /// A prompt that was made by this decoder: another's token ids mean other things.
    fn own(&self, prompt: &Bound<'_, Prompt>) -> PyResult<arc_core::prompt::Prompt> {
        let prompt = prompt.get();
        if !Arc::ptr_eq(&prompt.adapted.decoder, &self.adapted.decoder) {
            return Err(PyTypeError::new_err(format!(
                "the prompt was made by decoder `{}`, and this is `{}`: make one with this decoder",
                prompt.adapted.decoder.name, self.adapted.decoder.name
            )));
        }
        Ok(prompt.inner.clone())
    }
}

fn special_vector(name: &str) -> Result<SpecialVector> {
    match name {
        "usual" => Ok(SpecialVector::Usual),
        "rec" => Ok(SpecialVector::Rec),
        "none" => Ok(SpecialVector::None),
        other => Err(Error::InvalidValue {
            what: "special".into(),
            found: other.to_owned(),
            expected: "`usual`, `rec` or `none`".into(),
        }),
    }
}
