"""Compress a text once, let many LLMs read it.

An **encoder** turns a text into a few vectors, its *latents*; a small **adapter** for each **decoder** maps
them into that model's embedding space; a **registry** says by names which they are::

    import arc_encoder as arc

    session = arc.Session("registry.toml")
    latents = session.compress(text, factor=4)                # [n, d_encoder] float32
    decoder = session.decoder("smollm2-135m")
    rows = decoder.project(latents)                           # [n + 1, d_decoder] float32
    print(decoder.ask(latents, "Who wrote it?", max_tokens=32))

What is in it:

- :class:`Session`: an open registry. It compresses, and gives decoders.
- :class:`Latents`: what a text became; they are saved and loaded, and know which encoder made them.
- :class:`Decoder`: a model with its adapter. It projects, asks, streams and writes.
- :class:`Prompt`: what a decoder reads, for engines of your own.
- :mod:`arc_encoder.errors`: one exception for each kind of trouble, each with a hint.
- Bridges, which import what they bridge to: :mod:`arc_encoder.transformers`, :mod:`arc_encoder.vllm`,
  :mod:`arc_encoder.llama_cpp`, :mod:`arc_encoder.torch`.

Calls that take a while run without the interpreter's lock, and Ctrl-C ends them. The command ``arc`` is in the
package too (``python -m arc_encoder``).
"""

from arc_encoder import errors as errors
from arc_encoder._messages import Message as Message
from arc_encoder._native import Answer as Answer
from arc_encoder._native import AnswerStream as AnswerStream
from arc_encoder._native import Check as Check
from arc_encoder._native import Decoder as Decoder
from arc_encoder._native import DecoderEntry as DecoderEntry
from arc_encoder._native import Latents as Latents
from arc_encoder._native import Prompt as Prompt
from arc_encoder._native import Registration as Registration
from arc_encoder._native import Session as Session
from arc_encoder._native import __version__ as __version__
from arc_encoder._native import devices as devices
from arc_encoder.errors import ArcError as ArcError

__all__ = [
    "Answer",
    "AnswerStream",
    "ArcError",
    "Check",
    "Decoder",
    "DecoderEntry",
    "Latents",
    "Message",
    "Prompt",
    "Registration",
    "Session",
    "__version__",
    "devices",
    "errors",
]
