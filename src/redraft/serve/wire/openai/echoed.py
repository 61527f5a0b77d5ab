"""``/v1/completions`` with ``echo`` and ``logprobs``: the log-probabilities of the prompt itself, as lm-eval asks for.

They are those of the model's causal mode, in one forward; so is the one token that may be written behind the prompt.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from fastapi import Request as HttpRequest
from starlette.responses import Response

from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.engine.sampling import NOTHING
from redraft.errors import RedraftError
from redraft.serve import prepare
from redraft.serve.answers import Answers
from redraft.serve.errors import Json, bad_request, of_engine
from redraft.serve.state import Serving, client_of, new_seed
from redraft.serve.wire.openai.common import FINGERPRINT, spelled
from redraft.serve.wire.openai.completion_fields import CompletionBody
from redraft.tasks.score import NextToken, ScoreRequest, ScoreResult, score_all


async def echoed(
    here: Serving,
    body: CompletionBody,
    http: HttpRequest,
    prompts: Sequence[str | list[int]],
    fields: Mapping[str, str],
) -> Response:
    """Answer with every prompt, its log-probabilities, and as many tokens behind it as ``max_tokens`` says: 0 or 1."""
    _check(body)
    seed = new_seed() if body.seed is None else body.seed
    temperature = here.runtime.model.defaults.sampling.temperature if body.temperature is None else body.temperature
    following = NextToken(temperature, seed) if body.max_tokens else None

    def check() -> tuple[list[ScoreRequest], Vocabulary]:
        requests = []
        for index, prompt in enumerate(prompts):
            field = f"prompt.{index}" if len(prompts) > 1 else "prompt"
            try:
                tokens = prepare.prompt_tokens(here, prompt, field)
                requests.append(score_all(here.runtime, tokens, top_logprobs=body.logprobs, next_token=following))
            except RedraftError as error:
                raise of_engine(error, {**fields, "prompt": field}) from error
        return requests, here.runtime.constraints.vocabulary

    requests, vocabulary = await here.check(check, fields)
    answers = Answers(here, requests, client_of(http, body.user or body.safety_identifier))
    try:
        results = await answers.results(http.receive)
    except Exception as error:
        raise of_engine(error, fields) from error
    writer = _Writer(here, vocabulary, body.logprobs or 0, seed)
    choices = [
        writer.choice(index, prompt, request, result)
        for index, (prompt, request, result) in enumerate(zip(prompts, requests, results, strict=True))
    ]
    return Json(
        {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": here.settings.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
            "usage": _usage(requests, results),
        }
    )


def _check(body: CompletionBody) -> None:
    """Refuse what such an answer has no room for."""
    for wrong, param, message in (
        (body.max_tokens not in (0, 1), "max_tokens",
         "max_tokens must be 0 or 1 together with echo and logprobs, which score the prompt"),
        (body.n not in (None, 1), "n", "n must be 1 together with echo and logprobs"),
        (body.stream, "stream", "stream cannot be given together with echo and logprobs; they come at once"),
        (body.stop, "stop", "stop cannot be given together with echo and logprobs"),
    ):  # fmt: skip
        if wrong:
            raise bad_request(message, param)
    for name, value in body.sampling.items():
        if value is not None and value not in (getattr(NOTHING, name, "autoregressive"), {}, []):
            raise bad_request(f"{name} cannot be given together with echo and logprobs; they are the model's own", name)


class _Writer:
    """Writes scored prompts in OpenAI's words."""

    def __init__(self, here: Serving, vocabulary: Vocabulary, top: int, seed: int) -> None:
        self._here, self._vocabulary, self._top, self._seed = here, vocabulary, top, seed

    def choice(self, index: int, prompt: str | list[int], request: ScoreRequest, result: ScoreResult) -> dict[str, Any]:
        """Return one prompt, and what was written behind it."""
        tokenizer = self._here.tokenizer
        following = result.following
        text = prompt if isinstance(prompt, str) else tokenizer.decode_all(prompt)
        scored = [*result.logprobs, *([] if following is None else [following])]
        tokens = [*request.prompt, *(one.token for one in scored)]
        texts = [self._text(token) for token in tokens]
        # A text does not spell the token that it begins with, nor the one that ends it.
        lengths = [
            len(own) if not isinstance(prompt, str) or self._vocabulary.has_text[token] else 0
            for own, token in zip(texts, tokens, strict=True)
        ]
        ends = self._here.runtime.model.defaults.end_token_ids
        stopped = following is not None and following.token in ends
        return {
            "index": index,
            "text": text + ("" if following is None or stopped else tokenizer.decode([following.token])),
            "logprobs": {
                "tokens": texts,
                # Nothing says how likely the first token is.
                "token_logprobs": [None, *(one.logprob for one in scored)],
                "top_logprobs": [None, *(self._likeliest(one.token, one.logprob, one.top) for one in scored)],
                "text_offset": [sum(lengths[:at]) for at in range(len(lengths))],
            },
            "finish_reason": "stop" if stopped else "length",
            "seed": self._seed,
            "unconverged_canvases": [],
        }

    def _likeliest(self, token: int, logprob: float, top: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Return the likeliest tokens, and the token itself where it is none of them."""
        if not self._top:
            return {}
        shown = {self._text(one): value for one, value in reversed(top[: self._top])}
        return {self._text(token): logprob, **shown}

    def _text(self, token: int) -> str:
        return spelled(self._here.tokenizer, self._vocabulary, token)[0]


def _usage(requests: Sequence[ScoreRequest], results: Sequence[ScoreResult]) -> dict[str, Any]:
    prompt = sum(len(one.prompt) + len(one.text) for one in requests)
    completion = sum(one.following is not None for one in results)
    cached = sum(one.usage.cached_prompt_tokens for one in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": 0},
        "canvases": 0,
        "denoising_steps": 0,
    }
