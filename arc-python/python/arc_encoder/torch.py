"""Rows as PyTorch tensors, through DLPack.

Arrays that this package gives own their memory, and a tensor shares it: nothing is copied. Only latents are,
since they never change and a tensor could be written to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import torch
from arc_encoder._native import Latents

if TYPE_CHECKING:
    from arc_encoder import Decoder, Prompt

__all__ = ["embeddings", "project", "tensor"]


def tensor(rows: Latents | npt.NDArray[np.float32]) -> torch.Tensor:
    """Latents, ``[n, d_encoder]``, or rows of ``Decoder.project``, ``[n, d_decoder]``, as a float32 tensor on the
    CPU."""
    if isinstance(rows, np.ndarray) and not rows.flags.writeable:
        # DLPack has no word for memory that may not be written to.
        rows = rows.copy()
    return torch.from_dlpack(rows)


def project(decoder: Decoder, latents: Latents) -> torch.Tensor:
    """``Decoder.project`` as a tensor, ``[n + 1, d_decoder]``."""
    return tensor(decoder.project(latents))


def embeddings(prompt: Prompt) -> torch.Tensor:
    """``Prompt.embeddings()`` as a tensor, ``[n, d_decoder]``."""
    return tensor(prompt.embeddings())
