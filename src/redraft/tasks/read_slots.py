"""A text read into the slots of a schema: all values at once, in a few steps of one canvas."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
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
from redraft.engine.generation import Recorders, to_record
from redraft.engine.request import Request, generate
from redraft.engine.result import OnStep, Result, Usage
from redraft.engine.runtime import Runtime
from redraft.engine.slotted import SlotsConstraint
from redraft.engine.task import Task, TimedListener, Waiting, encode, recorded
from redraft.errors import ConstraintError, RequestError
from redraft.models.base import Span
from redraft.tasks.doubt import DraftedPart, Started, started
from redraft.tasks.layout import NULL, Slot
from redraft.tasks.presence import Fork, levels
from redraft.tasks.slots import Canvas, Filled, Slots, asked

_NULL = joined(" ", NULL)


@dataclass(frozen=True)
class SlotReading:
    """A description of what is read into slots."""

    schema: str
    draft: str | None = None
    """The JSON of a value that the slots start from."""
    characters: int | None = None
    """The length of the text that strings are to be stretches of; None where they may say anything."""
    quoted: str | None = None
    """The text itself, where it is known."""


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
    draft: DraftedPart | None = None

    @cached_property
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
    reading: SlotReading
    slots: Slots
    parts: tuple[_Part, ...]
    quoted: Expression | None = None
    """The texts of strings, where they are to be stretches of one text; None for any."""
    record: Recorders | None = None

    @classmethod
    def of(
        cls, runtime: Runtime, request: Request, reading: SlotReading, record: Recorders | None = None
    ) -> "ReadSlots":
        """Lay the slots out and spread them over canvases. Raises RequestError for a schema that has no fixed layout,
        texts that no slot holds, slots that no canvas holds, a draft that the schema does not take, and where none of
        the quoted texts can be a value that is required."""
        slots = Slots.of(reading.schema, runtime.tokenizer, request.end_token_ids[0])
        parts = tuple(
            _Part(slots.slots[own.start : own.stop], canvas) for own, canvas in slots.split(request.canvas_length)
        )
        quoted = None
        if reading.characters is not None:
            assert reading.quoted is not None, "the text is known where something is read"
            quoted = quotation(reading.quoted)
        found = cls(runtime, request, reading, slots, parts, quoted, record)
        needed = len(request.prompt) + sum(len(part.canvas.tokens) for part in parts)
        if needed > request.context_length:
            raise RequestError(f"prompt and slots take {needed} tokens, and the context holds {request.context_length}")
        forks = {found._start}
        for part in parts:
            forks = {after for fork in forks for after in found._checked(part, fork)}
        return found if reading.draft is None else found.starting_from(json.loads(reading.draft))

    def task(self, on_step: OnStep | None = None) -> Task[SlotsRead]:
        """Begin to read."""
        asked, recorder = self, None
        if self.record is not None:
            asked = replace(self, request=to_record(self.request))
            recorder = self.record.recorder(asked.request, self.runtime, self.reading)
        return recorded(asked._begin, recorder, on_step)

    def _begin(self, on_step: OnStep | None) -> Task[SlotsRead]:
        began, runtime, request = perf_counter(), self.runtime, self.request
        listener = None if on_step is None else TimedListener(on_step)
        cache, cached = yield from open_context(runtime, request.prompt)
        canvases: list[FinishedCanvas] = []
        starts: list[Started | None] = []
        fork, first = self._start, 0.0
        try:
            commit = yield from prefill(runtime, request.prompt, cache, request.deadline)
            if request.deadline is not None:
                # From here on every canvas has a step at least, and the value is whole.
                request.deadline.check_begun("the first denoising step")
            before, encoded = request.prompt, len(request.prompt)
            for index, part in enumerate(self.parts):
                while not cache.reserve(encoded):
                    yield Waiting.FOR_MEMORY
                start = None
                if part.draft is not None:
                    if commit is not None:
                        yield from encode(Span(commit, cache, "encode"))
                    commit = None
                    start = yield from started(runtime, cache, before, part.places, part.draft, request.deadline)
                constraint, forks = self._constraint(part, fork)
                plan = CanvasPlan(
                    index,
                    len(part.canvas.tokens),
                    before,
                    constraint=constraint,
                    pinned=part.pinned,
                    start=None if start is None else start.draft,
                )
                canvas = yield from Denoising(runtime, request, plan, cache).finish(commit, listener)
                canvases.append(canvas)
                starts.append(start)
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
        return self._read(canvases, starts, cached, first, perf_counter() - began - told)

    def starting_from(self, value: Any) -> "ReadSlots":
        """Return the same with the draft of a value on its canvases; RequestError for one that the schema does not
        allow, or that is longer than its slot."""
        end, given = self.slots.end_token_id, iter(self._drafted(value))
        parts, forks = list[_Part](), {self._start}
        for part in self.parts:
            texts, tokens, may_stay = list[slice](), list(part.canvas.tokens), list[bool]()
            for slot, place in zip(part.slots, part.places, strict=True):
                text, own = next(given)
                tokens[place] = own
                texts.append(slice(place.start, place.start + own.index(end) + 1))
                may_stay.append(self._may_say(slot, text))
            forks = self._check_draft(part, tokens, forks)
            parts.append(replace(part, draft=DraftedPart(torch.tensor(tokens), tuple(texts), tuple(may_stay))))
        reading = replace(self.reading, draft=json.dumps(value, ensure_ascii=False))
        return replace(self, parts=tuple(parts), reading=reading)

    @property
    def drafted_value(self) -> Any:
        """The draft as its slots say it, with what stands for values that are absent."""
        drafts = [part.draft for part in self.parts if part.draft is not None]
        return self.slots.decode([draft.tokens[text].tolist() for draft in drafts for text in draft.texts])

    def _drafted(self, value: Any) -> Iterator[tuple[str, list[int]]]:
        """Yield the text of each slot of a draft, and its tokens up to the slot's width."""
        slots, end = self.slots, self.slots.end_token_id
        try:
            pieces = slots.pieces(value)
        except RequestError as error:
            raise RequestError(f"draft: {error}") from None
        for piece in pieces:
            if isinstance(piece, Filled):
                yield piece.text.removeprefix(" "), list(Canvas.of((piece,), slots.tokenizer, end).tokens)

    def _check_draft(self, part: _Part, tokens: Sequence[int], forks: set[Fork]) -> set[Fork]:
        """Raise RequestError where the schema allows no such values on a canvas, from any of the places before it;
        return the places after it."""
        after, refused = set[Fork](), 0
        for fork in forks:
            constraint, following = self._constraint(part, fork, quoted=False)
            automaton = constraint.automaton
            classes = np.where(constraint.frame.numpy(), automaton.frame_class, automaton.token_class[[*tokens]])
            states, count = automaton.chain.read(automaton.start, classes)
            refused = max(refused, count)
            after |= {following[place] for place, state in automaton.after.items() if state in states}
        if not after:
            number = next((n for n, place in enumerate(part.places) if place.stop > refused), len(part.slots) - 1)
            said = self.runtime.tokenizer.decode([*tokens[part.places[number]]]).strip()
            raise RequestError(f"draft: value at {part.slots[number].pointer}: the schema does not allow {said!r}")
        return after

    def _constraint(self, part: _Part, start: Fork, quoted: bool = True) -> tuple[SlotsConstraint, list[Fork]]:
        """Return the constraint of a canvas, and the places after its last slot. ``quoted``: strings are held to the
        text, if they are to be."""
        texts, turns, after = self._turns(part.slots, start, quoted)
        automaton, classes = self.runtime.constraints.slots(texts, turns, (self.slots.end_token_id,))
        return SlotsConstraint(
            automaton, classes, ~torch.tensor(part.canvas.free), self.runtime.corruption.reads_ahead
        ), after

    def _turns(
        self, slots: Sequence[Slot], start: Fork, quoted: bool
    ) -> tuple[list[Expression], list[tuple[Turn, ...]], list[Fork]]:
        """The texts of some slots, each once, the ways to fill each slot, and the places after the last."""
        texts: dict[Expression, int] = {}
        places = list(levels(start, len(slots)))
        turns: list[tuple[Turn, ...]] = []
        for slot, forks, after in zip(slots, places, places[1:], strict=False):
            said, own = joined(" ", self._texts(slot) if quoted else slot.texts), list[Turn]()
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

    def _may_say(self, slot: Slot, text: str) -> bool:
        """Return whether a text of a slot's own may stand there where strings are held to a text."""
        texts = self._texts(slot)
        if texts is slot.texts or (text == NULL and slot.may_be_absent):
            return True
        return self._possible(slot) and byte_automaton.build(texts).matches(text.encode())

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

    def _read(
        self,
        canvases: Sequence[FinishedCanvas],
        starts: Sequence[Started | None],
        cached: int,
        first: float,
        seconds: float,
    ) -> SlotsRead:
        end, tokens, confidence = self.slots.end_token_id, list[list[int]](), dict[str, float]()
        full: list[str] = []
        for part, canvas, start in zip(self.parts, canvases, starts, strict=True):
            stayed = {} if start is None else start.confidence
            for number, (slot, place) in enumerate(zip(part.slots, part.places, strict=True)):
                own = canvas.tokens[place].tolist()
                said = own.index(end)
                tokens.append(own[:said])
                if said == slot.width - 1 and not slot.holds_all:
                    full.append(slot.pointer)
                settled = float(canvas.confidence[place][: said + 1].min())
                confidence[slot.pointer] = stayed.get(number, settled)
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
                deadline_reached=any(canvas.cut for canvas in canvases),
                usage=Usage(
                    prompt_tokens=len(request.prompt),
                    cached_prompt_tokens=cached,
                    completion_tokens=len(flat),
                    canvases=len(canvases),
                    denoising_steps=sum(canvas.denoising_steps for canvas in canvases),
                    forwards=sum(canvas.denoising_steps for canvas in canvases)
                    + sum(start.forwards for start in starts if start is not None),
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
    record: Recorders | None = None,
) -> ReadSlots:
    """Check a request to read ``text`` into the slots of a schema; ``parameters`` of ``request.generate``. With
    ``verbatim``, strings without a 'format' are stretches of the text.

    Raises RequestError for a schema that has no fixed layout, or whose slots do not fit.
    """
    if not runtime.model.defaults.end_token_ids:
        raise RequestError("the checkpoint names no end token, with which a slot has to end")
    said = asked(schema) if instruction is None else asked(schema, instruction)
    # The text comes first: what several questions about it have in common is then computed once.
    given = {name: value for name, value in parameters.items() if name != "max_tokens"}
    request = generate(runtime, runtime.question(text, said), mode="diffusion", **given)
    reading = SlotReading(schema, characters=len(text), quoted=text) if verbatim else SlotReading(schema)
    found = ReadSlots.of(runtime, request, reading, record)
    room = sum(slot.width - 1 for slot in found.slots.slots)
    if (most := parameters.get("max_tokens")) is not None and most < room:
        raise RequestError(f"max_tokens {most} is too small: the slots hold {room} tokens")
    return found


def _of_leaves(text: str, confidence: dict[str, float]) -> dict[str, float]:
    """The confidences of what stands in a JSON text; of an array or object without anything in it, its first slot's."""
    found = dict[str, float]()
    for leaf in leaves(text):
        inside = (own for pointer, own in confidence.items() if pointer.startswith(f"{leaf.pointer}/"))
        found[leaf.pointer] = confidence[leaf.pointer] if leaf.pointer in confidence else next(inside)
    return found
