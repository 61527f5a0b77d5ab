"""Compiled inference over token automata, held against its reference on automata of the size that schemas have."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray

from redraft.constrain.automaton.chain import Chain
from redraft.constrain.inference.chain import ClassSums, Inference
from redraft.constrain.inference.chain import infer as infer_reference
from redraft.constrain.inference.chain import infer_in_order as in_order_reference
from redraft.errors import ConstraintError
from redraft.kernels import inference as kernel
from redraft.kernels.library import TIERS, native, status
from tests.constrain.chains import Floats, Toy, distributions

needs_library = pytest.mark.skipif(native() is None, reason=status().reason)

Arguments = tuple[Chain, int, Floats, ClassSums, Floats]


def machine(rng: np.random.Generator, states: int, classes: int, moves: int) -> Toy:
    """From each state classes lead on to a few states nearby; the last one and some others accept."""
    table = np.full((states + 1, classes), -1)
    for state in range(states):
        targets = np.clip(state + rng.integers(-5, 12, moves), 0, states - 1)
        for target in targets:
            few = rng.random() < 0.8
            table[state, rng.integers(1, classes - 1, 2 if few else classes // 8)] = target
        # A way to the last state there always is.
        table[state, rng.integers(1, classes - 1)] = min(state + 1, states - 1)
    table[:, -1] = np.where((rng.random(states + 1) < 0.02) | (np.arange(states + 1) == states - 1), states, -1)
    table[-1] = states
    return Toy(table, np.arange(classes))


def arguments(
    seed: int, scale: float = 4.0, length: int = 256, states: int = 300, classes: int = 310, moves: int = 2
) -> Arguments:
    """A canvas's class sums in float32 as a readout gives them, where classes have from 1 token to 8."""
    rng = np.random.default_rng(seed)
    chain = machine(rng, states, classes, moves).chain
    logp = distributions(rng, length, 8 * classes, scale).reshape(length, classes, 8)
    logp = np.where(rng.random((classes, 8)) < 0.4, logp, -np.inf)
    logp[:, :, 0] = np.maximum(logp[:, :, 0], logp.max(-1))
    with np.errstate(invalid="ignore"):
        mass, plogp = np.exp(logp).sum(-1), np.nan_to_num(np.exp(logp) * logp).sum(-1)
    end = np.where(rng.random(states + 1) < 0.3, 0.0, -np.inf)
    end[-1] = 0.0
    sums = ClassSums(*(part.astype(np.float32) for part in (mass, plogp, logp.max(-1))))
    return chain, 0, end, sums, rng.random((length, 2))


def assert_same(given: Arguments, tolerance: float = 1e-9) -> None:
    """All fields of both, of either kind of inference; those of the best sequence bit for bit."""
    for ours, theirs in ((kernel.infer, infer_reference), (kernel.infer_in_order, in_order_reference)):
        _assert_same(ours(*given), theirs(*given), given[3].peak, tolerance)


def _assert_same(found: Inference, expected: Inference, peak: NDArray[np.floating], tolerance: float) -> None:
    assert found.best_logprob == pytest.approx(expected.best_logprob, rel=1e-14)
    for name in ("best_states", "best_classes", "sampled_states", "sampled_classes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)
    assert found.log_valid == pytest.approx(expected.log_valid, rel=tolerance, abs=tolerance)
    np.testing.assert_allclose(found.tail, expected.tail, rtol=tolerance, atol=1e-300)
    for name in ("log_multiplier", "log_ratio"):
        theirs = getattr(expected, name)
        ours = getattr(found, name)
        possible = peak + theirs > -600
        np.testing.assert_allclose(ours[possible], theirs[possible], rtol=tolerance, atol=tolerance)
        # What is less likely than a double can tell may be lost; it must not have become likely.
        assert ((peak + ours)[~possible] < -590).all()
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=tolerance, atol=tolerance)


def bits(found: Inference) -> list[bytes]:
    return [np.asarray(getattr(found, field.name)).tobytes() for field in fields(Inference)]


@needs_library
@pytest.mark.parametrize("scale", [1.0, 10.0, 60.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_same_as_the_reference_on_a_canvas_of_a_large_schema(seed: int, scale: float):
    """At the largest scale most masses have underflowed to 0."""
    given = arguments(seed, scale)
    chain, mass, peak = given[0], given[3].mass, given[3].peak
    assert 800 < len(chain.edge_target) < 1000
    assert ((mass == 0) & (peak > -np.inf)).mean() == pytest.approx(0.9 if scale == 60 else 0.0, abs=0.3)
    assert_same(given)


@needs_library
@pytest.mark.parametrize("seed", range(20))
def test_the_same_as_the_reference_where_what_is_forced_is_unlikely(seed: int):
    """Scales so large that paths lie thousands of nats below others at the same position, in narrow automata."""
    given = arguments(seed, scale=[30.0, 300.0, 3000.0][seed % 3], length=30, states=12, classes=9)
    # Logarithms near -1e5 leave differences an accuracy of 1e-11, times the thousands of nats that they are.
    assert_same(given, tolerance=1e-7)


def refusal(infer: Callable[..., Inference], given: Arguments) -> str | None:
    try:
        infer(*given)
    except ConstraintError as error:
        return str(error)
    return None


@needs_library
def test_pins_and_contradictions_are_the_references():
    chain, start, end, sums, uniforms = arguments(3, length=20)
    refused = 0
    for position in (0, 1, 2, 19):
        for number in (1, 100, 200):
            given = (chain, start, end, sums.pinned(np.array([position]), np.array([number])), uniforms)
            message = refusal(infer_reference, given)
            assert refusal(kernel.infer, given) == message
            if message is None:
                assert_same(given)
            else:
                refused += 1
    assert 2 < refused < 10


@needs_library
def test_the_same_bits_on_every_tier_and_number_of_threads(with_threads):
    given = arguments(4, length=60)
    expected = bits(kernel.infer(*given))
    library = native()
    assert library is not None
    before = library.tier, library.reason
    for threads in (1, 2, 3):
        with_threads(threads)
        for tier in TIERS:
            library.set_tier(tier, "chosen by a test")
            assert bits(kernel.infer(*given)) == expected
    library.set_tier(*before)


@needs_library
def test_requests_at_the_same_time_do_not_disturb_each_other():
    """Of different sizes, so that a thread's buffers are used for one after the other."""
    requests = [arguments(seed, length=10 + 13 * seed, states=20 * seed + 5, classes=40) for seed in range(8)]
    expected = [bits(kernel.infer(*given)) for given in requests]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert [bits(found) for found in pool.map(lambda given: kernel.infer(*given), requests)] == expected


def test_without_a_library_the_reference_does_the_work(monkeypatch: pytest.MonkeyPatch):
    given = arguments(5, length=20, states=30, classes=40)
    monkeypatch.setattr(kernel, "native", lambda: None)
    assert bits(kernel.infer(*given)) == bits(infer_reference(*given))
