//! What checkpoints call the tensors of a transformer.

/// The tensor names of one checkpoint layout; `{}` in a layer's name is its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorNames {
    /// Token embeddings, `[vocabulary, d]`.
    pub embedding: &'static str,
    /// The last normalisation, `[d]`.
    pub output_norm: &'static str,
    /// The output head, `[vocabulary, d]`; absent where it is tied to the embedding.
    pub head: &'static str,
    /// Before attention, `[d]`.
    pub attention_norm: &'static str,
    /// Query projection without its suffix `.weight` or `.bias`, `[h·k, d]`.
    pub query: &'static str,
    /// Key projection, likewise, `[g·k, d]`.
    pub key: &'static str,
    /// Value projection, likewise, `[g·k, d]`.
    pub value: &'static str,
    /// The projection after attention, likewise, `[d, h·k]`.
    pub output: &'static str,
    /// Per-head query normalisation, `[k]`.
    pub query_norm: &'static str,
    /// Per-head key normalisation, `[k]`.
    pub key_norm: &'static str,
    /// After attention, before the residual, `[d]`.
    pub post_attention_norm: &'static str,
    /// Before the feed-forward layer, `[d]`.
    pub feed_forward_norm: &'static str,
    /// Gate projection without its suffix, `[f, d]`.
    pub gate: &'static str,
    /// Up projection, likewise, `[f, d]`.
    pub up: &'static str,
    /// Down projection, likewise, `[d, f]`.
    pub down: &'static str,
    /// After the feed-forward layer, before the residual, `[d]`.
    pub post_feed_forward_norm: &'static str,
}

impl TensorNames {
    /// llama.cpp's names, the same for every architecture.
    pub const GGUF: Self = Self {
        embedding: "token_embd.weight",
        output_norm: "output_norm.weight",
        head: "output.weight",
        attention_norm: "blk.{}.attn_norm.weight",
        query: "blk.{}.attn_q",
        key: "blk.{}.attn_k",
        value: "blk.{}.attn_v",
        output: "blk.{}.attn_output",
        query_norm: "blk.{}.attn_q_norm.weight",
        key_norm: "blk.{}.attn_k_norm.weight",
        post_attention_norm: "blk.{}.post_attention_norm.weight",
        feed_forward_norm: "blk.{}.ffn_norm.weight",
        gate: "blk.{}.ffn_gate",
        up: "blk.{}.ffn_up",
        down: "blk.{}.ffn_down",
        post_feed_forward_norm: "blk.{}.post_ffw_norm.weight",
    };

    /// Hugging Face's names for llama, qwen2, qwen3, smollm3 and olmo.
    pub const HUGGING_FACE: Self = Self {
        embedding: "model.embed_tokens.weight",
        output_norm: "model.norm.weight",
        head: "lm_head.weight",
        attention_norm: "model.layers.{}.input_layernorm.weight",
        query: "model.layers.{}.self_attn.q_proj",
        key: "model.layers.{}.self_attn.k_proj",
        value: "model.layers.{}.self_attn.v_proj",
        output: "model.layers.{}.self_attn.o_proj",
        query_norm: "model.layers.{}.self_attn.q_norm.weight",
        key_norm: "model.layers.{}.self_attn.k_norm.weight",
        post_attention_norm: "",
        feed_forward_norm: "model.layers.{}.post_attention_layernorm.weight",
        gate: "model.layers.{}.mlp.gate_proj",
        up: "model.layers.{}.mlp.up_proj",
        down: "model.layers.{}.mlp.down_proj",
        post_feed_forward_norm: "",
    };

    /// Hugging Face's names for gemma3, whose blocks have four normalisations.
    pub const HUGGING_FACE_GEMMA3: Self = Self {
        post_attention_norm: "model.layers.{}.post_attention_layernorm.weight",
        feed_forward_norm: "model.layers.{}.pre_feedforward_layernorm.weight",
        post_feed_forward_norm: "model.layers.{}.post_feedforward_layernorm.weight",
        ..Self::HUGGING_FACE
    };

    /// The names of Meta's llama checkpoints, which the published ARC-Encoders keep.
    pub const META: Self = Self {
        embedding: "tok_embeddings.weight",
        output_norm: "norm.weight",
        head: "output.weight",
        attention_norm: "layers.{}.attention_norm.weight",
        query: "layers.{}.attention.wq",
        key: "layers.{}.attention.wk",
        value: "layers.{}.attention.wv",
        output: "layers.{}.attention.wo",
        query_norm: "",
        key_norm: "",
        post_attention_norm: "",
        feed_forward_norm: "layers.{}.ffn_norm.weight",
        gate: "layers.{}.feed_forward.w1",
        up: "layers.{}.feed_forward.w3",
        down: "layers.{}.feed_forward.w2",
        post_feed_forward_norm: "",
    };

    /// A layer's name with its index filled in.
    #[must_use]
    pub fn of_layer(pattern: &str, layer: usize) -> String {
        pattern.replacen("{}", &layer.to_string(), 1)
    }
}
