"""The chat tab: a puzzle as a message to the Sudoku model, and a conversation with one that writes anything."""

import json
import re

from playwright.sync_api import Page, expect

from tests.serve.conftest import Served, wait_until
from tests.serve.page.conftest import Opener, sent_json, set_option, settle


def ask(page: Page, text: str) -> None:
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("button", name="Send").click()


def test_it_answers_a_puzzle_and_says_what_it_cannot_take(opened: Opener, base_url: str):
    page = opened(base_url, "chat")
    message = page.get_by_role("textbox", name="Message")
    message.fill("hello")
    message.press("Control+Enter")
    expect(page.get_by_role("alert").filter(has_text="1 to 9")).to_be_visible()
    # What was refused can be mended.
    expect(message).to_have_value("hello")
    page.get_by_role("button", name="Use a puzzle").click()
    with page.expect_request("**/v1/redraft/generate") as sent:
        page.get_by_role("button", name="Send").click()
    settle(page)
    # The message that had no answer is not part of the conversation.
    assert len(sent_json(sent.value)["messages"]) == 1
    expect(page.get_by_role("list", name="Conversation")).to_contain_text("534678912\n672195348")
    expect(message).to_have_value("")


def test_an_answer_of_several_canvases_and_the_conversation_after_it(opened: Opener, served: Served):
    page = opened(served.url, "chat")
    set_option(page, "Tokens at most", "120")
    set_option(page, "Seed", "3")
    with page.expect_response("**/v1/redraft/generate") as answered:
        ask(page, "What is a canvas?")
    settle(page)
    text = json.loads(answered.value.text().rsplit("data: ", 1)[1])["text"]
    answer = page.get_by_role("list", name="Conversation").locator(".answer")
    assert answer.text_content() == text
    expect(page.get_by_role("group", name="What the answer cost")).to_contain_text("3 canvases")
    slider = page.get_by_role("slider")
    expect(slider).to_have_attribute("aria-valuetext", "canvas 3, step 3 of at most 3, out of steps")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "canvas 1, step 1 of at most 3")
    assert answer.text_content() != text
    # Tokens of single bytes are joined to the characters that they spell.
    assert "<0x" not in (answer.text_content() or "")
    with page.expect_request("**/v1/redraft/generate") as sent:
        ask(page, "And a step?")
    expect(page.get_by_role("group", name="What the answer cost")).to_have_count(2)
    messages = sent_json(sent.value)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == text
    shows = page.get_by_role("button", name="Show its canvas").first
    shows.click()
    expect(shows).to_have_attribute("aria-pressed", "true")
    expect(slider).to_have_attribute("aria-valuetext", "canvas 1, step 1 of at most 3")
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("list", name="Conversation")).to_have_count(0)
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()


def test_a_long_answer_is_stopped_and_the_server_stops_too(opened: Opener, served: Served):
    page = opened(served.url, "chat")
    set_option(page, "Steps at most", "1000")
    # Of 21 canvases, of which a random seed may have one.
    set_option(page, "Seed", "7")
    ask(page, "Go on and on.")
    slider = page.get_by_role("slider")
    expect(slider).to_have_attribute("max", re.compile("^[1-9]"))
    expect(page.get_by_role("button", name="Send")).to_have_attribute("aria-disabled", "true")
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_in_viewport()
    assert not served.idle
    stop.click()
    expect(page.get_by_text("Stopped. The canvas stands as the last step left it")).to_be_visible()
    wait_until(lambda: served.idle)
    expect(page.get_by_role("button", name="Send")).to_have_attribute("aria-disabled", "false")
    expect(page.get_by_role("textbox", name="Message")).to_have_value("Go on and on.")
    steps = slider.get_attribute("max")
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("max", steps or "")
