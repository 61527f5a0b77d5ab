"""The Extract tab: fields in a form or a schema, values with their places and confidences, what is absent."""

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from redraft.api import Engine
from redraft.serve.state import ServerSettings
from tests.serve.conftest import NAME, Served, serving
from tests.serve.page.conftest import Opener, sent_json, set_option

SNIPPET = "Ada paid 12.50 on Monday, and Bo paid nothing."


@pytest.fixture
def extracting(opened: Opener, served: Served) -> Page:
    """The tab of a model that can spell any text, with a short snippet."""
    page = opened(served.url, "extract")
    page.get_by_role("textbox", name="Snippet").fill(SNIPPET)
    set_option(page, "Seed", "1")
    return page


def ask_with(page: Page, seed: int) -> dict[str, Any]:
    set_option(page, "Seed", str(seed))
    return ask(page)


def ask(page: Page, button: str = "Extract") -> dict[str, Any]:
    """Send, and return what was asked and the event of the result."""
    with page.expect_response("**/v1/redraft/extract") as answered:
        page.get_by_role("button", name=button, exact=True).click()
    page.get_by_role("table", name="Values").wait_for()
    events = answered.value.text().split("\n\n")
    (result,) = (event.partition("data: ")[2] for event in events if event.startswith("event: result"))
    return {"sent": sent_json(answered.value.request), "result": json.loads(result)}


def keep_fields(page: Page, count: int) -> None:
    while page.get_by_role("group", name=re.compile(r"^Field \d+$")).count() > count:
        page.get_by_role("button", name=re.compile(r"^Remove field")).last.click()


def test_what_is_read_is_what_the_server_says(extracting: Page, alone: Engine):
    keep_fields(extracting, 1)
    extracting.get_by_role("textbox", name="Name", exact=True).fill("answer")
    extracting.get_by_role("combobox", name="What it is").select_option("one of")
    extracting.get_by_role("textbox", name="Options").fill("Ada, Bo")
    extracting.get_by_role("textbox", name="What to look for").fill("who paid")
    found = ask(extracting)
    schema = found["sent"]["schema"]
    assert schema["properties"] == {"answer": {"enum": ["Ada", "Bo", None], "description": "who paid"}}
    expected = alone.extract(SNIPPET, schema, seed=1)
    assert found["result"]["value"] == expected.value
    row = extracting.get_by_role("row").filter(has_text="answer")
    expect(row).to_contain_text(expected.value["answer"] or "absent")
    assert found["result"]["confidence"] == pytest.approx(expected.confidence)
    expect(row).to_contain_text("%")
    expect(extracting.get_by_role("status")).to_contain_text("Read. answer:")
    expect(extracting.get_by_role("group", name="What the answer cost")).to_contain_text("step")


def test_values_are_marked_where_they_stand_and_absent_ones_are_said(extracting: Page):
    """A schema that leaves no choice: what stands in the snippet, a number in another form, and nothing."""
    extracting.get_by_role("checkbox", name="Write the fields as a JSON schema").check()
    constants = {"payer": "ada", "amount": 12.5, "day": None, "other": "Cy"}
    schema = {
        "type": "object",
        "properties": {name: {"const": value} for name, value in constants.items()},
        "required": list(constants),
        "additionalProperties": False,
    }
    extracting.get_by_role("textbox", name="Schema").fill(json.dumps(schema))
    extracting.get_by_role("combobox", name="Layout").select_option("JSON text")
    found = ask(extracting)
    assert found["sent"]["layout"] == "text"
    assert found["result"]["value"] == constants
    marks = extracting.locator("mark").all_inner_texts()
    assert [mark.split("\n")[0] for mark in marks] == ["Adapayer", "12.50amount"]
    rows = extracting.get_by_role("table", name="Values").get_by_role("row")
    expect(rows).to_have_count(5)
    expect(rows.filter(has_text="day")).to_contain_text("absent")
    expect(rows.filter(has_text="other")).to_contain_text("not in the snippet as it is")
    expect(extracting.get_by_role("tabpanel")).to_contain_text("Written as JSON text.")


def test_slots_are_filled_and_their_steps_shown(extracting: Page):
    keep_fields(extracting, 2)
    extracting.get_by_role("combobox", name="Layout").select_option("slots")
    for number, kind in enumerate(("yes or no", "whole number")):
        extracting.get_by_role("combobox", name="What it is").nth(number).select_option(kind)
    found = ask(extracting)
    assert found["result"]["layout"] in ("slots", "text")
    assert found["result"]["layout"] == "slots" or found["result"]["fallback"]
    expect(extracting.get_by_role("grid", name="Positions of the canvas")).to_be_visible()


