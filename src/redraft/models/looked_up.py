"""Tables that are looked up and stay in their file: of what is read for some rows nothing stays in memory.

A mapped page counts as the process's memory for as long as it is mapped, and the kernel maps those around it with it.
So an embedding of which each step reads some hundred rows would all be there after some hundred steps.
"""

import mmap
from math import prod
from pathlib import Path

import torch


class LookedUp:
    """A tensor mapped from a part of a file, and the means to let go of what was read of it."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """``offset``: the first byte of the tensor in the file. Raises OSError for a file that cannot be mapped."""
        begin = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        end = offset + prod(shape) * dtype.itemsize
        with path.open("rb") as file:
            # Of its own, so that it may be let go of; private, since torch has no tensor that cannot be written.
            self._mapped = mmap.mmap(file.fileno(), end - begin, offset=begin, access=mmap.ACCESS_COPY)
        self.table = torch.frombuffer(self._mapped, dtype=dtype, count=prod(shape), offset=offset - begin).view(shape)
        """Good for as long as this object, or any tensor that shares its memory, lives."""

    def forget(self) -> None:
        """Let go of all pages that were read; they are read again, from the file, when they are needed."""
        # Where a system has no such advice the pages stay until it wants them back.
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)
