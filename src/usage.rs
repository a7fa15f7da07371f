//! Mistakes in the command line: clap finds them, and they are told like every other failure.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory as _, FromArgMatches as _};

use crate::args::Arguments;
use crate::settings::Settings;
use crate::{Failure, hints, invocation, output};

/// Reads the command line. Help and the version are printed as clap prints them, and leave nothing to do.
pub(crate) fn arguments() -> Result<Option<Arguments>, Failure> {
    let words = with_globals_last(invocation::arguments());
    // Settings that cannot be read are no reason not to say what there is, or to change them.
    let settings = match Settings::read() {
        Ok(settings) => settings,
        Err(_)
            if words
                .iter()
                .any(|word| ["config", "--help", "-h", "help"].iter().any(|other| word == other)) =>
        {
            Settings::default()
        }
        Err(failure) => return Err(failure),
    };
    let matches = settings.as_defaults(versioned(&words)).try_get_matches_from(words);
    match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => Ok(Some(arguments)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                let printed = error.print().and_then(|()| std::io::stdout().flush());
                printed.and_then(|()| output::check_open()).map_err(|error| Failure::output(&error))?;
                Ok(None)
            }
            // A command was left out: what there is goes where errors go.
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = error.print();
                Err(Failure::told(2))
            }
            _ => Err(Failure::usage(message(&error), hint(&error))),
        },
    }
}

/// The command line with what its version is, which is found out where it is asked for.
fn versioned(words: &[OsString]) -> Command {
    let command = Arguments::command();
    if words.iter().any(|word| word == "--version" || word == "-V") {
        // clap holds them for as long as the command line is read.
        let held = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        return command.version(held(crate::version::short())).long_version(held(crate::version::long()));
    }
    command
}

/// Puts the global options that stand before a command after it, in their order: clap takes them in both
/// places, but those that are repeated only in one, and looks for the ones that an option of a command needs
/// behind the command alone.
fn with_globals_last(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut command = Arguments::command();
    // Global options are those of the root, and hold for all commands.
    let globals: Vec<_> =
        command.get_arguments().filter(|argument| argument.is_global_set()).cloned().collect();
    let global = |name: &str| {
        globals.iter().find(|global| {
            name.strip_prefix("--").is_some_and(|long| global.get_long() == Some(long))
                || name.strip_prefix('-').is_some_and(|short| {
                    global.get_short().is_some_and(|expected| short.chars().eq([expected]))
                })
        })
    };
    let mut rest = arguments.into_iter().peekable();
    let (mut path, mut moved): (Vec<_>, Vec<_>) = (rest.next().into_iter().collect(), Vec::new());
    while let Some(argument) = rest.peek() {
        let text = argument.to_string_lossy().into_owned();
        let (name, has_value) = match text.split_once('=') {
            Some((name, _)) => (name, true),
            None => (text.as_str(), false),
        };
        if let Some(global) = global(name) {
            moved.extend(rest.next());
            if !has_value && global.get_action().takes_values() {
                moved.extend(rest.next());
            }
        } else if let Some(named) = subcommand(&command, argument) {
            path.extend(rest.next());
            command = named;
        } else {
            break;
        }
    }
    path.into_iter().chain(moved).chain(rest).collect()
}

fn subcommand(command: &Command, argument: &OsStr) -> Option<Command> {
    command.find_subcommand(argument).cloned()
}

/// Whether the command line names this command.
pub(crate) fn is_named(command: &str) -> bool {
    named_command().split(' ').nth(1) == Some(command)
}

/// Where all that a command takes is listed.
pub(crate) fn where_to_look() -> String {
    format!("`{} --help` lists what it takes", named_command())
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
    if let Some(hint) = error.source().and_then(hint_of_reader) {
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
    where_to_look()
}

/// What a value's own reader says to do about it.
fn hint_of_reader(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref() {
        return arc_core::Error::hint(error).map(|hint| hints::worded(&hint));
    }
    arc_adapters::Error::hint(error.downcast_ref()?).map(|hint| hints::of_adapter(&hint))
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
    for argument in with_globals_last(invocation::arguments()).iter().skip(1) {
        let Some(named) = subcommand(&command, argument) else { break };
        path = format!("{path} {}", named.get_name());
        command = named;
    }
    path
}
