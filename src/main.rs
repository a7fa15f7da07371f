//! The command line of arc-encoder: arguments in, calls into `arc-core`, printing out.

mod args;
mod commands;
mod hints;
mod output;
mod standard_output;
mod terminal;
mod threads;
mod usage;

use std::process::ExitCode;

use crate::args::{Arguments, Command};
use crate::output::{Output, note};

/// Of a program that SIGINT ended, as shells count: it was interrupted, whatever it has kept.
const INTERRUPTED: u8 = 130;
/// Of a program that SIGPIPE ended, which ends most of those that write to a pipe that nobody reads.
const READER_IS_GONE: u8 = 141;

/// What a command ends with when it fails.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: String,
    code: u8,
    /// Whether there is nothing to say that was not said. A flag, since the words of the system's error may
    /// stand in any other failure too.
    is_silent: bool,
}

impl Failure {
    /// It was tried, and what came out is no success.
    pub(crate) fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        // What the system and libraries give as reasons may have lines of its own.
        let one_line = |text: String| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        let (message, hint) = (one_line(message.into()), one_line(hint.into()));
        Self { message, hint, code: 1, is_silent: false }
    }

    /// Standard output cannot be written.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        let failure = Self::failed(
            format!("cannot write the output: {error}"),
            "send standard output to a place that takes it and has room for it",
        );
        match error.kind() {
            // It has seen enough, and wants to hear nothing. What came after is lost all the same.
            std::io::ErrorKind::BrokenPipe => Self::told(READER_IS_GONE),
            _ => failure,
        }
    }

    /// What there is to say was said.
    pub(crate) fn told(code: u8) -> Self {
        Self { code, is_silent: true, ..Self::failed("it was told", "it was told") }
    }

    /// The user ended it with Ctrl-C; what it came to was said.
    pub(crate) fn interrupted() -> Self {
        Self::told(INTERRUPTED)
    }

    /// The command was asked for something that makes no sense; nothing was done.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: 2, ..Self::failed(message, hint) }
    }
}

impl From<arc_core::Error> for Failure {
    fn from(error: arc_core::Error) -> Self {
        use arc_core::Error;
        // What a function does not accept was asked for by the command line.
        let is_usage = matches!(
            error,
            Error::InvalidValue { .. }
                | Error::NotFound { .. }
                | Error::Occupied { .. }
                | Error::NotEnough { .. }
                | Error::WrongCount { .. }
                | Error::InvalidEncoder { .. }
                | Error::NotTrainable { .. }
                | Error::NoCacheFolder
                | Error::Adapter(arc_adapters::Error::NoEncoder { .. })
        );
        let code = if is_usage { 2 } else { 1 };
        let hint = match &error {
            Error::InvalidValue { .. } | Error::WrongCount { .. } | Error::NotEnough { .. } => {
                format!("correct that: {}", usage::where_to_look())
            }
            // Only `arc eval` can go on without a row.
            Error::DataRow { .. } if usage::is_named("eval") => {
                "correct that row, or leave out malformed ones with `--skip-bad`".to_owned()
            }
            _ => hints::of_error(&error).unwrap_or_else(usage::where_to_look),
        };
        Self { code, ..Self::failed(error.to_string(), hint) }
    }
}

impl From<arc_adapters::Error> for Failure {
    fn from(error: arc_adapters::Error) -> Self {
        arc_core::Error::from(error).into()
    }
}

fn main() -> ExitCode {
    arc_adapters::tell_of_waiting(|registry| {
        note(format!("waiting for another command that is changing `{}`", registry.display()));
    });
    let ended = match usage::arguments() {
        Ok(Some(arguments)) => run(&arguments),
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { message, hint, code, is_silent }) => {
            if !is_silent {
                note(format!("error: {message}"));
                note("");
                note(format!("hint: {hint}"));
            }
            ExitCode::from(code)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    threads::check()?;
    let output = Output::new(arguments.global.json);
    match &arguments.command {
        Command::Ask(ask) => commands::ask::run(&arguments.global, ask, &output),
        Command::Generate(generate) => commands::generate::run(&arguments.global, generate, &output),
        Command::Compress(compress) => commands::compress::run(&arguments.global, compress, &output),
        Command::Fit(fit) => commands::fit::run(&arguments.global, fit, &output),
        Command::Eval(eval) => commands::eval::run(&arguments.global, eval, &output),
        Command::Train(train) => commands::train::run(&arguments.global, train, &output),
        Command::Register(register) => commands::register::run(&arguments.global, register, &output),
        Command::Data(args::Data::Prepare(prepare)) => {
            commands::prepare::run(&arguments.global, prepare, &output)
        }
        Command::Pull(pull) => commands::pull::run(&arguments.global, pull, &output),
        Command::Models => commands::models::run(&arguments.global, &output),
        Command::Bench(bench) => commands::bench::run(&arguments.global, bench, &output),
        Command::CheckReference(check) => commands::check_reference::run(&arguments.global, check, &output),
        Command::Adapters(adapters) => commands::adapters::run(&arguments.global, adapters, &output),
        Command::Import(import) => commands::import::run(&arguments.global, import, &output),
        Command::Export(export) => commands::export::run(&arguments.global, export, &output),
        Command::Plan(plan) => commands::plan::run(&arguments.global, plan, &output),
        Command::Devices => commands::devices::run(&output),
        Command::ServePlugin => arc_adapters::serve_plugin().map_err(Failure::from),
    }
}
