"""Who sends half a request, far too much, or what takes long to compile and goes away, keeps nobody else waiting."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from redraft.api import Engine
from redraft.constrain import Regex
from redraft.constrain.job import ConstraintJob
from redraft.engine.fairness import Client
from redraft.serve.http.limits import BodyLimit, RequestLimits
from redraft.serve.http.presence import owner_of
from redraft.serve.server import Server
from redraft.serve.state import ServerSettings
from tests.engine.test_compiling import Endless
from tests.serve.conftest import NAME, Served, serving, wait_until

CHAT: dict[str, Any] = {"model": NAME, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
# Takes for ever to compile, in the place of what takes as long as the limits allow.
HOSTILE = {"type": "regex", "pattern": "hostile"}
HARMLESS = {"type": "regex", "pattern": "[ab]{3}"}


@pytest.fixture(scope="module")
def guarded(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with two clients."""
    settings = ServerSettings(NAME, api_keys=["a", "b"])
    path = str(tmp_path_factory.mktemp("endless") / "pid")
    with pytest.MonkeyPatch.context() as patch, serving(engine, settings) as up:
        # Where the process that compiles finds the endless job.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        processes = up.server.processes
        build = processes.build

        def swapped(job: Any, *more: Any) -> Any:
            hostile = isinstance(job, ConstraintJob) and job.constraint == Regex(HOSTILE["pattern"])
            return build(Endless(path) if hostile else job, *more)

        patch.setattr(processes, "build", swapped)
        yield up


@pytest.fixture(scope="module")
def impatient(engine: Engine) -> Iterator[Served]:
    """For what is sent at once, or never: a client that a busy machine stops between two parts would come too late."""
    limits = RequestLimits(header_seconds=0.3, body_seconds=0.3)
    with serving(engine, ServerSettings(NAME, api_keys=["a"], limits=limits)) as up:
        yield up


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


