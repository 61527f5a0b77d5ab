"""Tensors in files, described and read by name, whatever the format: safetensors in a folder, or one GGUF file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, as the header describes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    """The dtype that it is read in."""
    quantised: str | None = None
    """The format of a tensor that is stored as whole numbers, such as "Q4_K"; None for others."""


class TensorReader(Protocol):
    """Reads tensors by name from files that are open."""

    def __call__(self, name: str, /) -> Tensor:
        """Return one tensor; one that is not quantised is mapped from its file."""
        ...
