//! What to do about an error, in the words of the command line: the libraries know no flags.

use std::path::Path;

use arc_adapters::{Check, Error, Outcome, Remedy};
use arc_core::hub::Cache;

/// What to do about an error.
pub(crate) fn hint(error: &arc_core::Error) -> Option<String> {
    match error {
        arc_core::Error::Adapter(error) => of_adapter(error),
        arc_core::Error::Io { path, .. } if error.is_disk_full() && is_cached(path) => {
            Some("there is no room left for models: free some space, or set `ARC_HOME` to a folder on another disk".to_owned())
        }
        error => error.hint(),
    }
}

fn is_cached(path: &Path) -> bool {
    Cache::from_env().is_ok_and(|cache| path.starts_with(cache.folder()))
}

fn of_adapter(error: &Error) -> Option<String> {
    let hint = match error {
        Error::PluginNotAllowed { .. } => {
            "it runs foreign code with your rights: if you trust it, pass `--allow-plugins`, or have the registry \
             that names it, and your own, say `allow_code_plugins = true` and none `false`"
        }
        Error::PluginProcess { .. } => {
            "this is a bug in the plugin, contained by `--isolate-plugins`: tell its maker"
        }
        Error::UnknownName { searched, .. } if searched.is_empty() => {
            "no registry was read: run where a `registry.toml` is, or pass `--registry FILE`"
        }
        Error::NoEncoder { .. } => "name one with `--encoder`, or set `default_encoder` in a registry",
        Error::NameTaken { kind: "encoder", .. } => {
            "choose another name with `--name`: `arc adapters list` shows what has this one"
        }
        Error::PackageChanged { .. } => {
            "if the change is yours, pin it anew with `arc adapters add FOLDER --replace`; `--force` uses it all \
             the same, and the output will say so"
        }
        Error::PinMismatch { .. } => {
            "use the model that the adapter was made for, or pass `--force` to go on; the output will say so"
        }
        error => return error.hint(),
    };
    Some(hint.to_owned())
}

/// What to do about an adapter that a check refuses.
pub(crate) fn of_refused(check: &Check) -> String {
    let Outcome::Failed { hint, .. } = &check.outcome else { return String::new() };
    let hint = hint.as_deref().unwrap_or_default();
    match &check.remedy {
        None => hint.to_owned(),
        Some(Remedy::OtherDecoder) => {
            format!("{hint} with `--name`, or pass `--force` to add it all the same")
        }
        Some(Remedy::ForEncoder(name)) => {
            format!("{hint}, with `--for-encoder {name}`, or pass `--force` to add it all the same")
        }
        Some(_) => {
            "add one that was made for this encoder, or pass `--force` to add it all the same".to_owned()
        }
    }
}
