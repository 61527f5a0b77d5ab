"""A text read into JSON under a schema, with a confidence for every field."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, cast

import torch
from torch import Tensor
from typing_extensions import TypeVar

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import ReadoutSpec
from redraft.canvas.step import Pinned
from redraft.constrain.constraint import JSONSchema
from redraft.constrain.language.json.spans import Leaf, leaves, token_spans
from redraft.constrain.python_types import is_type, schema_of, value_of
from redraft.engine.constrained import CanvasConstraint
from redraft.engine.context import open_context, prefill
from redraft.engine.deadline import passed
from redraft.engine.generation import Answer, Generate, Recorders
from redraft.engine.memory import PooledCache
from redraft.engine.quality import check_on_canvases
from redraft.engine.request import Request, check_switch, check_text, generate
from redraft.engine.result import OnStep, Result, fields_of
from redraft.engine.runtime import Runtime
from redraft.engine.task import Forward, Task, encode, read
from redraft.engine.thinking import OF_THOUGHTS
from redraft.errors import ConstraintError, GenerationError, RequestError
from redraft.models.base import ExtractLayout, Span
from redraft.tasks.drafts import draft_value, json_draft
from redraft.tasks.layout import check_layout
from redraft.tasks.places import places_of
from redraft.tasks.read_slots import ReadSlots, slots_of

INSTRUCTION = "Read the text below and write what it says as JSON under this schema:\n{schema}"
# Where the noise of the confidence's canvases is drawn, apart from that of all attempts at generating.
_CONFIDENCE = 1 << 63
# What a generation has and slots have not, with the value that asks for nothing.
_OF_TEXT: Mapping[str, Any] = {"verifier": None, "best_of": 1}


V = TypeVar("V", default=Any)
"""The type of what is extracted."""


@dataclass(frozen=True, repr=False)
class Extraction(Result, Generic[V]):
    """``text`` is the JSON."""

    value: V = None  # type: ignore[assignment]
    """The value that the JSON says; of the Python type that was given for a schema, if one was."""
    confidence: dict[str, float] = field(default_factory=dict)
    """The confidence of every value that holds no others, by JSON pointer (RFC 6901): the probability that the model
    gives the value's least likely token when the value is noise, and all the rest of the answer is there. Of slots it
    is the one that it gave when it settled the token. Empty where a deadline left no time for it."""
    layout: ExtractLayout = "text"
    """"slots" where each value was read into a slot of its own, all at once, "text" where JSON was written."""
    fallback: str | None = None
    """The reason for which JSON was written although slots were asked for, or are the checkpoint's own layout."""
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The places of the values in the text, by JSON pointer: the first character, and the one after the last. A value
    that is not written there as it is, such as a date in another form, is not among them."""


@dataclass(frozen=True, eq=False)
class ExtractRequest(Generic[V]):
    """An extraction that is checked and compiled (a ``task.Runnable``)."""

    runtime: Runtime
    request: Request
    text: str
    confidence: bool
    """True if each value's confidence is wanted."""
    wanted: type[V] | None = None
    """The Python type that the value is to have, if one was given for a schema."""
    record: Recorders | None = None
    verbatim: bool = False
    """True where JSON cannot be written in the place of slots, for it would not be held to the text."""
    slots: ReadSlots | None = None
    """The reading into slots, which is tried first; None for JSON text."""
    fallback: str | None = None
    """The reason for which there are no slots although they were wanted."""

    def task(self, on_step: OnStep | None = None) -> Task[Extraction[V]]:
        """Begin to read. The steps of the confidence are neither told nor kept; without time for all of them there is
        none."""
        read = None if self.slots is None else (yield from self.slots.task(on_step))
        if read is not None and read.full and self.verbatim:
            raise GenerationError(
                f"the value at {read.full[0]} takes all of its slot, and may be longer; a larger 'maxLength' makes its "
                "slot wider, and without verbatim JSON would be written"
            )
        if read is not None and not read.full:
            found = read.confidence if self.confidence else {}
            return Extraction(
                **fields_of(read.result),
                value=self._value(read.result.text),
                confidence=found,
                layout="slots",
                places=places_of(self.text, read.result.text),
            )
        answer = yield from Generate(self.runtime, self.request, self.record).answer(on_step)
        found = (yield from _confidence(self.runtime, self.request, answer)) if self.confidence else {}
        result, fallback = answer.result, self.fallback
        if read is not None:
            fallback = f"the value at {read.full[0]} takes all of its slot, and may be longer"
            if self.slots is not None and self.slots.reading.draft is not None and self.request.draft is None:
                fallback += "; the JSON is written without the draft, of which nothing would have been corrected"
            result = replace(result, usage=result.usage.after(read.result.usage))
        value = self._value(result.text)
        return Extraction(
            **fields_of(result),
            value=value,
            confidence=found,
            fallback=fallback,
            places=places_of(self.text, result.text),
        )

    def _value(self, text: str) -> Any:
        return _value(text) if self.wanted is None else value_of(self.wanted, text)


