"""The fused readout held against a full softmax in float64 of the same quantised operands."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import Readout
from redraft.canvas.token_classes import TokenClasses
from redraft.kernels import bindings
from redraft.kernels.packed import Format, pack
from redraft.kernels.readout import TILE, PackedHead
from redraft.layers.vocabulary_head import VocabularyHead
from tests.kernels.quantised import assert_within, operand, random
from tests.readouts import tensors_of

FORMATS: list[Format] = ["float32", "bfloat16", "int8"]
JUST_BELOW_ONE = 1 - 2**-53
# Positions, vocabulary, hidden: around blocks of 32 and tiles of 256 tokens, and vocabularies of several chunks.
SHAPES = [(1, 1, 3), (3, 5, 1), (7, 37, 33), (5, 255, 8), (17, 256, 64), (16, 257, 100), (33, 826, 24), (3, 5001, 40)]
LARGE = [(5, 9000, 33), (2, 40_000, 20)]


def head_of(vocab: int, width: int, format: Format = "float32", softcap: float = 30.0, seed: int = 0) -> PackedHead:
    return PackedHead(pack(random(vocab, width, seed=seed), format), softcap, embedding_scale=1.7)


def hidden_for(length: int, head: PackedHead, scale: float = 1 / 3) -> Tensor:
    """Logits of which most are below ``scale`` times the cap, or 10."""
    width = head.table.inputs
    assert head.softcap is not None
    return random(length, width, seed=50, scale=scale * min(head.softcap, 30.0) / width**0.5)


def capped(head: PackedHead, hidden: Tensor) -> Tensor:
    """Logits divided by the cap, if there is one, float64."""
    rows = operand(hidden.float() / (head.softcap or 1.0), head.table.format)
    logits = rows @ head.table.weight[0].double().T
    return logits if head.softcap is None else torch.tanh(logits)


def log_probabilities(head: PackedHead, hidden: Tensor, temperature: float | Tensor) -> Tensor:
    return (capped(head, hidden) * (head.softcap or 1.0) / temperature).log_softmax(-1)


def uniform(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(logp: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The token at each uniform of the mass, in token order, and whether no border is near."""
    ends = logp.exp().cumsum(-1)
    target = uniforms[:, None].contiguous() * ends[:, -1:]
    token = torch.searchsorted(ends, target, right=True).clamp(max=logp.shape[1] - 1)
    return token[:, 0], ((ends - target).abs() > 1e-5).all(-1)


def uneven(vocab: int, seed: int = 0) -> Tensor:
    """Classes [V] as constraints have them: three heavy ones, forty light ones, of which some may be empty."""
    generator = torch.Generator().manual_seed(seed)
    light = torch.randint(3, 43, (vocab,), generator=generator)
    heavy = torch.randint(0, 3, (vocab,), generator=generator)
    return torch.where(torch.rand(vocab, generator=generator) < 0.05, light, heavy)


def byte_units(head: PackedHead, p: Tensor) -> Tensor:
    """How far soft embeddings [rows, inputs] summed in bytes may be off at most: every token of a tile by one unit, the
    254th part of the largest weight there is in the tile, times its whole numbers."""
    scales = head.table.scales[0, : head.table.outputs].double()
    whole, off = head.table.weight[0].double().abs() / scales[:, None], torch.zeros(len(p), head.table.inputs)
    for start in range(0, head.table.outputs, TILE):
        tile = slice(start, start + TILE)
        largest = p[:, tile].amax(-1, keepdim=True) * scales[tile].amax()
        off += largest / 254 * whole[tile].sum(0)
    return off


