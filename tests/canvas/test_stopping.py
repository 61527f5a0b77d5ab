"""Stopping rules held against plain lists and against the reference's criteria."""

import math
import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers.models.diffusion_gemma.generation_diffusion_gemma import StableAndConfidentStoppingCriteria

from redraft.canvas.stopping import ReproducesCanvas, StableAndConfident, StoppingRule, StoppingView

THRESHOLD = 0.25


def tokens(*values: int) -> Tensor:
    return torch.tensor(values)


def judged(rule: StoppingRule, argmax: Tensor, entropy: Tensor, canvas: Tensor, earlier: Sequence[Tensor]) -> bool:
    """Of a canvas all of which is open."""
    view = StoppingView(argmax, entropy, canvas, torch.ones_like(argmax, dtype=torch.bool), earlier)
    finished = rule.finished(view)
    assert (finished.dtype, finished.shape) == (torch.bool, ())
    return bool(finished)


def history(seed: int, length: int = 60) -> list[tuple[list[int], list[float]]]:
    """(argmax, entropies) of each step: three positions that often stay as they are, entropies in exact eighths whose
    mean is now below, now above, now equal to the threshold."""
    chance = random.Random(seed)
    argmax, steps = [0, 0, 0], []
    for _ in range(length):
        if chance.random() < 0.3:
            argmax = list(argmax)
            argmax[chance.randrange(3)] = chance.randrange(2)
        mean = chance.choice([0.0, 0.125, 0.125, THRESHOLD, 0.375])
        steps.append((argmax, [mean - min(mean, 0.125), mean, mean + min(mean, 0.125)]))
    return steps


@pytest.mark.parametrize("stability", [0, 1, 2, 3])
def test_stops_at_the_steps_a_plain_reading_of_the_rule_names(stability: int):
    rule = StableAndConfident(stability, THRESHOLD)
    canvas = tokens(-1, -1, -1)
    outcomes = set()
    for seed in range(10):
        steps = history(seed)
        for now, (argmax, entropy) in enumerate(steps):
            unchanged = now >= stability and all(earlier == argmax for earlier, _ in steps[now - stability : now])
            expected = unchanged and sum(entropy) / 3 < THRESHOLD
            earlier = [tokens(*previous) for previous, _ in steps[:now]]
            remembered = earlier[max(0, now - rule.memory) :]
            assert judged(rule, tokens(*argmax), torch.tensor(entropy), canvas, earlier) is expected
            assert judged(rule, tokens(*argmax), torch.tensor(entropy), canvas, remembered) is expected
            outcomes.add((unchanged, expected))
    assert outcomes >= {(True, True), (True, False)}


@pytest.mark.parametrize("stability", [0, 1, 2, 3])
def test_stops_at_the_same_steps_as_the_reference(stability: int):
    rule = StableAndConfident(stability, 0.3)
    reference = StableAndConfidentStoppingCriteria(stability, 0.3)
    generator = torch.Generator().manual_seed(stability)
    flags = []
    for _ in range(4):
        reference.reset()
        earlier: list[Tensor] = []
        favoured = torch.randint(11, (5,), generator=generator)
        for _ in range(40):
            if torch.rand((), generator=generator) < 0.25:
                favoured = torch.randint(11, (5,), generator=generator)
            sharpness = 6 * torch.rand((), generator=generator).item() + 2
            logits = torch.randn(5, 11, generator=generator).scatter(1, favoured[:, None], sharpness)
            argmax, entropy = logits.argmax(-1), torch.distributions.Categorical(logits=logits).entropy()
            flags.append(judged(rule, argmax, entropy, argmax, earlier[-3:]))
            assert flags[-1] == reference(argmax[None], logits[None]).item()
            earlier.append(argmax)
    assert 0 < sum(flags) < len(flags)


