"""Lets requests into the application one at a time, so that what a hundred of them take at once delays nobody else."""

import asyncio
from collections import OrderedDict, deque


class Entry:
    """The queue of requests that have arrived whole: one for each round of the event loop, the clients in turn.

    To read and check a request takes the event loop milliseconds. Of many that are ready at once all would be handled
    before anything else is looked at, such as a request that only asks whether the server lives.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def enter(self, owner: str) -> None:
        """Wait for the turn of a client's request."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        if not self._queues:
            loop.call_soon(self._next, loop)
        self._queues.setdefault(owner, deque()).append(turn)
        await turn

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        owner, queue = self._queues.popitem(last=False)
        turn = queue.popleft()
        if queue:
            # Behind the others.
            self._queues[owner] = queue
        if not turn.done():
            turn.set_result(None)
        if self._queues:
            loop.call_soon(self._next, loop)
