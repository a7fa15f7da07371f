//! A new adapter: trained, written and named in a registry.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use arc_adapters::{
    MANIFEST_FILE, ModelFile, ModelSource, NewDecoder, RegistryEditor, sha256_file, write_atomically,
};
use arc_core::decoder::Decoder;
use arc_core::hub::{self, Cache, Consent, Silent};
use arc_core::nn::Residence;
use arc_core::prompt::PromptTemplate;
use arc_core::train::{Evaluation, Observer, RegisterOptions, StepMetrics, register as train};
use arc_core::{Error, Result, Session};
use pyo3::prelude::*;

use crate::calls::Work;

/// What `Session.register` made.
#[pyclass(frozen, get_all, module = "arc_encoder")]
pub(crate) struct Registration {
    /// The decoder's name in the registry.
    decoder: String,
    /// The package folder.
    adapter: PathBuf,
    /// The registry file that names it.
    registry: PathBuf,
    /// Steps of the optimiser.
    steps: u64,
    /// Seconds spent.
    seconds: f64,
    /// Mean loss on held-out text with its latents before, nats per token; `None` where it was not measured.
    loss_before: Option<f64>,
    /// The same afterwards.
    loss_after: Option<f64>,
    /// The share of the gap between no context and the whole of it that the latents recover, afterwards.
    recovered: Option<f64>,
    /// The sha256 of the decoder's weights in memory, the same before and after.
    decoder_sha256: String,
    /// The sha256 of the encoder's weights in memory, the same before and after.
    encoder_sha256: String,
}

#[pymethods]
impl Registration {
    fn __repr__(&self) -> String {
        format!("Registration('{}', {} steps, {})", self.decoder, self.steps, self.adapter.display())
    }
}

/// What is to be registered, and where.
pub(crate) struct Registering {
    pub(crate) name: String,
    pub(crate) corpus: PathBuf,
    pub(crate) encoder: Option<String>,
    /// The parts of a new decoder's model.
    pub(crate) model: Vec<String>,
    pub(crate) output: Option<PathBuf>,
    /// The registry file that is to name it.
    pub(crate) file: PathBuf,
    pub(crate) replace: bool,
}

/// Tells the caller of steps, and ends when it says so.
struct Watcher<'a> {
    work: &'a Work<Registration, (u64, u64, f64)>,
}

impl Observer for Watcher<'_> {
    fn step(&mut self, metrics: &StepMetrics, steps: u64) {
        self.work.tell((metrics.step + 1, steps, metrics.loss));
    }

    fn evaluation(&mut self, _step: u64, _evaluation: &Evaluation) {}

    fn message(&mut self, _text: &str) {}

    fn should_stop(&self) -> bool {
        self.work.go_on().is_err()
    }
}

/// Registrations of a process come one after another: one that Ctrl-C ended may still be on its way to an end.
static TURN: Mutex<()> = Mutex::new(());

/// Refuses a folder that nothing can be written into, before anything is trained.
fn check_folder(folder: &Path) -> Result<()> {
    let absolute = std::path::absolute(folder).map_err(Error::io("find", folder))?;
    // What is not there yet is made in the nearest folder above that is.
    let there = absolute.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(&absolute);
    tempfile::tempfile_in(there).map(drop).map_err(Error::io("create a file in", there))
}

/// Gives a package its place. The manifest, which has the hash of the weights, comes last.
fn move_package(from: &Path, to: &Path) -> Result<()> {
    let files = std::fs::read_dir(from).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<std::io::Result<Vec<_>>>()
    });
    let mut files = files.map_err(Error::io("read", from))?;
    files.sort_by_key(|name| name == MANIFEST_FILE);
    std::fs::create_dir_all(to).map_err(Error::io("make", to))?;
    for name in files {
        let bytes = std::fs::read(from.join(&name)).map_err(Error::io("read", from.join(&name)))?;
        let place = to.join(name);
        write_atomically(&place, |file| file.write_all(&bytes).map_err(Error::io("write", &place)))?;
    }
    Ok(())
}

