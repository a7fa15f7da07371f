//! Which address is answered by what, and what is done for each of them.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::OwnedSemaphorePermit;
use tower_http::catch_panic::CatchPanicLayer;

use super::errors::Failure;
use super::{App, auth, completions, compress, metrics, models, openapi};

/// The id that a request has in the log, in its answer's headers and in errors.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// Why a request failed, for the log: the body is the client's.
#[derive(Clone, Debug)]
struct Told {
    code: &'static str,
    cause: Option<Box<str>>,
}

/// What answers are made of.
pub(crate) type Answer = Result<Response<Body>, Failure>;

pub(super) fn router(app: Arc<App>) -> Router {
    let of_models = get(|State(app): State<Arc<App>>, _: Request| async move { models::list(&app) });
    let of_model = get(|State(app): State<Arc<App>>, request: Request| async move {
        let id = request.uri().path().trim_start_matches("/v1/models/").to_owned();
        told(&request_id(&request), models::one(&app, &id))
    });
    Router::new()
        .route("/v1/chat/completions", post(|State(app), request| with_body(app, request, completions::chat)))
        .route("/v1/completions", post(|State(app), request| with_body(app, request, completions::complete)))
        .route("/v1/compress", post(|State(app), request| with_body(app, request, compress::compress)))
        .route("/v1/models", of_models)
        .route("/v1/models/{*model}", of_model)
        .route("/health", get(|| async { json(&serde_json::json!({ "status": "ok" })) }))
        .route(
            "/ready",
            get(|State(app): State<Arc<App>>, request: Request| async move {
                told(&request_id(&request), models::ready(&app))
            }),
        )
        .route("/metrics", get(|State(app): State<Arc<App>>| async move { metrics::show(&app) }))
        .route("/openapi.json", get(|| async { json(openapi::document()) }))
        .route("/", get(|| async { openapi::front_page() }))
        .route("/docs", get(|| async { openapi::page() }))
        .method_not_allowed_fallback(|request: Request| async move {
            let message = format!("`{}` takes no {}", request.uri().path(), request.method());
            let hint = "`/openapi.json` lists what each address takes";
            let failure = Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method", message, hint);
            told(&request_id(&request), Err(failure))
        })
        .fallback(|request: Request| async move {
            let failure = Failure::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing at this address",
                "`/openapi.json` lists the addresses",
            );
            told(&request_id(&request), Err(failure))
        })
        .layer(from_fn_with_state(Arc::clone(&app), around))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            tracing::error!("a request ended in a panic");
            Failure::internal("a panic").response("unknown")
        }))
        .with_state(app)
}

/// Gives each request an id, looks whether it may ask, and writes a line of it into the log.
async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response<Body> {
    let start = Instant::now();
    let id = format!("req-{:016x}", random());
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    // Not what was asked for, but which of the addresses it is.
    let place = request.extensions().get::<MatchedPath>().map_or("unknown", |path| path.as_str()).to_owned();
    let is_open = matches!(place.as_str(), "/" | "/health" | "/ready" | "/openapi.json" | "/docs");
    let is_here = if app.is_loopback { auth::check_host(request.headers()) } else { Ok(()) };
    let may = is_here.and_then(|()| if is_open { Ok(()) } else { app.keys.check(request.headers()) });
    let mut response = match may {
        Ok(()) => next.run(request).await,
        Err(failure) => told(&id, Err(failure)),
    };
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert("x-request-id", value);
    }
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    let status = response.status();
    app.metrics.answered(&place, status);
    let ms = start.elapsed().as_millis() as u64;
    let (status, told) = (status.as_u16(), response.extensions().get::<Told>());
    match told {
        Some(Told { code, cause: Some(cause) }) => {
            tracing::error!(request = id, %method, place, status, ms, code, cause, "failed");
        }
        Some(Told { code, cause: None }) => {
            tracing::info!(request = id, %method, place, status, ms, code, "refused")
        }
        None => tracing::info!(request = id, %method, place, status, ms, "answered"),
    }
    response
}

/// A number that is not to be guessed from those before.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // Keyed anew by the system for each process, and counted on for each call.
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}

pub(crate) fn request_id(request: &Request) -> String {
    request.extensions().get::<RequestId>().map_or_else(|| "unknown".to_owned(), |id| id.0.clone())
}

/// An answer, or what the client is told in place of one.
pub(crate) fn told(id: &str, answer: Answer) -> Response<Body> {
    answer.unwrap_or_else(|failure| {
        let mut response = failure.response(id);
        let told = Told { code: failure.code, cause: failure.cause.clone() };
        response.extensions_mut().insert(told);
        response
    })
}

/// JSON.
pub(crate) fn json(value: &serde_json::Value) -> Response<Body> {
    bytes_of(value.to_string().into(), "application/json")
}

/// Bytes of a kind.
pub(crate) fn bytes_of(bytes: Bytes, kind: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A request whose body was read, and its place among those that are worked on.
pub(crate) struct Asked {
    pub(crate) app: Arc<App>,
    pub(crate) id: String,
    pub(crate) body: Bytes,
    pub(crate) start: Instant,
    pub(crate) deadline: Instant,
    /// Given back when the answer has been sent, or the client is gone.
    pub(crate) place: OwnedSemaphorePermit,
}

async fn with_body<F: Future<Output = Answer>>(
    app: Arc<App>,
    request: Request,
    answer: impl FnOnce(Asked) -> F,
) -> Response<Body> {
    let id = request_id(&request);
    let start = Instant::now();
    let asked = async {
        let Ok(place) = Arc::clone(&app.requests).try_acquire_owned() else {
            let message = format!("{} requests are being worked on, and no more may", app.limits.requests);
            return Err(Failure::busy(message, std::time::Duration::from_secs(1)));
        };
        let body = body_of(&app, request).await?;
        let deadline = start + app.limits.request_time;
        Ok(Asked { app, id: id.clone(), body, start, deadline, place })
    };
    let answered = async { answer(asked.await?).await };
    told(&id, answered.await)
}

/// The body of a request: JSON, no longer than it may be, and there in time.
async fn body_of(app: &App, request: Request) -> Result<Bytes, Failure> {
    let most = app.limits.body_bytes;
    let too_long = || {
        let message = format!("the body has more than {most} bytes");
        let hint = "ask with shorter documents, or start the server with a larger `--max-body`";
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message, hint)
    };
    // A page of another site could have a browser send any other kind without asking first.
    if !is_json(request.headers()) {
        let message = "the body is not said to be JSON";
        let hint = "send `Content-Type: application/json`";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "media_type", message, hint));
    }
    let length =
        request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > most as u64) {
        return Err(too_long());
    }
    let collected = Limited::new(request.into_body(), most).collect();
    let most_time = app.limits.body_time.min(app.limits.request_time);
    match tokio::time::timeout(most_time, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Failure::invalid("the body ended early", "send all of it")),
        Err(_) => {
            let message = "the body did not come in time";
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, "slow_body", message, "send it at once"))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}
