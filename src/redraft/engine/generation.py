"""The task of one answer: canvas after canvas, candidates, commits, and the text that comes of them."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from redraft.canvas.step import Pinned
from redraft.engine.autoregressive import Autoregressive
from redraft.engine.causal import CausalRows
from redraft.engine.constrained import CanvasConstraint
from redraft.engine.context import follow, open_context, prefill
from redraft.engine.deadline import passed
from redraft.engine.denoise import CanvasPlan, Denoising, FinishedCanvas
from redraft.engine.draft_model import DraftedByModel
from redraft.engine.memory import PooledCache
from redraft.engine.request import Request, answer_text, check_listeners, thought_budget
from redraft.engine.result import Chunk, FinishReason, OnStep, Result, TokenLogprob, Usage
from redraft.engine.runtime import Runtime
from redraft.engine.speculative import Speculative
from redraft.engine.task import StepRecorder, Task, TimedListener, Waiting, recorded
from redraft.engine.verify import Candidate, wrong_positions


class Recorders(Protocol):
    """Makes recorders, one for each request."""

    def recorder(self, request: Request, runtime: Runtime, reading: Any = None) -> StepRecorder:
        """Begin to keep what happens in a request; ``reading``: what is read off its canvas, if it is a decision."""
        ...


def to_record(request: Request) -> Request:
    """Return a request whose answer can be recorded: what was seen of its deadline is kept, for no clock is
    replayed."""
    deadline = request.deadline
    if deadline is None or deadline.looks is not None:
        return request
    return replace(request, deadline=deadline.recorded())


@dataclass(frozen=True, eq=False)
class Answer:
    """A finished answer, and the canvases that it came of."""

    result: Result
    canvases: Sequence[FinishedCanvas]
    """Whole, also where the answer ends before them."""


@dataclass(frozen=True, eq=False)
class Generate:
    """An answer that is asked for (a ``task.Runnable``)."""

    runtime: Runtime
    request: Request
    record: Recorders | None = None

    def task(self, on_step: OnStep | None = None, recorder: StepRecorder | None = None) -> Task[Result]:
        """Begin to answer. Every finished canvas is a chunk. ``recorder``: in the place of one from ``record``."""
        return (yield from self.answer(on_step, recorder)).result

    def answer(self, on_step: OnStep | None = None, recorder: StepRecorder | None = None) -> Task[Answer]:
        """Begin to answer, and keep the canvases."""
        check_listeners(on_step, self.record, self.request.mode, self.runtime.modes)
        request = self.request
        if recorder is None and self.record is not None:
            request = to_record(request)
            recorder = self.record.recorder(request, self.runtime)
        return recorded(partial(_begin, self.runtime, request), recorder, on_step, lambda answer: answer.result)


def _begin(runtime: Runtime, request: Request, on_step: OnStep | None) -> Task[Answer]:
    if request.mode == "autoregressive":
        return without_canvases(Autoregressive(runtime, request).run())
    if request.mode == "speculative":
        kind = Speculative if runtime.drafter is None else DraftedByModel
        return without_canvases(kind(runtime, request).run())
    return _Writing(runtime, request, on_step).run()


def without_canvases(task: Task[Result]) -> Task[Answer]:
    """Run what writes an answer that did not come of canvases."""
    return Answer((yield from task), ())


@dataclass(frozen=True)
class _Attempt:
    """A denoised canvas, what of it belongs to the answer, and how good it is."""

    canvas: FinishedCanvas
    tokens: list[int]
    finish: FinishReason | None
    wrong: frozenset[int]
    causal: tuple[float, ...]
    """[C]: what the causal rows say of its tokens; empty unless that is asked before it is known whether it stays."""
    score: float
    """Mean log probability of the canvas's likeliest tokens at its last step."""

    @property
    def rank(self) -> tuple[int, float]:
        """Smaller is better."""
        return len(self.wrong), -self.score


