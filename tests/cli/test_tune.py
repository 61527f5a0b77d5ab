"""``redraft tune``: what is worth its cost in a table, all of it in a file, and a recipe that other verbs take."""

import json
from typing import get_args

import pytest

from redraft.cli import options
from redraft.engine.quality import Quality
from tests.cli.conftest import assert_one_line

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ANSWER = "534678912\n672195348\n198342567\n859761423\n426853791\n713924856\n961537284\n287419635\n345286179"

pytestmark = pytest.mark.usefixtures("sudoku_by_default")


@pytest.fixture
def items(tmp_path):
    item = {"verb": "generate", "messages": [{"role": "user", "content": PUZZLE}], "answer": ANSWER}
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps({**item, "parameters": {"max_tokens": 90, "seed": n}}) + "\n" for n in range(2)))
    return path


@pytest.mark.slow
def test_a_task_is_tuned_and_the_recipe_used(redraft_here, items, tmp_path):
    recipe, shown = tmp_path / "recipe.json", tmp_path / "all.json"
    tried = (
        "--steps",
        1,
        "--steps",
        18,
        "--bound",
        1,
        "--canvas-length",
        90,
        "--mode",
        "diffusion",
        "--by",
        "forwards",
    )
    done = redraft_here(
        "tune", items, *tried, "--by", "forwards", "--out", recipe, "--json", shown, "--plot", tmp_path / "front.svg"
    )
    assert done.returncode == 0, done.stderr
    assert "recommended: diffusion, 18 steps, bound 1; the recipe is in" in done.stderr
    rows = [line for line in done.stdout.splitlines() if "steps" in line]
    assert [row.strip().startswith(">") for row in rows] == [False, True]
    found = json.loads(shown.read_text())
    assert [one["right"]["value"] for one in found["trials"]] == [0.0, 1.0]
    assert found["trials"][0]["forwards"] == 1.0
    assert (tmp_path / "front.svg").stat().st_size > 1000
    content = json.loads(recipe.read_text())
    assert content["parameters"] == {"mode": "diffusion", "max_denoising_steps": 18, "entropy_bound": 1.0}
    content["parameters"]["max_denoising_steps"] = 2
    recipe.write_text(json.dumps(content))
    by_recipe = redraft_here("generate", PUZZLE, "--recipe", recipe, "--seed", 1, "--max-tokens", 90, "--json")
    assert json.loads(by_recipe.stdout)["usage"]["denoising_steps"] == 2
    given = redraft_here(
        "generate", PUZZLE, "--recipe", recipe, "--max-denoising-steps", 3, "--seed", 1, "--max-tokens", 90, "--json"
    )
    assert json.loads(given.stdout)["usage"]["denoising_steps"] == 3


def test_what_is_wrong_is_one_line_before_a_model_is_loaded(redraft_here, items, tmp_path):
    for arguments, said in (
        ((tmp_path / "none.jsonl",), "cannot be read"),
        ((items, "--plot", "front.gif"), "must end in"),
        ((items, "--out", tmp_path / "no" / "recipe.json"), "does not exist"),
    ):
        assert_one_line(redraft_here("tune", *arguments, "-m", "/nowhere"), said)
    (tmp_path / "recipe.json").write_text("{}")
    for more, said in (
        (("--recipe", tmp_path / "recipe.json"), "is no recipe"),
        (("--deadline-ms", 0), "deadline_ms 0.0 must be a finite number"),
        (("--quality", "fast", "--max-denoising-steps", 3), "quality and max_denoising_steps exclude each other"),
    ):
        assert_one_line(redraft_here("generate", "hi", *more, "-m", "/nowhere"), said)


@pytest.mark.parametrize("verb", [("fill", "--prefix", "a", "--suffix", "b"), ("edit", "-", "--instruction", "x")])
def test_verbs_that_write_on_canvases_take_no_other_mode(redraft_here, letters, verb):
    refused = redraft_here(*verb, "--mode", "autoregressive", "-m", "/nowhere", stdin=b"a text")
    assert_one_line(refused, "--mode autoregressive: fill, edit and extract write on canvases alone")
    done = redraft_here(*verb, "--mode", "diffusion", "--seed", 1, "-m", letters, stdin=b"a text")
    assert done.returncode == 0, done.stderr


def test_the_words_of_the_option_are_the_engines():
    assert tuple(options.Quality) == get_args(Quality)
