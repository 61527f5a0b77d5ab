"""Shares and turns: by owner first, by user within, by work done; nobody gains by inventing names."""

import threading
from collections import Counter
from collections.abc import Callable

import pytest

from redraft.engine.fairness import Client, ClientShares, Round, Shares, Turns
from redraft.errors import BusyError, CancelledError, ShuttingDownError


def served(shares: ClientShares, wanting: list[Client], rounds: int) -> Counter[Client]:
    """Count who comes next, each time for one piece of work."""
    had: Counter[Client] = Counter()
    for _ in range(rounds):
        turns = Round(shares, wanting, ahead=1)
        client = turns.next(wanting)
        had[client] += 1
        shares.add(client, 1)
        shares.keep(wanting)
    return had


def test_two_hundred_invented_users_have_together_what_one_client_has() -> None:
    invented = [Client("a", f"user {number}") for number in range(200)]
    had = served(ClientShares(), [*invented, Client("b")], 400)
    assert had[Client("b")] == 200
    assert all(had[client] == 1 for client in invented)


def test_who_comes_anew_has_no_claim_to_the_time_before() -> None:
    shares = Shares()
    shares.add("old", 1000)
    shares.keep(["old"])
    shares.add("new", 1)
    assert (shares.of("old"), shares.of("new")) == (1000, 1001)


def test_who_leaves_and_comes_back_owes_what_it_owed_as_long_as_anybody_is_there() -> None:
    shares = Shares()
    shares.add("a", 10)
    shares.add("b", 50)
    shares.keep(["a"])
    assert shares.of("b") == 50
    shares.add("a", 45)
    shares.keep(["a"])
    assert (shares.of("b"), len(shares)) == (55, 1), "it is level with the one that is there"
    shares.keep([])
    assert (shares.of("a"), len(shares)) == (0, 0)


def test_names_that_left_are_forgotten() -> None:
    shares = ClientShares()
    for number in range(1000):
        client = Client("a", f"user {number}")
        shares.add(client, 1)
        shares.keep([client, Client("b", "always")])
    assert len(shares) <= 2 + 2


def test_in_a_batch_no_owner_gets_further_ahead_than_allowed() -> None:
    a, b = Client("a"), Client("b")
    shares = ClientShares()
    taken: Counter[Client] = Counter()
    turns = Round(shares, [a, b], ahead=256)
    wanted = {a: 1, b: 100}
    while any(wanted.values()):
        client = turns.next([one for one in wanted if wanted[one]])
        if not turns.allowed(client):
            break
        turns.take(client, 256)
        wanted[client] -= 1
        taken[client] += 1
    assert taken == {a: 1, b: 1}, "as much as the other"
    shares.add(a, 300)
    behind = Round(shares, [a, b], ahead=256)
    assert behind.next([a, b]) == b
    behind.take(b, 256)
    assert not behind.allowed(b), "what it is behind it gets batch by batch"
    assert behind.allowed(a)
    alone = Round(shares, [b], ahead=256)
    for _ in range(100):
        assert alone.allowed(b), "with nobody else there is no bound"
        alone.take(b, 256)


def test_an_owner_alone_in_a_batch_has_no_more_of_it_than_allowed_while_others_may_come() -> None:
    b, other_user = Client("b"), Client("b", "another")
    turns = Round(ClientShares(), [b, other_user], ahead=256, shared=True)
    turns.take(b, 200)
    assert turns.allowed(other_user), "small requests go together"
    turns.take(other_user, 56)
    assert not turns.allowed(b)
    assert not turns.allowed(other_user), "the bound is the owner's"


def places(**more: int) -> Turns:
    return Turns("jobs", **{"at_once": 2, "of_each": 1, "waiting": 8, "waiting_of_each": 4, **more})


class Holder(threading.Thread):
    """Takes a place and holds it until it is let go."""

    def __init__(self, turns: Turns, owner: str, log: list[str] | None = None) -> None:
        super().__init__(daemon=True)
        self.gone, self.begun, self.go = threading.Event(), threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._turns, self._owner, self._log = turns, owner, log
        self.start()

    def run(self) -> None:
        try:
            with self._turns.turn(self._owner, self.gone.is_set):
                if self._log is not None:
                    self._log.append(self._owner)
                self.begun.set()
                assert self.go.wait(600)
        except Exception as error:
            self.error = error


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(60_000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("waited in vain")


def test_of_each_owner_so_many_have_a_place_as_it_may() -> None:
    turns = places()
    first, second = Holder(turns, "a"), Holder(turns, "a")
    other = Holder(turns, "b")
    assert other.begun.wait(600), "the other's second does not stand in its way"
    assert first.begun.is_set() != second.begun.is_set()
    for one in (first, second, other):
        one.go.set()
        one.join(600)
    assert (turns.running, turns.waiting) == (0, 0)


def test_the_least_served_owner_comes_next() -> None:
    turns, log = places(at_once=1), list[str]()
    holding = Holder(turns, "a")
    assert holding.begun.wait(600)
    turns.charge("a", 5.0)
    waiting = [Holder(turns, owner, log) for owner in ("a", "b")]
    until(lambda: turns.waiting == 2)
    for one in waiting:
        one.go.set()
    holding.go.set()
    for one in waiting:
        one.join(600)
    assert log == ["b", "a"]


def test_who_has_gone_waits_no_longer() -> None:
    turns = places(at_once=1)
    holding = Holder(turns, "a")
    assert holding.begun.wait(600)
    waiting = Holder(turns, "b")
    waiting.gone.set()
    waiting.join(600)
    assert isinstance(waiting.error, CancelledError)
    holding.go.set()
    holding.join(600)


def test_too_many_that_wait_are_refused_and_other_owners_are_not() -> None:
    turns = places(at_once=1, waiting=3, waiting_of_each=2)
    holding = Holder(turns, "a")
    assert holding.begun.wait(600)
    waiting = [Holder(turns, "a") for _ in range(2)]
    until(lambda: turns.waiting == 2)
    with pytest.raises(BusyError, match="2 jobs of yours are waiting"), turns.turn("a"):
        pass
    waiting.append(Holder(turns, "b"))
    until(lambda: turns.waiting == 3)
    with pytest.raises(BusyError, match="3 jobs are waiting"), turns.turn("c"):
        pass
    turns.close()
    for one in waiting:
        one.join(600)
        assert isinstance(one.error, ShuttingDownError)
    holding.go.set()
    holding.join(600)


def test_a_place_is_free_while_its_holder_waits_elsewhere() -> None:
    turns = places(at_once=1)
    with turns.turn("a"), turns.paused("a"):
        other = Holder(turns, "a")
        assert other.begun.wait(600)
        other.go.set()
        other.join(600)
    assert turns.running == 0