def check(
    head: PackedHead, hidden: Tensor, temperature: float | Tensor, result: Readout, uniforms: Tensor | None = None
) -> None:
    """Every field that was asked for, but for rounding of logits, which a low temperature makes larger."""
    logp = log_probabilities(head, hidden, temperature)
    p, table = logp.exp(), head.table.weight[0].double()
    largest = capped(head, hidden).abs().amax(-1, keepdim=True) * (head.softcap or 1.0) / temperature
    # Eight units in the last place of the largest logit; then that of a sum of probabilities.
    error = largest * 8 * 2.0**-23 + 1e-5
    best = logp.amax(-1)
    # Where rounding may decide, the argmax is one of the best.
    assert (logp.gather(1, result.argmax[:, None])[:, 0] >= best - 2 * error[:, 0]).all()
    entropy_error = 2 * (error * (1 + logp.abs()) * p).sum(-1) + 2e-6 * logp.shape[1] ** 0.5
    assert_within(result.entropy, -(p * logp).sum(-1), entropy_error)
    assert_within(result.confidence, best.exp(), best.exp() * 2 * error[:, 0])
    # Of the least likely token too, which may be at minus hundreds of nats: nothing of it underflows.
    for token in (logp.argmin(-1), logp.argmax(-1), torch.arange(len(p)) % p.shape[1]):
        expected = logp.gather(1, token[:, None])[:, 0]
        assert_within(result.logprob(token), expected, 2 * error[:, 0] + 1e-6 * expected.abs())
        torch.testing.assert_close(result.probability(token), result.logprob(token).exp(), rtol=0, atol=0)
    if result.self_conditioning is not None:
        rounding = error if head.table.format == "float32" else error + 2.0**-8
        allowed = 2 * rounding * (p @ table.abs())
        if bindings.self_conditioning_format(head.table.format) == "int8":
            allowed += byte_units(head, p) * 1.1
        assert_within(result.self_conditioning, 1.7 * p @ table, 1.7 * allowed + 1e-6)
    if result.top_ids is not None and result.top_logprobs is not None:
        k = result.top_ids.shape[1]
        assert_within(result.top_logprobs, logp.topk(k, dim=-1).values, 2 * error)
        assert_within(result.top_logprobs, logp.gather(1, result.top_ids), 2 * error)
        assert all(len(set(ids)) == k for ids in result.top_ids.tolist())
    if uniforms is not None:
        expected, clear = drawn(logp, uniforms)
        assert torch.equal(result.sample[clear], expected[clear])


@pytest.mark.parametrize("temperature", [0.05, 0.8, 10.0])
@pytest.mark.parametrize("softcap", [2.0, 30.0, 1000.0])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_reads_what_a_full_float64_softmax_gives(format: Format, softcap: float, temperature: float):
    for length, vocab, width in SHAPES:
        head = head_of(vocab, width, format, softcap)
        hidden, uniforms = hidden_for(length, head), PositionRandom(vocab, 0, 1, length).sample
        readout = head.read(hidden, temperature, uniforms, top_k=min(4, vocab))
        check(head, hidden, temperature, readout, uniforms)


@pytest.mark.parametrize("shape", LARGE, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_shares_of_a_large_vocabulary_are_put_together(format: Format, shape):
    length, vocab, width = shape
    head = head_of(vocab, width, format)
    hidden, uniforms = hidden_for(length, head), PositionRandom(vocab, 0, 1, length).sample
    check(head, hidden, 0.5, head.read(hidden, 0.5, uniforms, top_k=5), uniforms)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 700), st.integers(1, 100)),
    softcap=st.sampled_from([2.0, 30.0, 1000.0]),
    temperature=st.floats(0.05, 10.0),
    seed=st.integers(0, 1000),
)
def test_reads_a_softmax_of_any_shape(format: Format, shape, softcap: float, temperature: float, seed: int):
    length, vocab, width = shape
    head = head_of(vocab, width, format, softcap, seed)
    hidden, uniforms = hidden_for(length, head), PositionRandom(seed, 0, 1, length).sample
    readout = head.read(hidden, temperature, uniforms, top_k=min(3, vocab))
    check(head, hidden, temperature, readout, uniforms)


@pytest.mark.usefixtures("tier_or_reference")
def test_a_cap_far_above_the_logits_costs_no_precision():
    """tanh near zero: what is lost there in absolute terms, the cap divided by the temperature would enlarge."""
    head = head_of(300, 16, softcap=1000.0)
    hidden = hidden_for(20, head, scale=0.1)
    logp = log_probabilities(head, hidden, 0.05)
    readout = head.read(hidden, 0.05, None, top_k=20)
    torch.testing.assert_close(
        readout.top_logprobs, logp.topk(20, dim=-1).values, rtol=2e-6, atol=2e-4, check_dtype=False
    )


def rising(heights: list[float], each: int) -> PackedHead:
    """A head whose logits at a hidden state of 1 are noise around a height for every ``each`` tokens."""
    logits = torch.tensor(heights, dtype=torch.float64).repeat_interleave(each)
    logits = (logits + 0.5 * random(len(logits)).double()).clamp(-29.9, 29.9)
    return PackedHead(pack((30 * torch.atanh(logits / 30)).float()[:, None], "float32"), 30.0, 1.7)


