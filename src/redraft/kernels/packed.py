"""Weights as the kernels read them: quantised to a format, and laid out in blocks.

A block is 32 outputs, two panels of 16. In a panel the weights of 1, 2, 4 or 8 consecutive inputs (float32, bfloat16,
int8, int4) lie side by side for each of its 16 outputs: 64 bytes, one operand of a dot-product instruction and one row
of an AMX tile. Both sizes are padded, with what has no share in a product. int8 is symmetric, with a scale an output;
int4 has a scale and a minimum for every 32 inputs of an output, see ``int4`` (W8A8 and W4A8 with the activations of
``linear``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.kernels.int4 import GROUP, round_to_int4
from redraft.kernels.interface import CONSTANTS

Format = Literal["float32", "bfloat16", "int8", "int4"]
FORMATS: tuple[Format, ...] = get_args(Format)
Activation = Literal["gelu_tanh", "silu"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

PANEL, BLOCK = 16, CONSTANTS["kBlock"]
# Inputs that lie side by side, and what the number of inputs is padded to.
_SIDE_BY_SIDE = {"float32": 1, "bfloat16": 2, "int8": 4, "int4": 8}
_PADDED_TO = {"float32": 32, "bfloat16": 32, "int8": 64, "int4": GROUP}


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

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.scales.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def rows(self, outputs: Tensor) -> Tensor:
        """Return some rows of the only matrix, float32 [n, inputs]: what the packed numbers of ``outputs`` [n] stand
        for."""
        block, panel, lane = outputs // BLOCK, outputs % BLOCK // PANEL, outputs % PANEL
        own = self.data[0, block, panel, :, lane]
        if self.format == "int4":
            whole = torch.stack((own & 15, own >> 4), dim=-2).flatten(1).float()
            scales, minimums = self.scales[0, block, :, :, outputs % BLOCK].unbind(-1)
            return _of_groups(whole, scales, minimums)[:, : self.inputs]
        values = own.flatten(1).float()
        if self.format == "int8":
            values = (values - 128) * self.scales[0, outputs, None]
        return values[:, : self.inputs]

    @cached_property
    def weight(self) -> Tensor:
        """The weights that the packed numbers stand for, float32 [count, outputs, inputs]; of a gated matrix
        [count, 2 * outputs, inputs], gates first. Made when first asked for, and kept: the torch references
        compute with it."""
        count, blocks = self.data.shape[:2]
        if self.format == "int4":
            whole = torch.stack((self.data & 15, self.data >> 4), dim=-2).flatten(-2).float()
        elif self.format == "int8":
            whole = self.data.float() - 128
        else:
            whole = self.data.float()
        rows = whole.permute(0, 1, 2, 4, 3, 5).reshape(count, blocks * BLOCK, self.padded_inputs)
        if self.format == "int8":
            rows = rows * self.scales[:, :, None]
        elif self.format == "int4":
            ranges = self.scales.permute(3, 0, 1, 4, 2).reshape(2, count, blocks * BLOCK, -1)
            rows = _of_groups(rows, *ranges)
        return self._in_order(rows)[..., : self.inputs].contiguous()

    @cached_property
    def plain_bias(self) -> Tensor | None:
        """The bias in the order of ``weight``'s outputs [count, outputs], or [count, 2 * outputs]."""
        return None if self.bias is None else self._in_order(self.bias[..., None])[..., 0].contiguous()

    def _in_order(self, rows: Tensor) -> Tensor:
        """Rows [count, padded_outputs, .] of all panels as those of the weight."""
        if not self.gated:
            return rows[:, : self.outputs]
        pairs = rows.unflatten(1, (-1, 2, PANEL))
        return torch.cat([pairs[:, :, half].flatten(1, 2)[:, : self.outputs] for half in (0, 1)], dim=1)


