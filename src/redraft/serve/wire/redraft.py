"""Redraft's own routes: every denoising step as an event, enough to draw a run and to replay it; and decisions."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Discriminator, Field
from starlette.responses import Response

from redraft.canvas.draft import Draft
from redraft.constrain.constraint import Choice, Constraint, JSONSchema, Regex, Template
from redraft.constrain.language.template import Hole, HoleType
from redraft.engine.request import Verify
from redraft.engine.result import Result
from redraft.engine.task import Runnable
from redraft.engine.thinking import OF_THOUGHTS, ReasoningEffort
from redraft.errors import RedraftError
from redraft.models.base import ExtractLayout
from redraft.serve import prepare
from redraft.serve.answers import Answers, EventStream
from redraft.serve.deltas import if_late
from redraft.serve.errors import ApiError, Json, bad_request, of_engine
from redraft.serve.state import Serving, client_of, new_seed, serving
from redraft.serve.wire.canvases import WRITTEN, Denoised, Written
from redraft.serve.wire.events import events, of_result, of_usage, start_of
from redraft.serve.wire.fields import Body, Stop, ThinkingBudget
from redraft.serve.wire.sampling import SAMPLING, DeadlineMs, Sampled
from redraft.tasks.choose import ChooseRequest, choose
from redraft.tasks.infill import draft_of

router = APIRouter()
_CAUSAL = ("causal_logprobs", "verify", "verify_threshold")
_PARAMETERS = (*WRITTEN, "stop", *_CAUSAL, *OF_THOUGHTS, *SAMPLING)


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "model"]
    content: str


class Gap(Body):
    """A text before and a text after what is to be written."""

    prefix: str
    suffix: str


class BySchema(Body):
    """A constraint: JSON under a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any] | bool, Field(alias="schema")]


class ByRegex(Body):
    """A constraint: a text that a pattern matches."""

    type: Literal["regex"]
    pattern: str


class ByChoice(Body):
    """A constraint: one of several texts."""

    type: Literal["choice"]
    options: Annotated[list[str], Field(min_length=1, max_length=255)]


class HoleBody(Body):
    """A hole, and what may stand in it."""

    regex: str | None = None
    choices: list[str] | None = None
    type: HoleType | None = None
    min_length: Annotated[int, Field(ge=0)] | None = None
    max_length: Annotated[int, Field(ge=0)] | None = None


class ByTemplate(Body):
    """A constraint: a text with holes."""

    type: Literal["template"]
    text: str
    holes: dict[str, HoleBody] = Field(default_factory=dict)


AnyConstraint = Annotated[BySchema | ByRegex | ByChoice | ByTemplate, Discriminator("type")]


class DraftBody(Body):
    """A text that the canvases start from in the place of noise, for the model to correct."""

    text: Annotated[str, Field(min_length=1)]
    survival: Annotated[float, Field(ge=0, le=1)] | None = None
    """The probability that a token stands there at the start; 1 unless told."""


class GenerateBody(Written, Sampled):
    """The body of a request to generate."""

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    fill: Gap | None = None
    constraint: AnyConstraint | None = None
    draft: DraftBody | None = None
    causal_logprobs: bool | None = None
    verify: Verify | None = None
    verify_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    thinking: bool | None = None
    thinking_budget: ThinkingBudget | None = None
    reasoning_effort: ReasoningEffort | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    stop: Stop | None = None


class ChooseBody(Denoised):
    """The body of a request for decisions."""

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    questions: Annotated[dict[str, Annotated[list[str], Field(min_length=1, max_length=255)]], Field(min_length=1)]
    frame: str | None = None
    layout: ExtractLayout | None = None
    deadline_ms: DeadlineMs | None = None
    calibrated: bool | None = None
    normalize: Literal["length"] | None = None


_FIELDS = {name: name for name in (*_PARAMETERS, "draft")}


