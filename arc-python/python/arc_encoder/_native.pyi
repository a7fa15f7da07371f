# What src/*.rs has, typed. `stubtest` compares the two.

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, final, overload

import numpy as np
import numpy.typing as npt

from arc_encoder._messages import Message

_Rows: TypeAlias = npt.NDArray[np.float32]
_Path: TypeAlias = str | os.PathLike[str]
_Progress: TypeAlias = Callable[[int, int], object]
_Documents: TypeAlias = Latents | Iterable[Latents]
_AnswerEnd: TypeAlias = Literal["line", "model"]

__all__ = [
    "Answer",
    "AnswerStream",
    "Check",
    "Decoder",
    "DecoderEntry",
    "Latents",
    "Prompt",
    "Registration",
    "Session",
    "__version__",
    "command_line",
    "devices",
]

__version__: str

def devices() -> list[tuple[str, str]]: ...
def command_line(words: Sequence[str], program: Sequence[str]) -> int: ...
@final
class Session:
    def __new__(
        cls,
        registry: _Path | Sequence[_Path] | None = None,
        *,
        device: str = "cpu",
        precision: str = "fast",
        allow_plugins: bool = False,
        isolate_plugins: bool = False,
        force: bool = False,
        memory_budget: int | None = None,
        cache: bool | _Path | None = None,
    ) -> Session: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> Literal["exact", "fast"]: ...
    @property
    def registry(self) -> list[Path]: ...
    @property
    def encoders(self) -> list[str]: ...
    def compress(
        self,
        text: str,
        *,
        factor: int | None = None,
        encoder: str | None = None,
        progress: _Progress | None = None,
    ) -> Latents: ...
    def compress_many(
        self,
        texts: Iterable[str],
        *,
        factor: int | None = None,
        encoder: str | None = None,
        threads: int | None = None,
        progress: _Progress | None = None,
    ) -> list[Latents]: ...
    def decoder(self, name: str, *, encoder: str | None = None) -> Decoder: ...
    def decoders(self) -> list[DecoderEntry]: ...
    def verify(self, name: str) -> list[Check]: ...
    def register(
        self,
        name: str,
        corpus: _Path,
        *,
        encoder: str | None = None,
        model: str | Sequence[str] | None = None,
        output: _Path | None = None,
        registry: _Path | None = None,
        replace: bool = False,
        steps: int = 400,
        batches: int = 400,
        batch: int = 8,
        context_tokens: int = 64,
        target_tokens: int = 64,
        factors: Sequence[int] | None = None,
        reconstruction: float = 0.2,
        rate: float = 3e-4,
        fit_latents: int = 16,
        samples: int = 64,
        seed: int = 0,
        from_scratch: bool = False,
        template: str | None = None,
        progress: Callable[[int, int, float], object] | None = None,
    ) -> Registration: ...
    def reload(self) -> dict[str, list[str]]: ...
    def loaded(self) -> list[tuple[str, str, int]]: ...
    def _repr_html_(self) -> str: ...

@final
class Latents:
    @staticmethod
    def load(path: _Path) -> Latents: ...
    def save(self, path: _Path, *, dtype: Literal["f32", "f16", "q8"] = "f32") -> None: ...
    @property
    def values(self) -> _Rows: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]: ...
    def __dlpack__(self, **arguments: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def encoder_id(self) -> str: ...
    @property
    def factor(self) -> int: ...
    @property
    def chunk_lengths(self) -> list[int]: ...
    @property
    def source_tokens(self) -> int: ...
    @property
    def text_sha256(self) -> str: ...
    def texts(self) -> list[str] | None: ...
    def __len__(self) -> int: ...
    def _repr_html_(self) -> str: ...

@final
class Decoder:
    @property
    def name(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def path(self) -> Path: ...
    @property
    def adapter(self) -> str: ...
    @property
    def encoder_id(self) -> str: ...
    @property
    def has_chat_template(self) -> bool: ...
    def project(self, latents: Latents, *, special: Literal["usual", "rec", "none"] = "usual") -> _Rows: ...
    def embed(self, token_ids: Sequence[int]) -> _Rows: ...
    def tokenise(self, text: str, *, special: bool = False) -> list[int]: ...
    def detokenise(self, token_ids: Sequence[int], *, special: bool = False) -> str: ...
    def prompt(self, documents: _Documents, question: str) -> Prompt: ...
    def chat_prompt(self, messages: Iterable[Message | Mapping[str, Any]]) -> Prompt: ...
    @overload
    def ask(
        self,
        documents: _Documents,
        question: str,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] | None = None,
        answer_ends: _AnswerEnd | None = None,
        stream: Literal[False] = False,
    ) -> Answer: ...
    @overload
    def ask(
        self,
        documents: _Documents,
        question: str,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] | None = None,
        answer_ends: _AnswerEnd | None = None,
        stream: Literal[True],
    ) -> AnswerStream: ...
    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] | None = None,
        answer_ends: _AnswerEnd | None = None,
        stream: Literal[False] = False,
    ) -> Answer: ...
    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] | None = None,
        answer_ends: _AnswerEnd | None = None,
        stream: Literal[True],
    ) -> AnswerStream: ...
    def logits(self, prompt: Prompt, *, last: int = 1) -> _Rows: ...
    def _repr_html_(self) -> str: ...

@final
class Prompt:
    @property
    def parts(self) -> list[npt.NDArray[np.int64] | _Rows]: ...
    @property
    def token_ids(self) -> npt.NDArray[np.int64]: ...
    @property
    def latent_count(self) -> int: ...
    def embeddings(self) -> _Rows: ...
    def followed_by(self, token_ids: Sequence[int]) -> Prompt: ...
    def __len__(self) -> int: ...

@final
class Answer:
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def finish(self) -> Literal["end", "stop", "length", "interrupted"]: ...
    @property
    def prompt_positions(self) -> int: ...
    @property
    def prefill_seconds(self) -> float: ...
    @property
    def decode_seconds(self) -> float: ...
    @property
    def decoder(self) -> str: ...
    @property
    def prompt_logits(self) -> _Rows: ...
    def _repr_html_(self) -> str: ...

@final
class AnswerStream:
    @property
    def answer(self) -> Answer | None: ...
    def close(self) -> None: ...
    def __iter__(self) -> Iterator[str]: ...
    def __next__(self) -> str: ...

@final
class DecoderEntry:
    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> list[str]: ...
    @property
    def architecture(self) -> str | None: ...
    @property
    def source(self) -> list[str]: ...
    @property
    def adapter_kind(self) -> Literal["package", "plugin", "none"]: ...
    @property
    def adapter(self) -> Path | None: ...
    @property
    def encoder(self) -> str | None: ...
    @property
    def adapters(self) -> dict[str, Path]: ...
    @property
    def fault(self) -> str | None: ...
    @property
    def origin(self) -> Path: ...

@final
class Check:
    @property
    def what(self) -> str: ...
    @property
    def outcome(self) -> Literal["passed", "failed", "skipped"]: ...
    @property
    def message(self) -> str | None: ...
    @property
    def hint(self) -> str | None: ...

@final
class Registration:
    @property
    def decoder(self) -> str: ...
    @property
    def adapter(self) -> Path: ...
    @property
    def registry(self) -> Path: ...
    @property
    def steps(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def loss_before(self) -> float | None: ...
    @property
    def loss_after(self) -> float | None: ...
    @property
    def recovered(self) -> float | None: ...
    @property
    def decoder_sha256(self) -> str: ...
    @property
    def encoder_sha256(self) -> str: ...
