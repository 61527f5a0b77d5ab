"""Weights as the kernels read them: quantised to a format, and laid out in blocks.

A block is 32 outputs, two panels of 16. In a panel the weights of 1, 2, 4 or 8 consecutive inputs (float32, bfloat16,
int8, int4) lie side by side for each of its 16 outputs: 64 bytes, one operand of a dot-product instruction and one row
of an AMX tile. Both sizes are padded, with what has no share in a product. int8 is symmetric, with a scale an output;
int4 has a scale and a minimum for every 32 inputs of an output, see ``int4`` (W8A8 and W4A8 with the activations of
``linear``).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal, NamedTuple, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.kernels.int4 import GROUP, round_to_int4
from redraft.kernels.interface import CONSTANTS, CMatrix
from redraft.kernels.whole_numbers import WholeNumbers, as_int4, as_int8

Format = Literal["float32", "bfloat16", "int8", "int4"]
FORMATS: tuple[Format, ...] = get_args(Format)
Activation = Literal["gelu_tanh", "silu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

PANEL, BLOCK = 16, CONSTANTS["kBlock"]
# Inputs that lie side by side, and what the number of inputs is padded to.
_SIDE_BY_SIDE = {"float32": 1, "bfloat16": 2, "int8": 4, "int4": 8}
_PADDED_TO = {"float32": 32, "bfloat16": 32, "int8": 64, "int4": GROUP}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.uint8, "int4": torch.uint8}
_ZERO = {"int8": 128}
# Weights that are packed at a time: a few megabytes, in float32 and beside it in numbers.
_AT_A_TIME = 1 << 20
Importance = Callable[[int], Tensor | None]
"""Gives for the weight ``number`` of a matrix how much an error of each input's weights counts, [inputs]."""


@dataclass(frozen=True)
class PackedMatrix:
    """One weight [outputs, inputs], or ``count`` of them of one shape, in a kernel's format."""

    format: Format
    outputs: int
    inputs: int
    count: int
    activation: Activation | None
    """The function of a gated weight's gate: the weight is a gate and what it gates, [2 * outputs, inputs], in
    alternate panels."""
    data: Tensor
    """[count, blocks, 2, padded_inputs / s, 16, s] float32, bfloat16 or uint8; int4 has s / 2 bytes at the end."""
    scales: Tensor
    """int8 float32 [count, padded_outputs]; int4 float16 [count, blocks, padded_inputs / 32, 2, 32], the scales of
    groups and their minimums; else empty."""
    bias: Tensor | None = None
    """[count, padded_outputs] float32, in the order of the panels; None for none."""

    @property
    def gated(self) -> bool:
        """True of a gate and what it gates."""
        return self.activation is not None

    @property
    def padded_inputs(self) -> int:
        return self.data.shape[3] * _SIDE_BY_SIDE[self.format]

    @property
    def padded_outputs(self) -> int:
        """Columns of all blocks; of a gated matrix, of gates and gated alike."""
        return self.data.shape[1] * BLOCK

    @cached_property
    def for_c(self) -> CMatrix:
        """The matrix as C takes it, good for as long as this object lives."""
        return CMatrix(
            format=FORMATS.index(self.format),
            gated=0 if self.activation is None else 1 + ACTIVATIONS.index(self.activation),
            outputs=self.outputs,
            inputs=self.inputs,
            padded_outputs=self.padded_outputs,
            padded_inputs=self.padded_inputs,
            data=self.data.data_ptr(),
            scales=self.scales.data_ptr(),
            bias=None if self.bias is None else self.bias.data_ptr(),
        )

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.scales.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def rows(self, outputs: Tensor) -> Tensor:
        """Return some rows of the only matrix, float32 [n, inputs]: what the packed numbers of ``outputs`` [n] stand
        for."""
        block, panel, lane = outputs // BLOCK, outputs % BLOCK // PANEL, outputs % PANEL
        ranges = None
        if self.format == "int8":
            ranges = self.scales[0, outputs]
        elif self.format == "int4":
            ranges = self.scales[0, block, :, :, outputs % BLOCK]
        return self._values(self._words(0)[block, panel, :, lane], ranges)

    def panels(self, number: int, blocks: slice) -> Tensor:
        """Return some blocks of one of the matrices, float32 [padded outputs, inputs]: what their packed numbers stand
        for, in the order of the panels."""
        words, ranges = self._words(number)[blocks].transpose(2, 3).contiguous().flatten(0, 2), None
        if self.format == "int8":
            ranges = self.scales[number].view(-1, BLOCK)[blocks].flatten()
        elif self.format == "int4":
            ranges = self.scales[number, blocks].permute(0, 3, 1, 2).flatten(0, 1)
        return self._values(words, ranges)

    def unpacked(self) -> Tensor:
        """Return the weights that the packed numbers stand for, float32 [count, outputs, inputs]; of a gated matrix
        [count, 2 * outputs, inputs], gates first."""
        return torch.stack([self.in_order(self.panels(number, slice(None)).T).T for number in range(self.count)])

    @property
    def plain_bias(self) -> Tensor | None:
        """The bias in the order of the weights' outputs [count, outputs], or [count, 2 * outputs]."""
        return None if self.bias is None else self.in_order(self.bias)

    def in_order(self, columns: Tensor) -> Tensor:
        """Columns [., padded_outputs] of all panels as those of the weight [., outputs], or [., 2 * outputs]."""
        if not self.gated:
            return columns[:, : self.outputs]
        pairs = columns.unflatten(1, (-1, 2, PANEL))
        return torch.cat([pairs[:, :, half].flatten(1)[:, : self.outputs] for half in (0, 1)], dim=1)

    def _words(self, number: int) -> Tensor:
        """Return one of the matrices as words of four bytes, int32 [blocks, 2, padded_inputs / s, 16]: in every format
        the weights that lie side by side fill one."""
        return self.data[number].view(torch.int32)[..., 0]

    def _values(self, words: Tensor, ranges: Tensor | None) -> Tensor:
        """Decode words [n, padded_inputs / s] of rows, float32 [n, inputs]. ``ranges``: as ``scales`` has them,
        int8 [n], int4 [n, groups, 2]."""
        numbers = words.contiguous().view(_DTYPES[self.format])
        if self.format == "int4":
            numbers = torch.stack((numbers.unflatten(1, (-1, 4)) & 15, numbers.unflatten(1, (-1, 4)) >> 4), dim=2)
        values = numbers.flatten(1).float()
        if ranges is not None and self.format == "int8":
            values.sub_(_ZERO["int8"]).mul_(ranges[:, None])
        elif ranges is not None:
            scales, minimums = ranges.float().unbind(-1)
            values.unflatten(1, (-1, GROUP)).mul_(scales[..., None]).add_(minimums[..., None])
        return values[:, : self.inputs]


