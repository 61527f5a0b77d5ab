"""Runs the application on a socket, from the first request to a clean end."""

import logging
import socket
import threading
from types import FrameType

import uvicorn

from redraft.api import Engine
from redraft.engine.scheduler import Service
from redraft.errors import RequestError
from redraft.serve.http.app import create_app
from redraft.serve.state import Settings

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
log = logging.getLogger("redraft.serve")


class Server(uvicorn.Server):
    """Listens; told to stop, it takes no more requests and gives those that run ``grace`` seconds."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        max_concurrency: int = 8,
        max_waiting: int = 256,
        grace: float = 30.0,
    ) -> None:
        self.service = Service(engine, max_concurrency=max_concurrency, max_waiting=max_waiting)
        self._grace = grace
        self._closing: threading.Thread | None = None
        config = uvicorn.Config(
            create_app(engine, self.service, settings),
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            lifespan="off",
            # What the service ends at the end of the grace time still has to reach its client.
            timeout_graceful_shutdown=int(grace) + 2,
        )
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the service closes at once, connections when they are done."""
        self.close_service()
        super().handle_exit(sig, frame)

    def close_service(self) -> None:
        """Begin to close the service, which ends what still runs after the grace time."""
        if self._closing is None:
            self._closing = threading.Thread(target=self.service.close, args=(self._grace,), name="redraft-closing")
            self._closing.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            log.info("serving on http://%s:%d", shown, port)

    @property
    def port(self) -> int:
        """Where it listens; what was picked, if it was asked for a free port."""
        found: int = self.servers[0].sockets[0].getsockname()[1]
        return found

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections when they are done."""
        self.close_service()
        await super().shutdown(sockets)


def run(
    engine: Engine,
    settings: Settings,
    *,
    host: str,
    port: int,
    max_concurrency: int,
    max_waiting: int,
    grace: float,
) -> None:
    """Serve until a signal says to stop. Raises RequestError if the address cannot be listened at."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if host not in _LOOPBACK and not settings.api_keys:
        log.warning("%s can be reached by others and no --api-key is set: anybody may use this model", host)
    server = Server(
        engine,
        settings,
        host=host,
        port=port,
        max_concurrency=max_concurrency,
        max_waiting=max_waiting,
        grace=grace,
    )
    try:
        server.run()
    except SystemExit as error:
        raise RequestError(f"cannot listen at {host} port {port}; its log says why") from error
