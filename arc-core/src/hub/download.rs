//! One file from a web address: what no registry names, such as the archive of an adapter.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use ureq::Agent;
use ureq::http::header;

use super::environment::Environment;
use super::sha256::{BLOCK, hexadecimal};
use super::{Consent, LARGE_DOWNLOAD, Progress, pull_error};
use crate::{Error, Hint, Result};
use arc_adapters::write_atomically;

/// An adapter of the widest decoder takes less; a server that sends more sends something else.
const LIMIT: u64 = 5 << 30;

/// Without a byte for this long, a connection counts as cut.
const STALL: Duration = Duration::from_secs(60);

/// Downloads `url` to `path`, which appears complete or not at all, and returns its sha256.
///
/// It is asked about as in [`pull`](super::pull). Without encryption nothing vouches for what comes
/// but a pin, so an `http:` address needs `sha256`.
///
/// # Errors
/// - [`Error::Pull`] if the address is none, the server cannot be reached or has no such file, the
///   download is declined, or `ARC_OFFLINE` forbids it;
/// - [`Error::Checksum`] if the file is not the pinned one;
/// - [`Error::Io`] if it cannot be written.
pub fn download(
    url: &str,
    sha256: Option<&str>,
    path: &Path,
    progress: &dyn Progress,
    consent: Consent<'_>,
) -> Result<String> {
    let secure = url.starts_with("https://");
    if !secure && !url.starts_with("http://") {
        return Err(pull_error(url, "it is no web address", "give an address that begins with `https://`"));
    }
    if !secure && sha256.is_none() {
        return Err(pull_error(
            url,
            "anybody on the way could change what an `http:` address gives",
            Hint::Sha256OrHttps,
        ));
    }
    if Environment::read().offline {
        return Err(pull_error(url, "`ARC_OFFLINE` is set", "unset `ARC_OFFLINE`, or give a file"));
    }
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .https_only(secure)
        .user_agent(concat!("arc-encoder/", env!("CARGO_PKG_VERSION")))
        .timeout_connect(Some(STALL))
        .timeout_recv_response(Some(STALL))
        .timeout_per_read(Some(STALL))
        .build()
        .into();
    let network = |reason: String| pull_error(url, reason, "check the address and the network");
    let response = agent.get(url).call().map_err(|error| network(error.to_string()))?;
    if !response.status().is_success() {
        return Err(network(format!("the server answers `{}`", response.status())));
    }
    let total = response
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.trim().parse::<u64>().ok());
    if let Consent::Ask(ask) = consent
        && total.is_none_or(|bytes| bytes > LARGE_DOWNLOAD)
        && !ask(url, total)
    {
        return Err(pull_error(url, "the download was declined", Hint::AgreeToDownloads));
    }
    progress.begin(total);
    let found = write_atomically(path, |file| {
        let mut body = response.into_body().into_reader();
        let (mut block, mut length, mut hasher) = (vec![0; BLOCK], 0, Sha256::new());
        loop {
            let n = body.read(&mut block).map_err(|error| network(error.to_string()))?;
            let Some(read) = block.get(..n).filter(|read| !read.is_empty()) else { break };
            length += n as u64;
            if length > LIMIT {
                return Err(network(format!("it is larger than the {LIMIT} bytes that are accepted")));
            }
            hasher.update(read);
            file.write_all(read).map_err(Error::io("write", path))?;
            progress.advance(n as u64);
        }
        if let Some(total) = total.filter(|total| *total != length) {
            return Err(network(format!("it ended after {length} of {total} bytes")));
        }
        let found = hexadecimal(&hasher);
        match sha256 {
            Some(expected) if expected != found => {
                Err(Error::Checksum { path: url.into(), expected: expected.to_owned(), found })
            }
            _ => Ok(found),
        }
    });
    progress.finish();
    found
}
