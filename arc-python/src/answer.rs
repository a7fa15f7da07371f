//! Answers, whole and as they come.

use std::sync::{Arc, Mutex, PoisonError};

use arc_core::decoder::{FinishReason, GenerateOptions, Generations};
use arc_core::{AdaptedDecoder, Error, Result, prompt};
use numpy::PyArray1;
use pyo3::prelude::*;

use crate::calls::{Call, Step, Work};

/// What a decoder wrote. As a string it is its text.
#[pyclass(frozen, module = "arc_encoder")]
pub(crate) struct Answer {
    /// The text, without special tokens and stop texts.
    #[pyo3(get)]
    text: String,
    /// The new token ids, the end token included where it was reached.
    #[pyo3(get)]
    token_ids: Vec<u32>,
    /// Why it ended: `"end"` (the decoder said so), `"stop"` (a stop text, or its line was over), `"length"`
    /// (`max_tokens`) or `"interrupted"`.
    #[pyo3(get)]
    finish: &'static str,
    /// How many positions the prompt had, tokens and latents together.
    #[pyo3(get)]
    prompt_positions: usize,
    /// Seconds to read the prompt.
    #[pyo3(get)]
    prefill_seconds: f64,
    /// Seconds to write all tokens after the first.
    #[pyo3(get)]
    decode_seconds: f64,
    /// Who answered, by its name in the registry.
    #[pyo3(get)]
    decoder: String,
    prompt_logits: Vec<f32>,
}

#[pymethods]
impl Answer {
    /// The logits at the prompt's last position, float32 `[vocabulary]`.
    #[getter]
    fn prompt_logits<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, &self.prompt_logits)
    }

    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let of_text = pyo3::types::PyString::new(slf.py(), &slf.get().text).repr()?;
        Ok(format!("Answer({of_text}, finish='{}')", slf.get().finish))
    }

    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("arc_encoder._show")?.call_method1("answer", (slf,))
    }
}

/// Writes on from a prompt, and says each piece of text.
pub(crate) fn write(
    work: &Work<Answer, String>,
    adapted: &AdaptedDecoder,
    prompt: prompt::Prompt,
    mut options: GenerateOptions,
) -> Result<Answer> {
    options.interrupted = Some(Arc::clone(work.interrupted()));
    let prompt_positions = prompt.len();
    let decoder = &adapted.decoder;
    let generations = decoder.generate(&[prompt], &options, |_, piece| work.tell(piece.to_owned()))?;
    let Generations { mut rows, timings, .. } = generations;
    let row = rows.pop().ok_or(Error::Interrupted)?;
    Ok(Answer {
        text: row.text,
        token_ids: row.token_ids,
        finish: match row.finish {
            FinishReason::End => "end",
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            _ => "interrupted",
        },
        prompt_positions,
        prefill_seconds: timings.prefill.as_secs_f64(),
        decode_seconds: timings.decode.as_secs_f64(),
        decoder: decoder.name.clone(),
        prompt_logits: row.prompt_logits,
    })
}

/// An answer as it comes: an iterator over pieces of its text, whole characters each.
///
/// Leaving it ends the writing. When it is over, `answer` is all of it.
#[pyclass(frozen, module = "arc_encoder")]
pub(crate) struct AnswerStream {
    /// None while a thread waits for the next piece.
    call: Mutex<Option<Call<Answer, String>>>,
    answer: Mutex<Option<Py<Answer>>>,
}

impl AnswerStream {
    pub(crate) fn new(call: Call<Answer, String>) -> Self {
        Self { call: Mutex::new(Some(call)), answer: Mutex::new(None) }
    }
}

#[pymethods]
impl AnswerStream {
    /// All of the answer, when it is over; `None` before.
    #[getter]
    fn answer(&self, py: Python<'_>) -> Option<Py<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|answer| answer.clone_ref(py))
    }

    /// Ends the writing before its next token.
    fn close(&self) {
        drop(self.call.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn __iter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<String>> {
        // Taken out, so that no lock is held while another thread runs.
        let Some(mut call) = self.call.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(None);
        };
        match call.next(py)? {
            Some(Step::Event(piece)) => {
                *self.call.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
                Ok(Some(piece))
            }
            Some(Step::Done(answer)) => {
                let answer = Py::new(py, answer)?;
                *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    fn __repr__(&self) -> &'static str {
        "AnswerStream()"
    }
}