class _Writing:
    """An answer under way."""

    def __init__(self, runtime: Runtime, request: Request, on_step: OnStep | None) -> None:
        self._runtime, self._request = runtime, request
        self._on_step = None if on_step is None else TimedListener(on_step)
        self._text = answer_text(runtime, request, request.stop)
        self._state = None if request.constraint is None else request.constraint.automaton.start
        self._budget = thought_budget(request)
        self._encoded = len(request.prompt)
        self._uncommitted: Tensor | None = None
        self._finish: FinishReason | None = None
        self._canvases: list[_Attempt] = []
        self._logprobs: list[TokenLogprob] = []
        self._causal: CausalRows | None = None
        self._judged_last: _Attempt | None = None
        self._steps = 0
        self._deadline_reached = False

    def run(self) -> Task[Answer]:
        """Write the answer."""
        self._began = time.perf_counter()
        request, runtime, causally = self._request, self._runtime, self._request.reads_causally
        # Of what is read causally the prompt's last token is the first row, wherever the rest of it comes from.
        before = request.prompt[:-1] if causally else request.prompt
        # Read before it is known whether it stays, a canvas may have to be cut back.
        undone = request.canvas_length if request.verify is not None else 0
        cache, cached = yield from open_context(runtime, before, undone)
        try:
            self._uncommitted = yield from prefill(runtime, before, cache, request.deadline)
            if request.deadline is not None:
                request.deadline.check_begun("the first denoising step")
            if causally:
                self._begin_causally(cache)
            first_token = 0.0
            while self._finish is None:
                # A canvas is never cut short for max_tokens: the model was trained on whole ones. Only the end of the
                # context leaves no room for one.
                length = min(request.canvas_length, request.context_length - self._encoded)
                # The first step of a canvas commits what comes before it.
                yield from self._reserve(cache, length if request.verify is not None else 0)
                best = yield from self._best(cache, length)
                chunk = self._take(self._in_time(best), length)
                follow(runtime, cache, self._canvases[-1].canvas.tokens.tolist())
                if self._causal is not None:
                    self._commit_causally(self._causal, best, len(chunk.token_ids), cache)
                first_token = first_token or self._seconds()
                yield chunk
            if self._causal is not None and request.causal_logprobs and not self._read_first:
                # Nothing commits the last canvas.
                yield from self._reserve(cache, 0)
                yield from self._causal.end(self._canvases[-1].canvas.tokens, len(chunk.token_ids))
        finally:
            cache.close()
        return Answer(
            self._result(cached, first_token, self._seconds()), [attempt.canvas for attempt in self._canvases]
        )

    def _in_time(self, attempt: _Attempt) -> _Attempt:
        """End the answer with a canvas after which there is no time for another, if its text may end there."""
        if attempt.finish is None and passed(self._request.deadline):
            constraint, state = self._request.constraint, attempt.canvas.end_state
            if constraint is None or state is None:
                self._deadline_reached = True
                return replace(attempt, finish="length")
            if constraint.accepts(state):
                self._deadline_reached = True
                return replace(attempt, finish="stop")
        self._deadline_reached |= attempt.canvas.cut
        return attempt

    def _reserve(self, cache: PooledCache, more: int) -> Task[None]:
        """Wait until there is room for what is encoded, and so many positions more."""
        while not cache.reserve(self._encoded + more):
            yield Waiting.FOR_MEMORY

    @property
    def _read_first(self) -> bool:
        """True where canvases are read causally before it is known whether they stay."""
        return self._request.verify is not None

    def _begin_causally(self, cache: PooledCache) -> None:
        """Have the prompt's last row kept, which the first canvas's first step encodes."""
        last = torch.tensor(self._request.prompt[-1:], device=self._runtime.model.device)
        rest, self._uncommitted = self._uncommitted, None
        self._causal = CausalRows(self._runtime, cache, last if rest is None else torch.cat([rest, last]))
        follow(self._runtime, cache, self._request.prompt[-1:])

    def _commit_causally(self, causal: CausalRows, best: _Attempt, count: int, cache: PooledCache) -> None:
        """Make a canvas of which ``count`` tokens belong to the answer part of the context: what was read last is
        encoded already, others are with the next canvas's first step."""
        if self._request.causal_logprobs:
            causal.logprobs += best.causal[:count]
        if self._finish is not None:
            return
        if self._read_first and best is self._judged_last:
            causal.stay()
            return
        if self._read_first:
            cache.truncate(self._encoded - len(best.canvas.tokens))
        told = self._request.causal_logprobs and not self._read_first
        causal.follow(best.canvas.tokens, count if told else 0)

    def _seconds(self) -> float:
        """Return the seconds since the beginning, but for those that others took to be told of steps."""
        told = 0.0 if self._on_step is None else self._on_step.seconds
        return time.perf_counter() - self._began - told

    def _result(self, cached: int, first_token: float, seconds: float) -> Result:
        request, canvases = self._request, self._canvases
        assert self._finish is not None, "the answer is whole"
        return Result(
            text=self._text.text,
            token_ids=tuple(self._text.token_ids),
            finish_reason=self._finish,
            seed=request.seed,
            unconverged_canvases=tuple(i for i, one in enumerate(canvases) if not one.canvas.converged),
            thought=self._text.thought,
            log_valid=tuple(one.canvas.log_valid for one in canvases if one.canvas.log_valid is not None),
            logprobs=tuple(self._logprobs),
            causal_logprobs=() if self._causal is None else tuple(self._causal.logprobs),
            verified=None if not self._verifies else not any(one.wrong for one in canvases),
            deadline_reached=self._deadline_reached,
            usage=Usage(
                prompt_tokens=len(request.prompt),
                cached_prompt_tokens=cached,
                completion_tokens=len(self._text.token_ids),
                canvases=len(canvases),
                denoising_steps=self._steps,
                forwards=self._steps + (0 if self._causal is None else self._causal.forwards),
                time_to_first_token=first_token,
                seconds=seconds,
            ),
        )

    @property
    def _verifies(self) -> bool:
        return self._request.verifier is not None or self._request.verify is not None

    def _best(self, cache: PooledCache, length: int) -> Task[_Attempt]:
        """The best of the candidates for the next canvas: first by what the verifier marks, then by the score."""
        best, number = None, 0
        for _ in range(self._request.best_of):
            attempt = yield from self._denoise(cache, length, number, None)
            number += 1
            best = attempt if best is None else min(best, attempt, key=lambda one: one.rank)
            for _ in range(self._request.verify_rounds):
                if not attempt.wrong or passed(self._request.deadline):
                    break
                attempt = yield from self._denoise(cache, length, number, _all_but(attempt))
                number += 1
                best = min(best, attempt, key=lambda one: one.rank)
            if (self._verifies and not best.wrong) or passed(self._request.deadline):
                break
        assert best is not None, "a request has at least one candidate"
        return best

    def _denoise(self, cache: PooledCache, length: int, number: int, pinned: Pinned | None) -> Task[_Attempt]:
        """Denoise the next canvas."""
        request = self._request
        room = request.max_tokens - len(self._text.token_ids)
        constraint = None
        if request.constraint is not None and self._state is not None:
            constraint = CanvasConstraint.of(request.constraint, self._state, length, room)
        before = self._canvases[-1].canvas.tokens.tolist() if self._canvases else request.prompt
        plan = CanvasPlan(
            len(self._canvases), length, before, number, constraint, pinned, answer=tuple(self._text.token_ids)
        )
        if (own := _pinned_here(request, len(self._canvases), length)) is not None:
            plan = _with_pins(plan, own)
        budget = self._budget
        if budget is not None:
            plan = replace(plan, forbidden=budget.forbidden)
            if budget.spent:
                plan = _with_pins(plan, budget.ended(torch.zeros(length, dtype=torch.int64), 0))
        while True:
            if cache.length > self._encoded:
                # What an attempt before left there.
                cache.truncate(self._encoded)
            commit, self._uncommitted = self._uncommitted, None
            denoising = Denoising(self._runtime, request, plan, cache)
            canvas = yield from denoising.finish(commit, self._on_step, self._causal)
            self._steps += canvas.denoising_steps
            place = None if budget is None else budget.overrun(canvas.tokens[:room].tolist())
            if budget is None or place is None:
                return (yield from self._judged(canvas, length, room))
            # The thought stays as far as the budget goes, its end is pinned, and what follows is denoised again,
            # without a further thought, which would have to be ended in the same way.
            plan = replace(_with_pins(plan, budget.ended(canvas.tokens, place)), forbidden=budget.markers_of_more)

    def _judged(self, canvas: FinishedCanvas, length: int, room: int) -> Task[_Attempt]:
        request = self._request
        tokens, finish = _cut(canvas.tokens.tolist(), request, room, len(self._text.token_ids))
        state = canvas.end_state
        if request.constraint is not None and state is not None and request.constraint.complete(state):
            finish = "stop"
        if finish is None and self._encoded + length == request.context_length:
            finish = "length"
        wrong: frozenset[int] = frozenset()
        if request.verifier is not None:
            wrong = wrong_positions(request.verifier, self._candidate(tokens))
        causal: tuple[float, ...] = ()
        if self._causal is not None and self._read_first:
            causal = yield from self._causal.read(canvas.tokens)
        if request.verify is not None:
            least = math.log(request.verify_threshold)
            wrong |= {place for place in range(len(tokens)) if causal[place] < least}
        score = float(canvas.confidence[: len(tokens) + 1].double().log().mean())
        self._judged_last = _Attempt(canvas, tokens, finish, wrong, causal, score)
        return self._judged_last

    def _candidate(self, tokens: list[int]) -> Candidate:
        before, tokenizer = tuple(self._text.token_ids), self._runtime.tokenizer
        # The markers of a thought that was asked for tell where the answer begins.
        decode = tokenizer.decode if self._request.thought is None else tokenizer.decode_all
        return Candidate(len(self._canvases), decode([*before, *tokens]), tuple(tokens), before, decode)

    def _take(self, attempt: _Attempt, length: int) -> Chunk:
        """Make a canvas part of the answer."""
        canvas, index = attempt.canvas, len(self._canvases)
        self._finish, self._state = attempt.finish, canvas.end_state
        self._encoded += length
        self._canvases.append(attempt)
        if self._budget is not None:
            self._budget.take(attempt.tokens)
        before = len(self._text.token_ids)
        thought, text = self._text.add(attempt.tokens, last=self._finish is not None)
        if self._text.stopped:
            self._finish = "stop"
        # Handed out before it is committed, which the next canvas's first step does; after the last one nothing. Of
        # canvases that are read causally, what reads them sees to it.
        self._uncommitted = None if self._causal is not None else canvas.tokens.to(self._runtime.model.device)
        tokens = tuple(self._text.token_ids[before:])
        logprobs = _logprobs(canvas, tokens, self._request)
        self._logprobs += logprobs
        return Chunk(index, text, tokens, canvas.denoising_steps, canvas.converged, thought, logprobs)