@pytest.mark.parametrize(
    ("argmax", "canvas", "entropy", "finished"),
    [
        ((1, 2), (1, 2), (0.125, 0.25), True),
        ((1, 2), (1, 3), (0.125, 0.25), False),
        ((1, 2), (1, 2), (0.25, 0.25), False),
        ((1, 2), (1, 2), (0.0, 9.0), False),
        ((1, 2), (2, 1), (0.0, 0.0), False),
    ],
)
def test_reproduces_canvas_compares_with_what_the_model_saw(argmax, canvas, entropy, finished):
    """And with nothing else: the argmax canvases of earlier steps may be anything."""
    for earlier in ([], [tokens(*argmax)], [tokens(8, 9)]):
        rule = ReproducesCanvas(THRESHOLD)
        assert judged(rule, tokens(*argmax), torch.tensor(entropy), tokens(*canvas), earlier) is finished


@pytest.mark.parametrize("rule", [StableAndConfident(1, THRESHOLD), ReproducesCanvas(THRESHOLD)])
def test_what_is_not_open_neither_holds_a_canvas_back_nor_makes_it_sure(rule: StoppingRule):
    """Two of four positions are settled: their tokens and entropies, whatever they are, do not count."""
    open = torch.tensor([True, False, True, False])
    before = tokens(1, 2, 3, 4)
    for argmax, entropy, finished in [
        ((1, 9, 3, 9), (0.125, 9.0, 0.25, 9.0), True),
        ((1, 2, 3, 4), (0.25, 0.0, 0.375, 0.0), False),
        ((9, 2, 3, 4), (0.0, 0.0, 0.0, 0.0), False),
        ((1, 2, 3, 4), (0.125, math.nan, 0.125, 0.0), True),
    ]:
        view = StoppingView(tokens(*argmax), torch.tensor(entropy), before, open, [before])
        assert bool(rule.finished(view)) is finished, (argmax, entropy)


@pytest.mark.parametrize("rule", [StableAndConfident(0, 0.5), StableAndConfident(2, 0.5), ReproducesCanvas(0.5)])
def test_rows_of_a_batch_are_judged_each_for_itself(rule: StoppingRule):
    generator = torch.Generator().manual_seed(0)

    def canvases() -> Tensor:
        return torch.randint(2, (40, 3), generator=generator)

    argmax, entropy = canvases(), torch.rand(40, 3, generator=generator)
    canvas, earlier, open = canvases(), [canvases(), canvases()], torch.rand(40, 3, generator=generator) < 0.7
    together = rule.finished(StoppingView(argmax, entropy, canvas, open, earlier))
    alone = [
        rule.finished(StoppingView(argmax[row], entropy[row], canvas[row], open[row], [one[row] for one in earlier]))
        for row in range(40)
    ]
    assert torch.equal(together, torch.stack(alone))
    assert 0 < together.sum() < 40


def test_reproduces_canvas_asks_for_no_memory():
    assert ReproducesCanvas().memory == 0


@pytest.mark.parametrize("rule", [StableAndConfident(0, math.inf), StableAndConfident(1, 0.5), ReproducesCanvas(0.5)])
@pytest.mark.parametrize("entropy", [[math.nan, 0.0], [math.nan, math.nan]])
def test_nan_entropies_never_stop_a_canvas(rule: StoppingRule, entropy: list[float]):
    canvas = tokens(1, 2)
    assert judged(rule, canvas, torch.zeros(2), canvas, [canvas])
    assert not judged(rule, canvas, torch.tensor(entropy), canvas, [canvas])


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="stability_threshold -1 "):
        StableAndConfident(stability_threshold=-1)


@pytest.mark.parametrize("rule", [StableAndConfident, ReproducesCanvas])
@pytest.mark.parametrize("threshold", [0.0, -0.1, math.nan])
def test_a_threshold_nothing_could_pass_is_refused(rule, threshold: float):
    with pytest.raises(ValueError, match=f"confidence_threshold {threshold} "):
        rule(confidence_threshold=threshold)
