"""One canvas from noise to its last step: a task that asks for a forward a step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.draft import Draft
from redraft.canvas.host import on_cpu
from redraft.canvas.penalties import Standing
from redraft.canvas.random import INITIAL, PositionRandom
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.canvas.shaping import Shaping
from redraft.canvas.step import CanvasState, Pinned, StepOutcome, StepRules, start, step
from redraft.canvas.token_classes import TokenClasses
from redraft.engine.causal import CausalRows
from redraft.engine.constrained import ConstrainedStep, OnCanvas
from redraft.engine.deadline import passed
from redraft.engine.memory import PooledCache
from redraft.engine.request import Request
from redraft.engine.result import OnStep, StepEvent
from redraft.engine.runtime import Runtime
from redraft.engine.sampling import NOTHING
from redraft.engine.task import Forward, Reading, Task, on_host, read
from redraft.errors import ConstraintError, GenerationError
from redraft.models.base import Span

# Attempts at one canvas draw from streams of their own, above the numbers that canvases have.
ATTEMPT = 1 << 32
_DRAWN_AHEAD = 4  # steps


@dataclass(frozen=True, eq=False)
class CanvasPlan:
    """A canvas that is to be denoised, and what holds on it."""

    index: int
    """Its number in the answer, from 0."""
    length: int
    before: Sequence[int]
    """The context, or the end of it: the tokens that stand before the canvas."""
    attempt: int = 0
    """The number of the try at it, from 0."""
    constraint: OnCanvas | None = None
    pinned: Pinned | None = None
    forbidden: Sequence[int] = ()
    """Tokens that stand nowhere on it but where they are pinned."""
    read_classes: TokenClasses | None = None
    """Token classes to read the canvas by at its last step, in the place of a step."""
    read_temperature: float = 1.0
    answer: Sequence[int] = ()
    """The tokens of the answer so far."""
    start: Draft | None = None
    """The tokens that it starts from in the place of noise, from its first position on; None for the request's."""


@dataclass(frozen=True, eq=False)
class FinishedCanvas:
    """A canvas after its last step, and how it came about; all tensors are on the CPU."""

    tokens: Tensor
    """[C] int64: what is committed."""
    confidence: Tensor
    """[C] float32: how sure the model was of each position."""
    denoising_steps: int
    converged: bool
    log_valid: float | None = None
    """The log probability, at the last step, that independent draws would have been valid, if there is a constraint."""
    end_state: int | None = None
    """The constraint's state after it."""
    top_ids: Tensor | None = None
    """[C, k] int64: the likeliest tokens at the last step, by the model alone; None unless asked for."""
    top_logprobs: Tensor | None = None
    """[C, k] float32: their natural log probabilities, of the processed logits."""
    cut: bool = False
    """True where the deadline ended it."""


@dataclass(frozen=True, eq=False)
class LastRead:
    """The readout of a canvas that is only to be read."""

    readout: Readout
    denoising_steps: int
    cut: bool = False
    """True where the deadline came before the last step."""


