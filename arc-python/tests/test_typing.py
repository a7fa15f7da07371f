"""The types are those of the code, and the examples keep to them."""

from __future__ import annotations

import pydoc
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, needs_models

import arc_encoder as arc

EXAMPLES = ROOT / "examples" / "python"


def run(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_examples_and_the_package_pass_mypy_strict() -> None:
    pytest.importorskip("mypy")
    examples = sorted(str(path) for path in EXAMPLES.glob("*.py"))
    assert len(examples) >= 2
    config = Path(__file__).with_name("mypy.ini")
    run("mypy", "--strict", "--config-file", str(config), *examples)
    run("mypy", "--strict", "--config-file", str(config), "-p", "arc_encoder")


def test_a_wrong_use_is_found(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import arc_encoder as arc\n"
        "session = arc.Session('registry.toml')\n"
        "session.compress(3)\n"
        "answer: str = session.decoder('x').ask(session.compress('t'), 'q', stream=True)\n"
        "session.decoder('x').project('text')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(wrong)], capture_output=True, text=True
    )
    assert "Found 3 errors" in done.stdout, done.stdout


def test_the_stubs_are_those_of_the_native_module() -> None:
    pytest.importorskip("mypy")
    run("mypy.stubtest", "arc_encoder._native", "--mypy-config-file", str(Path(__file__).with_name("mypy.ini")))


@pytest.mark.parametrize("name", arc.__all__)
def test_pydoc_shows_what_there_is(name: str) -> None:
    thing = getattr(arc, name)
    if isinstance(thing, str):
        return
    shown = pydoc.plain(pydoc.render_doc(thing))
    assert (thing.__doc__ or "").split("\n")[0] in shown
    if isinstance(thing, type) and not issubclass(thing, Exception):
        public = [each for each in vars(thing) if not each.startswith("_")]
        for each in public:
            assert getattr(thing, each).__doc__, f"{name}.{each} is not documented"


def test_the_example_runs() -> None:
    needs_models("all three decoders")
    program = str(EXAMPLES / "ask.py")
    done = subprocess.run([sys.executable, program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tokens became" in done.stdout
    assert "qwen2.5-coder-0.5b: " in done.stdout
