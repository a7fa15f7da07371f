//! JSON schemas of the files that this crate reads, made of the types that read them: their keys and kinds are
//! those of the code. What a single value may be is added by its key. What values say of one another, such as
//! the widths of a projector's layers, no schema says.

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::registry::RegistryText;
use crate::{AdapterManifest, EncoderManifest};

/// As [`is_name`](crate::is_name) has it.
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$";
const SHA256: &str = "^[0-9a-f]{64}$";
/// A pin that may be left out, and was written as nothing before it could.
const SHA256_OR_NONE: &str = "^([0-9a-f]{64})?$";
/// Not blank.
const WORDS: &str = "\\S";
/// Of a file in the same folder: neither `.` nor `..`, without looking ahead, which not every reader of patterns can.
const FILE_NAME: &str = r"^(\.{0,2}[^./\\:\x00-\x1f\x7f][^/\\:\x00-\x1f\x7f]*|\.{3}[^/\\:\x00-\x1f\x7f]*)$";
const SOURCE: &str = "^(file:.+|pip:[^=#]+==[^#]+#.+|hf:[^/@#]+/[^/@#]+@[^#]+#.+)$";

/// The schemas of `adapter.json`, `encoder.json` and, of the values that its TOML has, `registry.toml`, each with
/// the name of its file.
#[must_use]
pub fn schemas() -> [(&'static str, Value); 3] {
    [
        ("adapter", schema_of::<AdapterManifest>("adapter.json: an adapter package")),
        ("encoder", schema_of::<EncoderManifest>("encoder.json: an encoder package")),
        ("registry", schema_of::<RegistryText>("registry.toml: names, and what they resolve to")),
    ]
}

fn schema_of<T: JsonSchema>(title: &str) -> Value {
    let schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let mut value = schema.to_value();
    plain_words(&mut value);
    value["title"] = json!(title);
    constrain("", &mut value);
    let kinds: Vec<String> =
        value["$defs"].as_object().into_iter().flat_map(Map::keys).map(String::to_owned).collect();
    for kind in kinds {
        constrain(&kind, &mut value["$defs"][&kind]);
    }
    value
}

/// Comments are written for rustdoc, whose links mean nothing here.
fn plain_words(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(text)) = object.get_mut("description") {
                *text = text.replace("[`", "`").replace("`]", "`").replace('\n', " ");
            }
            object.values_mut().for_each(plain_words);
        }
        Value::Array(values) => values.iter_mut().for_each(plain_words),
        _ => {}
    }
}

/// Adds what the values of keys may be, to the schema of a kind of object and to its variants.
fn constrain(kind: &str, schema: &mut Value) {
    for choice in ["oneOf", "anyOf"] {
        for variant in schema.get_mut(choice).and_then(Value::as_array_mut).into_iter().flatten() {
            constrain(kind, variant);
        }
    }
    if kind == "ModelSource" {
        *schema = json!({
            "description": "Where a file comes from; parts are joined in order",
            "anyOf": [
                { "type": "string", "pattern": SOURCE },
                { "type": "array", "minItems": 1, "items": { "type": "string", "pattern": SOURCE } },
            ],
        });
        return;
    }
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (key, property) in properties {
        let more = match (kind, key.as_str()) {
            (_, "schema") => json!({
                "const": 1, "minimum": null, "format": null, "description": "The version of this format.",
            }),
            ("DecoderPin" | "WeightsFile", "embedding_sha256" | "tokenizer_sha256" | "sha256") => {
                json!({ "pattern": SHA256_OR_NONE })
            }
            (_, "sha256" | "adapter_sha256") => json!({ "pattern": SHA256 }),
            // A decoder's name in a registry is a key of an object.
            ("" | "DecoderPin" | "EncoderPin", "name") => json!({ "pattern": NAME }),
            ("Backbone", "decoder") => json!({ "pattern": NAME }),
            (_, "file") => json!({ "pattern": FILE_NAME, "maxLength": 255 }),
            (_, "architecture" | "encoder_id" | "pool_type") if kind != "DecoderText" => {
                json!({ "pattern": WORDS })
            }
            (_, "prompt_template") => json!({ "pattern": WORDS }),
            ("", "d_encoder" | "d_decoder" | "chunk_tokens" | "max_chunks") | ("ProjectorLayer", "d_out") => {
                json!({ "minimum": 1, "maximum": 1 << 20 })
            }
            ("", "memory_tokens") => json!({ "maximum": 1 << 16 }),
            ("EncoderWeights", "rank") => json!({ "minimum": 1, "maximum": 1 << 16 }),
            ("", "pooling_factors") => {
                property["items"] = json!({ "type": "integer", "minimum": 1, "maximum": 4096 });
                json!({ "minItems": 1 })
            }
            ("DecoderOptions", "factor") => json!({ "minimum": 1, "maximum": 4096 }),
            ("ModelShape", "norm_eps" | "rope_theta") => json!({ "exclusiveMinimum": 0 }),
            ("ModelShape", "tied_head") => json!({}),
            ("ModelShape", _) => json!({ "minimum": 1, "maximum": 1 << 24 }),
            ("ProjectorLayer", "eps") => json!({ "minimum": 0 }),
            ("" | "ProjectorSpec" | "ProjectorLayer", "layers") => json!({ "minItems": 1 }),
            ("" | "DecoderText", "aliases") => json!({}),
            ("", "encoders" | "decoders") => json!({ "propertyNames": { "pattern": NAME } }),
            ("ModelFile" | "DecoderText", "files") => {
                property["additionalProperties"] = json!({ "type": "string", "pattern": SHA256 });
                json!({ "propertyNames": { "pattern": FILE_NAME } })
            }
            ("DecoderOptions", "stop") => {
                property["items"] = json!({ "type": "string", "minLength": 1 });
                json!({})
            }
            _ => continue,
        };
        for (name, value) in more.as_object().into_iter().flatten() {
            if value.is_null() {
                property.as_object_mut().map(|object| object.remove(name));
            } else {
                property[name] = value.clone();
            }
        }
    }
    // Aliases are names too.
    if let Some(aliases) = schema.pointer_mut("/properties/aliases") {
        aliases["items"] = json!({ "type": "string", "pattern": NAME });
    }
}
