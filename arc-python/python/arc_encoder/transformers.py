"""Latents for models of Hugging Face transformers.

A prompt becomes ``inputs_embeds`` and ``attention_mask``: tokens by the model's own embedding table, latents as the
adapter projects them. The model is to be the one that the adapter was made for, in any precision::

    from arc_encoder.transformers import chat_inputs

    messages = [{"role": "user", "content": [latents, "Who wrote it?"]}]
    inputs = chat_inputs(model, decoder, messages)
    ids = model.generate(**inputs, max_new_tokens=32)
    print(decoder.detokenise(ids[0].tolist()))
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import torch
from arc_encoder._native import Prompt
from arc_encoder._whole_input import per_layer, refuse_per_layer
from arc_encoder.errors import ArcError, BridgeError, MismatchError
from arc_encoder.torch import tensor

if TYPE_CHECKING:
    from arc_encoder import Decoder, Latents, Message

__all__ = ["chat_inputs", "check", "inputs", "question_inputs"]

# Token ids that are compared, spread over the vocabulary.
PROBES = 64
# A table in 4 bits is this near to the one that it was made of: SmolLM2's in Q4_1 and in bfloat16 have 0.99.
LEAST_COSINE = 0.9

_checked: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def chat_inputs(
    model: Any, decoder: Decoder, messages: Iterable[Message | Mapping[str, Any]], *, checked: bool = True
) -> dict[str, torch.Tensor]:
    """What a model reads of a conversation with documents in it, up to where its next turn begins.

    ``messages`` are those of ``Decoder.chat_prompt``: ``content`` is a text or a list of texts and latents. The
    template and the tokenizer are the decoder's, so that names of special tokens in a text stay text.

    Returns ``inputs_embeds``, ``[1, n, d]`` in the model's type and on its device, and ``attention_mask``, ``[1, n]``.
    """
    return inputs(model, decoder, decoder.chat_prompt(messages), checked=checked)


def question_inputs(
    model: Any, decoder: Decoder, documents: Latents | Iterable[Latents], question: str, *, checked: bool = True
) -> dict[str, torch.Tensor]:
    """What a model reads of a question about documents, in the adapter's template; as :func:`chat_inputs`."""
    return inputs(model, decoder, decoder.prompt(documents, question), checked=checked)


def inputs(
    model: Any, decoder: Decoder, prompts: Prompt | Sequence[Prompt], *, checked: bool = True
) -> dict[str, torch.Tensor]:
    """What a model reads of prompts: ``inputs_embeds``, ``[b, n, d]``, and ``attention_mask``, ``[b, n]``.

    Shorter prompts are padded on the left, where ``generate`` wants it. Unless ``checked`` is false the model is
    compared with the decoder at first: see :func:`check`.
    """
    if checked:
        check(model, decoder)
    rows = [_embed(model, prompt) for prompt in ([prompts] if isinstance(prompts, Prompt) else prompts)]
    longest = max((len(row) for row in rows), default=0)
    if longest == 0:
        raise BridgeError("there is no prompt, or an empty one", "give a prompt with a position", "usage")
    embeds = rows[0].new_zeros((len(rows), longest, rows[0].shape[1]))
    mask = torch.zeros((len(rows), longest), dtype=torch.int64, device=embeds.device)
    for index, row in enumerate(rows):
        embeds[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = 1
    return {"inputs_embeds": embeds, "attention_mask": mask}


def _embed(model: Any, prompt: Prompt) -> torch.Tensor:
    table = model.get_input_embeddings()
    with torch.no_grad():
        parts = []
        for part in prompt.parts:
            if part.ndim == 1:
                ids = torch.from_numpy(part).to(table.weight.device)
                # The module and not its table: some models scale what they look up.
                parts.append(table(ids))
            else:
                rows: Any = part
                parts.append(tensor(rows).to(table.weight.device, table.weight.dtype))
        return torch.cat(parts) if parts else table.weight.new_zeros((0, table.weight.shape[1]))


def check(model: Any, decoder: Decoder) -> None:
    """Refuses a model that cannot read what the decoder's adapter projects; a pair is checked once.

    Raises :class:`BridgeError` for a model whose embeddings are not all that it reads, and :class:`MismatchError`
    for one whose embeddings are not the decoder's: another model, or another version of it.
    """
    known = _checked.setdefault(model, set())
    if decoder.name in known:
        return
    name = type(model).__name__
    refuse_per_layer(model.config, name)
    _check_table(model, decoder, name)
    _check_whole(model, decoder, name)
    known.add(decoder.name)


def _check_table(model: Any, decoder: Decoder, name: str) -> None:
    table = model.get_input_embeddings()
    size, width = table.weight.shape
    hint = f"load the model that `{decoder.name}` is in the registry: `{decoder.path}`, or what it was made of"
    if width != decoder.width:
        raise MismatchError(
            f"`{name}` has embeddings of width {width}, the adapter of `{decoder.name}` maps to {decoder.width}",
            hint,
            "mismatch",
        )
    # Tables are padded to round sizes, differently by different tools.
    ids = np.linspace(0, min(size, decoder.vocabulary) - 1, PROBES, dtype=np.int64)
    with torch.no_grad():
        theirs = table(torch.from_numpy(ids).to(table.weight.device)).float().cpu().numpy()
    ours = decoder.embed(ids.tolist())
    norms = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
    cosine = float(np.median((theirs * ours).sum(axis=1) / np.maximum(norms, 1e-12)))
    scale = float(np.median(np.linalg.norm(theirs, axis=1) / np.maximum(np.linalg.norm(ours, axis=1), 1e-12)))
    if cosine < LEAST_COSINE or not 0.8 < scale < 1.25:
        raise MismatchError(
            f"the embeddings of `{name}` are not those of `{decoder.name}`: their cosine is {cosine:.2f}, "
            f"their norms are {scale:.2f} times as large",
            hint,
            "mismatch",
        )


def _check_whole(model: Any, decoder: Decoder, name: str) -> None:
    """Has the model read a few tokens as ids and as embeddings, which has to come to the same."""
    ids = torch.tensor([decoder.tokenise("The same words, twice.")], device=model.get_input_embeddings().weight.device)
    with torch.no_grad():
        by_ids = model(input_ids=ids).logits.float()
        try:
            by_rows = model(inputs_embeds=model.get_input_embeddings()(ids)).logits.float()
        except ArcError:
            raise
        except Exception as error:
            raise per_layer(name, f"given embeddings alone it says: {error}") from error
    largest = float((by_ids - by_rows).abs().max())
    if not largest <= 0.05 * float(by_ids.abs().max()):
        raise per_layer(name, f"its logits differ by {largest:.3g} from those of the token ids")
