"""Any family on packed weights beside the CPU: the same forward, whose products ``kernels.device`` computes."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.kernels.device_head import DeviceHead
from redraft.kernels.layer import PackedLayer
from redraft.kernels.norm import Norm
from redraft.kernels.packed import PackedMatrix
from redraft.kernels.readout import PackedHead
from redraft.layers.embedding import TokenTable
from redraft.layers.readouts import read_canvases
from redraft.layers.vocabulary_head import VocabularyHead
from redraft.models.packed import PackedModel, PackedParts, PackedSelfConditioning

_Part = TypeVar("_Part", PackedLayer, PackedMatrix, Norm, TokenTable, PackedSelfConditioning)


class DeviceModel(PackedModel):
    """A packed model with its weights on a device.

    A head whose table is the embedding reads that, which is there for look-ups as files store it; the packed table
    stays where it was, and is not used. Any other is dequantised, to bfloat16.
    """

    def __init__(self, model: PackedModel, device: torch.device | str) -> None:
        self._device = torch.device(device)
        parts = _moved_parts(model.parts, self._device)
        table = model.parts.head.table
        super().__init__(parts, model.format, model.nbytes - table.nbytes)
        self._head = _dense_head(model.parts.head, parts.embed, self._device)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def batch_independent(self) -> bool:
        """False: how many rows there are decides which products are taken."""
        return False

    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        """Read each span's hidden rows [C, H] as its spec asks."""
        return read_canvases(self._head, hidden, specs)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return soft-capped float32 logits [..., V] of ``hidden`` [..., H]: for tests and comparisons."""
        table, cap = self._head.plain.table, self._head.plain.softcap
        logits = (hidden.to(table.dtype) @ table.T).float()
        return logits if cap is None else cap * torch.tanh(logits / cap)


def _dense_head(head: PackedHead, embed: TokenTable, device: torch.device) -> DeviceHead:
    table = embed.table
    if head.embedding_scale is None:
        dtype = torch.float32 if head.table.format == "float32" else torch.bfloat16
        table = head.table.unpacked()[0].to(dtype).to(device)
    return DeviceHead(VocabularyHead(table, head.softcap, head.embedding_scale))


def _moved_parts(parts: PackedParts, device: torch.device) -> PackedParts:
    conditioning = parts.self_conditioning
    return replace(
        parts,
        layers=[_moved(layer, device) for layer in parts.layers],
        embed=replace(_moved(parts.embed, device), let_go=None),
        self_conditioning=None if conditioning is None else _moved(conditioning, device),
        norm=_moved(parts.norm, device),
    )


def _moved(part: _Part, device: torch.device) -> _Part:
    """Return a part of a model with all its tensors, and those of its own parts, on a device."""
    changed: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = value.detach().to(device)
        # One after the other: a type variable takes one type at a time.
        elif isinstance(value, PackedMatrix):  # noqa: SIM114
            changed[field.name] = _moved(value, device)
        elif isinstance(value, Norm):
            changed[field.name] = _moved(value, device)
    return replace(part, **changed)
