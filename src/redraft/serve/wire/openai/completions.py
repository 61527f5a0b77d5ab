"""OpenAI's ``/v1/completions``: continues raw text, or with ``suffix`` writes what stands between two texts."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from starlette.responses import Response

from redraft.engine.result import Chunk, Result, TokenLogprob
from redraft.serve import prepare
from redraft.serve.answers import Answers, Done, EventStream
from redraft.serve.deltas import Ending, Passage, Pieces, if_late
from redraft.serve.errors import Json, bad_request, of_engine
from redraft.serve.prepare import Prepared
from redraft.serve.state import Serving, client_of, serving
from redraft.serve.wire.openai.common import (
    DONE,
    FINGERPRINT,
    StreamOptions,
    fields_of,
    frame,
    running,
    token_text,
    usage,
)
from redraft.serve.wire.openai.completion_fields import CompletionBody
from redraft.serve.wire.openai.echoed import echoed
from redraft.tasks.fill import FillResult

router = APIRouter()
_FIELDS = fields_of(
    {"prompt": "prompt", "there": "prompt", "prefix": "prompt", "suffix": "suffix", "constraint": "suffix"}
)


@router.post("/v1/completions")
async def completions(body: CompletionBody, http: HttpRequest) -> Response:
    """Complete a text."""
    here = serving(http, body.model)
    here.note_prompt(http, body.prompt)
    prompts = _prompts(body)
    _check_together(here, body, prompts)
    if _scores(body):
        return await echoed(here, body, http, prompts, _FIELDS)
    if body.suffix:
        return await _filled(here, body, http, str(prompts[0]), body.suffix)
    parameters = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "seed": body.seed,
        **body.sampling,
        "stop": body.stop,
        "top_logprobs": body.logprobs,
    }
    prepared = []
    for index, prompt in enumerate(prompts):
        fields = {**_FIELDS, "prompt": f"prompt.{index}"} if len(prompts) > 1 else _FIELDS
        prepared.append(await prepare.generation(here, prompt, parameters, fields))
    count = body.n or 1
    answers = Answers(
        here,
        [answer for one in prepared for answer in one.answers(count)],
        client_of(http, body.user or body.safety_identifier),
    )
    reply = _Reply(here, prepared, body, [_echo(here, body, prompt) for prompt in prompts], count)
    if body.stream:
        return EventStream(reply.stream(answers, http.url.path), answers)
    try:
        results = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, _FIELDS) from error
    return Json(reply.whole(results))


def _prompts(body: CompletionBody) -> list[str | list[int]]:
    """Return the prompts, each a text or token ids."""
    if isinstance(body.prompt, str):
        return [body.prompt]
    ids = [part for part in body.prompt if isinstance(part, int)]
    return [ids] if ids else [part for part in body.prompt if not isinstance(part, int)]


def _scores(body: CompletionBody) -> bool:
    """Tell whether the log-probabilities of the prompt itself are asked for."""
    return bool(body.echo) and body.logprobs is not None


def _echo(here: Serving, body: CompletionBody, prompt: str | list[int]) -> str:
    """Return what stands before each answer to a prompt."""
    if not body.echo:
        return ""
    return prompt if isinstance(prompt, str) else here.tokenizer.decode_all(prompt)


def _check_together(here: Serving, body: CompletionBody, prompts: Sequence[str | list[int]]) -> None:
    count, max_answers = len(prompts) * (body.n or 1), here.limits.answers
    if body.n is not None and body.n > here.limits.choices:
        raise bad_request(f"n: {body.n} answers; this server gives at most {here.limits.choices}", "n")
    for wrong, param, message in (
        (body.stream_options is not None and not body.stream, "stream_options", "stream_options needs stream: true"),
        (body.max_tokens == 0 and not _scores(body), "max_tokens",
         "max_tokens must be 1 or more; 0 writes nothing, and scores a prompt with echo and logprobs alone"),
        (body.suffix and body.logprobs is not None, "logprobs", "logprobs cannot be given together with suffix"),
        (body.suffix and body.mode not in (None, "diffusion"), "mode",
         f"mode {body.mode!r} cannot be given with suffix; what stands between two texts is written on canvases"),
        (body.suffix and body.n not in (None, 1), "n", "n must be 1 together with suffix"),
        (body.suffix and body.stream_options is not None and body.stream_options.continuous_usage_stats,
         "stream_options", "stream_options: continuous_usage_stats cannot be given together with suffix"),
        (body.suffix and len(prompts) > 1, "suffix", "suffix needs a single prompt"),
        (body.suffix and not isinstance(prompts[0], str), "suffix", "suffix needs a prompt that is a text"),
        (count > max_answers, "prompt",
         f"prompt: {len(prompts)} prompts ask for {count} answers; this server gives at most {max_answers} to a "
         "request"),
    ):  # fmt: skip
        if wrong:
            raise bad_request(message, param)


async def _filled(here: Serving, body: CompletionBody, http: HttpRequest, prompt: str, suffix: str) -> Response:
    parameters = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "seed": body.seed,
        **body.sampling,
    }
    passage = Passage(_middle, prepare.stop_strings(body.stop))
    filling = await prepare.gap(here, prompt, suffix, parameters, _FIELDS)
    answers = Answers(here, [filling], client_of(http, body.user or body.safety_identifier))
    head = {"id": f"cmpl-{uuid4().hex}", "created": int(time.time()), "model": here.settings.model}
    before, after = (prompt, suffix) if body.echo else ("", "")

    def content(text: str, ending: Ending | None) -> dict[str, Any]:
        end = {"finish_reason": None} if ending is None else _end(ending.result, ending.reason)
        choice = {"index": 0, "text": text, "logprobs": None, **end}
        return {**head, "object": "text_completion", "system_fingerprint": FINGERPRINT, "choices": [choice]}

    if not body.stream:
        try:
            (result,) = await answers.results(http.receive)
        except Exception as error:
            raise of_engine(error, _FIELDS) from error
        text, ending = passage.whole(result)
        return Json({**content(before + text + after, ending), "usage": usage([ending.result])})
    wanted = body.stream_options is not None and body.stream_options.include_usage
    none = {"usage": None} if wanted else {}

    async def frames() -> AsyncIterator[str]:
        try:
            if before:
                yield frame({**content(before, None), **none})
            async for text, ending in passage.stream(answers):
                yield frame({**content(text if ending is None else text + after, ending), **none})
                if ending is not None and wanted:
                    yield frame({**content("", ending), "choices": [], "usage": usage([ending.result])})
            yield DONE
        except Exception as error:
            yield frame(of_engine(error, _FIELDS).envelope(http.url.path))

    return EventStream(frames(), answers)


def _middle(result: FillResult) -> str:
    return result.middle


class _Reply:
    """Writes answers in OpenAI's words."""

    def __init__(
        self, here: Serving, prepared: Sequence[Prepared], body: CompletionBody, echoes: Sequence[str], count: int
    ) -> None:
        """``prepared`` and ``echoes``: one for each prompt, to which there are ``count`` answers."""
        self._body, self._prompts = body, len(prepared)
        self._prepared = [one for one in prepared for _ in range(count)]
        """One for each answer, as are the echoes."""
        self._echoes = [echo for echo in echoes for _ in range(count)]
        self._head = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": here.settings.model,
            "system_fingerprint": FINGERPRINT,
        }

    def whole(self, results: Sequence[Result]) -> dict[str, Any]:
        """Return all answers at once."""
        choices = [
            {
                "index": index,
                "text": self._echoes[index] + result.text,
                "logprobs": self._logprobs(index, result.logprobs, 0),
                **_end(result),
            }
            for index, result in enumerate(results)
        ]
        return {**self._head, "choices": choices, "usage": self._usage(results)}

    async def stream(self, answers: Answers[Result], path: str) -> AsyncIterator[str]:
        """Yield text when its canvas has converged."""
        pieces = [Pieces(one) for one in self._prepared]
        sent = [0] * len(pieces)
        results: dict[int, Result] = {}
        options = self._body.stream_options or StreamOptions()
        prompt = sum(len(one.request.prompt) for one in self._prepared[:: len(self._prepared) // self._prompts])
        written = 0

        def chunk(index: int, text: str, **more: Any) -> str:
            choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None, **more}
            cost = running(prompt, written) if options.continuous_usage_stats else None
            return frame({**self._head, "choices": [choice], **({"usage": cost} if options.include_usage else {})})

        try:
            for index, echo in enumerate(self._echoes):
                if echo:
                    yield chunk(index, echo)
            async for index, event in answers.events():
                if isinstance(event, Chunk):
                    logprobs = self._logprobs(index, event.logprobs, sent[index])
                    sent[index] += len(event.text)
                    written += len(event.token_ids)
                    yield chunk(index, pieces[index].add(event).text, logprobs=logprobs)
                elif isinstance(event, Done):
                    results[index] = event.result
                    yield chunk(index, "", **_end(event.result))
            if options.include_usage:
                cost = self._usage([results[index] for index in sorted(results)])
                yield frame({**self._head, "choices": [], "usage": cost})
            yield DONE
        except Exception as error:
            yield frame(of_engine(error, _FIELDS).envelope(path))

    def _usage(self, results: Sequence[Result]) -> dict[str, Any]:
        return usage(results, prompts=self._prompts)

    def _logprobs(self, answer: int, logprobs: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None

        def text(token: int) -> str:
            return token_text(self._prepared[answer], token)[0]

        texts = [text(one.token) for one in logprobs]
        offsets = [offset + sum(map(len, texts[:index])) for index in range(len(texts))]
        top = [{text(token): value for token, value in one.top} for one in logprobs]
        return {
            "tokens": texts,
            "token_logprobs": [one.logprob for one in logprobs],
            "top_logprobs": top,
            "text_offset": offsets,
        }


def _end(result: Result, reason: str | None = None) -> dict[str, Any]:
    return {
        "finish_reason": reason or result.finish_reason,
        "seed": result.seed,
        "unconverged_canvases": list(result.unconverged_canvases),
        **if_late(result),
    }
