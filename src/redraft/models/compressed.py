"""Checkpoints in compressed-tensors' layout, as vLLM and ``transformers`` read them: W4A16 in packed groups of 32, INT8
with a scale a row.

Every expert has matrices of its own, as in the published copies. In W4A16 what ``recipes.sensitive`` names has eight
bits, with a scale a row. What is not a layer's product stays bfloat16: embedding, head, routers, self-conditioning.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.safetensors import Described
from redraft.formats.streamed import Group
from redraft.formats.tensors import TensorReader
from redraft.kernels.int4 import GROUP, round_symmetric
from redraft.kernels.packed import Format
from redraft.kernels.whole_numbers import WholeNumbers
from redraft.models.checkpoint import Checkpoint
from redraft.models.packing import blocks
from redraft.models.recipes import Importance, MatrixRecipe

_SCALE = torch.bfloat16
_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class _Linear:
    """One quantised module: some rows of a stored tensor."""

    module: str
    stored: str
    shape: tuple[int, int]
    bits: int
    number: int | None = None
    """The expert, of a tensor that holds all of a layer."""
    start: int = 0
    """The first of the rows."""

    def rows(self, read: TensorReader) -> Iterator[Tensor]:
        """Read its rows, in floating point, some at a time."""
        end, step = self.start + self.shape[0], max(1, _AT_A_TIME // self.shape[1])
        for start in range(self.start, end, step):
            own = read.rows(self.stored, self.number or 0, slice(start, min(start + step, end)))
            yield (own.values() if isinstance(own, WholeNumbers) else own).float()


def check(found: Checkpoint, format: Format) -> None:
    """Raise CheckpointError for a model whose matrices do not fit the layout."""
    if format == "int4":
        for linear in _linears(found, format):
            if linear.bits == 4 and linear.shape[1] % GROUP:
                raise CheckpointError(
                    f"{linear.module} has {linear.shape[1]} inputs, and groups of {GROUP} do not divide them; take "
                    "--dtype int8, or leave --format out: our own files pad the last group"
                )


def quantization_config(found: Checkpoint, format: Format) -> dict[str, Any]:
    """Return what ``config.json`` says of the weights that ``groups`` describes."""
    linears = _linears(found, format)
    quantised = {linear.stored for linear in linears}
    ignored = [
        name.removesuffix(".weight")
        for name, tensor in {**found.tensors, **found.carried}.items()
        if len(tensor.shape) == 2 and name not in quantised and "embed_tokens" not in name
    ]
    ignored = list(dict.fromkeys((*ignored, "lm_head")))
    packed = "int-quantized" if format == "int8" else "pack-quantized"
    schemes = {"group_0": _scheme(format, ["Linear"], packed)}
    if sensitive := sorted({one.module.rsplit(".", 2)[1] for one in linears if one.bits == 8 and format == "int4"}):
        schemes["group_1"] = _scheme("int8", [f"re:.*{name}\\..*_proj$" for name in sensitive], packed)
        schemes["group_1"]["input_activations"] = None
    return {
        "quant_method": "compressed-tensors",
        "format": packed,
        "quantization_status": "compressed",
        "config_groups": schemes,
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def groups(found: Checkpoint, format: Format, importance: Importance | None = None) -> list[Group]:
    """Return all tensors of a compressed copy, made as they are written."""
    linears = _linears(found, format)
    quantised = {linear.stored for linear in linears}
    stored = found.family.stored_name
    known = {stored(name): value for name, value in (importance or {}).items()}
    by_tensor: dict[str, list[_Linear]] = {}
    for linear in linears:
        by_tensor.setdefault(linear.stored, []).append(linear)
    made = [
        Group(
            {name: one for linear in own for name, one in _described(linear, format).items()},
            partial(_compressed, found, name, own, format, known.get(name)),
        )
        for name, own in by_tensor.items()
    ]
    rest = {name: tensor for name, tensor in found.tensors.items() if name not in quantised} | dict(found.carried)
    return made + [
        Group({name: (one.shape, _SCALE)}, partial(_plain, found, name, one.shape)) for name, one in rest.items()
    ]


def _linears(found: Checkpoint, format: Format) -> list[_Linear]:
    linears: list[_Linear] = []
    for recipe in found.family.matrices(found.config, format):
        if recipe.fixed or recipe.name.startswith("self_conditioning"):
            continue
        bits = 4 if recipe.format == "int4" else 8
        for name in recipe.weights:
            linears += _modules(found, recipe, name, bits)
    return linears


def _modules(found: Checkpoint, recipe: MatrixRecipe, name: str, bits: int) -> Iterator[_Linear]:
    stored, shape = found.family.stored_name(name), found.shape(name)
    if len(shape) == 2:
        yield _Linear(stored.removesuffix(".weight"), stored, (shape[0], shape[1]), bits)
        return
    count, rows, inputs = shape
    prefix, last = stored.rsplit(".", 1)
    parts = ("gate_proj", "up_proj") if recipe.activation is not None else (last,)
    own = rows // len(parts)
    for number in range(count):
        for index, part in enumerate(parts):
            yield _Linear(f"{prefix}.{number}.{part}", stored, (own, inputs), bits, number, index * own)


def _described(linear: _Linear, format: Format) -> dict[str, Described]:
    outputs, inputs = linear.shape
    scales = inputs // GROUP if linear.bits == 4 else 1
    found: dict[str, Described] = {f"{linear.module}.weight_scale": ((outputs, scales), _SCALE)}
    if format == "int8":
        found[f"{linear.module}.weight"] = (linear.shape, torch.int8)
        return found
    words = -(-inputs * linear.bits // 32)
    found[f"{linear.module}.weight_packed"] = ((outputs, words), torch.int32)
    found[f"{linear.module}.weight_shape"] = ((2,), torch.int64)
    return found


def _compressed(
    found: Checkpoint, stored: str, linears: list[_Linear], format: Format, importance: Tensor | None
) -> Iterator[tuple[str, Tensor]]:
    with found.stored_weights([stored]) as weights:
        for linear in linears:
            counts = importance
            if counts is not None and counts.ndim == 2 and linear.number is not None:
                counts = counts[linear.number]
            for part in linear.rows(weights):
                if linear.bits == 4:
                    whole, scales = round_symmetric(part, counts, _SCALE)
                else:
                    scales = (part.abs().amax(-1, keepdim=True) / 127).to(_SCALE)
                    whole = (part / scales.float().clamp(min=1e-30)).round().clamp(-128, 127)
                yield f"{linear.module}.weight_scale", scales
                if format == "int8":
                    yield f"{linear.module}.weight", whole.to(torch.int8)
                else:
                    yield f"{linear.module}.weight_packed", _words(whole, linear.bits)
            if format == "int4":
                yield f"{linear.module}.weight_shape", torch.tensor(linear.shape)


def _words(whole: Tensor, bits: int) -> Tensor:
    """Whole numbers [n, inputs] as words [n, inputs * bits / 32]: each with an offset that makes it no less than zero,
    the first input in the lowest bits."""
    each = 32 // bits
    padded = torch.nn.functional.pad(whole.long() + (1 << bits - 1), (0, -whole.shape[1] % each))
    shifted = padded.unflatten(1, (-1, each)) << torch.arange(0, 32, bits)
    return shifted.sum(-1).to(torch.int32)


def _plain(found: Checkpoint, stored: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    with found.stored_weights([stored]) as weights:
        yield from ((stored, part.to(_SCALE)) for part in blocks(weights, stored, shape))


def _scheme(format: Format, targets: list[str], packed: str) -> dict[str, Any]:
    weights: dict[str, Any] = {
        "num_bits": 4 if format == "int4" else 8,
        "type": "int",
        "symmetric": True,
        "strategy": "group" if format == "int4" else "channel",
        "group_size": GROUP if format == "int4" else None,
        "dynamic": False,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
        "block_structure": None,
    }
    activations = None
    if format == "int8":
        activations = {**weights, "strategy": "token", "dynamic": True, "observer": None, "group_size": None}
    return {"targets": targets, "weights": weights, "input_activations": activations, "output_activations": None,
            "format": packed}  # fmt: skip
