//! Prompts as Python holds them, and messages that become one.

use std::sync::Arc;

use arc_core::prompt::{self, PromptForm, Span, Turn, TurnPart};
use arc_core::{AdaptedDecoder, Error, Result, encoder};
use numpy::{PyArray1, PyArray2};
use pyo3::exceptions::{PyKeyError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMapping, PyString};

use crate::arrays::Rows;
use crate::calls::call;
use crate::latents::Latents;

/// What a decoder reads before it writes: token ids and projected latents, in order.
///
/// Made by `Decoder.prompt` and `Decoder.chat_prompt`. To the decoder every position is alike, so that another
/// engine with the same weights reads the same: `parts` for one that has the embedding table, `embeddings()`
/// for any that takes embeddings.
#[pyclass(frozen, module = "arc_encoder")]
pub(crate) struct Prompt {
    pub(crate) inner: prompt::Prompt,
    pub(crate) adapted: Arc<AdaptedDecoder>,
}

#[pymethods]
impl Prompt {
    /// The spans in order: int64 arrays `[n]` of token ids, and float32 arrays `[n, d_decoder]` of projected
    /// latents.
    #[getter]
    fn parts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let parts = PyList::empty(py);
        for span in self.inner.spans() {
            match span {
                Span::Tokens(ids) => {
                    let ids: Vec<i64> = ids.iter().copied().map(i64::from).collect();
                    parts.append(PyArray1::from_vec(py, ids))?;
                }
                Span::Latents(rows) => {
                    let rows = Rows::of(rows.clone()).map_err(|error| crate::errors::raised(py, &error))?;
                    parts.append(rows.into_array(py)?)?;
                }
            }
        }
        Ok(parts)
    }

    /// The token id at each position, int64 `[n]`, and -1 where a latent is.
    #[getter]
    fn token_ids<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        let ids = self.inner.token_at_positions().into_iter().map(|id| id.map_or(-1, i64::from));
        PyArray1::from_vec(py, ids.collect())
    }

    /// What the decoder's first block reads, float32 `[n, d_decoder]`: its own embeddings where tokens are,
    /// with the scale that some models put on them, and projected latents as they are.
    fn embeddings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let (prompt, adapted) = (self.inner.clone(), Arc::clone(&self.adapted));
        let rows = call(py, move |_| Rows::of(prompt.embed(|ids| adapted.decoder.network.embed(ids))))?;
        rows.into_array(py)
    }

    /// The same prompt with token ids behind it, such as the beginning of an answer.
    fn followed_by(&self, py: Python<'_>, token_ids: Vec<u32>) -> PyResult<Self> {
        check_ids(&self.adapted, &token_ids).map_err(|error| crate::errors::raised(py, &error))?;
        Ok(Self { inner: self.inner.clone().tokens(token_ids), adapted: Arc::clone(&self.adapted) })
    }

    /// How many of the positions are latents, the vectors after them included.
    #[getter]
    fn latent_count(&self) -> usize {
        self.inner.latent_count()
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __repr__(&self) -> String {
        let (all, latents) = (self.inner.len(), self.inner.latent_count());
        format!("Prompt({all} positions of {}, {latents} of them latents)", self.adapted.decoder.name)
    }
}

/// Refuses token ids that a decoder has no embedding for.
pub(crate) fn check_ids(adapted: &AdaptedDecoder, token_ids: &[u32]) -> Result<()> {
    let vocabulary = adapted.decoder.network.vocabulary();
    match token_ids.iter().find(|&&id| id as usize >= vocabulary) {
        Some(id) => Err(Error::InvalidValue {
            what: "a token id".into(),
            found: id.to_string(),
            expected: format!("less than the vocabulary, {vocabulary}"),
        }),
        None => Ok(()),
    }
}

