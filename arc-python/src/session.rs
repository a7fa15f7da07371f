//! A session as Python holds it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_adapters::{Chosen, Isolation, ModelFile, PluginPolicy, Registry, RegistryFile};
use arc_core::device::{DeviceKind, DeviceName};
use arc_core::document_cache::{DocumentCache, DocumentKey};
use arc_core::encoder::{self, CompressOptions, Encoder, TokenisedText};
use arc_core::hub::{self, Cache, Consent, Progress};
use arc_core::{Error, Pins, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};

use crate::adapters::{self, Check, DecoderEntry};
use crate::calls::{Work, call, call_with};
use crate::decoder::Decoder;
use crate::errors::raised;
use crate::latents::{Latents, Source};
use crate::registering::{self, Registering, Registration};

/// A registry that is open: encoders and decoders by name, loaded when they are first asked for.
///
/// `registry` is a `registry.toml`, or several, of which later ones win. `device` is `"cpu"`, or of a wheel that
/// was built for it `"cuda"`, `"cuda:1"`, `"vulkan"`, …, or `"auto"`. `precision` is how the CPU multiplies by
/// stored weights: `"fast"` as 8-bit integers and bfloat16, `"exact"` in float32.
///
/// Models that are not on this machine are pulled when they are needed, without asking: the logger
/// `arc_encoder` says so at level INFO, and `ARC_OFFLINE=1` forbids it. `allow_plugins` lets adapters that are
/// code run, `isolate_plugins` in a process of their own; `force` uses adapters that were made for something
/// else than they meet. `memory_budget` is how many bytes of weights are kept loaded. `cache` keeps compressed texts,
/// so that a text is compressed once: `True` where the command line keeps them (`arc cache`), or a folder.
///
/// A session may be used by several threads at once.
#[pyclass(frozen, module = "arc_encoder")]
pub(crate) struct Session {
    inner: Arc<arc_core::Session>,
    device: String,
    policy: PluginPolicy,
    files: Vec<PathBuf>,
    cache: Option<DocumentCache>,
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (
        registry = None, *, device = "cpu", precision = "fast", allow_plugins = false, isolate_plugins = false,
        force = false, memory_budget = None, cache = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn new(
        py: Python<'_>,
        registry: Option<&Bound<'_, PyAny>>,
        device: &str,
        precision: &str,
        allow_plugins: bool,
        isolate_plugins: bool,
        force: bool,
        memory_budget: Option<u64>,
        cache: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let files = match registry {
            None => vec![PathBuf::from("registry.toml")],
            Some(one) if one.is_instance_of::<PyString>() => vec![one.extract()?],
            Some(one) => match one.extract::<PathBuf>() {
                Ok(path) => vec![path],
                Err(_) => one.try_iter()?.map(|path| path?.extract()).collect::<PyResult<_>>()?,
            },
        };
        let cache = match cache {
            None => None,
            Some(yes) if yes.is_instance_of::<PyBool>() => match yes.extract()? {
                true => {
                    Some(Cache::from_env().map_err(|error| raised(py, &error))?.folder().join("documents"))
                }
                false => None,
            },
            Some(folder) => Some(folder.extract::<PathBuf>()?),
        };
        let cache = cache.map(|folder| DocumentCache::at(folder, DocumentCache::USUAL_LIMIT));
        let isolation = isolate_plugins.then(|| isolation(py)).transpose()?;
        let policy = PluginPolicy::default().allow(allow_plugins).isolation(isolation);
        let (device, precision) = (device.to_owned(), precision.to_owned());
        let (of_session, of_policy, named) = (device.clone(), policy.clone(), files.clone());
        let inner = call(py, move |_| {
            let named = named.into_iter().map(|path| RegistryFile::new(path, Chosen::Named));
            let registry = Registry::layered(&named.collect::<Vec<_>>())?;
            let cache = Cache::from_env()?;
            let locate = move |model: &ModelFile, name: &str| {
                hub::pull(model, name, &cache, &Logged::new(name), Consent::Given)
            };
            let session = arc_core::Session::new(registry, of_session.parse()?, Box::new(locate))?
                .with_precision(precision.parse()?)
                .with_plugins(of_policy)
                .with_pins(if force { Pins::Overridden } else { Pins::Checked });
            Ok(match memory_budget {
                Some(bytes) => session.with_memory_budget(bytes),
                None => session,
            })
        })?;
        Ok(Self { inner: Arc::new(inner), device, policy, files, cache })
    }

    /// The device, as it was named.
    #[getter]
    fn device(&self) -> &str {
        &self.device
    }

    /// How the CPU multiplies: `"exact"` or `"fast"`.
    #[getter]
    fn precision(&self) -> &'static str {
        self.inner.precision().name()
    }

