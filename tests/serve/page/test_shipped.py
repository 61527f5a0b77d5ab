"""The page of both models that ship: each tab asks the one that suits it, and the text model answers its examples."""

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Request, expect

import redraft
from redraft.api import Engine
from redraft.serve.state import ServerSettings
from tests.serve.conftest import serving
from tests.serve.page.conftest import Opener, sent_json, set_option, settle


@pytest.fixture(scope="module")
def both(sudoku: Engine) -> Iterator[str]:
    """A server of both, the text model first, as ``redraft serve`` starts without a model."""
    with (
        redraft.load("pocket") as pocket,
        serving({"pocket": pocket, "sudoku": sudoku}, ServerSettings("pocket")) as up,
    ):
        yield up.url


def ask(page: Page, button: str) -> Request:
    """Send the form as it stands but for a seed, and return what was sent once the answer is there."""
    set_option(page, "Seed", "1")
    with page.expect_request("**/v1/redraft/*") as sent:
        page.get_by_role("button", name=button, exact=True).click()
    page.get_by_role("group", name="What the answer cost").locator("visible=true").wait_for()
    return sent.value


def test_it_opens_with_fields_of_a_mail_and_reads_them(opened: Opener, both: str):
    page = opened(both)
    expect(page.get_by_role("combobox", name="Model")).to_have_value("pocket")
    tabs = page.get_by_role("tab")
    expect(tabs.first).to_have_text("Extract")
    expect(tabs.first).to_have_attribute("aria-selected", "true")
    sent = sent_json(ask(page, "Extract"))
    assert sent["model"] == "pocket"
    assert sent["verbatim"] is True
    rows = page.get_by_role("table", name="Values").get_by_role("row")
    right = {"customer": "Ines Moreau", "order_number": "B-20714", "amount": "38.5", "city": "Lyon", "phone": "absent"}
    for name, value in right.items():
        expect(rows.filter(has=page.get_by_role("rowheader", name=name))).to_contain_text(value)
    expect(page.locator("mark").filter(has_text="Ines Moreau")).to_be_visible()


def test_the_board_asks_the_model_for_puzzles_and_other_tabs_the_one_for_text(opened: Opener, both: str):
    page = opened(both)
    choice = page.get_by_role("combobox", name="Model")
    page.get_by_role("tab", name="Schema").click()
    page.get_by_role("textbox", name="Prompt").fill("Kept?")
    page.get_by_role("tab", name="Sudoku").click()
    expect(choice).to_have_value("sudoku")
    expect(page.get_by_role("button", name="Use sudoku")).to_have_count(0)
    assert sent_json(ask(page, "Solve"))["model"] == "sudoku"
    expect(page.get_by_role("tabpanel")).to_contain_text("Solved. Every row")
    page.get_by_role("tab", name="Schema").click()
    expect(choice).to_have_value("pocket")
    # What was written for one model is not taken away by the other's examples.
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("Kept?")


def test_a_choice_holds_where_the_model_suits_and_where_it_was_made(opened: Opener, both: str):
    page = opened(both, "schema")
    choice = page.get_by_role("combobox", name="Model")
    choice.select_option("sudoku")
    assert sent_json(ask(page, "Answer"))["model"] == "sudoku"
    page.get_by_role("tab", name="Fill").click()
    expect(choice).to_have_value("pocket")
    page.get_by_role("tab", name="Schema").click()
    expect(choice).to_have_value("sudoku")
    choice.select_option("pocket")
    page.get_by_role("tab", name="Sudoku").click()
    expect(choice).to_have_value("sudoku")
    choice.select_option("pocket")
    expect(page.get_by_role("tabpanel")).to_contain_text("The board expects the model for puzzles")
    page.get_by_role("button", name="Use sudoku").click()
    expect(choice).to_have_value("sudoku")


def test_an_address_of_a_board_asks_the_model_for_puzzles(opened: Opener, both: str):
    page = opened(both, "sudoku")
    expect(page.get_by_role("combobox", name="Model")).to_have_value("sudoku")


def test_a_form_is_filled_in(opened: Opener, both: str):
    page = opened(both, "fill")
    ask(page, "Fill")
    settle(page)
    expect(page.get_by_role("region", name="Answer").locator("mark")).to_contain_text("14:20")


def test_a_document_holds_what_the_prompt_says(opened: Opener, both: str):
    page = opened(both, "schema")
    ask(page, "Answer")
    settle(page)
    document = page.get_by_role("region", name="Answer").text_content() or ""
    assert json.loads(document) == {"order_number": "B-20714"}


def test_questions_are_decided(opened: Opener, both: str):
    page = opened(both, "decide")
    ask(page, "Decide")
    for question, choice in (("sentiment", "positive"), ("topic", "a restaurant")):
        chosen = page.get_by_role("list", name=f"Options of {question}").get_by_role("listitem").first
        expect(chosen).to_contain_text(f"{choice}, chosen")


def test_a_chat_says_what_it_is_for_and_answers_about_a_text(opened: Opener, both: str):
    page = opened(both, "chat")
    expect(page.get_by_role("tabpanel")).to_contain_text("knows next to nothing by itself")
    page.get_by_role("button", name="Use an example").click()
    ask(page, "Send")
    settle(page)
    expect(page.get_by_role("list", name="Conversation").locator(".answer")).to_contain_text("Lyon")
