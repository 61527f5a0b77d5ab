"""The work of a server that nobody asks: it gives the memory back that requests have left unused."""

import asyncio
import ctypes
import gc
import sys
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

# Seconds without a request. Under load what is given back would be wanted again at once.
QUIET = 1.0


# The number of glibc's option for how many arenas it has; a thread for each request would make eight for each core.
_M_ARENA_MAX, _ARENAS = -8, 2


def give_back() -> None:
    """Free what only refers to itself, and return the unused memory of the C library's allocator to the system, where
    it has a call for that."""
    # The body of a request that was refused hangs on the error's traceback, and nothing runs that would count objects.
    gc.collect()
    # Large bodies and arrays leave holes that it keeps for ever otherwise.
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


def share_arenas() -> None:
    """Have threads that are made from now on share few arenas of the C library's allocator, where it has a call for
    that: what one leaves unused the next one takes."""
    set_option = _of_libc("mallopt")
    if set_option is not None:
        set_option(_M_ARENA_MAX, _ARENAS)


def _of_libc(name: str) -> Callable[..., int] | None:
    found: Callable[..., int] | None = None
    if sys.platform == "linux":
        found = getattr(ctypes.CDLL(None), name, None)
    return found


class WhenIdle:
    """ASGI middleware that does something once a moment has passed since the last request ended."""

    def __init__(self, app: ASGIApp, then: Callable[[], object] = give_back, quiet: float = QUIET) -> None:
        """``then`` is called in a thread."""
        self._app, self._then, self._quiet = app, then, quiet
        self._open = 0
        self._waiting: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        # Whoever only looks whether the server lives does so all the time.
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1
            if self._open == 0:
                loop = asyncio.get_running_loop()
                self._waiting = loop.call_later(self._quiet, loop.run_in_executor, None, self._then)
