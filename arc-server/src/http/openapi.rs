//! What the server takes, as OpenAPI says it, and a page that shows it.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderValue, Response};
use serde_json::{Value, json};
use utoipa::OpenApi;

use super::router::bytes_of;
use super::wire::{
    ArcOptions, ChatMessage, ChatRequest, CompletionRequest, CompressRequest, Document, Form, Format,
    ResponseFormat, StreamOptions,
};

/// The schemas of what requests say, made of the types that read them.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "arc-encoder",
        description = "OpenAI's chat and completion endpoints over many decoders; documents are compressed once, whoever asks."
    ),
    components(schemas(
        ArcOptions,
        ChatMessage,
        ChatRequest,
        CompletionRequest,
        CompressRequest,
        Document,
        Form,
        Format,
        ResponseFormat,
        StreamOptions
    ))
)]
struct Schemas;

/// The document, made once.
pub(super) fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
        // Of types that were compiled in: what can be made of them once can be made always.
        let mut document = serde_json::to_value(Schemas::openapi()).unwrap_or_default();
        document["paths"] = paths();
        document["components"]["securitySchemes"] = json!({ "key": { "type": "http", "scheme": "bearer" } });
        document["components"]["schemas"]["Error"] = json!({
            "type": "object",
            "properties": { "error": {
                "type": "object",
                "required": ["message", "type", "code", "hint", "request_id"],
                "properties": {
                    "message": { "type": "string" }, "type": { "type": "string" },
                    "param": { "type": ["string", "null"] }, "code": { "type": "string" },
                    "hint": { "type": "string" }, "request_id": { "type": "string" },
                },
            } },
        });
        document
    });
    &DOCUMENT
}

fn paths() -> Value {
    let errors = |known: &[(&str, &str)]| {
        let content = json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } });
        let each = known.iter().map(|(status, about)| {
            ((*status).to_owned(), json!({ "description": about, "content": content }))
        });
        each.collect::<serde_json::Map<String, Value>>()
    };
    let asked = |name: &str, summary: &str, answer: &str, kinds: &[&str]| {
        let mut responses = errors(&[
            ("400", "The request cannot be understood, or asks for what there is not"),
            ("401", "There is no key, or not one of the server's"),
            ("404", "There is no such model"),
            ("408", "The body did not come in time"),
            ("413", "The body is too long"),
            ("415", "The body is not said to be JSON"),
            ("429", "There is no room at the moment: `Retry-After` says when to try again"),
            ("500", "A fault of the server; its log has the cause under the request's id"),
            ("503", "The server ends, or the model is not on its machine"),
            ("504", "The request took longer than a request may"),
        ]);
        let content = kinds.iter().map(|kind| ((*kind).to_owned(), json!({})));
        let content: serde_json::Map<String, Value> = content.collect();
        responses.insert("200".into(), json!({ "description": answer, "content": content }));
        let schema = json!({ "schema": { "$ref": format!("#/components/schemas/{name}") } });
        json!({ "post": {
            "summary": summary, "security": [{ "key": [] }, {}],
            "requestBody": { "required": true, "content": { "application/json": schema } },
            "responses": responses,
        } })
    };
    let told = |summary: &str, kind: &str| {
        json!({ "get": { "summary": summary, "responses": { "200": {
            "description": summary, "content": { kind: {} },
        } } } })
    };
    let streamed = ["application/json", "text/event-stream"];
    let files = ["application/json", "application/x-npy", "application/x-safetensors"];
    let mut one = told("One model, by its name or an alias", "application/json");
    one["get"]["parameters"] = json!([
        { "name": "model", "in": "path", "required": true, "schema": { "type": "string" } }
    ]);
    json!({
        "/v1/chat/completions": asked("ChatRequest", "A conversation is answered", "The answers", &streamed),
        "/v1/completions": asked("CompletionRequest", "Prompts are continued", "The continuations", &streamed),
        "/v1/compress": asked("CompressRequest", "A text is compressed", "Latents, or a decoder's embeddings", &files),
        "/v1/models": told("The decoders of the registry", "application/json"),
        "/v1/models/{model}": one,
        "/health": told("Whether the server runs", "application/json"),
        "/ready": told("Whether the models that were named at the start are loaded", "application/json"),
        "/metrics": told("What Prometheus is told", "application/openmetrics-text"),
        "/openapi.json": told("This document", "application/json"),
        "/docs": told("This document as a page", "text/html"),
        "/": told("A page to ask several decoders with, side by side", "text/html"),
    })
}

/// A page that shows the document.
pub(super) fn page() -> Response<Body> {
    html(include_str!("docs.html"))
}

/// A page to ask several decoders with, side by side.
pub(super) fn front_page() -> Response<Body> {
    html(include_str!("page.html"))
}

/// A page. It loads nothing from elsewhere, and its browser is told to refuse that.
fn html(page: &'static str) -> Response<Body> {
    let mut response = bytes_of(page.as_bytes().into(), "text/html; charset=utf-8");
    let policy = "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert("content-security-policy", HeaderValue::from_static(policy));
    response
}
