//! The command line of arc-encoder: arguments in, calls into `arc-core`, printing out.
//!
//! This library is there for programs that carry the command line in them: `arc` itself, and the Python
//! package. What computes is `arc-core`.

mod args;
mod commands;
mod error_codes;
mod hints;
mod interrupt;
mod invocation;
mod memory;
mod output;
mod progress;
mod settings;
mod standard_output;
mod terminal;
mod threads;
mod usage;
mod version;

use std::io::Write as _;
use std::time::Instant;

use crate::args::{Arguments, Command};
use crate::output::{Form, Output, note};

pub use args::Sampling;
pub use error_codes::code_of as error_code;
pub use invocation::Invocation;

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
    /// What it is called where a program reads it: see [`error_codes`].
    kind: &'static str,
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
        Self { message, hint, code: 1, kind: "failed", is_silent: false }
    }

    /// The one line that says what is wrong.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The same of one document of several.
    pub(crate) fn or_skip_bad(self) -> Self {
        Self { hint: format!("{}; `--skip-bad` passes over what cannot be read", self.hint), ..self }
    }

    /// Whether nothing that comes after could be told.
    pub(crate) fn ends_everything(&self) -> bool {
        self.kind == "output"
    }

    /// Says it on standard error, unless it was said.
    pub(crate) fn tell(&self) {
        if !self.is_silent {
            note(format!("error: {}", self.message));
            note("");
            note(format!("hint: {}", self.hint));
        }
    }

    /// As a program reads it.
    fn to_json(&self) -> serde_json::Value {
        let error = serde_json::json!({
            "code": self.kind, "message": self.message, "hint": self.hint, "exit": self.code,
        });
        serde_json::json!({ "error": error })
    }

    /// Standard output cannot be written.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        let failure = Self::failed(
            format!("cannot write the output: {error}"),
            "send standard output to a place that takes it and has room for it",
        );
        let failure = match error.kind() {
            // It has seen enough, and wants to hear nothing. What came after is lost all the same.
            std::io::ErrorKind::BrokenPipe => Self::told(READER_IS_GONE),
            _ => failure,
        };
        Self { kind: "output", ..failure }
    }

    /// What there is to say was said.
    pub(crate) fn told(code: u8) -> Self {
        Self { code, is_silent: true, ..Self::failed("it was told", "it was told") }
    }

    /// The user ended it with Ctrl-C; what it came to was said.
    pub(crate) fn interrupted() -> Self {
        let told = "it was interrupted";
        Self {
            kind: "interrupted",
            code: INTERRUPTED,
            is_silent: true,
            ..Self::failed(told, "begin it again")
        }
    }

    /// The command was asked for something that makes no sense; nothing was done.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: 2, kind: "usage", ..Self::failed(message, hint) }
    }
}

impl From<arc_core::Error> for Failure {
    fn from(error: arc_core::Error) -> Self {
        use arc_core::Error;
        if matches!(error, Error::Interrupted) {
            return Self::interrupted();
        }
        let kind = error_codes::code_of(&error);
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
        Self { code, kind, ..Self::failed(error.to_string(), hint) }
    }
}

impl From<arc_documents::Error> for Failure {
    fn from(error: arc_documents::Error) -> Self {
        match error {
            // The hints are those of every other file that cannot be read.
            arc_documents::Error::Io { path, source } => {
                arc_core::Error::Io { action: "read", path, source }.into()
            }
            error => {
                let hint = error.hint().unwrap_or_else(usage::where_to_look);
                Self { kind: "document", ..Self::failed(error.to_string(), hint) }
            }
        }
    }
}

impl From<arc_adapters::Error> for Failure {
    fn from(error: arc_adapters::Error) -> Self {
        arc_core::Error::from(error).into()
    }
}

