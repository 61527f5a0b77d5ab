"""Scores on Sudoku: what they say where there is nothing to take a share of, and that they count what happened."""

import json

import numpy as np

from redraft.train.recipes.sudoku.evaluate import KINDS, as_text, evaluate, fresh_puzzles, from_text
from redraft.train.recipes.sudoku.puzzles import is_solution

EASY = next(iter(KINDS))


def test_a_share_of_no_puzzles_is_null_in_json(bundled):
    score = evaluate(bundled, EASY, fresh_puzzles(EASY, 2, seed=3), max_denoising_steps=1)
    assert score.converged == 0, "one step cannot show that the canvas is stable"
    row = json.loads(json.dumps(score.row(), allow_nan=False))
    assert row["right_when_converged"] is None
    assert row["mean_steps"] == 1


def test_the_score_is_what_single_answers_show(bundled):
    puzzles = fresh_puzzles(EASY, 4, seed=4)
    score = evaluate(bundled, EASY, puzzles, seed=9)
    answers = [
        bundled.generate([{"role": "user", "content": as_text(board)}], max_tokens=90, seed=9 + index)
        for index, board in enumerate(puzzles.boards)
    ]
    boards = np.stack([from_text(answer.text) for answer in answers])
    assert score.solved == is_solution(puzzles.boards, boards).mean()
    assert score.mean_steps == np.mean([answer.usage.denoising_steps for answer in answers])
