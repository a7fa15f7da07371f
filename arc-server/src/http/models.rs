//! Which decoders there are, and whether the server is ready for them.

use std::sync::atomic::Ordering;

use arc_adapters::{DecoderEntry, Registry};
use arc_core::hub::Cache;
use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

use super::App;
use super::errors::Failure;
use super::router::{Answer, json};

/// All decoders of the registry.
pub(super) fn list(app: &App) -> Response<Body> {
    let registry = app.session.registry();
    let models: Vec<Value> = registry.decoders().map(|entry| described(app, &registry, entry)).collect();
    json(&json!({ "object": "list", "data": models }))
}

/// One of them, by its name or an alias.
pub(super) fn one(app: &App, name: &str) -> Answer {
    let registry = app.session.registry();
    let entry = registry.decoder(name).map_err(|error| Failure::from(error).of("model"))?;
    Ok(json(&described(app, &registry, entry)))
}

fn described(app: &App, registry: &Registry, entry: &DecoderEntry) -> Value {
    let is_here = Cache::from_env().is_ok_and(|cache| cache.find(&entry.model, &entry.name).is_some());
    let is_loaded =
        app.session.loaded().iter().any(|model| model.kind == "decoder" && model.name == entry.name);
    let usual = registry.resolve(&entry.name, None).ok().and_then(|pair| Some(pair.encoder?.name.clone()));
    let encoders: Vec<String> = registry
        .pairs(&entry.name)
        .unwrap_or_default()
        .iter()
        .filter_map(|pair| pair.adapter().ok().and(Some(pair.encoder?.name.clone())))
        .collect();
    json!({
        "id": entry.name, "object": "model", "created": 0, "owned_by": "arc-encoder",
        "arc": {
            "aliases": entry.aliases, "description": entry.description, "licence": entry.licence,
            "architecture": entry.architecture, "encoder": usual, "encoders": encoders,
            // Whether a request for it is answered, if need be after fetching it.
            "available": is_here || is_loaded || app.may_pull, "loaded": is_loaded,
        },
    })
}

/// Whether requests are answered without waiting for a model.
pub(super) fn ready(app: &App) -> Answer {
    if app.is_ready.load(Ordering::SeqCst) {
        return Ok(json(&json!({ "status": "ready" })));
    }
    let message = "models are being loaded, or the server ends";
    let hint = "ask again in a moment";
    Err(Failure::new(axum::http::StatusCode::SERVICE_UNAVAILABLE, "not_ready", message, hint))
}
