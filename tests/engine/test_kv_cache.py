"""The cache against a plain list of positions, for random writes and cuts; and in the model, however it is filled."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redraft.engine.kv_cache import KVCache
from redraft.models import checkpoint
from redraft.models.diffusion_gemma import DiffusionGemma
from tests.random_checkpoint import random_checkpoint

KEEPS = st.one_of(st.none(), st.integers(0, 9))
# A write of so many positions, or a cut at so large a share of the length.
OPERATIONS = st.lists(st.one_of(st.integers(1, 30), st.floats(0, 1)), max_size=30)


def rows(stamps: list[int], heads: int, dim: int) -> Tensor:
    """[1, heads, T, D] that tells position, head and coordinate apart."""
    own = torch.arange(heads * dim).view(heads, 1, dim) / 1000
    return torch.tensor(stamps, dtype=torch.float64).view(1, 1, -1, 1) + own


def write(cache: KVCache, layout: list[tuple[int, int, int | None]], stamps: list[int]) -> None:
    for index, (heads, dim, _) in enumerate(layout):
        keys = rows(stamps, heads, dim)
        cache.write(index, keys, -keys)
    cache.advance(len(stamps))


def assert_holds(cache: KVCache, layout: list[tuple[int, int, int | None]], stamps: list[int]) -> None:
    assert cache.length == len(stamps)
    for index, (heads, dim, keep) in enumerate(layout):
        kept = stamps if keep is None else stamps[len(stamps) - min(keep, len(stamps)) :]
        stored = cache.read(index)
        if not kept:
            assert stored is None
            continue
        assert stored is not None
        expected = rows(kept, heads, dim)
        assert torch.equal(stored[0], expected)
        assert torch.equal(stored[1], -expected)


@settings(max_examples=150, deadline=None)
@given(keeps=st.lists(KEEPS, min_size=1, max_size=3), operations=OPERATIONS)
def test_reads_what_a_list_of_positions_holds(keeps, operations):
    layout = [(1 + index, 2 + index, keep) for index, keep in enumerate(keeps)]
    cache, stamps, written = KVCache(layout), [], 0
    for operation in operations:
        if isinstance(operation, int):
            new = list(range(written, written + operation))
            written += operation
            write(cache, layout, new)
            stamps += new
        else:
            length = int(operation * len(stamps))
            if cache.cut(length):
                del stamps[length:]
            else:
                assert any(keep is not None for keep in keeps), "only a sliding layer forgets"
                assert length < len(stamps), "nothing had to be cut"
        assert_holds(cache, layout, stamps)


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("keep", range(4))
def test_every_cut_is_right_or_refused(keep, chunk):
    """The edge of what a moved buffer still holds is one position among many: all are tried."""
    layout, refused = [(1, 1, keep)], 0
    for written in range(chunk, 24, chunk):
        for length in range(written + 1):
            cache, stamps = KVCache(layout), list(range(written))
            for start in range(0, written, chunk):
                write(cache, layout, stamps[start : start + chunk])
            if cache.cut(length):
                del stamps[length:]
            else:
                refused += 1
            assert_holds(cache, layout, stamps)
    assert refused, "a buffer that is never moved shows nothing"


@pytest.mark.parametrize("length", [-1, 6])
def test_cut_outside_the_sequence_is_refused(length):
    cache = KVCache([(1, 2, None)])
    write(cache, [(1, 2, None)], list(range(5)))
    with pytest.raises(ValueError, match=f"cache of 5 tokens to {length}"):
        cache.cut(length)


def test_a_cut_refused_by_one_layer_leaves_all_layers_alone():
    layout = [(1, 2, None), (1, 2, 3)]
    cache, stamps = KVCache(layout), list(range(200))
    for stamp in stamps:
        write(cache, layout, [stamp])
    assert not cache.cut(10)
    assert_holds(cache, layout, stamps)


@pytest.mark.parametrize("chunk", [1, 5, 64])
@pytest.mark.parametrize("keep", [0, 1, 7])
def test_a_sliding_layers_memory_does_not_grow_with_the_sequence(keep, chunk):
    layout = [(1, 2, keep)]
    cache, sizes = KVCache(layout), []
    for start in range(0, 40 * chunk, chunk):
        write(cache, layout, list(range(start, start + chunk)))
        sizes.append(cache.nbytes)
    position = 2 * 2 * torch.float64.itemsize
    assert max(sizes) <= 2 * (keep + chunk) * position


def test_views_stay_valid_while_the_cache_grows():
    """A step may still hold what it read when the next tokens are written."""
    layout = [(1, 2, 3)]
    cache = KVCache(layout)
    write(cache, layout, [0, 1, 2])
    stored = cache.read(0)
    assert stored is not None
    for stamp in range(3, 50):
        write(cache, layout, [stamp])
    assert torch.equal(stored[0], rows([0, 1, 2], 1, 2))


@pytest.fixture(scope="module", params=[1, 2, 8], ids="window {}".format)
def model(request, tmp_path_factory) -> DiffusionGemma:
    folder = tmp_path_factory.mktemp("model")
    return checkpoint.read(random_checkpoint(folder, sliding_window=request.param)).load()


def logits(model: DiffusionGemma, cache: KVCache) -> Tensor:
    return model.logits(model.denoise(torch.arange(20, 28)[None], cache, None))


@pytest.mark.parametrize("chunk", [1, 3, 8, 9])
@torch.inference_mode()
def test_chunks_give_what_one_forward_gives(model, chunk):
    prompt = torch.randint(0, 64, (1, 30), generator=torch.Generator().manual_seed(0))
    whole, parts = KVCache(model.cache_layout()), KVCache(model.cache_layout())
    model.encode(prompt, whole)
    for part in prompt.split(chunk, dim=1):
        model.encode(part, parts)
    torch.testing.assert_close(logits(model, parts), logits(model, whole), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_cut_cache_goes_on_as_if_nothing_had_followed(model):
    prompt = torch.randint(0, 64, (1, 12), generator=torch.Generator().manual_seed(0))
    cache, plain = KVCache(model.cache_layout()), KVCache(model.cache_layout())
    model.encode(prompt, cache)
    model.encode(prompt[:, :4], cache)
    assert cache.cut(12)
    model.encode(prompt, plain)
    assert torch.equal(logits(model, cache), logits(model, plain))