@pytest.mark.parametrize(
    "heights",
    [[-20, -10, 0, 10, 20], [20, 10, 0, -10, -20], [-20, 20, -20, 20, -20], [0, 0, 0, 0, 25], [25, 0, 0, 0, 0]],
    ids=["up", "down", "up and down", "last", "first"],
)
@pytest.mark.parametrize("each", [32, 100, 256, 5000], ids=lambda n: f"each {n}")
@pytest.mark.usefixtures("tier_or_reference")
def test_peaks_that_move_along_the_vocabulary_are_rescaled_rightly(heights: list[float], each: int):
    rows = 40 if each < 5000 else 4
    head, hidden = rising(heights, each), torch.ones(rows, 1)
    classes = TokenClasses.of(torch.arange(5).repeat_interleave(each))
    uniforms = (torch.arange(rows).double() + 0.5) / rows
    for temperature in (0.05, 1.0, 10.0):
        readout = head.read(hidden, temperature, uniforms, top_k=3, classes=classes)
        check(head, hidden, temperature, readout, uniforms)
        check_classes(head, hidden, temperature, readout, classes)


def check_classes(
    head: PackedHead, hidden: Tensor, temperature: float, readout: Readout, classes: TokenClasses
) -> None:
    logp = log_probabilities(head, hidden, temperature)
    error = 8 * 2.0**-23 * head.softcap / temperature + 1e-5
    found = readout.classes
    assert found is not None
    assert found.mass.shape == found.plogp.shape == found.peak.shape == found.argmax.shape
    assert found.mass.shape == (len(hidden), classes.count)
    for number in range(classes.count):
        tokens = classes.tokens_of(number).long()
        own = logp[:, tokens]
        mass = own.exp().sum(-1)
        assert_within(found.mass[:, number], mass, 2 * error * mass + 1e-12)
        size = (own.exp() * own.abs()).sum(-1)
        assert_within(found.plogp[:, number], (own.exp() * own).sum(-1), 4 * error * (mass + size) + 1e-12)
        if len(tokens):
            assert_within(found.peak[:, number], own.amax(-1), 2 * error)
            assert torch.isin(found.argmax[:, number], tokens).all()
            likeliest = logp.gather(1, found.argmax[:, number, None])[:, 0]
            assert (likeliest >= own.amax(-1) - 2 * error).all()
        else:
            assert torch.equal(found.peak[:, number], torch.full((len(hidden),), -math.inf))
            assert (found.argmax[:, number] == -1).all()


