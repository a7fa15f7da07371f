//! Errors in OpenAI's shape, each with what to do about it.

use std::time::Duration;

use arc_core::Error;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::engine::Refusal;
use crate::latents::NoLatents;

/// Characters of a message, at most.
const MESSAGE: usize = 1000;

/// What a request ends with when it fails.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    /// A name that stays, listed in docs/server.md.
    pub(crate) code: &'static str,
    message: Box<str>,
    hint: Box<str>,
    /// Which field of the request it is about.
    param: Option<Box<str>>,
    retry_after: Option<Duration>,
    /// What only the log is told: it may name files of this machine.
    pub(crate) cause: Option<Box<str>>,
}

impl Failure {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        message: impl Into<Box<str>>,
        hint: impl Into<Box<str>>,
    ) -> Self {
        let (message, hint) = (message.into(), hint.into());
        Self { status, code, message, hint, param: None, retry_after: None, cause: None }
    }

    /// A request that cannot be understood, or asks for what there is not.
    pub(crate) fn invalid(message: impl Into<Box<str>>, hint: impl Into<Box<str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message, hint)
    }

    /// A field that is known and does nothing here.
    pub(crate) fn unsupported(field: &str) -> Self {
        let message = format!("`{field}` is not supported");
        Self::new(StatusCode::BAD_REQUEST, "unsupported", message, "leave it out").of(field)
    }

    /// A value out of its range.
    pub(crate) fn value(field: &str, found: impl std::fmt::Display, expected: &str) -> Self {
        Self::invalid(format!("`{field}` is {found}, expected {expected}"), "correct that value").of(field)
    }

    /// The same about a field of the request.
    pub(crate) fn of(self, field: impl Into<Box<str>>) -> Self {
        Self { param: Some(field.into()), ..self }
    }

    /// There is no room at the moment.
    pub(crate) fn busy(message: impl Into<Box<str>>, retry_after: Duration) -> Self {
        let hint = "try again after the seconds that `Retry-After` says";
        Self {
            retry_after: Some(retry_after),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message, hint)
        }
    }

    /// The server ends.
    pub(crate) fn closing() -> Self {
        let message = "the server is being shut down";
        let hint = "try again in a moment, or ask another server";
        Self {
            retry_after: Some(Duration::from_secs(5)),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "closing", message, hint)
        }
    }

    /// The request's time was up.
    pub(crate) fn time_up() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout",
            "the request took longer than a request may",
            "ask for fewer tokens, or start the server with a larger `--timeout`",
        )
    }

    /// A fault of this program or this machine, whose cause is for the log.
    pub(crate) fn internal(cause: impl Into<Box<str>>) -> Self {
        let message = "the request ended in a fault of the server";
        let hint = "the server's log has the cause under this request id";
        let failure = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message, hint);
        Self { cause: Some(cause.into()), ..failure }
    }

    /// The object that clients read.
    pub(crate) fn body(&self, request_id: &str) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        // What a request said may stand in it, and be as long as a body may be.
        let short = |text: &str| match text.char_indices().nth(MESSAGE) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        let (message, param) = (short(&self.message), self.param.as_deref().map(short));
        json!({ "error": {
            "message": message, "type": kind, "param": param, "code": self.code, "hint": self.hint,
            "request_id": request_id,
        } })
    }

    /// The answer.
    pub(crate) fn response(&self, request_id: &str) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body(request_id).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert("www-authenticate", HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use arc_adapters::Error as Adapters;
        let hint = error.hint().map(|hint| hint.to_string()).unwrap_or_default();
        let say = |status, code| Self::new(status, code, error.to_string(), hint.clone());
        match &error {
            Error::WindowExceeded { .. } => say(StatusCode::BAD_REQUEST, "context_length_exceeded"),
            Error::Adapter(Adapters::UnknownName { .. }) => {
                let hint = "`GET /v1/models` lists the names";
                Self::new(StatusCode::NOT_FOUND, "model_not_found", error.to_string(), hint)
            }
            Error::Document { .. } => say(StatusCode::BAD_REQUEST, "document"),
            Error::Template { .. } => say(StatusCode::BAD_REQUEST, "template"),
            Error::InvalidValue { .. } | Error::NotEnough { .. } | Error::WrongCount { .. } => {
                say(StatusCode::BAD_REQUEST, "invalid_request")
            }
            Error::Adapter(
                Adapters::NoAdapter { .. }
                | Adapters::NamesNoEncoder { .. }
                | Adapters::NamesNoDecoder { .. }
                | Adapters::NoEncoder { .. },
            ) => {
                let hint =
                    "name an encoder that `GET /v1/models` lists for this model, or set `arc.open_book`";
                Self::new(StatusCode::BAD_REQUEST, "no_adapter", error.to_string(), hint)
            }
            Error::Pull { .. } | Error::NotAtSource { .. } | Error::Adapter(Adapters::NotImported { .. }) => {
                let message = "the model is not on the server's machine";
                let hint = "the server's keeper fetches it with `arc pull`, or starts `arc serve --yes`";
                let failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "model_not_here", message, hint);
                Self { cause: Some(error.to_string().into()), ..failure }
            }
            Error::Interrupted => Self::time_up(),
            // The rest is of files and devices of this machine.
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<arc_adapters::Error> for Failure {
    fn from(error: arc_adapters::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full { retry_after, .. } => Self::busy(refusal.to_string(), retry_after),
            Refusal::Closing => Self::closing(),
            other => Self::internal(other.to_string()),
        }
    }
}

impl From<NoLatents> for Failure {
    fn from(none: NoLatents) -> Self {
        match none {
            NoLatents::Full { .. } => Self::busy(none.to_string(), Duration::from_secs(2)),
            NoLatents::Closing => Self::closing(),
            NoLatents::TooMany { .. } => {
                let hint = "give a shorter text, or a larger `arc.factor`";
                Self::new(StatusCode::BAD_REQUEST, "context_length_exceeded", none.to_string(), hint)
            }
            NoLatents::Failed(error) => match &*error {
                Error::Document { reason, hint, .. } => {
                    let message = format!("a document {reason}");
                    Self::new(StatusCode::BAD_REQUEST, "document", message, hint.to_string())
                }
                Error::InvalidValue { .. } => {
                    Self::invalid(error.to_string(), "correct that value").of("arc.factor")
                }
                error => Self::internal(error.to_string()),
            },
            other => Self::internal(other.to_string()),
        }
    }
}
