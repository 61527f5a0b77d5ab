"""Many requests at once keep neither other clients waiting, nor what else the event loop has to do."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from redraft.serve.http.entry import Entry


def test_clients_enter_in_turn_and_others_are_looked_at_between() -> None:
    async def run() -> list[str]:
        entry, log = Entry(), list[str]()

        async def enter(owner: str) -> None:
            await entry.enter(owner)
            log.append(owner)

        async def look() -> None:
            while log.count("a") < 20:
                log.append("look")
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(enter("a"))
            tasks.create_task(enter("b"))
            tasks.create_task(look())
        return log

    log = asyncio.run(run())
    assert [owner for owner in log if owner != "look"][:4] in (["a", "b", "a", "a"], ["a", "a", "b", "a"])
    assert log.count("a") == 20
    entered = [index for index, what in enumerate(log) if what != "look"]
    assert all("look" in log[first:second] for first, second in pairwise(entered))


def test_who_gave_up_takes_no_turn_and_stops_nobody() -> None:
    async def run() -> None:
        entry = Entry()
        gone = asyncio.create_task(entry.enter("a"))
        stays = asyncio.create_task(entry.enter("a"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait_for(stays, 60)
        await asyncio.wait_for(entry.enter("b"), 60)

    asyncio.run(run())


def wanted() -> bool:
    return True


class Charged(dict[str, float]):
    """The seconds that count against each client."""

    def add(self, owner: str, seconds: float) -> None:
        self[owner] = self.get(owner, 0.0) + seconds


class Clock:
    """An event loop on a clock of its own, which stands still but for ``work``; waiting takes no time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.loop = asyncio.new_event_loop()
        self.loop.time = lambda: self.now  # type: ignore[method-assign]

    def run(self, test: Coroutine[Any, Any, None]) -> None:
        try:
            self.loop.run_until_complete(test)
        finally:
            self.loop.close()

    async def idle(self, done: Callable[[], bool]) -> None:
        """Let time pass until ``done``."""
        while not done():
            await asyncio.sleep(0)
            self.now += 0.01


@pytest.mark.parametrize("others", [False, True])
def test_one_that_asks_too_often_leaves_twice_the_time_that_it_takes_while_another_is_there(others: bool) -> None:
    """Each request of ``a`` takes a fifth of a second of the event loop."""
    clock, found, charged = Clock(), list[float](), Charged()

    async def ask(entry: Entry, owner: str) -> None:
        await entry.enter(owner)
        if owner == "a":
            found.append(clock.now)
            clock.now += 0.2

    async def run() -> None:
        entry = Entry(charged.add)
        if others:
            await ask(entry, "b")
        await asyncio.gather(clock.idle(lambda: len(found) == 3), *(ask(entry, "a") for _ in range(3)))
        await asyncio.sleep(0)

    clock.run(run())
    between = [second - first for first, second in pairwise(found)]
    assert all(seconds > 0.599 for seconds in between) if others else all(seconds < 0.3 for seconds in between)
    assert 0.599 < charged["a"] < 0.7, "what it takes counts for its share of the model"


def test_what_was_done_in_a_thread_counts_too() -> None:
    clock, entered = Clock(), list[float]()

    async def run() -> None:
        entry = Entry()
        await entry.enter("b")
        await asyncio.sleep(0)
        entry.spent("a", 0.2)
        entry.spent("a", 0.2)
        for owner in "ab":
            entry.call(owner, lambda: entered.append(clock.now), wanted)
        await clock.idle(lambda: len(entered) == 2)

    clock.run(run())
    assert entered[0] < 100.1, "the other one does not wait"
    assert 100.8 <= entered[1] < 100.9


def test_what_took_long_keeps_its_client_out_for_no_more_than_a_second() -> None:
    clock, entered = Clock(), list[float]()

    async def run() -> None:
        entry = Entry()
        await entry.enter("b")
        await asyncio.sleep(0)
        entry.spent("a", 60.0)
        entry.call("a", lambda: entered.append(clock.now), wanted)
        await clock.idle(lambda: len(entered) == 1)

    clock.run(run())
    assert 101 <= entered[0] < 101.1


def test_who_is_not_known_yet_makes_nobody_wait_and_is_charged_nothing() -> None:
    clock, entered, charged = Clock(), list[float](), list[str]()

    def greeted() -> None:
        clock.now += 1.0

    async def run() -> None:
        entry = Entry(lambda owner, seconds: charged.append(owner))
        for _ in range(3):
            entry.greet("a", greeted, wanted)
            entry.spent("a", 1.0)
            await entry.enter("a")
            entered.append(clock.now)
        await asyncio.sleep(0)

    clock.run(run())
    assert entered == [101.0, 102.0, 103.0], "with nobody else there it waits for nothing but the round"
    assert set(charged) == {"a"}


def test_the_newest_of_those_not_known_yet_does_not_stand_behind_all_others_nor_before_them_for_ever() -> None:
    async def run() -> list[int]:
        entry, log = Entry(), list[int]()
        for number in range(200):
            entry.greet("a", partial(log.append, number), wanted)
        for _ in range(100):
            await asyncio.sleep(0)
        return log

    log = asyncio.run(run())
    assert {199, 198, 1, 2} <= set(log[:6])
    assert log.index(49) < 100, "half of the turns are the oldest's"


def test_what_need_not_be_done_any_longer_takes_no_turn() -> None:
    """A thousand that left stand before one: it is looked at in the round in which it comes."""

    async def run() -> None:
        entry, log = Entry(), list[str]()

        def is_wanted(wanted: bool) -> bool:
            log.append("looked")
            return wanted

        entry.call("a", partial(log.append, "first"), wanted)
        for _ in range(1000):
            entry.call("a", partial(log.append, "left"), partial(is_wanted, False))
        gone = [entry.line_up("a") for _ in range(1000)]
        entry.call("a", partial(log.append, "last"), wanted)
        for turn in gone:
            turn.cancel()
        assert log == ["first"], "with nobody before it, at once"
        await asyncio.sleep(0)
        assert log == ["first", *["looked"] * 1000, "last"]

    asyncio.run(run())


def test_what_the_event_loop_does_besides_is_nobodys() -> None:
    """Ten seconds that others take while a turn is under way make its client neither wait nor owe."""
    clock, charged = Clock(), Charged()

    def other() -> None:
        clock.now += 10.0

    async def run() -> None:
        entry = Entry(charged.add)
        await entry.enter("b")
        asyncio.get_running_loop().call_soon(other)
        await entry.enter("a")
        clock.now += 1.0
        asyncio.get_running_loop().call_soon(other)
        for _ in range(3):
            await asyncio.sleep(0)

    clock.run(run())
    assert charged == {"a": 1.0, "b": 0.0}
