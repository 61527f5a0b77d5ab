"""A text read into JSON under a schema, with a confidence for every field."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.constrain.constraint import JSONSchema
from redraft.constrain.language.json.spans import Leaf, leaves, token_spans
from redraft.engine.constrained import CanvasConstraint, Locked
from redraft.engine.generation import Generation
from redraft.engine.memory import PooledCache
from redraft.engine.request import Request, check_switch, check_text
from redraft.engine.result import Result, fields_of
from redraft.engine.task import Work
from redraft.errors import GenerationError, RequestError

if TYPE_CHECKING:
    from redraft.api import Engine, Recorders

INSTRUCTION = "Read the text below and write what it says as JSON under this schema:\n{schema}"
# Where the noise of the confidence's canvases is drawn, apart from that of all attempts at generating.
_CONFIDENCE = 1 << 63


@dataclass(frozen=True)
class Extraction(Result):
    """``text`` is the JSON."""

    value: Any = None
    """What the JSON says."""
    confidence: dict[str, float] = field(default_factory=dict)
    """By JSON pointer (RFC 6901), of every value that holds no others: the probability that the model gives the value's
    least likely token when the value is noise, and all the rest of the answer is there."""


def extract(
    engine: "Engine",
    text: str,
    schema: Mapping[str, Any] | str,
    *,
    instruction: str | None = None,
    confidence: bool = True,
    record: "Recorders | None" = None,
    **parameters: Any,
) -> Work[Extraction]:
    """Read ``text`` into JSON that is valid under ``schema``.

    instruction: what the model is told, in the place of a sentence that names the schema. confidence: one denoising
    step more for every field. record: as in ``Engine.stream``; it keeps how the JSON is generated, and not the steps of
    the confidence. Other parameters, and errors, as in ``Engine.request``; an answer that its step limit
    left unfinished is flagged like any other. Raises GenerationError where an open object has a key twice, of which no
    pointer could say which.
    """
    for name in ("constraint", "stop", "draft", "thinking"):
        if name in parameters:
            raise RequestError(f"{name} cannot be given to extract; the schema says what is written")
    check_text("text", text)
    constraint = JSONSchema(schema)
    said = INSTRUCTION.format(schema=constraint.schema) if instruction is None else instruction
    check_text("instruction", said)
    check_switch("confidence", confidence)
    request = engine.request(engine.question(said, text), constraint=constraint, **parameters)
    return _extracted(engine, request, engine.begin(request, record=record), confidence)


def _extracted(engine: "Engine", request: Request, generation: Generation, confidence: bool) -> Work[Extraction]:
    result = yield from generation.work
    found = (yield from _confidence(engine, request, generation, result)) if confidence else {}
    return Extraction(**fields_of(result), value=_value(result.text), confidence=found)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        # Valid JSON all the same: Python reads no whole number of more than some thousand digits.
        raise GenerationError(
            f"the JSON is valid, but Python cannot read it: {error}; give integers a minimum and a maximum"
        ) from error


def _confidence(engine: "Engine", request: Request, generation: Generation, result: Result) -> Work[dict[str, float]]:
    """By JSON pointer; a canvas after the other, each on the context that it was denoised on."""
    if request.constraint is None:
        raise ValueError("confidence is that of a constrained answer")
    vocabulary, compiled = engine.constraints.vocabulary, request.constraint
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
    for index, finished in enumerate(generation.canvases):
        canvas = finished.tokens
        constraint = CanvasConstraint.of(compiled, state, len(canvas), request.max_tokens - start)
        cache, _ = yield from engine.contexts.open(context)
        try:
            for _ in engine.contexts.chunks(context, cache):
                yield None
            for number, (leaf, own) in enumerate(zip(found, positions, strict=True)):
                here = [position - start for position in own if start <= position < start + len(canvas)]
                if here:
                    draws = PositionRandom(request.seed, _CONFIDENCE + index, number + 1, len(canvas))
                    probability = _least_likely(engine, cache, canvas, torch.tensor(here), constraint, draws)
                    least[leaf.pointer] = min(least[leaf.pointer], probability)
                    yield None
        finally:
            cache.close()
        start, context = start + len(canvas), context + canvas.tolist()
        state = state if finished.end_state is None else finished.end_state
    return least


def _shown_by(leaf: Leaf, text: str) -> tuple[int, int]:
    """The characters that say a value: of a string also the quote that ends it."""
    return leaf.start, leaf.end + int(text[leaf.start - 1 : leaf.start] == '"')


@torch.inference_mode()
def _least_likely(
    engine: "Engine",
    cache: PooledCache,
    canvas: Tensor,
    positions: Tensor,
    constraint: CanvasConstraint,
    draws: PositionRandom,
) -> float:
    """The least probability of the tokens at ``positions`` of a canvas [C] in which these are noise."""
    model = engine.model
    mask = torch.ones(len(canvas), dtype=torch.bool)
    mask[positions] = False
    seen = torch.where(mask, canvas, model.noise.tokens(draws.noise)).to(model.device)
    hidden = model.denoise(seen[None], cache, None)[0]
    readout = model.readout(hidden, 1.0, None, signal=False, classes=constraint.compiled.classes)
    found = constraint.apply(readout, draws, True, Locked(mask, canvas)).inference
    tokens = canvas[positions]
    logprobs = model.logits(hidden[positions.to(model.device)]).log_softmax(-1).cpu()
    token_class = constraint.compiled.automaton.token_class[tokens.numpy()]
    ratio = torch.from_numpy(found.log_ratio[positions.numpy(), token_class])
    # Rounding can leave a certain token a hair above one.
    return float((logprobs.gather(1, tokens[:, None])[:, 0] + ratio).clamp(max=0.0).exp().min())
