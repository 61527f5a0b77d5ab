"""Where no key shows who asks, the names under which a server is asked for, and the pages that ask, are its own."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse

from redraft.errors import RequestError
from redraft.serve.http.hosts import Hosts, is_loopback, own_names
from redraft.serve.state import ServerSettings


def status(headers: dict[str, str], *names: str, origins: tuple[str, ...] = (), host: str = "localhost") -> int:
    app: Any = Hosts(PlainTextResponse("in"), names, origins)

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
            return (await client.get("/v1/models", headers=headers)).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "LOCALHOST.", "a.localhost", "127.0.0.1:8000", "[::1]:80", "192.168.1.2"]
)
def test_localhost_and_addresses_are_always_allowed(host: str) -> None:
    assert status({"host": host}) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[::1", "", "a b"]
)
def test_a_name_that_a_page_may_have_led_here_is_not(host: str) -> None:
    assert status({"host": host}) == 403
    assert status({"host": host}, "*") == 200


def test_names_can_be_added() -> None:
    assert status({"host": "Redraft:8000"}, "redraft") == 200
    assert status({"host": "redraft2"}, "redraft") == 403


def test_the_names_of_what_it_listens_at_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Desk.lan")
    assert own_names("127.0.0.1") == {"localhost", "127.0.0.1"}
    assert {"desk.lan", "desk", "desk.local"} <= own_names("0.0.0.0")
    assert "box.example" in own_names("Box.example")


@pytest.mark.parametrize(("host", "found"), [("127.0.0.2", True), ("::1", True), ("localhost", True), ("::", False)])
def test_what_only_this_machine_reaches_is_known(host: str, found: bool) -> None:
    assert is_loopback(host) is found


@pytest.mark.parametrize(
    ("origin", "found"),
    [
        ("http://localhost:5173", 200),
        ("http://127.0.0.1:8000", 200),
        ("https://page.example", 200),
        ("https://evil.example", 403),
        ("null", 403),
        # No page of the web has these: they are the origins of programs.
        ("vscode-webview://abc", 200),
        ("app://obsidian.md", 200),
    ],
)
def test_pages_of_others_may_not_ask(origin: str, found: int) -> None:
    assert status({"origin": origin}, origins=("https://page.example",)) == found


@pytest.mark.parametrize("host", ["", "a:80", "http://a", "a/b"])
def test_what_is_no_name_is_refused_at_the_start(host: str) -> None:
    with pytest.raises(RequestError, match="allowed host"):
        ServerSettings("m", allowed_hosts=[host])
