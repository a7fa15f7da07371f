"""What the tests share: the repository's registry, its session, and its models."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import arc_encoder as arc

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "registry.toml"
DECODERS = ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"]

# What a shell runs in the background ignores Ctrl-C, and so would every program that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def text() -> str:
    return (ROOT / "examples" / "washington-1790.txt").read_text()


@pytest.fixture(scope="session")
def session() -> arc.Session:
    return arc.Session(REGISTRY, precision="exact")


@pytest.fixture(scope="session")
def latents(session: arc.Session, text: str) -> arc.Latents:
    needs_models("smollm2-135m, the backbone of the encoder")
    return session.compress(text[:2000])


@pytest.fixture(scope="session")
def decoder(session: arc.Session) -> Callable[[str], arc.Decoder]:
    def of_name(name: str) -> arc.Decoder:
        needs_models(name)
        return session.decoder(name)

    return of_name


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The texts that are here as a corpus, in the tokens of a model."""

    @functools.cache
    def of_tokenizer(name: str) -> Path:
        needs_models(name)
        folder = tmp_path_factory.mktemp("corpus")
        lines = []
        for file in ["tests/golden/lincoln-1862.txt", "tests/golden/mckinley-1897.txt", "examples/washington-1790.txt"]:
            text = (ROOT / file).read_text()
            lines += [json.dumps({"text": text[start : start + 1500]}) for start in range(0, len(text), 1500)]
        (folder / "texts.jsonl").write_text("\n".join(lines))
        words = ["--source", str(folder / "texts.jsonl=CC0-1.0"), "--out", str(folder / "corpus")]
        prepare = [*command(), "data", "prepare", "--tokenizer", name, "--held-out", "0.1", *words]
        subprocess.run(prepare, check=True, capture_output=True)
        return folder / "corpus"

    return of_tokenizer


def needs_models(what: str) -> None:
    """Leaves a test out that may not pull its models."""
    if os.environ.get("ARC_OFFLINE", "").strip() not in ("", "0"):
        pytest.skip(f"`ARC_OFFLINE` is set, and this needs {what}")


def command() -> list[str]:
    """The command `arc` of the package that is tested."""
    return [sys.executable, "-m", "arc_encoder", "--precision", "exact", "--registry", str(REGISTRY)]
