"""Inference over token automata, compared with the enumeration of every sequence of tokens."""

import math
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.automaton.chain import Chain
from redraft.constrain.inference import chain as inference
from redraft.constrain.inference.chain import ClassSums, Inference, end_potential
from redraft.errors import ConstraintError, GenerationError
from redraft.kernels import inference as kernel
from redraft.layers.vocabulary_head import VocabularyHead
from tests.constrain.chains import Enumeration, Floats, Toy, distributions, toy

SEEDS = range(40)


@pytest.fixture(params=["specification", "kernel"])
def infer(request: pytest.FixtureRequest):
    """Both implementations; without a compiled library they are the same."""
    return inference.infer if request.param == "specification" else kernel.infer


@pytest.fixture(params=["specification", "kernel"])
def infer_in_order(request: pytest.FixtureRequest):
    return (inference if request.param == "specification" else kernel).infer_in_order


def uniforms(rng: np.random.Generator, length: int) -> Floats:
    return rng.random((length, 2))


def any_end(rng: np.random.Generator, states: int) -> Floats:
    """Log potentials, some of which forbid their state."""
    return np.where(rng.random(states + 1) < 0.3, -np.inf, rng.standard_normal(states + 1))


def tokens_of(toy: Toy, classes: NDArray[np.int64], logp: Floats) -> NDArray[np.int64]:
    """The likeliest token of each class, or of all for -1."""
    own = (toy.token_class == classes[:, None]) | (classes[:, None] == -1)
    return np.where(own, logp, -np.inf).argmax(-1)


def marginals(toy: Toy, found: Inference, logp: Floats) -> Floats:
    return np.exp(logp) * (found.multiplier + found.tail[:, None])[:, toy.token_class]


def check(toy: Toy, start: int, end: Floats, logp: Floats, found: Inference) -> None:
    """Everything but the sample's frequencies."""
    exact = Enumeration(toy, start, end, logp)
    tokens = tokens_of(toy, found.best_classes, logp)
    assert (exact.best() == tokens).all(-1).any()
    assert toy.walk(start, tokens).tolist() == found.best_states.tolist()
    assert found.best_logprob == pytest.approx(exact.logprob.max(), rel=1e-12)
    if (end <= 0).all():
        assert found.log_valid == pytest.approx(exact.log_valid, rel=1e-11, abs=1e-14)
    np.testing.assert_allclose(marginals(toy, found, logp), exact.marginals, rtol=1e-9, atol=1e-14)
    log_marginals = logp + found.log_ratio[:, toy.token_class]
    np.testing.assert_allclose(np.exp(log_marginals), exact.marginals, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found.tail, exact.tail, rtol=1e-9, atol=1e-14)
    p = np.maximum(exact.marginals, 1e-300)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), rtol=1e-9, atol=1e-12)
    assert_possible(toy, start, end, logp, found)


def assert_possible(toy: Toy, start: int, end: Floats, logp: Floats, found: Inference) -> None:
    """The sample is a path through the automaton to where it may end."""
    assert toy.walk(start, tokens_of(toy, found.sampled_classes, logp)).tolist() == found.sampled_states.tolist()
    assert end[found.sampled_states[-1]] > -math.inf
    assert ((found.sampled_classes == -1) == (found.sampled_states[:-1] == toy.states)).all()


@pytest.mark.parametrize("length", range(6))
def test_all_that_is_inferred_is_what_enumeration_gives(infer, length: int):
    """Best sequence, probability of valid text, marginals, entropies; ends that forbid states or weigh them."""
    possible = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        machine = toy(rng, states=int(rng.integers(1, 5)))
        start = int(rng.integers(machine.states + 1))
        end = any_end(rng, machine.states)
        logp = distributions(rng, length)
        arguments = (machine.chain, start, end, machine.class_sums(logp), uniforms(rng, length))
        if Enumeration(machine, start, end, logp).possible:
            check(machine, start, end, logp, infer(*arguments))
            possible += 1
        else:
            with pytest.raises(ConstraintError):
                infer(*arguments)
    assert possible > len(SEEDS) / 3


