"""Runs the application on a socket, from the first request to a clean end."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from functools import partial
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from redraft.api import Engine
from redraft.engine.compiling.processes import CompileProcesses
from redraft.engine.scheduler import MAX_BATCH_ROWS, MAX_CONCURRENCY, Scheduler
from redraft.errors import RequestError
from redraft.serve.backend import Backend, ready
from redraft.serve.http.entry import Entry
from redraft.serve.http.hosts import is_loopback, own_names
from redraft.serve.http.patience import patient
from redraft.serve.state import ServerSettings

# Uvicorn's own variable: the proxies whose word about a client's address is taken. Without it anybody next to the
# server could make up an address for each request.
_PROXIES = "FORWARDED_ALLOW_IPS"
# Connections that are accepted in one round of the event loop, which does nothing else meanwhile, and those that wait
# for that in the system.
_ACCEPTED, _BACKLOG = 32, 2048

log = logging.getLogger("redraft.serve")


class Listener(uvicorn.Server):
    """An application on a socket that, told to stop, takes no more requests and gives those that run ``grace``
    seconds."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServerSettings,
        entry: Entry,
        *,
        host: str,
        port: int,
        grace: float,
        close: Callable[[], object],
    ) -> None:
        """``entry``: the turns in which connections are read. ``close`` is called once, in a thread, when it is told to
        stop."""
        self._close_app = close
        self._closing: threading.Thread | None = None
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            backlog=_ACCEPTED,
            http=patient(settings.limits.header_seconds, entry),
            ws="none",
            proxy_headers=_PROXIES in os.environ,
            log_config=None,
            access_log=False,
            lifespan="off",
            # What the scheduler ends at the end of the grace time still has to reach its client.
            timeout_graceful_shutdown=int(grace) + 2,
        )
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: what answers closes at once, connections when they are done."""
        self.begin_closing()
        super().handle_exit(sig, frame)

    def begin_closing(self) -> None:
        """Begin to close what answers, which ends what still runs after the grace time."""
        if self._closing is None:
            self._closing = threading.Thread(target=self._close_app, name="redraft-closing")
            self._closing.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            for listening in (one for server in self.servers for one in server.sockets):
                # The event loop takes one number for both.
                with socket.socket(fileno=os.dup(listening.fileno())) as same:
                    same.listen(_BACKLOG)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("serving on http://%s:%d", shown, port)

    @property
    def port(self) -> int:
        """The port that it listens at; what was picked, if it was asked for a free one."""
        found: int = self.servers[0].sockets[0].getsockname()[1]
        return found

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections when they are done."""
        self.begin_closing()
        await super().shutdown(sockets)

    def listen(self, host: str, port: int) -> None:
        """Serve until a signal says to stop. Raises RequestError if the address cannot be listened at."""
        try:
            self.run()
        except SystemExit as error:
            if self.started:
                # A signal, which whoever else handles them ends the process for.
                raise
            raise RequestError(f"cannot listen at {host} port {port}; its log says why") from error


class Server(Listener):
    """The models of this process on a socket."""

    def __init__(
        self,
        engine: Engine | Mapping[str, Engine],
        settings: ServerSettings,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        max_concurrency: int = MAX_CONCURRENCY,
        max_waiting: int = 256,
        max_batch_rows: int = MAX_BATCH_ROWS,
        grace: float = 30.0,
    ) -> None:
        """``engine``: the model, or several by the names that clients know them by, of which ``settings.model`` is one.
        ``max_concurrency``, ``max_waiting``, ``max_batch_rows``: as in ``Scheduler``, over all models.

        Raises RequestError for names that cannot be told apart, or where ``settings.model`` is none of them.
        """
        engines = {settings.model: engine} if isinstance(engine, Engine) else engine
        self.backend = Backend(
            engines,
            settings,
            names=own_names(host),
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            max_batch_rows=max_batch_rows,
        )
        close = partial(self.backend.close, grace)
        entry = self.backend.entry
        super().__init__(self.backend.app, settings, entry, host=host, port=port, grace=grace, close=close)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler that runs the requests."""
        return self.backend.scheduler

    @property
    def processes(self) -> CompileProcesses:
        """The processes that compile constraints."""
        return self.backend.processes


def check_address(host: str, port: int) -> None:
    """Raise RequestError, before a model is loaded, for an address that cannot be listened at."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as listening:
                # As the server does, which may follow at once on one that has ended.
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listening.bind(address)
    except OSError as error:
        raise RequestError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another with --host and --port"
        ) from error


def run(
    engine: Engine | Mapping[str, Engine],
    settings: ServerSettings,
    *,
    host: str,
    port: int,
    max_concurrency: int,
    max_waiting: int,
    max_batch_rows: int,
    grace: float,
) -> None:
    """Serve until a signal says to stop; parameters as in ``Server``. Raises RequestError if the address cannot be
    listened at."""
    begin_log(host, settings)
    server = Server(
        engine,
        settings,
        host=host,
        port=port,
        max_concurrency=max_concurrency,
        max_waiting=max_waiting,
        max_batch_rows=max_batch_rows,
        grace=grace,
    )
    ready(server.backend)
    server.listen(host, port)


def begin_log(host: str, settings: ServerSettings) -> None:
    """Write the log to standard error; it begins with a warning where anybody may ask."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if not is_loopback(host) and not settings.api_keys:
        log.warning("%s can be reached by others and no --api-key is set: anybody may use this model", host)
