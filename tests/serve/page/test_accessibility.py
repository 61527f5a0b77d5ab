"""axe finds nothing, in both themes, on a desk and on a phone, before an answer and after it."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from redraft.engine.engine import Engine
from redraft.serve.serving import Settings
from tests.serve.conftest import serving
from tests.serve.page.conftest import Opener, settle
from tests.serve.page.fake_server import FakeServer

ASK = {"chat": "Send", "sudoku": "Solve", "schema": "Answer", "fill": "Fill", "decide": "Decide"}


def check(page: Page) -> None:
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], "scrolls sideways"


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_tab(opened: Opener, base_url: str, theme: str, width: int):
    page = opened(base_url, "chat", width=width, color_scheme=theme, reduced_motion="reduce")
    for tab, button in ASK.items():
        page.locator(f"#tab-{tab}").click()
        check(page)
        if tab == "chat":
            page.get_by_role("button", name="Use a puzzle").click()
        page.get_by_role("button", name=button, exact=True).click()
        page.get_by_role("group", name="What the answer cost").wait_for()
        if tab != "decide":
            page.get_by_role("slider").focus()
            page.keyboard.press("Home")
            page.keyboard.press("ArrowRight")
            page.get_by_role("gridcell").nth(5).focus()
        check(page)
    page.locator("#tab-sudoku").click()
    page.get_by_role("radio", name="what the model saw").check()
    page.get_by_text("Options", exact=False).locator("visible=true").first.click()
    check(page)
    page.get_by_role("textbox", name="row 1, column 3:").fill("5")
    expect(page.get_by_role("list", name="Broken rules")).to_be_visible()
    check(page)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_of_a_large_model_on_a_phone(opened: Opener, theme: str):
    with FakeServer() as writer:
        page = opened(writer.url, "chat", width=360, color_scheme=theme, reduced_motion="reduce")
        page.get_by_role("textbox", name="Message").fill("What is a canvas? please break")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert").filter(has_text="NaN")).to_be_visible()
        check(page)
        page.get_by_role("textbox", name="Message").fill("What is a canvas?")
        page.get_by_role("button", name="Send").click()
        settle(page)
        check(page)


def test_the_dialog_for_the_key(opened: Opener, sudoku: Engine):
    with serving(sudoku, Settings("sudoku", api_keys=["opensesame"])) as up:
        page = opened(up.url)
        expect(page.get_by_role("dialog")).to_be_visible()
        check(page)