def test_sampled_sequences_come_as_often_as_they_are_probable(infer):
    """Chi-square over all valid sequences of states and classes; the rare ones count together."""
    draws, compared = 800, 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        machine = toy(rng, states=3, allowed=0.8)
        logp, end = distributions(rng, 3, scale=0.7), np.zeros(4)
        exact = Enumeration(machine, 0, end, logp)
        expected: Counter[tuple[int, ...]] = Counter()
        for tokens, states, p in zip(exact.sequences, exact.states, exact.posterior, strict=True):
            classes = np.where(states[:-1] == machine.states, -1, machine.token_class[tokens])
            expected[*states, *classes] += draws * p
        often = [path for path in expected if expected[path] >= 5]
        if len(often) < 5:
            continue
        compared += 1
        observed: Counter[tuple[int, ...]] = Counter()
        sums = machine.class_sums(logp)
        for _ in range(draws):
            found = infer(machine.chain, 0, end, sums, uniforms(rng, 3))
            observed[*found.sampled_states, *found.sampled_classes] += 1
        assert all(expected[path] > 0 for path in observed)
        pairs = [(observed[path], expected[path]) for path in often]
        rest = draws - sum(e for _, e in pairs)
        if rest > 1:
            pairs.append((draws - sum(o for o, _ in pairs), rest))
        statistic = torch.tensor(sum((o - e) ** 2 / e for o, e in pairs))
        by_chance = torch.special.gammaincc(torch.tensor((len(pairs) - 1) / 2), statistic / 2)
        assert 1e-3 < by_chance < 1 - 1e-3
        if compared == 3:
            return
    pytest.fail(f"only {compared} machines have enough to compare")


def test_a_uniform_at_its_extremes_never_picks_what_cannot_be(infer):
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        machine = toy(rng, states=4)
        logp = distributions(rng, 4, scale=200.0)
        end = np.zeros(5)
        extremes = rng.choice([0.0, 1 - 2**-53], (4, 2))
        if Enumeration(machine, 0, end, logp).possible:
            found = infer(machine.chain, 0, end, machine.class_sums(logp), extremes)
            assert_possible(machine, 0, end, logp, found)


@pytest.mark.parametrize("needs_end", [False, True], ids=["may stop", "must end"])
@pytest.mark.parametrize("left", range(4))
def test_a_canvas_may_end_where_the_tokens_left_can_finish_the_text(left: int, needs_end: bool):
    """A state qualifies if some sequence of so many tokens passes through acceptance, or through END."""
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        machine = toy(rng, states=int(rng.integers(1, 5)), allowed=0.3)
        expected = []
        for state in range(machine.states):
            walks = machine.walk(state, np.array(list(product(range(5), repeat=left)), dtype=np.int64))
            alive = walks[(walks[:, :-1] >= 0).all(1)]
            goal = alive == machine.states
            if not needs_end:
                goal |= (alive >= 0) & (alive < machine.states) & np.append(machine.accepting, False)[alive]
            expected.append(0.0 if goal.any() else -math.inf)
        assert end_potential(machine.distance, left, needs_end).tolist() == [*expected, 0.0]


