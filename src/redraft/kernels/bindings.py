"""The library's C entries as Python callables, and what tensors and matrices are to them."""

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from redraft.kernels.interface import ENTRIES
from redraft.kernels.library import Library, native
from redraft.kernels.packed import FORMATS, Format


def kernels() -> Library | None:
    """The library where it has kernels for this processor, else None: the torch references do the work."""
    library = native()
    return None if library is None or library.tier == "generic" else library


def compute(x: Tensor) -> bool:
    """Tell whether the library's kernels compute with ``x``: on the CPU, where there are any."""
    return x.device.type == "cpu" and kernels() is not None


@cache
def entry(name: str) -> Callable[..., None]:
    """The C entry ``name``; ``kernels()`` must not be None."""
    library = native()
    assert library is not None, "entries are only looked up where there is a library"
    return library.function(name, None, *ENTRIES[name])


def saturate(format: int, rounds: int) -> int:
    """Keep every thread of the kernels busy with multiply-adds in a format, and return how many were done."""
    library = native()
    assert library is not None, "only called where there is a library"
    return int(library.function("redraft_saturate", ctypes.c_int64, ctypes.c_int32, ctypes.c_int64)(format, rounds))


def self_conditioning_format(table: Format) -> Format:
    """Return the dtype that a readout sums self-conditioning in, for a vocabulary packed in the format ``table``."""
    if kernels() is None:
        return "float32" if table == "float32" else "bfloat16"
    library = native()
    assert library is not None, "there are kernels"
    return FORMATS[
        library.function("redraft_self_conditioning_format", ctypes.c_int32, ctypes.c_int32)(format_number(table))
    ]


def format_number(name: str) -> int:
    """A format's number in native/formats.h."""
    return FORMATS.index(name)


def pointer(tensor: Tensor | None) -> int | None:
    """Return where a tensor's first element lies; None stays a null pointer."""
    return None if tensor is None else tensor.data_ptr()


def rows(x: Tensor) -> Tensor:
    """``x`` [count, width] as float32 whose rows are contiguous, without a copy where it is so already."""
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def floats(count: int, width: int) -> Tensor:
    """Room for results."""
    return torch.empty(count, width)
