"""What the documentation shows is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, needs_models

GUIDE = ROOT / "docs" / "python.md"


def blocks(file: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", file.read_text(), re.DOTALL)


def run(program: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_runs_as_it_stands() -> None:
    needs_models("smollm2-135m")
    programs = blocks(GUIDE, "python")
    assert len(programs) >= 2
    alone = [program for program in programs if "transformers" not in program]
    print(run("\n".join(alone), ROOT))


def test_the_guide_to_transformers_runs_as_it_stands() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    needs_models("smollm2-135m")
    programs = blocks(GUIDE, "python")
    assert any("transformers" in program for program in programs)
    print(run("\n".join(programs), ROOT))


def test_the_guide_shows_an_error_as_it_is() -> None:
    shown = next(block for block in blocks(GUIDE, "text") if block.startswith("arc_encoder.errors"))
    program = "import arc_encoder as arc\narc.Session('registry.toml').decoder('smollm3')"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(shown)


def test_the_first_page_runs_as_it_stands(tmp_path: Path, text: str) -> None:
    needs_models("smollm2-135m")
    for name in ["registry.toml", "encoders", "plugins"]:
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "letter.txt").write_text(text[:2000])
    programs = blocks(ROOT / "arc-python" / "README.md", "python")
    assert programs
    print(run("\n".join(programs), tmp_path))
