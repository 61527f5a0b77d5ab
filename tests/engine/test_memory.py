"""The pool against plain lists of tokens: what a sequence reads, what is found again, and every byte counted."""

from collections.abc import Sequence
from itertools import chain
from typing import ClassVar

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from redraft.engine.memory import KVPool, PooledCache, _Block
from redraft.models import checkpoint
from redraft.models.base import Span
from redraft.models.diffusion_gemma.model import DiffusionGemma
from tests.random_checkpoint import random_checkpoint
from tests.thorough import some

Layout = list[tuple[int, int, int | None]]


class Contexts:
    """Keys that tell apart all that a position depends on: the tokens up to it, the layer, head and coordinate."""

    _stamps: ClassVar[dict[tuple[int, ...], int]] = {}

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def rows(self, layer: int, tokens: list[int], positions: range) -> Tensor:
        heads, dim, _ = self.layout[layer]
        stamps = [self._stamps.setdefault(tuple(tokens[: i + 1]), len(self._stamps)) for i in positions]
        own = torch.arange(heads * dim).view(heads, 1, dim) / 1000 + layer / 10
        return torch.tensor(stamps, dtype=torch.float64).view(1, 1, -1, 1) + own

    def write(self, cache: PooledCache, tokens: list[int], count: int) -> None:
        """The next ``count`` of ``tokens``; causal rows see themselves and their windows on the way."""
        start, end = cache.length, cache.length + count
        for layer, (_, _, keep) in enumerate(self.layout):
            keys = self.rows(layer, tokens, range(start, end))
            cache.write(layer, keys, -keys)
            first = 0 if keep is None else max(0, start - keep)
            stored = joined(cache.read(layer, count))
            expected = self.rows(layer, tokens, range(first, end))
            assert torch.equal(stored[0][:, :, -expected.shape[2] :], expected)
            assert (end - stored[0].shape[2]) % cache._pool.block == 0, "borders depend on positions alone"
        cache.advance(count)

    def check(self, cache: PooledCache, tokens: list[int]) -> None:
        for layer, (_, _, keep) in enumerate(self.layout):
            first = 0 if keep is None else max(0, cache.length - keep)
            expected = self.rows(layer, tokens, range(first, cache.length))
            if not expected.shape[2]:
                assert cache.read(layer) == []
                continue
            keys, values = joined(cache.read(layer))
            assert torch.equal(keys, expected)
            assert torch.equal(values, -expected)


