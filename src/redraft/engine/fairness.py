"""Fairness among clients, by work done: who comes next, and who has to wait although there is a place."""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from redraft.errors import BusyError, CancelledError, ShuttingDownError

# Seconds between two looks whether somebody still waits for what waits for its turn.
_LOOK = 0.25


@dataclass(frozen=True)
class Client:
    """Whom a request is for. Shares go by the owner first, and among an owner's requests by the user."""

    owner: str = ""
    """The API key or the address that it came from: what a client cannot make up."""
    user: str = ""
    """The name that the client gives to whoever is behind the request: what it can make up."""


class Shares:
    """The work that each of several names has had.

    Who comes anew begins level with the one present that has had the least: nobody has a claim to the time before. Who
    leaves and comes back owes what it owed.
    """

    def __init__(self) -> None:
        self._work: dict[str, float] = {}
        self._level = 0.0
        """The least work among those present when it was last looked at."""

    def __len__(self) -> int:
        """Return how many names are remembered."""
        return len(self._work)

    def of(self, name: str) -> float:
        """Return the work that counts against a name."""
        return max(self._work.get(name, 0.0), self._level)

    def add(self, name: str, work: float) -> None:
        """Count work for a name."""
        self._work[name] = self.of(name) + work

    def keep(self, present: Collection[str]) -> None:
        """Forget the names that are not ``present`` and owe them nothing."""
        if not present:
            # With nobody else here, what one has had was taken from nobody.
            self._work, self._level = {}, 0.0
            return
        self._level = min(map(self.of, present))
        self._work = {name: work for name, work in self._work.items() if work > self._level or name in present}


class ClientShares:
    """Shares of owners, and of the users of each owner."""

    def __init__(self) -> None:
        self._owners, self._users = Shares(), dict[str, Shares]()

    def __len__(self) -> int:
        """Return how many owners and users are remembered."""
        return len(self._owners) + sum(map(len, self._users.values()))

    def of_owner(self, owner: str) -> float:
        return self._owners.of(owner)

    def of_user(self, client: Client) -> float:
        users = self._users.get(client.owner)
        return 0.0 if users is None else users.of(client.user)

    def add(self, client: Client, work: float) -> None:
        """Count work for a client's owner, and for its user among those of the owner."""
        self._owners.add(client.owner, work)
        self._users.setdefault(client.owner, Shares()).add(client.user, work)

    def keep(self, present: Iterable[Client]) -> None:
        """Forget who is not ``present`` and owes them nothing."""
        users: dict[str, set[str]] = {}
        for client in present:
            users.setdefault(client.owner, set()).add(client.user)
        self._owners.keep(users)
        self._users = {owner: shares for owner, shares in self._users.items() if owner in users}
        for owner, shares in self._users.items():
            shares.keep(users[owner])


class Round:
    """The choice of one batch: the client that has had the least work first, what was taken already included.

    Where a batch is shared, no owner gets more of it than makes ``ahead``, its first request whole, and none gets
    further ``ahead`` than that of any other owner that wants something now. So neither who waits beside an owner, nor
    who comes while the batch is computed, waits for much of it.
    """

    def __init__(self, shares: ClientShares, wanting: Collection[Client], ahead: float, shared: bool = False) -> None:
        """``wanting``: the clients that want something of this batch. ``shared``: there are other owners than one, even
        if none of them wants something of this one."""
        self._shares, self._ahead = shares, ahead
        self._owners = {client.owner: shares.of_owner(client.owner) for client in wanting}
        self._users = {client: shares.of_user(client) for client in wanting}
        self._shared = shared or len(self._owners) > 1
        self._taken: dict[str, float] = {}

    def next(self, clients: Iterable[Client]) -> Client:
        """Return whose turn it is among those that have something left."""
        return min(clients, key=lambda client: (self._owners[client.owner], self._users[client]))

    def allowed(self, client: Client) -> bool:
        """Return whether the client's owner may have more of this batch."""
        if not self._taken or not self._shared:
            return True
        others = (work for owner, work in self._owners.items() if owner != client.owner)
        own = self._owners[client.owner]
        return self._taken.get(client.owner, 0.0) < self._ahead and all(own < other + self._ahead for other in others)

    def take(self, client: Client, work: float) -> None:
        """Note what the client has of this batch."""
        self._owners[client.owner] += work
        self._users[client] += work
        self._taken[client.owner] = self._taken.get(client.owner, 0.0) + work