def extract(
    runtime: Runtime,
    text: str,
    schema: type[V] | Mapping[str, Any] | str,
    *,
    instruction: str | None = None,
    confidence: bool = True,
    layout: ExtractLayout | None = None,
    verbatim: bool = False,
    draft: object = None,
    record: Recorders | None = None,
    **parameters: Any,
) -> ExtractRequest[V]:
    """Check a request to read ``text`` into JSON that is valid under ``schema``, a JSON schema or a Python type.

    instruction: what the model is told, in the place of a sentence that names the schema or, for slots, of one that
    asks to fill them in. confidence: each value's; of JSON text that takes one denoising step more for every field.
    layout: "slots" reads all values at once, each into a slot of its own, "text" writes JSON; by default as the
    checkpoint was trained. JSON is written all the same where a schema has no slots, or a value takes all of its own.
    verbatim: strings are stretches of the text, from the border of a word to the border of a word, but for dates and
    times; slots alone hold that, and RequestError says why there are none. draft: a value, or JSON text, that is partly
    wrong and from which the canvases start, for the model to correct; of a model whose tokens stay once they stand, in
    slots alone. record: keeps how the slots were filled, or the JSON generated, and not the steps of the confidence.
    Other parameters, and errors, as in ``request.generate``; an answer that its step limit left unfinished is flagged
    like any other.
    The task raises GenerationError where an open object has a key twice, of which no pointer could say which.
    """
    runtime.check_canvas("extract")
    check_on_canvases(parameters.get("quality"), "extract")
    for name in ("constraint", "stop", *OF_THOUGHTS):
        if name in parameters:
            raise RequestError(f"{name} cannot be given to extract; the schema says what is written")
    check_text("text", text)
    wanted: Any = schema if is_type(schema) else None
    constraint = JSONSchema(cast("Mapping[str, Any] | str", schema) if wanted is None else schema_of(wanted))
    said = INSTRUCTION.format(schema=constraint.schema) if instruction is None else instruction
    check_text("instruction", said)
    check_switch("confidence", confidence)
    check_layout(layout)
    check_switch("verbatim", verbatim)
    question = runtime.question(said, text)
    request = generate(runtime, question, mode="diffusion", constraint=constraint, **parameters)
    slots, fallback = None, None
    if (layout or runtime.model.defaults.extract_layout) == "slots":
        try:
            _check_for_slots(parameters)
            slots = slots_of(runtime, text, constraint.schema, instruction, parameters, verbatim, record)
        except (RequestError, ConstraintError) as error:
            fallback = str(error)
    if verbatim and slots is None:
        raise RequestError(f"verbatim holds in slots alone, and none are filled: {fallback or 'layout is text'}")
    if draft is not None:
        slots, request = _drafted(runtime, slots, request, draft_value(draft, wanted), constraint, fallback)
    return ExtractRequest(runtime, request, text, confidence, wanted, record, verbatim, slots, fallback)


def _drafted(
    runtime: Runtime,
    slots: ReadSlots | None,
    request: Request,
    value: Any,
    constraint: JSONSchema,
    fallback: str | None,
) -> tuple[ReadSlots | None, Request]:
    """Return both ways of reading, each starting from a value; RequestError for one that they cannot start from."""
    if slots is not None:
        slots = slots.starting_from(value)
        value = slots.drafted_value
    elif runtime.corruption.monotone:
        raise RequestError(
            "draft: of this model's JSON text what stands stays, and nothing would be corrected; a draft is for slots, "
            f"and none are filled: {fallback or 'layout is text'}"
        )
    if runtime.corruption.monotone:
        return slots, request
    assert request.constraint is not None, "an extraction has one"
    return slots, replace(request, draft=json_draft(runtime, request.constraint, constraint.schema, value))


