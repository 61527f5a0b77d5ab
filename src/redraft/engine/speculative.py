"""Self-speculation: a canvas that is denoised in a few steps is the draft, and the causal rows of the same weights
verify it.

A draft's joint distribution is unknown, so each drafted token x is a point mass: it stands with its probability p(x),
and otherwise the token is drawn from p without x (Leviathan et al. 2023, with point masses). Both come of one draw from
p, by the draws of the autoregressive mode: what it gives stands, and the draft is followed as far as it says the same.
So the answer is the one which that mode writes: token for token where a row's bits do not depend on its forward, and in
distribution everywhere.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redraft.canvas.draft import Draft
from redraft.engine.autoregressive import Autoregressive
from redraft.engine.constrained import CanvasConstraint
from redraft.engine.denoise import CanvasPlan, Denoising
from redraft.engine.memory import PooledCache
from redraft.engine.request import Request
from redraft.engine.result import Chunk
from redraft.engine.runtime import Runtime
from redraft.engine.sampling import NOTHING
from redraft.engine.task import Forward, Task, read
from redraft.models.base import Span

SURE = 0.5
"""The probability that a drafted token has for those behind it to be verified too, and to start the next draft."""


@dataclass(frozen=True, eq=False)
class Drafted:
    """Tokens that may follow what is written."""

    tokens: list[int]
    confidence: Tensor
    """[C]: how sure the drafting model is of each."""


class Speculative(Autoregressive):
    """An answer under way."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        super().__init__(runtime, request)
        # Drafts are the likeliest tokens: those have the best chance to stand.
        # What is late is told where a token is taken.
        self._drafting = replace(request, temperature=0.0, sampling=NOTHING, top_logprobs=None, deadline=None)
        self.undone = request.canvas_length + 1
        self._left: Draft | None = None
        """The rest of the last draft, which stands behind the answer."""

    def _write(self, cache: PooledCache) -> Task[list[Chunk]]:
        """Write what comes next: the tokens of a draft that stand, and the one after them."""
        room = self._tokens.room
        length = min(self._request.canvas_length, self._request.context_length - self._encoded - 1)
        if room < 2 or length < 1:
            return (yield from super()._write(cache))
        drafted = yield from self._draft(cache, length)
        return (yield from self._verify(cache, drafted, self._worth(drafted, room)))

    def _draft(self, cache: PooledCache, length: int) -> Task[Drafted]:
        """Denoise a canvas behind what is written."""
        request = self._request
        # What is verified is at most as long as the room; the canvas itself is not encoded.
        yield from self._reserve(cache, 1 + min(length, self._tokens.room - 1))
        constraint = None
        if request.constraint is not None and self._tokens.state is not None:
            constraint = CanvasConstraint.of(request.constraint, self._tokens.state, length, self._tokens.room)
        before = [*request.prompt[-1:], *self._tokens.text.token_ids][-1:]
        plan = CanvasPlan(self._canvases, length, before, constraint=constraint, start=self._left)
        commit = torch.tensor([self._last], device=self._device)
        pending, self._commit = self._commit, None
        if pending is not None:
            commit = torch.cat([pending, commit])
        canvas = yield from Denoising(self._runtime, self._drafting, plan, cache).finish(commit, None)
        self._canvases += 1
        self._steps += canvas.denoising_steps
        self._forwards += canvas.denoising_steps
        return Drafted(canvas.tokens.tolist(), canvas.confidence)

    def _worth(self, draft: Drafted, room: int) -> int:
        """Return how many of the drafted tokens are verified: up to the first that is not sure, or ends the answer."""
        drafted = draft.tokens
        ends = (place + 1 for place, token in enumerate(drafted) if token in self._request.ends)
        unsure = (place + 1 for place, value in enumerate(draft.confidence.tolist()) if value < SURE)
        count = min(next(ends, len(drafted)), next(unsure, len(drafted)), room - 1)
        return self._tokens.alike(drafted[:count])

    def _verify(self, cache: PooledCache, draft: Drafted, count: int) -> Task[list[Chunk]]:
        """Take the tokens that the causal rows give, as long as they are those of the draft, and the first other."""
        tokens, start, drafted = self._tokens, self._encoded, draft.tokens
        if cache.length > start:
            # Encoded for the canvas; the last token's own row is wanted once more: it says what stands first.
            cache.truncate(start)
        rows = torch.tensor([self._last, *drafted[:count]], device=self._device)
        verifying = Span(rows, cache, "encode", wanted=1 + count)
        spans = (*self._committing(cache), verifying)
        reading = yield from read(Forward(spans, tokens.spec(drafted[:count])))
        self._forwards += 1
        readout, given = yield from tokens.rows(reading)
        chunks, written = [], []
        for row in range(1 + count):
            token = tokens.choose(readout, row, given[row])
            chunks.append(tokens.take(token))
            written.append(token.token)
            stands = row < len(drafted) and token.token == drafted[row]
            self._accepted += stands
            if tokens.finish is not None or not stands:
                break
        cache.truncate(start + len(written))
        self._encode([self._last, *written[:-1]], cache)
        self._last = written[-1]
        self._left = self._rest(draft, len(written))
        return chunks

    def _rest(self, draft: Drafted, start: int) -> Draft | None:
        """Return what of a draft stands from ``start`` on, as far as the model was sure of it; None for nothing."""
        if start >= len(draft.tokens) or self._tokens.finish is not None or self._runtime.model.corruption is None:
            return None
        tokens, survival = draft.tokens[start:], (draft.confidence[start:] >= SURE).double()
        if self._request.constraint is not None and self._runtime.corruption.monotone:
            # What stands there stays, and so has to fit the tokens that are written by now.
            unsure = survival.tolist().index(0.0) if 0.0 in survival else len(tokens)
            survival[self._tokens.fitting(tokens[:unsure]) :] = 0.0
        return Draft(torch.tensor(tokens), survival)
