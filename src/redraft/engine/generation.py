"""An answer under way, one forward of the model at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from redraft.engine.constrained import CanvasConstraint, Locked
from redraft.engine.denoise import DenoisingCanvas, FinishedCanvas
from redraft.engine.memory import PooledCache
from redraft.engine.request import Request
from redraft.engine.result import Chunk, FinishReason, Result, StepEvent, TokenLogprob, Usage
from redraft.engine.task import Waiting, Work, no_room
from redraft.engine.verify import Candidate, wrong_positions
from redraft.errors import GenerationError

if TYPE_CHECKING:
    from redraft.api import Engine


@dataclass(frozen=True)
class _Attempt:
    """A denoised canvas, what of it belongs to the answer, and how good it is."""

    canvas: FinishedCanvas
    tokens: list[int]
    finish: FinishReason | None
    wrong: frozenset[int]
    score: float
    """Mean log probability of the canvas's likeliest tokens at its last step."""

    @property
    def rank(self) -> tuple[int, float]:
        """Smaller is better."""
        return len(self.wrong), -self.score


class Generation(Iterator[Chunk]):
    """Iterate for the answer's chunks, one a canvas; ``result`` runs what is left and returns the whole.

    ``work`` does one forward at a time, so that several generations can take turns.
    """

    def __init__(self, engine: "Engine", request: Request, on_step: Callable[[StepEvent], None] | None) -> None:
        self._engine, self._request, self._on_step = engine, request, on_step
        self._text = engine.answer_text(request, request.stop)
        self._state = None if request.constraint is None else request.constraint.automaton.start
        self._encoded = len(request.prompt)
        self._uncommitted: torch.Tensor | None = None
        self._finish: FinishReason | None = None
        self._canvases: list[_Attempt] = []
        self._logprobs: list[TokenLogprob] = []
        self._steps = 0
        self._result: Result | None = None
        self.work: Work[Result] = self._run()
        """What there is to do, one forward at a time."""

    def advance(self) -> Chunk | Waiting | None:
        """One forward: a chunk of the prompt, or a denoising step; the chunk of the canvas that it finished, if any.

        Waiting.FOR_MEMORY where no forward was done, since keys and values need memory that others hold now. Raises
        StopIteration when the answer is whole.
        """
        return next(self.work)

    def close(self) -> None:
        """Stop here and give back all memory; of an answer that is not whole there will be no result."""
        self.work.close()

    @property
    def canvases(self) -> list[FinishedCanvas]:
        """The finished canvases, whole, also where the answer ends before them."""
        return [attempt.canvas for attempt in self._canvases]

    def __next__(self) -> Chunk:
        while not isinstance(chunk := self.advance(), Chunk):
            if chunk is Waiting.FOR_MEMORY:
                # Nobody else does anything until this returns.
                raise GenerationError(no_room(self._engine.pool))
        return chunk

    def result(self) -> Result:
        """Finish the answer and return it."""
        for _ in self:
            pass
        if self._result is None:
            raise RuntimeError(
                "the generation was closed, or ended with an error that was raised where it was iterated"
            )
        return self._result

    def _run(self) -> Work[Result]:
        began = time.perf_counter()
        request, contexts = self._request, self._engine.contexts
        cache, cached = yield from contexts.open(request.prompt)
        try:
            for _ in contexts.chunks(request.prompt, cache):
                yield None
            first_token = 0.0
            while self._finish is None:
                # The first step of a canvas commits the one before.
                while not cache.reserve(self._encoded):
                    yield Waiting.FOR_MEMORY
                # A canvas is never cut short for max_tokens: the model was trained on whole ones. Only the end of the
                # context leaves no room for one.
                length = min(request.canvas_length, request.context_length - self._encoded)
                chunk = self._take((yield from self._best(cache, length)), length)
                contexts.commits(cache, self._canvases[-1].canvas.tokens.tolist())
                first_token = first_token or time.perf_counter() - began
                yield chunk
        finally:
            cache.close()
        canvases = self._canvases
        self._result = Result(
            text=self._text.text,
            token_ids=tuple(self._text.token_ids),
            finish_reason=self._finish,
            seed=request.seed,
            unconverged_canvases=tuple(i for i, one in enumerate(canvases) if not one.canvas.converged),
            thought=self._text.thought,
            log_valid=tuple(one.canvas.log_valid for one in canvases if one.canvas.log_valid is not None),
            logprobs=tuple(self._logprobs),
            verified=None if request.verifier is None else not any(one.wrong for one in canvases),
            usage=Usage(
                prompt_tokens=len(request.prompt),
                cached_prompt_tokens=cached,
                completion_tokens=len(self._text.token_ids),
                canvases=len(canvases),
                denoising_steps=self._steps,
                time_to_first_token=first_token,
                seconds=time.perf_counter() - began,
            ),
        )
        return self._result

    def _best(self, cache: PooledCache, length: int) -> Work[_Attempt]:
        """The best of the candidates for the next canvas: first by what the verifier marks, then by the score."""
        best, number = None, 0
        for _ in range(self._request.best_of):
            attempt = yield from self._denoise(cache, length, number, None)
            number += 1
            best = attempt if best is None else min(best, attempt, key=lambda one: one.rank)
            for _ in range(self._request.verify_rounds):
                if not attempt.wrong:
                    break
                attempt = yield from self._denoise(cache, length, number, _all_but(attempt))
                number += 1
                best = min(best, attempt, key=lambda one: one.rank)
            if self._request.verifier is not None and not best.wrong:
                break
        assert best is not None, "a request has at least one candidate"
        return best

    def _denoise(self, cache: PooledCache, length: int, number: int, locked: Locked | None) -> Work[_Attempt]:
        """Denoise the next canvas, one forward between two yields."""
        model, request = self._engine.model, self._request
        index, room = len(self._canvases), request.max_tokens - len(self._text.token_ids)
        constraint = None
        if request.constraint is not None and self._state is not None:
            constraint = CanvasConstraint.of(request.constraint, self._state, length, room)
        canvas = DenoisingCanvas(
            model, request, index, length, attempt=number, constraint=constraint, locked=locked, on_step=self._on_step
        )
        finished = None
        while finished is None:
            with torch.inference_mode():
                if self._uncommitted is not None:
                    # The canvas before is committed along with the first step of this one.
                    before, self._uncommitted = self._uncommitted.to(model.device)[None], None
                    hidden = model.commit_and_denoise(before, canvas.tokens[None], cache)[0]
                else:
                    signal = None if canvas.signal is None else canvas.signal[None]
                    hidden = model.denoise(canvas.tokens[None], cache, signal)[0]
            finished = canvas.advance(hidden)
            self._steps += 1
            if finished is None:
                yield None
        return self._judged(finished, length, room)

    def _judged(self, canvas: FinishedCanvas, length: int, room: int) -> _Attempt:
        request = self._request
        tokens, finish = _cut(canvas.tokens.tolist(), request, room)
        state = canvas.end_state
        if request.constraint is not None and state is not None and request.constraint.complete(state):
            finish = "stop"
        if finish is None and self._encoded + length == request.context_length:
            finish = "length"
        wrong: frozenset[int] = frozenset()
        if request.verifier is not None:
            wrong = wrong_positions(request.verifier, self._candidate(tokens))
        score = float(canvas.confidence[: len(tokens) + 1].double().log().mean())
        return _Attempt(canvas, tokens, finish, wrong, score)

    def _candidate(self, tokens: list[int]) -> Candidate:
        before, tokenizer = tuple(self._text.token_ids), self._engine.tokenizer
        # The markers of a thought that was asked for tell where the answer begins.
        decode = tokenizer.decode if self._request.thought is None else tokenizer.decode_all
        return Candidate(len(self._canvases), decode([*before, *tokens]), tuple(tokens), before, decode)

    def _take(self, attempt: _Attempt, length: int) -> Chunk:
        """Make a canvas part of the answer."""
        canvas, index = attempt.canvas, len(self._canvases)
        self._finish, self._state = attempt.finish, canvas.end_state
        self._encoded += length
        self._canvases.append(attempt)
        before = len(self._text.token_ids)
        thought, text = self._text.add(attempt.tokens, last=self._finish is not None)
        if self._text.stopped:
            self._finish = "stop"
        # Handed out before it is committed, which the next canvas's first step does; after the last one nothing.
        self._uncommitted = canvas.tokens
        tokens = tuple(self._text.token_ids[before:])
        logprobs = _logprobs(canvas, tokens, self._request)
        self._logprobs += logprobs
        return Chunk(index, text, tokens, canvas.denoising_steps, canvas.converged, thought, logprobs)


