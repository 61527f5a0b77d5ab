"""A real server on a real socket, in a thread of this process, for real clients."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from redraft.api import Engine
from redraft.loading import load
from redraft.serve.http.server import Server
from redraft.serve.state import Settings
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint

NAME = "tiny"


@dataclass(frozen=True)
class Served:
    """A server that is up."""

    url: str
    server: Server
    engine: Engine

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=60, **more)

    @property
    def idle(self) -> bool:
        load = self.server.service.load
        return load.running == 0 and load.waiting == 0


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers are noise, soon given up; all of tools, thinking and any text can be spelled."""
    return random_checkpoint(
        tmp_path_factory.mktemp("served"),
        letters=True,
        vocab_size=LETTERS_SIZE,
        canvas_length=48,
        context_length=1024,
        generation={"max_denoising_steps": 3, "t_max": 0.4, "t_min": 0.2},
    )


@contextmanager
def serving(engine: Engine, settings: Settings | None = None, **options: Any) -> Iterator[Served]:
    """A server for as long as this lasts."""
    server = Server(engine, settings or Settings(NAME), port=0, **{"grace": 0.0, **options})
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Served(f"http://127.0.0.1:{server.port}", server, engine)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
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
