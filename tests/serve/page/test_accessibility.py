"""axe finds nothing and nothing scrolls sideways: in every tab, theme and width, before an answer and after it."""

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from redraft.api import Engine
from redraft.serve.state import ServerSettings
from tests.serve.conftest import Served, serving
from tests.serve.page.conftest import Opener, settle

BUTTONS = {
    "chat": "Send",
    "sudoku": "Solve",
    "extract": "Extract",
    "schema": "Answer",
    "fill": "Fill",
    "decide": "Decide",
}


def check(page: Page) -> None:
    """Look at the page as it is on a desk in light, and on a phone in dark."""
    shown: list[tuple[Literal["light", "dark"], int]] = [("light", 1280), ("dark", 360)]
    for theme, width in shown:
        page.emulate_media(color_scheme=theme)
        page.set_viewport_size({"width": width, "height": 900})
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "scrolls sideways"


def look_closely(page: Page) -> None:
    """At a step in the middle, with one of its positions inspected."""
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.get_by_role("gridcell").nth(5).focus()


@pytest.mark.parametrize("tab", BUTTONS)
def test_a_tab_before_and_after_an_answer(opened: Opener, base_url: str, served: Served, tab: str):
    # The names of fields are spelled on the canvas, by a model that can spell any text.
    page = opened(served.url if tab == "extract" else base_url, tab)
    page.get_by_text("Options", exact=True).locator("visible=true").click()
    check(page)
    if tab == "chat":
        page.get_by_role("button", name="Use a puzzle").click()
    page.get_by_role("button", name=BUTTONS[tab], exact=True).click()
    page.get_by_role("group", name="What the answer cost").wait_for()
    if tab == "extract":
        # Values are there at the last step alone.
        page.get_by_role("table", name="Values").wait_for()
    elif tab != "decide":
        look_closely(page)
    check(page)


def test_a_grid_with_planted_digits(page: Page):
    page.get_by_role("button", name="3 wrong digits").click()
    check(page)


def test_what_is_wrong_with_a_board(page: Page):
    page.get_by_role("textbox", name="row 1, column 3:").fill("5")
    expect(page.get_by_role("list", name="Broken rules")).to_be_visible()
    check(page)


def test_text_of_several_canvases_and_what_the_model_saw(opened: Opener, served: Served):
    page = opened(served.url, "chat")
    page.get_by_role("textbox", name="Message").fill("What is a canvas?")
    page.get_by_role("button", name="Send").click()
    settle(page)
    look_closely(page)
    page.get_by_role("radio", name="what the model saw").check()
    check(page)


def test_the_dialog_for_the_key(opened: Opener, sudoku: Engine):
    with serving(sudoku, ServerSettings("sudoku", api_keys=("opensesame",))) as up:
        page = opened(up.url)
        expect(page.get_by_role("dialog")).to_be_visible()
        check(page)
