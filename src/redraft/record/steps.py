"""Denoising steps as a few flat arrays, and back bit for bit.

Kept of every position: the likeliest token, the sample, whether it was accepted, the entropy. What the model saw, and
what it sees next, follows, since noise is a function of the seed; where it does not, the row is kept as well.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.canvas.acceptance import EntropyBound
from redraft.canvas.corruption import Corruption
from redraft.canvas.draft import Draft
from redraft.canvas.random import INITIAL, PositionRandom
from redraft.canvas.step import StepRules, start
from redraft.canvas.stopping import ReproducesCanvas
from redraft.engine.denoise import ATTEMPT
from redraft.engine.result import StepEvent

Arrays = Mapping[str, NDArray[Any]]

# One entry a step, and one entry a position of every step; ``accepted`` is kept eight to a byte.
_OF_STEPS = {"canvas": np.int32, "step": np.int32, "length": np.int32, "temperature": np.float64, "finished": np.bool_}
_OF_POSITIONS = {"argmax": np.int32, "sample": np.int32, "entropy": np.float32, "accepted": np.bool_}
# Whole rows of the few steps that ``<name>_at`` counts.
_ROWS = ("tokens_in", "tokens_out")
NAMES = (*_OF_STEPS, *_OF_POSITIONS, *_ROWS, *(f"{name}_at" for name in _ROWS))


@dataclass(frozen=True)
class StepPlace:
    """The place of a step in a generation."""

    canvas: int
    attempt: int
    """At the canvas, from 0; more than one with best_of or a verifier."""
    number: int
    """The number of the step in its attempt, from 1 in the order in which they happen."""


class StepPlaces:
    """Tells the place of one step after the other."""

    def __init__(self) -> None:
        self._place: StepPlace | None = None
        self._step = 0

    def next(self, canvas: int, step: int) -> StepPlace:
        """The place of the step that follows. Steps count up within an attempt; one that does not begins another."""
        before = self._place
        if before is None or before.canvas != canvas:
            place = StepPlace(canvas, 0, 1)
        elif step <= self._step:
            place = StepPlace(canvas, before.attempt + 1, 1)
        else:
            place = StepPlace(canvas, before.attempt, before.number + 1)
        self._place, self._step = place, step
        return place


def places(events: Iterable[StepEvent]) -> list[StepPlace]:
    """The place of every step of a generation."""
    counter = StepPlaces()
    return [counter.next(event.canvas_index, event.step) for event in events]


@dataclass(frozen=True)
class Draws:
    """The noise that a seed puts on a canvas, by the rule of the step itself (``canvas.step``)."""

    seed: int
    corruption: Corruption
    draft: Draft | None
    canvas_length: int
    steps: int
    """The limit, from which the draws' keys count down."""

    def first(self, place: StepPlace, length: int) -> Tensor:
        """[C]: the canvas that an attempt starts from, if no position is pinned."""
        rules = StepRules(EntropyBound(), ReproducesCanvas(), self.corruption, self.steps)
        offset = place.canvas * self.canvas_length
        return start(self._draws(place, INITIAL, length), rules, draft=self.draft, offset=offset).tokens

    def following(self, place: StepPlace, step: int, seen: Tensor, accepted: Tensor, sample: Tensor) -> Tensor:
        """[C]: the canvas after a step."""
        draws = self._draws(place, self.steps - step + 1, len(sample))
        return self.corruption.following(seen, accepted, sample, self.corruption.noise.tokens(draws.noise))

    def _draws(self, place: StepPlace, key: int, length: int) -> PositionRandom:
        return PositionRandom(self.seed, place.canvas + place.attempt * ATTEMPT, key, length)