class Denoising:
    """The steps of one canvas: its state, its draws, and the forward that it asks for next."""

    def __init__(self, runtime: Runtime, request: Request, plan: CanvasPlan, cache: PooledCache) -> None:
        self._runtime, self._model = runtime, runtime.model
        self._piece = runtime.tokenizer.piece
        self._request, self._plan, self._cache = request, plan, cache
        self._rules = StepRules(
            request.acceptance, request.stopping, self._runtime.corruption, request.max_denoising_steps
        )
        self.state = start(
            self._draws(INITIAL),
            self._rules,
            draft=request.draft if plan.start is None else plan.start,
            offset=plan.index * request.canvas_length if plan.start is None else 0,
            pinned=plan.pinned,
            device=self._model.device,
        )
        self._drawn: dict[int, PositionRandom] = {}
        self._accepted: Tensor | None = None
        """[C] bool: the positions that the step before accepted; None at the first."""

    def finish(
        self, commit: Tensor | None, on_step: OnStep | None, causal: CausalRows | None = None
    ) -> Task[FinishedCanvas]:
        """Denoise to the last step, or to the first at which the deadline has passed. ``commit`` [T]: what is still to
        be encoded before the canvas; ``causal``: what keeps that, and reads it, in its place.

        A canvas that the deadline cuts is the likeliest one at its last step; under a constraint the likeliest whose
        text is whole. Raises DeadlineError where there is none.
        """
        while True:
            number, temperature = self.state.step, self._temperature()
            reading = yield from self._read(commit, causal, temperature)
            commit = causal = None
            outcome, finished, conditioned = yield from self._step(reading)
            if on_step is not None:
                on_step(self._event(temperature, self.state, outcome, finished))
            last = finished or number == self._rules.steps
            if passed(self._request.deadline) and not (last and self._ends(conditioned)):
                return self._cut(number, reading, outcome)
            self.state = outcome.state
            if last:
                return self._finished(number, finished, outcome, conditioned)

    def _read(self, commit: Tensor | None, causal: CausalRows | None, temperature: float) -> Task[Reading]:
        """Do the forward of a step, and of what is committed before it."""
        before = None if causal is None else causal.commit
        if causal is None or before is None:
            return (yield from read(Forward(self._spans(commit), self._spec(temperature))))
        forward = Forward((before, *self._spans(None)), self._spec(temperature), encoded=causal.asked)
        reading = yield from read(forward)
        assert reading.encoded is not None, "what was encoded was wanted"
        causal.take(reading.encoded)
        return reading

    def _ends(self, conditioned: ConstrainedStep | None) -> bool:
        """Tell whether an answer may end with the canvas as a step has left it."""
        constraint = self._plan.constraint
        if constraint is None or conditioned is None:
            return True
        return constraint.accepts(conditioned.end_state(self._sampled))

    @property
    def _sampled(self) -> bool:
        """True where the samples are what is committed."""
        return self._rules.corruption.monotone and self._request.temperature > 0

    def _cut(self, number: int, reading: Reading, outcome: StepOutcome) -> FinishedCanvas:
        """End at this step: fill what is open with what is likeliest there; under a constraint, with what makes the
        text whole."""
        if self._plan.constraint is None:
            readout, state = outcome.readout, outcome.state
            tokens = torch.where(state.open, readout.argmax, outcome.committed)
            tokens, confidence, *top = on_cpu(tokens, state.confidence, *_top(readout))
            return FinishedCanvas(tokens, confidence, number, False, None, None, *_pair(top), cut=True)
        whole, stays = self._closed(self._plan.constraint, reading)
        tokens = whole.readout.argmax
        if stays is not None:
            tokens = torch.where(stays.mask.to(tokens.device), stays.tokens.to(tokens.device), tokens)
        tokens, confidence = on_cpu(tokens, whole.readout.confidence)
        return FinishedCanvas(tokens, confidence, number, False, whole.log_valid, whole.end_state(False), cut=True)

    def _closed(self, constraint: OnCanvas, reading: Reading) -> tuple[ConstrainedStep, Pinned | None]:
        """Condition a step on a text that is whole on this canvas -> that, and the tokens that stay. Where what was
        settled before allows none, only what was pinned stays."""
        plan, draws, settled = self._plan, self._step_draws, self._settled()
        for stays in (plan.pinned,) if settled is None else (settled, plan.pinned):
            try:
                return constraint.closing().apply(reading.readout, draws, True, plan.pinned, stays), stays
            except ConstraintError:
                continue
        deadline = self._request.deadline
        assert deadline is not None, "a deadline has passed"
        fewest = constraint.fewest
        raise deadline.unfinished(fewest, plan.index, -(-fewest // plan.length), "canvas", "canvases")

    def read_last(self, commit: Tensor | None, on_step: OnStep | None) -> Task[LastRead]:
        """Denoise, and read the last step by the plan's classes in the place of taking it; once the deadline has
        passed, the step that there is then."""
        plan = self._plan
        wanted = ReadoutSpec(plan.read_temperature, classes=plan.read_classes)
        while self.state.step < self._rules.steps:
            number, temperature = self.state.step, self._temperature()
            reading = yield from read(Forward(self._spans(commit), self._spec(temperature)))
            commit = None
            outcome, finished, _ = yield from self._step(reading)
            if on_step is not None:
                on_step(self._event(temperature, self.state, outcome, finished))
            late = not finished and passed(self._request.deadline)
            if finished or late:
                last = yield from read(Forward(readout=wanted, hidden=reading.hidden))
                yield from self._check_numbers(last)
                return LastRead(last.readout, number, late)
            self.state = outcome.state
        last = yield from read(Forward(self._spans(commit), wanted))
        yield from self._check_numbers(last)
        if on_step is not None:
            on_step(self._only_read(last))
        return LastRead(last.readout, self.state.step)

    def _draws(self, key: int) -> PositionRandom:
        plan = self._plan
        return PositionRandom(self._request.seed, plan.index + plan.attempt * ATTEMPT, key, plan.length)

    @property
    def _step_draws(self) -> PositionRandom:
        """The draws of the step that is next, whose key counts down: so it did when the first recordings were made."""
        number, steps = self.state.step, self._rules.steps
        if number not in self._drawn:
            # A few steps at a time: the second one costs a quarter of the first, whose code the forwards have pushed
            # out of the caches.
            ahead = range(number, min(number + _DRAWN_AHEAD, steps + 1))
            self._drawn = {one: self._draws(steps - one + 1) for one in ahead}
        return self._drawn[number]

    def _temperature(self) -> float:
        request = self._request
        scale = request.temperature if request.temperature > 0 else 1.0
        return scale * request.schedule.temperature(self.state.step, self._rules.steps)

    def _spans(self, commit: Tensor | None) -> tuple[Span, ...]:
        state = self.state
        canvas = self._runtime.canvas(state.tokens, self._cache, self._plan.before, state.self_conditioning)
        return (canvas,) if commit is None else (Span(commit, self._cache, "encode"), canvas)

    def _spec(self, temperature: float) -> ReadoutSpec:
        request, constraint = self._request, self._plan.constraint
        masks = None if constraint is not None else self._runtime.mask_classes
        # The likeliest token's is that of the token which is committed; it is always among them.
        top_logprobs = 0 if request.top_logprobs is None else max(1, request.top_logprobs)
        return ReadoutSpec(
            temperature,
            None if request.temperature == 0 else self._step_draws.sample,
            self_conditioning=self._model.self_conditions and self.state.step < self._rules.steps,
            top_logprobs=self._runtime.top_of_text(top_logprobs),
            classes=masks if constraint is None else constraint.classes,
            shaping=self._shaping(),
        )

    def _shaping(self) -> Shaping | None:
        """Return what the request does to the logits of the step that is next; None for nothing."""
        request, plan = self._request, self._plan
        if request.sampling == NOTHING and not plan.forbidden:
            return None
        accepted = () if self._accepted is None else (self._accepted,)
        tokens, open, *others = on_cpu(self.state.tokens, self.state.open, *accepted)
        stays = ~open
        stands = stays | others[0] if others else stays
        if (mask := self._runtime.mask) is not None:
            stands = stands & (tokens != mask)
        standing = Standing(tokens, stands, stays)
        return request.sampling.shaping(request.end_token_ids, mask, plan.answer, standing, plan.forbidden)

    def _step(self, reading: Reading) -> Task[tuple[StepOutcome, bool, ConstrainedStep | None]]:
        """Take a step under the constraint, if there is one -> its outcome, and whether the canvas is finished."""
        constraint, readout, conditioned = self._plan.constraint, reading.readout, None
        draws = self._step_draws
        if constraint is not None:
            # Inference would not say what is wrong with numbers that are none.
            yield from self._check_numbers(reading)
            greedy = self._request.temperature == 0
            conditioned = constraint.apply(readout, draws, greedy, self._plan.pinned, self._settled())
            readout = conditioned.readout
        else:
            readout = self._runtime.of_text(readout, None if self._request.temperature == 0 else draws.sample)
        with torch.inference_mode():
            outcome = step(self.state, readout, draws, self._rules)
        self._accepted = outcome.accepted
        finished, broken = yield from on_host(outcome.flags)
        if broken:
            self._refuse_numbers(reading.readout.entropy)
        return outcome, bool(finished), conditioned

    def _settled(self) -> Pinned | None:
        """Return what stays where it stands for good; None where all but pins may be renoised."""
        if not self._rules.corruption.monotone:
            return None
        open, tokens = on_cpu(self.state.open, self.state.tokens)
        return Pinned(~open, tokens)

    def _check_numbers(self, reading: Reading) -> Task[None]:
        entropy = reading.readout.entropy
        (broken,) = yield from on_host((~torch.isfinite(entropy)).any()[None])
        if broken:
            self._refuse_numbers(entropy)

    def _refuse_numbers(self, entropy: Tensor) -> None:
        broken = (~torch.isfinite(entropy.cpu())).nonzero()
        raise GenerationError(
            f"the model's output is not a number at {len(broken)} of {self._plan.length} positions of canvas "
            f"{self._plan.index}, step {self.state.step} (first at position {broken[0].item()}); the checkpoint's "
            "weights are damaged, or too large for this dtype. Try dtype='float32', or load the checkpoint afresh"
        )

    def _event(self, temperature: float, seen: CanvasState, outcome: StepOutcome, finished: bool) -> StepEvent:
        readout = outcome.readout
        tokens_in, argmax, sample, entropy, accepted, tokens_out = on_cpu(
            seen.tokens, readout.argmax, readout.sample, readout.entropy, outcome.accepted, outcome.state.tokens
        )
        return StepEvent(
            canvas_index=self._plan.index,
            step=seen.step,
            steps=self._rules.steps,
            temperature=temperature,
            tokens_in=tokens_in,
            argmax=argmax,
            sample=sample,
            entropy=entropy,
            accepted=accepted,
            tokens_out=tokens_out,
            finished=finished,
            piece=self._piece,
        )

    def _only_read(self, reading: Reading) -> StepEvent:
        """A step at which nothing was accepted."""
        readout, state = reading.readout, self.state
        noise = self._runtime.corruption.noise.tokens(self._step_draws.noise)
        nothing = torch.zeros(self._plan.length, dtype=torch.bool)
        tokens, argmax, sample, entropy = on_cpu(state.tokens, readout.argmax, readout.sample, readout.entropy)
        return StepEvent(
            canvas_index=self._plan.index,
            step=state.step,
            steps=self._rules.steps,
            temperature=self._plan.read_temperature,
            tokens_in=tokens,
            argmax=argmax,
            sample=sample,
            entropy=entropy,
            accepted=nothing,
            tokens_out=self._runtime.corruption.following(tokens, nothing, sample, noise),
            finished=False,
            piece=self._piece,
        )

    def _finished(
        self, number: int, converged: bool, outcome: StepOutcome, conditioned: ConstrainedStep | None
    ) -> FinishedCanvas:
        tokens, confidence, *top = on_cpu(outcome.committed, outcome.state.confidence, *_top(outcome.readout))
        return FinishedCanvas(
            tokens,
            confidence,
            number,
            converged,
            None if conditioned is None else conditioned.log_valid,
            None if conditioned is None else conditioned.end_state(self._sampled),
            *_pair(top),
        )


def _pair(top: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Return what ``_top`` gave as the two fields that it is for."""
    return (top[0], top[1]) if top else (None, None)


def _top(readout: Readout) -> tuple[Tensor, ...]:
    """Return the likeliest tokens and their log probabilities, if they were asked for."""
    if readout.top_ids is None or readout.top_logprobs is None:
        return ()
    return readout.top_ids, readout.top_logprobs
