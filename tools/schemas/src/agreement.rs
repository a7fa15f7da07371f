//! Whether the code refuses what the schemas refuse: files with every key, changed one key at a time.

use std::path::Path;

use arc_adapters::{AdapterManifest, EncoderManifest, Registry};
use serde_json::{Value, json};

use crate::{Result, Validator};

/// What a key may be changed to: another kind of value, or one that is at the border of what is allowed.
fn others(value: &Value) -> Vec<Value> {
    let mut others = vec![json!(null), json!(true), json!([]), json!({}), json!("")];
    others.extend([json!(0), json!(-1), json!(1.5), json!(1 << 25), json!("../x"), json!(" "), json!([[]])]);
    if let Some(text) = value.as_str() {
        others.push(json!(format!("{text}/")));
        others.push(json!(text.to_uppercase()));
        others.push(json!(text.get(1..)));
    }
    others
}

/// Every file that comes of changing, adding or leaving out one thing, with what was done.
fn changes(whole: &Value) -> Vec<(String, Value)> {
    let mut pointers = vec![String::new()];
    collect("", whole, &mut pointers);
    let mut changed = Vec::new();
    for pointer in &pointers {
        let value = whole.pointer(pointer).unwrap_or(&Value::Null);
        if !pointer.is_empty() {
            for other in others(value) {
                let mut file = whole.clone();
                if let Some(place) = file.pointer_mut(pointer) {
                    *place = other.clone();
                }
                changed.push((format!("{pointer} = {other}"), file));
            }
        }
        if let Some(object) = value.as_object() {
            let at = |file: &mut Value, change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
                file.pointer_mut(pointer).and_then(Value::as_object_mut).map(change);
            };
            let mut file = whole.clone();
            at(&mut file, &|object| drop(object.insert("no_such_key".to_owned(), json!(1))));
            changed.push((format!("{pointer} with another key"), file));
            for key in object.keys() {
                let mut file = whole.clone();
                at(&mut file, &|object| drop(object.remove(key)));
                changed.push((format!("{pointer} without `{key}`"), file));
            }
        }
    }
    changed
}

fn collect(at: &str, value: &Value, pointers: &mut Vec<String>) {
    let mut add = |key: &str, value: &Value| {
        let pointer = format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        pointers.push(pointer.clone());
        collect(&pointer, value, pointers);
    };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| add(key, value)),
        Value::Array(values) => values.iter().enumerate().for_each(|(at, value)| add(&at.to_string(), value)),
        _ => {}
    }
}

/// Values of keys that say something of one another, or that are free: the code may refuse what no schema can,
/// and the other way round never.
fn holds(
    kind: &str,
    validator: &Validator,
    whole: &Value,
    reads: &dyn Fn(&Value) -> Result<()>,
) -> Result<usize> {
    if let Some(fault) = validator.fault(whole) {
        return Err(format!("{kind}: the whole file: {fault}").into());
    }
    reads(whole).map_err(|error| format!("{kind}: the whole file: {error}"))?;
    let changes = changes(whole);
    let (mut refused, mut beyond) = (0, Vec::new());
    for (what, file) in &changes {
        match (reads(file), validator.fault(file)) {
            // serde takes the number of a variant where its name should stand; nobody writes that.
            (Ok(()), Some(_)) if what.ends_with("/kind = 0") => {}
            (Ok(()), Some(fault)) => {
                return Err(format!("{kind}: {what} is read, and is no {kind}: {fault}").into());
            }
            (Err(error), None) => beyond.push((what, error.to_string())),
            (Err(_), Some(_)) => refused += 1,
            (Ok(()), None) => {}
        }
    }
    for (what, error) in &beyond {
        // What is about a key or a kind is the schema's to say.
        let is_of_schema =
            ["unknown field", "missing field", "invalid type", "unknown variant", "is missing"];
        if is_of_schema.iter().any(|words| error.contains(words)) {
            return Err(format!("{kind}: {what} fits the schema, and is refused: {error}").into());
        }
    }
    if refused < changes.len() / 3 {
        return Err(format!("{kind}: only {refused} of {} changes were refused", changes.len()).into());
    }
    println!(
        "{kind}: {refused} of {} changes refused by both, {} by the code alone",
        changes.len(),
        beyond.len()
    );
    Ok(changes.len())
}

pub(crate) fn check(adapter: &Validator, encoder: &Validator, registry: &Validator) -> Result<usize> {
    let origin = Path::new("test");
    let read_adapter = |file: &Value| Ok(AdapterManifest::parse(&file.to_string(), origin).map(drop)?);
    let read_encoder = |file: &Value| Ok(EncoderManifest::parse(&file.to_string(), origin).map(drop)?);
    let read_registry =
        |file: &Value| Ok(Registry::parse(&toml::to_string(&without_nulls(file)?)?, origin).map(drop)?);
    let mut count = holds("adapter", adapter, &whole_adapter(), &read_adapter)?;
    for file in whole_encoders() {
        count += holds("encoder", encoder, &file, &read_encoder)?;
    }
    for file in whole_registries() {
        count += holds("registry", registry, &file, &read_registry)?;
    }
    Ok(count)
}

