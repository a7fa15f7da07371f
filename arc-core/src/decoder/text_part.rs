//! The text model's configuration inside that of a multimodal model.
//!
//! A wrapper's `config.json` has it in `text_config`, without the values that are the defaults of its
//! class in transformers: those are here. Sources: the configuration classes of transformers 5.23.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

/// Where wrappers keep it: transformers, and InternVL's own code.
const PLACES: [&str; 2] = ["text_config", "llm_config"];

/// The configuration of the text model: all of it where it is no part of another.
pub(super) fn text_part(config: &Value) -> Cow<'_, Value> {
    let part = PLACES.iter().find_map(|place| config.get(place)?.as_object());
    let Some(part) = part else { return Cow::Borrowed(config) };
    let wrapper = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let kind = part.get("model_type").and_then(Value::as_str).unwrap_or_else(|| usual_kind(wrapper));
    let mut text = defaults(kind);
    text.insert("model_type".into(), kind.into());
    // Whether the head is the embedding table is said by the wrapper in some files, and below in others.
    if let Some(tied) = config.get("tie_word_embeddings").filter(|_| kind != "gemma3_text") {
        text.insert("tie_word_embeddings".into(), tied.clone());
    }
    text.extend(
        part.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())),
    );
    // What is `null` there is said to be nothing; what has a default is not nothing.
    for (key, value) in part.iter().filter(|(_, value)| value.is_null()) {
        text.entry(key.clone()).or_insert_with(|| value.clone());
    }
    Cow::Owned(Value::Object(text))
}

/// What a wrapper wraps where it does not say.
fn usual_kind(wrapper: &str) -> &str {
    match wrapper {
        "gemma3" => "gemma3_text",
        "mistral3" => "mistral",
        "qwen2_audio" | "qwen2_vl" | "qwen2_5_vl" => "qwen2",
        _ => "llama",
    }
}

/// The defaults of a configuration's class, as far as a forward pass depends on them.
fn defaults(kind: &str) -> Map<String, Value> {
    let common = json!({
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "rms_norm_eps": 1e-6,
    });
    let own = match kind {
        "llama" => json!({ "intermediate_size": 11_008, "max_position_embeddings": 2048 }),
        "mistral" => json!({
            "intermediate_size": 14_336, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
        }),
        "qwen2" | "qwen2_vl_text" | "qwen2_5_vl_text" => json!({
            "intermediate_size": 22_016, "num_key_value_heads": 32, "max_position_embeddings": 32_768,
        }),
        "gemma3_text" => json!({
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131_072,
            "query_pre_attn_scalar": 256, "sliding_window": 4096,
        }),
        // Of a class that is not known nothing is assumed: what lacks is named.
        _ => return Map::new(),
    };
    let objects = [common, own].into_iter().filter_map(|part| match part {
        Value::Object(part) => Some(part),
        _ => None,
    });
    objects.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_model_by_itself_is_all_of_its_configuration() {
        let config = json!({"model_type": "llama", "hidden_size": 8, "text_config": null});
        assert!(matches!(text_part(&config), Cow::Borrowed(part) if *part == config));
    }

    #[test]
    fn what_a_wrapper_leaves_out_is_the_default_of_the_class() {
        // As gemma-3-4b states it.
        let config = json!({
            "model_type": "gemma3", "eos_token_id": [1, 106],
            "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "head_dim": null},
        });
        let part = text_part(&config);
        for (key, value) in [
            ("hidden_size", 2560),
            ("num_hidden_layers", 34),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 4),
            ("head_dim", 256),
        ] {
            assert_eq!(part[key], value, "{key}");
        }
        // As llava-1.5-7b states it, which leaves nearly all of it out.
        let config = json!({"model_type": "llava", "tie_word_embeddings": false,
            "text_config": {"model_type": "llama", "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}});
        let part = text_part(&config);
        assert_eq!(part["hidden_size"], 4096);
        assert_eq!(part["rms_norm_eps"], 1e-5);
        assert_eq!(part["max_position_embeddings"], 4096);
        assert_eq!(part["tie_word_embeddings"], false);
        assert_eq!(part.get("num_key_value_heads"), None, "as many as there are heads");
    }

    #[test]
    fn what_is_wrapped_is_known_by_the_wrapper_where_it_does_not_say() {
        let kind = |wrapper: &str| {
            let config = json!({"model_type": wrapper, "text_config": {}});
            text_part(&config)["model_type"].clone()
        };
        assert_eq!(kind("gemma3"), "gemma3_text");
        assert_eq!(kind("mistral3"), "mistral");
        assert_eq!(kind("llava"), "llama");
    }
}