def generate(constraint: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": "x", "max_tokens": 20, "constraint": constraint}


@contextmanager
def sent(up: Served, data: bytes) -> Iterator[socket.socket]:
    """A connection on which so much has been sent."""
    with closing(socket.create_connection(("127.0.0.1", up.server.port), timeout=600)) as connection:
        connection.sendall(data)
        yield connection


def answer_to(up: Served, data: bytes) -> bytes:
    """All that is sent back until the server closes the connection."""
    said = b""
    with sent(up, data) as connection:
        while more := connection.recv(1 << 16):
            said += more
    return said


def written(name: str, body: dict[str, Any]) -> bytes:
    """A request whole."""
    data = json.dumps(body).encode()
    head = (
        "POST /v1/redraft/generate HTTP/1.1", "host: localhost", "content-type: application/json",
        f"authorization: Bearer {name}", f"content-length: {len(data)}", "", "",
    )  # fmt: skip
    return "\r\n".join(head).encode() + data


def test_the_body_is_left_out_where_only_the_head_is_asked_for(served: Served) -> None:
    for path in ("/", "/health", "/v1/models"):
        answer = httpx.head(f"{served.url}{path}")
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0
    assert httpx.head(f"{served.url}/v1/chat/completions").status_code == 405


@pytest.mark.parametrize("data", [b"", b"POST /v1/chat/comp", b"GET /health HTTP/1.1\r\nhost: localhost\r\n"])
def test_half_a_head_is_not_waited_for(impatient: Served, data: bytes) -> None:
    with sent(impatient, data) as connection:
        assert connection.recv(100) == b""


def test_half_a_head_behind_a_request_is_not_waited_for(impatient: Served) -> None:
    whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with sent(impatient, whole) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        connection.sendall(whole[:20])
        while connection.recv(1 << 16):
            pass


def test_half_a_body_is_told_so(impatient: Served) -> None:
    said = answer_to(impatient, written("a", generate(HARMLESS))[:-3])
    assert said.startswith(b"HTTP/1.1 408")
    assert b"did not arrive in time" in said


def test_a_request_that_takes_its_time_to_be_answered_is_not_cut_off(impatient: Served) -> None:
    """The patience is with what is sent, not with what is computed."""
    said = answer_to(impatient, written("a", {"prompt": "x", "max_tokens": 500}))
    assert said.startswith(b"HTTP/1.1 200")
    assert b"event: result" in said


def test_no_name_but_its_own_is_answered_without_a_key(served: Served, guarded: Served, engine: Engine) -> None:
    evil = {"host": "evil.example"}
    for path in ("/", "/health", "/v1/models"):
        assert httpx.get(f"{served.url}{path}", headers=evil).status_code == 403
    assert "--allowed-host evil.example" in httpx.get(served.url, headers=evil).json()["error"]["message"]
    assert served.post("/v1/chat/completions", CHAT, headers={"origin": "http://evil.example"}).status_code == 403
    assert httpx.get(f"{guarded.url}/v1/models", headers={**evil, **key("a")}).status_code == 200
    with serving(engine, ServerSettings(NAME, allowed_hosts=["evil.example"])) as up:
        assert httpx.get(f"{up.url}/v1/models", headers=evil).status_code == 200
        assert httpx.get(f"{up.url}/v1/models", headers={"host": "other.example"}).status_code == 403


def test_nobody_makes_up_who_they_are(served: Served, guarded: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is not checked, and an address that a client tells, are names that anybody can invent."""
    clients: list[Client] = []
    for up in (served, guarded):
        submit = up.server.scheduler.submit

        def noted(runnable: Any, *, client: Client, submit: Any = submit, **more: Any) -> Any:
            clients.append(client)
            return submit(runnable, client=client, **more)

        monkeypatch.setattr(up.server.scheduler, "submit", noted)
    for number in range(3):
        headers = {"x-api-key": f"made up {number}", "x-forwarded-for": f"10.0.0.{number}"}
        served.post("/v1/chat/completions", {**CHAT, "user": f"u{number}"}, headers=headers)
    for name in ("a", "b"):
        guarded.post("/v1/chat/completions", CHAT, headers=key(name))
    assert [client.user for client in clients[:3]] == ["u0", "u1", "u2"]
    assert len({client.owner for client in clients[:3]}) == 1
    assert len({client.owner for client in clients}) == 3


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
def test_a_network_of_addresses_is_one_client(first: str, second: str, same: bool) -> None:
    owners = [owner_of({"client": (host, 1), "headers": []}, False) for host in (first, second)]
    assert (owners[0] == owners[1]) is same


def test_hostile_constraints_of_clients_that_leave_are_given_up(guarded: Served) -> None:
    processes = guarded.server.processes
    with ExitStack() as open:
        for _ in range(12):
            open.enter_context(sent(guarded, written("a", generate(HOSTILE))))
        wait_until(lambda: processes.turns.waiting == 11)
        assert processes.turns.running == 1, "one at a time for each client"
        answer = guarded.post("/v1/redraft/generate", generate(HARMLESS), headers=key("b"))
        assert answer.status_code == 200
        assert "event: result" in answer.text
        assert processes.turns.waiting == 11, "the other one was answered while they wait"
        # What does not compile is not behind them, not even of the same client.
        assert guarded.post("/v1/chat/completions", CHAT, headers=key("a")).status_code == 200
        assert processes.turns.waiting == 11
    wait_until(lambda: (processes.turns.running, processes.turns.waiting) == (0, 0))
    wait_until(lambda: guarded.idle)


def test_who_has_too_much_to_compile_is_told_to_come_again(guarded: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = guarded.server.processes.turns
    monkeypatch.setattr(turns, "_max_waiting_of_each", 1)

    def has(count: int) -> bool:
        return turns.running + turns.waiting == count

    with ExitStack() as open:
        for count in range(2):
            open.enter_context(sent(guarded, written("a", generate(HOSTILE))))
            wait_until(partial(has, count + 1))
        refused = guarded.post("/v1/redraft/generate", generate(HOSTILE), headers=key("a"))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
    wait_until(lambda: (turns.running, turns.waiting) == (0, 0))


def test_what_took_long_to_compile_counts_as_work(guarded: Served) -> None:
    scheduler = guarded.server.scheduler
    charged: list[tuple[Client, float]] = []
    processes = guarded.server.processes
    count, processes._charge = processes._charge, lambda client, seconds: charged.append((client, seconds))
    try:
        guarded.post("/v1/redraft/generate", generate({"type": "regex", "pattern": "[bc]{4}"}), headers=key("a"))
    finally:
        processes._charge = count
    assert [client.owner for client, _ in charged] == ["key a"]
    assert charged[0][1] > 0
    assert count == scheduler.charge


def test_what_is_read_and_checked_for_a_client_counts_as_work(guarded: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the event loop and in threads: it takes from others what a forward takes."""
    charged: list[tuple[Client, float]] = []
    monkeypatch.setattr(guarded.server.scheduler, "charge", lambda client, seconds: charged.append((client, seconds)))
    assert guarded.post("/v1/chat/completions", CHAT, headers=key("a")).status_code == 200
    assert {client for client, _ in charged} == {Client("key a")}
    assert len(charged) >= 2
    assert sum(seconds for _, seconds in charged) > 0


def test_a_body_of_too_many_values_is_refused_before_it_is_read(served: Served) -> None:
    for body in ({**CHAT, "messages": [{}] * 40_000}, {**CHAT, **{f"f{n}": 1 for n in range(40_000)}}):
        refused = served.post("/v1/chat/completions", body)
        assert refused.status_code == 413
        assert "strings, arrays and objects" in refused.json()["error"]["message"]
    assert served.post("/v1/completions", {"model": NAME, "prompt": [1] * 40_000}).status_code == 413


def test_a_message_that_repeats_what_was_sent_has_an_end(served: Served) -> None:
    refused = served.post("/v1/chat/completions", {**CHAT, "model": "m" * 1_000_000})
    assert refused.status_code == 404
    assert len(refused.content) < 10_000


def test_a_client_that_holds_many_bodies_leaves_room_for_others() -> None:
    limits = RequestLimits(body_bytes=200_000, held_bodies=2)
    statuses: dict[str, list[int]] = {"1.0.0.1": [], "1.0.0.2": []}

    async def run() -> None:
        hold = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            owner = scope["client"][0]
            try:
                await receive()
            except HTTPException as refused:
                statuses[owner].append(refused.status_code)
                return
            statuses[owner].append(200)
            await hold.wait()

        guard = BodyLimit(app, limits, with_keys=False)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"x" * 150_000, "more_body": False}

        async def send(message: Message) -> None:
            raise AssertionError("nothing is sent here")

        def ask(address: str) -> asyncio.Task[None]:
            return asyncio.create_task(
                guard({"type": "http", "path": "/", "headers": [], "client": (address, 1)}, receive, send)
            )

        asking = [ask(address) for address in ("1.0.0.1", "1.0.0.1", "1.0.0.1", "1.0.0.2")]
        while sum(map(len, statuses.values())) < len(asking):
            await asyncio.sleep(0)
        hold.set()
        await asyncio.gather(*asking)
        await ask("1.0.0.1")

    asyncio.run(run())
    assert statuses == {"1.0.0.1": [200, 200, 503, 200], "1.0.0.2": [200]}


def test_a_server_that_stops_leaves_no_process(engine: Engine) -> None:
    with serving(engine) as up:
        assert up.post("/v1/redraft/generate", generate(HARMLESS)).status_code == 200
        server: Server = up.server
        server.warm_up()
        assert server.processes.pids
    wait_until(lambda: not server.processes.pids)
