"""The task of an answer that is written token after token, from the causal rows of the context.

The prompt's last token is the first whose row is read; each token that a row gives is encoded by the next forward, in
a batch with whatever other requests ask for.
"""

import time

import torch

from redraft.engine.context import follow, open_context, prefill
from redraft.engine.memory import PooledCache
from redraft.engine.request import Request
from redraft.engine.result import Chunk, Result, Usage
from redraft.engine.runtime import Runtime
from redraft.engine.task import Forward, Task, Waiting, read
from redraft.engine.tokens import Tokens
from redraft.models.base import Span


class Autoregressive:
    """An answer under way."""

    undone = 0
    """Positions up to which the context may be cut back at a time."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        self._runtime, self._request = runtime, request
        self._device = runtime.model.device
        self._tokens = Tokens(runtime, request)
        self._last = request.prompt[-1]
        """The token that stands last and is not encoded yet."""
        self._encoded = len(request.prompt) - 1
        """Positions that stand before it."""
        self._commit: torch.Tensor | None = None
        """[T]: of these, what is still to be encoded."""
        self._forwards = self._accepted = self._canvases = self._steps = 0

    def run(self) -> Task[Result]:
        """Write the answer."""
        self._began = time.perf_counter()
        runtime, before = self._runtime, self._request.prompt[:-1]
        cache, cached = yield from open_context(runtime, before, self.undone)
        try:
            self._commit = yield from prefill(runtime, before, cache)
            first_token = 0.0
            while self._tokens.finish is None:
                chunks = yield from self._write(cache)
                first_token = first_token or time.perf_counter() - self._began
                yield from chunks
        finally:
            cache.close()
            self.close()
        return self._result(cached, first_token)

    def close(self) -> None:
        """Give back what is held beside the context."""

    def _write(self, cache: PooledCache) -> Task[list[Chunk]]:
        """Write what comes next: one token."""
        yield from self._reserve(cache, 1)
        last = Span(torch.tensor([self._last], device=self._device), cache, "encode", wanted=1)
        reading = yield from read(Forward((*self._committing(cache), last), self._tokens.spec()))
        self._forwards += 1
        readout, (drawn,) = yield from self._tokens.rows(reading)
        token = self._tokens.choose(readout, 0, drawn)
        self._encode([self._last], cache)
        self._last = token.token
        return [self._tokens.take(token)]

    def _committing(self, cache: PooledCache) -> tuple[Span, ...]:
        """Return the span of what is still to be encoded of the prompt, if anything is."""
        commit, self._commit = self._commit, None
        return () if commit is None else (Span(commit, cache, "encode"),)

    def _reserve(self, cache: PooledCache, more: int) -> Task[None]:
        """Wait until there is room for so many positions more."""
        while not cache.reserve(self._encoded + more):
            yield Waiting.FOR_MEMORY

    def _encode(self, tokens: list[int], cache: PooledCache) -> None:
        """Note the tokens that are part of the encoded context from now on."""
        self._encoded += len(tokens)
        follow(self._runtime, cache, tokens)

    def _result(self, cached: int, first_token: float) -> Result:
        request, tokens = self._request, self._tokens
        assert tokens.finish is not None, "the answer is whole"
        return Result(
            text=tokens.text.text,
            token_ids=tuple(tokens.text.token_ids),
            finish_reason=tokens.finish,
            seed=request.seed,
            unconverged_canvases=(),
            thought=tokens.text.thought,
            log_valid=() if request.constraint is None else (tokens.log_allowed,),
            logprobs=tuple(tokens.logprobs[: len(tokens.text.token_ids)]),
            usage=Usage(
                prompt_tokens=len(request.prompt),
                cached_prompt_tokens=cached,
                completion_tokens=len(tokens.text.token_ids),
                canvases=self._canvases,
                denoising_steps=self._steps,
                time_to_first_token=first_token,
                seconds=time.perf_counter() - self._began,
                forwards=self._forwards,
                accepted_drafts=self._accepted,
            ),
        )
