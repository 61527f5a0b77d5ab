"""What ``Trace`` counts against the plain history of every position, for made-up and for recorded events."""

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import redraft
from redraft.engine.result import StepEvent
from redraft.engine.trace import Trace
from tests.random_checkpoint import random_checkpoint
from tests.thorough import some


def event(
    canvas: int, step: int, steps: int, argmax: list[int], sample: list[int], accepted: list[bool], finished: bool
):
    length = len(argmax)
    return StepEvent(
        canvas_index=canvas,
        step=step,
        steps=steps,
        temperature=1.0,
        tokens_in=torch.zeros(length, dtype=torch.long),
        argmax=torch.tensor(argmax),
        sample=torch.tensor(sample),
        entropy=torch.zeros(length),
        accepted=torch.tensor(accepted),
        tokens_out=torch.zeros(length, dtype=torch.long),
        finished=finished,
    )


def counted(events: list[StepEvent]) -> dict[str, int]:
    """The same counts, position by position and canvas by canvas."""
    acceptances = withdrawals = corrections = 0
    for canvas in sorted({e.canvas_index for e in events}):
        steps = [e for e in events if e.canvas_index == canvas]
        for position in range(len(steps[0].argmax)):
            accepted = [bool(e.accepted[position]) for e in steps]
            acceptances += sum(accepted)
            # At a canvas's last step nothing is renoised.
            withdrawals += sum(before and not after for before, after in pairwise(accepted[:-1]))
            settled = [int(e.sample[position]) for e, kept in zip(steps[:-1], accepted, strict=False) if kept]
            settled.append(int(steps[-1].argmax[position]))
            corrections += sum(before != after for before, after in pairwise(settled))
    return {
        "steps": len(events),
        "acceptances": acceptances,
        "withdrawals": withdrawals,
        "corrections": corrections,
    }


def seen(trace: Trace) -> dict[str, int]:
    return {name: getattr(trace, name) for name in ("steps", "acceptances", "withdrawals", "corrections")}


@st.composite
def runs(draw: st.DrawFn) -> list[StepEvent]:
    """Canvases of one request: steps count up to its limit until a canvas is finished or they are used up."""
    limit = draw(st.integers(1, 5))
    events = []
    for canvas in range(draw(st.integers(1, 3))):
        length, taken = draw(st.integers(1, 4)), draw(st.integers(1, limit))
        row = st.lists(st.integers(0, 2), min_size=length, max_size=length)
        flags = st.lists(st.booleans(), min_size=length, max_size=length)
        for index in range(taken):
            finished = index == taken - 1 and (taken < limit or draw(st.booleans()))
            events.append(event(canvas, index + 1, limit, draw(row), draw(row), draw(flags), finished))
    return events


@settings(max_examples=some(60), deadline=None)
@given(events=runs())
def test_counts_are_those_of_every_positions_history(events):
    trace = Trace()
    for one in events:
        trace(one)
    assert seen(trace) == counted(events)


@settings(max_examples=some(50), deadline=None)
@given(events=runs())
def test_marks_of_change_add_up_to_the_corrections(events):
    trace, marked = Trace(), 0
    for one in events:
        trace(one)
        marked += int(trace.changed.sum())
        assert trace.changed.shape == one.argmax.shape
    assert marked == trace.corrections


def test_recorded_events(tmp_path):
    generation = {"max_denoising_steps": 6, "sampler_config": {"entropy_bound": 3.0}, "eos_token_id": []}
    engine, events, trace = redraft.load(random_checkpoint(tmp_path, generation=generation)), [], Trace()

    def record(one: StepEvent) -> None:
        events.append(one)
        trace(one)

    engine.generate([2, 20, 21], max_tokens=40, seed=4, on_step=record)
    counts = counted(events)
    assert seen(trace) == counts
    assert all(counts.values()), "a run in which nothing happens shows nothing"
