"""A replica's side: an ASGI application answers a request that came through the front."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator

from starlette.types import ASGIApp, Message, Scope

from redraft.serve.backend import Backend
from redraft.serve.http.presence import BEGUN, SEED
from redraft.serve.replicas.fleet import Forwarded, Part, Report

# Messages that are held for a front which reads more slowly than they are written.
_HELD = 64
# Seconds that an application has to note that its client has gone.
_LEAVE = 5.0

log = logging.getLogger("redraft.serve")


async def hosted(app: ASGIApp, request: Forwarded, replica: str) -> AsyncGenerator[Part]:
    """Yield the parts of the answer of ``app``, the first at once; what it fails with is logged.

    Closed early, or cancelled, it tells ``app`` that the client has gone, and waits until that has ended.
    """
    parts: asyncio.Queue[Part | None] = asyncio.Queue(_HELD)
    begun, gone, read = threading.Event(), asyncio.Event(), False

    async def receive() -> Message:
        nonlocal read
        if not read:
            read = True
            return {"type": "http.request", "body": request.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if not gone.is_set():
            await parts.put(Part(replica, message, begun.is_set()))

    async def answer() -> None:
        try:
            await app(_scope(request, begun), receive, send)
        except Exception:
            # To its client it has said so.
            log.exception("%s %s failed", request.method, request.path)
        finally:
            if not gone.is_set():
                await parts.put(None)

    yield Part(replica, None)
    answering = asyncio.create_task(answer())
    try:
        while (part := await parts.get()) is not None:
            yield part
    finally:
        gone.set()
        while not parts.empty():
            parts.get_nowait()
        await asyncio.wait({answering}, timeout=_LEAVE)
        answering.cancel()


def report_of(backend: Backend, replica: str) -> Report:
    """Say how a replica is."""
    loads = {name: backend.scheduler.load_of(runtime) for name, runtime in backend.models.items()}
    return Report(
        replica,
        sum(load.running for load in loads.values()),
        sum(load.waiting for load in loads.values()),
        {name: {"running": load.running, "waiting": load.waiting} for name, load in loads.items()},
        backend.metrics.text(),
    )


def _scope(request: Forwarded, begun: threading.Event) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": request.method,
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query,
        "headers": list(request.headers),
        "client": request.client,
        "server": None,
        SEED: request.seed,
        BEGUN: begun,
    }
