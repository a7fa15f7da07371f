//! Models on the Hugging Face hub, over HTTPS: a request that is cut off goes on where it stopped.
//!
//! A file is at `ENDPOINT/ORG/REPO/resolve/REVISION/FILE`; the hub redirects large files to a
//! content server, which must not see the user's token. With the redirect it says what the sha256 of the
//! file is (`X-Linked-Etag`), which what comes is held against.

use std::{io::Read, thread, time::Duration};

use ureq::{
    Agent, Body,
    http::{Method, Response, StatusCode, Uri, header},
};

use super::{
    Pull,
    partial::{Partial, wrong_length},
    pull_error, redirect,
    sha256::{BLOCK, is_sha256},
};
use crate::{Error, Result};

/// How many requests in a row may bring nothing new before the pull gives up.
const TRIES: u32 = 5;

/// Without a byte for this long, a connection counts as cut.
const STALL: Duration = Duration::from_secs(60);

/// How many redirects in a row are followed.
const REDIRECTS: usize = 10;

/// So many bytes become a sealed part: what a crash costs at most.
const PART: u64 = 16 * 1024 * 1024;

/// A file on the hub.
pub(super) struct HubFile<'a> {
    /// `ORG/REPO`.
    pub(super) repo: &'a str,
    /// A branch, a tag or a commit.
    pub(super) revision: &'a str,
    /// The path in the repository.
    pub(super) file: &'a str,
}

/// Why a request brought less than the whole file.
enum Cut {
    /// Another request may bring more.
    Retry(String),
    /// No other request will.
    Final(Error),
}

