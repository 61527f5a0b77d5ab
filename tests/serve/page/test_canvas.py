"""The canvas of an answer: its steps by slider, keyboard and buttons, its cells, and one position at a time."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Page, expect

from tests.serve.page.conftest import Opener, canvas_text, settle, steps_in


@pytest.fixture
def solved(page: Page) -> Page:
    """The page with a solved puzzle."""
    page.get_by_role("button", name="Solve").click()
    settle(page)
    return page


def test_an_answer_has_its_cost_line(solved: Page):
    cost = solved.get_by_role("group", name="What the answer cost")
    expect(cost).to_contain_text(re.compile(r"\d+ steps1 canvas[\d.]+ tokens per step[\d.]+ s"))
    expect(cost).to_contain_text("91 tokens read")
    expect(cost).to_contain_text(re.compile(r"seed \d+"))


def test_steps_are_scrubbed_by_keyboard_slider_and_buttons(solved: Page):
    slider = solved.get_by_role("slider")
    last = steps_in(solved.get_by_role("group", name="What the answer cost").inner_text()) - 1
    assert last >= 2
    expect(slider).to_have_value(str(last))
    expect(slider).to_have_attribute("aria-valuetext", re.compile(rf"step {last + 1} of at most 18, settled"))
    final = canvas_text(solved)
    slider.focus()
    solved.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", "step 1 of at most 18")
    first = canvas_text(solved)
    assert first != final
    expect(solved.get_by_role("tabpanel")).not_to_contain_text("Solved.")
    solved.keyboard.press("ArrowRight")
    expect(slider).to_have_value("1")
    solved.get_by_role("button", name="Previous step").click()
    expect(slider).to_have_value("0")
    assert canvas_text(solved) == first
    solved.get_by_role("button", name="Next step").click()
    expect(slider).to_have_value("1")
    box = slider.bounding_box()
    assert box
    solved.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    expect(slider).to_have_value(str(last))
    assert canvas_text(solved) == final
    expect(solved.get_by_role("tabpanel")).to_contain_text("Solved.")


def test_an_answer_plays_at_the_pace_of_an_eye(opened: Opener, base_url: str):
    page = opened(base_url, "sudoku", reduced_motion="no-preference")
    page.clock.install()
    page.evaluate("""() => {
      window.seen = [];
      new MutationObserver(() => {
        const slider = document.querySelector('input[type=range]');
        if (slider && seen.at(-1) !== slider.valueAsNumber) seen.push(slider.valueAsNumber);
      }).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
    }""")
    page.get_by_role("button", name="Solve").click()
    settle(page)
    last = int(page.get_by_role("slider").get_attribute("max") or "0")
    assert page.evaluate("seen") == list(range(last + 1))
    # From here on time stands still: however long what follows takes, it is within the first step.
    page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_role("slider")).to_have_value("0")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    assert page.evaluate("seen.length") < 2 * (last + 1)


def test_whoever_wants_no_motion_sees_the_newest_step(solved: Page):
    last = solved.get_by_role("slider").get_attribute("max")
    expect(solved.get_by_role("slider")).to_have_value(last or "")
    solved.get_by_role("button", name="Previous step").click()
    animated = "cells => cells.some(cell => getComputedStyle(cell).animationName !== 'none')"
    assert not solved.get_by_role("gridcell").evaluate_all(animated)


def test_cells_show_what_is_settled_accepted_and_changed(solved: Page):
    solved.get_by_role("slider").focus()
    solved.keyboard.press("Home")
    cells = solved.get_by_role("gridcell")
    expect(cells).to_have_count(90)
    assert cells.filter(has_text=re.compile(".")).count() == 90
    assert 0 < solved.get_by_role("gridcell", name=re.compile("accepted")).count() < 90
    shares = cells.evaluate_all("cells => cells.map(cell => cell.style.getPropertyValue('--settled-share'))")
    assert len(set(shares)) > 5
    before = cells.all_inner_texts()
    marked = 0
    for _ in range(2):
        solved.keyboard.press("ArrowRight")
        now = cells.all_inner_texts()
        differing = [at for at, (old, new) in enumerate(zip(before, now, strict=True)) if old != new]
        names = cells.evaluate_all("cells => cells.map(cell => cell.ariaLabel)")
        assert [at for at, name in enumerate(names) if "changed" in name] == differing
        corner = "cell => getComputedStyle(cell, '::before').borderTopStyle"
        assert [cells.nth(at).evaluate(corner) for at in differing] == ["solid"] * len(differing)
        before, marked = now, marked + len(differing)
    assert marked > 0
    solved.keyboard.press("End")
    expect(solved.get_by_role("gridcell", name=re.compile("accepted"))).to_have_count(90)


def test_a_position_is_inspected_by_keyboard_and_by_pointer(solved: Page):
    solved.get_by_role("gridcell").first.focus()
    solved.keyboard.press("ArrowRight")
    solved.keyboard.press("ArrowDown")
    inspector = solved.get_by_role("region", name="Position 11")
    expect(inspector).to_contain_text("id 10")
    expect(inspector).to_contain_text(re.compile(r"0\.\d{3} nats"))
    expect(inspector).to_contain_text(re.compile("since step|with the whole canvas"))
    inspector.get_by_role("button", name="Step 1:").click()
    expect(solved.get_by_role("slider")).to_have_value("0")
    expect(inspector).to_contain_text("noise")
    solved.get_by_role("gridcell").nth(3).hover()
    expect(solved.get_by_role("region", name="Position 3")).to_be_visible()


def test_what_the_model_saw_is_noise_at_first(solved: Page):
    solved.get_by_role("radio", name="what the model saw").check()
    solved.get_by_role("slider").focus()
    solved.keyboard.press("Home")
    expect(solved.get_by_role("gridcell", name=re.compile("noise"))).to_have_count(90)
    solved.keyboard.press("ArrowRight")
    kept = solved.get_by_role("gridcell", name=re.compile("kept")).count()
    assert 0 < kept < 90