    /// The registry files, in the order in which they were given.
    #[getter]
    fn registry(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    /// The names of the encoders.
    #[getter]
    fn encoders(&self) -> Vec<String> {
        self.inner.registry().encoders().map(|entry| entry.name.clone()).collect()
    }

    /// Compresses a text: latents in the encoder's space, `[n, d_encoder]` float32, with their identity.
    ///
    /// `factor` is how many tokens a latent stands for, the encoder's own where it is left out; `encoder` is one of
    /// the registry, its default where it is left out. A text may be of any length. `progress` is called
    /// after each chunk with the tokens that are done and all of them.
    ///
    /// Raises `DocumentError` for a text without a character.
    #[pyo3(signature = (text, *, factor = None, encoder = None, progress = None))]
    fn compress(
        &self,
        py: Python<'_>,
        text: String,
        factor: Option<usize>,
        encoder: Option<String>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Latents> {
        let compressor = self.compressor();
        let wants_progress = progress.is_some();
        let work = move |work: &Work<Compressed, (usize, usize)>| {
            let (encoder, options) = compressor.encoder(encoder.as_deref(), factor)?;
            work.go_on()?;
            let latents = compressor.compress(&encoder, &text, options, |done, all| {
                if wants_progress {
                    work.tell((done, all));
                }
                work.go_on()
            })?;
            Ok(Compressed { latents, source: Source { text: text.into(), encoder, options } })
        };
        call_with(py, work, |told| tell(py, progress.as_ref(), told)).map(Compressed::into_latents)
    }

    /// Compresses several texts at once, in their order, without holding the interpreter's lock.
    ///
    /// `threads` is how many are worked on at a time, one for each core where it is left out. `progress` is called
    /// with the texts that are done and all of them. The first text that cannot be compressed ends it.
    #[pyo3(signature = (texts, *, factor = None, encoder = None, threads = None, progress = None))]
    fn compress_many(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyAny>,
        factor: Option<usize>,
        encoder: Option<String>,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<Latents>> {
        if texts.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err(
                "expected several texts, found one: Session.compress takes one",
            ));
        }
        let texts: Vec<String> = texts.try_iter()?.map(|text| text?.extract()).collect::<PyResult<_>>()?;
        let compressor = self.compressor();
        let work = move |work: &Work<Vec<Compressed>, (usize, usize)>| {
            let (encoder, options) = compressor.encoder(encoder.as_deref(), factor)?;
            compressor.compress_all(work, &encoder, texts, options, threads)
        };
        let compressed = call_with(py, work, |told| tell(py, progress.as_ref(), told))?;
        Ok(compressed.into_iter().map(Compressed::into_latents).collect())
    }

    /// A decoder with its adapter, by its name or an alias. Its model is loaded, and pulled where it is not here.
    ///
    /// `encoder` is whose latents it is to read; its own, or the registry's default, where it is left out.
    ///
    /// Raises `NotFoundError` for a name that nothing has, `AdapterError` for a decoder without an adapter, and
    /// `MismatchError` for an adapter that was made for another model.
    #[pyo3(signature = (name, *, encoder = None))]
    fn decoder(&self, py: Python<'_>, name: String, encoder: Option<String>) -> PyResult<Decoder> {
        let session = Arc::clone(&self.inner);
        let adapted = call(py, move |_| match encoder {
            Some(encoder) => session.adapted_decoder_for(&name, &encoder),
            None => session.adapted_decoder(&name),
        })?;
        Ok(Decoder::new(adapted))
    }

    /// Every decoder of the registry, with the adapter that its name resolves to. No model is loaded.
    fn decoders(&self) -> Vec<DecoderEntry> {
        arc_adapters::list(&self.inner.registry()).into_iter().map(DecoderEntry::from).collect()
    }

    /// Checks the adapters of a decoder: files, hashes, template, encoder, and the model itself where it is on
    /// this machine. Nothing is raised for what is wrong: each `Check` says how it went, and what to do.
    fn verify(&self, py: Python<'_>, name: String) -> PyResult<Vec<Check>> {
        let (session, policy) = (Arc::clone(&self.inner), self.policy.clone());
        let checks = call(py, move |_| adapters::verify(&session, &name, &policy))?;
        Ok(checks.into_iter().map(Check::from).collect())
    }

    /// Makes an adapter for a decoder, encoder and decoder frozen, and names it in a registry.
    ///
    /// `corpus` is a folder that `arc data prepare` made with the tokenizer of the encoder's backbone. `model` is
    /// where the weights of a new decoder are (`file:…`, `pip:…`, `hf:…`; a list of parts), and left out of one
    /// that the registry has. The package is written to `output` (`plugins/NAME` beside the registry), and named in
    /// `registry` (the last that the session was opened with); `replace` takes the place of one that is there.
    /// `template` is the text of a prompt template, with `{{ document }}` and `{{ question }}`; the other arguments are
    /// those of `arc register`, and `factors` is the encoder's own where it is left out. `progress` is called with the steps that are
    /// done, all of them, and the loss in nats per token. The session sees the adapter afterwards.
    ///
    /// Ctrl-C ends it, and nothing is named then. Raises `TrainingError`, `MismatchError` for a corpus of another
    /// tokenizer, `UsageError` for values that make no sense.
    #[pyo3(signature = (
        name, corpus, *, encoder = None, model = None, output = None, registry = None, replace = false,
        steps = 400, batches = 400, batch = 8, context_tokens = 64, target_tokens = 64, factors = None,
        reconstruction = 0.2, rate = 3e-4, fit_latents = 16, samples = 64, seed = 0, from_scratch = false,
        template = None, progress = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn register(
        &self,
        py: Python<'_>,
        name: String,
        corpus: PathBuf,
        encoder: Option<String>,
        model: Option<&Bound<'_, PyAny>>,
        output: Option<PathBuf>,
        registry: Option<PathBuf>,
        replace: bool,
        steps: u64,
        batches: u64,
        batch: usize,
        context_tokens: usize,
        target_tokens: usize,
        factors: Option<Vec<usize>>,
        reconstruction: f64,
        rate: f64,
        fit_latents: usize,
        samples: usize,
        seed: u64,
        from_scratch: bool,
        template: Option<String>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Registration> {
        let model = match model {
            None => Vec::new(),
            Some(one) if one.is_instance_of::<PyString>() => vec![one.extract::<String>()?],
            Some(parts) => parts.extract()?,
        };
        let file = registry.or_else(|| self.files.last().cloned()).unwrap_or_default();
        let of_options = move |options: arc_core::train::RegisterOptions| {
            let options = options
                .start(if from_scratch {
                    arc_core::train::Start::Scratch
                } else {
                    arc_core::train::Start::Ridge
                })
                .steps(steps)
                .batches(batches)
                .batch(batch)
                .context_tokens(context_tokens)
                .target_tokens(target_tokens)
                .reconstruction(reconstruction)
                .rate(rate)
                .fit_latents(fit_latents)
                .samples(samples)
                .seed(seed);
            let options = match factors {
                Some(factors) => options.factors(factors),
                None => options,
            };
            match template {
                Some(template) => options.template(template),
                None => options,
            }
        };
        let asked = Registering { name, corpus, encoder, model, output, file, replace };
        let session = Arc::clone(&self.inner);
        let work = move |work: &Work<Registration, (u64, u64, f64)>| {
            registering::register(work, &session, asked, of_options)
        };
        let registration = call_with(py, work, |(done, all, loss)| match &progress {
            Some(progress) => progress.call1(py, (done, all, loss)).map(drop),
            None => Ok(()),
        })?;
        Ok(registration)
    }

    /// Reads the registry files again. Returns the names that are new, gone, and loaded anew when they are next
    /// asked for. What others hold stays as it is.
    fn reload<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let session = Arc::clone(&self.inner);
        let reloaded = call(py, move |_| session.reload())?;
        let names = PyDict::new(py);
        names.set_item("added", reloaded.added)?;
        names.set_item("removed", reloaded.removed)?;
        names.set_item("changed", reloaded.changed)?;
        Ok(names)
    }

    /// What is loaded, the most recently used first: kind (`"encoder"` or `"decoder"`), name, and bytes of weights.
    fn loaded(&self) -> Vec<(&'static str, String, u64)> {
        self.inner.loaded().into_iter().map(|model| (model.kind, model.name, model.bytes)).collect()
    }

    fn __repr__(&self) -> String {
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        format!(
            "Session('{}', device='{}', precision='{}')",
            files.join("', '"),
            self.device,
            self.precision()
        )
    }

    fn _repr_html_<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("arc_encoder._show")?.call_method1("session", (slf,))
    }
}

