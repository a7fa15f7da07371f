"""Latents: what they are, and what becomes of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import DECODERS, REGISTRY, ROOT, command

import arc_encoder as arc


def safetensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a file, read as its specification says."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, of in header.items():
        start, end = (8 + length + offset for offset in of["data_offsets"])
        kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[of["dtype"]]
        values = np.frombuffer(data[start:end], dtype=kind).reshape(of["shape"])
        if of["dtype"] == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        found[name] = values.astype(np.float32)
    return found


def test_latents_are_rows_of_float32_with_an_identity(latents: arc.Latents, text: str) -> None:
    n, width = latents.shape
    assert latents.values.shape == (n, width) == (len(latents), 576)
    assert latents.values.dtype == np.float32
    assert n == -(-latents.source_tokens // latents.factor) == sum(latents.chunk_lengths)
    assert latents.text_sha256 == hashlib.sha256(text[:2000].encode()).hexdigest()
    assert len(latents.encoder_id) == 64
    assert np.isfinite(latents.values).all()


def test_latents_never_change(latents: arc.Latents) -> None:
    assert latents.values is latents.values
    with pytest.raises(ValueError, match="read-only"):
        latents.values[0, 0] = 1.0
    copy = np.array(latents)
    copy[0, 0] += 1.0
    assert copy[0, 0] != latents.values[0, 0]
    assert np.asarray(latents, dtype=np.float64).dtype == np.float64


def test_a_larger_factor_makes_fewer_latents(session: arc.Session, latents: arc.Latents, text: str) -> None:
    fewer = session.compress(text[:2000], factor=8)
    assert fewer.factor == 8
    assert len(fewer) == -(-latents.source_tokens // 8)


def test_the_command_line_makes_the_same_latents(latents: arc.Latents, text: str, tmp_path: Path) -> None:
    document, out = tmp_path / "text.txt", tmp_path / "text.arc.safetensors"
    document.write_text(text[:2000])
    subprocess.run([*command(), "compress", document, "-o", out], check=True, capture_output=True)
    loaded = arc.Latents.load(out)
    assert loaded.encoder_id == latents.encoder_id
    assert loaded.text_sha256 == latents.text_sha256
    np.testing.assert_array_equal(loaded.values, latents.values)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f32", 0.0), ("f16", 1e-3), ("q8", 2e-2)])
def test_files_hold_what_was_saved(
    latents: arc.Latents, tmp_path: Path, dtype: str, tolerance: float
) -> None:
    path = tmp_path / "x.arc.safetensors"
    latents.save(path, dtype=dtype)  # type: ignore[arg-type]
    loaded = arc.Latents.load(path)
    largest = float(np.abs(latents.values).max())
    np.testing.assert_allclose(loaded.values, latents.values, rtol=0, atol=tolerance * largest)
    for name in ["encoder_id", "text_sha256", "source_tokens", "factor", "chunk_lengths"]:
        assert getattr(loaded, name) == getattr(latents, name), name
    # Of a file nobody knows the text.
    assert loaded.texts() is None


def test_each_latent_has_the_text_that_it_stands_for(session: arc.Session, latents: arc.Latents, text: str) -> None:
    texts = latents.texts()
    assert texts is not None
    assert len(texts) == len(latents)
    assert "".join(texts) == text[:2000]
    # Characters of several tokens are whole in one of them.
    words = "naïve 東京 👩‍👧 " * 9
    texts = session.compress(words, factor=2).texts()
    assert texts is not None
    assert "".join(texts) == words


@pytest.mark.parametrize("name", DECODERS)
def test_rows_are_what_the_adapters_matrices_make_of_latents(
    session: arc.Session, decoder: Callable[[str], arc.Decoder], latents: arc.Latents, name: str
) -> None:
    """In numpy, from the adapter's file: a norm, two matrices, and the vector for "read on" after the latents."""
    adapter = next(entry.adapter for entry in session.decoders() if entry.name == name)
    assert adapter is not None
    weights = safetensors(Path(adapter) / "adapter.safetensors")
    x = np.concatenate([latents.values, weights["tokens.cont"].reshape(1, -1)]).astype(np.float64)
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-6) * weights["projector.0.weight"]
    expected = x @ weights["projector.1.weight"].T @ weights["projector.2.weight"].T
    rows = decoder(name).project(latents)
    assert rows.dtype == np.float32
    assert rows.shape == (len(latents) + 1, decoder(name).width)
    np.testing.assert_allclose(rows, expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))
    assert decoder(name).project(latents, special="none").shape[0] == len(latents)
    # The array is the caller's own.
    rows[0, 0] += 1
    assert decoder(name).project(latents)[0, 0] != rows[0, 0]


