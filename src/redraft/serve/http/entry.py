"""Lets requests into the application one at a time, so that what a hundred of them take at once delays nobody else."""

import asyncio
from collections import OrderedDict, deque

# Seconds after its last request for which a client counts as there.
_THERE = 5.0


class Entry:
    """The queue of requests that have arrived whole: one for each round of the event loop, the clients in turn.

    To read and check a request takes the event loop milliseconds. Of many that are ready at once all would be handled
    before anything else is looked at, such as a request that only asks whether the server lives. And while there are
    other clients, one's next request waits for as long as the round of its last one took: so that a client that asks
    more often than can be answered leaves half of the time to others.
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._free_at: dict[str, float] = {}
        """The time from which on a client may have its next turn, of those that are there."""
        self._busy = False
        """True while a round is under way, or one is planned."""

    async def enter(self, owner: str) -> None:
        """Wait for the turn of a client's request."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._queues.setdefault(owner, deque()).append(turn)
        self._plan(loop)
        await turn

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._busy and self._queues:
            self._busy = True
            at = min(self._free_at.get(owner, 0.0) for owner in self._queues)
            if at > loop.time():
                loop.call_at(at, self._next, loop)
            else:
                loop.call_soon(self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        owner = min(self._queues, key=lambda one: max(self._free_at.get(one, 0.0), now))
        queue = self._queues.pop(owner)
        turn = queue.popleft()
        if queue:
            # Behind the others.
            self._queues[owner] = queue
        if not turn.done():
            turn.set_result(None)
        # What waits for the turn goes on in the next round, and then this.
        loop.call_soon(self._done, loop, owner, now)

    def _done(self, loop: asyncio.AbstractEventLoop, owner: str, began: float) -> None:
        now = loop.time()
        self._free_at = {one: at for one, at in self._free_at.items() if at > now - _THERE}
        alone = not self._free_at.keys() - {owner}
        self._free_at[owner] = now if alone else now + (now - began)
        self._busy = False
        self._plan(loop)
