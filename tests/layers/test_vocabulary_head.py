"""The tiled readout held against a full softmax in float64."""

import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from redraft.canvas.random import PositionRandom
from redraft.canvas.token_classes import TokenClasses
from redraft.layers.vocabulary_head import VocabularyHead
from tests.readouts import tensors_of

# Positions, vocabulary, hidden, tile: one tile with room to spare, tiles that divide the vocabulary and that do not.
SHAPES = [
    (1, 5, 3, 4096),
    (1, 50, 4, 16),
    (7, 64, 8, 16),
    (5, 129, 7, 128),
    (3, 37, 5, 1),
    (6, 1, 3, 8),
    (33, 826, 24, 97),
]
TILES = [4096, 64, 7, 1]
JUST_BELOW_ONE = 1 - 2**-53


def random_head(vocab: int, width: int, softcap: float = 30.0, seed: int = 0) -> VocabularyHead:
    table = torch.randn(vocab, width, generator=torch.Generator().manual_seed(seed))
    return VocabularyHead(table, softcap, embedding_scale=1.7)


def random_hidden(length: int, width: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(length, width, generator=torch.Generator().manual_seed(length))


def log_probabilities(head: VocabularyHead, hidden: Tensor, temperature: float) -> Tensor:
    logits = head.softcap * torch.tanh(hidden.double() @ head.table.double().T / head.softcap)
    return (logits / temperature).log_softmax(-1)


def head_with_logits(logits: list[float]) -> tuple[VocabularyHead, Tensor]:
    """A head and one hidden state whose capped logits are these, all below 30 in size."""
    table = 30 * torch.atanh(torch.tensor(logits, dtype=torch.float64) / 30)
    return VocabularyHead(table.float()[:, None], 30.0, 1.0), torch.ones(1, 1)


def uniform(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 0.8, 10.0])
@pytest.mark.parametrize("softcap", [30.0, 2.0])
@pytest.mark.parametrize(("length", "vocab", "width", "tile"), SHAPES)
def test_reads_what_a_full_float64_softmax_gives(length, vocab, width, tile, softcap: float, temperature: float):
    head, top_k = random_head(vocab, width, softcap), min(4, vocab)
    # Logits reach into the bend of the cap, but not where float32 cannot tell them apart any more.
    hidden = random_hidden(length, width, scale=softcap / 3 / width**0.5)
    logp = log_probabilities(head, hidden, temperature)
    p = logp.exp()
    top = logp.topk(top_k, dim=-1)
    readout = head.read(hidden, temperature, None, top_k=top_k, tile=tile)

    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5 * max(1, softcap / temperature / 30), "check_dtype": False}
    assert torch.equal(readout.argmax, logp.argmax(-1))
    torch.testing.assert_close(readout.entropy, -(p * logp).sum(-1), **close)
    torch.testing.assert_close(readout.confidence, p.amax(-1), **close)
    torch.testing.assert_close(readout.self_conditioning, 1.7 * p @ head.table.double(), **close)
    torch.testing.assert_close(readout.top_logprobs, top.values, **close)
    assert readout.top_ids is not None
    assert torch.equal(readout.top_ids, top.indices)


def test_what_is_not_asked_for_is_not_made_and_a_greedy_sample_is_the_argmax():
    head, hidden = random_head(50, 4), random_hidden(3, 4)
    readout = head.read(hidden, 1.0, None, self_conditioning=False, tile=16)
    assert torch.equal(readout.sample, readout.argmax)
    unasked = (readout.self_conditioning, readout.top_ids, readout.top_logprobs, readout.classes)
    assert all(one is None for one in unasked)


@pytest.mark.parametrize("tile", [4096, 8])
def test_more_top_logprobs_than_tokens_are_all_of_them(tile: int):
    readout = random_head(21, 4).read(random_hidden(3, 4), 1.0, None, top_k=100, tile=tile)
    assert torch.equal(readout.top_ids.sort().values, torch.arange(21).expand(3, 21))
    torch.testing.assert_close(readout.top_logprobs.exp().sum(-1), torch.ones(3))


