"""Redraft's own routes: every denoising step as an event, enough to draw a run and to replay it; and decisions."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Discriminator, Field
from starlette.responses import Response

from redraft.constrain.constraint import Choice, Constraint, JSONSchema, Regex, Template
from redraft.constrain.language.template import Hole, HoleType
from redraft.engine.result import Chunk, Result, StepEvent, Usage
from redraft.engine.task import Work
from redraft.errors import RedraftError
from redraft.serve.errors import ApiError, Json, bad_request, of_engine, to_json
from redraft.serve.state import Answers, Done, EventStream, Post, Serving, Steps, client_of, new_seed, serving
from redraft.serve.wire.fields import Body, Seed, Stop, Temperature, Whole
from redraft.tasks.choose import Choosing, choose
from redraft.tasks.infill import FillResult, context_before, fill

router = APIRouter()
_PARAMETERS = ("max_tokens", "seed", "temperature", "max_denoising_steps", "entropy_bound", "thinking", "stop")
_FEWER_DIGITS = 4


class ChatMessage(Body):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "model"]
    content: str


class Gap(Body):
    """A text before and a text after what is to be written."""

    prefix: str
    suffix: str


class BySchema(Body):
    """JSON under a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any] | bool, Field(alias="schema")]


class ByRegex(Body):
    """A text that a pattern matches."""

    type: Literal["regex"]
    pattern: str


class ByChoice(Body):
    """One of several texts."""

    type: Literal["choice"]
    options: Annotated[list[str], Field(min_length=1, max_length=255)]


class HoleBody(Body):
    """What may stand in a hole."""

    regex: str | None = None
    choices: list[str] | None = None
    type: HoleType | None = None
    min_length: Annotated[int, Field(ge=0)] | None = None
    max_length: Annotated[int, Field(ge=0)] | None = None


class ByTemplate(Body):
    """A text with holes."""

    type: Literal["template"]
    text: str
    holes: dict[str, HoleBody] = Field(default_factory=dict)


AnyConstraint = Annotated[BySchema | ByRegex | ByChoice | ByTemplate, Discriminator("type")]


class GenerateRequest(Body):
    """The body of a request to generate."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    fill: Gap | None = None
    constraint: AnyConstraint | None = None
    max_tokens: Whole | None = None
    seed: Seed | None = None
    temperature: Temperature | None = None
    max_denoising_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    entropy_bound: Annotated[float, Field(ge=0)] | None = None
    thinking: bool | None = None
    stop: Stop | None = None


class ChooseRequest(Body):
    """The body of a request for decisions."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    questions: Annotated[dict[str, Annotated[list[str], Field(min_length=1, max_length=255)]], Field(min_length=1)]
    frame: str | None = None
    max_denoising_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    seed: Seed | None = None
    calibrated: bool | None = None


_NAMES = {name: name for name in _PARAMETERS}


@router.post("/v1/redraft/generate")
async def generate(body: GenerateRequest, http: HttpRequest) -> Response:
    """Answer as events: start, a step for each denoising step, a chunk for each canvas, and the result."""
    here = serving(http)
    if body.model is not None:
        here.check_model(body.model)
    source = _source(body)
    here.note_prompt(http, body.model_dump(include={source, "messages"}, exclude_none=True))
    names = {**_NAMES, "prompt": source, "there": source}
    given = {name: getattr(body, name) for name in _PARAMETERS}
    parameters = {name: value for name, value in given.items() if value is not None}
    parameters.setdefault("seed", new_seed())
    if here.settings.max_tokens is not None and body.fill is None:
        parameters.setdefault("max_tokens", here.settings.max_tokens)
    constraint = None if body.constraint is None else await here.prepare(lambda: _constraint(here, body), names)
    prepared = await here.prepare(
        lambda: _prepare(here, body, source, constraint, parameters), names, "constraint" if constraint else source
    )
    start, make = prepared
    answers = Answers(http, [make], client_of(http))
    return EventStream(_events(here, answers, start, names, http.url.path), answers)


def _source(body: GenerateRequest) -> str:
    """Which of the fields says what to generate."""
    if body.fill is not None:
        if body.prompt is not None:
            raise bad_request("prompt: give a prompt, or fill with messages", "prompt")
        for name in ("constraint", "thinking", "stop"):
            if getattr(body, name) is not None:
                raise bad_request(f"{name}: what is filled in takes no {name}", name)
        return "fill"
    given = [name for name in ("prompt", "messages") if getattr(body, name) is not None]
    if len(given) != 1:
        raise bad_request("give exactly one of prompt, messages and fill", given[1] if given else "prompt")
    return given[0]


def _constraint(here: Serving, body: GenerateRequest) -> Constraint:
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


