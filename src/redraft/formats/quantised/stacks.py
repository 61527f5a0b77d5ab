"""Experts that are stored one by one, stacked to the fused tensors that the model was published with.

``experts.E.gate_proj.weight``, ``up_proj`` and ``down_proj`` of all E become ``experts.gate_up_proj``
[E, 2 * intermediate, hidden], gates first, and ``experts.down_proj`` [E, hidden, intermediate].
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats.quantised.matrices import Matrix
from redraft.formats.tensors import Grid, Part, RawReader, Rows
from redraft.kernels.whole_numbers import WholeNumbers

_EXPERT = re.compile(r"(?P<layer>.*\.experts)\.(?P<number>\d+)\.(?P<projection>gate_proj|up_proj|down_proj)\.weight")
# MLX's fused tensors are modules' weights.
_FUSED = re.compile(r"(.*\.experts\.(?:gate_up_proj|down_proj))\.weight")
_FUSIONS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


@dataclass(frozen=True)
class Stack:
    """Matrices of one shape, each of one part or of two, one above the other."""

    matrices: tuple[tuple[Matrix, ...], ...]
    """[count][1 or 2]"""

    @cached_property
    def _all(self) -> list[Matrix]:
        return [part for matrix in self.matrices for part in matrix]

    @property
    def parts(self) -> Iterator[Part]:
        for matrix in self._all:
            yield from matrix.parts

    @cached_property
    def shape(self) -> tuple[int, ...]:
        outputs = sum(part.shape[0] for part in self.matrices[0])
        return len(self.matrices), outputs, self.matrices[0][0].shape[1]

    @cached_property
    def dtype(self) -> torch.dtype:
        kinds = {matrix.dtype for matrix in self._all}
        return kinds.pop() if len(kinds) == 1 else torch.float32

    @cached_property
    def label(self) -> str | None:
        labels = sorted({matrix.label for matrix in self._all if matrix.label is not None})
        return " and ".join(labels) or None

    @cached_property
    def grid(self) -> Grid | None:
        """The grid that all have; None where they differ."""
        first = self._all[0].grid
        return first if all(matrix.grid == first for matrix in self._all) else None

    def values(self, raw: RawReader) -> Tensor:
        found = torch.empty(self.shape, dtype=self.dtype)
        for own, matrix in zip(found, self.matrices, strict=True):
            for place, part in zip(own.split([part.shape[0] for part in matrix]), matrix, strict=True):
                place[:] = part.values(raw)
        return found

    def rows(self, raw: RawReader, number: int, rows: Rows) -> Tensor | WholeNumbers:
        chosen, first = torch.arange(self.shape[1])[rows], 0
        places, found = [], []
        for part in self.matrices[number]:
            own = (chosen >= first) & (chosen < first + part.shape[0])
            if own.any():
                places.append(own.nonzero()[:, 0])
                found.append(part.rows(raw, 0, chosen[own] - first))
            first += part.shape[0]
        return _in_order(torch.cat(places) if places else chosen, found or [torch.empty(0, self.shape[2])])


def _in_order(places: Tensor, found: Sequence[Tensor | WholeNumbers]) -> Tensor | WholeNumbers:
    """Put rows of several parts, which belong to ``places`` [n], in their order."""
    order = places.argsort()
    whole = [one for one in found if isinstance(one, WholeNumbers)]
    alike = {(one.bits, one.group, one.minimums is None, one.whole.dtype) for one in whole}
    if len(whole) < len(found) or len(alike) != 1:
        return torch.cat([one.values() if isinstance(one, WholeNumbers) else one for one in found])[order]
    minimums = [one.minimums for one in whole if one.minimums is not None]
    return WholeNumbers(
        torch.cat([one.whole for one in whole])[order],
        torch.cat([one.scales for one in whole])[order],
        torch.cat(minimums)[order] if minimums else None,
        whole[0].bits,
    )


def stacked(matrices: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """Return matrices under published names: experts that are stored one by one as stacks, all others as they are.

    Raises CheckpointError naming an expert that is missing, or of another shape than the first.
    """
    found: dict[str, Matrix] = {}
    layers: dict[str, dict[tuple[int, str], Matrix]] = {}
    for name, matrix in matrices.items():
        if own := _EXPERT.fullmatch(name):
            layers.setdefault(own["layer"], {})[int(own["number"]), own["projection"]] = matrix
        else:
            fused = _FUSED.fullmatch(name)
            found[fused[1] if fused else name] = matrix
    for layer, experts in layers.items():
        for fusion, projections in _FUSIONS.items():
            found[f"{layer}.{fusion}"] = _stack(layer, experts, projections)
    return found


def _stack(layer: str, experts: Mapping[tuple[int, str], Matrix], projections: Sequence[str]) -> Stack:
    count = 1 + max(number for number, _ in experts)
    for number in range(count):
        for projection in projections:
            own, first = experts.get((number, projection)), experts.get((0, projection))
            if own is None or first is None:
                raise CheckpointError(
                    f"{_where(experts)}: tensor {layer}.{number if own is None else 0}.{projection}.weight is missing, "
                    f"and experts go up to {count - 1}; the download may be incomplete"
                )
            if own.shape != first.shape or len(own.shape) != 2:
                raise CheckpointError(
                    f"{_where(experts)}: tensor {layer}.{number}.{projection}.weight has shape {list(own.shape)}, and "
                    f"that of expert 0 has {list(first.shape)}"
                )
    return Stack(tuple(tuple(experts[number, projection] for projection in projections) for number in range(count)))


def _where(experts: Mapping[tuple[int, str], Matrix]) -> str:
    return str(next(next(iter(experts.values())).parts).file)
