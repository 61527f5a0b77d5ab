"""Many requests, one model or a few: a thread of its own puts what their tasks ask for into batches.

A batch is one model's: where there are several they take turns, and each has all processor threads while it computes.
A request joins and leaves between two forwards. On the kernels what it says does not depend on who else is there: a row
is computed from that row alone, and every draw is keyed by the request's own seed.
"""

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field, replace
from time import perf_counter
from typing import Any, Generic, TypeVar

from redraft.engine.fairness import Client, ClientShares, Round
from redraft.engine.result import Chunk, OnStep
from redraft.engine.runtime import Runtime, advance, no_room, start
from redraft.engine.task import Forward, Progress, Runnable, Waiting
from redraft.errors import BusyError, CancelledError, GenerationError, RequestError, ShuttingDownError
from redraft.models.base import PREFILL_CHUNK
from redraft.models.sizing import parameters

T = TypeVar("T")

MAX_BATCH_ROWS = 1024
"""Rows of a batch unless said otherwise: four canvases of 256. `python -m bench.batching --rows` tries others."""
MAX_CONCURRENCY = 16
MIN_WORK = 16
"""Rows that a forward counts for at least: fewer take no less time, in which the weights are read. Were they counted as
they are, whoever writes token after token would keep a canvas waiting for as many forwards as it has rows."""
LATELY = 32
"""Forwards for which an owner counts as there after its last one: so soon its next request may come."""


@dataclass(frozen=True)
class Load:
    """A count of what a scheduler is doing."""

    running: int = 0
    waiting: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    preempted: int = 0
    """Times a request was put back for memory, or for the place of another client, and began again later."""
    forwards: int = 0
    """Batches computed."""
    requests: int = 0
    """Requests in all of these batches together."""
    rows: int = 0
    """Rows in all of them together."""


@dataclass(eq=False)
class Handle(Generic[T]):
    """One request's place in a scheduler. ``result`` waits for what comes of it."""

    runnable: Runnable[T]
    runtime: Runtime
    client: Client
    on_chunk: Callable[[Chunk], None] | None
    on_step: OnStep | None
    future: "Future[T]" = field(default_factory=Future)
    _progress: Progress[T] | None = None
    _cancelled: bool = False
    _chunks: int = 0
    """Chunks handed out already, which a request that begins again does not hand out twice."""
    _repeated: int = 0

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result; raises the request's error, or TimeoutError after ``timeout`` seconds."""
        return self.future.result(timeout)

    def cancel(self) -> None:
        """End the request: it gives back what it holds before the model's next forward but one."""
        self._cancelled = True

    @property
    def asked(self) -> object:
        """The answer that the task waits for."""
        return None if self._progress is None else self._progress.asked

    @property
    def rows(self) -> int:
        """Rows that the task takes of the next batch."""
        asked = self.asked
        return asked.rows if isinstance(asked, Forward) else 0

    def begin(self) -> None:
        """Begin the task, or begin it again after it was put back."""
        self._repeated = 0
        self._progress = Progress(self.runnable.task(self.on_step), self._hand_out)
        start(self._progress)

    def _hand_out(self, chunk: Chunk) -> None:
        self._repeated += 1
        if self._repeated > self._chunks:
            self._chunks = self._repeated
            if self.on_chunk is not None:
                self.on_chunk(chunk)


