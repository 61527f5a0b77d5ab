"""Many requests at once keep neither other clients waiting, nor what else the event loop has to do."""

import asyncio
from itertools import pairwise

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


def test_one_that_asks_too_often_leaves_as_much_time_as_it_takes_while_another_is_there() -> None:
    """On a clock of its own: each request of ``a`` takes a second of the event loop."""

    def turns_of_a(others: bool) -> list[float]:
        loop = asyncio.new_event_loop()
        now, found = [100.0], list[float]()

        async def ask(entry: Entry, owner: str) -> None:
            await entry.enter(owner)
            if owner == "a":
                found.append(now[0])
                now[0] += 1.0

        async def idle() -> None:
            while len(found) < 3:
                await asyncio.sleep(0)
                now[0] += 0.01

        async def run() -> None:
            entry = Entry()
            if others:
                await ask(entry, "b")
            await asyncio.gather(idle(), *(ask(entry, "a") for _ in range(3)))

        try:
            loop.time = lambda: now[0]  # type: ignore[method-assign]
            loop.run_until_complete(run())
        finally:
            loop.close()
        return [second - first for first, second in pairwise(found)]

    assert all(between < 1.5 for between in turns_of_a(others=False))
    assert all(between > 1.99 for between in turns_of_a(others=True))
