"""A real server on a real socket, in a thread of this process, for real clients."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from redraft.api import Engine
from redraft.engine.result import OnStep
from redraft.engine.task import Forward, Task
from redraft.loading import load
from redraft.serve.server import Server
from redraft.serve.state import ServerSettings
from tests.conftest import WriteCheckpoint
from tests.random_checkpoint import LETTERS_SIZE

NAME = "tiny"


@dataclass(frozen=True)
class Endless:
    """A request that ends only when it is cancelled; its forwards have no rows."""

    def task(self, on_step: OnStep | None = None) -> Task[None]:
        while True:
            time.sleep(0.001)
            yield Forward()


@dataclass(frozen=True)
class Served:
    """A server that is up."""

    url: str
    server: Server
    engine: Engine
    """The model that answers where none is named."""

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=600, **more)

    @property
    def idle(self) -> bool:
        load = self.server.scheduler.load
        return load.running == 0 and load.waiting == 0


@pytest.fixture(scope="session")
def checkpoint(checkpoint_of: WriteCheckpoint) -> Path:
    """Answers are noise, soon given up; all of tools, thinking and any text can be spelled."""
    return checkpoint_of(
        letters=True,
        vocab_size=LETTERS_SIZE,
        canvas_length=48,
        context_length=1024,
        generation={"max_denoising_steps": 3, "t_max": 0.4, "t_min": 0.2},
    )


@contextmanager
def serving(
    engine: Engine | Mapping[str, Engine], settings: ServerSettings | None = None, **options: Any
) -> Iterator[Served]:
    """A server for as long as this lasts."""
    settings = settings or ServerSettings(NAME)
    server = Server(engine, settings, port=0, **{"grace": 0.0, **options})
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        default = engine if isinstance(engine, Engine) else engine[settings.model]
        yield Served(f"http://127.0.0.1:{server.port}", server, default)
    finally:
        server.should_exit = True
        thread.join(600)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 600) -> None:
    """Wait for what happens in the end, however busy the machine is; the limit only ends a test that hangs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def engine(checkpoint: Path) -> Engine:
    return load(checkpoint)


@pytest.fixture(scope="session")
def served(engine: Engine) -> Iterator[Served]:
    with serving(engine) as up:
        yield up


@pytest.fixture(scope="session")
def alone(checkpoint: Path) -> Engine:
    """The same model without a server, to compare with."""
    return load(checkpoint)