@pytest.mark.parametrize("tile", TILES)
def test_logits_that_saturate_the_soft_cap_share_the_mass_equally(tile: int):
    head, hidden = random_head(90, 4), random_hidden(5, 4, scale=1e6)
    on_top = hidden.double() @ head.table.double().T > 0
    share = 1 / on_top.double().sum(-1)
    readout = head.read(hidden, 0.05, uniform(*[0.0] * 5), tile=tile)
    assert torch.equal(readout.argmax, on_top.int().argmax(-1))
    assert torch.equal(readout.sample, readout.argmax)
    torch.testing.assert_close(readout.entropy, -share.log().float())
    torch.testing.assert_close(readout.confidence, share.float())
    torch.testing.assert_close(readout.self_conditioning, 1.7 * (share[:, None] * on_top @ head.table.double()).float())


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("temperature", [1e-6, 1e-30])
def test_a_tiny_temperature_leaves_only_the_argmax(temperature: float, tile: int):
    head, hidden = random_head(90, 4), random_hidden(5, 4)
    likeliest = log_probabilities(head, hidden, 1.0).argmax(-1)
    readout = head.read(hidden, temperature, uniform(0.0, 0.3, 0.6, 0.9, JUST_BELOW_ONE), tile=tile)
    assert torch.equal(readout.argmax, likeliest)
    assert torch.equal(readout.sample, likeliest)
    assert torch.equal(readout.entropy, torch.zeros(5))
    assert torch.equal(readout.confidence, torch.ones(5))
    torch.testing.assert_close(readout.self_conditioning, 1.7 * head.table[likeliest])


@pytest.mark.parametrize("tile", TILES)
def test_a_large_temperature_leaves_the_uniform_distribution(tile: int):
    head, hidden = random_head(90, 4), random_hidden(90, 4)
    readout = head.read(hidden, 1e9, (torch.arange(90).double() + 0.5) / 90, tile=tile)
    assert torch.equal(readout.sample, torch.arange(90))
    torch.testing.assert_close(readout.entropy, torch.full((90,), math.log(90)))
    torch.testing.assert_close(readout.self_conditioning, 1.7 * head.table.mean(0).expand(90, 4))


@pytest.mark.parametrize("tile", [4096, 9])
def test_ten_thousand_draws_follow_the_distribution(tile: int):
    head, hidden = random_head(40, 6), random_hidden(1, 6, scale=0.7)
    expected = 10_000 * log_probabilities(head, hidden, 0.9)[0].exp()
    draws = head.read(hidden.expand(10_000, 6), 0.9, PositionRandom(5, 0, 1, 10_000).sample, tile=tile).sample
    statistic = ((draws.bincount(minlength=40) - expected) ** 2 / expected).sum()
    by_chance = torch.special.gammaincc(torch.tensor(39 / 2, dtype=torch.float64), statistic / 2)
    assert 1e-4 < by_chance < 1 - 1e-4
    assert 5 < expected.min() < expected.max() / 10, "enough of every token, and far from uniform"


@pytest.mark.parametrize("tile", TILES)
def test_the_sample_is_the_token_whose_interval_of_the_cdf_holds_the_uniform(tile: int):
    """Shown for every token and both ends of its interval, up to a hair's breadth from the boundary."""
    head, hidden = random_head(90, 6), random_hidden(1, 6, scale=0.7)
    p = log_probabilities(head, hidden, 0.8)[0].exp()
    end = p.cumsum(0)
    start, tokens = end - p, torch.arange(90)
    wide = p > 2e-5
    for inside in (start + 5e-6, (start + end) / 2, end - 5e-6):
        sample = head.read(hidden.expand(int(wide.sum()), 6), 0.8, inside[wide], tile=tile).sample
        assert torch.equal(sample, tokens[wide])
    assert wide.sum() > 60