impl From<Error> for Cut {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// Appends what `partial` lacks of the file.
pub(super) fn fetch(pull: &Pull<'_>, file: &HubFile<'_>, partial: &mut Partial) -> Result<()> {
    let mut transfer = Transfer::new(pull, file);
    let (mut fruitless, mut furthest) = (0, partial.length());
    loop {
        let reason = match transfer.request(partial) {
            Ok(()) => return Ok(()),
            Err(Cut::Final(error)) => return Err(error),
            Err(Cut::Retry(reason)) => reason,
        };
        if partial.unsealed() > 0 {
            partial.seal()?;
        }
        if partial.length() > furthest {
            (fruitless, furthest) = (0, partial.length());
        }
        fruitless += 1;
        if fruitless == TRIES {
            let hint = match partial.length() {
                0 => "check the network and pull again".into(),
                n => format!("{n} bytes are kept: check the network and pull again"),
            };
            return Err(pull_error(&transfer.what, reason, hint));
        }
        pull.progress.message(&format!("{reason}: trying again"));
        thread::sleep(pull.retry_delay * 2u32.pow(fruitless - 1));
    }
}

/// The length of a file on the hub, without fetching it: 0 where it has no such file, none where it
/// does not say.
pub(super) fn length(pull: &Pull<'_>, file: &HubFile<'_>) -> Option<u64> {
    let transfer = Transfer::new(pull, file);
    let (response, linked) = transfer.send(&Method::HEAD, &[]).ok()?;
    match response.status() {
        StatusCode::NOT_FOUND => Some(0),
        status if status.is_success() => {
            header_number(&response, header::CONTENT_LENGTH.as_str()).or(linked.size)
        }
        _ => None,
    }
}

/// What the hub says, with a redirect, of the file that it leads to.
#[derive(Default)]
struct Linked {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Linked {
    fn of(response: &Response<Body>) -> Self {
        let etag = header_text(response, "x-linked-etag")
            .map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
        Self {
            // Files that are no large ones have a git object's hash there.
            sha256: etag.filter(|etag| is_sha256(etag)).map(str::to_ascii_lowercase),
            size: header_number(response, "x-linked-size"),
        }
    }
}

/// The requests for one file.
struct Transfer<'a> {
    pull: &'a Pull<'a>,
    /// The source, for errors.
    what: String,
    url: String,
    agent: Agent,
    /// Whether the user has been asked.
    asked: bool,
    /// Whether the progress shows what is there.
    shown: bool,
}

impl<'a> Transfer<'a> {
    fn new(pull: &'a Pull<'a>, file: &HubFile<'_>) -> Self {
        let HubFile { repo, revision, file } = file;
        let endpoint = &pull.environment.hf_endpoint;
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .https_only(endpoint.starts_with("https://"))
            // Followed here, where it is known to whom the token may go.
            .max_redirects(0)
            // Offsets of ranges are offsets of the file only if nothing is compressed on the way.
            .accept_encoding("identity")
            .user_agent(concat!("arc-encoder/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(STALL))
            .timeout_recv_response(Some(STALL))
            .timeout_per_read(Some(STALL))
            .build()
            .into();
        Self {
            pull,
            what: format!("hf:{repo}@{revision}#{file}"),
            url: format!(
                "{endpoint}/{}/resolve/{}/{}",
                percent_encoded(repo, "/"),
                // A branch may hold a slash, which is no separator here.
                percent_encoded(revision, ""),
                percent_encoded(file, "/"),
            ),
            agent,
            asked: false,
            shown: false,
        }
    }

    /// Sends one request, and follows where it leads. The token goes to the hub alone: from where another
    /// origin is in the way, nobody gets it any more.
    fn send(
        &self,
        method: &Method,
        headers: &[(header::HeaderName, String)],
    ) -> Result<(Response<Body>, Linked), Cut> {
        let mut token = self.pull.environment.hf_token.get()?;
        let mut uri: Uri = self.url.parse().map_err(|_| self.bad_address(&self.url))?;
        let mut linked = Linked::default();
        for _ in 0..=REDIRECTS {
            let mut request =
                if method == Method::HEAD { self.agent.head(&uri) } else { self.agent.get(&uri) };
            for (name, value) in headers {
                request = request.header(name, value);
            }
            if let Some(token) = token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.transport_error(&error))?;
            let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let Some(location) = header_text(&response, "location").filter(|_| is_redirect) else {
                return Ok((response, linked));
            };
            let next = redirect::resolve(&uri, location).ok_or_else(|| self.bad_address(location))?;
            if linked.sha256.is_none() && redirect::is_same_origin(&uri, &self.hub()) {
                linked = Linked::of(&response);
            }
            if !redirect::is_same_origin(&uri, &next) {
                token = None;
            }
            uri = next;
        }
        Err(Cut::Final(pull_error(
            &self.what,
            format!("the server redirects more than {REDIRECTS} times"),
            "check `HF_ENDPOINT`",
        )))
    }

    /// The address that was asked for first.
    fn hub(&self) -> Uri {
        self.url.parse().unwrap_or_default()
    }

    fn bad_address(&self, address: &str) -> Cut {
        let shown = shown(address);
        Cut::Final(pull_error(&self.what, format!("`{shown}` is no web address"), "check `HF_ENDPOINT`"))
    }

    /// One request, from where `partial` ends to the end of the file.
    fn request(&mut self, partial: &mut Partial) -> Result<(), Cut> {
        // What the hub promises tells as well as a pin whether the rest is the rest of the same file.
        let pinned = self.pull.model.sha256.is_some() || partial.promised().is_some();
        if partial.length() > 0 && !pinned && partial.etag().is_none() {
            // Nothing would tell whether the rest is the rest of the same file.
            self.restart(partial)?;
        }
        let start = partial.length();
        let mut headers = Vec::new();
        if start > 0 {
            headers.push((header::RANGE, format!("bytes={start}-")));
            // Not where the sha256 is known: content servers of one file differ in their tags.
            if let (false, Some(etag)) = (pinned, partial.etag()) {
                headers.push((header::IF_RANGE, etag.to_owned()));
            }
        }
        let (response, linked) = self.send(&Method::GET, &headers)?;
        if let (true, Some(promised)) = (start > 0, partial.promised())
            && linked.sha256.as_ref().is_some_and(|sha256| sha256 != promised)
        {
            self.restart(partial)?;
            return Err(Cut::Retry("the hub has another file by now".into()));
        }
        let total = match response.status() {
            StatusCode::OK => {
                if start > 0 {
                    self.pull.progress.message("the server starts over");
                    self.restart(partial)?;
                }
                partial.set_etag(strong_etag(&response));
                partial.set_promised(linked.sha256);
                header_number(&response, header::CONTENT_LENGTH.as_str()).or(linked.size)
            }
            StatusCode::PARTIAL_CONTENT => match content_range(&response) {
                Some((first, total)) if first == start && start > 0 => total,
                _ => {
                    self.restart(partial)?;
                    return Err(Cut::Retry("the server sent another range than asked".into()));
                }
            },
            // More is here than there is there: it is another file by now.
            StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                self.restart(partial)?;
                return Err(Cut::Retry("the file on the server is shorter by now".into()));
            }
            _ => return Err(self.refusal(&response)),
        };
        self.begin(total, partial)?;
        self.receive(response, total, partial)
    }

    /// Checks the length, asks the user and begins the progress, where that has not been done.
    fn begin(&mut self, total: Option<u64>, partial: &Partial) -> Result<(), Cut> {
        let model = self.pull.model;
        if let (Some(total), Some(pinned)) = (total, model.bytes)
            && total != pinned
        {
            return Err(wrong_length(&self.what, total, pinned).into());
        }
        if total.is_none() && model.bytes.is_none() && model.sha256.is_none() {
            return Err(Cut::Final(pull_error(
                &self.what,
                "the server does not say how long it is, and neither does the registry",
                "pin its `sha256` or `bytes` in the registry",
            )));
        }
        let total = total.or(model.bytes);
        if !self.asked {
            self.pull.ask(total)?;
            self.asked = true;
        }
        if !self.shown {
            self.pull.progress.begin(total);
            self.pull.progress.advance(partial.length());
            self.shown = true;
        }
        Ok(())
    }

