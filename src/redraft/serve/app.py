"""The ASGI application: models behind the wire formats that existing clients speak."""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redraft.engine.compiling.processes import CompileProcesses
from redraft.engine.fairness import Client
from redraft.engine.runtime import Runtime
from redraft.engine.scheduler import Scheduler
from redraft.serve.errors import WARNING_HEADER, ApiError, of_validation
from redraft.serve.http.entry import Entry
from redraft.serve.http.hosts import ANY, Hosts
from redraft.serve.http.idle import WhenIdle
from redraft.serve.http.limits import BodyLimit
from redraft.serve.http.methods import HeadAsGet
from redraft.serve.http.metrics import ServerMetrics
from redraft.serve.http.presence import Presence
from redraft.serve.http.security import ApiKeys, BrowserHeaders
from redraft.serve.http.shape import BodyShape
from redraft.serve.http.unpacking import Unpacking
from redraft.serve.preparing import Preparing
from redraft.serve.state import AllServing, ServerSettings, Serving, all_serving
from redraft.serve.wire import anthropic as anthropic_messages
from redraft.serve.wire import extract as native_extract
from redraft.serve.wire import mercury, models, systemone, tokens
from redraft.serve.wire import redraft as native
from redraft.serve.wire import score as native_score
from redraft.serve.wire.openai import chat as openai_chat
from redraft.serve.wire.openai import completions as openai_completions
from redraft.serve.wire.openai import responses as openai_responses

PAGE = Path(__file__).parent / "page" / "dist"
_FORMATS = (
    openai_chat.router,
    openai_completions.router,
    openai_responses.router,
    anthropic_messages.router,
    mercury.router,
    systemone.router,
    native.router,
    native_extract.router,
    native_score.router,
    models.router,
    tokens.router,
)
# What a page may read of an answer's headers besides those that every page may.
_EXPOSED_HEADERS = (WARNING_HEADER, "retry-after")

log = logging.getLogger("redraft.serve")
own = APIRouter()


def _add_file(app: FastAPI, route: str, path: Path) -> None:
    # Their names stay the same from version to version, so that a browser has to ask.
    headers = {"cache-control": "no-cache"}
    app.add_api_route(route, lambda: FileResponse(path, headers=headers), methods=["GET"], include_in_schema=False)


def create_app(
    scheduler: Scheduler,
    settings: ServerSettings,
    *,
    models: Mapping[str, Runtime] | None = None,
    names: Collection[str] = (),
    processes: CompileProcesses | None = None,
    entry: Entry | None = None,
) -> ASGIApp:
    """Make the application that serves the models of ``scheduler``.

    models: them by the names that clients know them by; None for the only one, by its name in ``settings``.
    names: those by which the server is reached, besides localhost, addresses and ``settings.allowed_hosts``.
    processes: where constraints are compiled; None for threads of this process.
    entry: the turns of what clients send, where connections take them, too; None for requests alone.
    """
    entry = entry or entry_of(scheduler)
    here = _all(scheduler, settings, models or {settings.model: scheduler.runtimes[0]}, processes, entry)
    app = FastAPI(title="Redraft", docs_url=None, redoc_url=None)
    app.state.serving = here
    for router in (own, *_FORMATS):
        app.include_router(router)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _fault)
    if PAGE.is_dir():
        # Each by itself: mounted on the root, the folder would answer 404 for a route's wrong method.
        for path in filter(Path.is_file, PAGE.rglob("*")):
            name = path.relative_to(PAGE).as_posix()
            _add_file(app, "/" if name == "index.html" else f"/{name}", path)
    else:
        app.add_api_route("/", _no_page, include_in_schema=False)
    guarded: ASGIApp = ApiKeys(_with_bounded_bodies(app, here, entry), settings.api_keys)
    if settings.cors:
        guarded = CORSMiddleware(
            guarded,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "HEAD", "POST"],
            # Clients made for browsers send headers of their own (x-stainless-*, anthropic-*), which change.
            allow_headers=["*"],
            expose_headers=_EXPOSED_HEADERS,
        )
    # A key shows who asks better than a name does.
    allowed = settings.allowed_hosts or ([ANY] if settings.api_keys else [])
    guarded = HeadAsGet(Hosts(guarded, [*allowed, *names], settings.cors))
    return _Counted(BrowserHeaders(WhenIdle(guarded)), here)


