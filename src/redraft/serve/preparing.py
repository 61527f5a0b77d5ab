"""Checks requests in threads, few at once and fewer of each client; their constraints compile in other processes."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from redraft.constrain.job import BUILDER
from redraft.engine.compiling.processes import ClientBuilder, CompileProcesses
from redraft.engine.fairness import Client, Turns
from redraft.serve.http.entry import Entry
from redraft.serve.http.presence import ASKING, Asking

T = TypeVar("T")

# Checks at once, of all clients and of one. They share the interpreter with what runs the model.
AT_ONCE, OF_EACH = 4, 2
MAX_WAITING, MAX_WAITING_OF_EACH = 512, 256


class Preparing:
    """Runs what checks a request, which may tokenize and compile."""

    def __init__(self, processes: CompileProcesses | None, entry: Entry) -> None:
        """``processes``: where constraints are compiled; None for the thread that checks. ``entry``: what a check
        takes counts for the client's next turn there."""
        self.turns = Turns(
            "requests", at_once=AT_ONCE, of_each=OF_EACH, waiting=MAX_WAITING, waiting_of_each=MAX_WAITING_OF_EACH
        )
        self._processes, self._entry = processes, entry

    def begin(self, asking: Asking) -> None:
        """Have the constraints of a request compiled for its client; to be called in its context."""
        if self._processes is not None:
            elsewhere = partial(self.turns.paused, asking.owner)
            BUILDER.set(ClientBuilder(self._processes, Client(asking.owner), asking.gone.is_set, elsewhere))

    async def run(self, check: Callable[[], T]) -> T:
        """Run ``check`` when it is its client's turn.

        Raises what it raises, BusyError where too many of the client's requests wait, and CancelledError once the
        client has gone.
        """
        asking = ASKING.get() or Asking("")

        spent = list[float]()

        def in_turn() -> T:
            with self.turns.turn(asking.owner, asking.gone.is_set):
                began = time.thread_time()
                try:
                    return check()
                finally:
                    spent.append(time.thread_time() - began)

        try:
            return await in_thread(in_turn)
        finally:
            self._entry.spent(asking.owner, sum(spent))


async def in_thread(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread that ends with it, in the context of the current task; a pool would keep its threads."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    context = copy_context()
    errors, values = list[BaseException](), list[T]()

    def tell() -> None:
        if not done.cancelled():
            done.set_result(None)

    def run() -> None:
        try:
            values.append(context.run(work))
        except BaseException as raised:  # whatever it is, it is the caller's
            errors.append(raised)
        # A server that has stopped has no loop any longer, nor anybody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=run, name="redraft-request", daemon=True).start()
    await done
    if values:
        return values.pop()
    error = errors.pop()
    # Its traceback has these frames, which must not have it: what they hold, such as a whole body, would stay until
    # somebody looks for what only refers to itself.
    try:
        raise error
    finally:
        del error
