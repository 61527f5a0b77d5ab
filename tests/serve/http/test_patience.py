"""Connections are read in turn: of who has left nothing, of who waits only so much."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import httpx
import pytest

from redraft.serve.http.patience import PatientProtocol
from tests.serve.conftest import NAME, Served, wait_until

CHAT = "/v1/chat/completions"


class Held:
    """A server in which nobody has a turn until it is let go."""

    def __init__(self, served: Served) -> None:
        self._server = served.server
        self.entry = served.server.config.http.entry
        self._loop = served.server.servers[0].get_loop()
        wait_until(lambda: not self.entry._busy)
        self._in_loop(lambda: setattr(self.entry, "_busy", True))

    def let_go(self) -> None:
        def go() -> None:
            self.entry._busy = False
            self.entry._plan(self._loop)

        self._in_loop(go)

    @property
    def connections(self) -> list[PatientProtocol]:
        """Those of which something has arrived."""
        there = [one for one in [*self._server.server_state.connections] if isinstance(one, PatientProtocol)]
        return [one for one in there if one._arrived]

    def _in_loop(self, do: Callable[[], object]) -> None:
        done = threading.Event()

        def then_tell() -> None:
            do()
            done.set()

        self._loop.call_soon_threadsafe(then_tell)
        assert done.wait(600)


@pytest.fixture
def held(served: Served) -> Iterator[Held]:
    holding = Held(served)
    yield holding
    holding.let_go()


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", served.server.port), timeout=600)) as connection:
        yield connection


def request(content: str = "hi") -> bytes:
    body = {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 5, "seed": 0}
    data = json.dumps(body).encode()
    head = (f"POST {CHAT} HTTP/1.1", "host: localhost", "content-type: application/json",
            f"content-length: {len(data)}", "connection: close", "", "")  # fmt: skip
    return "\r\n".join(head).encode() + data


def answer(connection: socket.socket) -> bytes:
    said = b""
    while more := connection.recv(1 << 16):
        said += more
    return said


def counted(served: Served) -> float:
    """Chat requests so far, however they ended."""
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    own = [line for line in lines if line.startswith("redraft_http_requests_total{") and f'"{CHAT}"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in own)


def test_of_who_closes_before_its_turn_nothing_is_read(served: Served) -> None:
    before, held, data = counted(served), Held(served), request()
    with connected(served) as stays:
        leaving = [socket.create_connection(("127.0.0.1", served.server.port)) for _ in range(4)]
        for one in leaving:
            one.sendall(data)
        stays.sendall(data[:10])
        wait_until(lambda: len(held.connections) == 5)
        for one in leaving:
            one.close()
        wait_until(lambda: len(held.connections) == 1)
        # What comes in pieces while it waits is one request.
        stays.sendall(data[10:])
        wait_until(lambda: len(held.connections[0]._arrived) == 2)
        held.let_go()
        assert answer(stays).startswith(b"HTTP/1.1 200")
    assert counted(served) == before + 1


def test_of_who_waits_only_so_much_is_kept(served: Served, held: Held) -> None:
    with connected(served) as connection:
        sending = threading.Thread(target=connection.sendall, args=(request("x" * 3_900_000),), daemon=True)
        sending.start()
        wait_until(lambda: any(not one.transport.is_reading() for one in held.connections))
        assert sum(map(len, held.connections[0]._arrived)) <= (1 << 16) + (1 << 18)
        held.let_go()
        assert answer(connection).startswith(b"HTTP/1.1 4"), "it is far longer than the context"
        sending.join(600)


def test_a_head_that_is_there_is_not_late_however_long_its_turn_takes(served: Served, held: Held) -> None:
    with connected(served) as connection:
        connection.sendall(request())
        wait_until(lambda: len(held.connections) == 1)
        held._in_loop(held.connections[0]._give_up)
        held.let_go()
        assert answer(connection).startswith(b"HTTP/1.1 200")