/// Trains an adapter and names it; nothing is named if it is interrupted.
pub(crate) fn register(
    work: &Work<Registration, (u64, u64, f64)>,
    session: &Session,
    asked: Registering,
    set: impl FnOnce(RegisterOptions) -> RegisterOptions,
) -> Result<Registration> {
    let registry = session.registry();
    let known = registry.decoder(&asked.name).ok().cloned();
    let known = known.as_ref();
    let model = match (known, asked.model.as_slice()) {
        (Some(entry), []) => entry.model.clone(),
        (None, [_, ..]) => {
            let here = std::env::current_dir().map_err(Error::io("find", "."))?;
            ModelFile::unpinned(ModelSource::from_texts(&asked.model)?.resolved_against(&here))
        }
        (Some(_), _) => {
            return Err(Error::InvalidValue {
                what: "model".into(),
                found: asked.model.join(", "),
                expected: format!("none: the registry has a decoder `{}` already", asked.name),
            });
        }
        (None, []) => return Err(registry.unknown_name(&asked.name).into()),
    };
    let name = known.map_or_else(|| asked.name.clone(), |entry| entry.name.clone());
    let (encoder, own) = match known {
        Some(entry) => {
            let encoder = registry.resolve(&entry.name, asked.encoder.as_deref())?.encoder()?;
            (encoder, registry.resolve(&entry.name, None).ok().and_then(|pair| pair.encoder))
        }
        None => (registry.encoder_or_default(asked.encoder.as_deref())?, registry.default_encoder()?),
    };
    let is_own = own.is_some_and(|own| own.name == encoder.name);
    let file = asked.file.as_path();
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let package = asked.output.unwrap_or_else(|| {
        let plugins = folder.join("plugins");
        if is_own { plugins.join(&name) } else { plugins.join(&encoder.name).join(&name) }
    });
    let is_taken = RegistryEditor::open(file)?
        .registry()?
        .decoder(&name)
        .is_ok_and(|entry| entry.names_adapter_for(encoder) || (is_own && entry.usual_adapter().is_some()));
    if (package.exists() || is_taken) && !asked.replace {
        return Err(Error::Occupied {
            path: package,
            state: format!(
                "or the registry has an adapter of encoder `{}` for `{name}` already",
                encoder.name
            ),
            hint: "give `replace=True`, or another name".into(),
        });
    }
    // What the file cannot take is found out before anything is trained.
    let name_in = |editor: &mut RegistryEditor, package: &Path, sha256: &str| -> Result<()> {
        if is_own {
            editor.set_package(&name, Some(encoder), package, sha256)?;
        } else {
            editor.add_adapter(&name, encoder, package, Some(sha256))?;
        }
        Ok(())
    };
    {
        // An editor locks the file as long as it lives.
        let mut trial = RegistryEditor::open(file)?;
        match known {
            Some(entry) => trial.adopt_decoder(entry)?,
            None => trial.add_decoder(&NewDecoder::new(&name, model.clone()))?,
        }
        name_in(&mut trial, &package, "")?;
    }

    // Others of this process may be writing to the cache's folder still, on their way to an end.
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    work.go_on()?;
    let cache = Cache::from_env()?;
    let options = RegisterOptions::new(&name, &encoder.name, &asked.corpus, cache.folder().join("latents"));
    let own_factor = session.encoder_named(&encoder.name)?.default_factor();
    let options = set(options.factors(vec![own_factor]));
    options.check()?;
    PromptTemplate::parse(&options.template)?;
    check_folder(&package)?;
    work.go_on()?;
    let path = hub::pull(&model, &name, &cache, &Silent, Consent::Given)?;
    let decoder = match known {
        Some(_) => session.dense_model(&name)?,
        None => Decoder::open_as(&name, &path, session.device(), Residence::Dense)?,
    };
    let steps = options.steps;
    // Elsewhere, since an adapter is written of what was interrupted too.
    let made = tempfile::tempdir().map_err(Error::io("make", std::env::temp_dir()))?;
    let registration = train(&options, session, &decoder, made.path(), &mut Watcher { work })?;
    work.go_on()?;
    move_package(made.path(), &package)?;

    let package_sha256 = sha256_file(&package.join(MANIFEST_FILE))?;
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (from, to) = (absolute(folder), absolute(&package));
    let relative = to.strip_prefix(&from).map(Path::to_owned).unwrap_or(to);
    let mut editor = RegistryEditor::open(file)?;
    if let Some(entry) = known {
        editor.adopt_decoder(entry)?;
    } else {
        let bytes = std::fs::metadata(&path).ok().map(|metadata| metadata.len());
        let sha256 = Some(sha256_file(&path)?);
        let architecture = decoder.network.config().architecture.name().to_owned();
        let new = NewDecoder::new(&name, model.sha256(sha256).bytes(bytes));
        editor.add_decoder(&new.architecture(Some(architecture)))?;
    }
    name_in(&mut editor, &relative, &package_sha256)?;
    editor.save()?;
    session.reload()?;
    let loss = |evaluation: &Evaluation| evaluation.continuation.as_ref().map(|arms| arms.latents);
    Ok(Registration {
        decoder: name,
        adapter: package,
        registry: asked.file,
        steps: registration.steps.min(steps),
        seconds: registration.seconds,
        loss_before: loss(&registration.before),
        loss_after: loss(&registration.after),
        recovered: registration.after.continuation.as_ref().map(|arms| arms.recovered()),
        decoder_sha256: registration.decoder_sha256,
        encoder_sha256: registration.encoder_sha256,
    })
}
