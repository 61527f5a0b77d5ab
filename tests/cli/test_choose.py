"""``redraft choose``: a table for people, JSON for programs, on the bundled model and one that spells letters."""

import json
import re

import pytest

from tests.cli.conftest import assert_one_line

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
DIGITS = [part for digit in "123456789" for part in ("--option", digit)]

pytestmark = pytest.mark.usefixtures("sudoku_by_default")


class TestTable:
    def test_the_likeliest_is_marked(self, redraft_here):
        done = redraft_here("choose", PUZZLE, "--frame", "53{answer}", *DIGITS, "--steps", 8, "--seed", 1)
        assert done.returncode == 0, done.stderr
        rows = [re.fullmatch(r" +(>| ) +(\d) +(\d+\.\d) %  ([█▉▊▋▌▍▎▏]*) *", row) for row in done.stdout.splitlines()]
        assert all(rows)
        assert [row[2] for row in rows if row] == list("123456789")
        assert [row[2] for row in rows if row and row[1] == ">"] == ["4"], "the puzzle's only solution"
        assert sum(float(row[3]) for row in rows if row) == pytest.approx(100, abs=0.5)
        assert max((row for row in rows if row), key=lambda row: len(row[4]))[2] == "4", "the longest bar"
        assert re.fullmatch(r"\d denoising steps, \d+\.\d\d s, log P\(valid\) -[\d.]+, seed 1\n", done.stderr), (
            done.stderr
        )

    def test_several_questions_have_their_names(self, redraft_here, tmp_path):
        (tmp_path / "cells.json").write_text(json.dumps({"third": ["1", "4"], "fourth": ["2", "6"]}))
        done = redraft_here(
            "choose", PUZZLE, "--frame", "53{third}{fourth}", "--questions", tmp_path / "cells.json", "--steps", 8
        )
        names = [line[:6].strip() for line in done.stdout.splitlines()]
        assert names == ["third", "", "fourth", ""]
        marked = [re.search(r"> +(\d) ", line) for line in done.stdout.splitlines() if ">" in line]
        assert [mark[1] for mark in marked if mark] == ["4", "6"]

    def test_options_that_cannot_be_printed_are_spelled_out(self, redraft_here, letters):
        done = redraft_here("choose", "?", "--option", "a\nb", "--option", "[red]c", "-m", letters)
        assert r"'a\nb'" in done.stdout
        assert "[red]c" in done.stdout, "text is not markup"


class TestJson:
    def test_has_what_python_has(self, redraft_here, bundled):
        done = redraft_here("choose", PUZZLE, "--frame", "53{answer}", *DIGITS, "--seed", 1, "--json")
        shown = json.loads(done.stdout)
        expected = bundled.choose([{"role": "user", "content": PUZZLE}], list("123456789"), frame="53{answer}", seed=1)
        [answer] = shown["answers"].values()
        assert answer["probabilities"] == expected.probabilities
        assert (answer["choice"], answer["confidence"]) == (expected.choice, max(expected.probabilities.values()))
        assert shown["log_valid"] == expected.log_valid
        assert (shown["seed"], shown["usage"]["denoising_steps"], shown["usage"]["canvases"]) == (1, 1, 1)

    def test_the_order_of_options_changes_nothing(self, redraft_here):
        answers = [
            json.loads(redraft_here("choose", PUZZLE, "--frame", "53{answer}", *order, "--seed", 1, "--json").stdout)[
                "answers"
            ]["answer"]["probabilities"]
            for order in (DIGITS, [part for digit in "987654321" for part in ("--option", digit)])
        ]
        assert answers[0] == answers[1]
        assert list(answers[1]) == list("987654321"), "but they are shown as they were given"

    def test_temperature_flattens(self, redraft_here):
        asked = ["choose", PUZZLE, "--frame", "53{answer}", *DIGITS, "--seed", 1, "--json"]
        cold, hot = (
            json.loads(redraft_here(*asked, "--temperature", value).stdout)["answers"]["answer"]["confidence"]
            for value in (0.5, 2)
        )
        assert cold > hot

    def test_normalize_compares_by_length(self, redraft_here, bundled):
        options = ["--option", "4", "--option", "4678"]
        done = redraft_here(
            "choose", PUZZLE, "--frame", "53{answer}", *options, "--normalize", "length", "--seed", 1, "--json"
        )
        messages = [{"role": "user", "content": PUZZLE}]
        expected = bundled.choose(messages, ["4", "4678"], frame="53{answer}", normalize="length", seed=1)
        found = json.loads(done.stdout)["answers"]["answer"]["probabilities"]
        assert found == pytest.approx(expected.probabilities)
        assert found != pytest.approx(bundled.choose(messages, ["4", "4678"], frame="53{answer}", seed=1).probabilities)

    def test_a_prompt_from_a_file_and_raw(self, redraft_here, letters, tmp_path):
        (tmp_path / "question").write_text("yes or no?")
        options = ["--option", "yes", "--option", "no", "-m", letters, "--json"]
        chat, raw = (
            json.loads(redraft_here("choose", "--file", tmp_path / "question", *more, *options).stdout)
            for more in ([], ["--raw"])
        )
        assert chat["usage"]["prompt_tokens"] > raw["usage"]["prompt_tokens"]


