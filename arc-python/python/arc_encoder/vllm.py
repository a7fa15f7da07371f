"""Latents for vLLM: in a program, and for a server.

A server is started with ``--enable-prompt-embeds``. vLLM itself is not imported: what it takes are a dictionary and
a text. Embeddings go as bytes of ``torch.save``, a float tensor ``[n, d_decoder]``::

    from arc_encoder.vllm import chat_messages

    messages = [{"role": "user", "content": [latents, "Who wrote it?"]}]
    client.chat.completions.create(model="smollm2", messages=chat_messages(decoder, messages))
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt

import torch
from arc_encoder._native import Latents
from arc_encoder._whole_input import refuse_per_layer
from arc_encoder.torch import embeddings, tensor

if TYPE_CHECKING:
    from arc_encoder import Decoder, Message, Prompt

__all__ = ["ChatPart", "EmbedsPrompt", "chat_messages", "chat_part", "completion_prompt", "embeds_prompt", "encode"]


class EmbedsPrompt(TypedDict):
    """What ``LLM.generate`` takes: ``vllm.inputs.EmbedsPrompt``."""

    prompt_embeds: torch.Tensor


class ChatPart(TypedDict):
    """A part of a message that ``/v1/chat/completions`` takes."""

    type: str
    data: str


def embeds_prompt(prompt: Prompt, *, dtype: torch.dtype = torch.float32, config: Any = None) -> EmbedsPrompt:
    """A whole prompt for ``LLM.generate``, ``[n, d_decoder]``. Tokens are embedded by the decoder's own table, so
    the served model is to have the same one.

    ``config`` is the served model's configuration (an object or a mapping), where a model that cannot be fed
    so is to be refused: :class:`BridgeError`.
    """
    _refuse(config)
    return {"prompt_embeds": embeddings(prompt).to(dtype)}


def completion_prompt(prompt: Prompt, *, dtype: torch.dtype = torch.bfloat16, config: Any = None) -> dict[str, Any]:
    """The fields of a request to ``/v1/completions``: a whole prompt as ``prompt_embeds``, and no ``prompt``."""
    _refuse(config)
    return {"prompt": None, "prompt_embeds": encode(embeddings(prompt), dtype=dtype)}


def chat_part(
    decoder: Decoder, latents: Latents, *, dtype: torch.dtype = torch.bfloat16, config: Any = None
) -> ChatPart:
    """A document as a part of a message for ``/v1/chat/completions``: the server embeds the text around it, and
    applies its template."""
    _refuse(config)
    return {"type": "prompt_embeds", "data": encode(decoder.project(latents), dtype=dtype)}


def chat_messages(
    decoder: Decoder,
    messages: Iterable[Message | Mapping[str, Any]],
    *,
    dtype: torch.dtype = torch.bfloat16,
    config: Any = None,
    joined: bool = True,
) -> list[dict[str, Any]]:
    """Messages as ``Decoder.chat_prompt`` takes them, for ``/v1/chat/completions``: latents become parts of type
    ``prompt_embeds``, texts parts of type ``text``.

    vLLM puts a line break between the parts of a message, so that one which stands there is left out here, and the
    model reads what ``Decoder.chat_prompt`` says; where there was none, there is one all the same. ``joined=False`` is
    for templates that put parts together themselves (``--chat-template-content-format openai``).
    """
    _refuse(config)

    def part(part: Any) -> dict[str, Any]:
        if isinstance(part, Latents):
            return {**chat_part(decoder, part, dtype=dtype)}
        if isinstance(part, str):
            return {"type": "text", "text": part}
        if part.get("type") == "latents":
            return {**chat_part(decoder, part["latents"], dtype=dtype)}
        return dict(part)

    def content(content: Any) -> Any:
        if isinstance(content, str):
            return content
        parts = [part(one) for one in ([content] if isinstance(content, Latents) else content)]
        return _without_joints(parts) if joined else parts

    return [{**message, "content": content(message["content"])} for message in messages]


def _without_joints(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parts without the line breaks that vLLM puts between them."""
    merged: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "text" and merged and merged[-1]["type"] == "text":
            merged[-1] = {"type": "text", "text": merged[-1]["text"] + part["text"]}
        else:
            merged.append(part)
    kept = []
    for index, part in enumerate(merged):
        if part["type"] == "text":
            text = part["text"]
            is_between = 0 < index < len(merged) - 1
            if is_between and text == "\n":
                # The one that vLLM puts between its neighbours.
                continue
            if index > 0:
                text = text.removeprefix("\n")
            if index < len(merged) - 1:
                text = text.removesuffix("\n")
            part = {"type": "text", "text": text}
        kept.append(part)
    return kept


def encode(rows: torch.Tensor | npt.NDArray[np.float32], *, dtype: torch.dtype = torch.bfloat16) -> str:
    """Rows as they go over the wire: base64 of the bytes of ``torch.save``."""
    if not isinstance(rows, torch.Tensor):
        rows = tensor(rows)
    file = io.BytesIO()
    torch.save(rows.to(dtype).contiguous(), file)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _refuse(config: Any) -> None:
    if config is not None:
        refuse_per_layer(config, str(getattr(config, "model_type", "the served model")))
