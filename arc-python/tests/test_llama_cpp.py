"""llama.cpp fed with the embeddings: its own arithmetic on the same file."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import DECODERS

import arc_encoder as arc
from arc_encoder import errors

llama_cpp = pytest.importorskip("llama_cpp")

QUESTION = "In which country was the loan completed?"


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_tokens_behind_latents_differ_only_where_logits_are_close(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, name: str
) -> None:
    """llama.cpp rounds activations to 8 bits before it multiplies by stored weights, as `precision="fast"` does:
    its logits are near those of float32, and where two tokens are nearer than that either may be taken."""
    from arc_encoder.llama_cpp import generate, read

    ours = decoder(name)
    llama = llama_cpp.Llama(str(ours.path), n_ctx=1024, n_batch=256, verbose=False, n_threads=2)
    prompt = ours.prompt(latents, QUESTION)
    theirs, own = read(llama, ours, prompt), ours.logits(prompt)[0]
    spread = float(own.max() - np.median(own))
    print(f"{name}: logits differ by {np.abs(theirs - own).max():.3f}, the best is {spread:.1f} above the median")
    assert np.corrcoef(theirs, own)[0, 1] > 0.99
    written = generate(llama, ours, prompt, max_tokens=16)
    expected = ours.generate(prompt, max_tokens=16).token_ids
    same = 0
    while same < min(len(written), len(expected)) and written[same] == expected[same]:
        same += 1
    print(f"{name}: {same} of {len(expected)} greedy tokens are equal")
    if written != expected:
        # Where they part, the two tokens are nearer to each other than the two arithmetics are.
        there = prompt.followed_by(expected[:same])
        theirs, own = read(llama, ours, there), ours.logits(there)[0]
        difference = float(np.abs(theirs - own).max())
        margin = float(own[expected[same]] - own[written[same]])
        print(f"{name}: there `arc` prefers its own by {margin:.3f}, and logits differ by up to {difference:.3f}")
        assert 0 <= margin <= 2 * difference


def test_other_models_are_refused(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    from arc_encoder.llama_cpp import read

    smollm2 = decoder("smollm2-135m")
    llama = llama_cpp.Llama(str(smollm2.path), n_ctx=256, verbose=False)
    gemma = decoder("gemma3-270m")
    with pytest.raises(errors.MismatchError, match="architecture"):
        read(llama, gemma, gemma.prompt(latents, QUESTION))
    with pytest.raises(errors.WindowExceededError):
        read(llama, smollm2, smollm2.prompt([latents, latents, latents], QUESTION))
    llama.metadata["llama.embedding_length_per_layer_input"] = "256"
    with pytest.raises(errors.BridgeError, match="inputs of their own"):
        read(llama, smollm2, smollm2.prompt(latents, QUESTION))
