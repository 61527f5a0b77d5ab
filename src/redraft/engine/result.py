"""What a generation hands out: an event a denoising step, a chunk a canvas, and the result with its cost."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class StepEvent:
    """One denoising step; tensors are [C], on the CPU, and belong to the receiver."""

    canvas_index: int
    step: int
    """Counted down from the limit to 1."""
    temperature: float
    """Of the processed logits; the schedule's own where the request is greedy."""
    tokens_in: Tensor
    """The canvas that the model saw."""
    argmax: Tensor
    sample: Tensor
    entropy: Tensor
    """Nats, of the processed logits."""
    accepted: Tensor
    """Bool: positions whose sample was kept."""
    tokens_out: Tensor
    """The canvas that the next step sees: samples where accepted, noise elsewhere."""
    finished: bool
    """The canvas converged at this step."""


OnStep = Callable[[StepEvent], None]
"""Called after every denoising step."""


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token of the answer was at its canvas's last step, given the rest of the canvas as it was then.

    Natural logs of the processed logits: soft-capped, divided by the step's temperature.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens at the position with theirs, likeliest first."""


@dataclass(frozen=True)
class Chunk:
    """What one finished canvas adds to the answer, handed out before the canvas is committed."""

    canvas_index: int
    text: str
    """New text that can no longer change; text that may yet become a stop string is held back."""
    token_ids: tuple[int, ...]
    denoising_steps: int
    converged: bool
    """False if the canvas hit the step limit."""
    thought: str = ""
    """New text of the thought before the answer; empty unless thinking was asked for."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of each token; empty unless asked for."""


@dataclass(frozen=True)
class Usage:
    """What an answer cost."""

    prompt_tokens: int
    cached_prompt_tokens: int
    """Of the prompt, how many were not encoded again."""
    completion_tokens: int
    """Without the end token."""
    canvases: int
    denoising_steps: int
    """Of all canvases that were denoised, also those that were not picked."""
    time_to_first_token: float
    """Seconds from the call to the first finished canvas."""
    seconds: float

    @property
    def tokens_per_step(self) -> float:
        """Completion tokens per denoising step."""
        return self.completion_tokens / self.denoising_steps


@dataclass(frozen=True)
class Result:
    """A finished answer."""

    text: str
    token_ids: tuple[int, ...]
    """The answer's tokens, those of a thought included, without the end token; with a stop string, up to the token that
    completed it."""
    finish_reason: FinishReason
    """"stop" at an end token or a stop string, or where a constraint's text is whole and cannot go on; "length" at
    max_tokens or the end of the context."""
    seed: int
    unconverged_canvases: tuple[int, ...]
    """Canvases that hit the step limit before they converged: what they hold may be unfinished."""
    usage: Usage
    thought: str | None = None
    """The thought before the answer, without its markers; None unless thinking was asked for."""
    log_valid: tuple[float, ...] = ()
    """With a constraint, a canvas each: the natural log of the probability that tokens drawn independently at its last
    step would have made valid text. Far below 0, the model would rather say something else."""
    verified: bool | None = None
    """With a verifier: whether it found nothing wrong in any canvas."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of each of ``token_ids``; empty unless asked for."""

    @property
    def converged(self) -> bool:
        """Whether every canvas converged."""
        return not self.unconverged_canvases


def fields_of(result: Result, **changed: Any) -> dict[str, Any]:
    """The fields that every result has, for a result that has more."""
    return {field.name: getattr(result, field.name) for field in fields(Result)} | changed