/// The devices of this machine that this wheel can use, by the names that `Session` takes, and what the hardware
/// calls itself.
#[pyfunction]
pub(crate) fn devices(py: Python<'_>) -> Vec<(String, String)> {
    py.detach(|| {
        let all = DeviceKind::ALL.into_iter().flat_map(DeviceKind::describe);
        all.map(|device| (device.name, device.hardware)).collect()
    })
}

/// Latents before they are Python's.
struct Compressed {
    latents: encoder::Latents,
    source: Source,
}

impl Compressed {
    fn into_latents(self) -> Latents {
        Latents::new(self.latents, Some(self.source))
    }
}

fn tell(py: Python<'_>, progress: Option<&Py<PyAny>>, told: (usize, usize)) -> PyResult<()> {
    match progress {
        Some(progress) => progress.call1(py, told).map(drop),
        None => Ok(()),
    }
}

impl Session {
    fn compressor(&self) -> Compressor {
        let device =
            self.device.parse().map_or_else(|_| self.device.clone(), |name: DeviceName| name.to_string());
        let arithmetic = format!("{device} {}", self.inner.precision());
        Compressor { session: Arc::clone(&self.inner), cache: self.cache.clone(), arithmetic }
    }
}

/// Compresses texts, each once where they are kept.
struct Compressor {
    session: Arc<arc_core::Session>,
    cache: Option<DocumentCache>,
    /// What the numbers depend on beside text, encoder and rate: as the command line has it, which may share
    /// the folder.
    arithmetic: String,
}

