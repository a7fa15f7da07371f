"""Messages of a conversation with documents in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from arc_encoder._native import Latents


class Message(TypedDict):
    """A turn of a conversation, as chat APIs have it, with latents among the parts of its content."""

    role: str
    """Who speaks: ``system``, ``user`` or ``assistant``."""
    content: str | Latents | Sequence[str | Latents | Mapping[str, Any]]
    """What is said: a text, latents, or several of them in order. ``{"type": "text", "text": …}`` and
    ``{"type": "latents", "latents": …}`` are parts too."""
