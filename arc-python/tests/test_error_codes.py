"""Every kind of error that the command line knows is one of Python's too: the same words, the same code, a hint."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, needs_models

import arc_encoder as arc
from arc_encoder import _native, errors

PACKAGE = f'adapter = "{ROOT}/plugins/arc-mini/smollm2-135m"\n'


def documented() -> set[str]:
    """The codes that docs/command-line.md lists."""
    text = (ROOT / "docs" / "command-line.md").read_text()
    listed = re.search(r"Codes: (.*?)\.\n", text, re.DOTALL)
    assert listed is not None
    return set(re.findall(r"`([a-z-]+)`", listed[1]))


@dataclass
class Place:
    """A folder in which things go wrong, with what is sound beside it."""

    folder: Path
    text: str
    model: bytes
    session: arc.Session
    latents: arc.Latents
    corpus: Callable[[str], Path]
    document: Path = field(init=False)

    def __post_init__(self) -> None:
        self.document = self.folder / "sound.arc.safetensors"
        self.latents.save(self.document)

    def registry(self, decoder: str = "", *, default_encoder: bool = True) -> Path:
        """A registry with `arc-mini`, its backbone, and a decoder `x`."""
        head = f'schema = 1\nplugin_folders = ["{self.folder}"]\n'
        head += 'default_encoder = "arc-mini"\n' if default_encoder else ""
        encoder = f'[encoders.arc-mini]\npackage = "{ROOT}/encoders/arc-mini"\n'
        backbone = f'[decoders.smollm2-135m]\nsource = "{self.source}"\n'
        path = self.folder / "registry.toml"
        path.write_text(head + encoder + backbone + (f"[decoders.x]\n{decoder}" if decoder else ""))
        return path

    def other_registry(self) -> Path:
        """A registry with a decoder `new` that has no adapter."""
        path = self.folder / "other.toml"
        path.write_text('schema = 1\n[decoders.new]\nsource = "file:x.gguf"\n')
        return path

    @property
    def source(self) -> str:
        """The model of SmolLM2-135M."""
        return f"file:{self.session.decoder('smollm2-135m').path}"

    def plugin(self, content: bytes = b"no library") -> str:
        """A decoder with a code plugin, pinned as it is."""
        path = self.folder / "x.so"
        path.write_bytes(content)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return f'source = "file:x.gguf"\nplugin = {{ path = "{path}", sha256 = "{digest}" }}\n'

    def opened(self, decoder: str, **options: bool) -> object:
        return arc.Session(self.registry(decoder), **options).decoder("x")

    def of_model(self, old: bytes, new: bytes) -> str:
        """A decoder whose model has other bytes in one place."""
        assert len(old) == len(new)
        at = self.model.index(old)
        path = self.folder / "x.gguf"
        path.write_bytes(self.model[:at] + new + self.model[at + len(new) :])
        return f'source = "file:{path}"\n{PACKAGE}'

    def latents_of(self, last: float) -> arc.Latents:
        """Sound latents, but for the last value."""
        values = self.latents.values.copy()
        values[-1, -1] = last
        of_values = [hashlib.sha256(each.tobytes()).hexdigest().encode() for each in (self.latents.values, values)]
        file = self.document.read_bytes()
        assert of_values[0] in file
        path = self.folder / "other.arc.safetensors"
        path.write_bytes(file[: -values.nbytes].replace(*of_values) + values.tobytes())
        return arc.Latents.load(path)

    def told(self, *words: object) -> dict[str, str]:
        """What the command line says of the same, with this registry."""
        options = ["--json", "--precision", "exact", "--registry", str(self.folder / "registry.toml")]
        program = [sys.executable, "-m", "arc_encoder", *map(str, words), *options]
        # Where no other registry is.
        done = subprocess.run(program, capture_output=True, text=True, cwd=self.folder)
        assert done.returncode in (1, 2), done
        error = json.loads(done.stdout)["error"]
        assert isinstance(error, dict)
        return error


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, text: str, corpus: Callable[[str], Path]
) -> Iterator[Place]:
    needs_models("smollm2-135m")
    session = arc.Session(ROOT / "registry.toml", precision="exact")
    folder = tmp_path_factory.mktemp("errors")
    model = Path(session.decoder("smollm2-135m").path).read_bytes()
    yield Place(folder, text, model, session, session.compress(text[:400]), corpus)
    shutil.rmtree(folder)


def offline(do: Callable[[], object]) -> object:
    before = os.environ.get("ARC_OFFLINE")
    os.environ["ARC_OFFLINE"] = "1"
    try:
        return do()
    finally:
        del os.environ["ARC_OFFLINE"]
        if before is not None:
            os.environ["ARC_OFFLINE"] = before


def with_short_files(do: Callable[[], object]) -> object:
    """Files may have a kilobyte: to the program it is a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        return do()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def registered(place: Place, name: str = "new", **asked: object) -> object:
    """A registration of a sound model."""
    session = arc.Session(place.registry())
    few = {
        "steps": 400, "batches": 2, "batch": 2, "context_tokens": 32, "target_tokens": 16, "samples": 2,
        "from_scratch": True, "output": place.folder / "new", "corpus": place.folder,
    }
    return session.register(name, model=place.source, **{**few, **asked})  # type: ignore[arg-type]


