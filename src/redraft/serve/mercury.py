"""What editors ask of Mercury and Codestral: fill in the middle, edit a region, apply an update."""

import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from pydantic import Field
from starlette.responses import Response

from redraft.engine.infill import EditResult, FillResult, edit
from redraft.engine.result import Result
from redraft.engine.work import Work
from redraft.serve.errors import Json, bad_request, of_engine
from redraft.serve.fields import Body, NoPenalty, Seed, Stop, Temperature, Whole, WholeNucleus, only
from redraft.serve.openai_completions import Filling
from redraft.serve.openai_wire import DONE, FINGERPRINT, StreamOptions, frame, names_of, usage
from redraft.serve.serving import Answers, Done, EventStream, Post, Serving, client_of, new_seed, serving

router = APIRouter()
_FIM_NAMES = names_of({"prompt": "prompt", "there": "prompt", "prefix": "prompt", "suffix": "suffix"})
_EDIT_NAMES = names_of({"prompt": "messages", "text": "messages", "span": "messages"})

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


class FimRequest(Body):
    """The body of a fill-in-the-middle completion, Mercury's and Codestral's."""

    model: str
    prompt: str
    suffix: str | None = None
    max_tokens: Whole | None = None
    temperature: Temperature | None = None
    stop: Stop | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    seed: Seed | None = None
    random_seed: Seed | None = None
    min_tokens: Annotated[Literal[0] | None, only(0)] = None
    top_p: WholeNucleus = None
    frequency_penalty: NoPenalty = None
    presence_penalty: NoPenalty = None
    user: str | None = None
    metadata: Annotated[dict[str, str] | None, only({})] = None


@router.post("/v1/fim/completions")
async def fim(body: FimRequest, http: HttpRequest) -> Response:
    """Write what stands between ``prompt`` and ``suffix``."""
    here = serving(http)
    here.check_model(body.model)
    here.note_prompt(http, [body.prompt, body.suffix])
    if body.seed is not None and body.random_seed is not None:
        raise bad_request("seed and random_seed say the same; give one of them", "random_seed")
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true", "stream_options")
    seed = body.random_seed if body.seed is None else body.seed
    filling = Filling(here, body.prompt, body.suffix or "", body.max_tokens, body.temperature, seed, body.stop)
    answers = await filling.start(http, client_of(http, body.user), _FIM_NAMES)

    def said(result: FillResult) -> tuple[str, str]:
        return filling.middle(result)

    return await _reply(here, http, answers, said, _FIM_NAMES, body.stream, body.stream_options)


class EditMessage(Body):
    """The one message, which carries the code."""

    role: Literal["user"]
    content: str


class EditRequest(Body):
    """The body of an edit or an apply completion."""

    model: str
    messages: Annotated[list[EditMessage], Field(min_length=1, max_length=1)]
    max_tokens: Whole | None = None
    temperature: Temperature | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    top_p: WholeNucleus = None
    frequency_penalty: NoPenalty = None
    presence_penalty: NoPenalty = None
    user: str | None = None


@router.post("/v1/edit/completions")
async def edit_region(body: EditRequest, http: HttpRequest) -> Response:
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

    def work(engine: Any, parameters: dict[str, Any]) -> Work[EditResult]:
        return edit(engine, text, [(start, start + len(old))], instruction=instruction, **parameters)

    return await _edited(body, http, work, lambda result: (result.replacements[0], result.finish_reason))


@router.post("/v1/apply/completions")
async def apply(body: EditRequest, http: HttpRequest) -> Response:
    """Write the original code with the update snippet put in."""
    content = body.messages[0].content
    original, update = _ORIGINAL.search(content), _UPDATE.search(content)
    if original is None or update is None:
        missing = "original_code" if original is None else "update_snippet"
        raise bad_request(f"the message has no <|{missing}|>", "messages")
    code, instruction = original[1], _APPLY.format(update=update[1])

    def work(engine: Any, parameters: dict[str, Any]) -> Work[EditResult]:
        return edit(engine, code, instruction=instruction, **parameters)

    return await _edited(body, http, work, lambda result: (result.text, result.finish_reason))


async def _edited(
    body: EditRequest,
    http: HttpRequest,
    work: Callable[[Any, dict[str, Any]], Work[EditResult]],
    said: Callable[[EditResult], tuple[str, str]],
) -> Response:
    here = serving(http)
    here.check_model(body.model)
    here.note_prompt(http, body.messages[0].content)
    if body.stream_options is not None and not body.stream:
        raise bad_request("stream_options needs stream: true", "stream_options")
    count = await here.prepare(lambda: len(here.tokenizer.encode_text(body.messages[0].content)), _EDIT_NAMES)
    here.limits.check_prompt(count, "messages")
    given = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "seed": new_seed() if body.seed is None else body.seed,
    }
    parameters = {name: value for name, value in given.items() if value is not None}
    await here.prepare(lambda: work(here.engine, parameters), _EDIT_NAMES)

    def make(post: Post) -> Callable[[], Work[EditResult]]:
        return lambda: work(here.engine, {**here.kept, **parameters})

    answers = Answers(http, [make], client_of(http, body.user))
    return await _reply(here, http, answers, said, _EDIT_NAMES, body.stream, body.stream_options)


async def _reply(
    here: Serving,
    http: HttpRequest,
    answers: Answers[Any],
    said: Callable[[Any], tuple[str, str]],
    names: dict[str, str],
    stream: bool | None,
    options: StreamOptions | None,
) -> Response:
    """The answer in Mercury's ``text`` and Codestral's ``message.content`` at once; a stream has it in one piece."""
    head = {"id": f"cmpl-{uuid4().hex}", "created": int(time.time()), "model": here.settings.model}
    head["system_fingerprint"] = FINGERPRINT

    def choice(result: Result, key: str) -> dict[str, Any]:
        text, finish = said(result)
        return {
            "index": 0,
            "text": text,
            key: {"role": "assistant", "content": text},
            "logprobs": None,
            "finish_reason": finish,
            "seed": result.seed,
            "unconverged_canvases": list(result.unconverged_canvases),
        }

    if not stream:
        try:
            result = (await answers.results(http.receive))[0]
        except Exception as error:
            raise of_engine(error, names) from error
        whole = {**head, "object": "chat.completion", "choices": [choice(result, "message")], "usage": usage([result])}
        return Json(whole)

    async def frames() -> AsyncIterator[str]:
        chunk = {**head, "object": "chat.completion.chunk"}
        try:
            async for _, event in answers.events():
                if isinstance(event, Done):
                    yield frame({**chunk, "choices": [choice(event.result, "delta")]})
                    if options is not None and options.include_usage:
                        yield frame({**chunk, "choices": [], "usage": usage([event.result])})
            yield DONE
        except Exception as error:
            yield frame(of_engine(error, names).envelope(http.url.path))

    return EventStream(frames(), answers)
