//! `arc serve`: starts the server.

use crate::Failure;
use crate::args::Global;
use crate::args::serve::Serve;
use crate::output::Output;

#[cfg(not(feature = "server"))]
pub(crate) fn run(_: &Global, _: &Serve, _: &Output) -> Result<(), Failure> {
    Err(Failure::usage(
        "this build has no server",
        "install one that has: `cargo install --path . --features server`",
    ))
}

#[cfg(feature = "server")]
pub(crate) fn run(global: &Global, args: &Serve, output: &Output) -> Result<(), Failure> {
    use std::sync::Arc;
    use std::time::Duration;

    use arc_server::engine::EngineLimits;
    use arc_server::http::{Limits, LogForm, Options, Server, log_to_standard_error};
    use serde_json::json;

    use super::session::serving_session;
    use crate::interrupt::stop_on_interrupt;

    let mut keys = args.api_key.clone();
    if let Some(file) = &args.api_key_file {
        keys.extend(keys_of(file)?);
    }
    let session = serving_session(global)?;
    let session = match args.weights_memory {
        Some(bytes) => session.with_memory_budget(bytes.as_u64()),
        None => session,
    };
    let preload = match &args.preload {
        Some(names) => names.clone(),
        None => session.registry().default_decoder()?.map(|entry| entry.name.clone()).into_iter().collect(),
    };
    let usual = Limits::default();
    let limits = Limits {
        body_bytes: usize::try_from(args.max_body.as_u64()).unwrap_or(usize::MAX),
        requests: args.requests.into(),
        new_tokens: args.max_tokens as usize,
        request_time: Duration::from_secs(args.timeout.into()),
        latents_bytes: args.latents_memory.as_u64(),
        engine: EngineLimits {
            rows: args.batch.into(),
            waiting: args.queue.into(),
            kv_bytes: args.kv_memory.as_u64(),
        },
        ..usual
    };
    let may_pull = global.yes;
    let documents = args.documents.clone();
    let options = Options { host: args.host, port: args.port, keys, limits, preload, may_pull, documents };
    if !global.quiet {
        log_to_standard_error(if args.log_json { LogForm::Json } else { LogForm::Text });
    }
    // From here on a request to end is one to answer what is being answered.
    let stop = stop_on_interrupt();
    let server = Server::bind(Arc::new(session), options).map_err(failed)?;
    let address = server.address();
    output.line(format!("listening on http://{address}"))?;
    output.json(&json!({ "address": address.to_string(), "url": format!("http://{address}") }))?;
    server.run(&stop).map_err(failed)
}

#[cfg(feature = "server")]
fn failed(error: arc_server::http::ServeError) -> Failure {
    use arc_server::http::ServeError;
    match error {
        ServeError::Core(error) => error.into(),
        ServeError::Documents { .. } => Failure::failed(
            error.to_string(),
            "name a folder that `arc compress FOLDER -o FOLDER` has written",
        ),
        ServeError::NeedsKey { .. } => Failure::usage(
            error.to_string(),
            "name a file of keys with `--api-key-file`, or listen on `127.0.0.1`",
        ),
        ServeError::WeakKey { .. } => {
            Failure::usage(error.to_string(), "make one that nobody guesses: `openssl rand -hex 32`")
        }
        ServeError::Listen { .. } => {
            Failure::failed(error.to_string(), "choose another `--port`, or `--port 0` for any that is free")
        }
        error => Failure::failed(error.to_string(), "close other programs, and try again"),
    }
}

/// The keys in a file, one a line; blank lines and those that begin with `#` are none.
#[cfg(feature = "server")]
fn keys_of(file: &std::path::Path) -> Result<Vec<String>, Failure> {
    let bytes = arc_adapters::read_bytes(file, "keys", 1 << 20)?;
    let text = String::from_utf8_lossy(&bytes);
    let keys: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    match keys.is_empty() {
        true => Err(Failure::usage(format!("`{}` has no key", file.display()), "write one a line into it")),
        false => Ok(keys),
    }
}
