"""``redraft evaluate`` on items: the bundled model, a checkpoint that says nothing of sense, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, assert_one_line

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ROWS = [
    "534678912",
    "672195348",
    "198342567",
    "859761423",
    "426853791",
    "713924856",
    "961537284",
    "287419635",
    "345286179",
]
MESSAGES = [{"role": "user", "content": PUZZLE}]
DIGITS = list("123456789")
SUDOKU: list[dict[str, Any]] = [
    {"verb": "generate", "messages": MESSAGES, "answer": "\n".join(ROWS), "task": "solve"},
    {"verb": "generate", "messages": MESSAGES, "regex": "([1-9]{9}\n){8}[1-9]{9}", "task": "form"},
    {"verb": "choose", "messages": MESSAGES, "options": DIGITS, "answer": "4", "frame": "53{answer}", "task": "cell"},
    {"verb": "choose", "messages": MESSAGES, "options": ["1", "2"], "answer": "1", "frame": "53{answer}", "id": "no"},
    {
        "verb": "fill", "messages": MESSAGES, "prefix": "534", "suffix": "78912", "answer": "6",
        "parameters": {"hole": {"regex": "[1-9]"}},
    },
    {
        "verb": "extract", "text": PUZZLE, "value": int(ROWS[0]), "parameters": {"instruction": ""},
        "schema": {"type": "integer", "minimum": 111111111, "maximum": 999999999},
    },
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("sudoku_by_default")


def written(folder: Path, *items: object) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.mark.slow
def test_the_bundled_model_solves_what_it_was_made_for(redraft_here: Run, bundled, tmp_path):
    path, plot = written(tmp_path, *SUDOKU), tmp_path / "scores.png"
    done = redraft_here("evaluate", path, "--json", tmp_path / "scores.json", "--plot", plot, "--show-errors", 3)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "scores.json").read_text())
    answers = [one["answers"]["sudoku"] for one in facts["results"]]
    assert [one["right"] for one in answers] == [True, True, True, False, True, True]
    assert answers[0]["answer"] == "\n".join(ROWS)
    alone = bundled.choose(MESSAGES, DIGITS, frame="53{answer}", seed=2)
    assert answers[2]["questions"]["answer"]["probabilities"] == list(alone.probabilities.values())
    assert facts["contenders"]["sudoku"]["metrics"]["right"]["value"] == pytest.approx(5 / 6)
    assert set(facts["groups"]["task"]) == {"solve", "form", "cell"}
    assert "83.3% (" in done.stdout
    assert f"{path}:4 (no): choose" in done.stdout
    assert f"{path}:1" not in done.stdout.replace(f"{path}, 6 items", ""), "only what is wrong is shown"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_settings_are_compared_item_by_item(redraft_here: Run, tmp_path):
    path = written(tmp_path, *SUDOKU[:1] * 2)
    limits = ["--max-denoising-steps", 1, "--max-denoising-steps", 18]
    done = redraft_here("evaluate", path, *limits, "--parameters", '{"max_tokens": 90}', "--json", "-")
    facts = json.loads(done.stdout)
    assert list(facts["contenders"]) == ["1 step", "18 steps"]
    assert [one["metrics"]["right"]["value"] for one in facts["contenders"].values()] == [0, 1]
    found = facts["contenders"]["18 steps"]["metrics"]
    assert found["right"]["difference"]["only_own"] == 2
    assert found["steps"]["difference"]["value"] == found["steps"]["value"] - 1
    assert facts["contenders"]["1 step"]["parameters"] == {"max_tokens": 90, "max_denoising_steps": 1}


@pytest.mark.slow
def test_models_and_dtypes_are_compared(redraft_here: Run, letters, tmp_path):
    item = {"verb": "generate", "messages": MESSAGES, "regex": "(?s:.*)", "parameters": {"max_tokens": 12}}
    named = ["--model", letters, "--model", "sudoku", "--dtype", "float32", "--dtype", "int8"]
    done = redraft_here("evaluate", written(tmp_path, item, item, item), *named, "--json", "-", "--limit", 2)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert list(facts["contenders"]) == [f"{m}, {d}" for m in (letters, "sudoku") for d in ("float32", "int8")]
    assert facts["count"] == 2
    assert all(one["metrics"]["generate_regex"]["value"] == 1 for one in facts["contenders"].values())


@pytest.mark.slow
def test_a_model_without_sense_is_wrong_and_still_valid(redraft_here: Run, letters, tmp_path):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "urgent": {"type": "boolean"}},
        "required": ["name", "urgent"],
        "additionalProperties": False,
    }
    extract = {"verb": "extract", "text": "Anna", "schema": schema, "value": {"name": "Anna", "urgent": True}}
    choose = {"verb": "choose", "prompt": "Is it?", "options": ["yes", "no"], "answer": "no"}
    fill = {"verb": "fill", "prefix": "The ", "suffix": " end", "answer": "very", "parameters": {"max_tokens": 6}}
    asked = {**extract, "parameters": {"instruction": "", "confidence": False}}
    path = written(tmp_path, *[asked, choose, fill] * 4)
    named = ["-m", letters, "--dtype", "float32", "--dtype", "int8", "--max-denoising-steps", 2]
    facts = json.loads(redraft_here("evaluate", path, *named, "--json", "-", "--seed", 3).stdout)
    for contender in facts["contenders"].values():
        metrics = contender["metrics"]
        assert metrics["extract_valid"]["value"] == 1
        assert metrics["extract_whole"]["value"] == metrics["fill_exact"]["value"] == 0
        assert metrics["failed"]["value"] == 0
        assert sum(metrics[key]["value"] for key in ("right", "artefacts", "wrong_values")) == pytest.approx(1)
        assert metrics["choose_questions"]["items"] == 4
    seeds = [one["answers"]["float32"]["seed"] for one in facts["results"]]
    assert seeds == list(range(3, 15)), "each item has its own"


@pytest.mark.slow
def test_a_model_that_answers_nothing_is_told_at_once_or_beside_the_others(redraft_here: Run, letters, tmp_path):
    path = written(tmp_path, {"verb": "generate", "prompt": "Say a.", "regex": "(?s:.*)"})
    words = f"sudoku answers no item; {path}:1: the tokenizer has no tokens for this text"
    assert_one_line(redraft_here("evaluate", path, "-m", "sudoku", "-m", letters), words)
    done = redraft_here("evaluate", path, "-m", letters, "-m", "sudoku")
    assert done.returncode == 0, done.stderr
    assert f"warning: sudoku has no answer to 1 of 1; the first is {path}:1: the tokenizer" in done.stdout


@pytest.mark.slow
def test_a_command_judges_only_where_it_is_allowed(redraft_here: Run, tmp_path):
    path = written(tmp_path, {"verb": "generate", "messages": MESSAGES, "command": f"grep -qx {ROWS[8]}"})
    assert_one_line(redraft_here("evaluate", path), f"{path}:1: the item runs a command on this machine")
    done = redraft_here("evaluate", path, "--allow-commands", "--json", "-")
    assert json.loads(done.stdout)["contenders"]["sudoku"]["metrics"]["generate_command"]["value"] == 1


MISTAKES = [
    pytest.param(["no/such.jsonl"], "there is no file no/such.jsonl of items, nor a recipe", id="no file"),
    pytest.param(["ITEMS", "--count", 3], "--count is for sudoku", id="count"),
    pytest.param(["ITEMS", "--json", "no/such/file"], "the folder of no/such/file does not exist", id="json"),
    pytest.param(["ITEMS", "--plot", "no/such/file.png"], "the folder of no/such/file.png does not exist", id="folder"),
    pytest.param(["ITEMS", "--plot", "a.gif"], "must end in .png", id="plot"),
    pytest.param(["ITEMS", "--plot", "/proc/a.png"], "/proc/a.png cannot be written", id="plot nowhere"),
    pytest.param(["ITEMS", "--json", "/tmp"], "/tmp cannot be written: Is a directory", id="json nowhere"),
    pytest.param(["ITEMS", "--parameters", "{"], "--parameters { is not JSON", id="not JSON"),
    pytest.param(["ITEMS", "--parameters", "3"], "--parameters 3 must be an object", id="a number"),
    pytest.param(["ITEMS", "--parameters", '{"instruction": ""}'], "cannot be given to generate", id="not of all"),
    pytest.param(["ITEMS", "--parameters", '{"max_tokens": 0}'], "max_tokens 0 is out of range", id="out of range"),
    pytest.param(["ITEMS", "-m", "sudoku", "-m", "sudoku"], "sudoku is given twice", id="twice"),
    pytest.param(["ITEMS", "-m", "sudoku", "-m", "no/such"], "no/such", id="no model"),
    pytest.param(["ITEMS", "--dtype", "int3"], "int3", id="no dtype"),
    pytest.param(["BAD"], "bad.jsonl:1: key 'anwser' is unknown", id="a bad item"),
    pytest.param(["sudoku", "--show-errors", 3], "--show-errors is for a file of items; sudoku has none", id="recipe"),
    pytest.param(["sudoku", "-m", "a", "-m", "b"], "--model is given twice", id="two models"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_mistake_is_named_in_one_line_before_any_model_is_loaded(
    redraft_here: Run, tmp_path, monkeypatch, arguments, words
):
    def loaded(*_: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("redraft.cli.options.load_engine", loaded)
    (tmp_path / "bad.jsonl").write_text(json.dumps({"verb": "generate", "messages": MESSAGES, "anwser": ""}))
    files = {"ITEMS": written(tmp_path, *SUDOKU), "BAD": tmp_path / "bad.jsonl"}
    assert_one_line(redraft_here("evaluate", *(files.get(one, one) for one in arguments)), words)


@pytest.mark.slow
def test_sudoku_writes_an_object_a_line(redraft_here: Run, tmp_path):
    limits = ["--max-denoising-steps", 2, "--max-denoising-steps", 3]
    done = redraft_here("evaluate", "sudoku", "--count", 1, *limits, "--json", tmp_path / "scores.jsonl")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [row["max_denoising_steps"] for row in rows] == [2, 3, 2, 3]
    assert "1 fresh puzzles of each kind" in done.stdout
