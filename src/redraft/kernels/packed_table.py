"""A packed vocabulary for torch, which makes float32 of the rows that it is asked for and keeps none of them."""

import torch
from torch import Tensor

from redraft.kernels.packed import BLOCK, PackedMatrix
from redraft.layers.tiles import HeadTiles


class PackedTable:
    """The rows [V, H] of a packed matrix, float32, as ``layers.tiles.Table``."""

    dtype = torch.float32

    def __init__(self, matrix: PackedMatrix) -> None:
        """``matrix``: a single one, and not a gated one, whose rows lie in panels in another order."""
        self._matrix = matrix
        self.shape = torch.Size((matrix.outputs, matrix.inputs))

    def __len__(self) -> int:
        return self._matrix.outputs

    def __getitem__(self, tokens: slice | Tensor, /) -> Tensor:
        if isinstance(tokens, Tensor):
            return self._matrix.rows(tokens.flatten()).view(*tokens.shape, -1)
        start, end, _ = tokens.indices(len(self))
        first = start // BLOCK
        return self._matrix.panels(0, slice(first, -(-end // BLOCK)))[start - first * BLOCK : end - first * BLOCK]


class PackedTiles(HeadTiles):
    """Tiles of the products of hidden states with a packed table; more tokens than a tile has are computed a tile after
    the other, so that no more rows than those of one are there at a time."""

    def products(self, tokens: slice | Tensor, rows: Tensor | None) -> Tensor:
        """See ``Tiles.products``."""
        if isinstance(tokens, Tensor):
            parts: list[slice | Tensor] = list(tokens.split(self.tile))
        else:
            start, end, _ = tokens.indices(self.vocabulary)
            parts = [slice(first, min(end, first + self.tile)) for first in range(start, end, self.tile)]
        if len(parts) <= 1:
            return super().products(tokens, rows)
        return torch.cat([super(PackedTiles, self).products(part, rows) for part in parts], dim=-1)