@dataclass(eq=False)
class _Ticket:
    """A claim to a place, granted by whoever gives one back: so that only the one whose turn it is wakes up."""

    owner: str
    granted: threading.Event = field(default_factory=threading.Event)


class Turns:
    """Places for work that threads do for owners: few at once, and of each owner fewer, the least served first.

    Its methods may be called from any thread.
    """

    def __init__(self, what: str, *, at_once: int, of_each: int, waiting: int, waiting_of_each: int) -> None:
        """``what``: the work as errors name it, in the plural. ``at_once``, ``of_each``: how many have a place, in all
        and of one owner. ``waiting``, ``waiting_of_each``: how many may wait for one."""
        self._what, self._at_once, self._of_each = what, at_once, of_each
        self._max_waiting, self._max_waiting_of_each = waiting, waiting_of_each
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._waiting: list[_Ticket] = []
        self._shares = Shares()
        self._closed = False

    @property
    def running(self) -> int:
        """The number of those that have a place."""
        with self._lock:
            return self._running.total()

    @property
    def waiting(self) -> int:
        """The number of those that wait for a place."""
        with self._lock:
            return len(self._waiting)

    @contextmanager
    def turn(self, owner: str, gone: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Wait for a place, and hold it. ``gone``: tells that nobody waits for the work any longer.

        Raises BusyError where too many wait already, CancelledError once ``gone`` is true, and ShuttingDownError after
        ``close``.
        """
        self._acquire(owner, gone)
        try:
            yield
        finally:
            self._release(owner)

    @contextmanager
    def paused(self, owner: str) -> Iterator[None]:
        """Give a place back that is held, and wait until there is one again: for what is done elsewhere meanwhile."""
        self._release(owner)
        try:
            yield
        finally:
            # What was admitted once is not refused in the midst of it.
            self._acquire(owner, lambda: False, admitted=True)

    def charge(self, owner: str, work: float) -> None:
        """Count work that was done for an owner."""
        with self._lock:
            self._shares.add(owner, work)

    def close(self) -> None:
        """Let nobody wait any longer."""
        with self._lock:
            self._closed = True

    def _acquire(self, owner: str, gone: Callable[[], bool], admitted: bool = False) -> None:
        ticket = _Ticket(owner)
        with self._lock:
            if not admitted:
                self._check_room(owner)
            self._waiting.append(ticket)
            self._grant()
        while not ticket.granted.wait(_LOOK):
            with self._lock:
                if not ticket.granted.is_set() and (gone() or (self._closed and not admitted)):
                    self._waiting.remove(ticket)
                    self._forget()
                    break
        if ticket.granted.is_set() and not gone():
            return
        if ticket.granted.is_set():
            self._release(owner)
        if gone():
            raise CancelledError("nobody waits for the request any longer")
        raise ShuttingDownError("the server is shutting down; it takes no more requests")

    def _check_room(self, owner: str) -> None:
        if self._closed:
            raise ShuttingDownError("the server is shutting down; it takes no more requests")
        own = sum(ticket.owner == owner for ticket in self._waiting)
        if own >= self._max_waiting_of_each:
            raise BusyError(f"{own} {self._what} of yours are waiting already; try again later")
        if len(self._waiting) >= self._max_waiting:
            raise BusyError(f"{len(self._waiting)} {self._what} are waiting already; try again later")

    def _grant(self) -> None:
        """Give the free places to those whose turn it is: of the least served owners, who came first."""
        while self._running.total() < self._at_once:
            ready = [ticket for ticket in self._waiting if self._running[ticket.owner] < self._of_each]
            if not ready:
                return
            ticket = min(ready, key=lambda one: self._shares.of(one.owner))
            self._waiting.remove(ticket)
            self._running[ticket.owner] += 1
            ticket.granted.set()

    def _release(self, owner: str) -> None:
        with self._lock:
            self._running[owner] -= 1
            self._grant()
            self._forget()

    def _forget(self) -> None:
        self._running = +self._running
        self._shares.keep({*self._running, *(ticket.owner for ticket in self._waiting)})
