"""Mercury's and Codestral's routes for editors: fill in the middle, edit a region, apply an update."""

import re
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import Response

from redraft.engine.quality import Quality
from redraft.engine.result import Result
from redraft.engine.task import Runnable
from redraft.serve import prepare
from redraft.serve.answers import Answers, EventStream
from redraft.serve.deltas import Ending, Passage, if_late
from redraft.serve.errors import Json, bad_request, of_engine
from redraft.serve.state import client_of, new_seed, serving
from redraft.serve.wire.fields import HINT, Body, Seed, Stop, Temperature, Whole, only
from redraft.serve.wire.openai.common import DONE, FINGERPRINT, StreamOptions, fields_of, frame, usage
from redraft.serve.wire.sampling import CanvasMode, DeadlineMs, Penalty, TopP
from redraft.tasks.edit import EditRequest, EditResult, RewriteRequest, edit
from redraft.tasks.fill import FillResult

router = APIRouter()
_FIM_FIELDS = fields_of(
    {"prompt": "prompt", "there": "prompt", "prefix": "prompt", "suffix": "suffix", "constraint": "suffix"}
)
_EDIT_FIELDS = fields_of({"prompt": "messages", "text": "messages", "span": "messages", "constraint": "messages"})

_FILE = re.compile(r"<\|current_file_content\|>\n?(.*)<\|/current_file_content\|>", re.DOTALL)
_REGION = re.compile(r"<\|code_to_edit\|>(\n?)(.*?)(\n?)<\|/code_to_edit\|>", re.DOTALL)
_PATH_LINE = re.compile(r"\Acurrent_file_path:[^\n]*\n")
_CURSOR = "<|cursor|>"
_ORIGINAL = re.compile(r"<\|original_code\|>\n?(.*?)\n?<\|/original_code\|>", re.DOTALL)
_UPDATE = re.compile(r"<\|update_snippet\|>\n?(.*?)\n?<\|/update_snippet\|>", re.DOTALL)
_EDIT = (
    "Predict the next edit of the code: rewrite the region that the cursor is in. These snippets were viewed before, "
    "and this is the history of edits:\n{context}"
)
_APPLY = (
    "Apply the update to the code below, and write the whole of the code as it is then. Comments such as "
    "'existing code' stand for what stays as it is. The update:\n{update}"
)


class FimBody(Body):
    """The body of a fill-in-the-middle completion, Mercury's and Codestral's."""

    model: str
    prompt: str
    suffix: str | None = None
    max_tokens: Whole | None = None
    temperature: Temperature | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Seed = None
    random_seed: Seed = None
    min_tokens: Annotated[Literal[0] | None, only(0)] = None
    top_p: TopP | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    mode: CanvasMode = None
    deadline_ms: DeadlineMs | None = None
    quality: Quality | None = None
    user: str | None = None
    metadata: Annotated[dict[str, Any] | None, HINT] = None


@router.post("/v1/fim/completions")
async def fim(body: FimBody, http: HttpRequest) -> Response:
    """Write what stands between ``prompt`` and ``suffix``."""
    here = serving(http, body.model)
    here.note_prompt(http, [body.prompt, body.suffix])
    if body.seed is not None and body.random_seed is not None:
        raise bad_request("seed and random_seed say the same; give one of them", "random_seed")
    _check_stream(body)
    seed = body.random_seed if body.seed is None else body.seed
    parameters = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "seed": seed,
        **_sampling(body),
    }
    passage = Passage(_middle, prepare.stop_strings(body.stop))
    filling = await prepare.gap(here, body.prompt, body.suffix or "", parameters, _FIM_FIELDS)
    return await _reply(body, http, filling, passage, _FIM_FIELDS)


def _middle(result: FillResult) -> str:
    return result.middle


class EditMessage(Body):
    """The one message, which carries the code."""

    role: Literal["user"]
    content: str


class EditBody(Body):
    """The body of an edit or an apply completion."""

    model: str
    messages: Annotated[list[EditMessage], Field(min_length=1, max_length=1)]
    max_tokens: Whole | None = None
    temperature: Temperature | None = None
    seed: Seed = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_p: TopP | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    mode: CanvasMode = None
    deadline_ms: DeadlineMs | None = None
    quality: Quality | None = None
    user: str | None = None
    metadata: Annotated[dict[str, Any] | None, HINT] = None
    realtime: Annotated[bool | None, HINT] = None