impl Compressor {
    /// The encoder of that name, or the registry's default, and how it is to compress.
    fn encoder(&self, name: Option<&str>, factor: Option<usize>) -> Result<(Arc<Encoder>, CompressOptions)> {
        let encoder = match name {
            Some(name) => self.session.encoder_named(name)?,
            None => self.session.encoder()?,
        };
        Ok((encoder, CompressOptions::default().with_factor(factor)))
    }

    /// The latents of a text. `on_chunk` is told how many tokens are done, and of how many.
    fn compress(
        &self,
        encoder: &Encoder,
        text: &str,
        options: CompressOptions,
        mut on_chunk: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<encoder::Latents> {
        let mut compress = |tokens: &TokenisedText| {
            let all = tokens.ids.len();
            encoder.compress_tokenised(tokens, options, |done| on_chunk(done, all))
        };
        let Some(cache) = &self.cache else { return compress(&encoder.tokenise(text)?) };
        let own = encoder.pools_by_factor().then(|| encoder.default_factor());
        let key = DocumentKey::new(text, &encoder.id, options.factor.or(own), &self.arithmetic);
        if let Some(found) = cache.find(&key).map(|file| file.read(encoder.device())).transpose()? {
            on_chunk(found.source_tokens, found.source_tokens)?;
            return Ok(found);
        }
        let tokens = encoder.tokenise_hashed(text, key.text_sha256.clone())?;
        let latents = compress(&tokens)?;
        let description = encoder.describe(&tokens, options)?;
        let kept = cache.insert(&key, description, encoder.network.d_model(), |writer| {
            let mut start = 0;
            latents.chunk_lengths.iter().try_for_each(|&length| {
                let chunk = latents.values.clone().narrow(0, start, length);
                start += length;
                writer.push(chunk)
            })
        });
        match kept {
            // A folder that cannot be written is no reason not to answer.
            Ok(_) | Err(Error::Io { .. }) => Ok(latents),
            Err(error) => Err(error),
        }
    }

    /// Compresses texts on several threads, each of which takes the next one.
    fn compress_all(
        &self,
        work: &Work<Vec<Compressed>, (usize, usize)>,
        encoder: &Arc<Encoder>,
        texts: Vec<String>,
        options: CompressOptions,
        threads: Option<usize>,
    ) -> Result<Vec<Compressed>> {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = threads.unwrap_or_else(cores).clamp(1, texts.len().max(1));
        let all = texts.len();
        let (next, done) = (AtomicUsize::new(0), Mutex::new(0));
        let texts: Vec<Arc<str>> = texts.into_iter().map(Arc::from).collect();
        let slots: Vec<Mutex<Option<Result<encoder::Latents>>>> =
            texts.iter().map(|_| Mutex::default()).collect();
        let compress = |text: &str| self.compress(encoder, text, options, |_, _| work.go_on());
        let has_failed = std::sync::atomic::AtomicBool::new(false);
        let run = || {
            while !has_failed.load(Ordering::Relaxed) {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let (Some(text), Some(slot)) = (texts.get(index), slots.get(index)) else { break };
                let latents = work.go_on().and_then(|()| compress(text));
                has_failed.fetch_or(latents.is_err(), Ordering::Relaxed);
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(latents);
                // Counted and said under one lock, so that numbers ascend.
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                *done += 1;
                work.tell((*done, all));
            }
        };
        // A `Sender` is for one thread at a time; `Work` is shared by reference.
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(run);
            }
            run();
        });
        let mut compressed = Vec::with_capacity(all);
        let mut first_error = None;
        for (slot, text) in slots.into_iter().zip(texts) {
            match slot.into_inner().unwrap_or_else(PoisonError::into_inner) {
                Some(Ok(latents)) => {
                    let source = Source { text, encoder: Arc::clone(encoder), options };
                    compressed.push(Compressed { latents, source });
                }
                Some(Err(error)) => first_error = first_error.or(Some(error)),
                // Left when another failed.
                None => {}
            }
        }
        first_error.map_or(Ok(compressed), Err)
    }
}

/// Where this interpreter starts the command line, which runs plugins that are isolated.
fn isolation(py: Python<'_>) -> PyResult<Isolation> {
    let program: PathBuf = py.import("sys")?.getattr("executable")?.extract()?;
    let words = ["-m", "arc_encoder", "serve-plugin"].map(str::to_owned);
    Ok(Isolation::new(program).args(words.to_vec()))
}

/// Says what is pulled to the logger `arc_encoder`.
struct Logged {
    name: String,
}

impl Logged {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    fn log(&self, text: &str) {
        Python::attach(|py| {
            let logged = py
                .import("logging")
                .and_then(|logging| logging.call_method1("getLogger", ("arc_encoder",)))
                .and_then(|logger| logger.call_method1("info", ("%s", text)));
            // A download is no worse for a logger that raises.
            drop(logged);
        });
    }
}

impl Progress for Logged {
    fn begin(&self, total: Option<u64>) {
        let size = total.map_or_else(String::new, |bytes| format!(" ({} MB)", bytes / 1_000_000));
        self.log(&format!("pulling `{}`{size}", self.name));
    }

    fn advance(&self, _bytes: u64) {}

    fn message(&self, text: &str) {
        self.log(text);
    }

    fn finish(&self) {}
}
