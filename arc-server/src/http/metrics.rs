//! What Prometheus is told.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::App;
use super::answer::Usage;
use super::router::bytes_of;
use crate::engine::EngineState;
use crate::latents::CacheCounts;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    path: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfModel {
    model: String,
}

/// What is counted as it happens; what engines and caches know is asked of them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: Family<Answered, Counter>,
    prompt: Family<OfModel, Counter>,
    completion: Family<OfModel, Counter>,
    latents: Family<OfModel, Counter>,
    document_tokens: Family<OfModel, Counter>,
    first_token: Family<OfModel, Histogram>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        // From a hundredth of a second to three minutes.
        let buckets =
            || Histogram::new([0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0]);
        Self {
            requests: Family::default(),
            prompt: Family::default(),
            completion: Family::default(),
            latents: Family::default(),
            document_tokens: Family::default(),
            first_token: Family::new_with_constructor(buckets),
        }
    }

    pub(crate) fn answered(&self, path: &str, status: StatusCode) {
        self.requests.get_or_create(&Answered { path: path.to_owned(), status: status.as_u16() }).inc();
    }

    pub(crate) fn first_token(&self, model: &str, took: Duration) {
        self.first_token.get_or_create(&OfModel { model: model.to_owned() }).observe(took.as_secs_f64());
    }

    pub(crate) fn tokens(&self, model: &str, usage: &Usage) {
        let of = OfModel { model: model.to_owned() };
        self.prompt.get_or_create(&of).inc_by(usage.prompt as u64);
        self.completion.get_or_create(&of).inc_by(usage.completion as u64);
        self.compressed(model, usage.latents, usage.source_tokens);
    }

    /// Latents that a decoder read, or that an encoder's name was asked for.
    pub(crate) fn compressed(&self, model: &str, latents: usize, source_tokens: usize) {
        let of = OfModel { model: model.to_owned() };
        self.latents.get_or_create(&of).inc_by(latents as u64);
        self.document_tokens.get_or_create(&of).inc_by(source_tokens as u64);
    }
}

/// What is asked when somebody looks.
#[derive(Debug)]
struct Now {
    engines: Vec<EngineState>,
    latents: CacheCounts,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        use prometheus_client::metrics::MetricType::{Counter, Gauge};
        type Of = fn(&EngineState) -> u64;
        let engines: [(&str, &str, Of); 4] = [
            ("arc_queue", "Requests that wait for a place", |state| state.waiting as u64),
            ("arc_reading", "Prompts that are being read", |state| state.reading as u64),
            ("arc_writing", "Texts that are being written", |state| state.writing as u64),
            ("arc_kv_bytes", "Bytes set aside for keys and values", |state| state.kv_bytes),
        ];
        for (name, help, of) in engines {
            let mut metric = encoder.encode_descriptor(name, help, None, Gauge)?;
            for state in &self.engines {
                let labels = [("model", state.decoder.as_str())];
                ConstGauge::new(of(state)).encode(metric.encode_family(&labels)?)?;
            }
        }
        let CacheCounts { hits, misses, entries, bytes, waiting } = self.latents;
        for (name, help, value) in [
            ("arc_latents_cache_hits", "Documents whose latents were there", hits),
            ("arc_latents_cache_misses", "Documents that had to be compressed", misses),
        ] {
            ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, Counter)?)?;
        }
        for (name, help, value) in [
            ("arc_latents_cache_documents", "Documents whose latents are held", entries as u64),
            ("arc_latents_cache_bytes", "Bytes of latents that are held", bytes),
            ("arc_compressing", "Documents that wait to be compressed, or are", waiting as u64),
        ] {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, Gauge)?)?;
        }
        Ok(())
    }
}

/// All of it, in Prometheus's text format.
pub(super) fn show(app: &App) -> Response<Body> {
    let Metrics { requests, prompt, completion, latents, document_tokens, first_token } = app.metrics.clone();
    let mut registry = Registry::default();
    registry.register("arc_requests", "Requests that were answered", requests);
    registry.register("arc_prompt_tokens", "Positions of prompts, latents among them", prompt);
    registry.register("arc_completion_tokens", "Tokens that were written", completion);
    registry.register("arc_latents", "Latents that were read or handed out", latents);
    registry.register("arc_document_tokens", "Tokens that these latents stand for", document_tokens);
    let help = "Seconds from a request to its first token";
    registry.register("arc_first_token_seconds", help, first_token);
    registry
        .register_collector(Box::new(Now { engines: app.engines.states(), latents: app.latents.counts() }));
    let mut text = String::new();
    // Writing into memory does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    bytes_of(text.into(), "application/openmetrics-text; version=1.0.0; charset=utf-8")
}
