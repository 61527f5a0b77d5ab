"""Acceptance rules held against loops over exact fractions and against the reference's sampler."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
)

from redraft.canvas.acceptance import AcceptanceView, ConfidenceThreshold, EntropyBound
from tests.readouts import readout_of

# Multiples of 1/64 whose sums float32 holds exactly, so that a comparison with the bound is never a matter of rounding.
UNIT = 64
entropies = st.lists(st.integers(0, 3 * UNIT) | st.integers(0, 3), min_size=1, max_size=40)
bounds = st.integers(0, 4 * UNIT)


def within_bound(entropy: list[int], bound: int) -> list[bool]:
    """One position after the other, surest first, while those before it use up no more than the bound."""
    accepted, spent = [False] * len(entropy), 0
    for position in sorted(range(len(entropy)), key=lambda position: entropy[position]):
        accepted[position] = spent <= bound
        spent += entropy[position]
    return accepted


def view(entropy: Tensor, confidence: Tensor, open: Tensor | None = None) -> AcceptanceView:
    """A step at which these are the entropies and the likeliest tokens' probabilities [..., C]."""
    open = torch.ones_like(entropy, dtype=torch.bool) if open is None else open
    return AcceptanceView(readout_of(entropy, confidence), open, step=1, steps=1)


def bounded(entropy: Tensor, bound: float) -> Tensor:
    return EntropyBound(bound).accept(view(entropy, torch.full_like(entropy, math.nan)))


@settings(deadline=None)
@given(entropies, bounds)
def test_entropy_bound_accepts_what_a_loop_over_sorted_entropies_accepts(entropy: list[int], bound: int):
    accepted = bounded(torch.tensor(entropy) / UNIT, bound / UNIT)
    assert accepted.tolist() == within_bound(entropy, bound)


@settings(deadline=None)
@given(entropies, bounds)
def test_accepted_entropies_less_the_largest_stay_within_the_bound_and_no_more_would_fit(
    entropy: list[int], bound: int
):
    accepted = bounded(torch.tensor(entropy) / UNIT, bound / UNIT).tolist()
    taken = sorted(e for e, yes in zip(entropy, accepted, strict=True) if yes)
    left = sorted(e for e, yes in zip(entropy, accepted, strict=True) if not yes)
    assert sum(taken[:-1]) <= bound
    assert not left or (taken[-1] <= left[0] and sum(taken) > bound)


@pytest.mark.parametrize("bound", [1e-6, 0.1, 1.0, 20.0])
def test_entropy_bound_accepts_what_the_references_sampler_accepts(bound: float):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 64, 50, generator=generator) * torch.rand(6, 64, 1, generator=generator) * 30
    reference = EntropyBoundSampler(EntropyBoundSamplerConfig(bound), 64, 50, 48)
    canvas = torch.zeros(6, 64, dtype=torch.int64)
    reference.accept_canvas(canvas, canvas, logits, cur_step=1)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.equal(bounded(entropy, bound), reference.accepted_token_mask)
    assert 6 <= reference.accepted_token_mask.sum() < canvas.numel()


@given(st.lists(st.floats(2**-100, 2**100, width=32), min_size=1, max_size=40))
@settings(deadline=None)
def test_the_surest_position_is_always_accepted(entropy: list[float]):
    values = torch.tensor(entropy)
    assert bounded(values, 0.0)[values.argmin()]


def test_rows_of_a_batch_are_canvases_of_their_own():
    entropy = torch.rand(5, 33, generator=torch.Generator().manual_seed(1))
    for rule in (EntropyBound(1.0), ConfidenceThreshold(0.9)):
        rows = [rule.accept(view(row, (-row).exp())) for row in entropy]
        assert torch.equal(rule.accept(view(entropy, (-entropy).exp())), torch.stack(rows))


@pytest.mark.parametrize(
    ("entropy", "bound", "accepted"),
    [
        ([0.5, 0.0, 0.25, 0.0], 0.0, [False, True, True, True]),
        ([0.5, 0.25], 0.0, [False, True]),
        ([0.25] * 5, 0.0, [True, False, False, False, False]),
        ([0.25] * 5, 0.5, [True, True, True, False, False]),
        ([0.25] * 5, 0.75, [True, True, True, True, False]),
        ([9.0], 0.0, [True]),
    ],
)
def test_at_bound_zero_and_among_equals_the_first_positions_win(
    entropy: list[float], bound: float, accepted: list[bool]
):
    assert bounded(torch.tensor(entropy), bound).tolist() == accepted


def test_a_nan_entropy_is_not_accepted_and_costs_the_others_nothing():
    assert bounded(torch.tensor([0.1, math.nan, 0.05, 2.0]), 0.2).tolist() == [True, False, True, True]


@settings(deadline=None)
@given(st.lists(st.integers(1, UNIT), min_size=1, max_size=40, unique=True), st.integers(1, UNIT))
def test_confidence_threshold_accepts_all_at_or_above_it_and_the_surest(confidence: list[int], threshold: int):
    values = torch.tensor(confidence) / UNIT
    accepted = ConfidenceThreshold(threshold / UNIT).accept(view(torch.full_like(values, math.nan), values))
    assert accepted.tolist() == [c >= threshold or c == max(confidence) for c in confidence]


def test_of_equally_sure_positions_below_the_threshold_one_is_accepted():
    confidence = torch.tensor([0.25, 0.5, 0.5, 0.5])
    accepted = ConfidenceThreshold(0.9).accept(view(-confidence.log(), confidence))
    assert accepted.sum() == 1
    assert confidence[accepted].item() == 0.5


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, UNIT), st.booleans()), min_size=1, max_size=40))
def test_of_what_is_open_the_surest_is_accepted_however_sure_the_rest_is(positions: list[tuple[int, bool]]):
    """What is settled is certain; it must not be the one position for whose sake a step goes on."""
    open = torch.tensor([own for _, own in positions])
    confidence = torch.where(open, torch.tensor([sure for sure, _ in positions]) / UNIT, 1.0)
    accepted = ConfidenceThreshold(1.0).accept(view(-confidence.log(), confidence, open))
    if open.any():
        best = max(sure for sure, own in positions if own)
        assert any(yes and own and sure == best for yes, (sure, own) in zip(accepted.tolist(), positions, strict=True))
    assert accepted[~open].all()


def test_a_view_tells_the_probability_of_what_was_drawn():
    readout = readout_of(torch.zeros(3), torch.ones(3), sample=torch.tensor([5, 6, 7]), likely=lambda t: t / 10)
    seen = AcceptanceView(readout, torch.ones(3, dtype=torch.bool), step=2, steps=4)
    assert seen.sample_probability.tolist() == pytest.approx([0.5, 0.6, 0.7])


@pytest.mark.parametrize("bound", [-1e-9, -1.0, math.nan, math.inf, -math.inf])
def test_a_bound_that_is_no_amount_of_nats_is_refused(bound: float):
    with pytest.raises(ValueError, match=f"entropy_bound {bound} "):
        EntropyBound(bound)


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.0001, math.nan, math.inf])
def test_a_threshold_that_is_no_probability_is_refused(threshold: float):
    with pytest.raises(ValueError, match=f"confidence threshold {threshold} "):
        ConfidenceThreshold(threshold)
