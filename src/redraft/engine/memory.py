"""Keys and values of many sequences in blocks, shared where sequences start alike, within a budget of bytes.

The blocks are those of vLLM's paged cache in idea, and layers with a sliding window are counted apart, as in its
hybrid manager: a block has a part for each kind of layer, and a part goes when the window has left it behind.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import lcm, prod

import torch
from torch import Tensor

from redraft.models.base import KV_BLOCK, PREFILL_CHUNK, BlockDiffusionModel, max_blocks

Layout = Sequence[tuple[int, int, int | None]]
# What a pool without a budget keeps for later prompts at least; beyond it, as much as was ever in use at a time.
KEPT_WITHOUT_BUDGET = 1 << 28


@dataclass(frozen=True)
class _Kind:
    """Layers that keep equally many positions: their part of a block is taken and dropped together."""

    keep: int | None
    shapes: tuple[tuple[int, ...], ...]
    """[1, kv_heads, block, D] of every layer's keys, which is that of its values too."""
    nbytes: int


@dataclass(frozen=True)
class _Part:
    """One kind of layer's part of a block."""

    layers: tuple[tuple[Tensor, Tensor], ...]


@dataclass(eq=False)
class _Block:
    """Positions of one sequence or, once it is known by its tokens and those before it, of all that start with them."""

    parts: list[_Part | None]
    holders: list[int]
    """The number of open caches that hold each part."""
    users: int = 0
    """The number of open caches that have the block, also where they hold none of its parts any more."""
    parent: "_Block | None" = None
    """The block before it; None as long as only one cache knows it."""
    tokens: tuple[int, ...] = ()
    """Its key among the children of its parent."""
    children: "dict[tuple[int, ...], _Block]" = field(default_factory=dict)
    """The blocks that follow it by their tokens, which are compared: two contexts are never taken for one another."""


@dataclass(eq=False)
class Budget:
    """The bytes that pools may take together: an engine's and its draft model's, or those of all models of a server."""

    limit: int | None
    """None for no limit."""
    pools: "list[KVPool]" = field(default_factory=list)
    fills: bool = False
    """True of one that was given to be used up by what is kept for later; another is only not to be passed."""

    def fits(self, more: int) -> bool:
        """Tell whether so many bytes more can be promised."""
        return not more or self.limit is None or sum(pool.promised for pool in self.pools) + more <= self.limit

    def make_room(self, nbytes: int, pool: "KVPool") -> None:
        """Drop what is kept for later, that of ``pool`` first, until so many bytes that were promised are free."""
        while self.limit is not None and sum(one.used + one.cached for one in self.pools) + nbytes > self.limit:
            next(one for one in (pool, *self.pools) if one.cached).drop_oldest()