@pytest.mark.parametrize("needs_end", [False, True], ids=["may stop", "must end"])
def test_canvases_that_carry_the_state_on_make_one_valid_text_within_its_budget(infer, needs_end: bool):
    """The second canvas starts in the last state of the first, for the best sequence as for the sampled one."""
    lengths, several = [0, 0], 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        machine = line(1 + seed % 5, loops=True) if seed % 3 == 0 else toy(rng, states=7, allowed=0.3, accepting=0.0)
        needed = machine.distance + needs_end
        start = int(needed.argmin() if seed % 2 else np.where(needed > 8, -1, needed).argmax())
        several += needed[start] > 2
        for budget in (max(int(needed[start]), 1), 8):
            for name in ("best", "sampled"):
                state, left, whole = start, budget, []
                while left and state != machine.states:
                    length = min(2, left)
                    left -= length
                    logp = distributions(rng, length, scale=20.0)
                    found = infer(
                        machine.chain,
                        state,
                        end_potential(machine.distance, left, needs_end),
                        machine.class_sums(logp),
                        uniforms(rng, length),
                    )
                    whole += tokens_of(machine, getattr(found, f"{name}_classes"), logp).tolist()
                    state = int(getattr(found, f"{name}_states")[-1])
                last = int(machine.walk(start, np.array(whole, dtype=np.int64))[-1])
                assert last == state
                assert last == machine.states or (not needs_end and machine.accepting[last])
                lengths[len(whole) > 2] += 1
    assert min(lengths) > 20
    assert several > 5


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_pinned_position_is_certain_of_its_token(infer, count: int):
    """The same as enumeration with a distribution that has this token alone; what cannot be is refused."""
    possible = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        machine = toy(rng, states=4, allowed=0.8)
        logp, end = distributions(rng, 4), np.zeros(5)
        positions, tokens = rng.permutation(4)[:count], rng.integers(0, 5, count)
        sums = machine.class_sums(logp)
        before = [part.copy() for part in vars(sums).values()]
        pinned = sums.pinned(positions, machine.token_class[tokens])
        assert all((a == b).all() for a, b in zip(vars(sums).values(), before, strict=True)), "the given ones are kept"
        logp[positions] = -np.inf
        logp[positions, tokens] = 0.0
        if Enumeration(machine, 0, end, logp).possible:
            found = infer(machine.chain, 0, end, pinned, uniforms(rng, 4))
            check(machine, 0, end, logp, found)
            possible += 1
        else:
            with pytest.raises(ConstraintError):
                infer(machine.chain, 0, end, pinned, uniforms(rng, 4))
    assert 10 < possible < len(SEEDS)


def line(steps: int, *, loops: bool = False) -> Toy:
    """Tokens 1, 2 and 3 are classes of their own, 0 is never allowed and 4 ends: token 1 leads from state to state."""
    table = np.full((steps + 2, 5), -1)
    table[:steps, 1] = np.arange(1, steps + 1)
    if loops:
        table[: steps + 1, 2] = np.arange(steps + 1)
    table[steps, 4] = steps + 1
    table[-1] = steps + 1
    return Toy(table, np.arange(5))


def test_after_the_end_every_token_is_as_likely_as_the_model_says(infer):
    machine, rng = line(1), np.random.default_rng(0)
    logp = distributions(rng, 5)
    found = infer(
        machine.chain, 0, end_potential(machine.distance, 0, True), machine.class_sums(logp), uniforms(rng, 5)
    )
    assert found.best_classes.tolist() == found.sampled_classes.tolist() == [1, 4, -1, -1, -1]
    assert found.best_states.tolist() == found.sampled_states.tolist() == [0, 1, 2, 2, 2, 2]
    assert found.tail.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(marginals(machine, found, logp)[2:], np.exp(logp)[2:])
    np.testing.assert_allclose(found.entropy, [0, 0, *-(np.exp(logp) * logp).sum(-1)[2:]], atol=1e-12)
    assert found.log_valid == pytest.approx(logp[0, 1] + logp[1, 4])
    assert found.best_logprob == pytest.approx(logp[0, 1] + logp[1, 4] + logp[2:].max(-1).sum())


def test_each_of_several_end_tokens_ends_the_text_in_its_own_proportion(infer):
    table = np.array([[-1, 0, 1], [1, 1, 1]])
    machine = Toy(table, np.array([0, 1, 2, 2, 2]))
    logp, end = distributions(np.random.default_rng(1), 3), np.array([-np.inf, 0.0])
    found = infer(machine.chain, 0, end, machine.class_sums(logp), np.full((3, 2), 0.5))
    check(machine, 0, end, logp, found)
    first = marginals(machine, found, logp)[0]
    np.testing.assert_allclose(first[2:] / first[2], np.exp(logp[0, 2:] - logp[0, 2]))
    assert (first[2:] > 0).all()


