"""The schema tab: what comes back is JSON under the schema, whatever the model would rather say."""

import json
import re

import jsonschema
from playwright.sync_api import Page, expect

from tests.serve.conftest import Served
from tests.serve.page.conftest import COPYING, Opener, set_option, settle


def answer(page: Page) -> str:
    return page.get_by_role("region", name="Answer").text_content() or ""


def test_a_document_holds_the_schema_and_is_indented(opened: Opener, served: Served):
    page = opened(served.url, "schema", permissions=COPYING)
    schema = json.loads(page.get_by_role("textbox", name="Schema").input_value())
    set_option(page, "Tokens at most", "90")
    page.get_by_role("button", name="Answer", exact=True).click()
    settle(page)
    document = json.loads(answer(page))
    jsonschema.validate(document, schema)
    assert schema["required"] == ["name", "born", "fields"]
    assert re.match(r'\{\n  "name": ', answer(page))
    page.get_by_role("button", name="Copy the answer").click()
    written = page.evaluate("navigator.clipboard.readText()")
    assert json.loads(written) == document
    page.get_by_role("checkbox", name="as written").check()
    assert answer(page) == written


def test_a_number_of_the_sudoku_model(opened: Opener, base_url: str):
    page = opened(base_url, "schema")
    page.get_by_role("button", name="Answer", exact=True).click()
    settle(page)
    jsonschema.validate(json.loads(answer(page)), {"type": "integer", "minimum": 100_000_000, "maximum": 999_999_999})
    # At every step, not only at the last.
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    assert re.fullmatch(r"[1-9]\d{8}", answer(page))


def test_the_schema_is_sent_with_all_of_its_digits(opened: Opener, base_url: str):
    page = opened(base_url, "schema")
    # As a number of the browser's it would be 9123456789123457000.
    page.get_by_role("textbox", name="Schema").fill('{"enum": [9123456789123456783]}')
    page.get_by_role("button", name="Answer", exact=True).click()
    settle(page)
    assert answer(page) == "9123456789123456783"


def test_a_schema_that_is_none_is_said_before_sending(opened: Opener, base_url: str):
    page = opened(base_url, "schema")
    schema = page.get_by_role("textbox", name="Schema")
    schema.fill('{"type": "integer",\n}')
    expect(page.get_by_role("tabpanel")).to_contain_text("Line 2, column 1: a comma stands before }; take it away.")
    expect(schema).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Answer", exact=True)).to_be_disabled()
    schema.fill("[1]")
    expect(page.get_by_role("tabpanel")).to_contain_text("this is a list")


def test_a_schema_that_the_server_refuses_is_said_in_its_words(opened: Opener, base_url: str):
    page = opened(base_url, "schema")
    page.get_by_role("textbox", name="Schema").fill('{"type": "string", "minLength": -1}')
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="minLength")).to_be_visible()