/// Latents, one or several, as an argument.
pub(crate) fn several(documents: &Bound<'_, PyAny>) -> PyResult<Vec<encoder::Latents>> {
    if let Ok(one) = documents.cast::<Latents>() {
        return Ok(vec![(**one.get().inner()).clone()]);
    }
    let not_latents = |found: &Bound<'_, PyAny>| {
        PyTypeError::new_err(format!(
            "expected Latents, or several of them, found {}: compress a text with Session.compress first",
            found.get_type()
        ))
    };
    if documents.is_instance_of::<PyString>() {
        return Err(not_latents(documents));
    }
    let Ok(several) = documents.try_iter() else { return Err(not_latents(documents)) };
    several
        .map(|one| {
            let one = one?;
            one.cast::<Latents>().map(|one| (**one.get().inner()).clone()).map_err(|_| not_latents(&one))
        })
        .collect()
}

/// Turns of a conversation, and the latents that stand in them, in order.
pub(crate) struct Messages {
    turns: Vec<Turn>,
    documents: Vec<encoder::Latents>,
}

impl Messages {
    /// Reads what chat APIs take: mappings with `role` and `content`, which is a text or a list of parts: texts,
    /// `{"type": "text", "text": …}`, latents, or `{"type": "latents", "latents": …}`.
    pub(crate) fn read(messages: &Bound<'_, PyAny>) -> PyResult<Self> {
        let mut read = Self { turns: Vec::new(), documents: Vec::new() };
        for message in messages.try_iter()? {
            let message = message?;
            let message = message.cast::<PyMapping>().map_err(|_| {
                PyTypeError::new_err(format!("expected a message as a mapping, found {}", message.get_type()))
            })?;
            let role: String = field(message, "role")?.extract()?;
            let content = field(message, "content")?;
            let mut parts = Vec::new();
            if content.is_instance_of::<PyString>() || content.is_instance_of::<Latents>() {
                read.part(&content, &mut parts)?;
            } else {
                for part in content.try_iter()? {
                    read.part(&part?, &mut parts)?;
                }
            }
            read.turns.push(Turn { role, parts });
        }
        Ok(read)
    }

    fn part(&mut self, part: &Bound<'_, PyAny>, parts: &mut Vec<TurnPart>) -> PyResult<()> {
        if let Ok(text) = part.cast::<PyString>() {
            parts.push(TurnPart::Text(text.to_str()?.to_owned()));
        } else if let Ok(latents) = part.cast::<Latents>() {
            self.documents.push((**latents.get().inner()).clone());
            parts.push(TurnPart::Context);
        } else if let Ok(mapping) = part.cast::<PyMapping>() {
            let kind: String = field(mapping, "type")?.extract()?;
            match kind.as_str() {
                "text" => self.part(&field(mapping, "text")?.cast_into::<PyString>()?.into_any(), parts)?,
                "latents" => {
                    self.part(&field(mapping, "latents")?.cast_into::<Latents>()?.into_any(), parts)?;
                }
                other => {
                    return Err(PyValueError::new_err(format!(
                        "a part of a message is of type `{other}`, expected `text` or `latents`"
                    )));
                }
            }
        } else {
            return Err(PyTypeError::new_err(format!(
                "expected a text, Latents or a mapping as a part of a message, found {}",
                part.get_type()
            )));
        }
        Ok(())
    }

    /// The prompt of a decoder, which ends where its next turn begins.
    pub(crate) fn prompt(&self, adapted: &AdaptedDecoder) -> Result<prompt::Prompt> {
        let decoder = &adapted.decoder;
        let Some(template) = &decoder.chat_template else {
            return Err(Error::Template {
                what: "chat".into(),
                reason: format!("`{}` is a base model and has none", decoder.name),
            });
        };
        let form = PromptForm::conversation(template, &self.turns)?;
        let spans = self.documents.iter().map(|latents| Ok(Span::Latents(adapted.project(latents)?)));
        form.assemble(&decoder.tokenizer, &spans.collect::<Result<Vec<_>>>()?)
    }
}

fn field<'py>(mapping: &Bound<'py, PyMapping>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    mapping
        .get_item(name)
        .map_err(|_| PyKeyError::new_err(format!("a message, or a part of one, has no `{name}`")))
}