def with_a_process_that_dies(place: Place) -> object:
    """In place of the interpreter that an isolated plugin, some library, is to run in there is a program that does
    nothing."""
    library = Path(_native.__file__).read_bytes()
    interpreter = sys.executable
    sys.executable = shutil.which("false") or "false"
    try:
        return place.opened(place.plugin(library), allow_plugins=True, isolate_plugins=True)
    finally:
        sys.executable = interpreter


def without_template(place: Place) -> object:
    """A base model in a conversation: its file is renamed to one whose template has another key."""
    session = arc.Session(place.registry(place.of_model(b"tokenizer.chat_template", b"tokenizer.chat_templatx")))
    return session.decoder("x").chat_prompt([{"role": "user", "content": "Why?"}])


# By code: what raises it, as which class, and the words with which the command line comes to the same, where it does.
ASK = ("ask", "--decoder", "x", "--max-tokens", "2", "--document")
Recipe = tuple[Callable[[Place], object], type[arc.ArcError], Callable[[Place], tuple[object, ...]] | None]


def asked(place: Place) -> tuple[object, ...]:
    return (*ASK, place.document, "Why?")


RAISED: dict[str, Recipe] = {
    "usage": (lambda place: place.session.compress("text", factor=0), errors.UsageError, None),
    "occupied": (lambda place: registered(place, output=place.folder), errors.UsageError, None),
    "unknown-name": (
        lambda place: arc.Session(place.registry()).decoder("x"), errors.NotFoundError, asked,
    ),
    "name-taken": (
        # In another file than the one that the session has read.
        lambda place: registered(place, registry=place.other_registry()), errors.UsageError, None,
    ),
    "no-encoder": (
        lambda place: arc.Session(place.registry(default_encoder=False)).compress("text"), errors.AdapterError, None,
    ),
    "no-adapter": (lambda place: place.opened('source = "file:x.gguf"\n'), errors.AdapterError, asked),
    "not-imported": (lambda place: place.session.decoder("llama-3.1-8b"), errors.AdapterError, None),
    "pin": (
        lambda place: place.opened(f'source = "file:x.gguf"\n{PACKAGE}adapter_sha256 = "{"0" * 64}"\n'),
        errors.MismatchError, asked,
    ),
    "plugin": (with_a_process_that_dies, errors.AdapterError, None),
    "plugin-not-allowed": (
        lambda place: place.opened(place.plugin()), errors.AdapterError, asked,
    ),
    "adapter": (
        lambda place: place.opened(place.plugin(), allow_plugins=True), errors.AdapterError,
        lambda place: ("--allow-plugins", *asked(place)),
    ),
    "document": (lambda place: place.session.compress(""), errors.DocumentError, None),
    "io": (
        lambda place: arc.Latents.load(place.folder / "nowhere.arc.safetensors"), errors.FileError, None,
    ),
    "disk-full": (
        lambda place: with_short_files(lambda: place.latents.save(place.folder / "full.arc.safetensors")),
        errors.FileError, None,
    ),
    "invalid-file": (
        lambda place: place.opened(place.of_model(b"GGUF", b"GGUX")), errors.InvalidFileError, asked,
    ),
    "invalid-config": (
        lambda place: place.opened(place.of_model(b"llama.block_count", b"llama.block_coint")),
        errors.InvalidFileError, asked,
    ),
    "tensor": (
        lambda place: place.opened(place.of_model(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight")),
        errors.InvalidFileError, asked,
    ),
    "unsupported": (
        lambda place: place.opened(
            place.of_model(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0lamma")
        ),
        errors.InvalidFileError, asked,
    ),
    "tokenizer": (
        lambda place: place.opened(place.of_model(b"\4\0\0\0\0\0\0\0gpt2", b"\4\0\0\0\0\0\0\0gpt9")),
        errors.InvalidFileError, asked,
    ),
    "template": (without_template, errors.InvalidFileError, None),
    "device": (
        lambda place: arc.Session(place.registry(), device="cuda"), errors.DeviceError,
        lambda place: ("--device", "cuda", *asked(place)),
    ),
    "window-exceeded": (
        lambda place: place.session.decoder("smollm2-135m").ask(place.latents, "Why?", max_tokens=10_000),
        errors.WindowExceededError, None,
    ),
    "checksum": (
        lambda place: place.opened(
            f'source = "{place.source}"\nsha256 = "{"0" * 64}"\n{PACKAGE}'
        ),
        errors.PullError, asked,
    ),
    "pull": (
        lambda place: offline(lambda: place.opened(f'source = "pip:nothing==1#x.gguf"\n{PACKAGE}')),
        errors.PullError, None,
    ),
    "mismatch": (
        lambda place: registered(place, corpus=place.corpus("gemma3-270m")), errors.MismatchError, None,
    ),
    "not-finite": (
        lambda place: place.latents_of(1e30).save(place.folder / "half.arc.safetensors", dtype="f16"),
        errors.NotFiniteError, None,
    ),
    "failed": (
        lambda place: registered(place, corpus=place.corpus("smollm2-135m"), rate=1e8), errors.TrainingError, None,
    ),
}

# What no call of the package comes to. `interrupted` is KeyboardInterrupt: test_interrupts.py.
OF_COMMANDS_ALONE = {
    "not-found": "tasks, and files of the cache, by name",
    "data-row": "questions in JSONL",
    "interrupted": "KeyboardInterrupt",
}


def test_every_code_of_the_command_line_is_here() -> None:
    assert set(RAISED).isdisjoint(OF_COMMANDS_ALONE)
    assert set(RAISED) | set(OF_COMMANDS_ALONE) == documented()


@pytest.mark.parametrize("code", RAISED)
def test_an_error_is_explained_as_the_command_line_does(place: Place, code: str) -> None:
    provoke, kind, words = RAISED[code]
    with pytest.raises(arc.ArcError) as raised:
        provoke(place)
    error = raised.value
    print(f"{type(error).__name__}: {error}")
    assert type(error) is kind
    assert error.code == code
    assert error.message
    assert "\n" not in error.message
    assert error.hint
    assert str(error) == f"{error.message}\n\nhint: {error.hint}"
    # Options of a command line help nobody here.
    assert "`--" not in error.hint.replace("`scripts/wheel build --", "")
    if words is not None:
        said = place.told(*words(place))
        assert (said["code"], said["message"]) == (error.code, error.message)
        assert said["hint"]