@pytest.mark.parametrize("tile", [4096, 4, 3, 2, 1])
def test_tokens_without_mass_are_never_drawn_not_even_at_the_extremes(tile: int):
    """At this temperature every -20 lies two thousand nats below: at both ends, in between, and filling whole tiles."""
    logits = [-20.0] * 5 + [1.0, -20.0, 1.0, -20.0, -20.0, -20.0, -20.0, -20.0, 1.0] + [-20.0] * 6
    head, hidden = head_with_logits(logits)
    uniforms = uniform(0.0, 1e-300, 0.2, 0.4, 0.5, 0.7, 0.9, JUST_BELOW_ONE, 1.0)  # 1.0: what rounding may make of it
    readout = head.read(hidden.expand(len(uniforms), 1), 0.01, uniforms, tile=tile)
    assert readout.sample.tolist() == [5, 5, 5, 7, 7, 13, 13, 13, 13]


@pytest.mark.parametrize("tile", [4096, 4, 3, 1])
def test_the_extremes_of_the_uniform_are_the_first_and_the_last_token(tile: int):
    head, hidden = head_with_logits([0.5, 0.1, -0.3, 2.0, -1.0, 0.7, 0.2])
    readout = head.read(hidden.expand(2, 1), 1.0, uniform(0.0, JUST_BELOW_ONE), tile=tile)
    assert readout.sample.tolist() == [0, 6]


@pytest.mark.parametrize("seed", range(3))
def test_argmax_and_sample_do_not_depend_on_the_tile(seed: int):
    head, hidden = random_head(500, 12, seed=seed), random_hidden(64, 12, scale=0.5)
    uniforms = PositionRandom(seed, 0, 1, 64).sample
    whole, *tiled = [head.read(hidden, 0.7, uniforms, tile=tile) for tile in (4096, 500, 499, 250, 64, 1)]
    for readout in tiled:
        assert torch.equal(readout.argmax, whole.argmax)
        assert torch.equal(readout.sample, whole.sample)


@pytest.mark.parametrize("tile", [4096, 16])
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_nan_in_one_position_shows_as_its_nan_entropy_and_touches_no_other(sampled: bool, tile: int):
    head, hidden = random_head(50, 4), random_hidden(3, 4)
    uniforms = uniform(0.2, 0.5, 0.8) if sampled else None
    wanted: dict[str, Any] = {"top_k": 2, "classes": TokenClasses.of(torch.arange(50) % 3), "tile": tile}
    expected = head.read(hidden, 0.5, uniforms, **wanted)
    hidden[1, 2] = math.nan
    readout = head.read(hidden, 0.5, uniforms, **wanted)
    assert readout.entropy.isnan().tolist() == [False, True, False]
    assert 0 <= readout.sample[1] < 50
    for ours, theirs in zip(tensors_of(readout), tensors_of(expected), strict=True):
        torch.testing.assert_close(ours[::2], theirs[::2])