@router.post("/v1/edit/completions")
async def edit_region(body: EditBody, http: HttpRequest) -> Response:
    """Rewrite the region between ``<|code_to_edit|>`` marks; everything outside of it stays."""
    content = body.messages[0].content
    found = _FILE.search(content)
    if found is None:
        raise bad_request("the message has no <|current_file_content|>", "messages")
    code = _PATH_LINE.sub("", found[1]).replace(_CURSOR, "")
    region = _REGION.search(code)
    if region is None:
        raise bad_request("the message has no <|code_to_edit|> in its file", "messages")
    before, old, after = code[: region.start()], region[2], code[region.end() :]
    text = f"{before}{region[1]}{old}{region[3]}{after}"
    start = len(before) + len(region[1])
    context = content[: found.start()] + content[found.end() :]
    instruction = _EDIT.format(context=context.strip())

    spans = [(start, start + len(old))]
    return await _edited(body, http, text, spans, instruction, Passage(_replacement))


def _replacement(result: EditResult) -> str:
    return result.replacements[0]


@router.post("/v1/apply/completions")
async def apply(body: EditBody, http: HttpRequest) -> Response:
    """Write the original code with the update snippet put in."""
    content = body.messages[0].content
    original, update = _ORIGINAL.search(content), _UPDATE.search(content)
    if original is None or update is None:
        missing = "original_code" if original is None else "update_snippet"
        raise bad_request(f"the message has no <|{missing}|>", "messages")
    return await _edited(body, http, original[1], None, _APPLY.format(update=update[1]), Passage(_text))


def _text(result: EditResult) -> str:
    return result.text


async def _edited(
    body: EditBody,
    http: HttpRequest,
    text: str,
    spans: list[tuple[int, int]] | None,
    instruction: str,
    passage: Passage,
) -> Response:
    """Edit ``text`` and answer with the ``passage`` of it that was written."""
    here = serving(http, body.model)
    here.note_prompt(http, body.messages[0].content)
    _check_stream(body)
    given = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "seed": new_seed() if body.seed is None else body.seed,
        **_sampling(body),
    }
    parameters = {name: value for name, value in prepare.counting(here, given).items() if value is not None}
    if here.settings.recipe is not None:
        parameters = here.settings.recipe.beside(parameters, generates=False)

    def check() -> EditRequest | RewriteRequest:
        too_long = here.limits.before_tokenizing("messages")
        tokens = here.tokenizer.encode_text(body.messages[0].content, too_long, literal=True)
        here.limits.check_prompt(len(tokens), "messages")
        record = here.settings.record
        return edit(here.runtime, text, spans, instruction=instruction, record=record, **parameters)

    return await _reply(body, http, await here.check(check, _EDIT_FIELDS), passage, _EDIT_FIELDS)


def _check_stream(body: FimBody | EditBody) -> None:
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true", "stream_options")
    if body.stream_options is not None and body.stream_options.continuous_usage_stats:
        raise bad_request("stream_options: continuous_usage_stats is for chat and plain completions", "stream_options")


def _sampling(body: FimBody | EditBody) -> dict[str, Any]:
    return {
        "top_p": body.top_p,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
        "deadline_ms": body.deadline_ms,
        "quality": body.quality,
    }


async def _reply(
    body: FimBody | EditBody, http: HttpRequest, request: Runnable[Result], passage: Passage, fields: dict[str, str]
) -> Response:
    """Answer in Mercury's ``text`` and Codestral's ``message.content`` at once; in a stream, with what is new of it."""
    here, options = serving(http, body.model), body.stream_options
    answers = Answers(here, [request], client_of(http, body.user))
    head = {"id": f"cmpl-{uuid4().hex}", "created": int(time.time()), "model": here.settings.model}
    head["system_fingerprint"] = FINGERPRINT

    def choice(text: str, ending: Ending | None, key: str) -> dict[str, Any]:
        shown = {"index": 0, "text": text, key: {"role": "assistant", "content": text}, "logprobs": None}
        if ending is None:
            return {**shown, "finish_reason": None}
        result = ending.result
        return {
            **shown,
            "finish_reason": ending.reason,
            "seed": result.seed,
            "unconverged_canvases": list(result.unconverged_canvases),
            **if_late(result),
        }

    if not body.stream:
        try:
            (result,) = await answers.results(http.receive)
        except Exception as error:
            raise of_engine(error, fields) from error
        text, ending = passage.whole(result)
        choices = [choice(text, ending, "message")]
        return Json({**head, "object": "chat.completion", "choices": choices, "usage": usage([ending.result])})

    async def frames() -> AsyncIterator[str]:
        chunk = {**head, "object": "chat.completion.chunk"}
        try:
            async for text, ending in passage.stream(answers):
                yield frame({**chunk, "choices": [choice(text, ending, "delta")]})
                if ending is not None and options is not None and options.include_usage:
                    yield frame({**chunk, "choices": [], "usage": usage([ending.result])})
            yield DONE
        except Exception as error:
            yield frame(of_engine(error, fields).envelope(http.url.path))

    return EventStream(frames(), answers)