class Scheduler:
    """Runs the tasks of many requests in batches. Its methods may be called from any thread."""

    def __init__(
        self,
        runtime: Runtime | Sequence[Runtime],
        *,
        max_concurrency: int = MAX_CONCURRENCY,
        max_waiting: int = 256,
        max_batch_rows: int = MAX_BATCH_ROWS,
    ) -> None:
        """``runtime``: the model, or all models, that requests are for. A row counts by the parameters that compute it.

        ``max_concurrency``: requests that run; the others wait, at most ``max_waiting`` of them. ``max_batch_rows``:
        rows of one forward; a canvas is in a batch whole or not at all, and one that is larger goes alone.

        Whose turn it is goes by work done so far, the least first: by the rows that an owner's requests have had
        computed, and what else was charged to them; among the requests of one owner by those of their users, and among
        one user's by the order in which they came. While there are several owners none has more of a batch than a
        canvas, or a request: also where it alone wants something, and the other was here ``LATELY``, where a forward
        takes as long as it has rows. An owner that has no request running gets the place of one that has several.
        """
        self.runtimes = (runtime,) if isinstance(runtime, Runtime) else tuple(runtime)
        self._costs = _row_costs(self.runtimes)
        self._max_concurrency, self._max_waiting, self._max_rows = max_concurrency, max_waiting, max_batch_rows
        self._running: list[Handle[Any]] = []
        self._waiting: OrderedDict[Client, deque[Handle[Any]]] = OrderedDict()
        self._shares = ClientShares()
        self._lately: dict[str, int] = {}
        """The number of the last forward of each owner that had rows of one lately."""
        self._loads = {one: Load() for one in self.runtimes}
        self._forwards = 0
        """Batches of all models."""
        self._latest = dict.fromkeys(self.runtimes, 0)
        """The number of each model's latest batch."""
        self._seconds = self._computed = 0.0
        """Seconds that the forwards took, and the work that was computed in them."""
        self._changed = threading.Condition()
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._run, name="redraft-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        runnable: Runnable[T],
        *,
        client: Client | str = "",
        on_chunk: Callable[[Chunk], None] | None = None,
        on_step: OnStep | None = None,
    ) -> Handle[T]:
        """Queue a request; ``on_chunk`` and ``on_step`` are called from the scheduler's thread. ``client``: whom it is
        for; a text is an owner. It is for the model of its ``runtime``, or the first where it has none.

        Raises ShuttingDownError once ``close`` was called, BusyError where too many wait, and RequestError for another
        model's request.
        """
        client = Client(client) if isinstance(client, str) else client
        runtime = getattr(runnable, "runtime", self.runtimes[0])
        if runtime not in self.runtimes:
            raise RequestError("the request was made for a model that this scheduler does not run")
        handle = Handle(runnable, runtime, client, on_chunk, on_step)
        # Whoever waits for the future must not cancel it under the thread that fulfils it; there is ``cancel``.
        handle.future.set_running_or_notify_cancel()
        with self._changed:
            if self._closing:
                raise ShuttingDownError("the server is shutting down; it takes no more requests")
            self._check_room(client)
            # Before it is there: who comes anew is level with those that are.
            self._forget_clients()
            self._waiting.setdefault(client, deque()).append(handle)
            self._changed.notify_all()
        return handle

    def _check_room(self, client: Client) -> None:
        """Refuse a request where too many wait; an owner that fills the queue leaves room for others."""
        waiting = Counter({client.owner: 0})
        for other, queue in self._waiting.items():
            waiting[other.owner] += len(queue)
        if waiting.total() >= self._max_waiting and waiting[client.owner] >= self._max_waiting // len(waiting):
            raise BusyError(f"{waiting.total()} requests are waiting already; try again later")

    def charge(self, client: Client, seconds: float) -> None:
        """Count work that was done for a client outside of the forwards, as the rows computed in so many seconds."""
        with self._changed:
            if self._seconds:
                self._shares.add(client, seconds * self._computed / self._seconds)

    @property
    def load(self) -> Load:
        """Return what is going on now, and what has been since the start, of all models together."""
        loads = [self.load_of(runtime) for runtime in self.runtimes]
        return Load(*(sum(counts) for counts in zip(*map(astuple, loads), strict=True)))

    def load_of(self, runtime: Runtime) -> Load:
        """Return the same of one model."""
        with self._changed:
            waiting = sum(handle.runtime is runtime for queue in self._waiting.values() for handle in queue)
            running = sum(handle.runtime is runtime for handle in self._running)
            return replace(self._loads[runtime], running=running, waiting=waiting)

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
            self._serve()
        finally:
            # Also where the scheduler itself fails: nobody shall wait for an answer that cannot come.
            with self._changed:
                self._closing = self._closed = True
                left = [*self._running, *(handle for queue in self._waiting.values() for handle in queue)]
                self._waiting.clear()
            for handle in left:
                self._end(handle, CancelledError("the service ended before the request was finished"))

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._running or self._waiting)
                if self._closed:
                    return
            self._make_places()
            with self._changed:
                self._admit()
                running = list(self._running)
            for handle in running:
                self._prepare(handle)
            running = [handle for handle in running if handle in self._running]
            batch = self._batch([handle for handle in running if isinstance(handle.asked, Forward)])
            for memory in {handle.runtime.pool.memory for handle in running}:
                self._make_room([handle for handle in running if handle.runtime.pool.memory is memory])
            if batch:
                self._compute(batch)

    def _make_places(self) -> None:
        """Put back the youngest request of the owner that has the most, for each waiting owner that has none running.

        Otherwise whoever came first, with requests that take long, would keep all others out until these end.
        """
        with self._changed:
            running = Counter(handle.client.owner for handle in self._running)
            full = len(self._running) >= self._max_concurrency
            without = {client.owner for client in self._waiting} - set(running)
        for _ in without if full else ():
            owner, count = running.most_common(1)[0]
            if count < 2:
                return
            running[owner] -= 1
            self._put_back(next(handle for handle in reversed(self._running) if handle.client.owner == owner))

    def _admit(self) -> None:
        """Let waiting requests join, of the client first that has had the least work."""
        joined: Counter[str | Client] = Counter()
        present = Counter(handle.client.owner for handle in self._running)

        def turn(client: Client) -> tuple[bool, float, float, float, float]:
            owner = client.owner
            return (
                present[owner] > 0,
                joined[owner],
                self._shares.of_owner(owner),
                joined[client],
                self._shares.of_user(client),
            )

        while len(self._running) < self._max_concurrency and self._waiting:
            client = min(self._waiting, key=turn)
            joined[client.owner] += 1
            joined[client] += 1
            queue = self._waiting[client]
            self._running.append(queue.popleft())
            if not queue:
                del self._waiting[client]

    def _prepare(self, handle: Handle[Any]) -> None:
        """Take a request to what it asks of the next batch, or to its end."""
        progress = handle._progress
        if handle._cancelled:
            self._end(handle, CancelledError("the request was cancelled"))
            return
        try:
            if progress is None:
                handle.begin()
            elif progress.asked is Waiting.FOR_MEMORY:
                progress.advance()
        except Exception as error:  # whatever goes wrong with one request must not end the others
            self._end(handle, error)
            return
        self._settle(handle)

    def _batch(self, ready: Sequence[Handle[Any]]) -> list[Handle[Any]]:
        """Choose what goes into the next forward: the client with the least work first, until the rows are full."""
        runtime = self._turn(ready)
        ready = [handle for handle in ready if handle.runtime is runtime]
        # What has no rows is in every batch of its model, and has no share that others would have to keep to.
        batch = [handle for handle in ready if not handle.rows]
        queues: dict[Client, deque[Handle[Any]]] = {}
        for handle in ready:
            if handle.rows:
                queues.setdefault(handle.client, deque()).append(handle)
        with self._changed:
            turns = Round(self._shares, queues, self._ahead(runtime), self._shared(runtime))
        rows = 0
        while queues:
            client = turns.next(queues)
            handle = queues[client].popleft()
            if not queues[client]:
                del queues[client]
            if (rows and rows + handle.rows > self._max_rows) or not turns.allowed(client):
                continue
            batch.append(handle)
            rows += handle.rows
            turns.take(client, self._work(handle))
        return batch

    def _turn(self, ready: Sequence[Handle[Any]]) -> Runtime:
        """Return the model of the next batch: of those that the client with the least work wants something of, the one
        that has waited longest."""
        wanted = {handle.runtime for handle in ready}
        if len(wanted) > 1:
            with self._changed:
                turns = Round(self._shares, {handle.client for handle in ready}, 0)
            client = turns.next(dict.fromkeys(handle.client for handle in ready))
            wanted = {handle.runtime for handle in ready if handle.client == client}
        return min(wanted or self.runtimes, key=self._latest.__getitem__)

    def _compute(self, batch: Sequence[Handle[Any]]) -> None:
        runtime = batch[0].runtime
        rows = sum(handle.rows for handle in batch)
        work = {handle: self._work(handle) for handle in batch}
        self._forwards += 1
        self._latest[runtime] = self._forwards
        began = perf_counter()
        advance(runtime, [handle._progress for handle in batch if handle._progress is not None])
        with self._changed:
            self._seconds += perf_counter() - began
            self._computed += rows * self._costs[runtime]
            for handle, own in work.items():
                self._shares.add(handle.client, own)
                if own:
                    self._lately[handle.client.owner] = self._forwards
            since = self._forwards - LATELY
            self._lately = {owner: number for owner, number in self._lately.items() if number > since}
            load = self._loads[runtime]
            self._loads[runtime] = replace(
                load, forwards=load.forwards + 1, requests=load.requests + len(batch), rows=load.rows + rows
            )
        for handle in batch:
            self._settle(handle)

    def _work(self, handle: Handle[Any]) -> float:
        """Return the rows that a request's share of the next forward counts for, no more of them than a canvas."""
        if not handle.rows:
            return 0
        cost = self._costs[handle.runtime]
        return max(handle.rows * cost, min(MIN_WORK * cost, self._ahead(handle.runtime)))

    def _ahead(self, runtime: Runtime) -> float:
        """Return the work by which an owner may get ahead of another in a batch: a canvas."""
        return self._costs[runtime] * (runtime.model.config.canvas_length or PREFILL_CHUNK)

    def _shared(self, runtime: Runtime) -> bool:
        """Return whether a large batch would make an owner wait that is not in it; elsewhere than on a processor it
        takes hardly longer than a small one."""
        return runtime.model.device.type == "cpu" and len({client.owner for client in self._present()}) > 1

    def _present(self) -> set[Client]:
        """Return those that have something here, and, by their owners, those that had lately."""
        return {*(handle.client for handle in self._running), *self._waiting, *map(Client, self._lately)}

    def _settle(self, handle: Handle[Any]) -> None:
        """End a request whose task has ended."""
        progress = handle._progress
        if progress is not None and progress.ended:
            self._end(handle, progress.error, None if progress.error is not None else progress.value)

    def _make_room(self, running: Sequence[Handle[Any]]) -> None:
        """Put all requests back that wait for memory on one budget, the youngest first, until the oldest can go
        on: so each comes to its end in its turn.

        The youngest alone may hold nothing, or less than anybody needs, and would take it again at once.
        """
        if not all(handle.asked is Waiting.FOR_MEMORY for handle in running):
            return
        oldest, *others = running
        while oldest.asked is Waiting.FOR_MEMORY and others:
            self._put_back(others.pop())
            self._prepare(oldest)
        if oldest.asked is Waiting.FOR_MEMORY:
            self._end(oldest, GenerationError(no_room(oldest.runtime)))

    def _put_back(self, handle: Handle[Any]) -> None:
        """Take from a request all that it holds; it begins again, with the same result, when there is room."""
        fault = self._give_back(handle)
        if fault is not None:
            self._end(handle, fault)
            return
        with self._changed:
            self._running.remove(handle)
            self._waiting.setdefault(handle.client, deque()).appendleft(handle)
            load = self._loads[handle.runtime]
            self._loads[handle.runtime] = replace(load, preempted=load.preempted + 1)

    def _end(self, handle: Handle[Any], error: Exception | None, value: Any = None) -> None:
        error = self._give_back(handle) or error
        with self._changed:
            if handle in self._running:
                self._running.remove(handle)
            outcome = "finished" if error is None else "cancelled" if isinstance(error, CancelledError) else "failed"
            load = self._loads[handle.runtime]
            self._loads[handle.runtime] = replace(load, **{outcome: getattr(load, outcome) + 1})
            self._forget_clients()
            self._changed.notify_all()
        if error is None:
            handle.future.set_result(value)
        else:
            handle.future.set_exception(error)

    def _forget_clients(self) -> None:
        """Keep count of those that have something here, or had lately, or owe something to those."""
        self._shares.keep(self._present())

    def _give_back(self, handle: Handle[Any]) -> Exception | None:
        """Take from a request all that it holds; the fault, if there is one in how it ends."""
        progress, handle._progress = handle._progress, None
        try:
            if progress is not None:
                progress.close()
        except Exception as error:
            return error
        return None


def _row_costs(runtimes: Sequence[Runtime]) -> dict[Runtime, float]:
    """Return what a row of each model counts for: its share of the largest model's active parameters; 1 for all where
    one was not loaded from a checkpoint, whose size is known."""
    found = [one.origin and parameters(one.origin.checkpoint)[1] for one in runtimes]
    known = [size for size in found if size]
    if len(known) < len(runtimes):
        return dict.fromkeys(runtimes, 1.0)
    return {one: size / max(known) for one, size in zip(runtimes, known, strict=True)}
