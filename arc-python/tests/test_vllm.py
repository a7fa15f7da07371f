"""vLLM on the CPU, in float32 with the same GGUF's weights, reads latents as `arc` does: `scripts/check-vllm`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import arc_encoder as arc

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")
# In one process, of little memory, and from the folder that is made here. Read when vLLM is imported.
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
os.environ.update(SETTINGS)
vllm = pytest.importorskip("vllm")

TOKENS = 24
QUESTIONS = [
    "In which country was the loan completed?",
    "Which district is to become a new member of the Union?",
    "Who speaks here, and to whom?",
    "Continue.",
]
# Logits of `arc` and of transformers differ by less (test_transformers.py): nearer than that, either token may come.
TIE = 1e-2


@pytest.fixture(scope="module")
def folder(decoder: Callable[[str], arc.Decoder], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M as a Hugging Face folder, its weights dequantised to float32."""
    file = Path(decoder("smollm2-135m").path)
    folder = tmp_path_factory.mktemp("smollm2")
    read = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # transformers does not write a model that it has read from a GGUF file: one like it, which is not quantised.
    config = type(read.config).from_dict({**read.config.to_dict(), "quantization_config": None})
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path) -> Any:
    return vllm.LLM(
        model=str(folder), dtype="float32", max_model_len=2048, enable_prompt_embeds=True, enforce_eager=True,
        seed=0,
    )


def agree(decoder: arc.Decoder, prompt: arc.Prompt, theirs: list[int]) -> str:
    """Greedy tokens are those of `arc`, unless two of them are as likely as each other."""
    ours = decoder.generate(prompt, max_tokens=TOKENS).token_ids
    if theirs == ours:
        return f"{len(ours)} of {len(ours)} tokens are equal"
    same = 0
    while same < min(len(ours), len(theirs)) and ours[same] == theirs[same]:
        same += 1
    assert same < min(len(ours), len(theirs)), f"one ends before the other: {ours} {theirs}"
    logits = decoder.logits(prompt.followed_by(ours[:same]))[0]
    margin = float(logits[ours[same]] - logits[theirs[same]])
    assert margin < TIE, f"token {same} is {theirs[same]} in place of {ours[same]}, which is {margin:.3f} likelier"
    return f"{same} of {len(ours)} tokens are equal, then two are likely to within {margin:.4f}"


def prompts(session: arc.Session, decoder: arc.Decoder, text: str) -> Iterator[tuple[str, arc.Prompt]]:
    for factor in [2, 4]:
        latents = session.compress(text[:2000], factor=factor)
        for question in QUESTIONS:
            yield f"factor {factor}, {question}", decoder.prompt(latents, question)
        conversation = [{"role": "user", "content": ["A letter:\n", latents, "\nWho wrote it?"]}]
        yield f"factor {factor}, in a conversation", decoder.chat_prompt(conversation)


def test_greedy_tokens_behind_latents_are_those_of_arc(
    session: arc.Session, decoder: Callable[[str], arc.Decoder], text: str, llm: Any
) -> None:
    from arc_encoder.vllm import embeds_prompt

    ours = decoder("smollm2-135m")
    config = llm.llm_engine.model_config.hf_config
    for what, prompt in prompts(session, ours, text):
        greedy = vllm.SamplingParams(temperature=0.0, max_tokens=TOKENS)
        done = llm.generate(embeds_prompt(prompt, config=config), greedy, use_tqdm=False)
        print(f"{what}: {agree(ours, prompt, list(done[0].outputs[0].token_ids))}")


@pytest.fixture(scope="module")
def server(folder: Path, llm: Any) -> Iterator[str]:
    """Where a server listens. It starts when the model above has done its work: a machine with one CPU will do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "--model", str(folder), "--served-model-name", "smollm2", "--enable-prompt-embeds", "--dtype", "float32",
        "--max-model-len", "2048", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port),
    ]
    log = folder / "server.log"
    with log.open("w") as file:
        program = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words]
        child = subprocess.Popen(program, stdout=file, stderr=subprocess.STDOUT, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 900
            while True:
                assert child.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < until, log.read_text()[-3000:]
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, TimeoutError):
                    time.sleep(2)
            yield address
        finally:
            child.terminate()
            try:
                child.wait(timeout=60)
            except subprocess.TimeoutExpired:
                child.kill()


def posted(address: str, fields: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"model": "smollm2", "temperature": 0, "max_tokens": TOKENS, "return_token_ids": True, **fields})
    request = urllib.request.Request(address, body.encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            answered = json.load(answer)
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error
    assert isinstance(answered, dict)
    return answered


def test_a_server_reads_a_document_in_a_message_and_a_whole_prompt(
    session: arc.Session, decoder: Callable[[str], arc.Decoder], text: str, server: str
) -> None:
    from arc_encoder.vllm import chat_messages, completion_prompt

    ours = decoder("smollm2-135m")
    latents = session.compress(text[:2000], factor=4)
    for question in QUESTIONS:
        prompt = ours.prompt(latents, question)
        answered = posted(f"{server}/v1/completions", completion_prompt(prompt, dtype=torch.float32))
        assert answered["usage"]["prompt_tokens"] == len(prompt)
        print(f"completion, {question}: {agree(ours, prompt, answered['choices'][0]['token_ids'])}")
        messages = [
            {"role": "system", "content": "Answer in one sentence."},
            {"role": "user", "content": ["A letter:\n", latents, f"\n{question}"]},
        ]
        sent = chat_messages(ours, messages, dtype=torch.float32)
        answered = posted(f"{server}/v1/chat/completions", {"messages": sent})
        prompt = ours.chat_prompt(messages)
        assert answered["usage"]["prompt_tokens"] == len(prompt)
        print(f"chat, {question}: {agree(ours, prompt, answered['choices'][0]['token_ids'])}")
