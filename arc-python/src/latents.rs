//! Latents as Python holds them.

use std::path::PathBuf;
use std::sync::Arc;

use arc_adapters::write_atomically;
use arc_core::device::DeviceName;
use arc_core::encoder::{CompressOptions, Encoder, LatentsFile, LatentsType, LatentsWriter};
use arc_core::{Error, Result, encoder};
use numpy::PyArray2;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::arrays::Rows;
use crate::calls::call;

/// The latents of one text: what an encoder made of it, for every decoder that has an adapter.
///
/// `values` is a float32 array `[n, d_encoder]`; the rest is their identity: by which encoder, of how many
/// tokens, of which text. Made by `Session.compress` or `Latents.load`, and never changed.
#[pyclass(frozen, module = "arc_encoder")]
pub(crate) struct Latents {
    inner: Arc<encoder::Latents>,
    /// What they were made of, where that is known.
    source: Option<Source>,
    values: PyOnceLock<Py<PyArray2<f32>>>,
}

/// A text, and how it was compressed.
pub(crate) struct Source {
    pub(crate) text: Arc<str>,
    pub(crate) encoder: Arc<Encoder>,
    pub(crate) options: CompressOptions,
}

impl Latents {
    pub(crate) fn new(inner: encoder::Latents, source: Option<Source>) -> Self {
        Self { inner: Arc::new(inner), source, values: PyOnceLock::new() }
    }

    /// As `arc-core` has them.
    pub(crate) fn inner(&self) -> &Arc<encoder::Latents> {
        &self.inner
    }
}

#[pymethods]
impl Latents {
    /// Reads a latents file (`*.arc.safetensors`), of `Latents.save` or `arc compress`.
    ///
    /// Raises `FileError` if it cannot be read, `InvalidFileError` if it is damaged or no latents file.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let inner = call(py, move |_| LatentsFile::open(&path)?.read(&DeviceName::CPU.open()?))?;
        Ok(Self::new(inner, None))
    }

    /// Writes a latents file, complete or not at all, in the place of what is there.
    ///
    /// `dtype` is how values are stored: `"f32"` as they are (4 bytes), `"f16"` (2 bytes), or `"q8"` (a byte,
    /// and a scale of 2 bytes for each 32 or 64 values).
    #[pyo3(signature = (path, *, dtype = "f32"))]
    fn save(&self, py: Python<'_>, path: PathBuf, dtype: &str) -> PyResult<()> {
        let (inner, dtype) = (Arc::clone(&self.inner), dtype.to_owned());
        call(py, move |_| {
            let kind: LatentsType = dtype.parse().map_err(|_| Error::InvalidValue {
                what: "dtype".into(),
                found: dtype.clone(),
                expected: format!("one of `{}`", LatentsType::ALL.map(LatentsType::name).join("`, `")),
            })?;
            save(&inner, &path, kind)
        })
    }

    /// The latents, float32 `[n, d_encoder]`. It cannot be written to, and is the same object every time.
    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let values = self.values.get_or_try_init(py, || {
            let tensor = self.inner.values.clone();
            let rows = py.detach(|| Rows::of(tensor)).map_err(|error| crate::errors::raised(py, &error))?;
            PyResult::Ok(rows.into_constant(py)?.unbind())
        })?;
        Ok(values.bind(py).clone())
    }

    /// For `numpy.asarray`.
    #[pyo3(signature = (dtype = None, copy = None))]
    fn __array__<'py>(
        &self,
        py: Python<'py>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let arguments = PyDict::new(py);
        arguments.set_item("dtype", dtype)?;
        // Before version 2 numpy copies where it need not unless it is asked by another name.
        let function = if copy == Some(true) { "array" } else { "asarray" };
        py.import("numpy")?.call_method(function, (self.values(py)?,), Some(&arguments))
    }

    /// For `torch.from_dlpack` and `numpy.from_dlpack`: a copy, since latents never change.
    #[pyo3(signature = (**arguments))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        arguments: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.values(py)?.call_method0("copy")?.call_method("__dlpack__", (), arguments)
    }

    /// Where `__dlpack__` hands over memory: the CPU.
    fn __dlpack_device__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.values(py)?.call_method0("__dlpack_device__")
    }

    /// `(n, d_encoder)`.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, self.inner.values.dims())
    }

    /// The identity of the encoder that made them: a sha256, hexadecimal.
    #[getter]
    fn encoder_id(&self) -> &str {
        &self.inner.encoder_id
    }

    /// How many tokens a latent stands for, at most.
    #[getter]
    fn factor(&self) -> usize {
        self.inner.factor
    }

    /// How many latents each chunk of the text has.
    #[getter]
    fn chunk_lengths(&self) -> Vec<usize> {
        self.inner.chunk_lengths.clone()
    }

    /// How many encoder tokens the text had.
    #[getter]
    fn source_tokens(&self) -> usize {
        self.inner.source_tokens
    }

    /// The sha256 of the text's UTF-8 bytes, hexadecimal.
    #[getter]
    fn text_sha256(&self) -> &str {
        &self.inner.text_sha256
    }

    /// The text that each latent stands for, in order: together it is the whole text.
    ///
    /// `None` where that is not known: of latents that were loaded from a file, and of encoders whose latents
    /// stand for no tokens in a row.
    fn texts(&self, py: Python<'_>) -> PyResult<Option<Vec<String>>> {
        let Some(source) = &self.source else { return Ok(None) };
        let Source { text, encoder, options } = source;
        let (text, encoder, options) = (Arc::clone(text), Arc::clone(encoder), *options);
        call(py, move |_| texts(&text, &encoder, options))
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn __repr__(&self) -> String {
        let [n, d] = self.inner.values.dims();
        let id: String = self.inner.encoder_id.chars().take(12).collect();
        format!("Latents({n} × {d}, of {} tokens, encoder {id}…)", self.inner.source_tokens)
    }

    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("arc_encoder._show")?.call_method1("latents", (slf,))
    }
}

fn save(latents: &encoder::Latents, path: &std::path::Path, kind: LatentsType) -> Result<()> {
    if kind == LatentsType::F32 {
        return latents.save(path);
    }
    let width = latents.values.dims()[1];
    write_atomically(path, |file| {
        let mut writer = LatentsWriter::begin(file, path, latents.description(), width, kind)?;
        let mut start = 0;
        for &length in &latents.chunk_lengths {
            writer.push(latents.values.clone().narrow(0, start, length))?;
            start += length;
        }
        writer.finish().map(drop)
    })
}

/// The text that each latent stands for.
fn texts(text: &str, encoder: &Encoder, options: CompressOptions) -> Result<Option<Vec<String>>> {
    let tokens = encoder.tokenizer.encode(text)?;
    let Some(spans) = encoder.tokens_of_latents(&tokens.ids, options)? else { return Ok(None) };
    // Tokens that are parts of one character split its bytes: it goes to the latent that it begins in.
    let on_character = |mut byte: usize| {
        while !text.is_char_boundary(byte) {
            byte += 1;
        }
        byte
    };
    let start_of = |token: usize| tokens.offsets.get(token).map_or(text.len(), |(start, _)| *start);
    let of_span = |span: std::ops::Range<usize>| {
        text[on_character(start_of(span.start))..on_character(start_of(span.end))].to_owned()
    };
    Ok(Some(spans.into_iter().map(of_span).collect()))
}
