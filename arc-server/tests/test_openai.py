"""`arc serve` as OpenAI's own client and curl see it; `scripts/check-server` runs it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from safetensors.numpy import load

import torch

try:
    # What newer versions of openai are made of.
    import httpx2 as httpx
except ImportError:
    import httpx

ARC = os.environ["ARC_BINARY"]
DOCUMENT = (
    "The lighthouse of Morven was built in 1862 by Anna Field. It has a red door, and its keeper grows tomatoes on "
    "the roof."
)
DECODERS = ["smollm2-135m", "gemma3-270m"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = subprocess.Popen([ARC, "serve", "--port", "0", "--precision", "exact", "--yes"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    found = re.fullmatch(r"listening on (http://\S+)", line.strip())
    assert found, line
    yield found.group(1)
    server.terminate()
    assert server.wait(60) == 0


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none is asked for", max_retries=0)


def asked(question: str) -> list:
    return [{"role": "user", "content": question}]


def arc_ask(decoder: str, question: str, text: str, tmp_path) -> str:
    """What the command line answers."""
    (tmp_path / "document.txt").write_text(text)
    command = [ARC, "ask", "--json", "--yes", "--no-cache", "--precision", "exact", "--decoder", decoder]
    command += ["--max-tokens", "24", str(tmp_path / "document.txt"), question]
    answered = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return find(answered, "text")


def find(value, key: str) -> str:
    """The first text of this name in an object."""
    if isinstance(value, dict):
        if isinstance(value.get(key), str) and "finish" in value:
            return value[key]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            found = find(one, key)
            if found is not None:
                return found
    return None


def test_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert set(DECODERS) <= set(names)
    assert client.models.retrieve("smollm2").id == "smollm2-135m"


def test_an_answer_about_a_document_is_that_of_the_command_line(client: openai.OpenAI, tmp_path) -> None:
    question = "Who built the lighthouse?"
    for decoder in DECODERS:
        reply = client.chat.completions.create(
            model=decoder, messages=asked(question), temperature=0, max_tokens=24,
            extra_body={"documents": [{"text": DOCUMENT}], "arc": {"form": "adapter"}},
        )
        # The command line prints what the model wrote, its first space too.
        assert reply.choices[0].message.content.strip() == arc_ask(decoder, question, DOCUMENT, tmp_path).strip()
        assert reply.choices[0].message.content.strip()


def test_a_stream_is_the_whole_answer(client: openai.OpenAI) -> None:
    options = {"model": "smollm2", "messages": asked("Name three colours."), "temperature": 0, "max_tokens": 30}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[0].choices[0].delta.role == "assistant"
    finished = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert finished == [whole.choices[0].finish_reason]


def test_several_choices_differ_and_come_again_with_their_seed(client: openai.OpenAI) -> None:
    def texts(seed: int, **more) -> list[str]:
        reply = client.completions.create(
            model="smollm2", prompt="My favourite place is", n=4, seed=seed, temperature=1.0, max_tokens=12, **more
        )
        return [choice.text for choice in reply.choices]

    first = texts(5)
    assert len(set(first)) > 1
    assert texts(5) == first
    assert texts(6) != first
    streamed = [""] * 4
    stream = client.completions.create(
        model="smollm2", prompt="My favourite place is", n=4, seed=5, temperature=1.0, max_tokens=12, stream=True
    )
    for chunk in stream:
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == first


def test_a_stop_text_across_the_borders_of_tokens(client: openai.OpenAI) -> None:
    options = {"model": "smollm2", "prompt": "The history of the lighthouse begins", "temperature": 0, "max_tokens": 40}
    whole = client.completions.create(**options, logprobs=0).choices[0]
    tokens = whole.logprobs.tokens
    border = sum(len(token) for token in tokens[:12])
    stop = whole.text[border - 1 : border + 2]
    assert not any(stop in token for token in tokens)
    before = whole.text[: whole.text.index(stop)]
    stopped = client.completions.create(**options, stop=stop).choices[0]
    assert (stopped.text, stopped.finish_reason) == (before, "stop")
    stream = client.completions.create(**options, stop=[stop], stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == before


def test_decoders_change_on_one_connection_and_read_the_same_latents(url: str) -> None:
    ports = set()

    def note(response: httpx.Response) -> None:
        stream = response.extensions["network_stream"]
        ports.add(stream.get_extra_info("client_addr"))

    http = httpx.Client(limits=httpx.Limits(max_connections=1), event_hooks={"response": [note]})
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", http_client=http, max_retries=0)
    text = DOCUMENT + " This one is read by two."
    cached = []
    for decoder in DECODERS + DECODERS:
        reply = client.chat.completions.create(
            model=decoder, messages=asked("What colour is the door?"), max_tokens=8, temperature=0,
            extra_body={"documents": [{"text": text}]},
        )
        assert reply.model == decoder
        arc = reply.usage.model_extra["arc"]
        cached.append(arc["documents_cached"])
        assert arc["latents"] * 4 >= arc["document_tokens"] > arc["latents"]
    assert cached == [0, 1, 1, 1]
    assert len(ports) == 1, ports


def test_open_book_reads_the_text(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="smollm2", messages=asked("What colour is the door of the lighthouse?"), temperature=0, max_tokens=30,
        extra_body={"documents": [{"title": "Morven", "text": DOCUMENT}], "arc": {"open_book": True}},
    )
    assert "red" in reply.choices[0].message.content.lower()
    assert reply.usage.model_extra["arc"]["latents"] == 0


def test_probabilities(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="smollm2", messages=asked("Say yes."), temperature=0, max_tokens=4, logprobs=True, top_logprobs=2
    )
    content = reply.choices[0].logprobs.content
    assert "".join(token.token for token in content) == reply.choices[0].message.content
    assert all(token.logprob <= 0 and token.top_logprobs[0].token == token.token for token in content)


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=asked("x"))
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="smollm2", messages=asked("x"), tools=[{"type": "function", "function": {"name": "f"}}])
    assert (refused.value.code, refused.value.param) == ("unsupported", "tools")
    assert "hint" in refused.value.body
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="smollm2", prompt="word " * 20000)
    assert long.value.code == "context_length_exceeded"


def test_latents_come_as_other_programs_read_them(url: str) -> None:
    def get(**more) -> httpx.Response:
        return httpx.post(f"{url}/v1/compress", json={"text": DOCUMENT, **more}).raise_for_status()

    latents = np.array(get().json()["data"], dtype=np.float32)
    assert np.array_equal(np.load(io.BytesIO(get(format="npy").content)), latents)
    assert np.array_equal(load(get(format="safetensors").content)["latents"], latents)
    rows = np.array(get(decoder="gemma3").json()["data"], dtype=np.float32)
    assert rows.shape == (len(latents) + 1, 640)
    part = get(decoder="gemma3", format="vllm").json()
    tensor = torch.load(io.BytesIO(base64.b64decode(part["data"])), weights_only=True)
    assert part["type"] == "prompt_embeds" and tensor.dtype == torch.float32
    assert torch.equal(tensor, torch.from_numpy(rows))
    # Saved anew it is the same, so that nothing of it is out of the ordinary.
    again = io.BytesIO()
    torch.save(tensor, again)
    assert torch.equal(torch.load(io.BytesIO(again.getvalue()), weights_only=True), tensor)


def test_curl(url: str) -> None:
    body = json.dumps({"model": "smollm2", "messages": asked("Say yes."), "max_tokens": 4, "temperature": 0})
    command = ["curl", "-sS", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body]
    whole = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    streamed = json.loads(body) | {"stream": True}
    command[-1] = json.dumps(streamed)
    lines = subprocess.run([*command, "-N"], capture_output=True, check=True, text=True).stdout.split("\n\n")
    assert lines[-2] == "data: [DONE]"
    deltas = [json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in lines[:-2]]
    assert "".join(deltas) == whole["choices"][0]["message"]["content"]
