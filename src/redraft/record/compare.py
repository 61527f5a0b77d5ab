"""A comparison of two recorded runs: where they part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from redraft.engine.result import StepEvent
from redraft.record.described import prompt_digest
from redraft.record.recording import Recording
from redraft.record.steps import StepPlace, places

_TOKENS = ("tokens_in", "argmax", "sample", "accepted", "tokens_out")
_NUMBERS = ("canvas_index", "step", "temperature", "finished")
# What a result says of time, and of what was cached, is no part of the answer.
_ANSWER = (
    *("text", "thought", "token_ids", "finish_reason", "unconverged_canvases", "log_valid", "verified"),
    *("answers", "confidence"),
)


@dataclass(frozen=True, eq=False)
class Parting:
    """A step at which two runs are not the same."""

    index: int
    """The number of the step among all of the run's, from 0."""
    place: StepPlace
    fields: tuple[str, ...]
    """The names of the fields of ``StepEvent`` that differ; none where one run has ended."""
    positions: tuple[int, ...]
    """The positions of the canvas at which the fields differ."""
    a: StepEvent | None
    """None where the first run had ended."""
    b: StepEvent | None

    @property
    def only_entropy(self) -> bool:
        """True if both runs still have the same tokens."""
        return self.fields == ("entropy",)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The common part of two runs, and where it ends."""

    steps: tuple[int, int]
    first: Parting | None
    """The step where they part first, be it in the last bit of an entropy."""
    in_tokens: Parting | None
    """The step where they part first in more than entropies."""
    entropy_difference: float
    """The largest, in nats, of all steps up to ``in_tokens``."""
    answer: tuple[str, ...]
    """Fields of the result, or "error", that differ."""

    @property
    def identical(self) -> bool:
        """True if every step and the answer are the same, bit for bit."""
        return self.first is None and not self.answer


def compare(a: Recording, b: Recording) -> Comparison:
    """Compare the steps and the answers of two runs; what was asked is compared by ``parameters``."""
    return Comparison((len(a.events), len(b.events)), *_steps(a.events, b.events), answer=_answers(a, b))


def compare_beginning(a: Recording, b: Recording) -> Comparison:
    """Compare the steps of two runs as far as ``a`` came."""
    return Comparison((len(a.events), len(b.events)), *_steps(a.events, b.events[: len(a.events)]), answer=())


def parameters(a: Recording, b: Recording) -> dict[str, tuple[Any, Any]]:
    """Describe what differs in what was asked, of whom, and what computed it; None where there is no such thing."""
    one, other = _flat(a), _flat(b)
    names = dict.fromkeys((*one, *other))
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _flat(recording: Recording) -> dict[str, Any]:
    prompt = recording.request["prompt"]
    # Of a prompt that was not kept, there is what is kept of any other as well.
    found = {**recording.request, "prompt": prompt_digest(prompt) if isinstance(prompt, list) else prompt}
    read = recording.read or {}
    for part, values in {"model": recording.model, "version": recording.versions, "reading": read}.items():
        found |= {f"{part}.{name}": value for name, value in values.items()}
    return found | dict(recording.computed)


def _answers(a: Recording, b: Recording) -> tuple[str, ...]:
    if a.result is None or b.result is None:
        return () if a.error == b.error else ("error",)
    return tuple(name for name in _ANSWER if a.result.get(name) != b.result.get(name))


def _steps(a: Sequence[StepEvent], b: Sequence[StepEvent]) -> tuple[Parting | None, Parting | None, float]:
    first, largest = None, 0.0
    where = places(a if len(a) >= len(b) else b)
    for index, (one, other) in enumerate(zip_longest(a, b)):
        if one is None or other is None:
            parting = Parting(index, where[index], (), (), one, other)
            return first or parting, parting, largest
        fields, positions = _differing(one, other)
        if "entropy" in fields:
            largest = max(largest, float((one.entropy.double() - other.entropy.double()).abs().max()))
        if fields:
            parting = Parting(index, where[index], fields, positions, one, other)
            first = first or parting
            if not parting.only_entropy:
                return first, parting, largest
    return first, None, largest


def _differing(a: StepEvent, b: StepEvent) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The fields in which two steps differ, and the positions at which they do."""
    fields = [name for name in _NUMBERS if getattr(a, name) != getattr(b, name)]
    if len(a.argmax) != len(b.argmax):
        return (*fields, "length"), ()
    marks: Mapping[str, Tensor] = {
        **{name: getattr(a, name) != getattr(b, name) for name in _TOKENS},
        # Bit for bit: 0 and -0 differ too.
        "entropy": a.entropy.view(torch.int32) != b.entropy.view(torch.int32),
    }
    differing = [name for name, mark in marks.items() if mark.any()]
    # Rounding may show everywhere; what it changed is where the tokens are others.
    shown = [marks[name] for name in differing if name != "entropy"] or [marks[name] for name in differing]
    positions = torch.stack(shown).any(0).nonzero()[:, 0].tolist() if shown else []
    return (*fields, *differing), tuple(positions)