def forced(length: int, logprob: float, dtype: type[np.floating] = np.float32) -> ClassSums:
    """Class sums of ``line`` in which the model is sure of token 3, and of tokens 1 and 4 only by ``logprob``."""
    mass, plogp, peak = np.zeros((3, length, 5), dtype)
    mass[:, 3] = 1.0
    peak[:] = 2 * logprob
    peak[:, 3] = 0.0
    peak[:, [1, 4]] = logprob
    return ClassSums(mass, plogp, peak)


@pytest.mark.parametrize("logprob", [-100.0, -150.0, -4000.0, -1e7, -1e30])
@pytest.mark.parametrize("loops", [False, True], ids=["one way", "with loops"])
def test_what_the_constraint_forces_stands_there_however_unlikely(infer, logprob: float, loops: bool):
    """Masses have underflowed to 0; the path is e^-4000 and less, and next to it others are far less likely still."""
    length = 50
    machine = line(length - 1, loops=loops)
    found = infer(
        machine.chain, 0, np.append(np.full(length, -np.inf), 0.0), forced(length, logprob), np.full((length, 2), 0.7)
    )
    assert found.best_classes.tolist() == found.sampled_classes.tolist() == [1] * (length - 1) + [4]
    expected = length * max(logprob, -1e9)
    assert found.best_logprob == pytest.approx(expected)
    assert found.log_valid == pytest.approx(expected)
    marginal = found.log_ratio + np.maximum(forced(length, logprob).peak, -1e9)
    assert np.exp(marginal)[np.arange(length), found.best_classes] == pytest.approx(np.ones(length), rel=1e-6)
    np.testing.assert_allclose(found.entropy, 0.0, atol=1e-6)
    assert np.isfinite(found.multiplier).all()


