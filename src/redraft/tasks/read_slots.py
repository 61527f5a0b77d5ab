"""A text read into the slots of a schema: all values at once, in a few steps of one canvas."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import torch

from redraft.canvas.step import Pinned
from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.limits import TooLargeError
from redraft.constrain.automaton.slots import Turn
from redraft.constrain.expression import AllOf, Expression, joined
from redraft.constrain.language.json.spans import leaves
from redraft.constrain.language.quotation import quotation
from redraft.engine.context import follow, open_context, prefill
from redraft.engine.denoise import CanvasPlan, Denoising, FinishedCanvas
from redraft.engine.request import Request, generate
from redraft.engine.result import OnStep, Result, Usage
from redraft.engine.runtime import Runtime
from redraft.engine.slotted import SlotsConstraint
from redraft.engine.task import Task, TimedListener, Waiting
from redraft.errors import ConstraintError, RequestError
from redraft.tasks.layout import NULL, Slot
from redraft.tasks.presence import Fork, levels
from redraft.tasks.slots import Canvas, Slots, asked

_NULL = joined(" ", NULL)


@dataclass(frozen=True, eq=False)
class SlotsRead:
    """The outcome of a reading into slots."""

    result: Result
    """``text`` is the JSON of the value."""
    value: Any
    confidence: dict[str, float]
    """The confidence of every value that is there, by JSON pointer: the least probability that the model gave one of
    its tokens, its end included, in the step that settled it."""
    tokens: tuple[tuple[int, ...], ...]
    """The tokens in each slot, up to the first end token."""
    full: tuple[str, ...]
    """The pointers of values that take all of their slots, and may be longer than what was read."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Slots that stand on one canvas."""

    slots: tuple[Slot, ...]
    canvas: Canvas

    @property
    def places(self) -> list[slice]:
        """The positions of each slot."""
        ends = [i for i, free in enumerate(self.canvas.free) if free and not [*self.canvas.free, False][i + 1]]
        return [slice(end + 1 - slot.width, end + 1) for slot, end in zip(self.slots, ends, strict=True)]

    @property
    def pinned(self) -> Pinned:
        return Pinned(~torch.tensor(self.canvas.free), torch.tensor(self.canvas.tokens))


