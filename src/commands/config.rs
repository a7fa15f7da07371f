//! `arc config`: this user's settings.

use serde_json::json;

use crate::Failure;
use crate::args::{Config, ConfigAction};
use crate::output::Output;
use crate::settings::{From, Key, Settings};

pub(crate) fn run(args: &Config, output: &Output) -> Result<(), Failure> {
    match &args.command {
        ConfigAction::List => list(output),
        ConfigAction::Get { key } => get(*key, output),
        ConfigAction::Set { key, value, unset } => set(*key, value.as_deref().filter(|_| !unset), output),
    }
}

/// Where a value comes from, as it is printed.
fn origin(settings: &Settings, key: Key, from: From) -> Option<String> {
    match from {
        From::Environment => Some(key.variable().to_owned()),
        From::File => settings.path().map(|path| path.display().to_string()),
        From::Nowhere => None,
    }
}

fn list(output: &Output) -> Result<(), Failure> {
    let settings = Settings::read()?;
    let mut entries = Vec::new();
    for key in Key::ALL {
        let (value, from) = settings.value(key);
        let origin = origin(&settings, key, from);
        output.line(match (&value, &origin) {
            (Some(value), Some(origin)) => format!("{:<12} {value}  ({origin})", key.name()),
            _ => format!("{:<12} not set", key.name()),
        })?;
        entries.push(json!({
            "key": key.name(),
            "value": value,
            "from": origin,
            "variable": key.variable(),
        }));
    }
    output.json(&json!({
        "file": settings.path().map(std::path::Path::to_string_lossy),
        "settings": entries,
    }))
}

fn get(key: Key, output: &Output) -> Result<(), Failure> {
    let settings = Settings::read()?;
    let (value, from) = settings.value(key);
    let Some(value) = value else {
        return Err(Failure::failed(
            format!("`{}` is not set", key.name()),
            format!("set it with `arc config set {} VALUE`", key.name()),
        ));
    };
    output.line(&value)?;
    let from = origin(&settings, key, from);
    output.json(&json!({ "key": key.name(), "value": value, "from": from }))
}

fn set(key: Key, value: Option<&str>, output: &Output) -> Result<(), Failure> {
    let mut settings = Settings::read()?;
    settings.set(key, value)?;
    let file = settings.path().map(|path| path.display().to_string()).unwrap_or_default();
    output.line(match value {
        Some(value) => format!("{} is {value} in {file}", key.name()),
        None => format!("{} is not set in {file}", key.name()),
    })?;
    if std::env::var_os(key.variable()).is_some_and(|value| !value.is_empty()) {
        output.remark(format!("`{}` is set in the environment, and goes before it", key.variable()));
    }
    output.json(&json!({ "key": key.name(), "value": value, "file": file }))
}