def _with_pins(plan: CanvasPlan, pins: Pinned) -> CanvasPlan:
    """Pin what ``pins`` say, whatever was pinned there."""
    if plan.pinned is None:
        return replace(plan, pinned=pins)
    tokens = torch.where(pins.mask, pins.tokens, plan.pinned.tokens)
    return replace(plan, pinned=Pinned(pins.mask | plan.pinned.mask, tokens))


def _pinned_here(request: Request, index: int, length: int) -> Pinned | None:
    """Return the part of the request's pins that a canvas of ``length`` positions has; None for none."""
    if request.pinned is None:
        return None
    own = slice(index * request.canvas_length, index * request.canvas_length + length)
    mask, tokens = torch.zeros(length, dtype=torch.bool), torch.zeros(length, dtype=torch.int64)
    count = len(request.pinned.mask[own])
    mask[:count], tokens[:count] = request.pinned.mask[own], request.pinned.tokens[own]
    return Pinned(mask, tokens) if bool(mask.any()) else None


def _all_but(attempt: _Attempt) -> Pinned:
    """Pin a canvas but for the positions that are wrong."""
    mask = torch.ones(len(attempt.canvas.tokens), dtype=torch.bool)
    mask[list(attempt.wrong)] = False
    return Pinned(mask, attempt.canvas.tokens)