MISTAKES = [
    pytest.param(["a"], "there is nothing to choose from; give --option", id="nothing"),
    pytest.param(["a", "--option", "b"], "there must be two options or more", id="one option"),
    pytest.param(["a", "--option", "b", "--option", "b"], "the option 'b' is there twice", id="twice"),
    pytest.param(["a", "--option", "b", "--questions", "c"], "--option and --questions exclude", id="both"),
    pytest.param(["a", "--questions", "no/such"], "the file of --questions no/such cannot be read", id="no file"),
    pytest.param(["a", "--questions", "BROKEN"], "is not JSON", id="not JSON"),
    pytest.param(["a", "--questions", "LIST"], "must hold an object", id="a list"),
    pytest.param(["", "--option", "b", "--option", "c"], "the prompt is empty", id="no prompt"),
    pytest.param(["a", "--option", "b", "--option", "c", "--steps", 0], "--steps 0 is out of range", id="no steps"),
    pytest.param(["a", "--option", "b", "--option", "c", "--frame", "{x}"], "the hole has no options", id="frame"),
    pytest.param(["a", "--option", "b", "--option", "c", "--calibrated"], "no fitted choice_temperature", id="fit"),
    pytest.param(["a", "--option", "b", "--option", "c", "--normalize", "x"], "normalize 'x' must be", id="normalize"),
    pytest.param(["a", "--option", "b", "--option", "c", "--temperature", 0], "temperature 0.0 must be", id="cold"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistake_is_named_in_one_line(redraft_here, letters, tmp_path, arguments, words):
    files = {"BROKEN": tmp_path / "broken", "LIST": tmp_path / "list"}
    files["BROKEN"].write_text("{")
    files["LIST"].write_text('["yes", "no"]')
    assert_one_line(redraft_here("choose", *(files.get(one, one) for one in arguments), "-m", letters), words)


def test_a_recorded_decision_replays_and_can_be_compared(redraft_here, letters, tmp_path):
    asked = ["choose", "Is it?", "--option", "yes", "--option", "no", "-m", letters, "--record"]
    assert redraft_here(*asked, tmp_path / "a", "--seed", 1).returncode == 0
    assert redraft_here(*asked, tmp_path / "b", "--seed", 2).returncode == 0
    (a,), (b,) = (tmp_path / "a").iterdir(), (tmp_path / "b").iterdir()
    again = redraft_here("replay", a)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("identical: 1 denoising step")
    differ = redraft_here("diff", a, b)
    assert differ.returncode == 1
    assert re.search(r"^-answer: yes 0\.\d+", differ.stdout, re.MULTILINE)
    assert re.search(r"^\+answer: yes 0\.\d+", differ.stdout, re.MULTILINE)


def test_in_a_slot(redraft_here, letters, tmp_path):
    runs, asked = tmp_path / "runs", ["choose", "--raw", "is it?", "--option", "yes", "--option", "no", "-m", letters]
    found = json.loads(redraft_here(*asked, "--seed", 3, "--layout", "slots", "--json", "--record", runs).stdout)
    plain = json.loads(redraft_here(*asked, "--seed", 3, "--json").stdout)
    assert (found["layout"], plain["layout"]) == ("slots", "text")
    assert found["answers"] != plain["answers"]
    assert redraft_here("replay", *runs.iterdir()).stdout.startswith("identical")
    assert_one_line(redraft_here(*asked, "--layout", "lines"), "layout 'lines' must be 'slots' or 'text'")
