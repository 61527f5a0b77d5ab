"""The decision tab: the options of several questions, with their probabilities."""

import re

import pytest
from playwright.sync_api import expect

from tests.serve.page.conftest import Opener, sent_json, set_option


def test_bars_add_up_and_the_likeliest_stands_first(opened: Opener, base_url: str):
    page = opened(base_url, "decide")
    set_option(page, "Seed", "1")
    page.get_by_role("button", name="Decide", exact=True).click()
    for question, count in (("third", 3), ("fourth", 2)):
        options = page.get_by_role("list", name=f"Options of {question}")
        expect(options.get_by_role("listitem")).to_have_count(count)
        expect(options.get_by_role("listitem").first).to_contain_text("chosen")
        widths = options.locator("i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
        assert sum(widths) == pytest.approx(100, abs=0.01)
        assert widths == sorted(widths, reverse=True)
        numbers = [float(text.split("\xa0")[0]) for text in options.locator(".number").all_inner_texts()]
        assert numbers == pytest.approx(widths, abs=0.06)
    expect(page.get_by_role("list", name="Options of third").get_by_role("listitem").first).to_contain_text("4")
    expect(page.get_by_role("group", name="What the answer cost")).to_contain_text("1 step")
    expect(page.get_by_role("status")).to_contain_text("Decided. third: 4")


def test_questions_and_options_come_and_go_by_keyboard(opened: Opener, base_url: str):
    page = opened(base_url, "decide")
    page.get_by_role("button", name="Remove question 1").press("Enter")
    expect(page.get_by_role("textbox", name="Name")).to_be_focused()
    page.get_by_role("button", name="Add an option to question 1").press("Enter")
    expect(page.get_by_text("An option of fourth is empty.")).to_be_visible()
    expect(page.get_by_role("textbox", name="Option 3 of question 1")).to_be_focused()
    page.keyboard.type("8")
    page.get_by_role("button", name="Remove option 1 of question 1").press("Enter")
    expect(page.get_by_role("textbox", name="Option 1 of question 1")).to_be_focused()
    page.get_by_role("button", name="Add a question").press("Enter")
    expect(page.get_by_text("Every question needs a name.")).to_be_visible()
    expect(page.get_by_role("textbox", name="Name").last).to_be_focused()
    page.get_by_role("button", name="Remove question 2").press("Enter")
    page.get_by_role("textbox", name="Frame").fill("534{fourth}")
    with page.expect_request("**/v1/redraft/choose") as sent:
        page.get_by_role("button", name="Decide", exact=True).click()
    assert sent_json(sent.value)["questions"] == {"fourth": ["6", "8"]}
    expect(page.get_by_role("list", name="Options of fourth").get_by_role("listitem")).to_have_count(2)


def test_options_compare_for_each_byte_where_that_is_asked_for(opened: Opener, base_url: str):
    """The control says ``normalize``, and what comes back is what the server decides with it."""
    page = opened(base_url, "decide")
    set_option(page, "Seed", "1")
    page.get_by_role("button", name="Remove question 2").click()
    page.get_by_role("textbox", name="Frame").fill("53{third}")
    page.get_by_role("textbox", name="Option 1 of question 1").fill("4678")
    by_length = page.get_by_role("checkbox", name="Compare options by their probability for each byte")
    expect(by_length).to_have_accessible_description(re.compile("long option"))
    shown = []
    for checked in (False, True):
        by_length.set_checked(checked)
        with page.expect_response("**/v1/redraft/choose") as answered:
            page.get_by_role("button", name="Decide", exact=True).click()
        assert sent_json(answered.value.request).get("normalize") == ("length" if checked else None)
        answer = answered.value.json()["answers"]["third"]
        row = page.get_by_role("list", name="Options of third").get_by_role("listitem").filter(has_text="4678")
        expect(row).to_contain_text(f"{100 * answer['probabilities']['4678']:.1f}")
        shown.append(answer["probabilities"]["4678"])
    assert shown[0] != shown[1]


def test_a_frame_without_a_question_is_refused_in_words(opened: Opener, base_url: str):
    page = opened(base_url, "decide")
    page.get_by_role("textbox", name="Frame").fill("53{third}67")
    page.get_by_role("button", name="Decide", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="fourth")).to_be_visible()
    expect(page.get_by_text("show up here").locator("visible=true")).to_have_count(0)
