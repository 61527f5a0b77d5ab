"""The page as a person uses it, with a real server of the Sudoku model."""

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.serve.page.conftest import Opener, canvas_text, settle, steps_in

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
LINES = "\n".join(SOLUTION[row * 9 : row * 9 + 9] for row in range(9))
TABS = ("chat", "sudoku", "schema", "fill", "decide")


def solve(page: Page) -> None:
    page.get_by_role("button", name="Solve").click()
    settle(page)


def paste(page: Page, text: str) -> None:
    """Paste into the board's first cell."""
    page.get_by_role("textbox", name="row 1, column 1:").focus()
    page.evaluate(
        """text => {
          const data = new DataTransfer();
          data.setData("text", text);
          const event = new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
          document.activeElement.dispatchEvent(event);
        }""",
        text,
    )


def test_it_opens_where_the_model_is_at_home(page):
    expect(page.get_by_role("tab", name="Sudoku")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("banner")).to_contain_text("sudoku")


def test_tabs_move_by_keyboard_and_stand_in_the_address(page):
    page.get_by_role("tab", name="Sudoku").focus()
    for key, tab in (("ArrowRight", "schema"), ("End", "decide"), ("ArrowRight", "chat"), ("ArrowLeft", "decide")):
        page.keyboard.press(key)
        assert page.url.endswith(f"#{tab}")
        expect(page.get_by_role("tabpanel")).to_have_attribute("id", f"panel-{tab}")
        expect(page.get_by_role("tab", selected=True)).to_be_focused()
    page.goto(page.url.replace("#decide", "#fill"))
    expect(page.get_by_role("tabpanel", name="Fill")).to_be_visible()


def test_a_puzzle_is_solved_by_keyboard_alone(page):
    page.get_by_role("button", name="Clear").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type(PUZZLE)
    solving = page.get_by_role("button", name="Solve")
    while not solving.evaluate("button => button === document.activeElement"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    settle(page)
    expect(solving).to_be_focused()
    expect(page.get_by_role("tabpanel")).to_contain_text("Solved. Every row, column and box holds 1 to 9")
    expect(page.get_by_role("status")).to_contain_text("Solved.")
    assert canvas_text(page)[:89] == LINES.replace("\n", "↵")
    expect(page.get_by_role("textbox", name="row 1, column 3: the model says 4")).to_have_count(1)
    expect(page.get_by_role("textbox", name="row 1, column 1: given")).to_have_value("5")


def test_an_answer_has_its_cost_line(page):
    solve(page)
    cost = page.get_by_role("group", name="What the answer cost")
    expect(cost).to_contain_text(re.compile(r"\d+ steps1 canvas[\d.]+ tokens per step[\d.]+ s"))
    expect(cost).to_contain_text("91 tokens read")
    expect(cost).to_contain_text(re.compile(r"seed \d+"))


def test_steps_are_scrubbed_back_and_forth(page):
    solve(page)
    slider = page.get_by_role("slider")
    last = steps_in(page.get_by_role("group", name="What the answer cost").inner_text())
    expect(slider).to_have_value(str(last - 1))
    expect(slider).to_have_attribute("aria-valuetext", re.compile(rf"step {last} of at most 18, settled"))
    final = canvas_text(page)
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(r"step 1 of at most 18"))
    first = canvas_text(page)
    assert first != final
    expect(page.get_by_role("tabpanel")).not_to_contain_text("Solved.")
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_value("1")
    page.get_by_role("button", name="Previous step").click()
    assert canvas_text(page) == first
    page.get_by_role("button", name="Play", exact=True).click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(slider).to_have_value(str(last - 1))
    assert canvas_text(page) == final


