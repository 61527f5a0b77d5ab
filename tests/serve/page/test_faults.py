"""What goes wrong is said in words: by a real server where it can be made to fail, by a scripted one elsewhere."""

import shutil
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from safetensors.torch import load_file, save_file

from redraft.api import Engine
from redraft.loading import load
from redraft.serve.state import ServerSettings
from tests.serve.conftest import serving
from tests.serve.page.conftest import Opener, set_option, settle
from tests.serve.page.scripted_server import Part, ScriptedServer, event, resulted, started, stepped


def ask(page: Page, text: str = "What is a canvas?") -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_a_parameter_that_the_server_refuses_is_named(page: Page):
    set_option(page, "Steps at most", "1001")
    page.get_by_role("button", name="Solve").click()
    expect(page.get_by_role("alert").filter(has_text="Max_denoising_steps: ")).to_contain_text("1000")


def test_a_server_that_is_gone_is_said(opened: Opener, sudoku: Engine):
    with serving(sudoku, ServerSettings("sudoku")) as up:
        page = opened(up.url, "sudoku")
    page.get_by_role("button", name="Solve").click()
    expect(page.get_by_role("alert").filter(has_text="Is redraft serve still running?")).to_be_visible()


def test_a_server_that_ends_in_the_middle_of_an_answer_is_said(opened: Opener, engine: Engine):
    with serving(engine) as up:
        page = opened(up.url, "chat")
        set_option(page, "Steps at most", "1000")
        # A random seed may end the answer before the server ends.
        set_option(page, "Seed", "7")
        ask(page)
        page.get_by_role("slider").wait_for()
    expect(
        page.get_by_role("alert").filter(has_text="The service ended before the request was finished")
    ).to_be_visible()
    expect(page.get_by_role("gridcell")).to_have_count(48)


@pytest.fixture(scope="module")
def damaged(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A model with NaN among its weights."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("nan") / "damaged")
    weights = load_file(folder / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("decoder.norm.weight"))
    weights[name][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return load(folder)


def test_nan_is_said_and_no_answer_is_shown(opened: Opener, damaged: Engine):
    with serving(damaged) as up:
        page = opened(up.url, "chat")
        ask(page)
        expect(page.get_by_role("alert").filter(has_text="not a number")).to_contain_text("canvas 0, step 1")
        expect(page.get_by_role("group", name="What the answer cost")).to_have_count(0)
        page.get_by_role("tab", name="Decide").click()
        page.get_by_role("button", name="Decide", exact=True).click()
        expect(page.get_by_role("tabpanel").get_by_role("alert").filter(has_text="not a number")).to_be_visible()


ENDED = "The connection ended before the answer was complete."


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (b"", ENDED),
        (b"event: result\ndata: {", ENDED),
        (b"event: step\ndata: {\n\n", "The server sent an event that is not JSON"),
        (event("error", {"message": "the logits are lost", "param": None}), "The logits are lost"),
    ],
    ids=["ends", "is cut off", "is no JSON", "fails"],
)
def test_a_stream_that_breaks_is_said_and_its_steps_stay(opened: Opener, last: bytes, words: str):
    with ScriptedServer([started(), stepped(1), stepped(2), last]) as scripted:
        page = opened(scripted.url, "chat")
        ask(page)
        expect(page.get_by_role("alert").filter(has_text=words)).to_be_visible()
        expect(page.get_by_role("slider")).to_have_attribute("max", "1")
        expect(page.get_by_role("button", name="Stop")).to_have_attribute("aria-disabled", "true")


def test_an_answer_of_somebody_else_is_said(opened: Opener):
    with ScriptedServer(HTTPStatus.BAD_GATEWAY) as scripted:
        page = opened(scripted.url, "chat")
        ask(page)
        expect(page.get_by_role("alert").filter(has_text="The server answered 502 Bad Gateway")).to_be_visible()


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """What a scripted answer waits for; let go at the end, so that no thread stays behind."""
    event = threading.Event()
    yield event
    event.set()


def test_a_step_that_is_looked_at_stays_while_others_arrive(opened: Opener, held: threading.Event):
    parts: list[Part] = [started(), stepped(1), stepped(2), held, stepped(3), stepped(4), resulted()]
    with ScriptedServer(parts) as scripted:
        page = opened(scripted.url, "chat")
        ask(page)
        slider = page.get_by_role("slider")
        expect(slider).to_have_attribute("max", "1")
        expect(page.get_by_role("button", name="Send")).to_have_attribute("aria-disabled", "true")
        slider.focus()
        page.keyboard.press("Home")
        held.set()
        expect(slider).to_have_attribute("max", "3")
        settle(page)
        expect(slider).to_have_value("0")


def test_nothing_of_an_answer_that_was_left_reaches_the_next_one(opened: Opener, held: threading.Event):
    late: list[Part] = [started(), stepped(1, "wxyz"), held, stepped(2), stepped(3), resulted("wxyz")]
    with ScriptedServer(late, [started(), stepped(1), stepped(2), resulted()]) as scripted:
        page = opened(scripted.url, "sudoku")
        page.get_by_role("button", name="Solve").click()
        expect(page.get_by_role("gridcell")).to_have_text([*"wxyz"])
        page.get_by_role("button", name="26 givens").click()
        expect(page.get_by_role("gridcell")).to_have_count(0)
        page.get_by_role("button", name="Solve").click()
        settle(page)
        held.set()
        expect(page.get_by_role("gridcell")).to_have_text([*"abcd"])
        expect(page.get_by_role("slider")).to_have_attribute("max", "1")
        expect(page.get_by_role("alert").filter(has_text="connection")).to_have_count(0)