def test_many_texts_are_compressed_as_one_by_one(session: arc.Session, latents: arc.Latents, text: str) -> None:
    texts = [text[start : start + 300] for start in range(0, 3000, 300)]
    told: list[tuple[int, int]] = []
    many = session.compress_many(texts, progress=lambda done, of: told.append((done, of)))
    assert told == [(index + 1, 10) for index in range(10)]
    for one, of_many in zip(texts, many, strict=True):
        alone = session.compress(one)
        assert of_many.text_sha256 == alone.text_sha256
        np.testing.assert_array_equal(of_many.values, alone.values)
    assert session.compress_many([]) == []


def test_progress_is_told_in_tokens(session: arc.Session, latents: arc.Latents, text: str) -> None:
    told: list[tuple[int, int]] = []
    long = session.compress(text * 2, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (long.source_tokens, long.source_tokens)
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert len(told) == len(long.chunk_lengths) > 1


def test_what_a_callback_raises_ends_the_call(session: arc.Session, latents: arc.Latents, text: str) -> None:
    def refuse(done: int, of: int) -> None:
        raise RuntimeError(f"enough after {done}")

    with pytest.raises(RuntimeError, match="enough"):
        session.compress(text * 4, progress=refuse)
    with pytest.raises(RuntimeError, match="enough after 1"):
        session.compress_many([text[:200]] * 50, progress=refuse)


def test_the_registry_lists_its_decoders(session: arc.Session) -> None:
    entries = {entry.name: entry for entry in session.decoders()}
    assert set(DECODERS) <= set(entries)
    smollm2 = entries["smollm2-135m"]
    assert smollm2.aliases == ["smollm2"]
    assert smollm2.encoder == "arc-mini"
    assert Path(smollm2.adapter or "") == ROOT / "plugins/arc-mini/smollm2-135m"
    assert "arc-mini" in session.encoders


def test_adapters_are_verified(session: arc.Session, latents: arc.Latents) -> None:
    checks = session.verify("smollm2-135m")
    assert len(checks) > 5
    assert {check.outcome for check in checks} == {"passed"}
    assert any("embedding table" in check.what for check in checks)


def test_a_cache_of_compressed_texts_is_shared_with_the_command_line(
    latents: arc.Latents, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = arc.Session(REGISTRY, precision="exact", cache=tmp_path / "documents")
    first = cached.compress(text[:2000])
    files = list((tmp_path / "documents").rglob("*.arc.safetensors"))
    assert len(files) == 1
    np.testing.assert_array_equal(arc.Latents.load(files[0]).values, latents.values)
    told: list[tuple[int, int]] = []
    again = cached.compress(text[:2000], factor=4, progress=lambda done, of: told.append((done, of)))
    np.testing.assert_array_equal(first.values, again.values)
    assert told == [(latents.source_tokens, latents.source_tokens)]
    assert again.texts() == latents.texts()
    # The file has the name that the command line would look for.
    key = files[0].relative_to(tmp_path / "documents")
    document = tmp_path / "text.txt"
    document.write_text(text[:2000])
    home = Path(os.environ.get("ARC_HOME", Path.home() / ".cache/arc-encoder")) / "documents" / key
    subprocess.run(
        [*command(), "ask", "--max-tokens", "1", "--decoder", "smollm2-135m", document, "Why?"],
        check=True, capture_output=True,
    )
    assert home.exists()
