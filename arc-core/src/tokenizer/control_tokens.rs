//! Which tokens steer a model, whatever kind its files give them.
//!
//! A file may call the token that ends a turn ordinary text, or say nothing of its kind at all; a model
//! was trained on it all the same. What ends a turn is known by name too, and what a model states as the
//! beginning or the end of a text is a control token, so that no document can spell one.

/// Names of tokens that end a turn or a text, and after which nothing of an answer follows. Source: the
/// names that llama.cpp ends a generation at (`llama-vocab.cpp`).
const END_NAMES: [&str; 34] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "▁<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // What separates files and repositories in code models, and what fills up a batch.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Names of tokens that mark the gap to be filled in code models; llama.cpp makes control tokens of them.
const GAP_NAMES: [&str; 20] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
];

/// Names of tokens that begin a text or a turn, or say whose turn it is. They are shown as their files
/// say, but a document does not spell them either: it could begin a turn of its own. Source: the chat
/// templates of the families named.
const TURN_NAMES: [&str; 31] = [
    // ChatML, Qwen, Phi.
    "<|im_start|>",
    "<|im_sep|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    // Llama 3 and 4.
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|python_tag|>",
    "<|header_start|>",
    "<|header_end|>",
    // Gemma.
    "<bos>",
    "<start_of_turn>",
    "<|turn>",
    // Mistral.
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    // DeepSeek.
    "<｜begin▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    // Harmony.
    "<|start|>",
    "<|message|>",
    "<|channel|>",
    // SmolVLM and GPT-2's kin.
    "<|startoftext|>",
];

/// HTML's tags for what is struck out, and SentencePiece's beginning and end of a text.
const HTML_PAIR: [&str; 2] = ["<s>", "</s>"];

/// Whether a token of that name ends a turn or marks a gap in the families that are known here.
pub(super) fn is_known(name: &str) -> bool {
    END_NAMES.contains(&name) || GAP_NAMES.contains(&name)
}

/// Whether a token of that name could have a role in the families that are known here.
pub(super) fn has_a_role(name: &str) -> bool {
    // Nearly all words of a vocabulary begin otherwise.
    name.starts_with(['<', '[', '_', '▁'])
        && (is_known(name) || TURN_NAMES.contains(&name) || name == HTML_PAIR[0])
}

/// What the files of a tokenizer say of its tokens.
pub(super) struct Stated<'a> {
    /// The id of a token, by its name.
    pub(super) id_of: &'a dyn Fn(&str) -> Option<u32>,
    /// By id: whether the files call it special.
    pub(super) special: Vec<bool>,
    /// The token for what is not in the vocabulary.
    pub(super) unknown: Option<u32>,
    /// What ends a text or a turn.
    pub(super) ends: Vec<u32>,
    /// What else has a role: the beginning of a text, a separator.
    pub(super) roles: Vec<u32>,
}

/// What tokens of a vocabulary are for.
pub(super) struct ControlTokens {
    /// By id: not text, and left out of what a reader sees.
    pub(super) special: Vec<bool>,
    /// By id: what no document may spell. All that is special but the unknown token, which stands for
    /// what documents say, and what begins a turn.
    pub(super) control: Vec<bool>,
    /// What ends a generation, sorted.
    pub(super) ends: Vec<u32>,
}

impl ControlTokens {
    /// Puts together what the files state and what the names say.
    pub(super) fn resolve(stated: Stated<'_>) -> Self {
        let Stated { id_of, mut special, unknown, mut ends, roles } = stated;
        let has = |name: &str| id_of(name).is_some();
        // Where a turn goes on after `<|end|>`, as in Harmony, other names end it: llama.cpp knows it by
        // the same names.
        let goes_on = (has("<|return|>") || has("<|flush|>")) && (has("<|call|>") || has("<|calls|>"));
        // Gemma and Qwen have `<s>` and `</s>` as text: HTML's tags for what is struck out. llama.cpp knows
        // Gemma 4 by another name of it.
        let is_plain = |name: &str| {
            let id = id_of(name).filter(|id| !roles.contains(id) && !ends.contains(id));
            id.and_then(|id| special.get(usize::try_from(id).ok()?)) == Some(&false)
        };
        let is_html = has("<|tool_response>") || HTML_PAIR.iter().all(|name| is_plain(name));
        let is_text = |name: &str| match name {
            "<|end|>" => goes_on,
            "</s>" => is_html,
            _ => false,
        };
        let of_names = |names: &[&str]| -> Vec<u32> {
            names.iter().filter(|name| !is_text(name)).filter_map(|name| id_of(name)).collect()
        };
        let ending = of_names(&END_NAMES);
        let gaps = of_names(&GAP_NAMES);
        let turns = of_names(&TURN_NAMES);
        ends.extend(ending);
        ends.sort_unstable();
        ends.dedup();
        for id in ends.iter().copied().chain(roles).chain(gaps) {
            set(&mut special, id);
        }
        let mut control = special.clone();
        for id in turns {
            set(&mut control, id);
        }
        if let Some(unknown) = unknown.and_then(|id| usize::try_from(id).ok())
            && let Some(unknown) = control.get_mut(unknown)
        {
            *unknown = false;
        }
        Self { special, control, ends }
    }
}

fn set(flags: &mut [bool], id: u32) {
    if let Some(flag) = usize::try_from(id).ok().and_then(|id| flags.get_mut(id)) {
        *flag = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The roles of the tokens of a vocabulary of which its file calls none special.
    fn resolve(vocabulary: &[&str], ends: &[u32]) -> (Vec<u32>, Vec<bool>) {
        let id_of = |name: &str| {
            vocabulary.iter().position(|token| *token == name).and_then(|id| u32::try_from(id).ok())
        };
        let stated = Stated {
            id_of: &id_of,
            special: vec![false; vocabulary.len()],
            unknown: Some(0),
            ends: ends.to_vec(),
            roles: Vec::new(),
        };
        let resolved = ControlTokens::resolve(stated);
        (resolved.ends, resolved.control)
    }

    #[test]
    fn what_ends_a_turn_is_known_by_name_and_by_what_is_stated() {
        let (ends, control) = resolve(&["<unk>", "a", "<|im_end|>", "<|im_start|>", "[EOS]"], &[1, 9]);
        assert_eq!(ends, [1, 2, 4, 9]);
        assert_eq!(control, [false, true, true, true, true]);
    }

    #[test]
    fn the_unknown_token_stands_for_what_a_document_says() {
        assert!(!resolve(&["</s>"], &[0]).1[0]);
    }

    #[test]
    fn names_that_are_text_in_their_family_end_nothing() {
        assert_eq!(resolve(&["<unk>", "<|end|>"], &[]).0, [1]);
        assert_eq!(resolve(&["<unk>", "<|end|>", "<|return|>", "<|call|>"], &[]).0, [2, 3]);
        assert_eq!(resolve(&["<unk>", "<|end|>", "<|flush|>", "<|calls|>"], &[]).0, [2, 3]);
        assert_eq!(resolve(&["<unk>", "</s>", "<|tool_response>"], &[]).0, [2]);
        // What the file states goes before what a name says.
        assert_eq!(resolve(&["<unk>", "</s>", "<|tool_response>"], &[1]).0, [1, 2]);
        // HTML's pair of tags; alone it is the end token that it is elsewhere.
        assert_eq!(resolve(&["<unk>", "</s>"], &[]).0, [1]);
        assert_eq!(resolve(&["<unk>", "</s>", "<s>", "<eos>"], &[]).0, [3]);
        assert_eq!(resolve(&["<unk>", "</s>", "<s>", "<eos>"], &[1]).0, [1, 3]);
    }
}
