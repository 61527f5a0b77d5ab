"""Drafts by a small autoregressive model with the same vocabulary: its likeliest tokens, one after the other."""

from collections.abc import Sequence

import torch

from redraft.canvas.readout import ReadoutSpec
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
        """Give back its memory; what is drafted next begins from nothing."""
        if self._cache is not None:
            self._cache.close()
        self._cache, self._fed = None, []

    def draft(self, context: Sequence[int], tokens: Tokens, count: int) -> Task[list[int]]:
        """Return up to ``count`` tokens that follow the ``context``, as a constraint lets them; none where there is no
        room for the context now."""
        state, drafted, room = tokens.state, list[int](), tokens.room
        if count < 1 or not self._opened(context, count):
            self.close()
            return drafted
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
        cache = yield from self._holding(row[:-1])
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

    def _opened(self, context: Sequence[int], more: int) -> bool:
        """Have a cache with room for the context and so many tokens more; False where there is none now."""
        if self._cache is None:
            before = context[:-1]
            self._cache, known = self._runtime.pool.open(before, self._request.canvas_length + 1)
            self._fed = [*before[:known]]
        return self._cache.reserve(len(context) + more)

    def _holding(self, before: Sequence[int]) -> Task[PooledCache]:
        """Have the tokens ``before`` the last one in the cache."""
        assert self._cache is not None, "there is room for what is drafted"
        cache, same = self._cache, 0
        while same < min(len(self._fed), len(before)) and self._fed[same] == before[same]:
            same += 1
        if same < len(self._fed):
            cache.truncate(same)
            del self._fed[same:]
        for start in range(same, len(before), self._runtime.prefill_chunk):
            chunk = [*before[start : start + self._runtime.prefill_chunk]]
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

    def _reserve(self, cache: PooledCache, more: int) -> Task[None]:
        """Wait until there is room; a draft model's context gives way first."""
        if not cache.reserve(self._encoded + more):
            self._drafter.close()
        yield from super()._reserve(cache, more)

    def _draft(self, cache: PooledCache, length: int) -> Task[Drafted]:
        """Have the draft model write on; nothing where there is no room for its context."""
        yield from self._reserve(cache, 1 + min(length, self._tokens.room - 1))
        context = [*self._request.prompt, *self._tokens.text.token_ids]
        count = min(length, self._tokens.room - 1, self._drafter.context_length - len(context))
        tokens = yield from self._drafter.draft(context, self._tokens, count)
        return Drafted(tokens, torch.ones(len(tokens)))
