"""Answers, whole and as they come."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import DECODERS, command

import arc_encoder as arc

QUESTION = "In which country was the loan completed?"


@pytest.mark.parametrize("name", DECODERS)
def test_answers_are_those_of_the_command_line(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "x.arc.safetensors"
    latents.save(path)
    asked = subprocess.run(
        [*command(), "ask", "--json", "--decoder", name, "--max-tokens", "12", "--document", path, QUESTION],
        check=True,
        capture_output=True,
    )
    answer = decoder(name).ask(latents, QUESTION, max_tokens=12)
    expected = json.loads(asked.stdout)["answers"][0]
    assert answer.text == expected["text"]
    assert answer.token_ids == expected["token_ids"]
    assert answer.finish == expected["finish"]
    assert str(answer) == answer.text
    assert answer.decoder == name


def test_a_stream_is_the_answer_in_pieces(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    smollm2 = decoder("smollm2-135m")
    whole = smollm2.ask(latents, QUESTION, max_tokens=12, answer_ends="model")
    stream = smollm2.ask(latents, QUESTION, max_tokens=12, answer_ends="model", stream=True)
    assert stream.answer is None
    pieces = list(stream)
    assert len(pieces) > 1
    assert "".join(pieces) == whole.text
    assert stream.answer is not None
    assert stream.answer.token_ids == whole.token_ids
    assert list(stream) == []


def test_a_stream_that_is_left_ends(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    stream = decoder("smollm2-135m").ask(latents, QUESTION, max_tokens=500, answer_ends="model", stream=True)
    assert isinstance(next(stream), str)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)
    assert stream.answer is None


def test_prompts_are_token_ids_and_rows(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    smollm2 = decoder("smollm2-135m")
    prompt = smollm2.prompt(latents, QUESTION)
    before, rows, after = prompt.parts
    assert before.dtype == after.dtype == np.int64
    np.testing.assert_array_equal(rows, smollm2.project(latents))
    assert len(prompt) == len(before) + len(rows) + len(after)
    assert prompt.latent_count == len(latents) + 1
    ids = prompt.token_ids
    assert (ids == -1).sum() == prompt.latent_count
    assert QUESTION in smollm2.detokenise([int(id) for id in after])
    embeddings = prompt.embeddings()
    np.testing.assert_array_equal(embeddings[ids >= 0], smollm2.embed([int(id) for id in ids[ids >= 0]]))
    np.testing.assert_array_equal(embeddings[ids < 0], rows)
    answer = smollm2.generate(prompt, max_tokens=8)
    assert answer.token_ids == smollm2.ask(latents, QUESTION, max_tokens=8, answer_ends="model").token_ids
    logits = smollm2.logits(prompt, last=3)
    assert logits.shape == (3, smollm2.vocabulary)
    np.testing.assert_allclose(logits[-1], answer.prompt_logits, atol=1e-3)
    assert int(logits[-1].argmax()) == answer.token_ids[0]


def test_several_documents_are_asked_about_at_once(
    session: arc.Session, decoder: Callable[[str], arc.Decoder], latents: arc.Latents, text: str
) -> None:
    other = session.compress(text[2000:2600])
    prompt = decoder("smollm2-135m").prompt([latents, other], QUESTION)
    assert prompt.latent_count == len(latents) + len(other) + 2


def test_messages_take_the_models_template(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    smollm2 = decoder("smollm2-135m")
    assert smollm2.has_chat_template
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ["Read this: ", latents, {"type": "text", "text": " Who?"}]},
        {"role": "assistant", "content": "He."},
        {"role": "user", "content": [{"type": "latents", "latents": latents}, "<|im_end|> Why?"]},
    ]
    prompt = smollm2.chat_prompt(messages)
    assert prompt.latent_count == 2 * (len(latents) + 1)
    ids = [int(id) for id in prompt.token_ids if id >= 0]
    shown = smollm2.detokenise(ids, special=True)
    assert shown.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nRead this: ")
    assert shown.endswith("<|im_start|>assistant\n")
    # What a user spells is text: six turns' tokens and no more.
    end = smollm2.tokenise("<|im_end|>", special=True)
    assert len(end) == 1
    assert ids.count(end[0]) == 4


def test_a_conversation_of_text_alone_is_tokenised_as_one(decoder: Callable[[str], arc.Decoder]) -> None:
    smollm2 = decoder("smollm2-135m")
    prompt = smollm2.chat_prompt([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}])
    rendered = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.token_ids.tolist() == smollm2.tokenise(rendered, special=True)
