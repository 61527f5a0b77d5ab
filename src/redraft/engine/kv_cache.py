"""Keys and values of one sequence, in buffers that grow; sliding layers keep little more than their window."""

from collections.abc import Sequence

import torch
from torch import Tensor


class LayerCache:
    """One layer's buffer [1, kv_heads, capacity, D] for keys and one for values.

    ``keep`` is how many past positions the layer ever reads, None for all. A sliding layer's buffer holds twice that,
    so that old positions are dropped in rare moves, and so that the sequence can be cut back a little.
    """

    def __init__(self, kv_heads: int, head_dim: int, keep: int | None) -> None:
        self._shape = (kv_heads, head_dim)
        self._keep = keep
        self._keys = self._values = torch.empty(0)
        self._stored = 0
        self.floor = 0
        """The first position that is still held."""

    def read(self) -> tuple[Tensor, Tensor] | None:
        """Views of the keys and values [1, kv_heads, S, D] of the last ``keep`` positions; None when empty."""
        if self._stored == 0:
            return None
        first = 0 if self._keep is None else max(0, self._stored - self._keep)
        if first == self._stored:
            return None
        return self._keys[:, :, first : self._stored], self._values[:, :, first : self._stored]

    def write(self, keys: Tensor, values: Tensor) -> None:
        """Append keys and values [1, kv_heads, T, D]."""
        count = keys.shape[2]
        self._make_room(count, keys)
        self._keys[:, :, self._stored : self._stored + count] = keys
        self._values[:, :, self._stored : self._stored + count] = values
        self._stored += count

    def cut(self, length: int) -> None:
        """Forget all positions from ``length`` on."""
        self._stored = length - self.floor

    def can_cut(self, length: int) -> bool:
        """Whether every position that a sequence of ``length`` would read is still held."""
        return self.floor == 0 or (self._keep is not None and length - self._keep >= self.floor)

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def _make_room(self, count: int, like: Tensor) -> None:
        capacity = self._keys.shape[2] if self._keys.ndim == 4 else 0
        if self._stored + count <= capacity:
            return
        dropped = 0 if self._keep is None else max(0, self._stored - self._keep)
        kept = self._stored - dropped
        needed = kept + count
        kv_heads, head_dim = self._shape
        if needed > capacity:
            # Doubling keeps the total cost of growing linear in the length of the sequence.
            capacity = max(needed, 2 * capacity, 64 if self._keep is None else min(2 * self._keep + count, 2 * needed))
        keys, values = (like.new_empty(1, kv_heads, capacity, head_dim) for _ in range(2))
        if kept:
            keys[:, :, :kept] = self._keys[:, :, dropped : self._stored]
            values[:, :, :kept] = self._values[:, :, dropped : self._stored]
        self._keys, self._values = keys, values
        self._stored, self.floor = kept, self.floor + dropped


class KVCache:
    """The encoded context of one sequence (a ``models.base.Cache``)."""

    def __init__(self, layout: Sequence[tuple[int, int, int | None]]) -> None:
        """``layout`` is the model's ``cache_layout``: (kv_heads, head_dim, positions kept) of every layer."""
        self._layers = [LayerCache(*layer) for layer in layout]
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    def read(self, layer: int) -> tuple[Tensor, Tensor] | None:
        return self._layers[layer].read()

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self._layers[layer].write(keys, values)

    def advance(self, count: int) -> None:
        self._length += count

    def cut(self, length: int) -> bool:
        """Forget all from position ``length`` on; False, with nothing changed, where a sliding layer no longer holds
        what the shorter sequence would read."""
        if not 0 <= length <= self._length:
            raise ValueError(f"cannot cut a cache of {self._length} tokens to {length}")
        if not all(layer.can_cut(length) for layer in self._layers):
            return False
        for layer in self._layers:
            layer.cut(length)
        self._length = length
        return True

    @property
    def nbytes(self) -> int:
        """Bytes that the buffers take."""
        return sum(layer.nbytes for layer in self._layers)
