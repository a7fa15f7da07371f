//! Mistakes in the command line: clap finds them, and they are told like every other failure.

use std::error::Error as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Parser as _};

use crate::Failure;
use crate::args::Arguments;

/// Reads the command line. Help and the version are printed as clap prints them.
pub(crate) fn arguments() -> Result<Arguments, Failure> {
    Arguments::try_parse().map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => Failure::usage(message(&error), hint(&error)),
    })
}

/// The first paragraph of what clap says, in one line.
fn message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let mut lines = paragraph.lines().map(str::trim).filter(|line| !line.starts_with('['));
    let first = lines.next().unwrap_or_default().trim_start_matches("error: ");
    let rest: Vec<_> = lines.map(|line| format!("`{line}`")).collect();
    in_backticks(error, format!("{first} {}", rest.join(", ")).trim())
}

/// What the value's own reader says to do, else clap's suggestions, else where to look.
fn hint(error: &clap::Error) -> String {
    if let Some(hint) =
        error.source().and_then(|source| source.downcast_ref()).and_then(arc_core::Error::hint)
    {
        return hint;
    }
    let text = error.render().to_string();
    let tips: Vec<_> = text.lines().filter_map(|line| line.trim().strip_prefix("tip: ")).collect();
    if !tips.is_empty() {
        return tips.join("; ").replace('\'', "`");
    }
    if let Some(ContextValue::Strings(values)) = error.get(ContextKind::ValidValue)
        && !values.is_empty()
    {
        return format!("use one of `{}`", values.join("`, `"));
    }
    format!("`{} --help` lists what it takes", named_command())
}

/// clap quotes names with `'`.
fn in_backticks(error: &clap::Error, text: &str) -> String {
    let names = error.context().flat_map(|(_, value)| match value {
        ContextValue::String(name) => vec![name.clone()],
        ContextValue::Strings(names) => names.clone(),
        _ => Vec::new(),
    });
    names.fold(text.to_owned(), |text, name| text.replace(&format!("'{name}'"), &format!("`{name}`")))
}

/// The command that the command line names, as far as it is one.
fn named_command() -> String {
    let mut command = Arguments::command();
    let mut path = "arc".to_owned();
    for argument in std::env::args_os().skip(1) {
        if let Some(named) = command.find_subcommand(&argument).cloned() {
            path = format!("{path} {}", named.get_name());
            command = named;
        }
    }
    path
}