class Steps:
    """Steps as they come in, without what follows from the others."""

    def __init__(self, draws: Draws | None) -> None:
        """``draws``: None where the noise is not known; then every row is kept."""
        self._draws, self._places = draws, StepPlaces()
        self._kept: dict[str, list[Any]] = {name: [] for name in (*_OF_STEPS, *_OF_POSITIONS)}
        self._rows: dict[str, list[tuple[int, NDArray[np.int32]]]] = {name: [] for name in _ROWS}
        self._following: Tensor | None = None

    def __len__(self) -> int:
        return len(self._kept["step"])

    def add(self, event: StepEvent) -> None:
        """Take in one step."""
        at, place, draws = len(self), self._places.next(event.canvas_index, event.step), self._draws
        values = {
            "canvas": event.canvas_index,
            # As the draws' keys count, and as the first recordings had it: down to 1.
            "step": event.steps - event.step + 1,
            "length": len(event.argmax),
            "temperature": event.temperature,
            "finished": event.finished,
            "argmax": _as_int32(event.argmax),
            "sample": _as_int32(event.sample),
            "entropy": event.entropy.to(torch.float32).numpy().copy(),
            "accepted": event.accepted.numpy().copy(),
        }
        for name, value in values.items():
            self._kept[name].append(value)
        seen = self._following
        if place.number == 1:
            seen = None if draws is None else draws.first(place, len(event.tokens_in))
        following = (
            None if draws is None else draws.following(place, event.step, event.tokens_in, event.accepted, event.sample)
        )
        if seen is None or not torch.equal(seen, event.tokens_in):
            self._rows["tokens_in"].append((at, _as_int32(event.tokens_in)))
        if following is None or not torch.equal(following, event.tokens_out):
            self._rows["tokens_out"].append((at, _as_int32(event.tokens_out)))
        self._following = event.tokens_out.clone()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what a file keeps of them."""
        kept = self._kept
        found: dict[str, NDArray[Any]] = {name: np.array(kept[name], kind) for name, kind in _OF_STEPS.items()}
        for name, kind in _OF_POSITIONS.items():
            found[name] = np.concatenate([np.empty(0, kind), *kept[name]])
        found["accepted"] = np.packbits(found["accepted"])
        for name, rows in self._rows.items():
            found[name] = np.concatenate([np.empty(0, np.int32), *(row for _, row in rows)])
            found[f"{name}_at"] = np.array([at for at, _ in rows], np.int32)
        return found


def read(arrays: Arrays, draws: Draws | None, steps: int) -> list[StepEvent]:
    """Read the steps that ``Steps.arrays`` was made of, at most ``steps`` a canvas; ValueError saying what does not fit
    together."""
    lengths = _checked(arrays)
    spans = list(pairwise(np.cumsum([0, *lengths]).tolist()))
    accepted = np.unpackbits(arrays["accepted"], count=sum(lengths)).astype(np.bool_)
    rows = {name: _rows(name, arrays, lengths) for name in _ROWS}
    found: list[StepEvent] = []
    counter = StepPlaces()
    for at, (first, end) in enumerate(spans):
        canvas, step = int(arrays["canvas"][at]), steps - int(arrays["step"][at]) + 1
        place, own = counter.next(canvas, step), torch.from_numpy(accepted[first:end].copy())
        argmax, sample = (_as_int64(arrays[name][first:end]) for name in ("argmax", "sample"))
        seen, following = rows["tokens_in"].get(at), rows["tokens_out"].get(at)
        if seen is None:
            seen = found[-1].tokens_out if place.number > 1 else _known(draws).first(place, end - first)
        if following is None:
            following = _known(draws).following(place, step, seen, own, sample)
        found.append(
            StepEvent(
                canvas_index=canvas,
                step=step,
                steps=steps,
                temperature=float(arrays["temperature"][at]),
                tokens_in=seen,
                argmax=argmax,
                sample=sample,
                entropy=torch.from_numpy(arrays["entropy"][first:end].copy()),
                accepted=own,
                tokens_out=following,
                finished=bool(arrays["finished"][at]),
            )
        )
    return found


def _checked(arrays: Arrays) -> list[int]:
    """Count the positions of each step, once all arrays are known to be of their types and sizes."""
    missing = [name for name in NAMES if name not in arrays]
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    kinds = {**_OF_STEPS, **_OF_POSITIONS, "accepted": np.uint8}
    for name in NAMES:
        kind, array = np.dtype(kinds.get(name, np.int32)), arrays[name]
        if array.ndim != 1 or array.dtype != kind:
            raise ValueError(f"{name} is {array.dtype} of {array.ndim} dimensions, not {kind} of one")
    lengths: list[int] = arrays["length"].tolist()
    positions = sum(lengths)
    sizes = {name: len(lengths) for name in _OF_STEPS} | {name: positions for name in _OF_POSITIONS}
    sizes["accepted"] = -(-positions // 8)
    wrong = [name for name, size in sizes.items() if len(arrays[name]) != size]
    if wrong or min(lengths, default=1) < 1:
        raise ValueError(f"its arrays do not fit together: {(wrong or ['length'])[0]}")
    if min(arrays["canvas"].min(initial=0), arrays["step"].min(initial=0)) < 0:
        raise ValueError("it counts canvases or steps below 0")
    return lengths


def _rows(name: str, arrays: Arrays, lengths: list[int]) -> dict[int, Tensor]:
    at = arrays[f"{name}_at"].tolist()
    if not all(0 <= one < len(lengths) for one in at) or sum(lengths[one] for one in at) != len(arrays[name]):
        raise ValueError(f"its arrays do not fit together: {name}")
    spans = pairwise(np.cumsum([0, *(lengths[one] for one in at)]).tolist())
    return {one: _as_int64(arrays[name][start:end]) for one, (start, end) in zip(at, spans, strict=True)}


def _known(draws: Draws | None) -> Draws:
    if draws is None:
        raise ValueError("it names no noise from which its canvases would follow")
    return draws


def _as_int32(tokens: Tensor) -> NDArray[np.int32]:
    return tokens.numpy().astype(np.int32)


def _as_int64(tokens: NDArray[np.int32]) -> Tensor:
    return torch.from_numpy(tokens.astype(np.int64))
