"""The answers to one HTTP request on their way from the scheduler's thread to the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from redraft.engine.fairness import Client
from redraft.engine.result import Chunk, Result, StepEvent
from redraft.engine.scheduler import Handle
from redraft.engine.task import Runnable
from redraft.errors import RedraftError
from redraft.serve.errors import of_engine
from redraft.serve.http.presence import ASKING, Asking
from redraft.serve.state import Serving
from redraft.tasks.choose import ChooseResult
from redraft.tasks.score import ScoreResult

T = TypeVar("T")


@dataclass(frozen=True)
class Done(Generic[T]):
    """One answer is finished."""

    result: T


Event = Chunk | StepEvent | Done[Any]


class Answers(Generic[T]):
    """The handles of one HTTP request, and everything that happens to them, as seen from the event loop."""

    def __init__(self, here: Serving, runnables: Sequence[Runnable[T]], client: Client, *, steps: bool = False) -> None:
        """Queue ``runnables`` of a model, each of which becomes one answer. ``steps``: denoising steps are events, too.

        Raises ApiError where the scheduler takes no more.
        """
        self._metrics = here.metrics
        self._asking = ASKING.get() or Asking("")
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Chunk | StepEvent | Handle[T]]] = asyncio.Queue()
        self._began, self._first = time.perf_counter(), False
        self.handles: list[Handle[T]] = []
        try:
            for index, runnable in enumerate(runnables):
                post = partial(self._post, index)
                on_step = _StepsOnce(post) if steps else None
                handle = here.scheduler.submit(runnable, client=client, on_chunk=post, on_step=on_step)
                self.handles.append(handle)
                handle.future.add_done_callback(partial(self._ended, index))
        except RedraftError as error:
            self.cancel()
            raise of_engine(error, {}) from error

    def __len__(self) -> int:
        return len(self.handles)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield everything that happens, with the number of the answer that it happens to, until all are done.

        Raises what an answer failed with.
        """
        left = len(self.handles)
        while left:
            index, event = await self._events.get()
            self._asking.begun.set()
            if isinstance(event, Handle):
                left -= 1
                result = event.result()
                self._finished(result)
                yield index, Done(result)
            else:
                if isinstance(event, Chunk):
                    self.text_is_ready()
                yield index, event

    def text_is_ready(self) -> None:
        """Note that there is text which the client can have; the first time counts."""
        if not self._first:
            self._first = True
            self._metrics.first_text.observe(time.perf_counter() - self._began)

    async def results(self, receive: Receive) -> list[T]:
        """Wait for all answers, which are cancelled if the client goes away first."""
        found: dict[int, T] = {}
        async with self.watched(receive):
            async for index, event in self.events():
                if isinstance(event, Done):
                    found[index] = event.result
        return [found[index] for index in range(len(found))]

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncIterator[None]:
        """Cancel the answers when the connection closes; what is left of them, when this ends."""
        watch = asyncio.create_task(_disconnected(receive))
        watch.add_done_callback(lambda _: self.cancel())
        try:
            yield
        finally:
            watch.cancel()
            self.cancel()

    def cancel(self) -> None:
        """End all answers that are not finished."""
        for handle in self.handles:
            handle.cancel()

    def _post(self, index: int, event: Chunk | StepEvent | Handle[T]) -> None:
        """Hand an event from the scheduler's thread to the event loop, which is closed once a server has stopped."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    def _ended(self, index: int, _: object) -> None:
        self._post(index, self.handles[index])

    def _finished(self, result: object) -> None:
        self._metrics.seconds.observe(time.perf_counter() - self._began)
        if isinstance(result, Result | ChooseResult):
            self._metrics.answered(result.usage)
        elif isinstance(result, ScoreResult):
            self._metrics.scored(result.usage)


class EventStream(StreamingResponse):
    """Server-sent events made of answers, which end with the connection.

    Half a surrogate pair, which a client may have sent and an event repeats, is escaped.
    """

    def __init__(
        self, frames: AsyncIterator[str], answers: Answers[Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(
            (frame.encode(errors="backslashreplace") async for frame in frames),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})},
        )
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the frames or the connection end."""
        async with self._answers.watched(receive):
            await super().__call__(scope, receive, send)


class _StepsOnce:
    """An ``on_step`` callback that hands on each step once: a request that gave back its memory begins again."""

    def __init__(self, post: Callable[[StepEvent], None]) -> None:
        self._post = post
        self._last = (-1, 0)

    def __call__(self, event: StepEvent) -> None:
        place = (event.canvas_index, event.step)
        if place > self._last:
            self._last = place
            self._post(event)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