def _messages(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    return [message.model_dump() for message in messages]


Make = Callable[[Post], Callable[[], Work[Result]]]


def _prepare(
    here: Serving, body: GenerateRequest, source: str, constraint: Constraint | None, parameters: dict[str, Any]
) -> tuple[dict[str, Any], Make]:
    """The start event, and what begins the work."""
    engine = here.engine
    start = {
        "id": f"gen-{uuid4().hex}",
        "model": here.settings.model,
        "seed": parameters["seed"],
        "canvas_length": engine.model.config.canvas_length,
        "end_token_ids": list(engine.model.defaults.end_token_ids),
    }
    prompt = None if body.messages is None else _messages(body.messages)
    check = here.limits.before_tokenizing(source)
    if body.fill is not None:
        prefix, suffix = body.fill.prefix, body.fill.suffix
        tokens = len(context_before(engine, prompt, prefix, check))
        here.limits.check_prompt(tokens, source)
        filling = fill(engine, prefix, suffix, prompt=prompt, **parameters)

        def make_fill(post: Post) -> Callable[[], Work[Result]]:
            on_step = Steps(post)
            return lambda: filling.work(on_step, here.settings.record)

        return {**start, "prompt_tokens": tokens, "beginning": ""}, make_fill
    thinking = bool(parameters.get("thinking"))
    given = engine.tokenize(body.prompt if prompt is None else prompt, thinking, check=check)  # type: ignore[arg-type]
    request = engine.request(given, constraint=constraint, **parameters)
    here.limits.check_prompt(len(request.prompt), source)

    def make(post: Post) -> Callable[[], Work[Result]]:
        on_step = Steps(post)
        return lambda: here.generation(request, on_step).work

    beginning = "" if request.constraint is None else request.constraint.beginning
    return {**start, "prompt_tokens": len(request.prompt), "beginning": beginning}, make


async def _events(
    here: Serving, answers: Answers[Result], start: dict[str, Any], names: dict[str, str], path: str
) -> AsyncIterator[str]:
    drawing = _Drawing(here)
    try:
        yield _event("start", start)
        if start["beginning"]:
            answers.text_is_ready()
        async for _, event in answers.events():
            match event:
                case StepEvent():
                    yield _event("step", await asyncio.to_thread(drawing.step, event))
                case Chunk():
                    yield _event("chunk", _chunk(event))
                case Done(result=result):
                    yield _event("result", _result(result))
    except Exception as error:
        problem = of_engine(error, names)
        yield _event("error", {"message": problem.message, "type": problem.type, "param": problem.param})


class _Drawing:
    """Writes steps down, each token's text with the first step that it occurs in."""

    def __init__(self, here: Serving) -> None:
        self._here = here
        self._known: set[int] = set()
        self._canvas, self._of = -1, 0
        self._before: list[int] = []

    def step(self, event: StepEvent) -> dict[str, Any]:
        """One denoising step."""
        tokens, argmax = event.tokens_in.tolist(), event.argmax.tolist()
        if event.canvas_index != self._canvas:
            self._canvas, self._before, self._of = event.canvas_index, [], event.step
        before: list[int] | list[None] = self._before or [None] * len(argmax)
        new = {*tokens, *argmax} - self._known
        self._known |= new
        self._before = argmax
        return {
            "canvas": event.canvas_index,
            "step": event.step,
            "of": self._of,
            "temperature": event.temperature,
            "tokens": tokens,
            "argmax": argmax,
            "entropy": [round(value, _FEWER_DIGITS) for value in event.entropy.tolist()],
            "accepted": [int(value) for value in event.accepted.tolist()],
            "finished": event.finished,
            "changed": [at for at, (old, now) in enumerate(zip(before, argmax, strict=True)) if old != now],
            "pieces": {str(token): self._here.tokenizer.piece(token) for token in sorted(new)},
        }


def _chunk(chunk: Chunk) -> dict[str, Any]:
    return {
        "canvas": chunk.canvas_index,
        "text": chunk.text,
        "thought": chunk.thought,
        "denoising_steps": chunk.denoising_steps,
        "converged": chunk.converged,
    }


def _result(result: Result) -> dict[str, Any]:
    shown = {
        "text": result.text,
        "finish_reason": result.finish_reason,
        "seed": result.seed,
        "thought": result.thought,
        "log_valid": list(result.log_valid),
        "unconverged_canvases": list(result.unconverged_canvases),
        "usage": _usage(result.usage),
    }
    return {**shown, "middle": result.middle} if isinstance(result, FillResult) else shown


def _usage(usage: Usage) -> dict[str, Any]:
    return {**asdict(usage), "tokens_per_step": usage.tokens_per_step}


def _event(kind: str, content: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {to_json(content)}\n\n"


@router.post("/v1/redraft/choose")
async def decide(body: ChooseRequest, http: HttpRequest) -> Response:
    """The probability of each option of each question."""
    here = serving(http)
    if body.model is not None:
        here.check_model(body.model)
    here.limits.check_questions(len(body.questions))
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give exactly one of prompt and messages", "prompt")
    prompt: Any = body.prompt if body.messages is None else _messages(body.messages)
    here.note_prompt(http, prompt)
    source = "prompt" if body.messages is None else "messages"
    names = {**_NAMES, "prompt": source, "the answers": "questions", "template": "frame"}
    given = {
        "frame": body.frame,
        "max_denoising_steps": body.max_denoising_steps,
        "calibrated": body.calibrated,
        "seed": new_seed() if body.seed is None else body.seed,
    }
    parameters: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    def checked() -> Choosing:
        check = here.limits.before_tokenizing(source)
        here.limits.check_prompt(len(here.engine.tokenize(prompt, check=check)), source)
        return choose(here.engine, prompt, body.questions, **parameters)

    choosing = await here.prepare(checked, names, "questions")
    answers = Answers(http, [lambda post: lambda: choosing.work(record=here.settings.record)], client_of(http))
    try:
        result = (await answers.results(http.receive))[0]
    except (RedraftError, ApiError) as error:
        raise of_engine(error, names) from error
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
            "seed": result.seed,
            "usage": _usage(result.usage),
        }
    )