@router.post("/v1/redraft/generate")
async def generate(body: GenerateBody, http: HttpRequest) -> Response:
    """Answer as events: start, a step for each denoising step, a chunk for each canvas or token, and the result."""
    here = serving(http, body.model)
    source = _source(body)
    here.note_prompt(http, body.model_dump(include={source, "messages"}, exclude_none=True))
    fields = {**_FIELDS, "prompt": source, "there": source, "constraint": source if body.fill else "constraint"}
    prompt: Any = body.prompt if body.messages is None else _messages(body.messages)
    parameters = {name: getattr(body, name) for name in _PARAMETERS}
    answer: Runnable[Result]
    if body.fill is not None:
        parameters["prompt"] = prompt
        filling = await prepare.gap(here, body.fill.prefix, body.fill.suffix, parameters, fields)
        answer, request, beginning = filling, filling.request, ""
    else:
        if body.constraint is not None:
            parameters["constraint"] = await here.check(lambda: _constraint(here, body), fields)
        if body.draft is not None:
            parameters["draft"] = await here.check(partial(_draft, here, body.draft), fields)
        prepared = await prepare.generation(here, prompt, parameters, fields)
        (answer,), request = prepared.answers(), prepared.request
        beginning = "" if request.constraint is None else request.constraint.beginning
    answers = Answers(here, [answer], client_of(http), steps=request.mode == "diffusion")
    start = start_of(here, "gen", request, beginning)
    return EventStream(events(here, answers, start, fields, of_result), answers)


def _source(body: GenerateBody) -> str:
    """Name the field that says what to generate."""
    if body.fill is not None:
        if body.prompt is not None:
            raise bad_request("prompt: give a prompt, or fill with messages", "prompt")
        if body.mode not in (None, "diffusion"):
            raise bad_request(f"mode {body.mode!r}: what is filled in is written on canvases; leave it out", "mode")
        for name in ("constraint", "draft", "stop", *_CAUSAL, *OF_THOUGHTS):
            if getattr(body, name) is not None:
                raise bad_request(f"{name}: what is filled in takes no {name}", name)
        return "fill"
    given = [name for name in ("prompt", "messages") if getattr(body, name) is not None]
    if len(given) != 1:
        raise bad_request("give exactly one of prompt, messages and fill", given[1] if given else "prompt")
    return given[0]


def _constraint(here: Serving, body: GenerateBody) -> Constraint:
    match body.constraint:
        case BySchema(schema_=schema):
            here.limits.check_schema(schema, "constraint")
            return JSONSchema(schema)
        case ByRegex(pattern=pattern):
            here.limits.check_schema(pattern, "constraint")
            return Regex(pattern)
        case ByChoice(options=options):
            return Choice(options)
        case ByTemplate(text=text, holes=holes):
            here.limits.check_schema(text, "constraint")
            return Template(text, {name: Hole(**hole.model_dump()) for name, hole in holes.items()})
    raise AssertionError("called with a constraint")


def _draft(here: Serving, body: DraftBody) -> Draft:
    tokens = here.tokenizer.encode_text(body.text, here.limits.before_tokenizing("draft"), literal=True)
    here.limits.check_prompt(len(tokens), "draft")
    return draft_of(here.runtime, [(body.text, 1.0 if body.survival is None else body.survival)])


def _messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    return [message.model_dump() for message in messages]


@router.post("/v1/redraft/choose")
async def decide(body: ChooseBody, http: HttpRequest) -> Response:
    """Find the probability of each option of each question."""
    here = serving(http, body.model)
    here.limits.check_questions(len(body.questions))
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give exactly one of prompt and messages", "prompt")
    prompt: Any = body.prompt if body.messages is None else _messages(body.messages)
    here.note_prompt(http, prompt)
    source = "prompt" if body.messages is None else "messages"
    fields = {
        **_FIELDS,
        "prompt": source,
        "the answers": "questions",
        "template": "frame",
        "constraint": "questions",
    }
    given = {
        "frame": body.frame,
        "max_denoising_steps": body.max_denoising_steps,
        "canvas_length": body.canvas_length,
        "calibrated": body.calibrated,
        "normalize": body.normalize,
        "layout": body.layout,
        "seed": new_seed() if body.seed is None else body.seed,
        "deadline_ms": body.deadline_ms,
    }
    parameters = {name: value for name, value in prepare.counting(here, given).items() if value is not None}

    def check() -> ChooseRequest:
        tokens = prepare.prompt_tokens(here, prompt, source)
        return choose(here.runtime, tokens, body.questions, record=here.settings.record, **parameters)

    answers = Answers(here, [await here.check(check, fields)], client_of(http))
    try:
        (result,) = await answers.results(http.receive)
    except (RedraftError, ApiError) as error:
        raise of_engine(error, fields) from error
    return Json(
        {
            "answers": {
                name: {
                    "choice": decision.choice,
                    "confidence": decision.confidence,
                    "probabilities": decision.probabilities,
                }
                for name, decision in result.answers.items()
            },
            "log_valid": result.log_valid,
            "layout": result.layout,
            "fallback": result.fallback,
            "seed": result.seed,
            **if_late(result),
            "usage": of_usage(result.usage),
        }
    )
