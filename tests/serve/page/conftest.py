"""A browser, a real server with the bundled Sudoku model, and a page that may talk to its own server only."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from redraft.api import Engine
from redraft.serve.state import ServerSettings
from tests.serve.conftest import serving

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Nothing that a browser does of its own accord, and no name resolves but this machine's.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
WAIT = 30_000
"""Milliseconds."""
COPYING = ["clipboard-read", "clipboard-write"]
Opener = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One of each module: as long as it runs, its event loop runs in this thread, and other tests can have none."""
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        reason = f"needs a browser on the path: {', '.join(BROWSERS)}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    # A first constraint on a busy machine takes its time.
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def sudoku(bundled: Engine) -> Engine:
    return bundled


@pytest.fixture(scope="session")
def base_url(sudoku: Engine) -> Iterator[str]:
    """A server with the bundled Sudoku model."""
    with serving(sudoku, ServerSettings("sudoku")) as up:
        yield up.url


@pytest.fixture
def opened(browser: Browser) -> Iterator[Opener]:
    """Opens a page at a tab. At the end, no request has gone elsewhere, and the browser has had nothing to complain.

    Steps are shown as they arrive, and not at the pace of an eye, unless a test asks for motion.
    """
    contexts, requests, complaints = [], [], []

    def listen(message: ConsoleMessage) -> None:
        # An answer that is not 200 is logged by the browser itself; the page says it in words.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    def note(request: Request) -> None:
        requests.append(request.url)

    def open_page(url: str, tab: str = "", width: int = 1280, **options: Any) -> Page:
        options = {"reduced_motion": "reduce", **options}
        context = browser.new_context(viewport={"width": width, "height": 900}, base_url=url, **options)
        contexts.append((context, url))
        context.on("request", note)
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.on("console", listen)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{url}/#{tab}" if tab else f"{url}/")
        page.get_by_role("tab", selected=True).wait_for()
        return page

    yield open_page
    hosts = {urlsplit(url).netloc for _, url in contexts}
    for context, _ in contexts:
        context.close()
    assert complaints == []
    assert requests
    assert {urlsplit(url).netloc for url in requests} <= hosts, requests


@pytest.fixture
def page(opened: Opener, base_url: str) -> Page:
    """The page of the Sudoku model as it opens."""
    return opened(base_url)


def canvas_text(page: Page) -> str:
    """What the cells of the visible canvas show, "↵" for line ends."""
    return "".join(page.get_by_role("gridcell").all_inner_texts())


def settle(page: Page) -> None:
    """Wait until an answer has arrived and its last step is shown."""
    page.get_by_role("group", name="What the answer cost").last.wait_for()
    page.get_by_role("button", name="Play", exact=True).wait_for()


def set_option(page: Page, name: str, value: str) -> None:
    """Set one of the numbers under the visible "Options"."""
    field = page.get_by_role("spinbutton", name=name)
    if not field.is_visible():
        page.get_by_text("Options", exact=True).locator("visible=true").click()
    field.fill(value)


def sent_json(request: Request) -> Any:
    """What the page sent."""
    sent: Any = request.post_data_json
    assert sent is not None
    return sent


def steps_in(text: str) -> int:
    found = re.search(r"(\d+) steps?", text)
    assert found, text
    return int(found[1])
