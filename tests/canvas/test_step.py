"""The denoising step against a plain one: lists, loops over positions and exact fractions in the place of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from redraft.canvas.acceptance import AcceptanceRule, AcceptanceView, ConfidenceThreshold, EntropyBound
from redraft.canvas.corruption import AbsorbingCorruption, Corruption, MaskNoise, UniformCorruption
from redraft.canvas.draft import Draft
from redraft.canvas.noise import UniformNoise
from redraft.canvas.readout import Readout
from redraft.canvas.step import CanvasState, Pinned, StepOutcome, StepRules, start, step
from redraft.canvas.stopping import ReproducesCanvas, StableAndConfident, StoppingRule
from tests.readouts import readout_of
from tests.thorough import some

VOCABULARY, MASK = 5, 4
UNIFORM, ABSORBING = UniformCorruption(UniformNoise(VOCABULARY)), AbsorbingCorruption(MaskNoise(MASK))
# Of entropies and probabilities; float32 holds all sums of so few of them.
EIGHTH = Fraction(1, 8)


@dataclass(frozen=True)
class Given:
    """The draws of a step, made by a test (a ``canvas.step.Draws``)."""

    sample: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Position:
    """A position of a canvas before a step, and what the model and the draws say of it."""

    token: int
    open: bool
    sure: int
    """Its confidence so far, in eighths."""
    argmax: int
    sample: int
    entropy: int
    confidence: int
    noise: int
    before: tuple[int, int]
    """The likeliest tokens of the two steps before, newest last."""


POSITIONS = st.builds(
    Position,
    token=st.integers(0, VOCABULARY - 1),
    open=st.sampled_from([True, True, True, False]),
    sure=st.integers(0, 8),
    argmax=st.integers(0, VOCABULARY - 1) | st.just(1),
    sample=st.integers(0, VOCABULARY - 1),
    entropy=st.integers(0, 12) | st.just(0),
    confidence=st.integers(1, 8),
    noise=st.integers(0, VOCABULARY - 1),
    before=st.tuples(st.integers(0, 1) | st.just(1), st.integers(0, 1) | st.just(1)),
)
ACCEPTANCE: list[AcceptanceRule] = [EntropyBound(0.0), EntropyBound(0.5), EntropyBound(4.0), ConfidenceThreshold(0.5)]
STOPPING: list[StoppingRule] = [
    StableAndConfident(0, 0.5),
    StableAndConfident(1, 0.5),
    StableAndConfident(2, 2.0),
    ReproducesCanvas(0.5),
]


CORRUPTIONS: list[Corruption] = [UNIFORM, ABSORBING]


def column(positions: list[Position], name: str) -> Tensor:
    return torch.tensor([getattr(one, name) for one in positions])


def eighths(positions: list[Position], name: str) -> Tensor:
    return column(positions, name).float() / 8


def tensors(
    positions: list[Position], remembered: int, number: int, conditioning: Tensor | None = None
) -> tuple[CanvasState, Readout, Given]:
    """The state of a canvas that remembers so many canvases, the readout and the draws."""
    earlier = tuple(torch.tensor([one.before[2 - ago] for one in positions]) for ago in range(remembered, 0, -1))
    state = CanvasState(
        column(positions, "token"), column(positions, "open"), eighths(positions, "sure"), number, None, earlier
    )
    readout = readout_of(
        eighths(positions, "entropy"),
        eighths(positions, "confidence"),
        argmax=column(positions, "argmax"),
        sample=column(positions, "sample"),
        self_conditioning=conditioning,
    )
    # A uniform in the middle of the noise token's share.
    noise = (column(positions, "noise").double() + 0.5) / VOCABULARY
    return state, readout, Given(torch.zeros_like(noise), noise)


@dataclass
class Plain:
    """What the definition makes of a step."""

    accepted: list[bool]
    tokens: list[int]
    open: list[bool]
    committed: list[int]
    confidence: list[Fraction]
    argmax: list[int]
    finished: bool


def plain_acceptance(rule: AcceptanceRule, said: list[Position]) -> list[bool]:
    if isinstance(rule, ConfidenceThreshold):
        sure = [i for i, one in enumerate(said) if one.confidence * EIGHTH >= Fraction(rule.threshold)]
        best = max((one.confidence for one in said if one.open), default=0)
        surest = next((i for i, one in enumerate(said) if one.open and one.confidence == best), 0)
        return [i in sure or i == surest for i in range(len(said))]
    assert isinstance(rule, EntropyBound)
    accepted, spent = [False] * len(said), Fraction(0)
    for at in sorted(range(len(said)), key=lambda at: said[at].entropy):
        accepted[at] = spent <= Fraction(rule.bound)
        spent += said[at].entropy * EIGHTH
    return accepted


def plain_stopping(rule: StoppingRule, said: list[Position], remembered: int) -> bool:
    own = [one for one in said if one.open]
    mean = sum((one.entropy * EIGHTH for one in own), Fraction(0)) / max(1, len(own))
    if isinstance(rule, ReproducesCanvas):
        return mean < Fraction(rule.confidence_threshold) and all(one.argmax == one.token for one in own)
    assert isinstance(rule, StableAndConfident)
    if remembered < rule.stability_threshold or mean >= Fraction(rule.confidence_threshold):
        return False
    return all(one.argmax == one.before[2 - ago] for ago in range(1, rule.stability_threshold + 1) for one in own)


def plain_step(positions: list[Position], rules: StepRules, number: int, remembered: int) -> Plain:
    """One step as one would explain it, position after position."""
    said = [
        one if one.open else replace(one, argmax=one.token, sample=one.token, entropy=0, confidence=8)
        for one in positions
    ]
    accepted = plain_acceptance(rules.acceptance, said)
    argmax = [one.argmax for one in said]
    # A settled position keeps what was known of it.
    confidence = [(one.confidence if one.open else one.sure) * EIGHTH for one in said]
    tokens, open, committed = [], [], []
    if rules.corruption is UNIFORM:
        for one, yes in zip(said, accepted, strict=True):
            tokens.append(one.sample if yes or not one.open else one.noise)
        open = [one.open for one in said]
        committed = argmax
        finished = plain_stopping(rules.stopping, said, remembered)
    else:
        revealed = [one.open and yes and one.sample != MASK for one, yes in zip(said, accepted, strict=True)]
        finished = all(shown for one, shown in zip(said, revealed, strict=True) if one.open)
        for one, shown in zip(said, revealed, strict=True):
            shown = shown or (one.open and number == rules.steps)
            tokens.append(one.sample if shown else one.token)
            open.append(one.open and not shown)
        committed = tokens
    return Plain(accepted, tokens, open, committed, confidence, argmax, finished)


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Position], StepRules, int, int]:
    steps = draw(st.integers(1, 3))
    rules = StepRules(
        draw(st.sampled_from(ACCEPTANCE)),
        draw(st.sampled_from(STOPPING)),
        draw(st.sampled_from(CORRUPTIONS)),
        steps,
    )
    positions = draw(st.lists(POSITIONS, min_size=1, max_size=7))
    remembered = draw(st.integers(0, rules.stopping.memory))
    return positions, rules, draw(st.integers(1, steps)), remembered


@settings(max_examples=some(120, 50), deadline=None)
@given(situations())
def test_a_step_is_what_a_loop_over_positions_makes_of_it(situation: tuple[list[Position], StepRules, int, int]):
    positions, rules, number, remembered = situation
    conditioning = torch.rand(len(positions), 3)
    state, readout, draws = tensors(positions, remembered, number, conditioning)
    outcome, expected = step(state, readout, draws, rules), plain_step(positions, rules, number, remembered)
    assert outcome.accepted.tolist() == expected.accepted
    assert outcome.readout.argmax.tolist() == expected.argmax
    assert outcome.committed.tolist() == expected.committed
    following = outcome.state
    assert following.tokens.tolist() == expected.tokens
    assert following.open.tolist() == expected.open
    assert following.confidence.tolist() == [float(one) for one in expected.confidence]
    assert following.step == number + 1
    assert following.self_conditioning is conditioning
    assert outcome.flags.tolist() == [expected.finished, False]
    kept = [*state.earlier, torch.tensor(expected.argmax)][-rules.stopping.memory :] if rules.stopping.memory else []
    assert [one.tolist() for one in following.earlier] == [one.tolist() for one in kept]


def stacked(ones: Sequence[CanvasState | Readout], name: str) -> Tensor:
    return torch.stack([getattr(one, name) for one in ones])


@settings(max_examples=some(40, 20), deadline=None)
@given(situations(), st.data())
def test_canvases_that_are_stepped_together_are_each_stepped_as_alone(
    situation: tuple[list[Position], StepRules, int, int], data: st.DataObject
):
    first, rules, number, remembered = situation
    more = st.lists(POSITIONS, min_size=len(first), max_size=len(first))
    canvases = [first, data.draw(more), data.draw(more)]
    states, readouts, draws = zip(*(tensors(own, remembered, number) for own in canvases), strict=True)
    together = step(
        CanvasState(
            stacked(states, "tokens"),
            stacked(states, "open"),
            stacked(states, "confidence"),
            number,
            None,
            tuple(torch.stack(own) for own in zip(*(one.earlier for one in states), strict=True)),
        ),
        readout_of(
            stacked(readouts, "entropy"),
            stacked(readouts, "confidence"),
            argmax=stacked(readouts, "argmax"),
            sample=stacked(readouts, "sample"),
        ),
        Given(*(torch.stack([getattr(one, name) for one in draws]) for name in ("sample", "noise"))),
        rules,
    )
    assert together.flags.shape == (3, 2)
    for row, (state, readout, own) in enumerate(zip(states, readouts, draws, strict=True)):
        alone = step(state, readout, own, rules)
        for name in ("accepted", "committed", "flags"):
            assert torch.equal(getattr(together, name)[row], getattr(alone, name)), name
        for name in ("tokens", "open", "confidence"):
            assert torch.equal(getattr(together.state, name)[row], getattr(alone.state, name)), name


def noise_of(tokens: list[int]) -> Given:
    noise = (torch.tensor(tokens).double() + 0.5) / VOCABULARY
    return Given(torch.full_like(noise, 0.5), noise)


@pytest.mark.parametrize("corruption", [UNIFORM, ABSORBING], ids=["uniform", "absorbing"])
def test_a_canvas_starts_as_noise_under_what_survives_of_a_draft_under_the_pins(corruption: Corruption):
    draws = noise_of([0, 1, 2, 3, 0])
    rules = StepRules(EntropyBound(), ReproducesCanvas(), corruption, 4)
    draft = Draft(torch.tensor([9, 9, 7, 8, 6]), torch.tensor([1.0, 1.0, 0.6, 0.4, 0.6], dtype=torch.float64))
    pinned = Pinned(torch.tensor([False, False, True, True, False]), torch.tensor([0, 0, 3, 3, 0]))
    state = start(draws, rules, draft=draft, offset=2, pinned=pinned)
    noise = [0, 1, 2, 3, 0] if corruption is UNIFORM else [MASK] * 5
    # The draft's third to fifth token lie over the first three positions; of uniforms of a half, 0.6 survives.
    assert state.tokens.tolist() == [7, noise[1], 3, 3, noise[4]]
    settled = [False, False, True, True, False] if corruption is UNIFORM else [True, False, True, True, False]
    assert state.open.tolist() == [not own for own in settled]
    assert state.confidence.tolist() == [float(own) for own in settled]
    assert (state.step, state.self_conditioning, state.earlier) == (1, None, ())


def test_a_start_without_draft_and_pins_is_noise_all_of_which_is_open():
    rules = StepRules(EntropyBound(), ReproducesCanvas(), UNIFORM, 4)
    state = start(noise_of([3, 1, 4]), rules)
    assert state.tokens.tolist() == [3, 1, 4]
    assert state.open.all()


def test_pinned_positions_stay_through_all_steps_and_are_certain():
    pinned = Pinned(torch.tensor([True, False, True, False]), torch.tensor([2, 0, 3, 0]))
    rules = StepRules(ConfidenceThreshold(0.9), StableAndConfident(1, 0.1), UNIFORM, 6)
    generator = torch.Generator().manual_seed(0)
    state = start(noise_of([0, 1, 2, 3]), rules, pinned=pinned)
    for _ in range(5):
        argmax, sample = (torch.randint(VOCABULARY, (4,), generator=generator) for _ in range(2))
        sure = torch.rand(4, generator=generator)
        outcome = step(state, readout_of(1 - sure, sure, argmax=argmax, sample=sample), noise_of([0, 1, 2, 3]), rules)
        for tokens in (outcome.state.tokens, outcome.committed, outcome.readout.sample):
            assert tokens[pinned.mask].tolist() == [2, 3]
        assert outcome.readout.entropy[pinned.mask].tolist() == [0, 0]
        assert outcome.readout.confidence[pinned.mask].tolist() == [1, 1]
        assert outcome.state.confidence[pinned.mask].tolist() == [1, 1]
        state = outcome.state


@pytest.mark.parametrize("stopping", STOPPING, ids=repr)
@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=["uniform", "absorbing"])
def test_to_know_that_all_is_open_changes_nothing(corruption: Corruption, stopping: StoppingRule):
    rules = StepRules(EntropyBound(0.5), stopping, corruption, 3)
    known = start(noise_of([0, 1, 2, 3]), rules)
    assert known.all_open
    read_off = replace(known, all_open=False)
    for _ in range(2):
        readout = readout_of(torch.tensor([0.1, 0.7, 0.2, 0.05]), torch.tensor([0.9, 0.4, 0.8, 0.95]))
        found, expected = (step(state, readout, noise_of([4, 3, 2, 1]), rules) for state in (known, read_off))
        for name in ("accepted", "committed", "flags"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        for name in ("tokens", "open", "confidence"):
            assert torch.equal(getattr(found.state, name), getattr(expected.state, name)), name
        # What an absorbing canvas has revealed is not open any more.
        assert found.state.all_open is not corruption.monotone
        known, read_off = found.state, expected.state


def test_the_probability_of_a_settled_position_is_that_it_keeps_its_token():
    state = replace(
        start(noise_of([0, 1, 2]), StepRules(EntropyBound(), ReproducesCanvas(), UNIFORM, 2)),
        open=torch.tensor([True, False, False]),
        all_open=False,
    )
    said = readout_of(torch.zeros(3), torch.ones(3), likely=lambda tokens: torch.full((3,), 0.25))
    seen: list[Tensor] = []

    class Looks:
        def accept(self, view: AcceptanceView) -> Tensor:
            seen.append(view.readout.probability(torch.tensor([3, 1, 3])))
            return view.open

    step(state, said, noise_of([0, 0, 0]), StepRules(Looks(), ReproducesCanvas(), UNIFORM, 2))
    assert seen[0].tolist() == [0.25, 1.0, 0.0]


@pytest.mark.parametrize("corruption", [UNIFORM, ABSORBING], ids=["uniform", "absorbing"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_a_number_shows_in_the_flags_where_a_position_is_open(corruption: Corruption, value: float):
    rules = StepRules(EntropyBound(1.0), StableAndConfident(0, 1.0), corruption, 4)
    state = start(noise_of([0, 1, 2]), rules)
    said = readout_of(torch.tensor([0.1, value, 0.1]), torch.ones(3))
    assert step(state, said, noise_of([0, 0, 0]), rules).flags[1]
    settled = replace(state, open=torch.tensor([True, False, True]), all_open=False)
    assert not step(settled, said, noise_of([0, 0, 0]), rules).flags[1]


def test_an_absorbing_canvas_goes_from_masks_to_text_and_nothing_is_taken_back():
    """Step by step: what is revealed stays, a drawn mask reveals nothing, and the last step reveals all."""
    rules = StepRules(EntropyBound(0.0), ReproducesCanvas(), ABSORBING, 3)
    state = start(noise_of([0] * 4), rules)
    entropies = [[0.0, 0.0, 1.0, 1.0], [9.0, 0.5, 9.0, 9.0], [9.0, 1.0, 9.0, 1.0]]
    samples = [[1, MASK, 2, 3], [3, MASK, 2, 3], [3, 0, 3, 1]]
    expected = [[1, MASK, 2, MASK], [1, MASK, 2, MASK], [1, 0, 2, 1]]
    outcome: StepOutcome | None = None
    for entropy, sample, tokens in zip(entropies, samples, expected, strict=True):
        said = readout_of(torch.tensor(entropy), torch.full((4,), 0.5), sample=torch.tensor(sample))
        outcome = step(state, said, noise_of([0] * 4), rules)
        state = outcome.state
        assert state.tokens.tolist() == tokens
    assert outcome is not None
    assert outcome.committed.tolist() == expected[-1]
    assert not outcome.flags[0], "it was not finished by itself: the step limit revealed what was left"
    assert not state.open.any()


@pytest.mark.parametrize("stopping", STOPPING, ids=str)
@pytest.mark.parametrize("acceptance", ACCEPTANCE[1:], ids=str)
@pytest.mark.parametrize("corruption", [UNIFORM, ABSORBING], ids=["uniform", "absorbing"])
@pytest.mark.parametrize("shape", [(6,), (2, 6)], ids=str)
def test_no_step_reads_a_tensor_on_the_host(
    corruption: Corruption, acceptance: AcceptanceRule, stopping: StoppingRule, shape: tuple[int, ...]
):
    """Of tensors without values: whoever asks for one fails."""
    rules = StepRules(acceptance, stopping, corruption, 3)
    with FakeTensorMode():
        draws = Given(torch.rand(shape, dtype=torch.float64), torch.rand(shape, dtype=torch.float64))
        with pytest.raises(DataDependentOutputException):
            bool(draws.noise.any())
        state = start(draws, rules)
        for _ in range(rules.steps):
            said = readout_of(torch.rand(shape), torch.rand(shape), self_conditioning=torch.rand(*shape, 4))
            outcome = step(state, said, draws, rules)
            assert outcome.flags.shape == (*shape[:-1], 2)
            state = outcome.state
