"""Latents for llama.cpp, through llama-cpp-python.

Tokens go to llama.cpp as tokens, latents as rows of ``llama_batch.embd``; what comes back are logits::

    from llama_cpp import Llama
    from arc_encoder.llama_cpp import generate

    llama = Llama(str(decoder.path), n_ctx=2048, verbose=False)
    ids = generate(llama, decoder, decoder.prompt(latents, "Who wrote it?"), max_tokens=32)
    print(decoder.detokenise(ids))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arc_encoder._whole_input import per_layer
from arc_encoder.errors import BridgeError, MismatchError, WindowExceededError

if TYPE_CHECKING:
    from arc_encoder import Decoder, Prompt

__all__ = ["check", "generate", "read"]


def check(llama: Any, decoder: Decoder) -> None:
    """Refuses a model that cannot read what the decoder's adapter projects.

    Raises :class:`BridgeError` for a model whose layers read inputs of their own, and :class:`MismatchError` for one
    of another shape. llama.cpp does not show its embedding table: that it is the same model is yours to see to.
    """
    metadata = llama.metadata
    architecture = metadata.get("general.architecture", "")
    key = f"{architecture}.embedding_length_per_layer_input"
    if int(metadata.get(key) or 0):
        raise per_layer(architecture, f"`{key}` is {metadata[key]}")
    for what, found, expected in [
        ("architecture", architecture, decoder.architecture),
        ("width", llama.n_embd(), decoder.width),
        ("vocabulary", llama.n_vocab(), decoder.vocabulary),
    ]:
        # Llama's file format has one architecture for OLMo's first version too, of another name.
        if found != expected:
            raise MismatchError(
                f"the {what} of the model in llama.cpp is `{found}`, that of `{decoder.name}` is `{expected}`",
                f"load `{decoder.path}`",
                "mismatch",
            )


def read(llama: Any, decoder: Decoder, prompt: Prompt) -> npt.NDArray[np.float32]:
    """Has llama.cpp forget what it has read, and read a prompt. Returns the logits at its last position,
    ``[vocabulary]``."""
    check(llama, decoder)
    if len(prompt) == 0:
        raise BridgeError("the prompt is empty", "give a prompt with a position", "usage")
    _check_room(llama, len(prompt), 0)
    llama.reset()
    _forget(llama)
    place, parts = 0, prompt.parts
    for index, part in enumerate(parts):
        for start in range(0, len(part), llama.n_batch):
            piece = part[start : start + llama.n_batch]
            is_last = index == len(parts) - 1 and start + len(piece) == len(part)
            _decode(llama, piece, place, is_last)
            place += len(piece)
    return _logits(llama)


def generate(
    llama: Any,
    decoder: Decoder,
    prompt: Prompt,
    *,
    max_tokens: int = 128,
    choose: Callable[[npt.NDArray[np.float32]], int] | None = None,
) -> list[int]:
    """Writes on from a prompt, at most ``max_tokens`` token ids, the end token included where it is reached.

    ``choose`` picks the next token by its logits, ``[vocabulary]``; the likeliest where it is left out.
    """
    import llama_cpp

    _check_room(llama, len(prompt), max_tokens)
    logits = read(llama, decoder, prompt)
    vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
    ids: list[int] = []
    while len(ids) < max_tokens:
        ids.append(int(np.argmax(logits)) if choose is None else choose(logits))
        if llama_cpp.llama_vocab_is_eog(vocabulary, ids[-1]) or len(ids) == max_tokens:
            break
        _decode(llama, np.array(ids[-1:], dtype=np.int64), len(prompt) + len(ids) - 1, True)
        logits = _logits(llama)
    return ids


def _check_room(llama: Any, positions: int, new: int) -> None:
    if positions + new > llama.n_ctx():
        raise WindowExceededError(
            f"the prompt takes {positions} positions and {new} more are asked for, but llama.cpp has room for "
            f"{llama.n_ctx()}",
            "give `Llama` a larger `n_ctx`, or compress at a larger factor",
            "window-exceeded",
        )


def _forget(llama: Any) -> None:
    import llama_cpp

    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(llama.ctx), True)


def _decode(llama: Any, piece: npt.NDArray[Any], place: int, wants_logits: bool) -> None:
    """Has llama.cpp read token ids, ``[n]``, or rows, ``[n, d]``, at the positions from ``place`` on."""
    import llama_cpp

    count = len(piece)
    width = 0 if piece.ndim == 1 else piece.shape[1]
    batch = llama_cpp.llama_batch_init(count, width, 1)
    try:
        batch.n_tokens = count
        if width:
            rows = np.ascontiguousarray(piece, dtype=np.float32)
            np.ctypeslib.as_array(batch.embd, shape=(count * width,))[:] = rows.ravel()
        else:
            np.ctypeslib.as_array(batch.token, shape=(count,))[:] = piece
        for index in range(count):
            batch.pos[index] = place + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = int(wants_logits and index == count - 1)
        code = llama_cpp.llama_decode(llama.ctx, batch)
    finally:
        llama_cpp.llama_batch_free(batch)
    if code:
        raise BridgeError(
            f"llama.cpp could not read {count} positions: it says {code}",
            "give `Llama` a larger `n_ctx`" if code == 1 else None,
        )


def _logits(llama: Any) -> npt.NDArray[np.float32]:
    import llama_cpp

    found = llama_cpp.llama_get_logits_ith(llama.ctx, -1)
    return np.ctypeslib.as_array(found, shape=(llama.n_vocab(),)).copy()
