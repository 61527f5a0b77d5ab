"""Many requests, one model: a thread of its own lets them take turns, one forward each.

A request joins and leaves between two forwards. What it says does not depend on who else is there: every forward
computes one request's rows, and every draw is keyed by the request's own seed.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from redraft.api import Engine
from redraft.engine.result import Chunk
from redraft.engine.task import Waiting, Work
from redraft.errors import BusyError, CancelledError, ShuttingDownError

T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """What a service is doing."""

    running: int
    waiting: int
    finished: int
    failed: int
    cancelled: int
    preempted: int
    """Times a request was put back because memory ran out, and began again later."""
    forwards: int


@dataclass(eq=False)
class Ticket(Generic[T]):
    """One request's place in a service. ``result`` waits for what comes of it."""

    make: Callable[[], Work[T]]
    """Begins the work, afresh after it was put back."""
    client: str
    on_chunk: Callable[[Chunk], None] | None
    future: "Future[T]" = field(default_factory=Future)
    _work: Work[T] | None = None
    _cancelled: bool = False
    _chunks: int = 0
    """Handed out already, which a request that begins again does not do twice."""
    _repeated: int = 0

    def result(self, timeout: float | None = None) -> T:
        """What the request comes to; its error if it failed, TimeoutError after ``timeout`` seconds."""
        return self.future.result(timeout)

    def cancel(self) -> None:
        """End the request: it gives back what it holds before the model's next forward but one."""
        self._cancelled = True


class Service:
    """Runs the work of many requests in turns. Its methods may be called from any thread."""

    def __init__(self, engine: Engine, *, max_concurrency: int = 8, max_waiting: int = 256) -> None:
        """``max_concurrency``: requests that take turns; the others wait, at most ``max_waiting`` of them. Clients are
        served in turn, and each one's requests in the order in which they came."""
        self.engine = engine
        self._most, self._most_waiting = max_concurrency, max_waiting
        self._running: list[Ticket[Any]] = []
        self._waiting: OrderedDict[str, deque[Ticket[Any]]] = OrderedDict()
        self._load = Load(0, 0, 0, 0, 0, 0, 0)
        self._changed = threading.Condition()
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._run, name="redraft-engine", daemon=True)
        self._thread.start()

    def submit(
        self, make: Callable[[], Work[T]], *, client: str = "", on_chunk: Callable[[Chunk], None] | None = None
    ) -> Ticket[T]:
        """Queue the work that ``make`` begins; ``on_chunk`` is called from the service's thread for each canvas.

        Raises ShuttingDownError once ``close`` was called, and BusyError where too many wait.
        """
        ticket = Ticket(make, client, on_chunk)
        # Whoever waits for the future must not cancel it under the thread that fulfils it; there is ``cancel``.
        ticket.future.set_running_or_notify_cancel()
        with self._changed:
            if self._closing:
                raise ShuttingDownError("the server is shutting down; it takes no more requests")
            if sum(map(len, self._waiting.values())) >= self._most_waiting:
                raise BusyError(f"{self._most_waiting} requests are waiting already; try again later")
            self._waiting.setdefault(client, deque()).append(ticket)
            self._changed.notify_all()
        return ticket

    @property
    def load(self) -> Load:
        """What is going on now, and what has been since the start."""
        with self._changed:
            waiting = sum(map(len, self._waiting.values()))
            return replace(self._load, running=len(self._running), waiting=waiting)

    def close(self, grace: float = 0.0) -> None:
        """Take no more requests, give those that run or wait ``grace`` seconds, then cancel what is left."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._running and not self._waiting, timeout=grace)
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._take_turns()
        finally:
            # Also where the service itself fails: nobody shall wait for an answer that cannot come.
            with self._changed:
                self._closing = self._closed = True
                left = [*self._running, *(ticket for queue in self._waiting.values() for ticket in queue)]
                self._waiting.clear()
            for ticket in left:
                self._end(ticket, CancelledError("the service ended before the request was finished"))

    def _take_turns(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._running or self._waiting)
                if self._closed:
                    return
                self._admit()
                running = list(self._running)
            moved = [self._advance(ticket) for ticket in running]
            if running and not any(moved):
                self._put_back(running[-1])

    def _admit(self) -> None:
        """Let waiting requests join, one of each client in turn."""
        while len(self._running) < self._most and self._waiting:
            client, queue = self._waiting.popitem(last=False)
            self._running.append(queue.popleft())
            if queue:
                self._waiting[client] = queue

    def _advance(self, ticket: Ticket[Any]) -> bool:
        """One forward of a request, or its end; False where it waits for memory."""
        if ticket._cancelled:
            self._end(ticket, CancelledError("the request was cancelled"))
            return True
        try:
            if ticket._work is None:
                ticket._work = ticket.make()
            step = next(ticket._work)
        except StopIteration as done:
            self._end(ticket, None, done.value)
            return True
        except Exception as error:  # whatever goes wrong with one request must not end the others
            self._end(ticket, error)
            return True
        if step is Waiting.FOR_MEMORY:
            return False
        with self._changed:
            self._load = replace(self._load, forwards=self._load.forwards + 1)
        if isinstance(step, Chunk):
            self._hand_out(ticket, step)
        return True

    def _hand_out(self, ticket: Ticket[Any], chunk: Chunk) -> None:
        ticket._repeated += 1
        if ticket._repeated <= ticket._chunks:
            return
        ticket._chunks = ticket._repeated
        if ticket.on_chunk is not None:
            try:
                ticket.on_chunk(chunk)
            except Exception as error:
                self._end(ticket, error)

    def _put_back(self, ticket: Ticket[Any]) -> None:
        """Take from a request all that it holds; it begins again, with the same result, when there is room."""
        fault = self._give_back(ticket)
        if fault is not None:
            self._end(ticket, fault)
            return
        ticket._repeated = 0
        with self._changed:
            self._running.remove(ticket)
            queue = self._waiting.setdefault(ticket.client, deque())
            queue.appendleft(ticket)
            self._waiting.move_to_end(ticket.client, last=False)
            self._load = replace(self._load, preempted=self._load.preempted + 1)

    def _end(self, ticket: Ticket[Any], error: Exception | None, value: Any = None) -> None:
        error = self._give_back(ticket) or error
        with self._changed:
            if ticket in self._running:
                self._running.remove(ticket)
            outcome = "finished" if error is None else "cancelled" if isinstance(error, CancelledError) else "failed"
            self._load = replace(self._load, **{outcome: getattr(self._load, outcome) + 1})
            self._changed.notify_all()
        if error is None:
            ticket.future.set_result(value)
        else:
            ticket.future.set_exception(error)

    def _give_back(self, ticket: Ticket[Any]) -> Exception | None:
        """Take from a request all that it holds; the fault, if there is one in how it ends."""
        work, ticket._work = ticket._work, None
        try:
            if work is not None:
                work.close()
        except Exception as error:
            return error
        return None
