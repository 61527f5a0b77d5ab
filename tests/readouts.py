"""A readout's tensors, for tests that compare one with another."""

from dataclasses import fields

from torch import Tensor

from redraft.canvas.readout import Readout


def tensors_of(readout: Readout) -> list[Tensor]:
    """All that were asked for, those by token class included; their first dimension is the position."""
    parts = (readout,) if readout.classes is None else (readout, readout.classes)
    values = (getattr(part, field.name) for part in parts for field in fields(part))
    return [value for value in values if isinstance(value, Tensor)]
