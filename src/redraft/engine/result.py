"""Results of a generation: an event a denoising step, a chunk a canvas, and the result with its cost."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from html import escape
from typing import Any, Literal

from torch import Tensor

from redraft.errors import counted
from redraft.models.tools import ToolCall

FinishReason = Literal["stop", "length"]
_SHOWN = 60


@dataclass(frozen=True, repr=False)
class StepEvent:
    """One denoising step; tensors are [C], on the CPU, and belong to the receiver."""

    canvas_index: int
    step: int
    """Counted from 1."""
    steps: int
    """The limit."""
    temperature: float
    """The temperature of the processed logits; the schedule's own where the request is greedy."""
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

    piece: Callable[[int], str] = field(default=str, compare=False)
    """Gives the text of a token for drawing; its number where no tokenizer is at hand."""

    def __repr__(self) -> str:
        return (
            f"<redraft.StepEvent canvas {self.canvas_index}, step {self.step} of {self.steps}: "
            f"{int(self.accepted.sum())} of {len(self.accepted)} accepted, "
            f"mean entropy {float(self.entropy.mean()):.3g} nats{', finished' if self.finished else ''}>"
        )

    def _repr_html_(self) -> str:
        """Draw the canvas in a notebook: the likeliest tokens, those accepted set off, the unsure ones fainter."""
        cells = zip(self.argmax.tolist(), self.accepted.tolist(), self.entropy.tolist(), strict=True)
        drawn = "".join(
            f'<span style="opacity:{max(0.25, 1 - entropy / 3):.2f};{_ACCEPTED if accepted else ""}" '
            f'title="{entropy:.3f} nats">{escape(self.piece(token))}</span>'
            for token, accepted, entropy in cells
        )
        return f"<p>{escape(repr(self)[1:-1])}</p><pre>{drawn}</pre>"

    @property
    def remaining(self) -> int:
        """Steps that the limit leaves after this one; 0 at the limit."""
        return self.steps - self.step

    @property
    def last(self) -> bool:
        """True if the canvas ends with this step."""
        return self.finished or self.step == self.steps


_ACCEPTED = "background:#cfe8cf;color:#123"

OnStep = Callable[[StepEvent], None]
"""Called after every denoising step."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log probability at its canvas's last step, given the rest of the canvas as it was then; of a token that
    was written by itself, given the tokens before it.

    Natural logs of the processed logits: soft-capped, divided by the temperature.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens at the position with theirs, likeliest first."""


@dataclass(frozen=True)
class Chunk:
    """One finished canvas's part of the answer, handed out before the canvas is committed; or one token, where they are
    written one after the other."""

    canvas_index: int
    """The canvas's number, from 0; the token's, where there is none."""
    text: str
    """New text that can no longer change; text that may yet become a stop string is held back."""
    token_ids: tuple[int, ...]
    denoising_steps: int
    converged: bool
    """False if the canvas hit the step limit."""
    thought: str = ""
    """New text of a thought; empty where the model does not think."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The log probabilities of each token; empty unless asked for."""


@dataclass(frozen=True)
class Usage:
    """The cost of an answer."""

    prompt_tokens: int
    cached_prompt_tokens: int
    """The number of the prompt's tokens that were not encoded again."""
    completion_tokens: int
    """Without the end token."""
    canvases: int
    """Canvases of the answer; in mode "speculative" those that were drafts."""
    denoising_steps: int
    """The steps of all canvases that were denoised, also of those that were not picked."""
    time_to_first_token: float
    """Seconds from the call to the first finished canvas, or to the first token."""
    seconds: float
    """Seconds from the call to the end; of both, those that ``on_step`` took are left out."""
    forwards: int = 0
    """The model's forwards that wrote the answer: those that encoded nothing but its prompt are not among them."""
    accepted_drafts: int = 0
    """Tokens that were drafted and then accepted, in mode "speculative"."""

    def after(self, other: "Usage") -> "Usage":
        """The cost of both, where ``other`` was tried first and this gave the answer."""
        return replace(
            self,
            canvases=self.canvases + other.canvases,
            denoising_steps=self.denoising_steps + other.denoising_steps,
            forwards=self.forwards + other.forwards,
            time_to_first_token=self.time_to_first_token + other.seconds,
            seconds=self.seconds + other.seconds,
        )

    @property
    def tokens_per_step(self) -> float:
        """Completion tokens per denoising step; 0 where there were none."""
        return self.completion_tokens / self.denoising_steps if self.denoising_steps else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Completion tokens per forward; 0 where there were none."""
        return self.completion_tokens / self.forwards if self.forwards else 0.0


@dataclass(frozen=True, repr=False)
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
    """The model's thought, without its markers; None where none was asked for, and none came unasked."""
    log_valid: tuple[float, ...] = ()
    """With a constraint, a canvas each: the natural log of the probability that tokens drawn independently at its last
    step would have made valid text. Far below 0, the model would rather say something else. Of tokens that were written
    one after the other, one number: the same of all of them, each given those before it."""
    verified: bool | None = None
    """With a verifier: whether it found nothing wrong in any canvas."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """The log probabilities of each of ``token_ids``; empty unless asked for."""
    causal_logprobs: tuple[float, ...] = ()
    """The natural log probability of each of ``token_ids`` by the causal rows of the same weights, given the
    tokens before it, by the model alone; empty unless asked for."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls that the answer makes, where tools were given; ``text`` is what is said beside them."""

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= _SHOWN else f"{self.text[:_SHOWN]}..."
        flagged = "" if self.converged else f", canvases {list(self.unconverged_canvases)} unfinished"
        usage = self.usage
        steps = usage.denoising_steps
        cost = counted(usage.forwards, "forward") if usage.accepted_drafts or not steps else counted(steps, "step")
        return (
            f"<redraft.{type(self).__name__} {shown!r}: {self.finish_reason}, {counted(len(self.token_ids), 'token')} "
            f"in {cost}, seed {self.seed}{flagged}>"
        )

    def _repr_html_(self) -> str:
        """Draw the answer in a notebook, with what it cost."""
        thought = (
            ""
            if not self.thought
            else f"<details><summary>thought</summary><pre>{escape(self.thought)}</pre></details>"
        )
        usage = self.usage
        return (
            f"{thought}<pre>{escape(self.text)}</pre><p>{self.finish_reason}, "
            f"{counted(usage.completion_tokens, 'token')}, {counted(usage.canvases, 'canvas', 'canvases')}, "
            f"{counted(usage.denoising_steps, 'denoising step')}, {usage.seconds:.2f} s, seed "
            f"{self.seed}{'' if self.converged else ', not converged'}</p>"
        )

    @property
    def converged(self) -> bool:
        """True if every canvas converged."""
        return not self.unconverged_canvases


def fields_of(result: Result, **changed: Any) -> dict[str, Any]:
    """The fields that every result has, for a result that has more."""
    return {field.name: getattr(result, field.name) for field in fields(Result)} | changed
