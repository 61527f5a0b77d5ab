"""Two replicas in this process, behind a front on a real socket: all but what Ray does."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from redraft.errors import BusyError, ShuttingDownError
from redraft.loading import load
from redraft.serve.backend import Backend
from redraft.serve.http.entry import Entry
from redraft.serve.http.hosts import own_names
from redraft.serve.replicas.fleet import Forwarded, Part, ReplicaLostError, Report
from redraft.serve.replicas.front import front_app
from redraft.serve.replicas.hosting import hosted, report_of
from redraft.serve.replicas.prefixes import PrefixTable
from redraft.serve.server import Listener
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, wait_until

Dies = Callable[[Part], bool]


@dataclass
class Local:
    """A fleet of this process. What ``dies`` says yes to is the last part that a replica did not send."""

    backends: Mapping[str, Backend]
    dies: Dies = lambda part: False
    asked: list[Forwarded] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    fault: Exception | None = None
    worth: float = 4.0

    def __post_init__(self) -> None:
        self._prefixes = PrefixTable(worth=self.worth)

    async def ask(self, request: Forwarded) -> AsyncGenerator[Part]:
        self.asked.append(request)
        if self.fault is not None:
            raise self.fault
        loads = {name: one.scheduler.load.running for name, one in self.backends.items()}
        name = self._prefixes.ranked(request.blocks, loads, request.avoid)[0]
        self._prefixes.sent(request.blocks, name)
        self.taken.append(name)
        async with aclosing(hosted(self.backends[name].app, request, name)) as parts:
            async for part in parts:
                if part.message is not None and self.dies(part):
                    raise ReplicaLostError(name, "it was killed")
                yield part

    async def reports(self) -> list[Report]:
        return [report_of(one, name) for name, one in self.backends.items()]


@dataclass(frozen=True)
class Fronted:
    """A front that is up."""

    url: str
    fleet: Local

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, timeout=600, **more)

    @property
    def idle(self) -> bool:
        loads = [one.scheduler.load for one in self.fleet.backends.values()]
        return all(load.running + load.waiting == 0 for load in loads)


@pytest.fixture(scope="session")
def backends(checkpoint: Path) -> Iterator[dict[str, Backend]]:
    made = {
        name: Backend({NAME: load(checkpoint)}, ServerSettings(NAME), names=None, max_concurrency=4)
        for name in ("first", "second")
    }
    yield made
    for one in made.values():
        one.close(0.0)


@contextmanager
def fronted(backends: Mapping[str, Backend], settings: ServerSettings | None = None, **more: Any) -> Iterator[Fronted]:
    """A front for as long as this lasts."""
    settings = settings or ServerSettings(NAME)
    fleet = Local(backends, **more)
    app = front_app(fleet, settings, own_names("127.0.0.1"))
    server = Listener(app, settings, Entry(), host="127.0.0.1", port=0, grace=0.0, close=lambda: None)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield Fronted(f"http://127.0.0.1:{server.port}", fleet)
    finally:
        server.should_exit = True
        thread.join(600)
        assert not thread.is_alive()


@pytest.fixture
def front(backends: dict[str, Backend]) -> Iterator[Fronted]:
    with fronted(backends) as up:
        yield up


def once(dies: Dies, times: int = 1) -> Dies:
    """Die so often, and no more."""
    left = [times]

    def check(part: Part) -> bool:
        if left[0] and dies(part):
            left[0] -= 1
            return True
        return False

    return check


REFUSALS: Sequence[tuple[Exception, int]] = [(BusyError("full"), 429), (ShuttingDownError("none"), 503)]