class KVPool:
    """Hands out caches and keeps their blocks for later prompts that start the same.

    ``used`` and ``cached`` together never exceed the budget, those of pools that share one together. What is promised
    to open caches, by ``reserve``, may be more than they use yet; blocks that are kept for later fill the rest, and the
    least recently used give way.
    """

    def __init__(
        self,
        layout: Layout,
        block: int = KV_BLOCK,
        budget: int | None = None,
        *,
        longest_write: int = PREFILL_CHUNK,
        multiple: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """layout: the model's ``cache_layout``: (kv_heads, head_dim, positions kept) of every layer. block: positions a
        block. budget: bytes, None for no limit. longest_write: positions that a sequence writes at once at most; what
        a sliding layer needs room for beside its window. multiple: contexts are shared in multiples of so many
        positions alone, for a model whose rounding depends on what else is in a forward."""
        self.block, self.longest_write = block, longest_write
        self._budget = Budget(budget, [self], fills=budget is not None)
        self._dtype, self._device = dtype, device
        self._step = lcm(block, multiple) // block
        keeps = sorted({keep for _, _, keep in layout}, key=lambda keep: (keep is not None, keep or 0))
        shapes = [(1, heads, block, dim) for heads, dim, _ in layout]
        self._kinds = [
            _kind(keep, [s for s, (*_, own) in zip(shapes, layout, strict=True) if own == keep], dtype)
            for keep in keeps
        ]
        by_kind = [[i for i, (*_, own) in enumerate(layout) if own == keep] for keep in keeps]
        self._places = [
            next((kind, own.index(layer)) for kind, own in enumerate(by_kind) if layer in own)
            for layer in range(len(layout))
        ]
        self._root = self._new_block()
        self._idle: OrderedDict[tuple[_Block, int], None] = OrderedDict()
        self._used = self._cached = self._promised = self._most_used = 0
        self._hits = self._lookups = 0

    @classmethod
    def of(
        cls,
        model: BlockDiffusionModel,
        block: int = KV_BLOCK,
        budget: int | None = None,
        chunk: int = PREFILL_CHUNK,
    ) -> "KVPool":
        """A pool for ``model``, whose prompts are encoded in forwards of ``chunk`` positions."""
        return cls(
            model.cache_layout(),
            block,
            budget,
            longest_write=max(chunk, model.config.canvas_length),
            multiple=1 if model.batch_independent else chunk,
            dtype=model.kv_dtype,
            device=model.device,
        )

    def limit(self, nbytes: int) -> None:
        """Have a pool without a budget never take more than so many bytes; of what it keeps for later it keeps as much
        as before."""
        if self.budget is None:
            self.budget = nbytes

    @property
    def budget(self) -> int | None:
        """Bytes that this pool, and those that it shares a budget with, may take together; None for no limit."""
        return self._budget.limit

    @budget.setter
    def budget(self, limit: int | None) -> None:
        self._budget.limit = limit

    @property
    def memory(self) -> Budget:
        """The budget that it keeps to, which other pools may have, too."""
        return self._budget

    def share(self, other: "KVPool") -> None:
        """Keep to the budget of another pool, together with it; what this one has kept so far is dropped."""
        self.forget()
        self._budget.pools.remove(self)
        self._budget = other._budget
        self._budget.pools.append(self)

    @property
    def used(self) -> int:
        """Bytes of the blocks that open caches hold."""
        return self._used

    @property
    def cached(self) -> int:
        """Bytes of the blocks that are kept for later prompts alone."""
        return self._cached

    @property
    def promised(self) -> int:
        """Bytes that open caches may come to use; what they use already is part of it."""
        return self._promised

    @property
    def hits(self) -> int:
        """Tokens that were not encoded again, of all prompts so far."""
        return self._hits

    @property
    def lookups(self) -> int:
        """Tokens of all prompts so far."""
        return self._lookups

    def bytes_for(self, positions: int, undone: int = 0) -> int:
        """Bytes that a sequence of so many positions takes at a time at most; ``undone`` as in ``open``."""
        blocks, written = -(-positions // self.block), self.longest_write + undone
        return sum(kind.nbytes * min(blocks, self._max_blocks(kind, written, blocks)) for kind in self._kinds)

    def positions_for(self, nbytes: int, most: int, undone: int = 0) -> int:
        """The length, up to ``most``, of the longest sequence that takes no more than ``nbytes``."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.bytes_for(middle, undone) <= nbytes else (low, middle - 1)
        return low

    def open(self, tokens: Sequence[int] = (), undone: int = 0) -> "tuple[PooledCache, int]":
        """A cache that already holds as many whole blocks of the beginning of ``tokens`` as are known and fit the
        budget, which can be all of it, and how many tokens that is. ``undone``: positions up to which it may be cut
        back at a time: sliding layers keep so many more."""
        tokens = tuple(tokens)
        chain = self._known(tokens)
        count = next(n for n in range(len(chain) // self._step * self._step, -1, -self._step) if self._opens(chain[:n]))
        return PooledCache(self, tokens, chain[:count], undone), count * self.block

    def forget(self) -> None:
        """Drop all that is kept for later."""
        while self._idle:
            self.drop_oldest()

    def _known(self, tokens: tuple[int, ...]) -> list[_Block]:
        chain, block = [], self._root
        for index in range(len(tokens) // self.block // self._step * self._step):
            following = block.children.get(self._key(tokens, index))
            if following is None:
                break
            chain.append(following)
            block = following
        return chain

    def _key(self, tokens: tuple[int, ...], index: int) -> tuple[int, ...]:
        """Return the key of a block among those after the one before it: its tokens, and where a forward goes on, those
        that were in it too, on which in torch the rounding depends as well."""
        blocks = 1 if index % self._step else self._step
        return tokens[index * self.block : (index + blocks) * self.block]

    def _opens(self, chain: list[_Block]) -> bool:
        """Tell whether all that a sequence reads after ``chain`` is there, and fits what is not promised to others."""
        cost = 0
        for number, kind in enumerate(self._kinds):
            for block in chain[self._first(kind, len(chain) * self.block) :]:
                if block.parts[number] is None:
                    return False
                if kind.keep is not None or not block.holders[number]:
                    cost += kind.nbytes
        return self._fits(cost)

    def _fits(self, more: int) -> bool:
        return self._budget.fits(more)

    def _first(self, kind: _Kind, length: int) -> int:
        """The first block that a sequence of ``length`` positions reads."""
        return 0 if kind.keep is None else max(0, length - kind.keep) // self.block

    def _max_blocks(self, kind: _Kind, written: int, blocks: int) -> int:
        return blocks if kind.keep is None else max_blocks(kind.keep + written, self.block)

    def _new_block(self) -> _Block:
        return _Block([None] * len(self._kinds), [0] * len(self._kinds))

    def _allocate(self, block: _Block, number: int) -> None:
        """Give ``block``, which one cache has, a part that was promised."""
        kind = self._kinds[number]
        self._budget.make_room(kind.nbytes, self)
        # Inference mode's own tensors could not be written outside of it.
        with torch.inference_mode(False):
            room = torch.empty(kind.nbytes // self._dtype.itemsize, dtype=self._dtype, device=self._device)
            sizes = [size for shape in kind.shapes for size in [prod(shape)] * 2]
            views = [part.view(shape) for part, shape in zip(room.split(sizes), _twice(kind.shapes), strict=True)]
        block.parts[number] = _Part(tuple(zip(views[::2], views[1::2], strict=True)))
        block.holders[number] = 1
        self._use(kind.nbytes)

    def _hold(self, block: _Block, number: int) -> None:
        if not block.holders[number]:
            del self._idle[block, number]
            kind = self._kinds[number]
            self._cached -= kind.nbytes
            self._use(kind.nbytes)
            if kind.keep is None:
                self._promised += kind.nbytes
        block.holders[number] += 1

    def _release(self, block: _Block, number: int) -> None:
        """One cache fewer holds a part: the last one's stays for later where its tokens are known."""
        block.holders[number] -= 1
        if block.holders[number]:
            return
        kind = self._kinds[number]
        self._used -= kind.nbytes
        if kind.keep is None:
            self._promised -= kind.nbytes
        if block.parent is None:
            block.parts[number] = None
            return
        self._cached += kind.nbytes
        self._idle[block, number] = None

    def _use(self, nbytes: int) -> None:
        self._used += nbytes
        self._most_used = max(self._most_used, self._used)

    def _trim(self) -> None:
        """Without a budget, what is kept still has an end."""
        while not self._budget.fills and self._cached > max(self._most_used, KEPT_WITHOUT_BUDGET):
            self.drop_oldest()

    def drop_oldest(self) -> None:
        """Drop the least recently used part that nobody holds. A sequence gives its blocks back last one first, so that
        a block goes before those that lead to it."""
        block, number = next(iter(self._idle))
        for other, kind in enumerate(self._kinds):
            # Without the full layers' part the others' are of no use.
            if other == number or (self._kinds[number].keep is None and (block, other) in self._idle):
                del self._idle[block, other]
                block.parts[other] = None
                self._cached -= kind.nbytes
        self._prune(block)

    def _prune(self, block: _Block) -> None:
        while block.parent is not None and not (block.users or block.children or any(block.parts)):
            parent = block.parent
            del parent.children[block.tokens]
            block.parent, block = None, parent


class PooledCache:
    """The encoded context of one sequence (a ``models.base.Cache``), in blocks of a pool; ``close`` gives them back."""

    def __init__(self, pool: KVPool, tokens: tuple[int, ...], blocks: list[_Block], undone: int = 0) -> None:
        self._pool, self._tokens, self._blocks, self._undone = pool, tokens, blocks, undone
        self._length = len(blocks) * pool.block
        self._stored = [self._length] * len(pool._places)
        self._linked = len(blocks)
        self._first = [pool._first(kind, self._length) for kind in pool._kinds]
        self._room = 0
        self._quota = [0] * len(pool._kinds)
        self._counted = self._closed = False
        for block in blocks:
            block.users += 1
        for number, first in enumerate(self._first):
            for block in blocks[first:]:
                pool._hold(block, number)
        self._secure(self._length, 0)

    @property
    def length(self) -> int:
        return self._length

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks that this cache holds, shared ones included."""
        held = [len(self._blocks) - first for first in self._first]
        return sum(count * kind.nbytes for count, kind in zip(held, self._pool._kinds, strict=True))

    def reserve(self, positions: int) -> bool:
        """Secure room for the sequence to grow to ``positions`` in all; False, with nothing changed, when the budget
        does not allow it now."""
        self._check_open()
        if not self._secure(positions, self._pool.longest_write):
            return False
        if not self._counted:
            self._counted = True
            self._pool._lookups += len(self._tokens)
            self._pool._hits += self._linked * self._pool.block
        return True

    def read(self, layer: int, rows: int = 0) -> list[tuple[Tensor, Tensor]]:
        self._check_open()
        number, rank = self._pool._places[layer]
        keep, size, end = self._pool._kinds[number].keep, self._pool.block, self._stored[layer]
        first = 0 if keep is None else max(0, end - rows - keep)
        if rows:
            first -= first % size
        found = []
        for index in range(first // size, -(-end // size)):
            part = self._blocks[index].parts[number]
            assert part is not None, "what a sequence reads is held"
            keys, values = part.layers[rank]
            start = index * size
            if start < first or start + size > end:
                own = slice(max(0, first - start), min(size, end - start))
                keys, values = keys[:, :, own], values[:, :, own]
            if keys.shape[2]:
                found.append((keys, values))
        return found

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        start = 0
        for own_keys, own_values in self.room(layer, keys.shape[2]):
            end = start + own_keys.shape[2]
            own_keys[:] = keys[:, :, start:end].detach()
            own_values[:] = values[:, :, start:end].detach()
            start = end

    def room(self, layer: int, count: int) -> list[tuple[Tensor, Tensor]]:
        self._check_open()
        number, rank = self._pool._places[layer]
        start, size = self._stored[layer], self._pool.block
        end = start + count
        self._grow(end)
        found = []
        for index in range(start // size, -(-end // size)):
            part = self._blocks[index].parts[number]
            assert part is not None, "what is written is held"
            own = slice(max(start, index * size) - index * size, min(end, (index + 1) * size) - index * size)
            keys, values = part.layers[rank]
            found.append((keys[:, :, own], values[:, :, own]))
        self._stored[layer] = end
        return found

    def advance(self, count: int) -> None:
        # A model without layers writes nothing, and its tokens count all the same.
        self._grow(self._length + count)
        self._length += count
        self._link(self._tokens)
        for number, kind in enumerate(self._pool._kinds):
            # What the window has left behind; from here on nothing reads it.
            first = self._pool._first(kind, self._length - self._undone)
            for block in self._blocks[self._first[number] : first]:
                self._pool._release(block, number)
            self._first[number] = max(self._first[number], first)
        self._pool._trim()

    def truncate(self, length: int) -> None:
        """Forget what was encoded from position ``length`` on; what is encoded next stands there.

        Raises ValueError for more than the cache was opened to undo, and for blocks that others may read already.
        """
        self._check_open()
        pool = self._pool
        kept = all(pool._first(k, length) >= first for k, first in zip(pool._kinds, self._first, strict=True))
        if not self._linked * pool.block <= length <= self._length or not kept:
            raise ValueError(f"{self._length} positions cannot be cut back to {length}; {self._undone} can be undone")
        self._length = length
        self.rewind()

    def rewind(self) -> None:
        self._stored = [self._length] * len(self._stored)

    def follow(self, tokens: Sequence[int]) -> None:
        """Say what is encoded after the tokens that are known: their blocks, too, are shared as soon as they are whole,
        and what a sliding layer has of them stays for later when the window has left it."""
        self._tokens += tuple(tokens)

    def close(self, tokens: Sequence[int] = ()) -> None:
        """Give the blocks back. Whole blocks of ``tokens``, the context that was encoded, stay for later prompts as
        long as the budget allows."""
        if self._closed:
            return
        pool = self._pool
        self._link(tuple(tokens))
        for index in reversed(range(len(self._blocks))):
            block = self._blocks[index]
            for number, first in enumerate(self._first):
                if index >= first:
                    pool._release(block, number)
            block.users -= 1
            pool._prune(block)
        pool._promised -= self._promised_more()
        self._blocks, self._closed = [], True
        self._first, self._room, self._quota = [0] * len(pool._kinds), 0, [0] * len(pool._kinds)
        pool._trim()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this cache was closed; its blocks belong to others")

    def _promised_more(self) -> int:
        """Bytes promised to this cache beside those of the full layers' blocks that it has."""
        kinds = self._pool._kinds
        return sum(
            kind.nbytes * (self._room if kind.keep is None else quota)
            for kind, quota in zip(kinds, self._quota, strict=True)
        )

    def _secure(self, positions: int, written: int) -> bool:
        pool, before = self._pool, (self._room, self._quota, self._promised_more())
        blocks = -(-positions // pool.block)
        self._room = max(self._room, blocks - len(self._blocks))
        # A part that leaves the window may be shared by then, and is not there to be used again: what a sequence may
        # ever have at a time is its own to have, whoever shares it now.
        first = self._length - self._undone
        written += self._undone
        needed = [min(blocks - pool._first(k, first), pool._max_blocks(k, written, blocks)) for k in pool._kinds]
        self._quota = [max(own, count) for own, count in zip(self._quota, needed, strict=True)]
        more = self._promised_more() - before[2]
        if not pool._fits(more):
            self._room, self._quota = before[:2]
            return False
        pool._promised += more
        return True

    def _grow(self, end: int) -> None:
        """Have blocks for all positions before ``end``."""
        pool = self._pool
        missing = -(-end // pool.block) - len(self._blocks)
        if missing <= 0:
            return
        if not self._secure(end, end - self._length):
            raise MemoryError(
                f"a sequence of {end} tokens takes {pool.bytes_for(end):,} bytes of keys and values; of the "
                f"{pool.budget:,} allowed, {pool.promised:,} are promised already"
            )
        for _ in range(missing):
            block = pool._new_block()
            block.users = 1
            self._blocks.append(block)
            for number, kind in enumerate(pool._kinds):
                pool._allocate(block, number)
                if kind.keep is None:
                    # What was promised is held now.
                    self._room -= 1

    def _link(self, tokens: tuple[int, ...]) -> None:
        """Make the whole blocks of ``tokens`` that are encoded known to others."""
        pool = self._pool
        whole = min(len(tokens), self._length) // pool.block // pool._step * pool._step
        for index in range(self._linked, whole):
            parent = self._blocks[index - 1] if index else pool._root
            block, own = self._blocks[index], pool._key(tokens, index)
            known = parent.children.get(own)
            if known is None:
                block.parent, block.tokens = parent, own
                parent.children[own] = block
            else:
                self._blocks[index] = known
                self._give_way(index, block, known)
        self._linked = max(self._linked, whole)

    def _give_way(self, index: int, block: _Block, known: _Block) -> None:
        """Replace a block by one of the same content that another sequence made known before."""
        known.users += 1
        for number, first in enumerate(self._first):
            if index < first:
                continue
            if known.parts[number] is None:
                known.parts[number], known.holders[number] = block.parts[number], 1
            else:
                self._pool._hold(known, number)
                self._pool._release(block, number)


def _kind(keep: int | None, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> _Kind:
    return _Kind(keep, tuple(shapes), sum(map(prod, _twice(shapes))) * dtype.itemsize)


def _twice(shapes: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """For keys, and for values."""
    return [shape for shape in shapes for _ in range(2)]