@dataclass(frozen=True)
class MatrixShape:
    """A packed matrix before it is made; see ``PackedMatrix`` for what the numbers are."""

    format: Format
    outputs: int
    inputs: int
    count: int = 1
    activation: Activation | None = None

    @property
    def _blocks(self) -> int:
        columns = self.outputs if self.activation is None else 2 * -(-self.outputs // PANEL) * PANEL
        return -(-columns // BLOCK)

    @property
    def padded_inputs(self) -> int:
        """Inputs with what they are padded by."""
        return -(-self.inputs // _PADDED_TO[self.format]) * _PADDED_TO[self.format]

    @property
    def data(self) -> tuple[int, ...]:
        """The shape of ``PackedMatrix.data``."""
        side = _SIDE_BY_SIDE[self.format]
        last = side // 2 if self.format == "int4" else side
        return self.count, self._blocks, 2, self.padded_inputs // side, PANEL, last

    @property
    def scales(self) -> tuple[int, ...]:
        """The shape of ``PackedMatrix.scales``."""
        if self.format == "int4":
            return self.count, self._blocks, self.padded_inputs // GROUP, 2, BLOCK
        return (self.count, self._blocks * BLOCK) if self.format == "int8" else (self.count, 0)

    @property
    def ranges_of_a_row(self) -> tuple[int, ...]:
        """The shape of what an output has beside its numbers: a scale, or a scale and a minimum for every group."""
        return (self.padded_inputs // GROUP, 2) if self.format == "int4" else ()

    @property
    def bias(self) -> tuple[int, ...]:
        """The shape of ``PackedMatrix.bias``, of a matrix that has one."""
        return self.count, self._blocks * BLOCK

    @property
    def parts(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of ``data`` and of the scales that the format has."""
        found = {"data": (self.data, _DTYPES[self.format])}
        if prod(self.scales):
            found["scales"] = self.scales, torch.float16 if self.format == "int4" else torch.float32
        return found


def pack(weight: Tensor, format: Format, bias: Tensor | None = None) -> PackedMatrix:
    """Pack ``weight`` [outputs, inputs], or [count, outputs, inputs], of any floating dtype, and its bias [outputs] or
    [count, outputs], which stays float32."""
    return _pack(weight, format, None, bias)


def pack_gated(
    gate_up: Tensor, format: Format, activation: Activation = "gelu_tanh", bias: Tensor | None = None
) -> PackedMatrix:
    """Pack a gate and what it gates, stacked as [2 * outputs, inputs] or [count, 2 * outputs, inputs], and their bias
    [2 * outputs] or [count, 2 * outputs]."""
    return _pack(gate_up, format, activation, bias)


def outline(shape: MatrixShape, *, biased: bool = False) -> PackedMatrix:
    """Return a matrix of a shape without its numbers, on torch's "meta" device: for counting."""
    parts = {key: torch.empty(own, dtype=dtype, device="meta") for key, (own, dtype) in shape.parts.items()}
    return PackedMatrix(
        shape.format,
        shape.outputs,
        shape.inputs,
        shape.count,
        shape.activation,
        parts["data"],
        parts.get("scales", torch.empty(shape.scales, device="meta")),
        torch.empty(shape.bias, device="meta") if biased else None,
    )


class Piece(NamedTuple):
    """Some blocks of one of a matrix's weights, packed. Pieces in order are the parts of ``PackedMatrix`` in order."""

    data: Tensor
    """[blocks, 2, padded_inputs / s, 16, s], as in ``PackedMatrix.data``."""
    scales: Tensor
    """The scales of these blocks: int8 [32 * blocks], int4 [blocks, padded_inputs / 32, 2, 32], else empty."""


class RowReader(Protocol):
    """Reads rows of the weights that a matrix is packed of."""

    def __call__(self, number: int, rows: Tensor, /) -> Iterable[tuple[Tensor, Tensor | WholeNumbers]]:
        """Return ``rows`` [n] of the weight ``number`` of ``count``, in parts: which of the n each part is, int64 [m],
        and [m, inputs] of any floating dtype, or whole numbers. A gated weight's gates stand before what they gate."""
        ...


@torch.no_grad()
def pieces(read: RowReader, shape: MatrixShape, importance: Importance | None = None) -> Iterator[Piece]:
    """Pack a matrix piece by piece, so that never more of it than ``_AT_A_TIME`` weights is there at once. Whole
    numbers that the format has a place for are moved over as they are.

    importance: for each of ``count`` weights how much an error of an input's weights counts, [inputs] or None; formats
    that choose a range for each group by its squared error weigh it so. Raises CheckpointError as ``round_to_int4``.
    """
    order = _order(shape)
    step = max(1, _AT_A_TIME // max(1, BLOCK * shape.inputs)) * BLOCK
    for number in range(shape.count):
        weighed = None if importance is None else importance(number)
        for start in range(0, len(order), step):
            own = order[start : start + step]
            (there,) = (own >= 0).nonzero(as_tuple=True)
            whole = torch.full((len(own), shape.padded_inputs), _ZERO.get(shape.format, 0), dtype=_DTYPES[shape.format])
            ranges = torch.zeros(len(own), *shape.ranges_of_a_row)
            for which, rows in read(number, own[there]):
                _round(rows, shape.format, weighed, whole, ranges, there[which])
            yield _laid(whole, ranges, shape.format)


def packed_bias(bias: Tensor, shape: MatrixShape) -> Tensor:
    """Return a bias [count, rows] in the order of the panels, float32 [count, padded_outputs]."""
    order = _order(shape)
    laid = torch.zeros(shape.count, len(order))
    laid[:, order >= 0] = bias.float()[:, order[order >= 0]]
    return laid


def _order(shape: MatrixShape) -> Tensor:
    """Return for each of the padded outputs the row of the weight that stands there, -1 for padding."""
    order = torch.arange(shape.outputs)
    if shape.activation is not None:
        gates = F.pad(order, (0, -shape.outputs % PANEL), value=-1).view(-1, 1, PANEL)
        order = torch.cat((gates, torch.where(gates < 0, -1, gates + shape.outputs)), dim=1).flatten()
    return F.pad(order, (0, -len(order) % BLOCK), value=-1)


@torch.no_grad()
def _pack(weight: Tensor, format: Format, activation: Activation | None, bias: Tensor | None) -> PackedMatrix:
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"a bias {[*bias.shape]} for a weight {[*weight.shape]}")
    weights = weight if weight.ndim == 3 else weight[None]
    count, rows, inputs = weights.shape
    shape = MatrixShape(format, rows if activation is None else rows // 2, inputs, count, activation)
    packed = assemble(shape, pieces(lambda number, own: [(torch.arange(len(own)), weights[number, own])], shape))
    return packed if bias is None else replace(packed, bias=packed_bias(bias.detach().view(count, rows), shape))


def assemble(shape: MatrixShape, made: Iterable[Piece]) -> PackedMatrix:
    """Put pieces together to a matrix in memory, without a bias."""
    data = torch.empty(shape.data, dtype=_DTYPES[shape.format])
    scales = torch.empty(shape.scales, dtype=torch.float16 if shape.format == "int4" else torch.float32)
    flat, flat_scales, place, scale_place = data.view(-1), scales.view(-1), 0, 0
    for piece in made:
        place_after, scale_after = place + piece.data.numel(), scale_place + piece.scales.numel()
        flat[place:place_after] = piece.data.flatten()
        flat_scales[scale_place:scale_after] = piece.scales.flatten()
        place, scale_place = place_after, scale_after
    return PackedMatrix(shape.format, shape.outputs, shape.inputs, shape.count, shape.activation, data, scales)


def _round(
    rows: Tensor | WholeNumbers, format: Format, importance: Tensor | None, whole: Tensor, ranges: Tensor, to: Tensor
) -> None:
    """Round rows [m, inputs] to numbers, and put them and their ranges at the places ``to`` [m] of others."""
    if isinstance(rows, WholeNumbers):
        if _move(rows, format, whole, ranges, to):
            return
        rows = rows.values()
    inputs = rows.shape[1]
    padded = F.pad(rows.float(), (0, whole.shape[1] - inputs))
    if format == "int8":
        ranges[to] = scales = padded.abs().amax(-1) / 127
        whole[to] = ((padded / scales.clamp(min=1e-30)[:, None]).round() + _ZERO["int8"]).to(torch.uint8)
    elif format == "int4":
        # What is padded must not widen the range of a group.
        padded[:, inputs:] = padded[:, inputs - 1 : inputs]
        if importance is not None:
            importance = F.pad(importance.float(), (0, whole.shape[1] - inputs))
        rounded = round_to_int4(padded, importance)
        whole[to], ranges[to] = rounded.whole, torch.stack((rounded.scales, rounded.minimums), dim=-1).float()
    else:
        whole[to] = padded.to(whole.dtype)


def _move(rows: WholeNumbers, format: Format, whole: Tensor, ranges: Tensor, to: Tensor) -> bool:
    """Put whole numbers where ``_round`` does, as they are; False where the format has no place for them."""
    inputs = rows.shape[-1]
    if format == "int8" and (int8 := as_int8(rows)) is not None:
        whole[to] = F.pad(int8.whole, (0, whole.shape[1] - inputs), value=_ZERO["int8"])
        ranges[to] = int8.scales
        return True
    if format == "int4" and (int4 := as_int4(rows)) is not None:
        whole[to], ranges[to] = int4.whole, torch.stack((int4.scales, int4.minimums), dim=-1).float()
        return True
    return False


def _laid(whole: Tensor, ranges: Tensor, format: Format) -> Piece:
    """Lay rows of whole blocks out in panels."""
    if format == "int8":
        return Piece(_panels(whole, 4), ranges)
    if format != "int4":
        return Piece(_panels(whole, _SIDE_BY_SIDE[format]), torch.empty(0))
    nibbles = _panels(whole, 8).unflatten(-1, (2, 4))
    scales = ranges.view(-1, BLOCK, *ranges.shape[1:]).permute(0, 2, 3, 1).half().contiguous()
    return Piece(nibbles[..., 0, :] | nibbles[..., 1, :] << 4, scales)


def _panels(padded: Tensor, side_by_side: int) -> Tensor:
    """[outputs, inputs] -> [blocks, 2, inputs / s, 16, s]."""
    outputs, inputs = padded.shape
    shaped = padded.view(outputs // BLOCK, 2, PANEL, inputs // side_by_side, side_by_side)
    return shaped.transpose(2, 3).contiguous()
