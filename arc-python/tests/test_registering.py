"""An adapter that is trained from Python, for a model that the registry did not have."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

import arc_encoder as arc
from arc_encoder import errors

# Of a real model, and over in a minute. Two tokens a latent: the texts are few, and the regression that training
# starts from needs a latent for each dimension.
QUICK: dict[str, Any] = {
    "steps": 6, "batches": 3, "batch": 2, "context_tokens": 32, "target_tokens": 16, "factors": [2],
    "fit_latents": 1, "samples": 4,
}


@pytest.fixture
def registry(tmp_path: Path, corpus: Callable[[str], Path]) -> Path:
    """A registry of its own, with a corpus beside it."""
    for name in ["encoders", "plugins"]:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "corpus").symlink_to(corpus("smollm2-135m"))
    return Path(shutil.copy(ROOT / "registry.toml", tmp_path))


def model_of(session: arc.Session) -> str:
    return f"file:{session.decoder('smollm2-135m').path}"


def test_a_decoder_is_registered_and_asked(registry: Path, text: str) -> None:
    session = arc.Session(registry)
    told: list[tuple[int, int, float]] = []
    made = session.register(
        "mine", registry.parent / "corpus", model=model_of(session), output=registry.parent / "mine",
        progress=lambda *step: told.append(step), **QUICK,
    )
    assert [(done, steps) for done, steps, _ in told] == [(step, 6) for step in range(1, 7)]
    assert all(0.0 < loss < 20.0 for _, _, loss in told)
    assert (made.decoder, made.steps, made.registry) == ("mine", 6, registry)
    assert sorted(file.name for file in made.adapter.iterdir()) == ["adapter.json", "adapter.safetensors"]
    assert len(made.decoder_sha256) == len(made.encoder_sha256) == 64
    assert made.seconds > 0.0
    for loss in [made.loss_before, made.loss_after]:
        assert loss is not None
        assert 0.0 < loss < 20.0
    assert made.recovered is not None
    assert repr(made) == f"Registration('mine', 6 steps, {registry.parent / 'mine'})"
    # The session sees it, as does one that is opened now, and both read latents through it.
    latents = session.compress(text[:600])
    answers = []
    for each in [session, arc.Session(registry)]:
        entry = next(entry for entry in each.decoders() if entry.name == "mine")
        assert (entry.adapter_kind, entry.adapter) == ("package", registry.parent / "mine")
        decoder = each.decoder("mine")
        # Its file is known to be what is pinned once it was opened.
        assert {check.outcome for check in each.verify("mine")} == {"passed"}
        assert (decoder.adapter, decoder.encoder_id) == ("mine", latents.encoder_id)
        assert decoder.project(latents).shape == (len(latents) + 1, decoder.width)
        answers.append(decoder.ask(latents, "Who speaks?", max_tokens=8).token_ids)
    assert answers[0]
    assert answers[0] == answers[1]
    # The name is taken now.
    with pytest.raises(errors.UsageError, match="the registry has a decoder `mine` already"):
        session.register("mine", registry.parent / "corpus", model=model_of(session), **QUICK)
    with pytest.raises(errors.UsageError) as taken:
        session.register("mine", registry.parent / "corpus", **QUICK)
    assert taken.value.code == "occupied"
    assert "replace=True" in (taken.value.hint or "")


def test_what_raises_in_progress_ends_it_and_names_nothing(registry: Path) -> None:
    session = arc.Session(registry)
    before = registry.read_text()

    def progress(done: int, _steps: int, _loss: float) -> None:
        if done == 2:
            raise RuntimeError("enough")

    output = registry.parent / "stopped"
    with pytest.raises(RuntimeError, match="enough"):
        session.register(
            "stopped", registry.parent / "corpus", model=model_of(session), output=output, progress=progress,
            **{**QUICK, "steps": 500},
        )
    assert registry.read_text() == before
    # Nothing is written when it has come to its end either, which the next waits for.
    made = session.register(
        "next", registry.parent / "corpus", model=model_of(session), output=registry.parent / "next",
        from_scratch=True, **{**QUICK, "steps": 1},
    )
    assert made.steps == 1
    assert not output.exists()
    assert "stopped" not in registry.read_text()


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], type[arc.ArcError], str]] = {
    "no steps": (lambda asked: asked.update(steps=0), errors.UsageError, "usage"),
    "no corpus": (lambda asked: asked.update(corpus="nowhere"), errors.MismatchError, "mismatch"),
    "a template without a document": (
        lambda asked: asked.update(template="{{ question }}"), errors.InvalidFileError, "template",
    ),
    "no name": (lambda asked: asked.update(name="a b"), errors.UsageError, "adapter"),
    "no model": (lambda asked: asked.pop("model"), errors.NotFoundError, "unknown-name"),
    "a model that is not there": (lambda asked: asked.update(model="file:nowhere.gguf"), errors.FileError, "io"),
    "a source of no kind": (lambda asked: asked.update(model="nowhere.gguf"), errors.UsageError, "adapter"),
    "a file as the folder": (lambda asked: asked.update(output=__file__), errors.ArcError, "occupied"),
    "an encoder that there is not": (
        lambda asked: asked.update(encoder="arc-maxi"), errors.NotFoundError, "unknown-name",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_no_sense_is_refused_before_anything_is_trained(registry: Path, change: str) -> None:
    session = arc.Session(registry)
    before = registry.read_text()
    asked: dict[str, Any] = {
        **QUICK, "name": "other", "corpus": registry.parent / "corpus", "model": model_of(session),
        "output": registry.parent / "other",
    }
    do, kind, code = CHANGES[change]
    do(asked)
    begun = time.monotonic()
    with pytest.raises(kind) as raised:
        session.register(**asked)
    assert raised.value.code == code, raised.value
    assert raised.value.hint
    assert time.monotonic() - begun < 20
    assert registry.read_text() == before
    assert not (registry.parent / "other").exists()


PROGRAM = """
import sys, time
import arc_encoder as arc

session = arc.Session("registry.toml")
path = session.decoder("smollm2-135m").path
try:
    session.register(
        "interrupted", "corpus", model=f"file:{path}", output="interrupted", progress=lambda *step: print(*step, flush=True),
        **{asked},
    )
except KeyboardInterrupt:
    print("interrupted", time.time(), flush=True)
else:
    sys.exit(3)
"""


def test_ctrl_c_ends_it_within_a_second_and_nothing_is_named(registry: Path) -> None:
    before = registry.read_text()
    program = PROGRAM.replace("{asked}", repr({**QUICK, "steps": 100_000}))
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=registry.parent
    )
    assert child.stdout is not None
    assert child.stdout.readline().startswith("1 100000 ")
    assert child.stdout.readline().startswith("2 100000 ")
    sent = time.time()
    child.send_signal(signal.SIGINT)
    said = next(line for line in child.stdout if line.startswith("interrupted"))
    took = float(said.split()[1]) - sent
    assert took < 1.0, f"it took {took:.2f} s"
    child.stdout.close()
    assert child.wait(timeout=60) == 0
    assert registry.read_text() == before
    assert not (registry.parent / "interrupted").exists()