class LiveMemory(TorchDispatchMode):
    """Bytes of what operations made and is still referred to: the most at any time, and the largest single piece."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[weakref.ref[Tensor]] = []
        self.peak = self.largest = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        inputs = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = operation(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.untyped_storage().data_ptr() not in inputs]
        self._made = [made for made in self._made if made() is not None] + [weakref.ref(t) for t in made]
        sizes = [t.untyped_storage().nbytes() for ref in self._made if (t := ref()) is not None]
        self.peak, self.largest = max(self.peak, sum(sizes)), max(self.largest, *sizes, 0)
        return out


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_a_tiled_read_never_holds_logits_of_the_whole_vocabulary(sampled: bool):
    length, vocab, width, tile = 64, 16_384, 8, 256
    head, hidden = random_head(vocab, width), random_hidden(length, width)
    uniforms = PositionRandom(0, 0, 1, length).sample if sampled else None
    with LiveMemory() as tiled:
        head.read(hidden, 0.8, uniforms, top_k=3, tile=tile)
    with LiveMemory() as whole:
        head.read(hidden, 0.8, uniforms, top_k=3, tile=vocab)
    one_tile = 8 * length * tile  # in float64, as the sampler's cumulative sums are
    assert tiled.largest <= one_tile
    assert tiled.peak <= 6 * one_tile < 4 * length * vocab / 4
    assert whole.largest >= 4 * length * vocab, "the probe sees what it is there to see"


@pytest.mark.parametrize("tile", [4096, 64])
def test_a_bfloat16_table_reads_close_to_its_float32_copy(tile: int):
    full = random_head(300, 64)
    half = VocabularyHead(full.table.bfloat16(), full.softcap, full.embedding_scale)
    full = VocabularyHead(half.table.float(), full.softcap, full.embedding_scale)
    hidden, uniforms = random_hidden(40, 64, scale=0.3), PositionRandom(0, 0, 1, 40).sample
    exact, rounded = (head.read(hidden, 0.8, uniforms, tile=tile, top_k=2) for head in (full, half))
    assert exact.top_logprobs is not None
    clear = exact.top_logprobs[:, 0] - exact.top_logprobs[:, 1] > 0.1
    assert torch.equal(rounded.argmax[clear], exact.argmax[clear])
    assert clear.sum() > 20
    torch.testing.assert_close(rounded.entropy, exact.entropy, rtol=0, atol=0.05)
    torch.testing.assert_close(rounded.confidence, exact.confidence, rtol=0.05, atol=0.005)
    assert (
        (rounded.self_conditioning - exact.self_conditioning).norm(dim=-1) < 0.03 * exact.self_conditioning.norm(dim=-1)
    ).all()
    assert rounded.self_conditioning.dtype == rounded.entropy.dtype == torch.float32


@pytest.mark.parametrize("classes", [False, True], ids=["no classes", "classes"])
def test_each_position_is_divided_by_its_own_temperature(classes: bool):
    head, hidden, temperatures = random_head(90, 6), random_hidden(5, 6), torch.tensor([0.1, 0.3, 0.9, 1.0, 7.0])
    wanted: dict[str, Any] = {
        "top_k": 3,
        "tile": 16,
        "classes": TokenClasses.of(torch.arange(90) % 3) if classes else None,
    }
    uniforms = uniform(0.1, 0.3, 0.5, 0.7, 0.9)
    together = head.read(hidden, temperatures, uniforms, **wanted)
    for row, temperature in enumerate(temperatures.tolist()):
        own = slice(row, row + 1)
        alone = head.read(hidden[own], temperature, uniforms[own], **wanted)
        for ours, theirs in zip(tensors_of(alone), tensors_of(together), strict=True):
            torch.testing.assert_close(ours, theirs[own], rtol=1e-4, atol=1e-5)
        if alone.classes is not None and together.classes is not None:
            number = torch.tensor([2, 1, 0, -1, 2])
            assert torch.equal(
                alone.classes.draw(number[own], uniforms[own]), together.classes.draw(number, uniforms)[own]
            )


def test_temperatures_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"temperatures \[3\] must be one, or \[2\], one for each row"):
        random_head(5, 3).read(random_hidden(2, 3), torch.ones(3), None)


def test_a_head_without_a_soft_cap_reads_plain_logits():
    head = VocabularyHead(random_head(90, 6).table, None, 1.7)
    hidden, temperature = random_hidden(5, 6), 0.7
    logp = (hidden.double() @ head.table.double().T / temperature).log_softmax(-1)
    readout = head.read(hidden, temperature, None, top_k=3, tile=16)
    assert torch.equal(readout.argmax, logp.argmax(-1))
    torch.testing.assert_close(readout.top_logprobs.double(), logp.topk(3).values, rtol=1e-4, atol=1e-4)
    mean = 1.7 * logp.exp() @ head.table.double()
    torch.testing.assert_close(readout.self_conditioning.double(), mean, rtol=1e-4, atol=1e-4)


def test_a_head_whose_table_embeds_nothing_has_no_self_conditioning():
    head, hidden = VocabularyHead(random_head(90, 6).table, 30.0, None), random_hidden(5, 6)
    assert head.read(hidden, 1.0, None, self_conditioning=False).self_conditioning is None
    with pytest.raises(ValueError, match="this head's table is not the embedding; pass self_conditioning=False"):
        head.read(hidden, 1.0, None)


@pytest.mark.parametrize("temperature", [0.0, -0.5, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float):
    with pytest.raises(ValueError, match=f"temperature {temperature} "):
        random_head(5, 3).read(random_hidden(1, 3), temperature, None)