/// Does what a command line says, and returns the code that the process is to end with.
///
/// It prints, and may end the process itself, at Ctrl-C: it listens to that from now on. One runs at a time in a process.
#[must_use]
pub fn run(invocation: Invocation) -> u8 {
    memory::share_what_is_freed();
    invocation::begin(invocation);
    interrupt::listen();
    arc_adapters::tell_of_waiting(|registry| {
        note(format!("waiting for another command that is changing `{}`", registry.display()));
    });
    let ended = match usage::arguments() {
        Ok(Some(arguments)) => {
            let output = output_of(&arguments);
            let start = Instant::now();
            let ended = run_command(&arguments, &output);
            let memory = arc_core::train::peak_memory().map_or_else(|| "unknown".into(), |m| m.to_string());
            output.detail(format!(
                "memory: {memory} bytes at most, time: {:.2} s",
                start.elapsed().as_secs_f64()
            ));
            ended.map_err(|failure| (failure, output))
        }
        Ok(None) => Ok(()),
        // Nothing has been understood; who wants JSON is told in it all the same.
        Err(failure) => {
            let wants_json = invocation::arguments().iter().any(|argument| argument == "--json");
            let form = if wants_json { Form::Json } else { Form::Text };
            Err((failure, Output::new(form, false, false)))
        }
    };
    let code = match ended {
        Ok(()) => 0,
        Err((failure, output)) => {
            failure.tell();
            if !failure.ends_everything() {
                output.error(failure.to_json());
            }
            failure.code
        }
    };
    // Only the runtime of a Rust program does so at the end.
    let _ = std::io::stdout().flush();
    code
}

fn output_of(arguments: &Arguments) -> Output {
    let global = &arguments.global;
    let form = match &arguments.command {
        Command::Ask(ask) if ask.stream => Form::Stream,
        // A conversation has no end that one object could stand at.
        Command::Chat(_) if global.json => Form::Stream,
        _ if global.json => Form::Json,
        _ => Form::Text,
    };
    Output::new(form, global.quiet, global.verbose)
}

fn run_command(arguments: &Arguments, output: &Output) -> Result<(), Failure> {
    threads::check()?;
    match &arguments.command {
        Command::Ask(ask) => commands::ask::run(&arguments.global, ask, output),
        Command::Chat(chat) => commands::chat::run(&arguments.global, chat, output),
        Command::Serve(serve) => commands::serve::run(&arguments.global, serve, output),
        Command::Cache(cache) => commands::cache::run(&arguments.global, cache, output),
        Command::Config(config) => commands::config::run(config, output),
        Command::Completions { shell } => commands::completions::run(*shell),
        Command::Man { folder } => commands::completions::man(folder, output),
        Command::Generate(generate) => commands::generate::run(&arguments.global, generate, output),
        Command::Compress(compress) => commands::compress::run(&arguments.global, compress, output),
        Command::Fit(fit) => commands::fit::run(&arguments.global, fit, output),
        Command::Eval(eval) => commands::eval::run(&arguments.global, eval, output),
        Command::Train(train) => commands::train::run(&arguments.global, train, output),
        Command::Register(register) => commands::register::run(&arguments.global, register, output),
        Command::Data(args::Data::Prepare(prepare)) => {
            commands::prepare::run(&arguments.global, prepare, output)
        }
        Command::Pull(pull) => commands::pull::run(&arguments.global, pull, output),
        Command::Models(models) => commands::models::run(&arguments.global, models, output),
        Command::Bench(bench) => commands::bench::run(&arguments.global, bench, output),
        Command::CheckReference(check) => commands::check_reference::run(&arguments.global, check, output),
        Command::Adapters(adapters) => commands::adapters::run(&arguments.global, adapters, output),
        Command::Import(import) => commands::import::run(&arguments.global, import, output),
        Command::Export(export) => commands::export::run(&arguments.global, export, output),
        Command::Plan(plan) => commands::plan::run(&arguments.global, plan, output),
        Command::Devices => commands::devices::run(output),
        Command::ReadPdf => commands::pdf_text::serve(),
        Command::ServePlugin => arc_adapters::serve_plugin().map_err(Failure::from),
    }
}
