"""Changed and filtered logits held against a dense reference in float64, which sorts each row whole."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import TAKEN_OUT, Readout
from redraft.canvas.shaping import FORBIDDEN, Filters, LogitChanges, RowShaping, Shaping
from redraft.canvas.token_classes import TokenClasses
from redraft.kernels import bindings
from redraft.kernels.packed import pack
from redraft.kernels.readout import PackedHead
from tests.kernels.quantised import assert_within
from tests.kernels.test_readout import (
    FORMATS,
    byte_units,
    capped,
    check,
    drawn,
    head_of,
    hidden_for,
    same_rows,
    uneven,
    uniform,
)

FILTERS = [
    Filters(top_k=1),
    Filters(top_k=7),
    Filters(top_k=90),
    Filters(top_p=0.1),
    Filters(top_p=0.6),
    Filters(top_p=0.999),
    Filters(min_p=0.2),
    Filters(top_k=40, top_p=0.7, min_p=0.05),
]


def changes(vocab: int, count: int, seed: int = 0) -> LogitChanges:
    """Of about a tenth of the tokens: some forbidden, some pushed, some divided; at every position others."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randperm(vocab, generator=generator)[: max(1, vocab // 10)].sort().values
    added = 6 * torch.randn(count, len(tokens), generator=generator)
    added[torch.rand(added.shape, generator=generator) < 0.1] = FORBIDDEN
    factor = 1 + torch.rand(added.shape, generator=generator)
    return LogitChanges(tokens, added, factor)


@dataclass(frozen=True)
class Dense:
    """What a full row says."""

    logits: Tensor
    """[C, V] float64: processed and changed, all of them."""
    left: Tensor
    """[C, V] bool: what the filters leave."""
    clear: Tensor
    """[C] bool: no rounding of float32 could decide otherwise."""

    @property
    def logp(self) -> Tensor:
        return self.logits.masked_fill(~self.left, -math.inf).log_softmax(-1)


def dense(head: PackedHead, hidden: Tensor, temperature: float, shaping: Shaping) -> Dense:
    logits = capped(head, hidden) * (head.softcap or 1.0)
    if shaping.changes is not None:
        own, tokens = shaping.changes, shaping.changes.tokens
        old = logits[:, tokens]
        logits[:, tokens] = torch.where(old > 0, old / own.factor, old * own.factor) + own.added
    logits = logits / temperature
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    counts, clear = zip(*(_count(row, shaping.filters, 3e-5 / temperature) for row in ranked), strict=True)
    left = torch.zeros_like(logits, dtype=torch.bool)
    left.scatter_(1, order, torch.arange(logits.shape[1]) < torch.tensor(counts)[:, None])
    return Dense(logits, left, torch.tensor(clear))


def _count(ranked: Tensor, filters: Filters, error: float) -> tuple[int, bool]:
    """How many of a row's logits, largest first, are left; and whether that is sure in spite of an error."""
    sure = True
    count = min(filters.top_k or len(ranked), len(ranked))
    weights = (ranked[:count] - ranked[0]).exp()
    if filters.top_p < 1:
        target, passed = filters.top_p * weights.sum(), weights.cumsum(0)
        sure = bool(((passed - target).abs() > 2e-5 * target).all())
        count = int((passed < target).sum()) + 1
    if filters.min_p > 0:
        lowest = ranked[0] + math.log(filters.min_p)
        sure &= bool(((ranked[:count] - lowest).abs() > error).all())
        count = int((ranked[:count] >= lowest).sum())
    # Equal ones are taken by their ids, which rounding does not touch; nearly equal ones might change places.
    if count < len(ranked) and ranked[count] != ranked[count - 1]:
        sure &= bool(ranked[count - 1] - ranked[count] > error)
    return count, sure


def rows_of(count: int, temperature: float, shaping: Shaping) -> RowShaping:
    return RowShaping.of([(count, temperature, shaping)])


