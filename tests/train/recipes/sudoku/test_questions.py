"""A puzzle as questions for ``choose``: every blank is asked, in its place, and the truth is the solution's."""

import numpy as np

from redraft.calibrate.choice import predict
from redraft.train.recipes.sudoku.evaluate import KINDS, as_text, fresh_puzzles
from redraft.train.recipes.sudoku.questions import DIGITS, mixed, questions

EASY = next(iter(KINDS))
PUZZLES = fresh_puzzles(EASY, 1, seed=6)
BOARD, SOLUTION = PUZZLES.boards[0], PUZZLES.solutions[0]


def test_the_frame_filled_with_the_truth_is_the_solution():
    asked = questions(BOARD, SOLUTION, None, np.random.default_rng(0))
    assert asked.frame is not None
    assert isinstance(asked.truth, dict)
    assert asked.frame.format(**asked.truth) == as_text(SOLUTION)
    assert asked.options == dict.fromkeys(asked.truth, DIGITS)


def test_so_many_cells_are_counted_but_all_are_asked():
    asked = questions(BOARD, SOLUTION, 8, np.random.default_rng(0))
    assert len(asked.truth) == 8
    assert len(asked.options) == (BOARD == 0).sum()


def test_the_kinds_come_in_turn_and_other_seeds_bring_other_puzzles():
    givens = [sum(mark.isdigit() for mark in asked.prompt[0]["content"]) for asked in mixed(5, 8, seed=7)]  # type: ignore
    assert [count >= 36 for count in givens] == [True, False, True, False, True]
    assert mixed(2, 8, seed=8)[0].prompt != mixed(2, 8, seed=7)[0].prompt


def test_one_step_is_right_about_most_cells_whatever_the_order_of_questions_and_options(bundled):
    asked = questions(BOARD, SOLUTION, None, np.random.default_rng(0))
    found = predict(bundled, [asked], seed=1)
    assert (found.probabilities.argmax(1) == found.truth).mean() > 0.6
    turned = {name: DIGITS[::-1] for name in reversed(list(asked.options))}
    for steps in (1, 3):
        one, other = (
            bundled.choose(asked.prompt, options, frame=asked.frame, seed=1, max_denoising_steps=steps)
            for options in (asked.options, turned)
        )
        assert one.answers == other.answers
