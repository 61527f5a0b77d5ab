"""The fill tab: a middle between a beginning and an end, which stay as they were."""

import pytest
from playwright.sync_api import expect

from tests.serve.conftest import Served
from tests.serve.page.conftest import COPYING, Opener, set_option, settle


@pytest.mark.parametrize("model", ["sudoku", "tiny"])
def test_a_hole_is_filled_between_what_stays(opened: Opener, base_url: str, served: Served, model: str):
    page = opened(base_url if model == "sudoku" else served.url, "fill", permissions=COPYING)
    prefix = page.get_by_role("textbox", name="Before the hole").input_value()
    suffix = page.get_by_role("textbox", name="After the hole").input_value()
    assert prefix
    assert suffix
    # A random seed may find that nothing is missing.
    set_option(page, "Seed", "1")
    page.get_by_role("button", name="Fill", exact=True).click()
    settle(page)
    # What is asked next does not change what was answered.
    page.get_by_role("textbox", name="Before the hole").fill("something else")
    page.get_by_role("button", name="Copy the middle").click()
    expect(page.get_by_role("status")).to_contain_text("Copied the middle.")
    middle = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Copy all of the text").click()
    expect(page.get_by_role("status")).to_contain_text("Copied all of the text.")
    assert page.evaluate("navigator.clipboard.readText()") == prefix + middle + suffix
    shown = page.get_by_role("region", name="Answer").locator("> *")
    marked = f"filled in: {middle} end of what was filled in "
    assert shown.all_text_contents() == [prefix, marked, suffix]
    # At an earlier step as well, the end stands there once.
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    before, early, after = shown.all_text_contents()
    assert (before, after) == (prefix, suffix)
    assert suffix not in early
