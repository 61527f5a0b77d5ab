"""Redraft's own route for the log-likelihood of a text behind a prompt."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import Response

from redraft.engine.result import TokenLogprob
from redraft.engine.task import Runnable
from redraft.errors import RedraftError
from redraft.serve.answers import Answers
from redraft.serve.errors import ApiError, Json, bad_request, of_engine
from redraft.serve.state import Serving, client_of, new_seed, serving
from redraft.serve.wire.fields import Body, Seed
from redraft.serve.wire.redraft import ChatMessage
from redraft.tasks.score import MAX_TOP, ScoreResult, score

router = APIRouter()
MAX_SAMPLES = 1024
_NAMES = ("text", "bound", "samples", "seed", "top_logprobs")


class ScoreBody(Body):
    """The body of a request to score a text."""

    model: str | None = None
    prompt: str | Annotated[list[int], Field(min_length=1)] | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    text: str | Annotated[list[int], Field(min_length=1)]
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP)] | None = None
    bound: Literal["monte_carlo"] | None = None
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    seed: Seed = None


@router.post("/v1/redraft/score")
async def log_likelihood(body: ScoreBody, http: HttpRequest) -> Response:
    """Find the log-likelihood of a text."""
    here = serving(http, body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_request("give exactly one of prompt and messages", "prompt")
    source = "prompt" if body.messages is None else "messages"
    prompt: Any = body.prompt if body.messages is None else [one.model_dump() for one in body.messages]
    here.note_prompt(http, {source: prompt, "text": body.text})
    fields = {**{name: name for name in _NAMES}, "prompt": source, "token": "text", "this": source}
    seed = new_seed() if body.seed is None and body.bound is not None else body.seed

    def check() -> Runnable[ScoreResult]:
        request = score(
            here.runtime,
            prompt,
            body.text,
            top_logprobs=body.top_logprobs,
            bound=body.bound,
            samples=body.samples,
            seed=seed,
            check=here.limits.before_tokenizing(source),
        )
        here.limits.check_prompt(len(request.prompt) + len(request.text), source)
        return request

    answers = Answers(here, [await here.check(check, fields)], client_of(http))
    try:
        (result,) = await answers.results(http.receive)
    except (RedraftError, ApiError) as error:
        raise of_engine(error, fields) from error
    return Json(_shown(here, result))


def _shown(here: Serving, result: ScoreResult) -> dict[str, Any]:
    piece = here.tokenizer.piece
    # Of what was asked for, the likeliest tokens too.
    tops = result.logprobs or (None,) * len(result.token_logprobs)
    tokens = [
        {"id": token, "token": piece(token), "logprob": logprob, "greedy": greedy, **_top(here, top)}
        for token, logprob, greedy, top in zip(
            result.token_ids, result.token_logprobs, result.greedy, tops, strict=False
        )
    ]
    shown: dict[str, Any] = {
        "log_likelihood": result.log_likelihood,
        "is_greedy": result.is_greedy if result.bound is None else None,
        "token_ids": list(result.token_ids),
        "tokens": tokens,
        "bound": result.bound,
        "usage": asdict(result.usage),
    }
    if result.bound is not None:
        shown |= {"samples": result.samples, "standard_error": result.standard_error, "seed": result.seed}
    return shown


def _top(here: Serving, one: TokenLogprob | None) -> dict[str, Any]:
    if one is None:
        return {}
    piece = here.tokenizer.piece
    return {"top_logprobs": [{"id": token, "token": piece(token), "logprob": value} for token, value in one.top]}
