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
            for _ in range(40):
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