def joined(stored: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, values = zip(*stored, strict=True)
    return torch.cat(keys, dim=2), torch.cat(values, dim=2)


def blocks_of(pool: KVPool, caches: list[PooledCache]) -> list[_Block]:
    """All blocks that anything leads to, once each."""
    found: dict[int, _Block] = {}
    left = [pool._root, *chain(*(cache._blocks for cache in caches))]
    while left:
        block = left.pop()
        found[id(block)] = block
        left += block.children.values()
    return list(found.values())


def assert_counted(pool: KVPool, caches: list[PooledCache]) -> None:
    """Every byte is that of a tensor that exists, held by as many as say so; nothing is over the budget."""
    used = cached = 0
    for block in blocks_of(pool, caches):
        assert block.users == sum(block in cache._blocks for cache in caches)
        for number, part in enumerate(block.parts):
            holders = sum(
                block in cache._blocks and cache._blocks.index(block) >= cache._first[number] for cache in caches
            )
            assert block.holders[number] == holders
            assert ((block, number) in pool._idle) == (part is not None and not holders)
            if part is None:
                assert holders == 0
                continue
            nbytes = part.layers[0][0].untyped_storage().nbytes()
            assert nbytes == pool._kinds[number].nbytes
            used, cached = used + nbytes * bool(holders), cached + nbytes * (not holders)
        assert block is pool._root or block in chain(*(c._blocks for c in caches)) or any(block.parts) or block.children
    assert (pool.used, pool.cached) == (used, cached)
    assert used <= pool.promised
    if pool.budget is not None:
        assert pool.promised <= pool.budget
        assert used + cached <= pool.budget


class Naive:
    """What is known of past contexts without a budget: the beginnings whose last block each kind of layer kept."""

    def __init__(self, block: int, step: int, keeps: list[int | None]) -> None:
        self.block, self.step = block, step
        self.known: dict[int | None, set[tuple[int, tuple[int, ...]]]] = {keep: set() for keep in keeps}

    def beginning(self, tokens: list[int], index: int) -> tuple[int, tuple[int, ...]]:
        """A block, and all tokens that its bits may depend on: those up to the end of the forwards that wrote it."""
        return index, tuple(tokens[: (index // self.step + 1) * self.step * self.block])

    def learn(self, tokens: list[int], length: int, read_from: int) -> None:
        """Of the first ``length`` tokens; sliding layers hold what a sequence of ``read_from`` tokens reads."""
        for keep, known in self.known.items():
            first = 0 if keep is None else max(0, read_from - keep) // self.block
            for index in range(first, length // (self.block * self.step) * self.step):
                known.add(self.beginning(tokens, index))

    def hit(self, tokens: list[int]) -> int:
        def there(count: int) -> bool:
            length = count * self.block
            return all(
                self.beginning(tokens, index) in known
                for keep, known in self.known.items()
                for index in range(0 if keep is None else max(0, length - keep) // self.block, count)
            )

        counts = range(0, len(tokens) // self.block + 1, self.step)
        return max(count for count in counts if there(count)) * self.block


class PoolMachine(RuleBasedStateMachine):
    """Opens, grows and closes sequences of a few alike contexts in any order."""

    @initialize(
        block=st.integers(1, 5),
        keeps=st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=2),
        multiple=st.sampled_from([1, 1, 2, 3]),
        longest_write=st.integers(1, 9),
        budget=st.one_of(st.none(), st.integers(0, 12)),
    )
    def start(self, block, keeps, multiple, longest_write, budget):
        self.layout: Layout = [(1 + i, 1 + i % 2, keep) for i, keep in enumerate([None, *keeps])]
        self.write_at_once = longest_write
        self.options = {"longest_write": longest_write, "multiple": multiple, "dtype": torch.float64}
        limit = None if budget is None else KVPool(self.layout, block, **self.options).bytes_for(budget * block)
        self.pool = KVPool(self.layout, block, limit, **self.options)
        self.contexts = Contexts(self.layout)
        self.naive = Naive(block, self.pool._step, [keep for *_, keep in self.layout])
        self.open: list[tuple[PooledCache, list[int], int]] = []

    @rule(tokens=st.lists(st.integers(0, 1), max_size=24), reserve=st.booleans())
    def opens(self, tokens, reserve):
        expected = self.naive.hit(tokens)
        cache, known = self.pool.open(tokens)
        assert cache.length == known
        assert known == expected or (self.pool.budget is not None and known <= expected)
        self.contexts.check(cache, tokens)
        fits = cache.reserve(len(tokens))
        if not self.open and (self.pool.budget is None or self.pool.bytes_for(len(tokens)) <= self.pool.budget):
            assert fits, "nothing else runs"
        if fits or not reserve:
            self.open.append((cache, tokens, len(tokens)))
        else:
            cache.close()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), more=st.lists(st.integers(0, 1), min_size=1, max_size=9))
    def grows(self, data, more):
        which = data.draw(st.integers(0, len(self.open) - 1))
        cache, tokens, prompt = self.open[which]
        if cache.length == len(tokens):
            more = more[: self.write_at_once]
            if self.pool._step == 1 and prompt == len(tokens) and len(more) % 2:
                cache.follow(more)
                prompt += len(more)
            tokens = tokens + more
            self.open[which] = cache, tokens, prompt
        before, promised = cache.length, self.pool.promised
        count = min(len(tokens) - before, self.write_at_once)
        if not cache.reserve(len(tokens)):
            assert self.pool.promised == promised
            return
        expected = self.pool.promised
        self.contexts.write(cache, tokens, count)
        assert self.pool.promised <= expected, "what was reserved suffices"
        self.naive.learn(tokens[:prompt], min(cache.length, prompt), before)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), keep=st.booleans())
    def closes(self, data, keep):
        cache, tokens, prompt = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        length = cache.length
        # As in torch, where only what was encoded in whole chunks may stay.
        kept = tokens[:length] if self.pool._step == 1 else tokens[: min(length, prompt)]
        cache.close(kept if keep else ())
        cache.close(tokens)
        if keep:
            self.naive.learn(kept, len(kept), length)
        with pytest.raises(ValueError, match="was closed"):
            cache.read(0)

    @rule()
    def forgets(self):
        self.pool.forget()
        assert self.pool.cached == 0
        self.naive = Naive(self.pool.block, self.pool._step, [keep for *_, keep in self.layout])
        # What open caches hold stays known.
        for cache, tokens, _ in self.open:
            for keep, known in self.naive.known.items():
                first = 0 if keep is None else max(0, cache.length - keep) // self.pool.block
                known.update(self.naive.beginning(tokens, i) for i in range(first, cache._linked))

    @invariant()
    def reads_what_it_wrote(self):
        for cache, tokens, _ in getattr(self, "open", ()):
            self.contexts.check(cache, tokens)

    @invariant()
    def counts_every_byte(self):
        if hasattr(self, "pool"):
            assert_counted(self.pool, [cache for cache, *_ in self.open])

    def teardown(self):
        for cache, *_ in getattr(self, "open", ()):
            cache.close()
        if hasattr(self, "pool"):
            assert (self.pool.used, self.pool.promised) == (0, 0), "nothing leaks"
            self.pool.forget()
            assert not self.pool._root.children


PoolMachine.TestCase.settings = settings(
    max_examples=some(60), stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPool = PoolMachine.TestCase

FULL: Layout = [(1, 2, None)]
MIXED: Layout = [(1, 2, None), (1, 2, 5)]


def filled(pool: KVPool, layout: Layout, tokens: list[int]) -> PooledCache:
    cache, _ = pool.open(tokens)
    if count := len(tokens) - cache.length:
        Contexts(layout).write(cache, tokens, count)
    return cache


def test_a_shared_block_is_one_tensor_while_both_sequences_run():
    pool = KVPool(FULL, block=4, dtype=torch.float64)
    one = filled(pool, FULL, list(range(9)))
    other, known = pool.open([*range(8), 20])
    assert known == 8
    assert one.read(0)[0][0].data_ptr() == other.read(0)[0][0].data_ptr()
    assert pool.used == 3 * pool.bytes_for(4)
    one.close()
    assert pool.used == 2 * pool.bytes_for(4)


def test_two_that_encode_the_same_at_once_end_up_with_one_copy():
    pool = KVPool(FULL, block=4, dtype=torch.float64)
    one, other = pool.open(range(8))[0], pool.open(range(8))[0]
    for cache in (one, other):
        Contexts(FULL).write(cache, list(range(8)), 8)
    assert pool.used == 2 * pool.bytes_for(4)
    assert one.read(0)[1][0].data_ptr() == other.read(0)[1][0].data_ptr()


def test_the_least_recently_used_goes_first_and_the_end_before_the_beginning():
    pool = KVPool(FULL, block=4, dtype=torch.float64)
    pool.budget = pool.bytes_for(6 * 4)
    first, second = [1] * 12, [2] * 12
    for tokens in (first, second, first[:4]):
        filled(pool, FULL, tokens).close()
    assert pool.cached == pool.budget
    new = filled(pool, FULL, [3] * 8)
    assert [len(pool._known(tuple(tokens))) for tokens in (first, second)] == [1, 3]
    Contexts(FULL).write(new, [3] * 12, 4)
    assert [len(pool._known(tuple(tokens))) for tokens in (first, second)] == [1, 2]


def test_two_pools_on_one_budget_take_no_more_than_it_together():
    """What one promises the other cannot have; what one keeps for later gives way to what the other needs."""
    one, other = (KVPool(FULL, block=4, dtype=torch.float64) for _ in range(2))
    one.budget = one.bytes_for(6 * 4)
    other.share(one)
    filled(one, FULL, [1] * 16).close()
    filled(other, FULL, [2] * 8).close()
    assert one.cached + other.cached == one.budget
    assert filled(other, FULL, [3] * 12).length == 12
    assert one.used + one.cached + other.used + other.cached <= one.budget == other.budget
    assert not other.cached, "its own gives way first"
    assert one.cached == one.bytes_for(12), "then the other's, as much as is needed"
    assert one.open()[0].reserve(12)
    assert not other.open()[0].reserve(4)


def test_a_hit_needs_the_sliding_layers_window_before_it():
    """The full layers' blocks are all there; what a sliding layer still holds decides."""
    pool = KVPool(MIXED, block=4, longest_write=4, dtype=torch.float64)
    tokens = list(range(24))
    cache, _ = pool.open()
    for _ in range(6):
        Contexts(MIXED).write(cache, tokens, 4)
    cache.close(tokens)
    assert [pool.open(tokens[:length])[1] for length in (24, 23, 16)] == [24, 0, 0]
    known, _ = pool.open(tokens)
    known.close()
    for _ in range(6):
        # As a prompt, whose tokens are known from the start, all of it stays.
        cache, _ = pool.open([99, *tokens])
        while cache.length < 25:
            Contexts(MIXED).write(cache, [99, *tokens], min(4, 25 - cache.length))
        cache.close()
    assert [pool.open([99, *tokens][:length])[1] for length in (25, 23, 16)] == [24, 20, 16]


def test_sliding_layers_memory_does_not_grow_with_the_sequence():
    layout: Layout = [(1, 2, 5)]
    pool = KVPool(layout, block=4, longest_write=3, dtype=torch.float64)
    cache, tokens = pool.open()[0], list(range(400))
    sizes = []
    for _ in range(130):
        Contexts(layout).write(cache, tokens, 3)
        sizes.append(cache.nbytes)
    assert max(sizes) <= pool.bytes_for(400) == pool.bytes_for(100) == 3 * pool.bytes_for(4)
    assert pool.used == cache.nbytes


def test_a_reservation_is_all_or_nothing_and_waits_for_what_others_hold():
    pool = KVPool(MIXED, block=4, longest_write=4, dtype=torch.float64)
    pool.budget = pool.bytes_for(40)
    one, other = pool.open()[0], pool.open()[0]
    assert one.reserve(24)
    before = pool.promised
    assert not other.reserve(24)
    assert pool.promised == before
    assert not other.reserve(24)
    with pytest.raises(MemoryError, match="a sequence of 24 tokens"):
        Contexts(MIXED).write(other, list(range(24)), 24)
    one.close()
    assert other.reserve(24)


def test_the_longest_sequence_that_fits_is_found():
    pool = KVPool(MIXED, block=4, longest_write=4)
    for positions in (0, 1, 4, 5, 31, 100):
        for nbytes in (pool.bytes_for(positions), pool.bytes_for(positions) + 1):
            longest = pool.positions_for(nbytes, 1000)
            assert pool.bytes_for(longest) <= nbytes < pool.bytes_for(longest + 1)
    assert pool.positions_for(10**9, 1000) == 1000


def test_without_a_budget_what_is_kept_has_an_end(monkeypatch):
    monkeypatch.setattr("redraft.engine.memory.KEPT_WITHOUT_BUDGET", 0)
    pool = KVPool(FULL, block=4, dtype=torch.float64)
    for number in range(20):
        filled(pool, FULL, [number] * 12).close()
    assert pool.cached == pool.bytes_for(12)


def test_hits_and_lookups_count_tokens_of_those_that_got_room():
    pool = KVPool(FULL, block=4, dtype=torch.float64)
    filled(pool, FULL, list(range(10))).close()
    cache, _ = pool.open(range(10))
    assert (pool.hits, pool.lookups) == (0, 0)
    for _ in range(2):
        assert cache.reserve(10)
    assert (pool.hits, pool.lookups) == (8, 10)


@pytest.fixture(scope="module", params=[1, 2, 8], ids="window {}".format)
def model(request, tmp_path_factory) -> DiffusionGemma:
    folder = tmp_path_factory.mktemp("model")
    model = checkpoint.read(random_checkpoint(folder, sliding_window=request.param)).load()
    assert isinstance(model, DiffusionGemma)
    return model


@pytest.mark.parametrize("chunk", [1, 3, 8, 9])
@pytest.mark.parametrize("block", [4, 7, 64])
@torch.inference_mode()
def test_in_the_model_chunks_give_what_one_forward_gives(model, chunk, block):
    def logits(cache: PooledCache) -> Tensor:
        (hidden,) = model([Span(torch.arange(20, 28), cache, "denoise")])
        assert hidden is not None
        return model.logits(hidden)

    prompt = torch.randint(0, 64, (30,), generator=torch.Generator().manual_seed(0))
    whole, parts = (KVPool.of(model, block).open()[0] for _ in range(2))
    model([Span(prompt, whole, "encode")])
    for part in prompt.split(chunk):
        model([Span(part, parts, "encode")])
    torch.testing.assert_close(logits(parts), logits(whole), rtol=0, atol=1e-4)


def test_what_was_encoded_last_can_be_taken_back() -> None:
    """And others stand in its place; a sliding layer still has what its window needs before them."""
    layout = [(1, 2, None), (1, 2, 4)]
    pool = KVPool(layout, block=4, longest_write=8)
    cut, plain = pool.open((), undone=6)[0], pool.open(())[0]

    def write(cache: PooledCache, values: Sequence[int]) -> None:
        rows = torch.tensor(values, dtype=torch.float32)[None, None, :, None].expand(1, 1, -1, 2)
        for layer in range(len(layout)):
            cache.write(layer, rows, rows)
        cache.advance(len(values))

    for start in range(0, 12, 3):
        write(cut, range(start, start + 3))
        write(plain, range(start, start + 3))
    write(cut, [90, 91, 92, 93, 94, 95])
    cut.truncate(12)
    assert cut.length == 12
    write(cut, [12, 13])
    write(plain, [12, 13])
    for layer in range(len(layout)):
        ours, theirs = (torch.cat([keys for keys, _ in one.read(layer)], 2) for one in (cut, plain))
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="14 positions cannot be cut back to 3; 6 can be undone"):
        cut.truncate(3)
    with pytest.raises(ValueError, match="cannot be cut back to 15"):
        cut.truncate(15)
    # What others may read already stays as it is.
    shared = pool.open((), undone=6)[0]
    write(shared, range(6))
    shared.follow(range(6))
    write(shared, [6])
    with pytest.raises(ValueError, match="cannot be cut back to 3"):
        shared.truncate(3)


def test_a_limit_is_never_passed_and_keeps_no_more_for_later_than_before() -> None:
    layout: Layout = [(1, 4, None)]
    pool = KVPool(layout, block=4)
    block = pool.bytes_for(4)
    pool.limit(3 * block)
    assert pool.budget == 3 * block
    cache, _ = pool.open()
    assert cache.reserve(12)
    assert not cache.reserve(13)
    cache.close()
    own = KVPool(layout, block=4, budget=5 * block)
    own.limit(block)
    assert own.budget == 5 * block, "what a user gave stands"
