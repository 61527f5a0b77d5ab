"""What the fused readout says about token classes, and its draws, held against float64 and the torch reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import ClassReadout
from redraft.canvas.token_classes import TokenClasses
from redraft.kernels.packed import Format, pack
from redraft.kernels.readout import PackedHead
from redraft.layers.vocabulary_head import VocabularyHead
from tests.kernels.quantised import operand
from tests.kernels.test_readout import FORMATS, capped, check_classes, head_of, hidden_for, log_probabilities, uneven

JUST_BELOW_ONE = 1 - 2**-53


def read(head: PackedHead, hidden: Tensor, temperature: float, classes: TokenClasses) -> ClassReadout:
    found = head.read(hidden, temperature, None, self_conditioning=False, classes=classes).classes
    assert found is not None
    return found


def partition(kind: str, vocab: int, seed: int) -> TokenClasses:
    generator = torch.Generator().manual_seed(seed)
    numbers = {
        "uneven": lambda: uneven(vocab, seed),
        "all in one": lambda: torch.full((vocab,), 2),
        "each alone": lambda: torch.randperm(vocab, generator=generator),
        "in stretches": lambda: torch.arange(vocab) // 40,
        "many alike": lambda: torch.randint(0, 60, (vocab,), generator=generator),
    }[kind]()
    return TokenClasses.of(numbers, int(numbers.max()) + 3)


KINDS = ["uneven", "all in one", "each alone", "in stretches", "many alike"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 400), st.integers(1, 60)),
    kind=st.sampled_from(KINDS),
    temperature=st.sampled_from([0.04, 0.5, 10.0]),
    seed=st.integers(0, 1000),
)
def test_class_sums_of_any_shape(format: Format, shape, kind: str, temperature: float, seed: int):
    length, vocab, width = shape
    head = head_of(vocab, width, format, seed=seed)
    hidden, classes = hidden_for(length, head), partition(kind, vocab, seed)
    readout = head.read(hidden, temperature, None, classes=classes)
    check_classes(head, hidden, temperature, readout, classes)


@pytest.mark.parametrize("kind", ["uneven", "all in one", "many alike"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_class_sums_and_draws_of_a_large_vocabulary(format: Format, kind: str):
    """Several shares of the vocabulary, and more light tokens than are set aside at a time."""
    head = head_of(30_000, 10, format)
    hidden, classes = hidden_for(20, head, scale=0.1), partition(kind, 30_000, 0)
    readout = head.read(hidden, 0.5, None, classes=classes)
    check_classes(head, hidden, 0.5, readout, classes)
    assert readout.classes is not None
    assert_draws(head, hidden, 0.5, readout.classes, classes, seed=1)


def assert_draws(
    head: PackedHead, hidden: Tensor, temperature: float, found: ClassReadout, classes: TokenClasses, seed: int
) -> None:
    """The token whose interval of the class's CDF holds the uniform, but where a border is near."""
    logp = log_probabilities(head, hidden, temperature)
    generator = torch.Generator().manual_seed(seed)
    filled = torch.cat((torch.tensor([-1]), (classes.first >= 0).nonzero()[:, 0]))
    chosen = filled[torch.randint(0, len(filled), (len(hidden),), generator=generator)]
    uniforms = torch.rand(len(hidden), dtype=torch.float64, generator=generator)
    drawn = found.draw(chosen, uniforms)
    for position, number in enumerate(chosen.tolist()):
        tokens = torch.arange(logp.shape[1]) if number < 0 else classes.tokens_of(number).long()
        assert drawn[position] in tokens
        if number >= 0 and found.mass[position, number] == 0:
            assert drawn[position] == found.argmax[position, number]
            continue
        ends = (logp[position, tokens] - logp[position, tokens].amax()).exp().cumsum(0)
        ends /= ends[-1].clone()
        at = int(torch.searchsorted(ends, uniforms[position], right=True))
        error = 1e-5 + 16 * 2.0**-23 * head.softcap / temperature
        if (ends[:-1] - uniforms[position]).abs().min(0).values > error if len(ends) > 1 else True:
            assert drawn[position] == tokens[min(at, len(tokens) - 1)]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 400), st.integers(1, 60)),
    kind=st.sampled_from(KINDS),
    temperature=st.sampled_from([0.04, 0.5, 10.0]),
    seed=st.integers(0, 1000),
)
def test_draws_are_those_of_a_float64_cdf(format: Format, shape, kind: str, temperature: float, seed: int):
    length, vocab, width = shape
    head = head_of(vocab, width, format, seed=seed)
    hidden, classes = hidden_for(length, head, scale=0.1), partition(kind, vocab, seed)
    assert_draws(head, hidden, temperature, read(head, hidden, temperature, classes), classes, seed)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_the_same_as_the_reference(format: Format):
    head, classes = head_of(5001, 33, format), partition("uneven", 5001, 3)
    hidden = hidden_for(30, head, scale=0.1)
    reference = VocabularyHead(head.table.weight[0], head.softcap, head.embedding_scale)
    theirs = reference.read((operand(hidden / 30.0, format) * 30.0).float(), 0.7, None, classes=classes).classes
    ours = read(head, hidden, 0.7, classes)
    assert theirs is not None
    for name in ("mass", "plogp", "peak"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)
    assert (ours.argmax == theirs.argmax).float().mean() > 0.99


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_thousands_of_draws_follow_the_distribution_within_a_class(format: Format):
    head, classes = head_of(9000, 6, format), partition("uneven", 9000, 0)
    hidden = hidden_for(1, head, 0.02)
    p = log_probabilities(head, hidden, 0.9)[0].exp()
    found = read(head, hidden.expand(4_000, 6), 0.9, classes)
    uniforms = PositionRandom(5, 0, 1, 4_000).sample
    for number in (-1, 0, 2, 7, 40):
        tokens = torch.arange(9000) if number < 0 else classes.tokens_of(number).long()
        draws = found.draw(torch.full((4_000,), number), uniforms)
        assert torch.isin(draws, tokens).all()
        # Neighbours together, so that enough is expected of every part.
        parts = max(1, len(tokens) // 100)
        part = torch.arange(len(tokens)) // parts
        expected = torch.zeros(int(part[-1]) + 1, dtype=torch.float64).index_add_(0, part, p[tokens])
        expected *= 4_000 / expected.sum()
        counts = part[torch.searchsorted(tokens, draws)].bincount(minlength=len(expected))
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert statistic < len(expected) + 5 * (2 * len(expected)) ** 0.5


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_a_class_far_below_the_others_keeps_its_peak_and_gives_its_argmax(format: Format):
    """Fifteen hundred nats below: all of its mass underflows, in heavy and in light classes."""
    table = torch.full((9000, 1), 1.0)
    low = torch.cat((torch.arange(100, 110), torch.arange(4000, 8000)))
    table[low] = -1.0
    table[[105, 4500]] = -0.9
    head = PackedHead(pack(table, format), 30.0, 1.0)
    numbers = torch.zeros(9000, dtype=torch.int64)
    numbers[low[:10]], numbers[low[10:]] = 1, 2
    found = read(head, torch.full((3, 1), 30.0), 0.04, TokenClasses.of(numbers))
    exact = (capped(head, torch.full((1, 1), 30.0)) * 750).log_softmax(-1)[0]
    for number, token in ((1, 105), (2, 4500)):
        assert found.mass[0, number] == 0
        assert found.peak[0, number] == pytest.approx(exact[token].item(), rel=1e-4)
        assert exact[token] < -1000
        assert found.argmax[0, number] == token
        assert (
            found.draw(torch.full((3,), number), torch.tensor([0.0, 0.5, JUST_BELOW_ONE]).double()).tolist()
            == [token] * 3
        )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_tokens_without_weight_in_their_class_are_never_drawn(format: Format):
    table = torch.full((6000, 1), -1.0)
    table[[37, 39, 437, 5000]] = 1.0
    head = PackedHead(pack(table, format), 30.0, 1.0)
    numbers = torch.ones(6000, dtype=torch.int64)
    numbers[[36, 37, 38, 39, 5000, 5999]] = 0
    found = read(head, torch.full((5, 1), 10.0), 0.01, TokenClasses.of(numbers))
    uniforms = torch.tensor([0.0, 1e-300, 0.5, 0.7, JUST_BELOW_ONE], dtype=torch.float64)
    assert found.draw(torch.zeros(5, dtype=torch.int64), uniforms).tolist() == [37, 37, 39, 5000, 5000]
    assert found.draw(torch.ones(5, dtype=torch.int64), uniforms).tolist() == [437] * 5


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier")
def test_draws_are_the_same_whatever_other_positions_and_threads_there_are(format: Format, with_threads):
    head, classes = head_of(20_000, 40, format), partition("uneven", 20_000, 0)
    hidden, uniforms = hidden_for(40, head, scale=0.1), PositionRandom(1, 0, 1, 40).sample
    chosen = classes.token_class[torch.randint(0, 20_000, (40,), generator=torch.Generator().manual_seed(1))].long()
    chosen[::7] = -1
    with_threads(1)
    expected = read(head, hidden, 0.7, classes).draw(chosen, uniforms)
    for threads in (1, 2, 5):
        with_threads(threads)
        found = read(head, hidden, 0.7, classes)
        read(head, hidden[:3].flip(0), 0.3, classes)  # what another request does in between
        assert torch.equal(found.draw(chosen, uniforms), expected)
    part = read(head, hidden[9:14], 0.7, classes).draw(chosen[9:14], uniforms[9:14])
    assert torch.equal(part, expected[9:14])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.usefixtures("tier_or_reference")
def test_no_positions_and_no_classes_give_nothing(format: Format):
    head = head_of(300, 8, format)
    found = read(head, torch.empty(0, 8), 1.0, partition("uneven", 300, 0))
    assert found.mass.shape[0] == 0
    assert found.draw(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)).tolist() == []
