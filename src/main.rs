//! The command line of arc-encoder: arguments in, calls into `arc-core`, printing out.

mod args;
mod commands;
mod output;
mod usage;

use std::process::ExitCode;

use crate::args::{Arguments, Command};
use crate::output::Output;

/// What a command ends with when it fails.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: String,
    code: u8,
    /// Whoever reads standard output has closed it. A flag, since the words of the system's error may
    /// stand in any other failure too.
    reader_is_gone: bool,
}

impl Failure {
    /// It was tried, and what came out is no success.
    pub(crate) fn failed(message: impl Into<String>, hint: impl Into<String>) -> Self {
        // What the system and libraries give as reasons may have lines of its own.
        let one_line = |text: String| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        let (message, hint) = (one_line(message.into()), one_line(hint.into()));
        Self { message, hint, code: 1, reader_is_gone: false }
    }

    /// Standard output cannot be written.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        let reader_is_gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        let message = format!("cannot write the output: {error}");
        Self { reader_is_gone, ..Self::failed(message, "send standard output to a place with room for it") }
    }

    /// The command was asked for something that makes no sense; nothing was done.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: 2, ..Self::failed(message, hint) }
    }
}

impl From<arc_core::Error> for Failure {
    fn from(error: arc_core::Error) -> Self {
        // An argument that no library function accepts is a mistake in the command line.
        let is_usage = matches!(
            error,
            arc_core::Error::InvalidArgument(_)
                | arc_core::Error::Adapter(arc_adapters::Error::NoEncoder { .. })
        );
        let code = if is_usage { 2 } else { 1 };
        let hint = error.hint().unwrap_or_else(|| "`arc --help` lists the commands".to_owned());
        Self { code, ..Self::failed(error.to_string(), hint) }
    }
}

impl From<arc_adapters::Error> for Failure {
    fn from(error: arc_adapters::Error) -> Self {
        arc_core::Error::from(error).into()
    }
}

fn main() -> ExitCode {
    match usage::arguments().and_then(|arguments| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        // It has seen enough.
        Err(failure) if failure.reader_is_gone => ExitCode::SUCCESS,
        Err(Failure { message, hint, code, .. }) => {
            eprintln!("error: {message}\n\nhint: {hint}");
            ExitCode::from(code)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
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
