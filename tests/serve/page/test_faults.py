"""What goes wrong, and what is slow: said in words. A scripted server does what a real one does not on demand."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from redraft.engine.engine import Engine
from redraft.serve.serving import Settings
from tests.serve.conftest import serving
from tests.serve.page.conftest import Opener, settle, steps_in
from tests.serve.page.fake_server import LETTER, FakeServer


@pytest.fixture
def writer() -> Iterator[FakeServer]:
    """A server of a model that writes text."""
    with FakeServer() as server:
        yield server


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_steps_show_while_they_arrive_and_stop_cancels(opened: Opener, writer: FakeServer):
    page = opened(writer.url, "chat")
    ask(page, "be slow")
    slider = page.get_by_role("slider")
    expect(slider).to_have_attribute("max", re.compile("^[1-9]"))
    expect(page.get_by_role("gridcell")).to_have_count(64)
    # Going back holds the step that is shown, and what arrives is recorded all the same.
    slider.focus()
    page.keyboard.press("Home")
    arrived = int(slider.get_attribute("max") or "0")
    expect(slider).to_have_attribute("max", str(arrived + 2))
    expect(slider).to_have_value("0")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped. The canvas stands as the last step left it")).to_be_visible()
    assert writer.cancelled.wait(5)
    expect(page.get_by_role("button", name="Send")).to_have_attribute("aria-disabled", "false")


def test_an_answer_of_several_canvases(opened: Opener, writer: FakeServer):
    page = opened(writer.url, "chat")
    ask(page, "What is a canvas?")
    settle(page)
    expect(page.get_by_role("list", name="Conversation")).to_contain_text(LETTER.split("\n\n")[1])
    expect(page.get_by_role("group", name="What the answer cost")).to_contain_text("2 canvases")
    slider = page.get_by_role("slider")
    expect(slider).to_have_attribute("aria-valuetext", "canvas 2, step 6 of at most 18, settled")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "canvas 1, step 1 of at most 18")


def test_a_conversation_goes_on_and_its_canvases_stay(opened: Opener, writer: FakeServer):
    page = opened(writer.url, "chat")
    ask(page, "What is a canvas?")
    settle(page)
    ask(page, "And a step?")
    expect(page.get_by_role("group", name="What the answer cost")).to_have_count(2)
    assert [message["role"] for message in writer.bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert writer.bodies[1]["messages"][1]["content"] == LETTER
    page.get_by_role("button", name="Show its canvas").first.click()
    expect(page.get_by_role("button", name="Show its canvas").first).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("list", name="Conversation")).to_have_count(0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("please break", "The logits are NaN at step 16"),
        ("please vanish", "The connection ended before the answer was complete."),
    ],
)
def test_a_fault_midway_is_said_and_the_steps_stay(opened: Opener, writer: FakeServer, text: str, words: str):
    page = opened(writer.url, "chat")
    ask(page, text)
    expect(page.get_by_role("alert").filter(has_text=words)).to_be_visible()
    expect(page.get_by_role("slider")).to_have_attribute("max", "2")


def test_a_refused_parameter_is_named(opened: Opener, base_url: str):
    page = opened(base_url, "sudoku")
    page.get_by_text("Options", exact=True).locator("visible=true").click()
    page.get_by_role("spinbutton", name="Steps at most").fill("1001")
    page.get_by_role("button", name="Solve").click()
    expect(page.get_by_role("alert").filter(has_text="Max_denoising_steps: ")).to_be_visible()


def test_a_server_that_is_gone_is_said(opened: Opener, sudoku: Engine):
    with serving(sudoku, Settings("sudoku")) as up:
        page = opened(up.url, "sudoku")
    page.get_by_role("button", name="Solve").click()
    expect(page.get_by_role("alert").filter(has_text="Is redraft serve still running?")).to_be_visible()


def test_a_canvas_that_did_not_settle_is_flagged(opened: Opener, base_url: str):
    page = opened(base_url, "sudoku")
    page.get_by_text("Options", exact=True).locator("visible=true").click()
    page.get_by_role("spinbutton", name="Steps at most").fill("1")
    page.get_by_role("button", name="Solve").click()
    expect(page.get_by_text("Canvas 1 had not settled at the last step allowed")).to_be_visible()


def test_a_key_is_asked_for_and_kept_for_the_session(opened: Opener, sudoku: Engine):
    with serving(sudoku, Settings("sudoku", api_keys=["opensesame"])) as up:
        page = opened(up.url)
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert").filter(has_text="none was given")).to_be_visible()
        page.get_by_role("button", name="Try again").click()
        key = dialog.get_by_role("textbox", name="Key")
        expect(key).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The server did not take that key.")
        expect(key).to_be_focused()
        page.keyboard.type("opensesame")
        page.keyboard.press("Enter")
        expect(page.get_by_role("tab", name="Sudoku")).to_be_visible()
        expect(page.get_by_role("banner")).to_contain_text("sudoku")
        page.reload()
        expect(page.get_by_role("banner")).to_contain_text("sudoku")
        expect(dialog).not_to_be_visible()
        page.get_by_role("tab", name="Sudoku").click()
        page.get_by_role("button", name="Solve").click()
        settle(page)


def test_whoever_wants_no_motion_sees_the_newest_step(opened: Opener, base_url: str):
    page = opened(base_url, "sudoku", reduced_motion="reduce")
    page.get_by_role("button", name="Solve").click()
    cost = page.get_by_role("group", name="What the answer cost")
    cost.wait_for()
    expect(page.get_by_role("slider")).to_have_value(str(steps_in(cost.inner_text()) - 1), timeout=100)
    animated = "cells => cells.some(cell => getComputedStyle(cell).animationName !== 'none')"
    assert not page.get_by_role("gridcell").evaluate_all(animated)


def test_a_document_is_indented_and_its_numbers_stay_as_they_are(opened: Opener, writer: FakeServer):
    page = opened(writer.url, "schema", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Answer", exact=True).click()
    settle(page)
    expect(page.get_by_role("region", name="Answer")).to_contain_text(
        re.compile(r'\{\n  "name": .*\n  "share": 1\.0,', re.S)
    )
    page.get_by_role("button", name="Copy the answer").click()
    assert page.evaluate("navigator.clipboard.readText()").startswith('{"name":"Ada Lovelace","born":1815,"share":1.0')
    page.get_by_role("checkbox", name="as written").check()
    expect(page.get_by_role("region", name="Answer")).to_contain_text('{"name":"Ada Lovelace","born"')
