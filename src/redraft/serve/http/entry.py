"""The turns in which the event loop does what clients ask for: one at a time, so that a hundred delay nobody else."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

# Seconds after its last turn for which a client counts as there.
_THERE = 5.0
# For a second of a client's work it has no turn for so many while other clients are there, and for no more at once.
_PAUSE, _MAX_PAUSE = 2.0, 1.0


@dataclass(frozen=True, eq=False)
class _Turn:
    """Something to do for a client, as long as it is wanted."""

    do: Callable[[], object]
    wanted: Callable[[], bool]
    counts: bool


@dataclass(eq=False)
class _Round:
    """The time of a turn: that of what it does, and of what this has begun, which the event loop does next. What else
    there is to do between is not its client's."""

    owner: str | None
    """None where the turn counts for nobody."""
    seconds: float = 0.0
    goes_on: float = 0.0


class Entry:
    """The queue of what has arrived: bytes of connections, then requests whose bodies are whole. One for each round of
    the event loop, the clients in turn.

    To read and check a request takes the event loop milliseconds. Of many that are ready at once all would be handled
    before anything else is looked at, such as a request that only asks whether the server lives. And while there are
    other clients, a client's next turn waits for twice as long as its last one took, and what was done in threads for
    it: all of that shares the interpreter with what runs the model for the others, who would have none left of it.
    """

    def __init__(self, charge: Callable[[str, float], object] = lambda owner, seconds: None) -> None:
        """``charge`` is told the seconds that were spent for a client."""
        self._charge = charge
        self._queues: OrderedDict[str, deque[_Turn]] = OrderedDict()
        self._free_at: dict[str, float] = {}
        """The time from which on a client may have its next turn, of those that are there."""
        self._newest = False
        """The next of those that nobody knows is the newest of them, not the oldest."""
        self._busy = False
        """True while a round is under way."""
        self._later: asyncio.TimerHandle | None = None
        """Looks again once the first of those has waited that have to."""

    def call(self, owner: str, do: Callable[[], object], wanted: Callable[[], bool]) -> None:
        """Have ``do`` called in a turn of a client's, which is not taken where it is not ``wanted`` any longer."""
        self._append(owner, _Turn(do, wanted, counts=True))
        self._plan(asyncio.get_running_loop())

    def greet(self, address: str, do: Callable[[], object], wanted: Callable[[], bool]) -> None:
        """Have ``do`` called in a turn of those who ask from an address and are not known yet: it counts for nobody.

        The oldest and the newest come in turn, so that who only looks whether the server lives does not stand behind
        two hundred that came at once, and these come in the end.
        """
        self._append(f"new {address}", _Turn(do, wanted, counts=False))
        self._plan(asyncio.get_running_loop())

    def _append(self, queue: str, turn: _Turn) -> None:
        self._queues.setdefault(queue, deque()).append(turn)

    def line_up(self, owner: str) -> asyncio.Future[None]:
        """Return what is fulfilled when it is a client's turn; who fulfils or cancels it before wants none."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()

        self._append(owner, _Turn(lambda: turn.set_result(None), lambda: not turn.done(), counts=True))
        # Not at once: who waits has to be woken, so that what it does then is within the round.
        loop.call_soon(self._plan, loop)
        return turn

    async def enter(self, owner: str) -> None:
        """Wait for the turn of a client's request."""
        await self.line_up(owner)

    def spent(self, owner: str, seconds: float) -> None:
        """Count what was done for a client in a thread."""
        now = asyncio.get_running_loop().time()
        self._charge(owner, seconds)
        self._note(owner, now, seconds)

    def _note(self, owner: str, now: float, seconds: float) -> None:
        """Have a client wait for its next turn, unless there is no other."""
        self._free_at = {one: at for one, at in self._free_at.items() if at > now - _THERE}
        others = self._free_at.keys() - {owner}
        free_at = max(self._free_at.get(owner, now), now) + _PAUSE * seconds
        self._free_at[owner] = min(free_at, now + _MAX_PAUSE) if others else now

    def _plan(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._later is not None:
            # Who has come since need not wait for as long.
            self._later.cancel()
            self._later = None
        if self._busy or not self._queues:
            return
        at = min(self._free_at.get(owner, 0.0) for owner in self._queues)
        if at > loop.time():
            self._later = loop.call_at(at, self._plan, loop)
        else:
            self._next(loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do what comes next, if there is something that is still wanted and whose client need not wait."""
        self._busy = True
        while self._queues:
            now = loop.time()
            owner = min(self._queues, key=lambda one: max(self._free_at.get(one, 0.0), now))
            if self._free_at.get(owner, 0.0) > now:
                break
            turn = self._pop(owner)
            if turn.wanted():
                self._begin(loop, turn, _Round(owner if turn.counts else None))
                return
        self._busy = False
        self._plan(loop)

    def _pop(self, owner: str) -> _Turn:
        """Take the next turn of a queue, which goes behind the others."""
        queue = self._queues.pop(owner)
        if queue[0].counts:
            turn = queue.popleft()
        else:
            turn = queue.pop() if self._newest else queue.popleft()
            self._newest = not self._newest
        if queue:
            self._queues[owner] = queue
        return turn

    def _begin(self, loop: asyncio.AbstractEventLoop, turn: _Turn, round: _Round) -> None:
        began = loop.time()
        # Before and behind what the turn has begun, in the next round of the event loop; then comes whoever is next.
        loop.call_soon(self._go_on, loop, round)
        try:
            turn.do()
        finally:
            round.seconds = loop.time() - began
            loop.call_soon(self._end, loop, round)

    def _go_on(self, loop: asyncio.AbstractEventLoop, round: _Round) -> None:
        round.goes_on = loop.time()

    def _end(self, loop: asyncio.AbstractEventLoop, round: _Round) -> None:
        if round.owner is not None:
            now = loop.time()
            seconds = round.seconds + now - round.goes_on
            self._charge(round.owner, seconds)
            self._note(round.owner, now, seconds)
        self._busy = False
        self._plan(loop)
