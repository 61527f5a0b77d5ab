"""What is around the tabs: the address, the theme, the options, the key."""

import re

from playwright.sync_api import Page, expect

from redraft.api import Engine
from redraft.serve.state import ServerSettings
from tests.serve.conftest import serving
from tests.serve.page.conftest import Opener, sent_json, set_option, settle


def test_it_opens_where_the_model_is_at_home(page: Page):
    expect(page.get_by_role("tab", name="Sudoku")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("banner")).to_contain_text(re.compile(r"sudoku.*redraft \d"))


def test_tabs_move_by_keyboard_and_stand_in_the_address(page: Page):
    page.get_by_role("tab", name="Sudoku").focus()
    # Where the model is at home comes first.
    for key, tab in (("ArrowRight", "extract"), ("End", "chat"), ("ArrowRight", "sudoku"), ("ArrowLeft", "chat")):
        page.keyboard.press(key)
        assert page.url.endswith(f"#{tab}")
        expect(page.get_by_role("tabpanel")).to_have_attribute("id", f"panel-{tab}")
        expect(page.get_by_role("tab", selected=True)).to_be_focused()
    page.goto(page.url.replace("#chat", "#fill"))
    expect(page.get_by_role("tabpanel", name="Fill")).to_be_visible()


def test_an_address_that_makes_no_sense_is_no_fault(opened: Opener, base_url: str):
    page = opened(base_url, "%")
    expect(page.get_by_role("tab", name="Sudoku")).to_have_attribute("aria-selected", "true")
    page.goto(f"{base_url}/#sudoku/%E0")
    expect(page.get_by_role("alert").filter(has_text="found “%”")).to_be_visible()


def test_the_theme_is_chosen_and_kept(opened: Opener, base_url: str):
    page = opened(base_url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Theme: as the system. Change to light.").click()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Theme: light. Change to dark.").click()
    assert page.evaluate(ground) == dark


def test_options_are_sent_and_empty_ones_are_not(page: Page):
    set_option(page, "Seed", "11")
    with page.expect_request("**/v1/redraft/generate") as sent:
        page.get_by_role("button", name="Solve").click()
    assert set(sent_json(sent.value)) == {"messages", "seed"}
    expect(page.get_by_role("group", name="What the answer cost")).to_contain_text("seed 11")
    expect(page.get_by_text("Options, 1 set").locator("visible=true")).to_be_visible()


def test_an_option_that_is_wrong_is_shown_where_it_was_hidden(page: Page):
    set_option(page, "Seed", "-1")
    page.get_by_text("Options, 1 set").locator("visible=true").click()
    seed = page.get_by_role("spinbutton", name="Seed")
    expect(seed).not_to_be_visible()
    page.get_by_role("button", name="Solve").click()
    expect(seed).to_be_focused()
    expect(page.get_by_role("slider")).to_have_count(0)


def test_a_key_is_asked_for_and_kept_for_the_session(opened: Opener, sudoku: Engine):
    with serving(sudoku, ServerSettings("sudoku", api_keys=("opensesame",))) as up:
        page = opened(up.url)
        dialog = page.get_by_role("dialog", name="API key")
        dialog.get_by_role("button", name="Cancel").click()
        expect(page.get_by_role("alert").filter(has_text="none was given")).to_be_visible()
        page.get_by_role("button", name="Try again").click()
        key = dialog.get_by_role("textbox", name="Key")
        expect(key).to_be_focused()
        page.keyboard.type("clé")
        page.keyboard.press("Enter")
        # It could not even be sent.
        assert key.evaluate("key => key.validity.patternMismatch")
        key.fill("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The server did not take that key.")
        expect(key).to_be_focused()
        page.keyboard.type("opensesame")
        page.keyboard.press("Enter")
        expect(page.get_by_role("banner")).to_contain_text("sudoku")
        page.reload()
        expect(page.get_by_role("banner")).to_contain_text("sudoku")
        expect(dialog).not_to_be_visible()
        page.get_by_role("tab", name="Sudoku").click()
        page.get_by_role("button", name="Solve").click()
        settle(page)
