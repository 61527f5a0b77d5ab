"""Redraft's own route to read a text into JSON: values with their confidences and places, every step as an event."""

import json
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import Response

from redraft.models.base import ExtractLayout
from redraft.serve.answers import Answers, EventStream
from redraft.serve.prepare import counting
from redraft.serve.state import Serving, client_of, new_seed, serving
from redraft.serve.wire.canvases import WRITTEN, Written
from redraft.serve.wire.events import events, of_result, start_of
from redraft.serve.wire.sampling import DRAWN, Drawn
from redraft.tasks.extract import Extraction, ExtractRequest, extract

router = APIRouter()
_PARAMETERS = ("instruction", "layout", "verbatim", "confidence", "draft", *WRITTEN, *DRAWN)
_FIELDS = {name: name for name in ("text", "schema", *_PARAMETERS)} | {"prompt": "text", "constraint": "schema"}


class ExtractBody(Written, Drawn):
    """The body of a request to read a text into JSON under a schema."""

    text: Annotated[str, Field(min_length=1)]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    instruction: str | None = None
    layout: ExtractLayout | None = None
    verbatim: bool | None = None
    confidence: bool | None = None
    draft: Any = None
    """A value, or JSON text, that the canvases start from, for the model to correct."""


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
        if body.draft is not None:
            drafted = body.draft if isinstance(body.draft, str) else json.dumps(body.draft, ensure_ascii=False)
            tokens = here.tokenizer.encode_text(drafted, here.limits.before_tokenizing("draft"), literal=True)
            here.limits.check_prompt(len(tokens), "draft")
        return extract(here.runtime, body.text, body.schema_, record=here.settings.record, **given)

    request = await here.check(check, _FIELDS)
    answers = Answers(here, [request], client_of(http), steps=True)
    return EventStream(events(here, answers, _start(here, request), _FIELDS, _result), answers)


def _start(here: Serving, request: ExtractRequest[Any]) -> dict[str, Any]:
    if request.slots is None:
        return {**start_of(here, "ext", request.request), "layout": "text"}
    # Each slot has an end, behind which the next one stands.
    return {**start_of(here, "ext", request.slots.request), "layout": "slots", "end_token_ids": []}


def _result(found: Extraction[Any]) -> dict[str, Any]:
    own = {"value": found.value, "confidence": found.confidence, "places": found.places}
    return {**of_result(found), **own, "layout": found.layout, "fallback": found.fallback}