    /// Drops what is there, and has the progress begin anew.
    fn restart(&mut self, partial: &mut Partial) -> Result<()> {
        self.shown = false;
        partial.restart()
    }

    fn receive(
        &self,
        response: Response<Body>,
        total: Option<u64>,
        partial: &mut Partial,
    ) -> Result<(), Cut> {
        let end = total.or(self.pull.model.bytes);
        let mut body = response.into_body().into_reader();
        let mut block = vec![0; BLOCK];
        loop {
            let n = body.read(&mut block).map_err(|error| lost(&error.to_string(), partial))?;
            if n == 0 {
                break;
            }
            partial.append(block.get(..n).unwrap_or_default())?;
            self.pull.progress.advance(n as u64);
            if let Some(end) = end
                && partial.length() > end
            {
                return Err(wrong_length(&self.what, partial.length(), end).into());
            }
            if partial.unsealed() >= PART {
                partial.seal()?;
            }
        }
        match total {
            Some(total) if partial.length() < total => Err(lost("it ended early", partial)),
            _ => Ok(()),
        }
    }

    fn transport_error(&self, error: &ureq::Error) -> Cut {
        match error {
            ureq::Error::HostNotFound | ureq::Error::Tls(_) | ureq::Error::RequireHttpsOnly(_) => Cut::Final(
                pull_error(&self.what, error.to_string(), "check the network, the proxy and `HF_ENDPOINT`"),
            ),
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::TooManyRedirects => {
                Cut::Final(pull_error(&self.what, error.to_string(), "check `HF_ENDPOINT`"))
            }
            _ => Cut::Retry(error.to_string()),
        }
    }

    /// Why the hub does not give the file. It says so in `X-Error-Code`, which tells apart what a status
    /// alone does not (`huggingface_hub`'s `hf_raise_for_status`).
    fn refusal(&self, response: &Response<Body>) -> Cut {
        let status = response.status();
        let mut reason = format!("the server answers `{status}`");
        if let Some(message) = header_text(response, "x-error-message").map(shown).filter(|m| !m.is_empty()) {
            reason = format!("{reason}: {message}");
        }
        let token = match self.pull.environment.hf_token.place() {
            Some(place) => format!("the token in {place} may not read this repository: "),
            None => String::new(),
        };
        let hint = match (header_text(response, "x-error-code").unwrap_or_default(), status) {
            ("GatedRepo", _) if token.is_empty() => {
                "the repository is gated: accept its terms on the hub and set `HF_TOKEN`".into()
            }
            ("GatedRepo", _) => format!("{token}accept its terms on the hub"),
            ("RevisionNotFound", _) => {
                "the repository has no such revision: correct the part after `@`".into()
            }
            ("RepoNotFound", _) => {
                format!("{token}it is private or misspelt; for a private one set `HF_TOKEN`")
            }
            (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) if token.is_empty() => {
                "the repository is gated, private or misspelt: accept its terms on the hub and set \
                 `HF_TOKEN`"
                    .into()
            }
            (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                format!("{token}accept its terms on the hub, or use another token")
            }
            (_, StatusCode::NOT_FOUND) => return Cut::Final(Error::NotAtSource { what: self.what.clone() }),
            (_, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS) => return Cut::Retry(reason),
            (_, status) if status.is_server_error() => return Cut::Retry(reason),
            _ => "check the source in the registry and `HF_ENDPOINT`".into(),
        };
        Cut::Final(pull_error(&self.what, reason, hint))
    }
}

/// A server's words, as they may be printed: in one line, without control characters, cut where they
/// become long.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

fn lost(reason: &str, partial: &Partial) -> Cut {
    Cut::Retry(format!("the connection was lost after {} bytes: {reason}", partial.length()))
}

fn header_text<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

fn header_number(response: &Response<Body>, name: &str) -> Option<u64> {
    header_text(response, name)?.trim().parse().ok()
}

/// The `ETag`, unless it is a weak one: those do not promise the same bytes (RFC 9110, 8.8.1).
fn strong_etag(response: &Response<Body>) -> Option<String> {
    header_text(response, "etag").filter(|etag| etag.starts_with('"')).map(Into::into)
}

/// The first byte and the total of `Content-Range: bytes FIRST-LAST/TOTAL`.
fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let range = header_text(response, "content-range")?.strip_prefix("bytes ")?;
    let (span, total) = range.split_once('/')?;
    let (first, _last) = span.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

/// `text` with all bytes encoded but unreserved ones (RFC 3986, 2.3) and those in `kept`.
fn percent_encoded(text: &str, kept: &str) -> String {
    text.bytes()
        .map(|byte| match char::from(byte) {
            c if c.is_ascii_alphanumeric() || "-._~".contains(c) || kept.contains(c) => c.to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
