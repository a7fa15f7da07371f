//! Errors as Python raises them: a class for each kind, with the hint in it.

use arc_core::{Error, Hint};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The exception of an error: a class of `arc_encoder.errors`.
pub(crate) fn raised(py: Python<'_>, error: &Error) -> PyErr {
    exception(py, error).unwrap_or_else(|failed| failed)
}

fn exception(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    if matches!(error, Error::Interrupted) {
        return Ok(PyKeyboardInterrupt::new_err(()));
    }
    // What the system gives as reasons may have lines of its own.
    let message = error.to_string().lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let class = py.import("arc_encoder.errors")?.getattr(class_of(error))?;
    let arguments = (message, hint_of(error), arc_encoder::error_code(error));
    let of_system = PyDict::new(py);
    if let Error::Io { path, source, .. } = error {
        of_system.set_item("errno", source.raw_os_error())?;
        of_system.set_item("filename", path)?;
    }
    Ok(PyErr::from_value(class.call(arguments, Some(&of_system))?))
}

/// The class of `arc_encoder.errors` that an error is raised as.
fn class_of(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "FileError",
        Error::InvalidFile { .. }
        | Error::MissingTensor { .. }
        | Error::UnusedTensors { .. }
        | Error::TensorShape { .. }
        | Error::UnsupportedQuantisation { .. }
        | Error::UnsupportedFormat { .. }
        | Error::UnsupportedArchitecture { .. }
        | Error::InvalidConfig { .. }
        | Error::Tokenizer { .. }
        | Error::Template { .. }
        | Error::DataRow { .. } => "InvalidFileError",
        Error::Device { .. } | Error::DeviceData { .. } => "DeviceError",
        Error::Document { .. } => "DocumentError",
        Error::WindowExceeded { .. } => "WindowExceededError",
        Error::Checksum { .. } | Error::Pull { .. } | Error::NotAtSource { .. } => "PullError",
        Error::Mismatch { .. } => "MismatchError",
        Error::InvalidValue { .. }
        | Error::NotEnough { .. }
        | Error::WrongCount { .. }
        | Error::InvalidEncoder { .. }
        | Error::NoCacheFolder
        | Error::Occupied { .. }
        | Error::NotTrainable { .. } => "UsageError",
        Error::NotFound { .. } => "NotFoundError",
        Error::NotFinite { .. } => "NotFiniteError",
        Error::Diverged { .. }
        | Error::Ranks { .. }
        | Error::DoesNotFit { .. }
        | Error::Regression { .. } => "TrainingError",
        Error::Adapter(error) => class_of_adapters(error),
        _ => "ArcError",
    }
}

fn class_of_adapters(error: &arc_adapters::Error) -> &'static str {
    use arc_adapters::Error;
    match error {
        Error::UnknownName { .. } | Error::NamesNoEncoder { .. } | Error::NamesNoDecoder { .. } => {
            "NotFoundError"
        }
        Error::InvalidSource { .. } | Error::InvalidName { .. } | Error::NameTaken { .. } => "UsageError",
        Error::PinMismatch { .. } | Error::PackageChanged { .. } | Error::Sha256Mismatch { .. } => {
            "MismatchError"
        }
        Error::Invalid { .. } | Error::TooLarge { .. } | Error::UnsupportedSchema { .. } => {
            "InvalidFileError"
        }
        _ => "AdapterError",
    }
}

/// What to do about an error, in the words of the package.
pub(crate) fn hint_of(error: &Error) -> Option<String> {
    Some(match error.hint()? {
        Hint::BuildOrCpu { feature } => format!(
            "build the wheel with `scripts/wheel build --features {feature}`, or use `device=\"cpu\"`"
        ),
        Hint::OtherForm => {
            "ask with `Decoder.ask` or `Decoder.prompt`, which have the adapter's template, or put a \
             `chat_template.jinja` beside its weights"
                .to_owned()
        }
        Hint::Adapter(hint) => of_adapter(&hint),
        // The command line has no other words for these.
        hint => hint.to_string(),
    })
}

/// A hint of `arc-adapters`, with the argument that does what it says.
pub(crate) fn of_adapter(hint: &arc_adapters::Hint) -> String {
    use arc_adapters::Hint;
    match hint {
        Hint::NameRegistry => "no registry was read: give a `registry.toml` to `Session`".to_owned(),
        Hint::NameEncoder => "name one with `encoder=`, or set `default_encoder` in a registry".to_owned(),
        Hint::Fit { decoder } => format!(
            "make one with `Session.register({decoder:?}, …)` or `arc fit --decoder {decoder}`, or add a package \
             with `arc adapters add`"
        ),
        Hint::Import { encoder } => {
            format!("`arc import --name {encoder}` fetches and imports its checkpoint")
        }
        Hint::AllowPlugins => {
            "it runs foreign code with your rights: if you trust it, give `allow_plugins=True` to `Session`, or \
             have the registry that names it say `allow_code_plugins = true`"
                .to_owned()
        }
        Hint::PinAnew => {
            "if the change is yours, pin it anew with `arc adapters add FOLDER --replace`; \
             `Session(…, force=True)` uses it all the same"
                .to_owned()
        }
        Hint::OverridePin => {
            "use the model that the adapter was made for, or give `force=True` to `Session` to go on".to_owned()
        }
        Hint::OrOtherDefault(hint) => format!("{}, or set another `default_encoder`", of_adapter(hint)),
        hint => hint.to_string(),
    }
}
