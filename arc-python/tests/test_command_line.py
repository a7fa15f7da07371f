"""The command `arc`, which is in the package."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from conftest import ROOT, command, needs_models

import arc_encoder as arc


def test_the_program_is_installed_and_says_its_version() -> None:
    program = shutil.which("arc", path=sysconfig.get_path("scripts"))
    assert program is not None
    for words in [[program], [sys.executable, "-m", "arc_encoder"]]:
        said = subprocess.run([*words, "--version"], check=True, capture_output=True, text=True)
        assert said.stdout.startswith(f"arc {arc.__version__}\n")


def test_it_lists_what_the_session_lists(session: arc.Session) -> None:
    listed = subprocess.run([*command(), "adapters", "list", "--json"], check=True, capture_output=True)
    decoders = json.loads(listed.stdout)["decoders"]
    assert [entry["name"] for entry in decoders] == [entry.name for entry in session.decoders()]


def test_mistakes_have_the_codes_and_hints_of_the_program() -> None:
    said = subprocess.run([*command(), "ask", "--nonsense"], capture_output=True, text=True)
    assert said.returncode == 2
    assert said.stderr.startswith("error: ")
    assert "hint: " in said.stderr


def test_ctrl_c_ends_it_as_it_ends_the_program(tmp_path: Path) -> None:
    needs_models("smollm2-135m")
    text = (ROOT / "examples" / "washington-1790.txt").read_text() * 100
    document = tmp_path / "long.txt"
    document.write_text(text)
    words = [*command(), "compress", str(document), "-o", str(tmp_path / "x.arc.safetensors")]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(3)
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    begun = time.monotonic()
    code = child.wait(timeout=30)
    # The first is noted and acted on after the chunk; as a shell counts it, or by the signal itself.
    assert code in (130, -signal.SIGINT)
    assert time.monotonic() - begun < 10
    assert not (tmp_path / "x.arc.safetensors").exists()
