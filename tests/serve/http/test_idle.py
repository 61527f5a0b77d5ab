"""Memory is given back once nobody asks, and not before."""

import asyncio

from starlette.types import Message, Receive, Scope, Send

from redraft.serve.http.idle import WhenIdle, give_back


async def gone() -> Message:
    return {"type": "http.disconnect"}


async def nothing(_: Message) -> None:
    pass


def test_it_happens_once_after_the_last_of_several_requests() -> None:
    async def run() -> list[str]:
        log: list[str] = []
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        holds = {"first": asyncio.Event(), "second": asyncio.Event()}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await holds[scope["path"]].wait()
            log.append(scope["path"])

        def then() -> None:
            log.append("given back")
            loop.call_soon_threadsafe(done.set)

        idle = WhenIdle(app, then, quiet=0.0)

        def ask(path: str, method: str = "POST") -> asyncio.Task[None]:
            return asyncio.create_task(idle({"type": "http", "path": path, "method": method}, gone, nothing))

        first, second = ask("first"), ask("second")
        holds["first"].set()
        await first
        looking = ask("first", "GET")
        await looking
        await asyncio.sleep(0.02)
        holds["second"].set()
        await second
        await asyncio.wait_for(done.wait(), 600)
        return log

    assert asyncio.run(run()) == ["first", "first", "second", "given back"]


def test_a_request_that_comes_before_puts_it_off() -> None:
    async def run() -> list[str]:
        log: list[str] = []
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            log.append("request")

        def then() -> None:
            log.append("given back")
            loop.call_soon_threadsafe(done.set)

        idle = WhenIdle(app, then, quiet=0.0)
        for _ in range(3):
            await idle({"type": "http", "path": "/", "method": "POST"}, gone, nothing)
        await asyncio.wait_for(done.wait(), 600)
        return log

    assert asyncio.run(run()) == ["request", "request", "request", "given back"]


def test_the_call_works_here() -> None:
    give_back()