/// TOML has no null, so that a file with one cannot be.
fn without_nulls(file: &Value) -> Result<toml::Value> {
    fn has_null(value: &Value) -> bool {
        match value {
            Value::Null => true,
            Value::Object(object) => object.values().any(has_null),
            Value::Array(values) => values.iter().any(has_null),
            _ => false,
        }
    }
    if has_null(file) {
        return Err("a null, of which TOML has none: invalid value".into());
    }
    Ok(toml::Value::try_from(file)?)
}

fn sha256() -> String {
    "0a".repeat(32)
}

/// With every key and every layer that data can describe.
fn whole_adapter() -> Value {
    json!({
        "schema": 1, "name": "tiny",
        "decoder": {
            "name": "tiny", "architecture": "llama", "embedding_sha256": sha256(), "tokenizer_sha256": sha256(),
        },
        "encoder": { "name": "start", "encoder_id": sha256() },
        "d_encoder": 4, "d_hidden": 6, "d_decoder": 6,
        "projector": { "layers": [
            { "kind": "rms_norm", "d": 4, "eps": 1e-6 },
            { "kind": "linear", "d_in": 4, "d_out": 6, "bias": true },
            { "kind": "residual", "layers": [
                { "kind": "layer_norm", "d": 6, "eps": 1e-5 },
                { "kind": "linear", "d_in": 6, "d_out": 6 },
                { "kind": "gelu" }, { "kind": "silu" },
            ] },
            { "kind": "scale", "factor": 0.5 },
        ] },
        "pooling_factors": [4, 8], "append": "cont",
        "prompt_template": "{{ document }}\nQuestion: {{ question }}\nAnswer:", "answer_ends": "line",
        "weights": { "file": "adapter.safetensors", "sha256": sha256() },
        "training": { "method": "none" }, "scores": {},
    })
}

fn shape() -> Value {
    json!({
        "n_layers": 4, "d_model": 8, "n_heads": 2, "n_kv_heads": 1, "d_head": 4, "d_ff": 16, "vocab_size": 99,
        "tied_head": true, "norm_eps": 1e-5, "rope_theta": 10000.0, "context_length": 512,
    })
}

/// One with a backbone and one without, with each kind of weights.
fn whole_encoders() -> Vec<Value> {
    let of = |more: Value| {
        let mut whole = json!({
            "schema": 1, "name": "start", "encoder_id": sha256(), "architecture": "llama", "d_encoder": 8,
            "n_truncated_layers": 2, "compress_rates": [-1, -4], "pool_type": "mean_pooled_queries",
            "where": "before", "causal": false, "memory_tokens": 0, "chunk_tokens": 1024, "max_chunks": 32,
            "provenance": { "note": "none" },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        whole
    };
    let file = || json!({ "file": "encoder.safetensors", "sha256": sha256() });
    vec![
        of(json!({
            "backbone": { "decoder": "smollm2-135m", "sha256": sha256() }, "rarity": file(),
            "weights": { "kind": "lora", "file": "lora.safetensors", "sha256": sha256(), "rank": 8, "alpha": 16.0 },
        })),
        of(json!({
            "backbone": { "source": "file:backbone.gguf", "sha256": sha256() }, "weights": { "kind": "backbone" },
        })),
        of(json!({
            "memory_tokens": 4, "shape": shape(), "tokenizer": file(), "memory": file(),
            "weights": { "kind": "full", "file": "encoder.safetensors", "sha256": sha256() },
        })),
        of(json!({
            "shape": shape(), "weights": { "kind": "published", "source": "hf:ORG/REPO@main#model.safetensors" },
        })),
    ]
}

/// One with every key, and one with a plugin, which goes beside no adapter.
fn whole_registries() -> Vec<Value> {
    let decoder = |more: Value| {
        let mut whole = json!({
            "aliases": ["s"], "architecture": "llama", "source": "hf:o/r@main#m.safetensors.index.json",
            "sha256": sha256(), "bytes": 98_362_432, "files": { "model-00001.safetensors": sha256() },
            "tokenizer": { "source": ["pip:a==1#a/x.part00", "pip:b==1#b/x.part01"], "sha256": sha256(), "bytes": 9, "files": {} },
            "encoder": "start", "description": "small", "licence": "MIT", "shape": shape(),
            "options": {
                "factor": 8, "prompt_template": "{{ document }}", "stop": ["\n"], "answer_ends": "line",
                "rope_scaling": "none",
            },
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            whole[key] = value.clone();
        }
        whole
    };
    let of = |decoder: Value| {
        json!({
            "schema": 1, "default_encoder": "start", "default_decoder": "small", "allow_code_plugins": false,
            "plugin_folders": ["plugins"],
            "encoders": { "start": { "package": "encoders/start", "aliases": ["first"], "description": "one" } },
            "decoders": { "small": decoder },
        })
    };
    vec![
        of(decoder(json!({
            "adapter": "plugins/small", "adapter_sha256": sha256(),
            "adapters": { "wide": "plugins/wide", "deep": { "path": "plugins/deep", "sha256": sha256() } },
        }))),
        of(decoder(json!({ "plugin": { "path": "plugins/libsmall.so", "sha256": sha256() } }))),
    ]
}
