"""What the tests share: the repository's registry, its session, and its models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import arc_encoder as arc

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "registry.toml"
DECODERS = ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"]


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


def needs_models(what: str) -> None:
    """Leaves a test out that may not pull its models."""
    if os.environ.get("ARC_OFFLINE", "").strip() not in ("", "0"):
        pytest.skip(f"`ARC_OFFLINE` is set, and this needs {what}")


def command() -> list[str]:
    """The command `arc` of the package that is tested."""
    return [sys.executable, "-m", "arc_encoder", "--precision", "exact", "--registry", str(REGISTRY)]