def _all_but(attempt: _Attempt) -> Locked:
    """Lock a canvas but for the positions that are wrong."""
    mask = torch.ones(len(attempt.canvas.tokens), dtype=torch.bool)
    mask[list(attempt.wrong)] = False
    return Locked(mask, attempt.canvas.tokens)


def _logprobs(canvas: FinishedCanvas, tokens: Sequence[int], request: Request) -> tuple[TokenLogprob, ...]:
    """Of the canvas's first tokens, which are those that belong to the answer."""
    if request.top_logprobs is None or canvas.top_ids is None or canvas.top_logprobs is None:
        return ()
    own = canvas.confidence[: len(tokens)].log().tolist()
    ids, logprobs = canvas.top_ids.tolist(), canvas.top_logprobs.tolist()
    return tuple(
        TokenLogprob(token, logprob, tuple(zip(top, values, strict=True))[: request.top_logprobs])
        for token, logprob, top, values in zip(tokens, own, ids, logprobs, strict=False)
    )


def _cut(tokens: list[int], request: Request, room: int) -> tuple[list[int], FinishReason | None]:
    """What of a finished canvas belongs to the answer, and whether the answer ends with it."""
    end = next((i for i, token in enumerate(tokens) if token in request.end_token_ids), None)
    if end is not None and end <= room:
        return tokens[:end], "stop"
    return tokens[:room], "length" if len(tokens) >= room else None
