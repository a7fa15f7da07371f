"""PyTorch through DLPack, and what vLLM takes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable

import numpy as np
import pytest

import arc_encoder as arc
from arc_encoder import errors

torch = pytest.importorskip("torch")

QUESTION = "Who wrote it?"


def test_tensors_share_the_memory_of_rows_and_copy_latents(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents
) -> None:
    from arc_encoder.torch import project, tensor

    rows = decoder("smollm2-135m").project(latents)
    shared = tensor(rows)
    assert shared.dtype == torch.float32
    shared[0, 0] = 42.0
    assert rows[0, 0] == 42.0
    before = latents.values.copy()
    for made in [tensor(latents), torch.from_dlpack(latents), tensor(latents.values)]:
        np.testing.assert_array_equal(made.numpy(), before)
        made[0, 0] += 1.0
    np.testing.assert_array_equal(latents.values, before)
    assert tuple(project(decoder("smollm2-135m"), latents).shape) == rows.shape


def sent(data: str) -> np.ndarray:
    """As vLLM reads it."""
    tensor = torch.load(io.BytesIO(base64.b64decode(data, validate=True)), weights_only=True)
    assert tensor.ndim == 2
    assert tensor.is_floating_point()
    return np.asarray(tensor.float().numpy())


def test_vllm_gets_a_document_as_a_part_of_a_message(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents
) -> None:
    from arc_encoder.vllm import chat_messages, chat_part

    smollm2 = decoder("smollm2-135m")
    rows = smollm2.project(latents)
    part = chat_part(smollm2, latents, dtype=torch.float32)
    assert part["type"] == "prompt_embeds"
    np.testing.assert_array_equal(sent(part["data"]), rows)
    half = sent(chat_part(smollm2, latents)["data"])
    np.testing.assert_allclose(half, rows, rtol=1e-2)
    messages = chat_messages(
        smollm2,
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [latents, QUESTION]}],
        dtype=torch.float32,
    )
    assert messages[0] == {"role": "system", "content": "Be brief."}
    assert messages[1]["content"] == [part, {"type": "text", "text": QUESTION}]


@pytest.mark.parametrize(
    ("parts", "sent"),
    [
        (["A letter:\n", None, "\nWho?"], ["A letter:", None, "Who?"]),
        (["A letter:\n\n", None, " Who?"], ["A letter:\n", None, " Who?"]),
        (["A ", "letter:\n", None], ["A letter:", None]),
        ([None, "\n", None], [None, None]),
        ([None, "\nand\n", None, "\n"], [None, "and", None, ""]),
        (["\nWho?\n"], ["\nWho?\n"]),
    ],
)
def test_line_breaks_that_vllm_puts_between_parts_are_left_out(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, parts: list[str | None], sent: list[str | None]
) -> None:
    from arc_encoder.vllm import chat_messages

    def read(joined: bool) -> list[str | None]:
        content = [latents if part is None else part for part in parts]
        messages = chat_messages(decoder("smollm2-135m"), [{"role": "user", "content": content}], joined=joined)
        return [part.get("text") for part in messages[0]["content"]]

    assert read(True) == sent
    assert read(False) == parts


def test_vllm_gets_a_whole_prompt(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    from arc_encoder.vllm import completion_prompt, embeds_prompt

    prompt = decoder("smollm2-135m").prompt(latents, QUESTION)
    given = embeds_prompt(prompt)["prompt_embeds"]
    np.testing.assert_array_equal(given.numpy(), prompt.embeddings())
    fields = completion_prompt(prompt, dtype=torch.float32)
    assert fields["prompt"] is None
    np.testing.assert_array_equal(sent(fields["prompt_embeds"]), prompt.embeddings())


@pytest.mark.parametrize("nested", [False, True])
def test_vllm_models_with_per_layer_inputs_are_refused(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, nested: bool
) -> None:
    from arc_encoder.vllm import chat_part

    config: dict[str, object] = {"hidden_size": 2048, "hidden_size_per_layer_input": 256}
    if nested:
        config = {"text_config": config}
    with pytest.raises(errors.BridgeError, match="inputs of their own"):
        chat_part(decoder("smollm2-135m"), latents, config=config)
    chat_part(decoder("smollm2-135m"), latents, config={"hidden_size": 576, "hidden_size_per_layer_input": 0})
