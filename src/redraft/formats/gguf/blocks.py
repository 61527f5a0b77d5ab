"""Tensors of a GGUF file, from whole numbers in blocks to floating point, one at a time.

The decoding of blocks is the ``gguf`` package's.
"""

from math import prod

import numpy as np
import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.gguf.header import Extent, Header
from redraft.formats.tensors import Grid, Rows, matrix_rows
from redraft.kernels.whole_numbers import WholeNumbers

# Types that are read, by their numbers.
TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    8: "Q8_0",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    30: "BF16",
}
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Values that are decoded at a time: beside a whole tensor, what that takes does not count.
_AT_A_TIME = 1 << 22
# Types whose blocks of 32 have the numbers that int4 has: a float16 scale, a float16 minimum if there is one, and
# sixteen bytes, of which the lower halves come first.
_INT4_BLOCKS = {"Q4_0": 18, "Q4_1": 20}
_BLOCK = 32


def type_name(header: Header, name: str) -> str:
    """Return the name of a tensor's type; raises CheckpointError that lists those that are read."""
    number = header.extents[name].type
    if number not in TYPES:
        from gguf.constants import GGMLQuantizationType

        known = {kind.value: kind.name for kind in GGMLQuantizationType}
        raise CheckpointError(
            f"{header.path}: tensor {name} is stored as {known.get(number, f'type {number}')}; read are "
            f"{', '.join(TYPES.values())}. Take a copy in one of those, such as Q8_0 or Q4_K_M"
        )
    return TYPES[number]


def is_quantised(type: str) -> bool:
    """Tell whether a type keeps whole numbers, in blocks."""
    return type not in _PLAIN


def value_dtype(type: str) -> torch.dtype:
    """Return the dtype that tensors of a type are handed out in: float32 for all that are quantised."""
    return _PLAIN.get(type, torch.float32)


def read_tensor(header: Header, name: str) -> Tensor:
    """Read one tensor, in the dtype of ``value_dtype``; one that is not quantised stays mapped from the file.

    Raises CheckpointError where the file ends before it, or it is of a type that is not read.
    """
    type, extent = type_name(header, name), header.extents[name]
    stored = _stored_bytes(header, name, extent)
    if type in _PLAIN:
        return torch.from_numpy(stored).view(_PLAIN[type]).view(extent.shape)
    return _dequantised(stored.reshape(prod(extent.shape[:-1]), -1), extent).view(extent.shape)


def read_rows(header: Header, name: str, number: int, rows: Rows) -> Tensor | WholeNumbers:
    """Read some rows of one matrix of a tensor; raises as ``read_tensor``."""
    type, extent = type_name(header, name), header.extents[name]
    if type in _PLAIN:
        return matrix_rows(read_tensor(header, name), number, rows)
    stored = torch.from_numpy(_stored_bytes(header, name, extent)).view(-1, extent.shape[-2], _row_size(extent))
    own = stored[number][rows]
    return _whole_numbers(own, type) if type in _INT4_BLOCKS else _dequantised(own.numpy(), extent)


def grid(type: str) -> Grid | None:
    """Return the whole numbers of a type that are handed out as they are."""
    return Grid(4, _BLOCK, type == "Q4_0", in_float16=True) if type in _INT4_BLOCKS else None


def _whole_numbers(rows: Tensor, type: str) -> WholeNumbers:
    """Take rows of blocks [n, bytes] apart."""
    blocks = rows.unflatten(-1, (-1, _INT4_BLOCKS[type]))
    bytes = blocks[..., -_BLOCK // 2 :]
    whole = torch.cat((bytes & 15, bytes >> 4), dim=-1).flatten(-2)
    ranges = blocks[..., : -_BLOCK // 2].contiguous().view(torch.float16)
    if type == "Q4_0":
        return WholeNumbers((whole.short() - 8).to(torch.int8), ranges[..., 0], None, 4)
    return WholeNumbers(whole, ranges[..., 0], ranges[..., 1], 4)


def _dequantised(by_row: np.ndarray, extent: Extent) -> Tensor:
    """Decode rows of blocks [n, bytes], a part of them at a time."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    kind, width = GGMLQuantizationType(extent.type), extent.shape[-1]
    values = torch.empty(len(by_row), width)
    step = max(1, _AT_A_TIME // width)
    for first in range(0, len(by_row), step):
        part = slice(first, first + step)
        values[part] = torch.from_numpy(dequantize(by_row[part], kind))
    return values


def check_extent(header: Header, name: str) -> None:
    """Raise CheckpointError where a tensor's rows are no whole blocks, or the file ends before the tensor does."""
    extent = header.extents[name]
    end = extent.offset + _size(header, name, extent)
    if end > header.path.stat().st_size:
        raise CheckpointError(f"{header.path} is cut short: tensor {name} ends behind it; download it again")


def _stored_bytes(header: Header, name: str, extent: Extent) -> np.ndarray:
    check_extent(header, name)
    size = _size(header, name, extent)
    # Copy on write: torch asks for memory that may be written to.
    return np.memmap(header.path, np.uint8, "c", extent.offset, (size,))


def _row_size(extent: Extent) -> int:
    """Return the bytes of a row."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(extent.type)]
    return extent.shape[-1] // block * size


def _size(header: Header, name: str, extent: Extent) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(extent.type)]
    last = extent.shape[-1] if extent.shape else 1
    if last % block:
        raise CheckpointError(
            f"{header.path}: tensor {name} has rows of {last} values, and its type has blocks of {block}"
        )
    return prod(extent.shape) // block * size