@dataclass(frozen=True, eq=False)
class ReadSlots:
    """A reading that is checked (a ``task.Runnable``)."""

    runtime: Runtime
    request: Request
    slots: Slots
    parts: tuple[_Part, ...]
    quoted: Expression | None = None
    """The texts of strings, where they are to be stretches of one text; None for any."""

    @classmethod
    def of(cls, runtime: Runtime, request: Request, slots: Slots, quoted: Expression | None = None) -> "ReadSlots":
        """Spread the slots over canvases. Raises RequestError for texts that no slot holds, slots that no canvas holds,
        and where none of the quoted texts can be a value that is required."""
        parts = tuple(
            _Part(slots.slots[own.start : own.stop], canvas) for own, canvas in slots.split(request.canvas_length)
        )
        found = cls(runtime, request, slots, parts, quoted)
        needed = len(request.prompt) + sum(len(part.canvas.tokens) for part in parts)
        if needed > request.context_length:
            raise RequestError(f"prompt and slots take {needed} tokens, and the context holds {request.context_length}")
        forks = {found._start}
        for part in parts:
            forks = {after for fork in forks for after in found._checked(part, fork)}
        return found

    def task(self, on_step: OnStep | None = None) -> Task[SlotsRead]:
        """Begin to read."""
        began, runtime, request = perf_counter(), self.runtime, self.request
        listener = None if on_step is None else TimedListener(on_step)
        cache, cached = yield from open_context(runtime, request.prompt)
        canvases: list[FinishedCanvas] = []
        fork, first = self._start, 0.0
        try:
            commit = yield from prefill(runtime, request.prompt, cache)
            before, encoded = request.prompt, len(request.prompt)
            for index, part in enumerate(self.parts):
                while not cache.reserve(encoded):
                    yield Waiting.FOR_MEMORY
                constraint, forks = self._constraint(part, fork)
                plan = CanvasPlan(index, len(part.canvas.tokens), before, constraint=constraint, pinned=part.pinned)
                canvas = yield from Denoising(runtime, request, plan, cache).finish(commit, listener)
                canvases.append(canvas)
                first = first or perf_counter() - began
                assert canvas.end_state is not None, "a canvas under a constraint ends in a state"
                fork = forks[constraint.place_after(canvas.end_state)]
                before = tuple(canvas.tokens.tolist())
                encoded += len(before)
                commit = canvas.tokens.to(runtime.model.device)
                follow(runtime, cache, before)
        finally:
            cache.close()
        told = 0.0 if listener is None else listener.seconds
        return self._read(canvases, cached, first, perf_counter() - began - told)

    def _constraint(self, part: _Part, start: Fork) -> tuple[SlotsConstraint, list[Fork]]:
        """Return the constraint of a canvas, and the places after its last slot."""
        texts, turns, after = self._turns(part.slots, start)
        automaton, classes = self.runtime.constraints.slots(texts, turns, (self.slots.end_token_id,))
        return SlotsConstraint(automaton, classes, ~torch.tensor(part.canvas.free)), after

    def _turns(self, slots: Sequence[Slot], start: Fork) -> tuple[list[Expression], list[tuple[Turn, ...]], list[Fork]]:
        """The texts of some slots, each once, the ways to fill each slot, and the places after the last."""
        texts: dict[Expression, int] = {}
        places = list(levels(start, len(slots)))
        turns: list[tuple[Turn, ...]] = []
        for slot, forks, after in zip(slots, places, places[1:], strict=False):
            said, own = joined(" ", self._texts(slot)), list[Turn]()
            for source, fork in enumerate(forks):
                if fork.said is not None:
                    own.append(Turn(source, texts.setdefault(said, len(texts)), after.index(fork.said)))
                if fork.silent is not None:
                    own.append(Turn(source, texts.setdefault(_NULL, len(texts)), after.index(fork.silent)))
            turns.append(tuple(own))
        return list(texts), turns, places[-1]

    @cached_property
    def _start(self) -> Fork:
        return self.slots.start(self._possible)

    def _possible(self, slot: Slot) -> bool:
        """Return whether there is a text for a slot at all."""
        texts = self._texts(slot)
        if texts is slot.texts:
            return True
        try:
            byte_automaton.build(texts)
        except TooLargeError:
            raise
        except ConstraintError:
            return False
        return True

    def _texts(self, slot: Slot) -> Expression:
        if self.quoted is None or slot.type != "string" or slot.rewritten:
            return slot.texts
        return AllOf((slot.texts, self.quoted))

    def _checked(self, part: _Part, start: Fork) -> list[Fork]:
        constraint, after = self._constraint(part, start)
        for slot, needed in zip(part.slots, constraint.automaton.min_tokens, strict=True):
            if needed >= slot.width:
                raise RequestError(
                    f"value at {slot.pointer}: its shortest text takes {needed} tokens, and its slot holds "
                    f"{slot.width - 1}"
                )
        return after

    def _read(self, canvases: Sequence[FinishedCanvas], cached: int, first: float, seconds: float) -> SlotsRead:
        end, tokens, confidence = self.slots.end_token_id, list[list[int]](), dict[str, float]()
        full: list[str] = []
        for part, canvas in zip(self.parts, canvases, strict=True):
            for slot, place in zip(part.slots, part.places, strict=True):
                own = canvas.tokens[place].tolist()
                said = own.index(end)
                tokens.append(own[:said])
                if said == slot.width - 1 and not slot.holds_all:
                    full.append(slot.pointer)
                confidence[slot.pointer] = float(canvas.confidence[place][: said + 1].min())
        value = self.slots.decode(tokens)
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        request, flat = self.request, tuple(token for own in tokens for token in own)
        return SlotsRead(
            Result(
                text=text,
                token_ids=flat,
                finish_reason="stop",
                seed=request.seed,
                unconverged_canvases=tuple(i for i, canvas in enumerate(canvases) if not canvas.converged),
                log_valid=tuple(canvas.log_valid for canvas in canvases if canvas.log_valid is not None),
                usage=Usage(
                    prompt_tokens=len(request.prompt),
                    cached_prompt_tokens=cached,
                    completion_tokens=len(flat),
                    canvases=len(canvases),
                    denoising_steps=sum(canvas.denoising_steps for canvas in canvases),
                    forwards=sum(canvas.denoising_steps for canvas in canvases),
                    time_to_first_token=first,
                    seconds=seconds,
                ),
            ),
            value,
            _of_leaves(text, confidence),
            tuple(map(tuple, tokens)),
            tuple(full),
        )


def slots_of(
    runtime: Runtime,
    text: str,
    schema: str,
    instruction: str | None,
    parameters: Mapping[str, Any],
    verbatim: bool = False,
) -> ReadSlots:
    """Check a request to read ``text`` into the slots of a schema; ``parameters`` of ``request.generate``. With
    ``verbatim``, strings without a 'format' are stretches of the text.

    Raises RequestError for a schema that has no fixed layout, or whose slots do not fit.
    """
    end = runtime.model.defaults.end_token_ids
    if not end:
        raise RequestError("the checkpoint names no end token, with which a slot has to end")
    slots = Slots.of(schema, runtime.tokenizer, end[0])
    said = asked(schema) if instruction is None else asked(schema, instruction)
    room = sum(slot.width - 1 for slot in slots.slots)
    if (most := parameters.get("max_tokens")) is not None and most < room:
        raise RequestError(f"max_tokens {most} is too small: the slots hold {room} tokens")
    # The text comes first: what several questions about it have in common is then computed once.
    given = {name: value for name, value in parameters.items() if name != "max_tokens"}
    request = generate(runtime, runtime.question(text, said), mode="diffusion", **given)
    return ReadSlots.of(runtime, request, slots, quotation(text) if verbatim else None)


def _of_leaves(text: str, confidence: dict[str, float]) -> dict[str, float]:
    """The confidences of what stands in a JSON text; of an array or object without anything in it, its first slot's."""
    found = dict[str, float]()
    for leaf in leaves(text):
        inside = (own for pointer, own in confidence.items() if pointer.startswith(f"{leaf.pointer}/"))
        found[leaf.pointer] = confidence[leaf.pointer] if leaf.pointer in confidence else next(inside)
    return found