def test_cells_show_what_is_settled_accepted_and_changed(page):
    solve(page)
    slider = page.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    cells = page.get_by_role("gridcell")
    open_cells = [cell for cell in cells.all() if "accepted" not in (cell.get_attribute("aria-label") or "")]
    assert open_cells
    assert cells.filter(has_text="").count() == 90
    shares = {cell.evaluate("cell => cell.style.getPropertyValue('--settled-share')") for cell in cells.all()}
    assert len(shares) > 5
    changes = 0
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        changes += page.get_by_role("gridcell", name=re.compile("changed")).count()
    assert changes > 0
    page.keyboard.press("End")
    expect(page.get_by_role("gridcell", name=re.compile("accepted"))).to_have_count(90)


def test_a_position_is_inspected_by_keyboard_and_by_pointer(page):
    solve(page)
    page.get_by_role("gridcell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    inspector = page.get_by_role("region", name="Position 11")
    expect(inspector).to_contain_text("id 10")
    expect(inspector).to_contain_text(re.compile(r"0\.\d{3} nats"))
    expect(inspector).to_contain_text(re.compile("since step|with the whole canvas"))
    inspector.get_by_role("button", name="Step 1:").click()
    expect(page.get_by_role("slider")).to_have_value("0")
    expect(inspector).to_contain_text("noise")
    page.get_by_role("gridcell").nth(3).hover()
    expect(page.get_by_role("region", name="Position 3")).to_be_visible()


def test_what_the_model_saw_is_noise_at_first(page):
    solve(page)
    page.get_by_role("radio", name="what the model saw").check()
    page.get_by_role("slider").focus()
    page.keyboard.press("Home")
    expect(page.get_by_role("gridcell", name=re.compile("noise"))).to_have_count(90)
    page.keyboard.press("ArrowRight")
    kept = page.get_by_role("gridcell", name=re.compile("kept")).count()
    assert 0 < kept < 90


def test_a_board_is_pasted_and_stands_in_the_address(page):
    paste(page, LINES.replace("4", "."))
    expect(page.get_by_role("textbox", name="row 1, column 1: given")).to_have_value("5")
    expect(page.get_by_role("textbox", name="row 1, column 3: blank")).to_have_value("")
    assert page.url.endswith("#sudoku/" + SOLUTION.replace("4", "."))
    page.goto(page.url.replace(SOLUTION.replace("4", "."), PUZZLE))
    expect(page.get_by_role("textbox", name="row 9, column 9: given")).to_have_value("9")
    expect(page.get_by_role("textbox", name="row 2, column 2: blank")).to_have_count(1)
    paste(page, "53..7")
    expect(page.get_by_role("alert").filter(has_text="81 cells; this text has 5")).to_be_visible()


def test_givens_that_break_a_rule_are_shown(page):
    cell = page.get_by_role("textbox", name="row 1, column 3:")
    cell.focus()
    page.keyboard.press("5")
    expect(page.get_by_role("list", name="Broken rules")).to_contain_text("5 stands twice in row 1")
    expect(cell).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("textbox", name="row 1, column 4:")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Delete")
    expect(page.get_by_role("list", name="Broken rules")).to_have_count(0)


def test_givens_are_held_by_a_constraint(page):
    page.get_by_role("checkbox", name="Hold the givens").check()
    with page.expect_request("**/v1/redraft/generate") as sent:
        solve(page)
    pattern = sent.value.post_data_json["constraint"]["pattern"]
    assert pattern.count("\\n") == 8
    assert re.fullmatch(pattern, LINES)
    assert not re.fullmatch(pattern, LINES.replace("5", "1"))
    expect(page.get_by_role("tabpanel")).to_contain_text("Solved.")
    expect(page.get_by_role("group", name="What the answer cost")).to_contain_text("Without the constraint")


def test_options_are_sent_and_empty_ones_are_not(page):
    page.get_by_text("Options", exact=True).locator("visible=true").click()
    page.get_by_role("spinbutton", name="Seed").fill("11")
    with page.expect_request("**/v1/redraft/generate") as sent:
        solve(page)
    assert set(sent.value.post_data_json) == {"messages", "seed"}
    expect(page.get_by_role("group", name="What the answer cost")).to_contain_text("seed 11")


def test_chat_answers_and_says_what_it_cannot_take(opened: Opener, base_url: str):
    page = opened(base_url, "chat")
    message = page.get_by_role("textbox", name="Message")
    message.fill("hello")
    message.press("Control+Enter")
    expect(page.get_by_role("alert").filter(has_text="1 to 9")).to_be_visible()
    page.get_by_role("button", name="Use a puzzle").click()
    with page.expect_request("**/v1/redraft/generate") as sent:
        page.get_by_role("button", name="Send").click()
    settle(page)
    # The message that had no answer is not part of the conversation.
    assert len(sent.value.post_data_json["messages"]) == 1
    expect(page.get_by_role("list", name="Conversation")).to_contain_text("534678912\n672195348")
    expect(message).to_have_value("")


def test_a_schema_that_is_none_is_said_before_sending(opened: Opener, base_url: str):
    page = opened(base_url, "schema")
    schema = page.get_by_role("textbox", name="Schema")
    schema.fill('{"type": "integer",\n}')
    expect(page.get_by_role("tabpanel")).to_contain_text("Line 2, column 1: a comma stands before }; take it away.")
    expect(schema).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Answer", exact=True)).to_be_disabled()
    schema.fill("[1]")
    expect(page.get_by_role("tabpanel")).to_contain_text("this is a list")


def test_an_answer_under_a_schema(opened: Opener, base_url: str):
    page = opened(base_url, "schema")
    expect(page.get_by_role("textbox", name="Schema")).to_have_value(re.compile("integer"))
    page.get_by_role("button", name="Answer", exact=True).click()
    settle(page)
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_have_text(re.compile(r"^\d{9}$"))
    assert isinstance(json.loads(answer.inner_text()), int)


def test_a_hole_is_filled_and_marked(opened: Opener, base_url: str):
    page = opened(base_url, "fill")
    page.get_by_role("button", name="Fill", exact=True).click()
    settle(page)
    expect(page.get_by_role("mark")).to_contain_text("672195348")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("534678912")
    expect(page.get_by_role("region", name="Answer")).to_contain_text("345286179")


def test_a_decision_has_bars_that_add_up(opened: Opener, base_url: str):
    page = opened(base_url, "decide")
    page.get_by_role("button", name="Decide", exact=True).click()
    options = page.get_by_role("list", name="Options of third")
    expect(options.get_by_role("listitem")).to_have_count(3)
    expect(options.get_by_role("listitem").filter(has_text="chosen")).to_contain_text("4")
    widths = options.locator("i").evaluate_all("bars => bars.map(bar => parseFloat(bar.style.width))")
    assert sum(widths) == pytest.approx(100, abs=0.1)
    expect(page.get_by_role("group", name="What the answer cost")).to_contain_text("1 step")
    expect(page.get_by_role("status")).to_contain_text("Decided. third: 4")


def test_questions_and_options_come_and_go(opened: Opener, base_url: str):
    page = opened(base_url, "decide")
    page.get_by_role("button", name="Remove question 1").click()
    page.get_by_role("button", name="Add an option to question 1").click()
    expect(page.get_by_text("An option of fourth is empty.")).to_be_visible()
    page.get_by_role("textbox", name="Option 3 of question 1").fill("8")
    page.get_by_role("button", name="Remove option 1 of question 1").click()
    page.get_by_role("textbox", name="Frame").fill("534{fourth}")
    with page.expect_request("**/v1/redraft/choose") as sent:
        page.get_by_role("button", name="Decide", exact=True).click()
    assert sent.value.post_data_json["questions"] == {"fourth": ["6", "8"]}
    expect(page.get_by_role("list", name="Options of fourth").get_by_role("listitem")).to_have_count(2)


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


def test_an_answer_is_copied(opened: Opener, base_url: str):
    page = opened(base_url, "sudoku", permissions=["clipboard-read", "clipboard-write"])
    solve(page)
    page.get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_role("status")).to_contain_text("Copied the answer.")
    assert page.evaluate("navigator.clipboard.readText()") == LINES
