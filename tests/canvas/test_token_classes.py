"""What a readout says about token classes, held against a dense softmax in float64, and the classes themselves."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import ClassReadout, Readout
from redraft.canvas.token_classes import HEAVY_SHARE, MAX_HEAVY, TokenClasses
from redraft.layers.vocabulary_head import VocabularyHead


def random_head(vocab: int, width: int = 6, seed: int = 0) -> VocabularyHead:
    table = torch.randn(vocab, width, generator=torch.Generator().manual_seed(seed))
    return VocabularyHead(table, 30.0, 1.0)


def random_hidden(length: int, width: int = 6, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(length, width, generator=torch.Generator().manual_seed(length))


def log_probabilities(head: VocabularyHead, hidden: Tensor, temperature: float) -> Tensor:
    assert head.softcap is not None
    logits = head.softcap * torch.tanh(hidden.double() @ head.table.double().T / head.softcap)
    return (logits / temperature).log_softmax(-1)


def classes_of(readout: Readout) -> ClassReadout:
    """What was read by class, which was asked for."""
    assert readout.classes is not None
    return readout.classes


def uneven(vocab: int) -> TokenClasses:
    """Two heavy classes, light ones of which some are empty, and the last of one token."""
    generator = torch.Generator().manual_seed(vocab)
    light = torch.randint(2, 20, (vocab,), generator=generator)
    heavy = torch.randint(0, 2, (vocab,), generator=generator)
    numbers = torch.where(torch.rand(vocab, generator=generator) < 0.1, light, heavy)
    numbers[-1] = 20
    return TokenClasses.of(numbers, 22)


@pytest.mark.parametrize("tile", [4096, 64, 7])
@pytest.mark.parametrize("temperature", [0.04, 0.5, 10.0])
@pytest.mark.parametrize("vocab", [1, 50, 300])
def test_sums_peak_and_argmax_are_those_of_the_tokens_of_each_class(vocab: int, temperature: float, tile: int):
    head, hidden, classes = random_head(vocab), random_hidden(5), uneven(vocab)
    logp = log_probabilities(head, hidden, temperature)
    found = classes_of(head.read(hidden, temperature, None, classes=classes, tile=tile))
    assert found.mass.shape == (5, 22)
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4 * max(1, 0.1 / temperature), "check_dtype": False}
    for number in range(22):
        own = logp[:, classes.token_class == number]
        torch.testing.assert_close(found.mass[:, number], own.exp().sum(-1), **close)
        torch.testing.assert_close(found.plogp[:, number], (own.exp() * own).sum(-1), **close)
        if own.shape[1]:
            torch.testing.assert_close(found.peak[:, number], own.amax(-1), **close)
            assert torch.equal(found.argmax[:, number], classes.tokens_of(number).long()[own.argmax(-1)])
        else:
            assert found.peak[:, number].tolist() == [-math.inf] * 5
            assert found.argmax[:, number].tolist() == [-1] * 5


@pytest.mark.parametrize("vocab", [1, 300, 70_000])
def test_tokens_that_were_sorted_before_make_the_same_classes(vocab: int):
    numbers = uneven(vocab).token_class
    tokens = [token for _, token in sorted((int(number), token) for token, number in enumerate(numbers))]
    found, expected = TokenClasses.of(numbers, 22, np.array(tokens)), TokenClasses.of(numbers, 22)
    assert expected.tokens.tolist() == tokens
    for name, value in vars(expected).items():
        assert torch.equal(torch.as_tensor(getattr(found, name)), torch.as_tensor(value)), name
    with pytest.raises(ValueError, match=f"{vocab + 1} sorted tokens, where {vocab} have a class"):
        TokenClasses.of(numbers, 22, np.arange(vocab + 1))


@pytest.mark.parametrize("tile", [4096, 16])
def test_the_argmax_of_a_class_is_the_first_of_equals(tile: int):
    head = VocabularyHead(torch.ones(60, 3), 30.0, 1.0)
    classes = TokenClasses.of(torch.arange(60) // 7 % 3)
    found = classes_of(head.read(torch.ones(2, 3), 1.0, None, classes=classes, tile=tile))
    assert found.argmax.tolist() == [[0, 7, 14]] * 2


@pytest.mark.parametrize("tile", [4096, 64, 7])
def test_ten_thousand_draws_follow_the_distribution_within_a_class(tile: int):
    head, hidden, classes = random_head(300), random_hidden(1, scale=0.3), uneven(300)
    p = log_probabilities(head, hidden, 0.9)[0].exp()
    uniforms = PositionRandom(5, 0, 1, 10_000).sample
    found = classes_of(head.read(hidden.expand(10_000, 6), 0.9, None, classes=classes, tile=tile))
    for number in (-1, 0, 1, 5, 20):
        tokens = torch.arange(300) if number < 0 else classes.tokens_of(number).long()
        draws = found.draw(torch.full((10_000,), number), uniforms)
        assert torch.isin(draws, tokens).all()
        expected = 10_000 * p[tokens] / p[tokens].sum()
        counts = draws.bincount(minlength=300)[tokens]
        assert ((counts - expected) ** 2 / expected).sum() < len(tokens) + 5 * (2 * len(tokens)) ** 0.5


@pytest.mark.parametrize("tile", [4096, 64, 7])
def test_a_draw_is_the_token_whose_interval_of_the_classs_cdf_holds_the_uniform(tile: int):
    """Each position draws from its own class, at both ends of the interval of every token of it in turn."""
    head, hidden, classes = random_head(200), random_hidden(1, scale=0.3), uneven(200)
    p = log_probabilities(head, hidden, 0.8)[0].exp()
    start, end = torch.empty(200).double(), torch.empty(200).double()
    for number in range(classes.count):
        tokens = classes.tokens_of(number).long()
        share = p[tokens] / p[tokens].sum()
        end[tokens] = share.cumsum(0)
        start[tokens] = end[tokens] - share
    wide = end - start > 2e-5
    found = classes_of(head.read(hidden.expand(int(wide.sum()), 6), 0.8, None, classes=classes, tile=tile))
    for inside in (start + 5e-6, (start + end) / 2, end - 5e-6):
        assert torch.equal(found.draw(classes.token_class[wide].long(), inside[wide]), torch.arange(200)[wide])


@pytest.mark.parametrize("tile", [4096, 16])
def test_any_token_is_drawn_as_the_sample_is(tile: int):
    head, hidden, uniforms = random_head(300), random_hidden(40, scale=0.5), PositionRandom(1, 0, 1, 40).sample
    readout = head.read(hidden, 0.7, uniforms, classes=uneven(300), tile=tile)
    assert torch.equal(classes_of(readout).draw(torch.full((40,), -1), uniforms), readout.sample)


@pytest.mark.parametrize("tile", [4096, 5])
def test_a_class_whose_mass_underflows_has_its_peak_and_gives_its_argmax(tile: int):
    logits = torch.tensor([29.0, -29.0, 28.9, -29.5, -28.0, -29.9, 1.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    head = VocabularyHead((30 * torch.atanh(logits / 30)).float()[:, None], 30.0, 1.0)
    classes = TokenClasses.of(torch.tensor([0, 1, 0, 1, 1, 1, 2, 2, 2, 2]))
    found = classes_of(head.read(torch.ones(2, 1), 0.04, None, classes=classes, tile=tile))
    assert found.mass[0, 1] == found.mass[0, 2] == 0
    exact = (logits / 0.04).log_softmax(-1)[[0, 4, 7]]
    torch.testing.assert_close(found.peak[0].double(), exact, rtol=1e-5, atol=1e-3)
    assert found.draw(torch.tensor([1, 2]), torch.tensor([0.0, 0.99]).double()).tolist() == [4, 7]


@pytest.mark.parametrize("tile", [4096, 4])
def test_tokens_without_weight_in_their_class_are_never_drawn(tile: int):
    logits = torch.tensor([-20.0, 5.0, -20.0, -19.0, -20.0, -19.0, 1.0, -20.0, 5.0, 5.0], dtype=torch.float64)
    head = VocabularyHead((30 * torch.atanh(logits / 30)).float()[:, None], 30.0, 1.0)
    classes = TokenClasses.of(torch.tensor([0, 1, 0, 0, 1, 0, 1, 0, 0, 1]))
    uniforms = torch.tensor([0.0, 1e-300, 0.6, 1 - 2**-53], dtype=torch.float64)
    found = classes_of(head.read(torch.ones(4, 1), 0.02, None, classes=classes, tile=tile))
    assert found.draw(torch.zeros(4, dtype=torch.int64), uniforms).tolist() == [8] * 4
    assert found.draw(torch.ones(4, dtype=torch.int64), uniforms).tolist() == [1, 1, 9, 9]


def test_classes_that_cannot_be_drawn_from_are_refused():
    classes = TokenClasses.of(torch.arange(10) % 3, 5)
    found = classes_of(random_head(10).read(random_hidden(2), 1.0, None, classes=classes))
    uniforms = torch.tensor([0.5, 0.5], dtype=torch.float64)
    with pytest.raises(ValueError, match="class 4 has no tokens"):
        found.draw(torch.tensor([0, 4]), uniforms)
    with pytest.raises(ValueError, match="class 5 to draw from is not one of 5"):
        found.draw(torch.tensor([5, 0]), uniforms)
    with pytest.raises(ValueError, match="class -2 to draw from"):
        found.draw(torch.tensor([0, -2]), uniforms)
    with pytest.raises(ValueError, match=r"uniforms \[1\] must be \[2\]"):
        found.draw(torch.tensor([0, 0]), uniforms[:1])


def test_classes_are_sorted_into_heavy_ones_and_the_tokens_of_light_ones():
    vocab = 1000
    numbers = np.zeros(vocab, dtype=np.int64)
    numbers[::3] = 4
    numbers[[5, 500, 20]] = 2
    numbers[7] = 6
    classes = TokenClasses.of(numbers, 8)
    assert classes.token_class.dtype == torch.int32
    assert classes.heavy.tolist() == [0, 4]
    assert classes.light_tokens.tolist() == [5, 7, 20, 500]
    assert classes.tokens_of(2).tolist() == [5, 20, 500]
    assert classes.first.tolist() == [1, -1, 5, -1, 0, -1, 7, -1]
    numbers[:] = 3
    assert classes.token_class[7] == 6, "what it was made from may change"


def test_of_many_large_classes_the_largest_are_heavy():
    sizes = torch.arange(20) + int(2000 * HEAVY_SHARE)
    classes = TokenClasses.of(torch.arange(20).repeat_interleave(sizes))
    assert classes.heavy.tolist() == list(range(20 - MAX_HEAVY, 20))


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint16])
def test_any_whole_numbers_make_classes(kind: type[np.integer]):
    assert TokenClasses.of(np.array([0, 2, 1], dtype=kind)).count == 3


def test_numbers_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match="class -1 of a token"):
        TokenClasses.of(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="class 3 of a token; there are 3 classes"):
        TokenClasses.of(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match=r"not float32 \[2\]"):
        TokenClasses.of(torch.tensor([0.0, 1.0]))
