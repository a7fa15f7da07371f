//! Which tensors of a checkpoint are those of its text model, and what they are usually called.
//!
//! Multimodal models wrap a text model: it is a module of theirs, so its tensors have a prefix
//! (`language_model.model.`, `model.language_model.`, `model.text_model.`), and tensors of vision and
//! audio lie beside it, which text has no use for. A base model that was saved by itself has names
//! without the usual `model.` instead. Here all are called as in a plain causal language model.

use std::collections::BTreeMap;

/// How the names of a text model begin in a plain causal language model.
const USUAL: &str = "model.";
const EMBEDDING: &str = "embed_tokens.weight";
const FIRST_LAYER: &str = "layers.0.";
const HEAD: &str = "lm_head.weight";

/// The usual names of the tensors that are `stored`, each with the name that it has there.
///
/// In a model that `wraps` others what does not belong to the text model is left out; else it stays, so
/// that a tensor which a model would run without is seen.
pub(super) fn by_usual_names<'n>(stored: &[&'n str], wraps: bool) -> BTreeMap<String, &'n str> {
    let prefix = text_prefix(stored).unwrap_or(USUAL);
    let wraps = wraps || !matches!(prefix, "" | USUAL);
    let head = head(stored, prefix);
    let usual = |name: &'n str| {
        if Some(name) == head {
            Some(HEAD.to_owned())
        } else if let Some(rest) =
            name.strip_prefix(prefix).filter(|_| !prefix.is_empty() || is_of_base_model(name))
        {
            Some(format!("{USUAL}{rest}"))
        } else {
            (!wraps).then(|| name.to_owned())
        }
    };
    stored.iter().filter_map(|name| Some((usual(name)?, *name))).collect()
}

/// What the names of the text model begin with: what stands before its embedding table and its layers.
/// Of several the longest is taken that says that it is about text, else the shortest.
fn text_prefix<'n>(stored: &[&'n str]) -> Option<&'n str> {
    let has_layers = |prefix: &str| {
        stored.iter().any(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(FIRST_LAYER)))
    };
    let prefixes = stored.iter().filter_map(|name| name.strip_suffix(EMBEDDING));
    let prefixes: Vec<&str> = prefixes
        .filter(|prefix| (prefix.is_empty() || prefix.ends_with('.')) && has_layers(prefix))
        .collect();
    let is_about_text = |prefix: &&&str| prefix.contains("language_model.") || prefix.contains("text_model.");
    let about_text = prefixes.iter().filter(is_about_text).max_by_key(|prefix| prefix.len());
    about_text.or_else(|| prefixes.iter().min_by_key(|prefix| prefix.len())).copied()
}

/// The output head: in the module that the text model is in, or at the top.
fn head<'n>(stored: &[&'n str], prefix: &str) -> Option<&'n str> {
    let heads = stored.iter().copied().filter_map(|name| Some((name, name.strip_suffix(HEAD)?)));
    heads
        .filter(|(_, module)| prefix.starts_with(module))
        .max_by_key(|(_, module)| module.len())
        .map(|(name, _)| name)
}

/// Whether a name without prefix is one of a base model's.
fn is_of_base_model(name: &str) -> bool {
    name == EMBEDDING || name == "norm.weight" || name.starts_with("layers.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(stored: &[&str], wraps: bool) -> Vec<(String, String)> {
        let names = by_usual_names(stored, wraps).into_iter();
        names
            .filter(|(usual, stored)| usual != stored)
            .map(|(usual, stored)| (usual, stored.to_owned()))
            .collect()
    }

    #[test]
    fn a_wrapped_text_model_is_found_and_the_rest_left_out() {
        for prefix in [
            "language_model.model.",
            "model.language_model.",
            "language_model.",
            "model.text_model.",
            "model.language_model.model.",
            "thinker.language_model.",
        ] {
            let [embedding, layer, norm] =
                ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight"]
                    .map(|name| format!("{prefix}{name}"));
            let stored = [
                embedding.as_str(),
                &layer,
                &norm,
                "vision_tower.encoder.layers.0.mlp.fc1.weight",
                "multi_modal_projector.linear.weight",
            ];
            let names = by_usual_names(&stored, false);
            let expected: BTreeMap<String, &str> = [
                ("model.embed_tokens.weight".to_owned(), embedding.as_str()),
                ("model.layers.0.mlp.up_proj.weight".to_owned(), &layer),
                ("model.norm.weight".to_owned(), &norm),
            ]
            .into();
            assert_eq!(names, expected, "{prefix}");
        }
    }

    #[test]
    fn a_head_is_where_the_text_model_is_or_at_the_top() {
        let model = ["language_model.model.embed_tokens.weight", "language_model.model.layers.0.x"];
        for head in ["lm_head.weight", "language_model.lm_head.weight"] {
            let stored = [model[0], model[1], head, "other.lm_head.weight"];
            assert_eq!(by_usual_names(&stored, false).get(HEAD), Some(&head));
        }
    }

    #[test]
    fn a_base_model_saved_by_itself_is_called_as_usual() {
        let stored = ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight", "extra.weight"];
        assert_eq!(
            usual(&stored, false).into_iter().map(|(usual, _)| usual).collect::<Vec<_>>(),
            ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
        );
        assert!(by_usual_names(&stored, false).contains_key("extra.weight"), "it is seen, and refused");
    }

    #[test]
    fn usual_names_and_those_of_other_layouts_stay() {
        let plain =
            ["model.embed_tokens.weight", "model.layers.0.x", "lm_head.weight", "visual.patch.weight"];
        assert_eq!(usual(&plain, false), []);
        assert!(by_usual_names(&plain, false).contains_key("visual.patch.weight"));
        assert!(!by_usual_names(&plain, true).contains_key("visual.patch.weight"));
        let meta = ["tok_embeddings.weight", "layers.0.attention.wq.weight", "norm.weight"];
        assert_eq!(usual(&meta, false), []);
        assert_eq!(by_usual_names(&meta, false).len(), 3);
    }
}
