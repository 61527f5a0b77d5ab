"""Redraft's own route to read a text into JSON: values with their confidences and places, every step as an event."""

from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import Response

from redraft.engine.quality import Quality
from redraft.models.base import ExtractLayout
from redraft.serve.answers import Answers, EventStream
from redraft.serve.prepare import counting
from redraft.serve.state import Serving, client_of, new_seed, serving
from redraft.serve.wire.events import events, of_result
from redraft.serve.wire.fields import Body, Seed, Temperature, Whole
from redraft.serve.wire.sampling import DeadlineMs, Penalty, TopP
from redraft.tasks.extract import Extraction, ExtractRequest, extract

router = APIRouter()
_PARAMETERS = (
    *("instruction", "layout", "verbatim", "confidence", "max_tokens", "seed", "temperature", "max_denoising_steps"),
    *("canvas_length", "entropy_bound", "top_p", "frequency_penalty", "presence_penalty", "deadline_ms", "quality"),
)
_FIELDS = {name: name for name in ("text", "schema", *_PARAMETERS)} | {"prompt": "text", "constraint": "schema"}


class ExtractBody(Body):
    """The body of a request to read a text into JSON under a schema."""

    model: str | None = None
    text: Annotated[str, Field(min_length=1)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    instruction: str | None = None
    layout: ExtractLayout | None = None
    verbatim: bool | None = None
    confidence: bool | None = None
    max_tokens: Whole | None = None
    seed: Seed = None
    temperature: Temperature | None = None
    max_denoising_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    canvas_length: Whole | Literal["auto"] | None = None
    entropy_bound: Annotated[float, Field(ge=0)] | None = None
    top_p: TopP | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    deadline_ms: DeadlineMs | None = None
    quality: Quality | None = None


@router.post("/v1/redraft/extract")
async def read_out(body: ExtractBody, http: HttpRequest) -> Response:
    """Read a text, as events: start, a step for each denoising step, a chunk for each canvas of JSON text, and the
    result."""
    here = serving(http, body.model)
    here.note_prompt(http, body.text)
    here.limits.check_schema(body.schema_, "schema")
    parameters = counting(here, {name: getattr(body, name) for name in _PARAMETERS})

    def check() -> ExtractRequest[Any]:
        given = {name: value for name, value in parameters.items() if value is not None}
        if here.settings.recipe is not None:
            given = here.settings.recipe.beside(given, generates=False)
        given.setdefault("seed", new_seed())
        tokens = here.tokenizer.encode_text(body.text, here.limits.before_tokenizing("text"), literal=True)
        here.limits.check_prompt(len(tokens), "text")
        return extract(here.runtime, body.text, body.schema_, record=here.settings.record, **given)

    request = await here.check(check, _FIELDS)
    answers = Answers(here, [request], client_of(http), steps=True)
    return EventStream(events(here, answers, _start(here, request), _FIELDS, _result), answers)


def _start(here: Serving, request: ExtractRequest[Any]) -> dict[str, Any]:
    slots, model = request.slots, here.runtime.model
    asked = request.request if slots is None else slots.request
    return {
        "id": f"ext-{uuid4().hex}",
        "model": here.settings.model,
        "seed": asked.seed,
        "mode": "diffusion",
        "layout": "text" if slots is None else "slots",
        "canvas_length": model.config.canvas_length,
        # Of slots each has an end, behind which the next one stands.
        "end_token_ids": list(model.defaults.end_token_ids) if slots is None else [],
        "prompt_tokens": len(asked.prompt),
        "beginning": "",
    }


def _result(found: Extraction[Any]) -> dict[str, Any]:
    own = {"value": found.value, "confidence": found.confidence, "places": found.places}
    return {**of_result(found), **own, "layout": found.layout, "fallback": found.fallback}
