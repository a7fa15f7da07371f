"""Models that read more than the embeddings of their positions."""

from __future__ import annotations

from typing import Any

from arc_encoder.errors import BridgeError

# Names that Hugging Face configurations have for embeddings of tokens that every layer reads beside the hidden
# states: Gemma 3n and its successors.
PER_LAYER = ("hidden_size_per_layer_input", "vocab_size_per_layer_input")


def refuse_per_layer(config: Any, name: str) -> None:
    """Raises :class:`BridgeError` if a configuration (a mapping or an object) names per-layer inputs."""
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    if isinstance(config, dict):
        config = config.get("text_config", config)
    for key in PER_LAYER:
        value = config.get(key) if isinstance(config, dict) else getattr(config, key, None)
        if value:
            raise per_layer(name, f"`{key}` is {value}")


def per_layer(name: str, found: str) -> BridgeError:
    return BridgeError(
        f"`{name}` cannot be fed with embeddings: its layers read inputs of their own for each token ({found}), "
        "and a latent is no token",
        "use a model whose embeddings are all that it reads, such as Llama, Qwen 2 or Gemma 3",
        "unsupported",
    )
