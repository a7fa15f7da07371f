//! What failures are called where a program reads them (`--json`): names that stay, listed in
//! docs/command-line.md.

use arc_core::Error;

/// What an error is called where a program reads it (`--json`): a name that stays, listed in
/// docs/command-line.md.
#[must_use]
pub fn code_of(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } if error.is_disk_full() => "disk-full",
        Error::Io { .. } => "io",
        Error::InvalidFile { .. } => "invalid-file",
        Error::InvalidConfig { .. } => "invalid-config",
        Error::MissingTensor { .. } | Error::TensorShape { .. } | Error::UnusedTensors { .. } => "tensor",
        Error::UnsupportedQuantisation { .. }
        | Error::UnsupportedFormat { .. }
        | Error::UnsupportedArchitecture { .. } => "unsupported",
        Error::Tokenizer { .. } => "tokenizer",
        Error::Template { .. } => "template",
        Error::Device { .. } => "device",
        Error::Document { .. } => "document",
        Error::DataRow { .. } => "data-row",
        Error::WindowExceeded { .. } => "window-exceeded",
        Error::Checksum { .. } => "checksum",
        Error::Pull { .. } | Error::NotAtSource { .. } => "pull",
        Error::Mismatch { .. } => "mismatch",
        Error::NotFinite { .. } => "not-finite",
        Error::Interrupted => "interrupted",
        Error::InvalidValue { .. }
        | Error::WrongCount { .. }
        | Error::NotEnough { .. }
        | Error::InvalidEncoder { .. }
        | Error::NotTrainable { .. } => "usage",
        Error::NotFound { .. } => "not-found",
        Error::Occupied { .. } => "occupied",
        Error::DeviceData { .. } => "device",
        Error::Adapter(error) => of_adapter(error),
        _ => "failed",
    }
}

fn of_adapter(error: &arc_adapters::Error) -> &'static str {
    use arc_adapters::Error;

    match error {
        Error::Io { .. } => "io",
        Error::UnknownName { .. } | Error::NamesNoEncoder { .. } | Error::NamesNoDecoder { .. } => {
            "unknown-name"
        }
        Error::NameTaken { .. } => "name-taken",
        Error::NoEncoder { .. } => "no-encoder",
        Error::NoAdapter { .. } => "no-adapter",
        Error::NotImported { .. } => "not-imported",
        Error::PinMismatch { .. } | Error::PackageChanged { .. } => "pin",
        Error::PluginNotAllowed { .. } => "plugin-not-allowed",
        Error::PluginProcess { .. } => "plugin",
        Error::Invalid { .. } | Error::UnsupportedSchema { .. } => "invalid-file",
        _ => "adapter",
    }
}