def _check_for_slots(parameters: Mapping[str, Any]) -> None:
    """Refuse what JSON text alone honours."""
    for name, nothing in _OF_TEXT.items():
        if parameters.get(name, nothing) != nothing:
            raise RequestError(f"{name} is of JSON that is written, and not of slots")


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        # Valid JSON all the same: Python reads no whole number of more than some thousand digits.
        raise GenerationError(
            f"the JSON is valid, but Python cannot read it: {error}; give integers a minimum and a maximum"
        ) from error


def _confidence(runtime: Runtime, request: Request, answer: Answer) -> Task[dict[str, float]]:
    """Find the confidences by JSON pointer; a canvas after the other, each on the context that it was denoised on."""
    if request.constraint is None:
        raise ValueError("confidence is that of a constrained answer")
    vocabulary, compiled, result = runtime.constraints.vocabulary, request.constraint, answer.result
    try:
        found = leaves(result.text)
    except ValueError as error:
        raise GenerationError(
            f"no confidence can be given: {error}; close the object with 'additionalProperties': false, or extract "
            "with confidence=False"
        ) from error
    pieces = [vocabulary.spell([token]) for token in result.token_ids]
    positions = token_spans([_shown_by(leaf, result.text) for leaf in found], pieces)
    least = {leaf.pointer: 1.0 for leaf in found}
    start, context, state = 0, list(request.prompt), compiled.automaton.start
    for index, finished in enumerate(answer.canvases):
        canvas = finished.tokens
        constraint = CanvasConstraint.of(compiled, state, len(canvas), request.max_tokens - start)
        cache, _ = yield from open_context(runtime, context)
        try:
            if passed(request.deadline):
                return {}
            rest = yield from prefill(runtime, context, cache)
            if rest is not None:
                yield from encode(Span(rest, cache, "encode"))
            for number, (leaf, own) in enumerate(zip(found, positions, strict=True)):
                here = [position - start for position in own if start <= position < start + len(canvas)]
                if here:
                    if passed(request.deadline):
                        return {}
                    draws = PositionRandom(request.seed, _CONFIDENCE + index, number + 1, len(canvas))
                    probability = yield from _min_probability(
                        runtime, cache, context, canvas, torch.tensor(here), constraint, draws
                    )
                    least[leaf.pointer] = min(least[leaf.pointer], probability)
        finally:
            cache.close()
        start, context = start + len(canvas), context + canvas.tolist()
        state = state if finished.end_state is None else finished.end_state
    return least


def _shown_by(leaf: Leaf, text: str) -> tuple[int, int]:
    """The characters that say a value: of a string also the quote that ends it."""
    return leaf.start, leaf.end + int(text[leaf.start - 1 : leaf.start] == '"')


def _min_probability(
    runtime: Runtime,
    cache: PooledCache,
    context: Sequence[int],
    canvas: Tensor,
    positions: Tensor,
    constraint: CanvasConstraint,
    draws: PositionRandom,
) -> Task[float]:
    """The least probability of the tokens at ``positions`` of a canvas [C] in which these are noise."""
    model = runtime.model
    mask = torch.ones(len(canvas), dtype=torch.bool)
    mask[positions] = False
    seen = torch.where(mask, canvas, runtime.corruption.noise.tokens(draws.noise)).to(model.device)
    wanted = ReadoutSpec(1.0, classes=constraint.compiled.classes)
    readout = (yield from read(Forward((runtime.canvas(seen, cache, context),), wanted))).readout
    found = constraint.apply(readout, draws, True, Pinned(mask, canvas)).inference
    tokens = canvas[positions]
    logprobs = readout.logprob(canvas.to(model.device)).cpu()[positions]
    token_class = constraint.compiled.automaton.token_class[tokens.numpy()]
    ratio = torch.from_numpy(found.log_ratio[positions.numpy(), token_class])
    # Rounding can leave a certain token a hair above one.
    return float((logprobs + ratio).clamp(max=0.0).exp().min())
