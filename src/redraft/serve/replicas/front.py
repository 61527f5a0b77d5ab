"""The front: takes clients' requests, has a replica answer each, and another one where that was lost.

It knows no wire format and no model. Each replica runs the whole application, so all that a client sees is made there;
the front chooses the replica, gives the request its seed, and holds back an answer until there is something in it that
took work. Until then it can be asked for again, of any replica, with the same outcome.
"""

import asyncio
import logging
import secrets
from collections.abc import Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
from importlib.metadata import version

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redraft.errors import BusyError, ShuttingDownError
from redraft.serve.app import Counted, guarded
from redraft.serve.errors import ApiError, Json, of_engine
from redraft.serve.http.idle import WhenIdle
from redraft.serve.http.limits import BodyLimit
from redraft.serve.http.unpacking import Unpacking
from redraft.serve.replicas.broken import broken
from redraft.serve.replicas.fleet import Fleet, Forwarded, Part, ReplicaLostError, of_scope
from redraft.serve.replicas.metrics import FrontMetrics
from redraft.serve.replicas.prefixes import blocks_of
from redraft.serve.state import ServerSettings

ATTEMPTS = 3
"""Replicas that a request may be lost with: one that ends every replica it comes to shall not end them all."""
PATIENCE = 300.0
"""Seconds until a replica has taken a request."""
REPLICA_HEADER = b"x-redraft-replica"

log = logging.getLogger("redraft.serve")


def front_app(fleet: Fleet, settings: ServerSettings, names: Collection[str] = ()) -> ASGIApp:
    """Make the application that has ``fleet`` answer. ``names``: as in ``serve.app.create_app``."""
    limits, with_keys = settings.limits, bool(settings.api_keys)
    front = Front(fleet, settings.model)
    bounded = WhenIdle(BodyLimit(Unpacking(front, limits.body_bytes), limits, with_keys))
    requests = front.metrics.requests
    return Counted(
        guarded(bounded, settings, names), lambda _, status: requests.labels(status).inc(), lambda scope: scope["path"]
    )


class Front:
    """The ASGI application behind what decides who may ask."""

    def __init__(self, fleet: Fleet, model: str, *, patience: float = PATIENCE) -> None:
        """``model``: the name of the one that answers where none is named."""
        self._fleet, self._model, self._patience = fleet, model, patience
        self.metrics = FrontMetrics()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        own = {"/health": self._health, "/metrics": self._metrics_page}.get(scope["path"])
        if own is not None and scope["method"] == "GET":
            response = await own()
            await response(scope, receive, send)
            return
        try:
            body = await _whole(receive)
        except HTTPException as error:
            await _say(ApiError(error.status_code, str(error.detail)), scope["path"], send, error.headers)
            return
        if body is None:
            return
        blocks = blocks_of(body) if scope["method"] == "POST" else []
        request = of_scope(scope, body, secrets.randbits(63), blocks)
        answering = asyncio.create_task(self._answer(request, send))
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)
        if not answering.cancelled() and (fault := answering.exception()) is not None:
            raise fault

    async def _answer(self, request: Forwarded, send: Send) -> None:
        """Have replicas answer, one after the other while they are lost with nothing sent."""
        for left in reversed(range(ATTEMPTS)):
            reply = _Reply(send)
            try:
                await self._ask(request, reply)
                return
            except ReplicaLostError as lost:
                self.metrics.lost.inc()
                log.warning("%s %s: %s", request.method, request.path, lost)
                if reply.sent:
                    self.metrics.broken.inc()
                    await reply.end(request.path, _lost("the rest of this answer cannot be had; ask again"))
                    return
                if left:
                    self.metrics.retried.inc()
                    request = replace(request, avoid=[*request.avoid, lost.replica])
            except Exception as error:
                refusal = self._refusal(error)
                await (reply.end(request.path, refusal) if reply.sent else _say(refusal, request.path, send))
                return
        gone = _lost(f"so were {ATTEMPTS - 1} others with the same request, which may be why")
        await _say(gone, request.path, send)

    def _refusal(self, error: Exception) -> ApiError:
        match error:
            case TimeoutError():
                message = f"no replica took the request within {self._patience:g} s; ask again later"
                return ApiError(503, message, code="no_replica")
            case BusyError() | ShuttingDownError():
                return of_engine(error, {})
        log.error("a request failed between the front and its replica", exc_info=error)
        return ApiError(500, "the request failed inside the server; its log has the details")

    async def _ask(self, request: Forwarded, reply: "_Reply") -> None:
        """Have a replica answer; ReplicaLostError where it did not to the end."""
        taken = ""
        try:
            async with aclosing(self._fleet.ask(request)) as parts:
                async with asyncio.timeout(self._patience):
                    async for part in parts:
                        taken = part.replica
                        break
                async for part in parts:
                    await reply.add(part)
        except ReplicaLostError:
            if not reply.whole:
                raise
        if not reply.whole:
            raise ReplicaLostError(taken, "its answer ended too early")

    async def _health(self) -> Response:
        """Show that the front lives, and what the replicas are doing."""
        reports = await self._fleet.reports()
        content = {
            "status": "ok" if reports else "no replica answers",
            "model": self._model,
            "version": version("redraft"),
            "running": sum(one.running for one in reports),
            "waiting": sum(one.waiting for one in reports),
            "replicas": {one.replica: {"running": one.running, "waiting": one.waiting} for one in reports},
            "models": {
                name: {count: sum(one.models[name][count] for one in reports) for count in ("running", "waiting")}
                for name in (reports[0].models if reports else ())
            },
        }
        return Json(content, 200 if reports else 503)

    async def _metrics_page(self) -> Response:
        text = self.metrics.text(await self._fleet.reports())
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")


class _Reply:
    """An answer on its way to a client: a stream from the moment there is something in it, else the whole at once."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self._stream = False
        self._first = self._last = b""
        self.sent = self.whole = False

    async def add(self, part: Part) -> None:
        """Take a part, and send what need not be held back."""
        message = part.message
        if message is None:
            return
        if message["type"] == "http.response.start":
            self._stream = _is_stream(message)
            message = {**message, "headers": [*message["headers"], (REPLICA_HEADER, part.replica.encode())]}
        else:
            self.whole = not message.get("more_body", False)
            event = message.get("body", b"")
            self._first, self._last = self._first or event, event or self._last
        self._held.append(message)
        if self.whole or (self._stream and part.begun):
            self.sent = True
            for held in self._held:
                await self._send(held)
            self._held.clear()

    async def end(self, path: str, error: ApiError) -> None:
        """End a stream, of which something was sent, in the midst of it; nothing where it is whole."""
        if self.whole:
            return
        event = broken(path, error, self._first, self._last)
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


def _is_stream(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return any(kind.startswith(b"text/event-stream") for kind in kinds)


def _lost(more: str) -> ApiError:
    return ApiError(503, f"the replica that answered was lost; {more}", code="replica_lost")


async def _say(error: ApiError, path: str, send: Send, headers: Mapping[str, str] | None = None) -> None:
    """Answer with an error."""
    response = error.response(path)
    response.headers.update(headers or {})
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": False})


async def _whole(receive: Receive) -> bytes | None:
    """Return the body; None where the connection ended first."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
