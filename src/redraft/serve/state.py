"""What all routes share: the engine, the service that runs it, the limits, the counts; and one request's answers."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fastapi import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from redraft.api import Engine, Recorders
from redraft.engine.generation import Generation
from redraft.engine.request import Request
from redraft.engine.result import Chunk, Result, StepEvent
from redraft.engine.scheduler import Service, Ticket
from redraft.engine.task import Work
from redraft.errors import RedraftError
from redraft.models.tokenizer import ChatTokenizer
from redraft.serve.errors import ApiError, of_engine
from redraft.serve.http.limits import Limits
from redraft.serve.http.metrics import Metrics
from redraft.serve.http.security import check_keys, key_of
from redraft.tasks.choose import ChooseResult

T = TypeVar("T")
log = logging.getLogger("redraft.serve")


@dataclass(frozen=True)
class Settings:
    """How a server was started. Raises RequestError for an API key that is empty."""

    model: str
    """The name that clients know the model by."""
    api_keys: Sequence[str] = ()
    cors: Sequence[str] = ()
    """Origins whose pages may ask."""
    limits: Limits = field(default_factory=Limits)
    max_tokens: int | None = None
    """Of an answer, where the client does not say; by default what the context has left."""
    log_prompts: bool = False
    record: Recorders | None = None
    """Keeps what happens in every answer that is generated, and in every decision."""

    def __post_init__(self) -> None:
        check_keys(self.api_keys)


@dataclass(frozen=True)
class Serving:
    """One model that is being served."""

    engine: Engine
    service: Service
    metrics: Metrics
    settings: Settings

    @property
    def limits(self) -> Limits:
        return self.settings.limits

    @property
    def tokenizer(self) -> ChatTokenizer:
        return self.engine.tokenizer

    def generation(self, request: Request, on_step: Callable[[StepEvent], None] | None) -> Generation:
        """An answer that is kept, if that is wanted."""
        return self.engine.begin(request, on_step, self.settings.record)

    def check_model(self, name: str) -> None:
        """Refuse a request for another model."""
        if name != self.settings.model:
            raise ApiError(
                404, f"the model {name!r} is not served here; this is {self.settings.model!r}", param="model",
                code="model_not_found",
            )  # fmt: skip

    async def prepare(self, work: Callable[[], T], names: Mapping[str, str], constraint: str | None = None) -> T:
        """Do what touches tokenizer and compiler in a thread; the engine's errors become the client's."""
        try:
            return await asyncio.to_thread(work)
        except RedraftError as error:
            raise of_engine(error, names, constraint) from error

    def note_prompt(self, http: HttpRequest, prompt: object) -> None:
        """Log a prompt, if the server was asked to."""
        if self.settings.log_prompts:
            log.info("%s prompt: %r", http.url.path, prompt)


def serving(http: HttpRequest) -> Serving:
    """What the app of this request serves."""
    found: Serving = http.app.state.serving
    return found


def client_of(http: HttpRequest, user: str | None = None) -> str:
    """Whose queue a request stands in: that of its API key or address, and of the user that it names."""
    address = http.client.host if http.client else ""
    return f"{key_of(http.headers) or address}/{user or ''}"


def new_seed() -> int:
    """A seed for a request that has none; drawn once, so that a request that begins again stays the same."""
    return secrets.randbits(32)


@dataclass(frozen=True)
class Done(Generic[T]):
    """One answer is finished."""

    result: T


Event = Chunk | StepEvent | Done[Any]


class Answers(Generic[T]):
    """The answers to one HTTP request on their way through the service, as seen from the event loop."""

    def __init__(
        self, http: HttpRequest, makes: Sequence[Callable[["Post"], Callable[[], Work[T]]]], client: str
    ) -> None:
        """Queue the work that each of ``makes`` prepares, given where its steps may be posted.

        Raises ApiError where the service takes no more.
        """
        self._serving = serving(http)
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Chunk | StepEvent | Ticket[T]]] = asyncio.Queue()
        self._began, self._first = time.perf_counter(), False
        self.tickets: list[Ticket[T]] = []
        try:
            for index, make in enumerate(makes):
                self._submit(index, make, client)
        except RedraftError as error:
            self.cancel()
            raise of_engine(error, {}) from error

    def _submit(self, index: int, make: Callable[["Post"], Callable[[], Work[T]]], client: str) -> None:
        def post(event: Chunk | StepEvent) -> None:
            self._post(index, event)

        ticket = self._serving.service.submit(make(post), client=client, on_chunk=post)
        self.tickets.append(ticket)
        ticket.future.add_done_callback(lambda _: self._post(index, ticket))

    def _post(self, index: int, event: Chunk | StepEvent | Ticket[T]) -> None:
        """From the service's thread to the event loop, which may be closed when a server was stopped."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Everything that happens, with the number of the answer that it happens to, until all are done.

        Raises what an answer failed with.
        """
        left = len(self.tickets)
        while left:
            index, event = await self._events.get()
            if isinstance(event, Ticket):
                left -= 1
                result = event.future.result()
                self._finished(result)
                yield index, Done(result)
            else:
                if isinstance(event, Chunk):
                    self.text_is_ready()
                yield index, event

    def text_is_ready(self) -> None:
        """There is text that the client can have; the first time counts."""
        if not self._first:
            self._first = True
            self._serving.metrics.first_text.observe(time.perf_counter() - self._began)

    def _finished(self, result: object) -> None:
        self._serving.metrics.seconds.observe(time.perf_counter() - self._began)
        if isinstance(result, Result | ChooseResult):
            self._serving.metrics.answered(result.usage)

    async def results(self, receive: Receive) -> list[T]:
        """All answers; cancelled if the client goes away first."""
        found: dict[int, T] = {}
        async with self.watched(receive):
            async for index, event in self.events():
                if isinstance(event, Done):
                    found[index] = event.result
        return [found[index] for index in range(len(found))]

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncIterator[None]:
        """While this lasts a closed connection cancels the answers; when it ends, whatever is left of them."""
        watch = asyncio.create_task(_disconnected(receive))
        watch.add_done_callback(lambda _: self.cancel())
        try:
            yield
        finally:
            watch.cancel()
            self.cancel()

    def cancel(self) -> None:
        """End all answers that are not finished."""
        for ticket in self.tickets:
            ticket.cancel()


Post = Callable[[Chunk | StepEvent], None]
"""Hands an event on; called from the service's thread."""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Steps:
    """Hands on every denoising step once, also where a request gave back its memory and began again."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._last = (-1, 0)

    def __call__(self, event: StepEvent) -> None:
        """Take in one step; within a canvas they are counted down."""
        place = (event.canvas_index, -event.step)
        if place > self._last:
            self._last = place
            self._post(event)


class EventStream(StreamingResponse):
    """Server-sent events made of answers, which end with the connection.

    Half a surrogate pair, which a client may have sent and an event repeats, is escaped.
    """

    def __init__(self, frames: AsyncIterator[str], answers: Answers[Any]) -> None:
        super().__init__(
            (frame.encode(errors="backslashreplace") async for frame in frames),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the frames or the connection end."""
        async with self._answers.watched(receive):
            await super().__call__(scope, receive, send)
