"""From logits [n, C, V] and requests to what vLLM's sampler returns: tokens that are committed, and canvases.

A request is a task of the engine. Where the engine's scheduler would compute the forward that a task asks for, vLLM
does, in two steps: a commit is a forward of its own, causal, whose tokens are handed out; a canvas is denoised
bidirectionally and hands out nothing until its task is through with it.

    prefill --> canvas --> [denoise] --> ... --> [commit] --> canvas --> ...
                   ^           |                    | tokens are handed out
                   +-- task ---+                    v
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from redraft.engine.generation import Answer, Generate
from redraft.engine.request import Request
from redraft.engine.result import Chunk
from redraft.engine.runtime import Rows, Runtime, hand_out, read_on_host, start
from redraft.engine.task import Forward, Progress
from redraft.errors import GenerationError


@dataclass(frozen=True, eq=False)
class Input:
    """A request's share of vLLM's next forward."""

    tokens: Tensor
    """[L] int64: the canvas's positions, whole."""
    encode: bool
    """True for a commit: causal, and its tokens are handed out; False for a canvas that is denoised."""
    self_conditioning: Tensor | None = None
    """[L, H] float32; None for zeros."""


@dataclass(frozen=True, eq=False)
class Share:
    """One request's share of a forward's logits."""

    slot: int
    first: int
    """The first of its rows."""
    rows: int


@dataclass(frozen=True, eq=False)
class Output:
    """The result of a request's share. vLLM's ``num_sampled`` is the number of tokens, and all else is rejected."""

    tokens: tuple[int, ...] = ()
    error: Exception | None = None
    """Ends the request, and no other."""

    @property
    def sampled(self) -> int:
        return len(self.tokens)


class Writing:
    """An answer under way: its task, the canvases that are to be committed, and what was handed out."""

    def __init__(self, runtime: Runtime, request: Request) -> None:
        self._request, self._context = request, request.context_length
        self._position = len(request.prompt)
        self._prompt_left = True
        self._commits: deque[Tensor] = deque()
        self._length = request.canvas_length
        self._last: Sequence[int] = ()
        self._closed = False
        self.handed_out: list[int] = []
        self.progress: Progress[Answer] = Progress(Generate(runtime, request).answer(), self._on_chunk)
        start(self.progress)
        self.settle()

    @property
    def error(self) -> Exception | None:
        """The error that ended the task, if it failed."""
        return self.progress.error

    @property
    def input(self) -> Input | None:
        """The input that the next forward is to compute; None where nothing more is to come."""
        if self.error is not None:
            return None
        if self._commits:
            return Input(self._commits[0], encode=True)
        asked = self.progress.asked
        if not isinstance(asked, Forward):
            return None
        canvas = asked.spans[-1]
        return Input(canvas.tokens, encode=False, self_conditioning=canvas.self_conditioning)

    def committed(self) -> tuple[int, ...]:
        """Take the next canvas as encoded -> its tokens, which are handed out."""
        tokens = tuple(self._commits.popleft().tolist())
        self._position += len(tokens)
        self.handed_out += tokens
        if not self._commits and self._closed:
            self._end_behind()
        return tokens

    def go_on_from(self, known: int) -> None:
        """Go on where vLLM knows so many of the tokens that were handed out: it encodes those itself, and the others
        are committed anew. So it is after a preemption; the task has not moved."""
        lost = self.handed_out[known:]
        self.handed_out, self._position = self.handed_out[:known], self._position - len(lost)
        pieces = [lost[at : at + self._length] for at in range(0, len(lost), self._length)]
        self._commits.extendleft(torch.tensor(piece) for piece in reversed(pieces))

    def settle(self) -> None:
        """Take over what the task asks: what it wants encoded first, or its end."""
        if self.error is not None or self._closed:
            return
        asked = self.progress.asked
        if self.progress.ended:
            self._close()
            return
        if not isinstance(asked, Forward) or not asked.spans:
            self.progress.fail(GenerationError(f"vLLM has no part for what the task asks: {asked!r}"))
            return
        for span in asked.spans[:-1]:
            span.cache.advance(len(span.tokens))
            if not self._prompt_left:
                self._commits.append(span.tokens)
        self._prompt_left = False

    def _on_chunk(self, chunk: Chunk) -> None:
        self._last = chunk.token_ids

    def _close(self) -> None:
        """Commit the last canvas, with an end token behind the answer where its task ended it otherwise."""
        self._closed = True
        tokens = self.progress.value.canvases[-1].tokens.clone()
        count, ends = len(self._last), self._request.ends
        if count < len(tokens) and ends and int(tokens[count]) not in ends:
            tokens[count] = ends[0]
        self._commits.append(tokens)

    def _end_behind(self) -> None:
        """End on a canvas of end tokens, where the last one had no room for one; vLLM may have ended before."""
        ends, room = self._request.ends, min(self._length, self._context - self._position)
        if ends and room > 0 and not any(token in ends for token in self.handed_out[-self._length :]):
            self._commits.append(torch.full((room,), ends[0]))


class Canvases:
    """The requests of vLLM's slots."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.slots: dict[int, Writing] = {}

    def add(self, slot: int, request: Request) -> None:
        """Begin a request, whatever was in its slot."""
        self.slots[slot] = Writing(self.runtime, request)

    def remove(self, slot: int) -> Writing | None:
        """Empty a slot -> what was in it, from which the request can go on later; None for nothing."""
        return self.slots.pop(slot, None)

    @torch.inference_mode()
    def step(self, logits: Tensor, shares: Sequence[Share]) -> list[Output]:
        """Take each slot's request a step on, by its rows of ``logits`` [rows, V]: soft-capped, float32, any device.

        A share that does not have all rows of a canvas, because whoever scheduled it cut it, changes nothing: what the
        slot asks for stays, and nothing is handed out.
        """
        outputs: dict[int, Output] = {}
        denoised: list[tuple[Writing, Tensor]] = []
        for share in shares:
            writing = self.slots[share.slot]
            asked = writing.input
            if asked is None or share.rows != len(asked.tokens):
                outputs[share.slot] = Output(error=writing.error)
            elif asked.encode:
                outputs[share.slot] = Output(writing.committed())
            else:
                denoised.append((writing, logits[share.first : share.first + share.rows]))
        self._denoise(denoised)
        for writing, _ in denoised:
            writing.settle()
        return [
            outputs[share.slot] if share.slot in outputs else Output(error=self.slots[share.slot].error)
            for share in shares
        ]

    def _denoise(self, canvases: Sequence[tuple[Writing, Tensor]]) -> None:
        """Hand the tasks what is read off their canvases, and once more while they read the same rows again."""
        batch: list[Progress[Any]] = [writing.progress for writing, _ in canvases]
        rows = [Rows(own) for _, own in canvases]
        while batch:
            hand_out(self.runtime, batch, rows)
            read_on_host(batch)
            again = [(one, own) for one, own in zip(batch, rows, strict=True) if _reads_again(one)]
            batch, rows = [one for one, _ in again], [own for _, own in again]


def _reads_again(progress: Progress[Any]) -> bool:
    return isinstance(progress.asked, Forward) and not progress.asked.spans