def test_two_ways_that_are_unlikely_at_different_positions_are_weighed_rightly(infer):
    """One costs e^-4000 at once and nothing later, the other the reverse; neither may vanish."""
    table = np.array([[-1, 1, 2, -1], [-1, 3, -1, -1], [-1, -1, 3, -1], [-1, -1, -1, 4], [4] * 4])
    machine = Toy(table, np.arange(4))
    peak = np.array([[0.0, -4000.0, -1.0, 0.0], [0.0, -0.5, -4000.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    found = infer(
        machine.chain,
        0,
        np.zeros(5),
        ClassSums(np.where(peak < -100, 0, np.exp(peak)), peak * np.exp(peak), peak),
        np.full((3, 2), 0.9),
    )
    share = np.exp(-0.5) / (np.exp(-0.5) + np.exp(-1))
    for position in (0, 1):
        marginal = np.exp(found.log_ratio[position] + peak[position])[1:3]
        np.testing.assert_allclose(marginal, [share, 1 - share], rtol=1e-9)
        assert found.entropy[position] == pytest.approx(-(marginal * np.log(marginal)).sum())
    assert found.log_valid == pytest.approx(-4001 + np.log(np.exp(-0.5) + np.exp(-1)))
    assert found.best_classes.tolist() == [1, 1, 3]
    assert found.sampled_classes.tolist() == [2, 2, 3]


def test_a_readout_of_a_hostile_model_gives_valid_text(infer):
    """Class sums as a denoising step makes them in float32, at a temperature that leaves the wrong tokens alone."""
    underflowed = exactly = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        machine = toy(rng, states=4)
        logits = rng.standard_normal((4, 5)) + 20 * (rng.random((4, 5)) < 0.4) - 10
        head = VocabularyHead(torch.eye(5), softcap=30.0, embedding_scale=1.0)
        temperature = float(rng.choice([0.02, 0.1, 2.0]))
        classes = TokenClasses.of(machine.token_class, machine.classes)
        readout = head.read(torch.tensor(logits), temperature, None, classes=classes).classes
        assert readout is not None
        sums = ClassSums(readout.mass.numpy(), readout.plogp.numpy(), readout.peak.numpy())
        end, logp = np.zeros(5), torch.tensor(30 * np.tanh(logits / 30) / temperature).log_softmax(-1).numpy()
        exact = Enumeration(machine, 0, end, logp)
        if not exact.possible:
            continue
        found = infer(machine.chain, 0, end, sums, uniforms(rng, 4))
        assert_possible(machine, 0, end, logp, found)
        assert machine.walk(0, tokens_of(machine, found.best_classes, logp))[-1] >= 0
        assert found.best_logprob == pytest.approx(exact.logprob.max(), rel=1e-5, abs=1e-4)
        if (sums.mass[sums.peak > -np.inf] == 0).any():
            # Of the classes' proportions only those of their likeliest tokens are left.
            underflowed += 1
            continue
        exactly += 1
        ratio = found.log_ratio[:, machine.token_class]
        np.testing.assert_allclose(np.exp(logp + ratio), exact.marginals, atol=1e-3)
        p = np.maximum(exact.marginals, 1e-300)
        np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), atol=1e-3)
    assert min(underflowed, exactly) > 5


def test_of_equally_probable_sequences_the_first_edges_and_classes_are_taken(infer):
    table = np.array([[-1, 1, 1, 2, 3], [-1, 2, 0, 0, -1], [-1, 0, 1, 1, -1], [3] * 5])
    machine = Toy(table, np.arange(5))
    sums = machine.class_sums(np.full((6, 5), -math.log(5)))
    end = np.array([0.0, 0.0, 0.0, -np.inf])
    found = infer(machine.chain, 0, end, sums, np.full((6, 2), 0.5))
    assert found.best_states.tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert found.best_classes.tolist() == [1, 2, 1, 2, 1, 2]


def test_nothing_to_infer_is_an_empty_canvas(infer):
    machine = line(2)
    found = infer(machine.chain, 1, np.zeros(4), ClassSums(*np.zeros((3, 0, 5))), np.zeros((0, 2)))
    assert found.best_states.tolist() == found.sampled_states.tolist() == [1]
    assert (found.best_logprob, found.log_valid, found.entropy.shape) == (0.0, 0.0, (0,))


def test_a_contradiction_says_where_it_is(infer):
    machine = line(4)
    sums = machine.class_sums(distributions(np.random.default_rng(0), 3))
    end = end_potential(machine.distance, 2, False)
    infer(machine.chain, 0, end, sums, np.zeros((3, 2)))
    pinned = sums.pinned(np.array([1]), np.array([3]))
    with pytest.raises(ConstraintError, match="the token pinned at position 1 cannot stand there"):
        infer(machine.chain, 0, end, pinned, np.zeros((3, 2)))
    with pytest.raises(ConstraintError, match="ends within the 3 positions of the canvas"):
        infer(machine.chain, 0, end_potential(machine.distance, 0, False), sums, np.zeros((3, 2)))


@pytest.mark.parametrize("which", ["mass", "plogp", "peak"])
@pytest.mark.parametrize("damage", [math.nan, math.inf])
def test_a_distribution_that_is_none_is_an_error_and_never_text(infer, which: str, damage: float):
    machine = line(2)
    sums = machine.class_sums(distributions(np.random.default_rng(0), 3))
    getattr(sums, which)[1, 2] = damage
    with pytest.raises(GenerationError, match="distribution of position 1 "):
        infer(machine.chain, 0, np.zeros(4), sums, np.zeros((3, 2)))


def test_arguments_that_do_not_fit_are_refused(infer):
    machine = line(2)
    sums = machine.class_sums(distributions(np.random.default_rng(0), 3))
    mass, plogp, peak = sums.mass, sums.plogp, sums.peak
    few = ClassSums(mass[:, :4], plogp[:, :4], peak[:, :4])
    end, u = np.zeros(4), np.zeros((3, 2))
    for match, arguments in {
        r"mass \[3, 4\] must be \[positions, 5 classes or more\]": (0, end, few, u),
        r"uniforms \[2, 2\] must be \[3, 2\]": (0, end, sums, u[:2]),
        r"end_potential \[3\] must be \[4\]": (0, end[:3], sums, u),
        "end_potential has NaN": (0, end + math.nan, sums, u),
        "start state 4 is not": (4, end, sums, u),
        "start state -1 is not": (-1, end, sums, u),
    }.items():
        with pytest.raises(ValueError, match=match):
            infer(machine.chain, *arguments)
    for match, arrays in {
        r"mass \[3\] must be \[positions, classes\]": (mass[:, 0], plogp[:, 0], peak[:, 0]),
        r"plogp \[2, 5\] must be \[3, 5\]": (mass, plogp[:2], peak),
        r"peak \[3, 4\] must be \[3, 5\]": (mass, plogp, peak[:, :4]),
    }.items():
        with pytest.raises(ValueError, match=match):
            ClassSums(*arrays)


def test_pins_that_cannot_be_are_refused():
    sums = line(2).class_sums(distributions(np.random.default_rng(0), 3))
    with pytest.raises(ConstraintError, match="position 3 cannot be pinned: the canvas has 3"):
        sums.pinned(np.array([0, 3]), np.array([1, 1]))
    with pytest.raises(ConstraintError, match=r"pinned twice: \[1, 1\]"):
        sums.pinned(np.array([1, 1]), np.array([1, 2]))
    with pytest.raises(ValueError, match="class 5 of the token pinned at 0 is not one of 5"):
        sums.pinned(np.array([0]), np.array([5]))


def test_a_budget_below_nothing_is_refused():
    with pytest.raises(ValueError, match="-1 tokens are left after the canvas"):
        end_potential(np.array([0]), -1, False)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"edge_start": np.array([0, 1, 2])}, "edge_start must rise from 0 to 3"),
        ({"edge_start": np.array([0, 2, 1, 3])}, "edge_start must rise from 0 to 3"),
        ({"group_start": np.array([0, 3])}, "group_start must rise from 0 to 2"),
        ({"edge_target": np.array([1, 2, 4], dtype=np.int32)}, "edge_target has 1 to 4; at least 0 and below 4"),
        ({"edge_group": np.array([0, 0, 2], dtype=np.int32)}, "edge_group has 0 to 2; at least 0 and below 2"),
        ({"edge_group": np.array([0, -1, 1], dtype=np.int32)}, "edge_group has -1 to 1"),
        ({"edge_group": np.array([0, 1], dtype=np.int32)}, "3 edges have targets, but 2 have groups"),
        ({"group_class": np.array([1, -4], dtype=np.int32)}, "group_class has -4 to 1"),
        ({"edge_target": np.array([1, 2, 3])}, "edge_target must be one contiguous row of int32, not int64"),
        ({"edge_start": np.arange(8)[::2]}, "edge_start must be one contiguous row of int64"),
    ],
)
def test_an_automaton_that_leads_out_of_its_arrays_is_refused(change: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        replace(line(2).chain, **change)


@pytest.mark.parametrize("length", range(6))
def test_in_order_a_position_has_what_may_follow_those_before_it(infer_in_order, length: int):
    """Behind the likeliest tokens so far stands every token that some valid sequence goes on with, in the model's own
    proportions; all sequences are enumerated."""
    possible = 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        machine = toy(rng, states=int(rng.integers(1, 5)))
        start, end = int(rng.integers(machine.states + 1)), any_end(rng, machine.states)
        logp = distributions(rng, length)
        arguments = (machine.chain, start, end, machine.class_sums(logp), uniforms(rng, length))
        exact = Enumeration(machine, start, end, logp)
        if not exact.possible:
            with pytest.raises(ConstraintError):
                infer_in_order(*arguments)
            continue
        possible += 1
        found: Inference = infer_in_order(*arguments)
        valid, expected, log_valid = exact.sequences[exact.logprob > -np.inf], np.zeros_like(logp), 0.0
        likeliest: list[int] = []
        for position, row in enumerate(logp):
            follows = np.unique(valid[(valid[:, :position] == likeliest).all(1), position])
            expected[position, follows] = np.exp(row[follows])
            log_valid += np.log(expected[position].sum())
            likeliest.append(int(follows[row[follows].argmax()]))
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(marginals(machine, found, logp), expected, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(found.entropy, -(expected * np.log(expected + 1e-300)).sum(1), rtol=1e-9, atol=1e-12)
        assert tokens_of(machine, found.best_classes, logp).tolist() == likeliest
        assert machine.walk(start, np.array(likeliest, dtype=np.int64)).tolist() == found.best_states.tolist()
        assert found.best_logprob == pytest.approx(logp[np.arange(length), likeliest].sum(), rel=1e-12)
        assert found.log_valid == pytest.approx(log_valid, rel=1e-9, abs=1e-12)
        assert_possible(machine, start, end, logp, found)
    assert possible > len(SEEDS) / 3


def test_in_order_tokens_are_drawn_as_often_as_they_are_probable(infer_in_order):
    """Uniforms that are evenly spread draw the first position."""
    machine = toy(np.random.default_rng(5), states=4, allowed=0.9, accepting=1.0)
    logp, count = distributions(np.random.default_rng(6), 3, scale=0.7), 400
    drawn: Counter[int] = Counter()
    for number in range(count):
        given = np.full((3, 2), (number + 0.5) / count)
        found = infer_in_order(machine.chain, 0, np.zeros(machine.states + 1), machine.class_sums(logp), given)
        drawn[int(found.sampled_classes[0])] += 1
    by_token = marginals(machine, found, logp)[0]
    assert len(drawn) > 1
    for number, often in drawn.items():
        assert often / count == pytest.approx(by_token[machine.token_class == number].sum(), abs=2 / count)


def test_in_order_a_token_may_lead_two_ways_of_which_a_later_one_decides(infer_in_order):
    """Class 1 leads to a state that only 2 ends, and to one that only 3 does: both stay open behind it."""
    chain = Chain(
        np.array([0, 2, 3, 4]),
        np.array([1, 2, 3, 3], dtype=np.int32),
        np.array([0, 0, 1, 2], dtype=np.int32),
        np.array([0, 1, 2, 3]),
        np.array([1, 2, 3], dtype=np.int32),
    )
    end = np.array([-np.inf, -np.inf, -np.inf, 0.0])
    for likelier, by in ((2, 1), (3, 2)):
        p = np.full((2, 4), 0.1)
        p[0, 1] = p[1, likelier] = 0.7
        found = infer_in_order(chain, 0, end, ClassSums(p, p * np.log(p), np.log(p)), np.full((2, 2), 0.5))
        assert found.best_classes.tolist() == found.sampled_classes.tolist() == [1, likelier]
        assert found.best_states.tolist() == [0, by, 3]


def test_in_order_what_comes_later_does_not_end_a_text(infer_in_order):
    """A text of two tokens and a text of one: where the model is sure of neither end, the first token decides."""
    # 1 goes on, 2 ends; behind 1 a second 1 has to come, of which the model, reading a mask, thinks little.
    machine = Toy(np.array([[-1, 1, 2], [-1, 2, -1], [2, 2, 2]]), np.array([0, 1, 2]))
    p = np.array([[0.0, 0.6, 0.4], [0.8, 0.1, 0.1]])
    with np.errstate(divide="ignore"):
        sums = machine.class_sums(np.log(p))
    given = (machine.chain, 0, np.array([-np.inf, -np.inf, 0.0]), sums, np.full((2, 2), 0.5))
    assert inference.infer(*given).best_classes.tolist() == [2, -1]
    found = infer_in_order(*given)
    assert found.best_classes.tolist() == [1, 1]
    assert marginals(machine, found, np.log(np.maximum(p, 1e-300)))[0].tolist() == pytest.approx([0.0, 0.6, 0.4])
