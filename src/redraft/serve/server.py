"""Runs the application on a socket, from the first request to a clean end."""

import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType

import uvicorn

from redraft.api import Engine
from redraft.engine.compiling.processes import CompileProcesses
from redraft.engine.scheduler import MAX_BATCH_ROWS, MAX_CONCURRENCY, Scheduler
from redraft.errors import ConstraintError, RequestError, ShuttingDownError
from redraft.serve.app import create_app, entry_of
from redraft.serve.http.hosts import is_loopback, own_names
from redraft.serve.http.idle import share_arenas
from redraft.serve.http.patience import patient
from redraft.serve.state import ServerSettings

# Uvicorn's own variable: the proxies whose word about a client's address is taken. Without it anybody next to the
# server could make up an address for each request.
_PROXIES = "FORWARDED_ALLOW_IPS"
# Connections that are accepted in one round of the event loop, which does nothing else meanwhile, and those that wait
# for that in the system.
_ACCEPTED, _BACKLOG = 32, 2048
# Seconds after which a thread that runs Python lets another one run. The one that runs the model waits for it some ten
# times a forward while others are at work.
_SWITCH = 0.0001

log = logging.getLogger("redraft.serve")


class Server(uvicorn.Server):
    """A server that, told to stop, takes no more requests and gives those that run ``grace`` seconds."""

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
        engines = {settings.model: engine} if isinstance(engine, Engine) else dict(engine)
        check_names(list(engines))
        if settings.model not in engines:
            raise RequestError(f"model {settings.model!r} is none of those served: {', '.join(engines)}")
        models = {name: one.runtime for name, one in engines.items()}
        self.scheduler = Scheduler(
            list(models.values()),
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            max_batch_rows=max_batch_rows,
        )
        self.processes = CompileProcesses(self.scheduler.charge)
        self._grace = grace
        self._closing: threading.Thread | None = None
        entry = entry_of(self.scheduler)
        app = create_app(
            self.scheduler, settings, models=models, names=own_names(host), processes=self.processes, entry=entry
        )
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
        """Take a signal: the scheduler closes at once, connections when they are done."""
        self.close_scheduler()
        super().handle_exit(sig, frame)

    def close_scheduler(self) -> None:
        """Begin to close the scheduler, which ends what still runs after the grace time."""
        if self._closing is None:
            self._closing = threading.Thread(target=self._close, name="redraft-closing")
            self._closing.start()

    def _close(self) -> None:
        # What is still being compiled could not be queued any longer.
        self.processes.close()
        self.scheduler.close(self._grace)

    def warm_up(self) -> None:
        """Read the vocabularies, and start the processes that compile, before somebody waits for both."""
        for runtime in self.scheduler.runtimes:
            # A tokenizer that constraints cannot use is no fault unless one is asked for.
            with suppress(ConstraintError, ShuttingDownError):
                self.processes.start(runtime.constraints.vocabulary)

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
        self.close_scheduler()
        await super().shutdown(sockets)


def check_names(names: Sequence[str]) -> None:
    """Raise RequestError for names of models of which clients could not tell which is meant."""
    for name in names:
        if not name.strip():
            raise RequestError("a model's name is empty; give it one with --name")
        if names.count(name) > 1:
            raise RequestError(
                f"two models are called {name!r}; give each a name of its own: --name, once for each --model, in order"
            )


def share_memory(engines: Sequence[Engine], kv_bytes: int | None) -> None:
    """Have the keys and values of several models take no more than ``kv_bytes`` together; None for what the one that
    was left least may take: each was loaded into what the weights of those before it had left."""
    first, *others = (pool for engine in engines for pool in engine.runtime.pools)
    limits = [pool.budget for pool in (first, *others) if pool.budget is not None]
    limit = min(limits, default=None) if kv_bytes is None else kv_bytes
    if limit is None:
        return
    first.budget = limit
    for pool in others:
        if pool.memory is not first.memory:
            pool.share(first)


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
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if not is_loopback(host) and not settings.api_keys:
        log.warning("%s can be reached by others and no --api-key is set: anybody may use this model", host)
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
    sys.setswitchinterval(_SWITCH)
    share_arenas()
    # What is there now stays: to look through it again and again would stop everything else for as long as it takes.
    gc.collect()
    gc.freeze()
    threading.Thread(target=server.warm_up, name="redraft-warm-up", daemon=True).start()
    try:
        server.run()
    except SystemExit as error:
        raise RequestError(f"cannot listen at {host} port {port}; its log says why") from error