def entry_of(scheduler: Scheduler) -> Entry:
    """Make the turns of what clients send; what these take counts for a client's share of the forwards."""
    return Entry(lambda owner, seconds: scheduler.charge(Client(owner), seconds))


def _all(
    scheduler: Scheduler,
    settings: ServerSettings,
    models: Mapping[str, Runtime],
    processes: CompileProcesses | None,
    entry: Entry,
) -> AllServing:
    metrics, preparing = ServerMetrics(scheduler, models), Preparing(processes, entry)
    serving = {
        name: Serving(runtime, scheduler, metrics.of(name), replace(settings, model=name), preparing)
        for name, runtime in models.items()
    }
    return AllServing(serving, scheduler, metrics, settings, preparing)


def _with_bounded_bodies(app: ASGIApp, here: AllServing, entry: Entry) -> ASGIApp:
    """Put before ``app`` what reads a body: its size and pace, its packing, its shape; then who asks is known."""
    limits, with_keys = here.settings.limits, bool(here.settings.api_keys)
    present = Presence(app, with_keys, here.preparing.begin, entry)
    contexts = [one.runtime.model.config.context_length for one in here.models.values()]
    numbers = limits.body_values + max(contexts)
    shaped = BodyShape(present, limits.body_values, numbers, entry, with_keys)
    return BodyLimit(Unpacking(shaped, limits.body_bytes), limits, with_keys)


@own.get("/health")
async def health(http: HttpRequest) -> dict[str, Any]:
    """Show that the server lives, and what it is doing."""
    here = all_serving(http)
    loads = {name: here.scheduler.load_of(one.runtime) for name, one in here.models.items()}
    return {
        "status": "ok",
        "model": here.settings.model,
        "version": version("redraft"),
        "running": sum(load.running for load in loads.values()),
        "waiting": sum(load.waiting for load in loads.values()),
        "models": {name: {"running": load.running, "waiting": load.waiting} for name, load in loads.items()},
    }


@own.get("/version")
async def version_of() -> dict[str, str]:
    """Tell the version of Redraft."""
    return {"version": version("redraft")}


@own.api_route("/ping", methods=["GET", "HEAD", "POST"], include_in_schema=False)
async def ping() -> Response:
    """Show that the server lives."""
    return Response()


@own.get("/metrics")
async def metrics(http: HttpRequest) -> Response:
    """Write counts for Prometheus."""
    return PlainTextResponse(all_serving(http).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def _no_page() -> Response:
    return PlainTextResponse("Redraft is running. This installation has no web page; the API is under /v1.\n")


async def _api_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response(http.url.path)


async def _validation_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return of_validation(error).response(http.url.path)


async def _http_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = http.url.path
    message = f"there is no route {http.method} {path}" if error.status_code in (404, 405) else str(error.detail)
    response = ApiError(error.status_code, message).response(path)
    response.headers.update(error.headers or {})
    return response


async def _fault(http: HttpRequest, error: Exception) -> Response:
    log.error("%s failed", http.url.path, exc_info=error)
    return ApiError(500, "the request failed inside the server; its log has the details").response(http.url.path)


class _Counted:
    """ASGI middleware that counts requests by route and status, and logs each without what it said."""

    def __init__(self, app: ASGIApp, here: AllServing) -> None:
        self._app, self._here = app, here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            # The route as it is written: paths that clients made up must not each become a series of their own.
            route = getattr(scope.get("route"), "path", "none")
            self._here.metrics.requests.labels(route, str(status)).inc()
            log.info("%s %s %d %.3f s", scope["method"], route, status, time.perf_counter() - began)