def test_a_wrong_value_is_planted_and_sent_as_the_draft(extracting: Page, alone: Engine):
    keep_fields(extracting, 1)
    extracting.get_by_role("combobox", name="Layout").select_option("slots")
    extracting.get_by_role("textbox", name="Name", exact=True).fill("payer")
    extracting.get_by_role("combobox", name="What it is").select_option("one of")
    extracting.get_by_role("textbox", name="Options").fill("Ada, Bo")
    plant = extracting.get_by_role("button", name="what was read, one value wrong")
    expect(plant).to_be_disabled()
    # Of random weights, which know no better, until one says that there is a value.
    seeds = (seed for seed in range(20) if ask_with(extracting, seed)["result"]["value"]["payer"] is not None)
    seed = next(seeds)
    said = extracting.get_by_role("table", name="Values").get_by_role("cell").first.inner_text().split("\n")[0]
    plant.click()
    wrong = {"Ada": "Bo", "Bo": "Ada"}[said.removesuffix(" not in the snippet as it is").strip()]
    expect(plant).to_have_attribute("aria-pressed", "true")
    expect(extracting.get_by_text(f"payer says {wrong} in the place of")).to_be_visible()
    found = ask(extracting, "Repair")
    assert found["sent"]["draft"] == {"payer": wrong}
    expected = alone.extract(SNIPPET, found["sent"]["schema"], seed=seed, layout="slots", draft={"payer": wrong})
    assert found["result"]["value"] == expected.value
    corrected = expected.value["payer"] != wrong
    expect(extracting.get_by_role("tabpanel")).to_contain_text("was corrected" if corrected else "still says")
    # Other fields have other values: what was planted is not for them.
    extracting.get_by_role("textbox", name="Name", exact=True).fill("who")
    expect(plant).to_have_attribute("aria-pressed", "false")
    assert "draft" not in ask(extracting)["sent"]


def test_fields_come_and_go_by_keyboard_and_faults_are_said(extracting: Page):
    keep_fields(extracting, 1)
    extracting.get_by_role("button", name="Add a field").press("Enter")
    expect(extracting.get_by_role("textbox", name="Name", exact=True).last).to_be_focused()
    expect(extracting.get_by_text("Every field needs a name.")).to_be_visible()
    expect(extracting.get_by_role("button", name="Extract", exact=True)).to_be_disabled()
    extracting.keyboard.type("sender")
    expect(extracting.get_by_text("Two fields are called sender.")).to_be_visible()
    extracting.get_by_role("button", name="Remove field 1").press("Enter")
    expect(extracting.get_by_role("textbox", name="Name", exact=True)).to_be_focused()
    expect(extracting.get_by_role("button", name="Extract", exact=True)).to_be_enabled()
    extracting.get_by_role("checkbox", name="Write the fields as a JSON schema").check()
    schema = extracting.get_by_role("textbox", name="Schema")
    assert "sender" in json.loads(schema.input_value())["properties"]
    schema.fill('{"type": }')
    expect(extracting.get_by_text("The schema is not JSON. Line 1, column 10")).to_be_visible()


def test_one_of_several_models_is_chosen_and_asked(opened: Opener, sudoku: Engine, engine: Engine):
    with serving({NAME: engine, "sudoku": sudoku}, ServerSettings(NAME)) as up:
        page = opened(up.url, "decide")
        choice = page.get_by_role("combobox", name="Model")
        expect(choice).to_have_value(NAME)
        choice.focus()
        page.keyboard.press("End")
        expect(choice).to_have_value("sudoku")
        with page.expect_request("**/v1/redraft/choose") as sent:
            page.get_by_role("button", name="Decide", exact=True).click()
        assert sent_json(sent.value)["model"] == "sudoku"
        page.get_by_role("group", name="What the answer cost").wait_for()
        choice.focus()
        page.keyboard.press("Home")
        expect(choice).to_have_value(NAME)
        with page.expect_request("**/v1/redraft/choose") as sent:
            page.get_by_role("button", name="Decide", exact=True).click()
        assert sent_json(sent.value)["model"] == NAME
        page.get_by_role("group", name="What the answer cost").wait_for()