def shapes(
    format: Format, outputs: int, inputs: int, count: int, gated: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a packed matrix's data and scales; see ``PackedMatrix``."""
    columns = 2 * -(-outputs // PANEL) * PANEL if gated else outputs
    blocks, padded = -(-columns // BLOCK), -(-inputs // _PADDED_TO[format]) * _PADDED_TO[format]
    side = _SIDE_BY_SIDE[format]
    data = (count, blocks, 2, padded // side, PANEL, side // 2 if format == "int4" else side)
    if format == "int4":
        return data, (count, blocks, padded // GROUP, 2, BLOCK)
    return data, (count, blocks * BLOCK) if format == "int8" else (count, 0)


def pack(weight: Tensor, format: Format, bias: Tensor | None = None) -> PackedMatrix:
    """Pack ``weight`` [outputs, inputs], or [count, outputs, inputs], of any floating dtype, and its bias [outputs] or
    [count, outputs], which stays float32. Of a weight on torch's "meta" device the packed one has no values, either."""
    return _pack(weight, weight.shape[-2], format, None, bias, arrange=lambda rows: rows)


def pack_gated(
    gate_up: Tensor, format: Format, activation: Activation = "gelu_tanh", bias: Tensor | None = None
) -> PackedMatrix:
    """Pack a gate and what it gates, stacked as [2 * outputs, inputs] or [count, 2 * outputs, inputs], and their bias
    [2 * outputs] or [count, 2 * outputs]."""
    outputs = gate_up.shape[-2] // 2

    def alternate(rows: Tensor) -> Tensor:
        halves = rows.view(2, outputs, -1)
        halves = F.pad(halves, (0, 0, 0, -outputs % PANEL))
        return halves.unflatten(1, (-1, PANEL)).transpose(0, 1).reshape(-1, rows.shape[-1])

    return _pack(gate_up, outputs, format, activation, bias, arrange=alternate)


@torch.no_grad()
def _pack(
    weight: Tensor,
    outputs: int,
    format: Format,
    activation: Activation | None,
    bias: Tensor | None,
    arrange: Callable[[Tensor], Tensor],
) -> PackedMatrix:
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise ValueError(f"a bias {[*bias.shape]} for a weight {[*weight.shape]}")
    weights = weight if weight.ndim == 3 else weight[None]
    if weights.is_meta:
        return _outline(weights, outputs, format, activation, bias is not None)
    # One matrix at a time: the experts of a layer in float32 may not fit beside the model.
    parts = [_pack_one(arrange(one.float()), format) for one in weights]
    if bias is not None:
        columns = [arrange(one.float()[:, None])[:, 0] for one in bias.view(len(weights), -1)]
        bias = torch.stack([F.pad(column, (0, -len(column) % BLOCK)) for column in columns])
    return PackedMatrix(
        format=format,
        outputs=outputs,
        inputs=weights.shape[-1],
        count=len(weights),
        activation=activation,
        data=torch.stack([data for data, _ in parts]),
        scales=torch.stack([scales for _, scales in parts]),
        bias=bias,
    )


def _outline(
    weights: Tensor, outputs: int, format: Format, activation: Activation | None, with_bias: bool
) -> PackedMatrix:
    """Return what weights without values would be packed to, without values."""
    count, _, inputs = weights.shape
    data, scales = shapes(format, outputs, inputs, count, activation is not None)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(format, torch.uint8)
    return PackedMatrix(
        format=format,
        outputs=outputs,
        inputs=inputs,
        count=count,
        activation=activation,
        data=torch.empty(data, dtype=dtype, device="meta"),
        scales=torch.empty(scales, dtype=torch.float16 if format == "int4" else torch.float32, device="meta"),
        bias=torch.empty(count, data[1] * BLOCK, device="meta") if with_bias else None,
    )


def _pack_one(weight: Tensor, format: Format) -> tuple[Tensor, Tensor]:
    outputs, inputs = weight.shape
    padded = F.pad(weight, (0, -inputs % _PADDED_TO[format], 0, -outputs % BLOCK))
    no_scales = torch.empty(0)
    if format == "float32":
        return _panels(padded, 1), no_scales
    if format == "bfloat16":
        return _panels(padded.bfloat16(), 2), no_scales
    if format == "int8":
        scales = padded.abs().amax(-1) / 127
        whole = (padded / scales.clamp(min=1e-30)[:, None]).round()
        return _panels((whole + 128).to(torch.uint8), 4), scales
    # What is padded must not widen the range of a group.
    padded[:, inputs:] = padded[:, inputs - 1 : inputs]
    rounded = round_to_int4(padded)
    nibbles = _panels(rounded.whole, 8).unflatten(-1, (2, 4))
    ranges = torch.stack((rounded.scales, rounded.minimums)).view(2, -1, BLOCK, padded.shape[1] // GROUP)
    return nibbles[..., 0, :] | nibbles[..., 1, :] << 4, ranges.permute(1, 3, 0, 2).contiguous()


def _of_groups(whole: Tensor, scales: Tensor, minimums: Tensor) -> Tensor:
    """Return what the numbers [..., inputs] stand for, with a scale and a minimum a group [..., groups]."""
    scales, minimums = (each.float().repeat_interleave(GROUP, dim=-1) for each in (scales, minimums))
    return whole * scales + minimums


def _panels(padded: Tensor, side_by_side: int) -> Tensor:
    """[outputs, inputs] -> [blocks, 2, inputs / s, 16, s]."""
    outputs, inputs = padded.shape
    shaped = padded.view(outputs // BLOCK, 2, PANEL, inputs // side_by_side, side_by_side)
    return shaped.transpose(2, 3).contiguous()