def check_shaped(head: PackedHead, hidden: Tensor, temperature: float, result: Readout, full: Dense, uniforms: Tensor):
    sure, logp = full.clear, full.logp
    p = logp.exp()
    error = 30 / temperature * 8 * 2.0**-23 + 1e-5
    assert torch.equal(result.argmax[sure], logp.argmax(-1)[sure])
    expected = -torch.where(p > 0, p * logp, 0.0).sum(-1)
    assert_within(result.entropy[sure], expected[sure], 20 * error * (1 + expected[sure]))
    assert_within(result.confidence[sure], p.amax(-1)[sure], 4 * error + 0 * expected[sure])
    if result.self_conditioning is not None:
        table = head.table.unpacked()[0].double()
        rounding = 4 * error + (0 if head.table.format == "float32" else 2.0**-7)
        allowed = rounding * (p @ table.abs())
        if bindings.self_conditioning_format(head.table.format) == "int8":
            allowed += byte_units(head, p) * 1.1
        assert_within(result.self_conditioning[sure], (1.7 * p @ table)[sure], 1.7 * allowed[sure])
    token, well = drawn(logp, uniforms)
    well &= sure
    assert torch.equal(result.sample[well], token[well])
    assert (full.left.gather(1, result.sample[:, None])[:, 0] | ~sure).all()
    own = result.probability(result.sample)
    assert_within(own[sure], p.gather(1, result.sample[:, None])[sure, 0], 8 * error + 0 * expected[sure])
    last = logp.masked_fill(~full.left, math.inf).masked_fill(full.logits.isneginf(), math.inf).argmin(-1)
    least = logp.gather(1, last[:, None])[:, 0]
    assert_within(result.logprob(last)[sure], least[sure], 8 * error + 1e-5 * least.abs()[sure])
    likeliest_out = full.logits.masked_fill(full.left, -math.inf)
    there = ~full.left.all(-1) & sure
    out = likeliest_out.argmax(-1)
    gap = p.amax(-1).log() + full.logits.gather(1, out[:, None])[:, 0] - full.logits.amax(-1)
    far = there & (gap - torch.where(p > 0, logp, 0.0).amin(-1) < -1e-2)
    assert (result.logprob(out)[far] == -math.inf).all()
    forbidden = full.logits.argmin(-1)
    gone = full.logits.isneginf().any(-1)
    assert (result.logprob(forbidden)[gone] == -math.inf).all()


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_reads_what_a_dense_reference_leaves_of_each_row(format, filters: Filters):
    seen = 0
    for length, vocab, width, temperature in (
        (3, 5, 6, 0.5),
        (17, 257, 40, 0.8),
        (19, 5001, 24, 0.4),
        (3, 9000, 33, 3),
    ):
        head = head_of(vocab, width, format)
        hidden, uniforms = hidden_for(length, head), PositionRandom(vocab, 0, 1, length).sample
        for own in (None, changes(vocab, 1), changes(vocab, length)):
            shaping = Shaping(filters, own)
            full = dense(head, hidden, temperature, shaping)
            result = head.read(hidden, temperature, uniforms, shaping=rows_of(length, temperature, shaping))
            check_shaped(head, hidden, temperature, result, full, uniforms)
            seen += int(full.clear.sum())
    assert seen > 25, "most rows are such that rounding cannot decide"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_of_equal_logits_the_lower_token_is_left(format):
    """All of 700 tokens are equal, in tiles and blocks of their own; every count of them is cut after the lowest."""
    table = torch.ones(700, 8)
    table[::7] = -1.0
    head = PackedHead(pack(table, format), 30.0, 1.7)
    equal = [token for token in range(700) if token % 7]
    uniforms = torch.linspace(0, 0.999, 40).double()
    for k in (1, 2, 33, 256, 300, 599, 600):
        shaping = rows_of(40, 1.0, Shaping(Filters(top_k=k)))
        readout = head.read(torch.ones(40, 8), 1.0, uniforms, shaping=shaping)
        torch.testing.assert_close(readout.entropy, torch.full((40,), math.log(k)))
        assert readout.argmax.tolist() == equal[:1] * 40
        assert set(readout.sample.tolist()) <= set(equal[:k])
        assert readout.sample[-1] == equal[int(0.999 * k)]
    readout = head.read(torch.ones(40, 8), 1.0, None, shaping=rows_of(40, 1.0, Shaping(Filters(top_p=0.2511))))
    torch.testing.assert_close(readout.entropy, torch.full((40,), math.log(151)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("vocab", [90, 9000])
@pytest.mark.usefixtures("tier_or_reference")
def test_a_filter_that_leaves_all_and_changes_of_nothing_change_nothing(vocab: int):
    head = head_of(vocab, 12)
    hidden, uniforms = hidden_for(5, head), PositionRandom(2, 0, 1, 5).sample
    nothing = LogitChanges(torch.tensor([3, 40]), torch.zeros(1, 2), torch.ones(1, 2))
    for shaping in (Shaping(), Shaping(Filters(top_k=vocab)), Shaping(Filters(), nothing)):
        result = head.read(hidden, 0.5, uniforms, top_k=3, shaping=rows_of(5, 0.5, shaping))
        check(head, hidden, 0.5, result, uniforms)


@pytest.mark.usefixtures("tier_or_reference")
def test_forbidden_tokens_are_never_read_not_even_where_a_whole_tile_is_forbidden():
    vocab = 1000
    head = head_of(vocab, 12)
    hidden = hidden_for(50, head)
    tokens = torch.arange(0, 700)
    own = LogitChanges(tokens, torch.full((1, 700), FORBIDDEN), torch.ones(1, 700))
    uniforms = torch.linspace(0, 0.9999, 50).double()
    shaping = Shaping(Filters(), own)
    classes = TokenClasses.of((torch.arange(vocab) >= 600).int() + (torch.arange(vocab) >= 800).int())
    result = head.read(hidden, 0.7, uniforms, classes=classes, top_k=400, shaping=rows_of(50, 0.7, shaping))
    check_shaped(head, hidden, 0.7, result, dense(head, hidden, 0.7, shaping), uniforms)
    assert result.sample.min() >= 700
    assert result.argmax.min() >= 700
    assert result.top_logprobs is not None
    assert result.top_ids is not None
    assert (result.top_logprobs[:, 300:] == -math.inf).all()
    assert (result.top_ids[:, :300].sort().values == torch.arange(700, 1000)).all()
    found = result.classes
    assert found is not None
    assert (found.peak[:, 0] == -math.inf).all()
    assert (found.mass[:, 0] == 0).all()
    torch.testing.assert_close(found.mass.sum(-1), torch.ones(50))
    assert found.draw(torch.ones(50, dtype=torch.int64), uniforms).min() >= 700


@pytest.mark.parametrize("filters", [FILTERS[1], FILTERS[4], FILTERS[7]], ids=str)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_classes_are_summed_over_what_is_left_and_keep_their_likeliest_token(format, filters: Filters):
    """Of a class that lost all of its tokens the mass is none, and the peak so low that only a constraint takes it."""
    length, vocab, temperature = 19, 2600, 0.6
    head = head_of(vocab, 30, format)
    hidden, uniforms = hidden_for(length, head), PositionRandom(7, 0, 1, length).sample
    numbers = uneven(vocab)
    # A class of the middle kind, whose tokens are drawn by regions.
    numbers[torch.arange(vocab) % 8 == 1] = 43
    numbers[torch.arange(vocab) % 16 == 3] = 44
    classes = TokenClasses.of(numbers)
    shaping = Shaping(filters, changes(vocab, length))
    full = dense(head, hidden, temperature, shaping)
    result = head.read(hidden, temperature, uniforms, classes=classes, shaping=rows_of(length, temperature, shaping))
    check_shaped(head, hidden, temperature, result, full, uniforms)
    found, sure, p = result.classes, full.clear, full.logp.exp()
    assert found is not None
    assert sure.sum() > 8
    whole = torch.where(p > 0, full.logits - full.logp, 0.0).amax(-1)
    for number in range(classes.count):
        tokens = classes.tokens_of(number).long()
        own = p[:, tokens]
        assert_within(found.mass[sure, number], own.sum(-1)[sure], 1e-3 * own.sum(-1)[sure] + 1e-7)
        plogp = torch.where(own > 0, own * own.log(), 0.0).sum(-1)
        assert_within(found.plogp[sure, number], plogp[sure], 1e-3 * plogp.abs()[sure] + 1e-6)
        if not len(tokens):
            continue
        peak = (full.logits - whole[:, None])[:, tokens].amax(-1)
        out = ~full.left[:, tokens].any(-1)
        assert_within(found.peak[sure, number], (peak - TAKEN_OUT * out)[sure], 2e-3 + 0 * peak[sure])
        likeliest = full.logits.gather(1, found.argmax[:, number, None])[:, 0]
        assert_within(likeliest, full.logits[:, tokens].amax(-1), 1e-4 + 0 * likeliest)
        left = (own.sum(-1) > 0) & sure
        for share in (0.0, 0.5, 0.999):
            token = found.draw(torch.full((length,), number), torch.full((length,), share, dtype=torch.float64))
            assert torch.isin(token, tokens).all()
            assert (p.gather(1, token[:, None])[left, 0] > 0).all()
    anything = found.draw(torch.full((length,), -1), uniforms)
    token, well = drawn(full.logp, uniforms)
    assert torch.equal(anything[well & sure], token[well & sure])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("with_classes", [False, True])
@pytest.mark.usefixtures("tier")
def test_a_rows_bits_are_the_same_alone_and_among_rows_shaped_otherwise(format, with_classes: bool):
    vocab = 9000
    head = head_of(vocab, 40, format)
    sizes = [1, 30, 45, 8, 33, 1]
    kinds = [FILTERS[1], FILTERS[5], Filters(), FILTERS[6], FILTERS[2], FILTERS[0]]
    temperatures = [0.4, 0.8, 0.7, 0.3, 1.5, 0.5]
    canvases = [
        (size, temperature, Shaping(filters, changes(vocab, size, seed) if seed % 2 else None))
        for seed, (size, temperature, filters) in enumerate(zip(sizes, temperatures, kinds, strict=True))
    ]
    total = sum(sizes)
    hidden, uniforms = hidden_for(total, head), PositionRandom(1, 0, 1, total).sample
    classes = TokenClasses.of(uneven(vocab)) if with_classes else None
    by_row = torch.cat([torch.full((size,), one) for size, one in zip(sizes, temperatures, strict=True)])
    whole = head.read(hidden, by_row, uniforms, top_k=3, classes=classes, shaping=RowShaping.of(canvases))
    first = 0
    for size, temperature, shaping in canvases:
        own = slice(first, first + size)
        shaped = RowShaping.of([(size, temperature, shaping)])
        alone = head.read(hidden[own], temperature, uniforms[own], top_k=3, classes=classes, shaping=shaped)
        same_rows(alone, whole, own)
        first += size


@pytest.mark.usefixtures("tier")
def test_an_unshaped_row_has_the_same_bits_among_shaped_ones_and_more_rows_than_are_read_at_once():
    head = head_of(500, 16)
    hidden, uniforms = hidden_for(530, head), PositionRandom(1, 0, 1, 530).sample
    canvases = [(200, 0.5, Shaping(Filters(top_p=0.8))), (130, 0.5, Shaping()), (200, 0.5, Shaping(Filters(top_k=5)))]
    whole = head.read(hidden, 0.5, uniforms, shaping=RowShaping.of(canvases))
    same_rows(head.read(hidden[200:330], 0.5, uniforms[200:330]), whole, slice(200, 330))
    own = slice(500, 530)
    alone = head.read(hidden[own], 0.5, uniforms[own], shaping=rows_of(30, 0.5, Shaping(Filters(top_k=5))))
    same_rows(alone, whole, own)


@pytest.mark.parametrize("filters", [Filters(top_k=3), Filters(top_p=0.5), Filters(min_p=0.1)], ids=str)
@pytest.mark.usefixtures("tier_or_reference")
def test_nan_in_one_position_shows_and_touches_no_other(filters: Filters):
    head = head_of(700, 8)
    hidden, uniforms = hidden_for(3, head), uniform(0.2, 0.5, 0.8)
    shaping = rows_of(3, 0.5, Shaping(filters, changes(700, 1)))
    expected = head.read(hidden, 0.5, uniforms, shaping=shaping)
    hidden[1, 2] = math.nan
    found = head.read(hidden, 0.5, uniforms, shaping=shaping)
    assert found.entropy.isnan().tolist() == [False, True, False]
    assert torch.equal(found.sample[::2], expected.sample[::2])
    assert torch.equal(found.entropy[::2], expected.entropy[::2])


@pytest.mark.usefixtures("tier_or_reference")
def test_a_tiny_temperature_and_a_flat_row_are_cut_rightly():
    """Far below the largest logit all weights are lost, and yet top-k counts tokens; a flat row keeps its share."""
    head = head_of(9000, 10)
    hidden = hidden_for(4, head)
    result = head.read(hidden, 1e-4, None, shaping=rows_of(4, 1e-4, Shaping(Filters(top_k=50, top_p=0.9))))
    assert torch.equal(result.argmax, capped(head, hidden).argmax(-1))
    assert torch.equal(result.entropy, torch.zeros(4))
    flat = head.read(hidden, 1e6, None, shaping=rows_of(4, 1e6, Shaping(Filters(top_p=0.5))))
    torch.testing.assert_close(flat.entropy, torch.full((4,), math.log(4500)), rtol=1e-4, atol=0)


def test_changes_of_another_number_of_positions_are_refused():
    wrong = replace(changes(50, 1), added=torch.zeros(3, 5), factor=torch.ones(3, 5))
    with pytest.raises(ValueError, match="changes of 3 positions for a canvas of 4"):
        RowShaping.of([(4, 1.0, Shaping(Filters(), wrong))])