def _logprobs(canvas: FinishedCanvas, tokens: Sequence[int], request: Request) -> tuple[TokenLogprob, ...]:
    """Return the log probabilities of the canvas's first tokens, which are those that belong to the answer."""
    if request.top_logprobs is None or canvas.top_ids is None or canvas.top_logprobs is None:
        return ()
    own = canvas.confidence[: len(tokens)].log().tolist()
    ids, logprobs = canvas.top_ids.tolist(), canvas.top_logprobs.tolist()
    return tuple(
        TokenLogprob(token, logprob, _known(top, values)[: request.top_logprobs])
        for token, logprob, top, values in zip(tokens, own, ids, logprobs, strict=False)
    )


def _known(ids: Sequence[int], logprobs: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """Return the tokens that have a probability, which what filters took out has not."""
    return tuple((token, value) for token, value in zip(ids, logprobs, strict=True) if value > -math.inf)


def _cut(tokens: list[int], request: Request, room: int, before: int) -> tuple[list[int], FinishReason | None]:
    """Return what of a finished canvas belongs to the answer of ``before`` tokens, and whether it ends with it."""
    ends, earliest = request.ends, request.sampling.min_tokens - before
    end = next((i for i, token in enumerate(tokens) if token in ends and i >= earliest), None)
    if end is not None and end <= room:
        return tokens[:end], "stop"
    return tokens[:room], "length" if len(tokens) >= room else None
