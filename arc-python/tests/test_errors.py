"""What goes wrong is explained as the command line explains it."""

from __future__ import annotations

import errno
import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REGISTRY, ROOT, command

import arc_encoder as arc
from arc_encoder import errors


def told(*words: object) -> dict[str, str]:
    """What the command line says of the same."""
    done = subprocess.run([*command(), *map(str, words), "--json"], capture_output=True, text=True)
    assert done.returncode in (1, 2), done
    error = json.loads(done.stdout)["error"]
    assert isinstance(error, dict)
    return error


def same(raised: arc.ArcError, said: dict[str, str]) -> None:
    assert raised.message == said["message"]
    assert raised.code == said["code"]
    assert raised.hint
    assert str(raised) == f"{raised.message}\n\nhint: {raised.hint}"


def test_a_name_that_nothing_has(session: arc.Session) -> None:
    with pytest.raises(errors.NotFoundError) as raised:
        session.decoder("smollm3")
    assert isinstance(raised.value, LookupError)
    same(raised.value, told("ask", "--decoder", "smollm3", "--document", REGISTRY, "Why?"))


def test_an_empty_text(session: arc.Session, latents: arc.Latents, tmp_path: Path) -> None:
    with pytest.raises(errors.DocumentError) as raised:
        session.compress("")
    assert raised.value.code == "document"
    assert isinstance(raised.value, ValueError)
    assert raised.value.hint == "give a text with at least one character"


def test_a_factor_of_0(session: arc.Session, latents: arc.Latents) -> None:
    with pytest.raises(errors.UsageError, match="the pooling factor is `0`, expected 1 or more") as raised:
        session.compress("text", factor=0)
    assert raised.value.code == "usage"


def test_latents_of_another_encoder(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, tmp_path: Path
) -> None:
    path = tmp_path / "other.arc.safetensors"
    latents.save(path)
    data = path.read_bytes()
    other = data.replace(latents.encoder_id.encode(), latents.encoder_id[::-1].encode())
    assert other != data
    path.write_bytes(other)
    foreign = arc.Latents.load(path)
    with pytest.raises(errors.MismatchError) as raised:
        decoder("smollm2-135m").project(foreign)
    same(raised.value, told("ask", "--decoder", "smollm2-135m", "--document", path, "Why?"))


def test_files_that_are_not_there_or_damaged(latents: arc.Latents, tmp_path: Path) -> None:
    path = tmp_path / "x.arc.safetensors"
    with pytest.raises(errors.FileError) as raised:
        arc.Latents.load(path)
    error = raised.value
    assert isinstance(error, OSError)
    assert error.errno == errno.ENOENT
    assert error.filename == str(path)
    assert error.code == "io"
    assert str(path) in error.message
    latents.save(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(errors.InvalidFileError) as cut:
        arc.Latents.load(path)
    same(cut.value, told("ask", "--decoder", "smollm2-135m", "--document", path, "Why?"))
    path.write_text("no latents")
    with pytest.raises(errors.InvalidFileError) as other:
        arc.Latents.load(path)
    same(other.value, told("ask", "--decoder", "smollm2-135m", "--document", path, "Why?"))


def test_a_prompt_that_does_not_fit(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    smollm2 = decoder("smollm2-135m")
    with pytest.raises(errors.WindowExceededError, match="window of 8192") as raised:
        smollm2.ask(latents, "Why?", max_tokens=10_000)
    assert raised.value.code == "window-exceeded"


def test_a_registry_that_is_not_there_or_none(tmp_path: Path) -> None:
    with pytest.raises(errors.FileError) as missing:
        arc.Session(tmp_path / "registry.toml")
    assert missing.value.code == "io"
    assert missing.value.hint
    path = tmp_path / "bad.toml"
    path.write_text("schema = 1\n[decoders.x]\nnonsense = 3\n")
    with pytest.raises(errors.InvalidFileError) as bad:
        arc.Session(path)
    listed = subprocess.run(
        [*command()[:5], "--registry", str(path), "adapters", "list", "--json"], capture_output=True, text=True
    )
    same(bad.value, json.loads(listed.stdout)["error"])


def test_devices_and_precisions_that_there_are_not() -> None:
    with pytest.raises(errors.DeviceError) as unknown:
        arc.Session(REGISTRY, device="gpu")
    assert "`cuda`" in (unknown.value.hint or "")
    with pytest.raises(errors.DeviceError) as not_built:
        arc.Session(REGISTRY, device="cuda")
    assert not_built.value.code == "device"
    with pytest.raises(errors.UsageError, match="`exact` or `fast`"):
        arc.Session(REGISTRY, precision="faster")
    assert any(name == "cpu" for name, _ in arc.devices())


def test_a_decoder_without_an_adapter(tmp_path: Path) -> None:
    path = tmp_path / "registry.toml"
    path.write_text(
        f'schema = 1\ndefault_encoder = "arc-mini"\n[encoders.arc-mini]\npackage = "{ROOT}/encoders/arc-mini"\n'
        '[decoders.x]\nsource = "file:/nowhere/x.gguf"\n'
    )
    with pytest.raises(errors.AdapterError) as raised:
        arc.Session(path).decoder("x")
    assert raised.value.code == "no-adapter"
    assert "register" in (raised.value.hint or "")


def test_sampling_that_makes_no_sense(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    smollm2 = decoder("smollm2-135m")
    with pytest.raises(errors.UsageError, match="temperature"):
        smollm2.ask(latents, "Why?", temperature=-1.0)
    with pytest.raises(errors.UsageError, match="`model` or `line`"):
        smollm2.ask(latents, "Why?", answer_ends="page")  # type: ignore[call-overload]
    with pytest.raises(errors.UsageError, match="less than the vocabulary"):
        smollm2.embed([10**6])


def test_arguments_of_other_types_are_type_errors(
    session: arc.Session, decoder: Callable[[str], arc.Decoder], latents: arc.Latents
) -> None:
    smollm2 = decoder("smollm2-135m")
    with pytest.raises(TypeError, match="compress a text"):
        smollm2.ask("a text", "Why?")  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        session.compress(b"bytes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="several texts"):
        session.compress_many("one")
    with pytest.raises(KeyError, match="content"):
        smollm2.chat_prompt([{"role": "user"}])
    with pytest.raises(ValueError, match="of type `image`"):
        smollm2.chat_prompt([{"role": "user", "content": [{"type": "image"}]}])
    other = decoder("gemma3-270m").prompt(latents, "Why?")
    with pytest.raises(TypeError, match="make one with this decoder"):
        smollm2.generate(other)


def test_a_base_model_has_no_chat_template(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    gemma = decoder("gemma3-270m")
    if gemma.has_chat_template:
        pytest.skip("the file has one")
    with pytest.raises(errors.InvalidFileError) as raised:
        gemma.chat_prompt([{"role": "user", "content": [latents, "Why?"]}])
    assert raised.value.code == "template"


def test_exceptions_are_one_tree_and_can_be_pickled() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    for kind in kinds:
        assert issubclass(kind, arc.ArcError)
        error = kind("a `b` is wrong", "right it", "code")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is kind
        assert (again.message, again.hint, again.code) == ("a `b` is wrong", "right it", "code")
        assert str(again) == "a `b` is wrong\n\nhint: right it"
    error = errors.FileError("m", "h", "io", errno.EACCES, "/x")
    again = pickle.loads(pickle.dumps(error))
    assert (again.errno, again.filename) == (errno.EACCES, "/x")
