"""Drafts by a small autoregressive model with the same vocabulary: its likeliest tokens, one after the other."""

from collections.abc import Sequence

import torch

from redraft.canvas.readout import ReadoutSpec
from redraft.engine.context import open_context
from redraft.engine.memory import PooledCache
from redraft.engine.request import Request
from redraft.engine.runtime import Runtime
from redraft.engine.speculative import Drafted, Speculative
from redraft.engine.task import Forward, Task, on_host, read
from redraft.engine.tokens import NextTokens, Tokens
from redraft.models.base import Span


class DraftModel:
    """The draft model's own context of one answer, and what it would write behind it."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        """``runtime``: the draft model's."""
        self._runtime, self._request = runtime, request
        self._device = runtime.model.device
        self._cache: PooledCache | None = None
        self._fed: list[int] = []
        """The tokens that its cache holds."""

    @property
    def context_length(self) -> int:
        """The positions that the draft model can have."""
        return self._runtime.model.config.context_length

    def close(self) -> None:
        """Give back its memory."""
        if self._cache is not None:
            self._cache.close()

    def draft(self, context: Sequence[int], tokens: Tokens, count: int) -> Task[list[int]]:
        """Return up to ``count`` tokens that follow the ``context``, as a constraint lets them."""
        state, drafted, room = tokens.state, list[int](), tokens.room
        row = [*context]
        for place in range(count):
            token, state = yield from self._next(row, state, room - place)
            drafted.append(token)
            row.append(token)
            if token in self._request.ends or (self._request.constraint is not None and self._whole(state)):
                break
        return drafted

    def _whole(self, state: int | None) -> bool:
        constraint = self._request.constraint
        return constraint is None or state is None or constraint.complete(state)

    def _next(self, row: Sequence[int], state: int | None, left: int) -> Task[tuple[int, int | None]]:
        """Return the likeliest token behind a row of tokens, and the constraint's state behind it."""
        cache = yield from self._holding(row)
        constraint = self._request.constraint
        span = Span(torch.tensor([*row[-1:]], device=self._device), cache, "encode", wanted=1)
        spec = ReadoutSpec(1.0, classes=None if constraint is None else constraint.classes)
        readout = (yield from read(Forward((span,), spec, drafting=True))).readout
        self._fed.append(row[-1])
        if constraint is None or state is None:
            return (yield from on_host(readout.argmax))[0], None
        following, classes = NextTokens.after(constraint, state, left), readout.classes
        assert classes is not None, "the readout of a constrained request has class sums"
        peaks = classes.peak[0].cpu()[torch.from_numpy(following.classes)]
        chosen = int(following.classes[int(peaks.argmax())])
        return int(classes.argmax[0, chosen]), following.state(chosen)

    def _holding(self, row: Sequence[int]) -> Task[PooledCache]:
        """Have all of a row but its last token in the cache."""
        before = [*row[:-1]]
        if self._cache is None:
            undone = self._request.canvas_length + 1
            self._cache, known = yield from open_context(self._runtime, before, undone)
            self._fed = before[:known]
        cache, same = self._cache, 0
        while same < min(len(self._fed), len(before)) and self._fed[same] == before[same]:
            same += 1
        if same < len(self._fed):
            cache.truncate(same)
            del self._fed[same:]
        # Room is not waited for: the pool of a draft model has no limit.
        cache.reserve(len(row))
        for start in range(same, len(before), self._runtime.prefill_chunk):
            chunk = before[start : start + self._runtime.prefill_chunk]
            yield Forward((Span(torch.tensor(chunk, device=self._device), cache, "encode"),), drafting=True)
            self._fed += chunk
        return cache


class DraftedByModel(Speculative):
    """An answer under way whose drafts another model makes."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        super().__init__(runtime, request)
        assert runtime.drafter is not None, "checked with the mode"
        self._drafter = DraftModel(runtime.drafter, request)

    def close(self) -> None:
        """Give back the draft model's memory."""
        self._drafter.close()

    def _draft(self, cache: PooledCache, length: int) -> Task[Drafted]:
        """Have the draft model write on."""
        yield from self._reserve(cache, 1 + min(length, self._tokens.room - 1))
        context = [*self._request.prompt, *self._tokens.text.token_ids]
        count = min(length, self._tokens.room - 1, self._drafter.context_length - len(context))
        tokens = yield from self._drafter.draft(context, self._tokens, count)
        return Drafted(tokens, torch.ones(len(tokens)))
