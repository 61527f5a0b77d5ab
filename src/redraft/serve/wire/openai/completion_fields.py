"""The body of ``/v1/completions``."""

from typing import Annotated, Any, Literal

from pydantic import Field

from redraft.serve.wire.fields import HINT, Seed, Stop, Temperature, Whole, only
from redraft.serve.wire.openai.common import StreamOptions
from redraft.serve.wire.sampling import Sampled


class CompletionBody(Sampled):
    """The body of a completion."""

    model: str
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1)]
    )
    suffix: str | None = None
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Temperature | None = None
    seed: Seed = None
    stop: Stop | None = None
    n: Whole | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Annotated[dict[str, Any] | None, HINT] = None
    best_of: Annotated[Literal[1] | None, only(1, instead="use n, and choose among the answers")] = None
