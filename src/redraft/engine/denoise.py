"""One canvas while it is denoised: what a step needs from the step before, and what is made of its hidden states.

noise --> canvas --> denoise --> readout --> accept --> next canvas
            ^          ^           |           |            |
            |          +-- signal -+           +-- renoise  |
            +-----------------------------------------------+
          until the argmax canvas is stable and sure, or the steps are used up

A constraint stands between readout and accept. The forward itself is the caller's, who may have others to run.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.random import INITIAL, PositionRandom
from redraft.canvas.readout import Readout
from redraft.canvas.token_classes import TokenClasses
from redraft.engine.constrained import CanvasConstraint, Locked, hold
from redraft.engine.request import Request
from redraft.engine.result import OnStep, StepEvent
from redraft.errors import GenerationError
from redraft.models.base import BlockDiffusionModel

# Attempts at one canvas draw from streams of their own, above the numbers that canvases have.
ATTEMPT = 1 << 32


@dataclass(frozen=True, eq=False)
class FinishedCanvas:
    """The argmax canvas of the last step, and how it came about."""

    tokens: Tensor
    """[C] int64."""
    confidence: Tensor
    """[C] float32: the probability of the likeliest token at the last step."""
    denoising_steps: int
    converged: bool
    log_valid: float | None = None
    """At the last step, if there is a constraint: log probability that independent draws would have been valid."""
    end_state: int | None = None
    """Where the constraint stands after it."""
    top_ids: Tensor | None = None
    """[C, k] int64: the likeliest tokens at the last step, by the model alone; None unless asked for."""
    top_logprobs: Tensor | None = None
    """[C, k] float32: their natural log probabilities, of the processed logits."""


class DenoisingCanvas:
    """Canvas ``index`` of a request, at its ``attempt``-th try, from its starting tokens to its last step."""

    def __init__(
        self,
        model: BlockDiffusionModel,
        request: Request,
        index: int,
        length: int,
        *,
        attempt: int = 0,
        constraint: CanvasConstraint | None = None,
        locked: Locked | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        """``length`` positions that follow the cache; ``locked`` ones keep their token."""
        self._model, self._request, self._index, self._length = model, request, index, length
        self._constraint, self._locked, self._on_step = constraint, locked, on_step
        self._stream = index + attempt * ATTEMPT
        self._step = request.max_denoising_steps
        self._open = torch.ones(length, dtype=torch.bool) if locked is None else ~locked.mask
        self._earlier: list[Tensor] = []
        self.tokens = self._starting_tokens().to(model.device)
        """[C] int64: what the model is to see next."""
        self.signal: Tensor | None = None
        """[C, H]: the soft embedding of the step before, None at the first."""

    def _draws(self, step: int) -> PositionRandom:
        return PositionRandom(self._request.seed, self._stream, step, self._length)

    def _starting_tokens(self) -> Tensor:
        draws = self._draws(INITIAL)
        tokens = self._model.noise.tokens(draws.noise)
        draft = self._request.draft
        if draft is not None:
            tokens = draft.laid_over(tokens, self._index * self._request.canvas_length, draws.sample)
        return tokens if self._locked is None else torch.where(self._locked.mask, self._locked.tokens, tokens)

    @torch.inference_mode()
    def advance(self, hidden: Tensor) -> FinishedCanvas | None:
        """Take in the hidden states [C, H] of ``tokens``, and be ready for the next step; the canvas if it is the last.

        Raises GenerationError where the model yields NaN or infinities.
        """
        request, step, steps = self._request, self._step, self._request.max_denoising_steps
        draws, device = self._draws(step), self._model.device
        scale = request.temperature if request.temperature > 0 else 1.0
        temperature = scale * request.schedule.temperature(step, steps)
        readout, log_valid, end_state = self._read(hidden, temperature, draws)
        accepted = request.acceptance.accepted(readout.entropy, readout.confidence)
        noise = self._model.noise.tokens(draws.noise).to(device)
        following = torch.where(accepted, readout.sample, noise)
        if self._locked is not None:
            following = torch.where(self._locked.mask.to(device), readout.sample, following)
        # Locked positions are certain, which says nothing of the others.
        settling = readout.argmax[self._open]
        finished = request.stopping.finished(
            settling, readout.entropy[self._open], self.tokens[self._open], self._earlier
        )
        if self._on_step is not None:
            self._tell(self._on_step, temperature, readout, accepted, following, finished)
        if finished or step == 1:
            return FinishedCanvas(
                readout.argmax.cpu(),
                readout.confidence.cpu(),
                steps - step + 1,
                finished,
                log_valid,
                end_state,
                None if readout.top_ids is None else readout.top_ids.cpu(),
                None if readout.top_logprobs is None else readout.top_logprobs.cpu(),
            )
        memory = request.stopping.memory
        self._earlier = [*self._earlier, settling][-memory:] if memory else []
        self.tokens, self.signal, self._step = following, readout.signal, step - 1
        return None

    @torch.inference_mode()
    def read(self, hidden: Tensor, temperature: float, classes: TokenClasses, told: bool) -> Readout:
        """What the hidden states [C, H] of ``tokens`` say, class sums and all, of logits at ``temperature``. Nothing is
        accepted, and the canvas does not go on. ``told``: they were those of the last ``advance``, whose event was all
        that there is to tell of the step.

        Raises GenerationError where the model yields NaN or infinities.
        """
        readout = self._model.readout(hidden, temperature, None, signal=False, classes=classes)
        self._check_numbers(readout.entropy)
        if self._on_step is not None and not told:
            nothing = torch.zeros(self._length, dtype=torch.bool)
            following = self._model.noise.tokens(self._draws(self._step).noise)
            self._tell(self._on_step, temperature, readout, nothing, following, finished=False)
        return readout

    def _tell(
        self,
        on_step: OnStep,
        temperature: float,
        readout: Readout,
        accepted: Tensor,
        following: Tensor,
        finished: bool,
    ) -> None:
        on_step(
            StepEvent(
                canvas_index=self._index,
                step=self._step,
                temperature=temperature,
                tokens_in=self.tokens.cpu(),
                argmax=readout.argmax.cpu(),
                sample=readout.sample.cpu(),
                entropy=readout.entropy.cpu(),
                accepted=accepted.cpu(),
                tokens_out=following.cpu(),
                finished=finished,
            )
        )

    def _read(
        self, hidden: Tensor, temperature: float, draws: PositionRandom
    ) -> tuple[Readout, float | None, int | None]:
        """What the step reads off, under the constraint and with locked positions; its log P(valid) and end state."""
        greedy, constraint = self._request.temperature == 0, self._constraint
        readout = self._model.readout(
            hidden,
            temperature,
            None if greedy else draws.sample,
            signal=self._step > 1,
            # The likeliest token's is that of the token which is committed; it is always among them.
            top_k=0 if self._request.top_logprobs is None else max(1, self._request.top_logprobs),
            classes=None if constraint is None else constraint.compiled.classes,
        )
        self._check_numbers(readout.entropy)
        log_valid = end_state = None
        if constraint is not None:
            constrained = constraint.apply(readout, draws, greedy, self._locked)
            readout, log_valid, end_state = constrained.readout, constrained.log_valid, constrained.end_state
        return readout if self._locked is None else hold(readout, self._locked), log_valid, end_state

    def _check_numbers(self, entropy: Tensor) -> None:
        broken = (~torch.isfinite(entropy)).nonzero()
        if len(broken):
            raise GenerationError(
                f"the model's output is not a number at {len(broken)} of {self._length} positions of canvas "
                f"{self._index}, step {self._step} (first at position {broken[0].item()}); the checkpoint's weights "
                "are damaged, or too large for this dtype. Try dtype='float32', or load the checkpoint afresh"
            )
