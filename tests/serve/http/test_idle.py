"""Memory is given back once nobody asks, and not before."""

import asyncio
import gc
import platform
import subprocess
import sys
import weakref

import pytest
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


def test_what_only_refers_to_itself_is_freed() -> None:
    class RefusedError(Exception):
        """Holds a body, and itself."""

    error = RefusedError()
    error.args = (error,)
    there = weakref.ref(error)
    gc.disable()
    try:
        del error
        assert there() is not None
        give_back()
        assert there() is None
    finally:
        gc.enable()


ARENAS = """
import ctypes, re, threading
from redraft.serve.http.idle import share_arenas
share_arenas()
held, go = [], threading.Event()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(9)
def hold():
    held.append(libc.malloc(ctypes.c_size_t(3000)))
    barrier.wait()
    go.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
for one in threads:
    one.start()
barrier.wait()
libc.fdopen.restype = ctypes.c_void_p
out = libc.fdopen(1, b"w")
libc.malloc_info(0, ctypes.c_void_p(out))
libc.fflush(ctypes.c_void_p(out))
go.set()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")
@pytest.mark.slow
def test_threads_of_many_requests_share_few_arenas() -> None:
    told = subprocess.run([sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True, timeout=600)
    assert 1 <= told.stdout.count("<heap nr=") <= 3