@pytest.mark.parametrize("vocab", [5, 37, 257, 9000])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_class_sums_are_those_of_the_tokens_of_each_class(format: Format, vocab: int):
    """A class without tokens has no mass and no likeliest token; one may fill some parts of the vocabulary alone."""
    head = head_of(vocab, 20, format)
    hidden = hidden_for(3, head)
    classes = torch.randint(0, 4, (vocab,), generator=torch.Generator().manual_seed(0))
    classes[classes == 2] = 5
    classes[: vocab // 2] = 1
    token_classes = TokenClasses.of(classes)
    check_classes(head, hidden, 0.5, head.read(hidden, 0.5, None, classes=token_classes), token_classes)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_the_argmax_is_the_first_of_equals(format: Format):
    for vocab, equals in ((5, [1, 3]), (300, [10, 40, 270]), (9000, [255, 256, 8999]), (9000, [4700, 8000])):
        table = 0.01 * random(vocab, 8)
        table[equals] = torch.linspace(1.0, 2.0, 8)
        head = PackedHead(pack(table, format), 30.0, 1.0)
        readout = head.read(torch.ones(3, 8), 1.0, None, top_k=len(equals))
        assert readout.argmax.tolist() == [equals[0]] * 3
        assert readout.top_ids is not None
        assert sorted(readout.top_ids[0].tolist()) == equals


@pytest.mark.usefixtures("tier_or_reference")
def test_what_is_not_asked_for_is_not_made_and_a_greedy_sample_is_the_argmax():
    head = head_of(50, 4)
    readout = head.read(hidden_for(3, head), 1.0, None, self_conditioning=False)
    assert torch.equal(readout.sample, readout.argmax)
    unasked = (readout.self_conditioning, readout.top_ids, readout.top_logprobs, readout.classes)
    assert all(one is None for one in unasked)


@pytest.mark.parametrize("vocab", [21, 300, 9000])
@pytest.mark.usefixtures("tier_or_reference")
def test_more_top_logprobs_than_tokens_are_all_of_them_likeliest_first(vocab: int):
    head = head_of(vocab, 4)
    readout = head.read(hidden_for(2, head), 1.0, None, top_k=vocab + 79)
    assert torch.equal(readout.top_ids.sort().values, torch.arange(vocab).expand(2, vocab))
    assert (readout.top_logprobs.diff(dim=-1) <= 0).all()
    torch.testing.assert_close(readout.top_logprobs.exp().sum(-1), torch.ones(2))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("vocab", [90, 300, 9000])
@pytest.mark.usefixtures("tier_or_reference")
def test_logits_that_saturate_the_soft_cap_share_the_mass_equally(format: Format, vocab: int):
    head = head_of(vocab, 4, format)
    for scale in (1e10, 1e30):
        hidden = random(5, 4, scale=scale)
        on_top = capped(head, hidden) > 0
        share = (1 / on_top.double().sum(-1)).float()
        readout = head.read(hidden, 0.05, uniform(*[0.0] * 5))
        assert torch.equal(readout.argmax, on_top.int().argmax(-1))
        assert torch.equal(readout.sample, readout.argmax)
        torch.testing.assert_close(readout.entropy, -share.log(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(readout.confidence, share, rtol=1e-5, atol=0)
        mean = 1.7 * (share[:, None] * on_top.float()) @ head.table.weight[0]
        torch.testing.assert_close(
            readout.self_conditioning, mean, rtol=1e-3, atol=1e-2 if format != "float32" else 1e-5
        )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("likely", [0, 100, 255])
@pytest.mark.usefixtures("tier_or_reference")
def test_a_long_tail_of_unlikely_tokens_is_part_of_the_self_conditioning(format: Format, likely: int):
    """Each a thousandth as likely as the one token of another embedding, all of a tile together a fifth of the mass."""
    table = torch.tensor([[0.0, 1.0]]).repeat(256, 1)
    table[likely] = torch.tensor([1.0, 0.0])
    head = PackedHead(pack(table, format), 30.0, 1.0)
    hidden = torch.tensor([[30 * math.atanh(math.log(1000) / 30), 0.0]])
    tail = 0.255 / 1.255
    mean = head.read(hidden, 1.0, None).self_conditioning
    torch.testing.assert_close(mean, torch.tensor([[1 - tail, tail]]), rtol=0.02, atol=0)


@pytest.mark.parametrize("temperature", [1e-6, 1e-30])
@pytest.mark.parametrize("vocab", [90, 9000])
@pytest.mark.usefixtures("tier_or_reference")
def test_a_tiny_temperature_leaves_only_the_argmax(vocab: int, temperature: float):
    head = head_of(vocab, 4)
    hidden = hidden_for(5, head)
    likeliest = log_probabilities(head, hidden, 1.0).argmax(-1)
    classes = torch.arange(vocab) % 3
    uniforms = uniform(0.0, 0.3, 0.6, 0.9, JUST_BELOW_ONE)
    readout = head.read(hidden, temperature, uniforms, classes=TokenClasses.of(classes))
    assert torch.equal(readout.argmax, likeliest)
    assert torch.equal(readout.sample, likeliest)
    assert torch.equal(readout.entropy, torch.zeros(5))
    assert torch.equal(readout.confidence, torch.ones(5))
    torch.testing.assert_close(readout.self_conditioning, 1.7 * head.table.weight[0][likeliest])
    torch.testing.assert_close(readout.classes.mass, (classes[likeliest][:, None] == torch.arange(3)).float())
    assert torch.equal(readout.classes.plogp, torch.zeros(5, 3))


@pytest.mark.usefixtures("tier_or_reference")
def test_a_large_temperature_leaves_the_uniform_distribution():
    head = head_of(900, 4)
    readout = head.read(hidden_for(900, head), 1e9, (torch.arange(900).double() + 0.5) / 900)
    assert torch.equal(readout.sample, torch.arange(900))
    torch.testing.assert_close(readout.entropy, torch.full((900,), math.log(900)))
    torch.testing.assert_close(readout.self_conditioning, 1.7 * head.table.weight[0].mean(0).expand(900, 4))


@pytest.mark.parametrize("temperature", [0.0, -0.5, math.nan, 1e-37])
@pytest.mark.usefixtures("tier_or_reference")
def test_a_temperature_that_logits_cannot_be_divided_by_is_refused(temperature: float):
    head = head_of(5, 3)
    with pytest.raises(ValueError, match=f"temperature {temperature} "):
        head.read(hidden_for(1, head), temperature, None)


@pytest.mark.parametrize(("vocab", "scale"), [(40, 0.04), (400, 0.015)])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_ten_thousand_draws_follow_the_distribution(format: Format, vocab: int, scale: float):
    head = head_of(vocab, 6, format)
    hidden = hidden_for(1, head, scale)
    expected = 10_000 * log_probabilities(head, hidden, 0.9)[0].exp()
    uniforms = PositionRandom(5, 0, 1, 10_000).sample
    draws = head.read(hidden.expand(10_000, 6), 0.9, uniforms, self_conditioning=False).sample
    statistic = ((draws.bincount(minlength=vocab) - expected) ** 2 / expected).sum()
    by_chance = torch.special.gammaincc(torch.tensor((vocab - 1) / 2, dtype=torch.float64), statistic / 2)
    assert 1e-4 < by_chance < 1 - 1e-4
    assert 5 < expected.min() < expected.max() / 4, "enough of every token, and far from uniform"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("vocab", [37, 300, 4500])
@pytest.mark.usefixtures("tier_or_reference")
def test_the_sample_is_the_token_whose_interval_of_the_cdf_holds_the_uniform(format: Format, vocab: int):
    """Shown for every token and both ends of its interval, up to a hair's breadth from the boundary; of a large
    vocabulary for those around the borders of blocks and some between them."""
    head = head_of(vocab, 6, format)
    hidden = hidden_for(1, head, scale=0.1)
    p = log_probabilities(head, hidden, 0.8)[0].exp()
    end = p.cumsum(0)
    start, tokens = end - p, torch.arange(vocab)
    wide = p > 2e-5
    shown = wide if vocab < 1000 else wide & ((tokens % 256 < 2) | (tokens % 256 > 253) | (tokens % 9 == 0))
    for inside in (start + 5e-6, (start + end) / 2, end - 5e-6):
        sample = head.read(hidden.expand(int(shown.sum()), 6), 0.8, inside[shown], self_conditioning=False).sample
        assert torch.equal(sample, tokens[shown])
    assert wide.float().mean() > 0.4


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_the_sample_is_the_references(format: Format):
    head = head_of(5001, 33, format)
    hidden, uniforms = hidden_for(200, head, scale=0.1), PositionRandom(3, 0, 1, 200).sample
    reference = VocabularyHead(head.table.weight[0], head.softcap, head.embedding_scale)
    rows = (operand(hidden / head.softcap, format) * head.softcap).float()
    theirs = reference.read(rows, 0.7, uniforms).sample
    _, clear = drawn(log_probabilities(head, hidden, 0.7), uniforms)
    assert torch.equal(head.read(hidden, 0.7, uniforms).sample[clear], theirs[clear])
    assert clear.sum() > 100


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("where", [5, 37, 300, 4400])
@pytest.mark.usefixtures("tier_or_reference")
def test_tokens_without_mass_are_never_drawn_not_even_at_the_extremes(format: Format, where: int):
    """At this temperature all others lie a thousand nats below: at both ends, in between, and filling whole tiles."""
    table = torch.full((where + 4500, 1), -1.0)
    table[[where, where + 2, where + 400]] = 1.0
    head = PackedHead(pack(table, format), 30.0, 1.0)
    uniforms = uniform(0.0, 1e-300, 0.2, 0.4, 0.5, 0.7, 0.9, JUST_BELOW_ONE)
    sample = head.read(torch.full((8, 1), 10.0), 0.01, uniforms).sample
    assert (sample - where).tolist() == [0, 0, 0, 2, 2, 400, 400, 400]


@pytest.mark.parametrize("vocab", [1, 7, 256, 257, 9000])
@pytest.mark.usefixtures("tier_or_reference")
def test_the_extremes_of_the_uniform_are_the_first_and_the_last_token(vocab: int):
    head = head_of(vocab, 6)
    hidden = hidden_for(1, head, scale=0.02).expand(2, 6)
    assert head.read(hidden, 5.0, uniform(0.0, JUST_BELOW_ONE)).sample.tolist() == [0, vocab - 1]


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_nan_in_one_position_shows_as_its_nan_entropy_and_touches_no_other(
    format: Format, sampled: bool, damage: float
):
    for vocab in (50, 700, 9000):
        table = random(vocab, 4)
        table[::2, 2] = 0  # an infinity meets zeros, which makes some of the logits NaN
        head = PackedHead(pack(table, format), 30.0, 1.7)
        hidden, uniforms = hidden_for(3, head), uniform(0.2, 0.5, 0.8) if sampled else None
        wanted: dict[str, Any] = {"top_k": 2, "classes": TokenClasses.of(torch.arange(vocab) % 3)}
        expected = head.read(hidden, 0.5, uniforms, **wanted)
        hidden[1, 2] = damage
        readout = head.read(hidden, 0.5, uniforms, **wanted)
        assert readout.entropy.isnan().tolist() == [False, True, False]
        for ids in (readout.argmax, readout.sample, readout.top_ids):
            assert ((ids >= 0) & (ids < vocab)).all()
        for ours, theirs in zip(tensors_of(readout), tensors_of(expected), strict=True):
            assert torch.equal(ours[::2], theirs[::2])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_a_position_is_the_same_bits_whatever_other_positions_there_are(format: Format):
    head = head_of(5001, 70, format)
    hidden, uniforms = hidden_for(60, head, scale=0.1), PositionRandom(1, 0, 1, 60).sample
    wanted: dict[str, Any] = {"top_k": 3, "classes": TokenClasses.of(uneven(5001))}
    whole = head.read(hidden, 0.7, uniforms, **wanted)
    for first, last in ((0, 1), (59, 60), (3, 20), (1, 34)):
        own = slice(first, last)
        part = head.read(hidden[own], 0.7, uniforms[own], **wanted)
        for ours, theirs in zip(tensors_of(part), tensors_of(whole), strict=True):
            assert torch.equal(ours, theirs[own])


def same_rows(part: Readout, whole: Readout, own: slice) -> None:
    """Bit for bit the same, of the positions ``own``; draws from classes too."""
    for ours, theirs in zip(tensors_of(part), tensors_of(whole), strict=True):
        assert torch.equal(ours, theirs[own])
    if part.classes is not None and whole.classes is not None:
        number, uniforms = whole.classes.mass.argmax(-1), torch.linspace(0, 0.99, len(whole.argmax)).double()
        drawn = whole.classes.draw(number, uniforms)
        assert torch.equal(part.classes.draw(number[own], uniforms[own]), drawn[own])
        anything = torch.full_like(number, -1)
        assert torch.equal(part.classes.draw(anything[own], uniforms[own]), whole.classes.draw(anything, uniforms)[own])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    spans=st.lists(st.tuples(st.integers(1, 40), st.floats(0.05, 5)), min_size=1, max_size=6),
    vocab=st.sampled_from([90, 700, 9000]),
    classes=st.booleans(),
)
def test_a_position_with_a_temperature_of_its_own_is_the_same_bits_among_others(
    format: Format, spans: list[tuple[int, float]], vocab: int, classes: bool
):
    """Requests whose rows are read together, each with its temperature, get what each gets alone."""
    head = head_of(vocab, 24, format)
    temperatures = torch.cat([torch.full((count,), temperature) for count, temperature in spans])
    hidden, uniforms = hidden_for(len(temperatures), head), PositionRandom(1, 0, 1, len(temperatures)).sample
    wanted: dict[str, Any] = {"top_k": 3, "classes": TokenClasses.of(uneven(vocab)) if classes else None}
    whole, first = head.read(hidden, temperatures, uniforms, **wanted), 0
    for count, temperature in spans:
        own = slice(first, first + count)
        same_rows(head.read(hidden[own], temperature, uniforms[own], **wanted), whole, own)
        first += count


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_more_rows_than_are_read_at_once_are_the_same_bits(format: Format):
    head = head_of(500, 16, format)
    hidden, uniforms = hidden_for(530, head), PositionRandom(1, 0, 1, 530).sample
    temperatures = torch.linspace(0.2, 2, 530)
    whole = head.read(hidden, temperatures, uniforms, top_k=2)
    for own in (slice(0, 1), slice(250, 300), slice(529, 530)):
        same_rows(head.read(hidden[own], temperatures[own], uniforms[own], top_k=2), whole, own)


@pytest.mark.usefixtures("tier_or_reference")
def test_each_position_is_divided_by_its_own_temperature():
    head, temperatures = head_of(300, 8), torch.tensor([0.1, 0.9, 3.0])
    hidden = hidden_for(3, head)
    classes = TokenClasses.of(uneven(300))
    check(head, hidden, temperatures[:, None], head.read(hidden, temperatures, None, top_k=2, classes=classes))


@pytest.mark.usefixtures("tier_or_reference")
def test_temperatures_that_do_not_fit_are_refused():
    head = head_of(30, 8)
    with pytest.raises(ValueError, match=r"temperatures \[3\] must be one, or \[2\], one for each row"):
        head.read(torch.zeros(2, 8), torch.ones(3), None)
    with pytest.raises(ValueError, match=r"temperature -1\.0 must be above 0"):
        head.read(torch.zeros(2, 8), torch.tensor([1.0, -1.0]), None)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_the_same_bits_run_to_run_and_on_any_number_of_threads(format: Format, with_threads):
    head = head_of(20_000, 40, format)
    hidden, uniforms = hidden_for(40, head, scale=0.1), PositionRandom(1, 0, 1, 40).sample
    wanted: dict[str, Any] = {"top_k": 3, "classes": TokenClasses.of(uneven(20_000))}
    with_threads(1)
    expected = head.read(hidden, 0.7, uniforms, **wanted)
    for threads in (1, 2, 3, 5):
        with_threads(threads)
        for _ in range(2):
            readout = head.read(hidden, 0.7, uniforms, **wanted)
            for ours, theirs in zip(tensors_of(readout), tensors_of(expected), strict=True):
                assert torch.equal(ours, theirs)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_no_positions_give_nothing(format: Format):
    head = head_of(300, 8, format)
    readout = head.read(torch.empty(0, 8), 1.0, torch.empty(0, dtype=torch.float64), top_k=2)
    assert (readout.sample.shape, readout.self_conditioning.shape, readout.top_ids.shape) == ((0,), (0, 8), (0, 2))


@pytest.mark.usefixtures("tier_or_reference")
def test_shapes_that_do_not_fit_are_refused():
    head = head_of(30, 8)
    with pytest.raises(ValueError, match="rows of 7 numbers for a matrix of 8 inputs"):
        head.read(torch.zeros(2, 7), 1.0, None)
    with pytest.raises(ValueError, match=r"uniforms \[3\] must be \[2\]"):
        head.read(torch.zeros(2, 8), 1.0, uniform(0, 0, 0))
    with pytest.raises(ValueError, match="classes of 29 tokens for a vocabulary of 30"):
        head.read(torch.zeros(2, 8), 1.0, None, classes=TokenClasses.of(torch.zeros(29, dtype=torch.int64)))


@pytest.mark.parametrize("vocab", [300, 9000])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_a_head_without_a_soft_cap_reads_plain_logits(format: Format, vocab: int):
    """Of a head that would be capped, the same hidden states reach far beyond the cap."""
    head = PackedHead(pack(random(vocab, 24), format), None, 1.7)
    hidden, uniforms = hidden_for(5, PackedHead(head.table, 30.0, 1.7), scale=2), PositionRandom(1, 0, 1, 5).sample
    result = head.read(hidden, 0.8, uniforms, top_k=3, classes=TokenClasses.of(uneven(vocab)))
    check(head, hidden, 0.8, result, uniforms)
    assert result.classes is not None
    drawn_again = result.classes.draw(torch.full((5,), -1), uniforms)
    assert torch.equal(drawn_again, result.sample)
    for own in (slice(0, 1), slice(2, 5)):
        alone = head.read(hidden[own], 0.8, uniforms[own], top_k=3)
        assert bindings.kernels() is None or torch.equal(alone.sample, result.sample[own])


@pytest.mark.usefixtures("tier_or_reference")
def test_a_head_whose_table_embeds_nothing_has_no_self_conditioning():
    head, hidden = PackedHead(pack(random(90, 6), "float32"), 30.0, None), random(5, 6)
    assert head.read(hidden, 1.0, None, self_conditioning=False).self_conditioning is None
    with pytest.raises(ValueError, match="this head's table is not the embedding; pass self_conditioning=False"):
        head.read(hidden, 1.0, None)


def test_a_table_in_int4_is_refused():
    with pytest.raises(ValueError, match="pack the embedding in int8"):
        PackedHead(pack(random(30, 8), "int4"), 30.0, 1.0)
