"""The Sudoku tab: a puzzle typed, pasted or in the address, which solves itself."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.serve.page.conftest import COPYING, Opener, canvas_text, sent_json, set_option, settle

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
LINES = "\n".join(SOLUTION[row * 9 : row * 9 + 9] for row in range(9))


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


def test_a_puzzle_is_typed_and_solved_by_keyboard_alone(page: Page):
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


def test_a_board_is_pasted_and_stands_in_the_address(page: Page):
    paste(page, LINES.replace("4", "."))
    expect(page.get_by_role("textbox", name="row 1, column 1: given")).to_have_value("5")
    expect(page.get_by_role("textbox", name="row 1, column 3: blank")).to_have_value("")
    puzzle = SOLUTION.replace("4", ".")
    assert page.url.endswith(f"#sudoku/{puzzle}")
    page.get_by_role("tab", name="Chat").click()
    page.get_by_role("tab", name="Sudoku").click()
    assert page.url.endswith(f"#sudoku/{puzzle}")
    page.goto(page.url.replace(puzzle, PUZZLE))
    expect(page.get_by_role("textbox", name="row 9, column 9: given")).to_have_value("9")
    expect(page.get_by_role("textbox", name="row 2, column 2: blank")).to_have_count(1)


def test_an_address_may_write_blanks_as_zeros(opened: Opener, base_url: str):
    page = opened(base_url, "sudoku/" + SOLUTION.replace("4", "0"))
    expect(page.get_by_role("textbox", name=re.compile(": blank"))).to_have_count(9)


@pytest.mark.parametrize(
    ("text", "words"),
    [("53..7", "A Sudoku has 81 cells; this text has 5."), (f"{PUZZLE}x", "for blanks; found “x”.")],
)
def test_wrong_input_is_said_in_words(page: Page, text: str, words: str):
    paste(page, text)
    expect(page.get_by_role("alert").filter(has_text=words)).to_be_visible()
    page.keyboard.press("x")
    expect(page.get_by_role("textbox", name="row 1, column 1: given")).to_have_value("5")


def test_givens_that_break_a_rule_are_shown(page: Page):
    cell = page.get_by_role("textbox", name="row 1, column 3:")
    cell.focus()
    page.keyboard.press("5")
    expect(page.get_by_role("list", name="Broken rules")).to_contain_text("5 stands twice in row 1")
    expect(cell).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("textbox", name="row 1, column 4:")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Delete")
    expect(page.get_by_role("list", name="Broken rules")).to_have_count(0)


def test_a_wrong_solution_is_called_wrong(page: Page):
    page.get_by_role("button", name="21, too hard").click()
    set_option(page, "Seed", "1")
    solve(page)
    expect(page.get_by_role("tabpanel")).to_contain_text(re.compile(r"Not solved: .*(rules? (is|are) broken|changed)"))
    expect(page.get_by_role("status")).to_contain_text("Not solved")


def test_givens_are_held_by_a_constraint(page: Page):
    page.get_by_role("checkbox", name="Hold the givens").check()
    with page.expect_request("**/v1/redraft/generate") as sent:
        solve(page)
    pattern = sent_json(sent.value)["constraint"]["pattern"]
    assert pattern.count("\\n") == 8
    assert re.fullmatch(pattern, LINES)
    assert not re.fullmatch(pattern, LINES.replace("5", "1"))
    expect(page.get_by_role("tabpanel")).to_contain_text("Solved.")
    expect(page.get_by_role("group", name="What the answer cost")).to_contain_text("Without the constraint")


def test_a_canvas_that_did_not_settle_is_flagged(page: Page):
    set_option(page, "Steps at most", "2")
    solve(page)
    expect(page.get_by_text("Canvas 1 had not settled at the last step allowed")).to_be_visible()


def test_an_answer_is_copied(opened: Opener, base_url: str):
    page = opened(base_url, "sudoku", permissions=COPYING)
    solve(page)
    page.get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_role("status")).to_contain_text("Copied the answer.")
    assert page.evaluate("navigator.clipboard.readText()") == LINES


def test_planted_digits_are_repaired_by_keyboard_alone(page: Page):
    planting = page.get_by_role("group", name="Start from")
    expect(planting).to_have_accessible_description(re.compile("which the model corrects"))
    planting.get_by_role("button", name="10 wrong digits").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("solved, but for 10 wrong digits")
    planted = page.get_by_role("textbox", name=re.compile(r"the draft says \d, planted"))
    expect(planted).to_have_count(10)
    with page.expect_request("**/v1/redraft/generate") as sent:
        page.get_by_role("button", name="Repair").press("Enter")
    draft = sent_json(sent.value)["draft"]["text"]
    assert sum(was != now for was, now in zip(draft, LINES, strict=True)) == 10
    settle(page)
    expect(page.get_by_role("tabpanel")).to_contain_text("10 planted digits of 10 changed.")
    planting.get_by_role("button", name="noise").press("Enter")
    expect(page.get_by_role("button", name="Solve")).to_be_visible()
    expect(page.get_by_role("textbox", name=re.compile(": blank"))).to_have_count(51)


def test_nothing_is_planted_where_there_is_no_room_or_no_solution(opened: Opener, base_url: str):
    page = opened(base_url, "sudoku/" + SOLUTION.replace("4", ".").replace("1", ".", 1))
    expect(page.get_by_role("button", name="5 wrong digits")).to_be_enabled()
    expect(page.get_by_role("button", name="10 wrong digits")).to_be_enabled()
    page.goto(f"{base_url}/#sudoku/" + SOLUTION.replace("4", "."))
    expect(page.get_by_role("button", name="10 wrong digits")).to_be_disabled()
    page.get_by_role("textbox", name="row 1, column 3:").fill("5")
    page.get_by_role("button", name="1 wrong digit").click()
    expect(page.get_by_role("alert").filter(has_text="No solution of this board was found")).to_be_visible()
