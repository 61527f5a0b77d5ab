"""What OpenAI's chat and text completions have in common."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from redraft.engine.result import Result, TokenLogprob
from redraft.serve.asking import Asked, usage_of
from redraft.serve.errors import to_json
from redraft.serve.fields import Body
from redraft.serve.serving import Serving

DONE = "data: [DONE]\n\n"
# Clients compare it to see whether the same seed can give the same answer.
FINGERPRINT = "redraft"


class StreamOptions(Body):
    """What a stream tells besides."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


TopLogprobs = Annotated[int, Field(ge=0, le=20)]


def frame(content: Any) -> str:
    """One server-sent event."""
    return f"data: {to_json(content)}\n\n"


def usage(results: Sequence[Result], thoughts: int = 0, prompts: int = 1) -> dict[str, Any]:
    """OpenAI's usage, and what a diffusion model's answer cost besides."""
    cost = usage_of(results, prompts)
    return {
        "prompt_tokens": cost["prompt_tokens"],
        "completion_tokens": cost["completion_tokens"],
        "total_tokens": cost["prompt_tokens"] + cost["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": cost["cached"]},
        "completion_tokens_details": {"reasoning_tokens": thoughts},
        "canvases": cost["canvases"],
        "denoising_steps": cost["denoising_steps"],
    }


def thought_tokens(asked: Asked, results: Sequence[Result]) -> int:
    """How many tokens of the answers are a thought, its markers included."""
    markers = asked.request.thought
    if markers is None:
        return 0
    count = 0
    for result in results:
        ids = result.token_ids
        if ids[:1] == (markers.opening,):
            count += ids.index(markers.closing) + 1 if markers.closing in ids else len(ids)
    return count


def token_logprob(serving: Serving, asked: Asked, one: TokenLogprob) -> dict[str, Any]:
    """One entry of chat's ``logprobs.content``."""
    return {
        **_entry(serving, asked, one.token, one.logprob),
        "top_logprobs": [_entry(serving, asked, token, logprob) for token, logprob in one.top],
    }


def _entry(serving: Serving, asked: Asked, token: int, logprob: float) -> dict[str, Any]:
    text, spelled = token_text(serving, asked, token)
    return {"token": text, "logprob": logprob, "bytes": list(spelled)}


def token_text(serving: Serving, asked: Asked, token: int) -> tuple[str, bytes]:
    """A token's text, and its bytes, which need not be whole characters; a special token is shown by its name."""
    spelled = b"" if asked.spell is None else asked.spell(token)
    return (spelled.decode(errors="replace") if spelled else serving.tokenizer.piece(token)), spelled


def names_of(fields: Mapping[str, str]) -> dict[str, str]:
    """By parameters of the engine the fields they came from, where these have the same name unless ``fields`` tells."""
    same = ("temperature", "seed", "stop", "max_tokens")
    return {**{name: name for name in same}, **fields}
