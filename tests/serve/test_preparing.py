"""Checks in threads: their outcome is the caller's, and nothing of a refused request stays behind."""

import asyncio
import gc
import weakref

import pytest

from redraft.errors import RequestError
from redraft.serve.preparing import in_thread


class Body:
    """What a check holds."""


def test_what_a_refused_request_held_is_gone_with_its_error() -> None:
    held: list[weakref.ref[Body]] = []

    def check() -> None:
        body = Body()
        held.append(weakref.ref(body))
        raise RequestError("refused")

    async def refused() -> None:
        with pytest.raises(RequestError, match="refused"):
            await in_thread(check)

    gc.disable()
    try:
        asyncio.run(refused())
        assert [body() for body in held] == [None]
    finally:
        gc.enable()


def test_a_check_whose_caller_has_gone_ends_by_itself() -> None:
    async def run() -> str:
        go, done = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def check() -> None:
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(600)
            loop.call_soon_threadsafe(done.set)
            raise RequestError("nobody is told")

        caller = asyncio.create_task(in_thread(check))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        go.set()
        await asyncio.wait_for(done.wait(), 600)
        return await in_thread(lambda: "the next one is answered")

    assert asyncio.run(run()) == "the next one is answered"
