"""Rules as constraints and as a verifier, against puzzles' solutions and grids that break one rule each."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.expression import Expression
from redraft.engine.verify import Candidate
from redraft.train.recipes.sudoku.evaluate import KINDS, as_text, fresh_puzzles
from redraft.train.recipes.sudoku.rules import Rules, grid, rows

HARD = list(KINDS)[1]
PUZZLES = fresh_puzzles(HARD, 4, seed=5)
BOARD, SOLUTION = PUZZLES.boards[0], PUZZLES.solutions[0]
BLANKS = np.flatnonzero(BOARD == 0).tolist()
GIVEN = int(np.flatnonzero(BOARD)[0])


def matches(expression: Expression, board: np.ndarray) -> bool:
    return byte_automaton.build(expression).matches(as_text(board).encode())


def changed(cell: int, digit: int) -> np.ndarray:
    answer = SOLUTION.copy()
    answer[cell] = digit
    return answer


def swapped(one: int, other: int) -> np.ndarray:
    answer = SOLUTION.copy()
    answer[[one, other]] = answer[[other, one]]
    return answer


def candidate(text: str) -> Candidate:
    return Candidate(0, text, tuple(range(len(text))))


class TestConstraints:
    @pytest.mark.parametrize("constraint", [grid, rows])
    def test_the_solution_fits_and_another_given_does_not(self, constraint):
        expression = constraint(BOARD).expression
        assert matches(expression, SOLUTION)
        assert not matches(expression, changed(GIVEN, SOLUTION[GIVEN] % 9 + 1))
        assert not matches(expression, BOARD), "a blank is no digit"

    def test_a_grid_may_break_the_rules_and_rows_only_in_columns_and_boxes(self):
        in_a_row = next(pair for pair in pairwise(BLANKS) if pair[0] // 9 == pair[1] // 9)
        twice = changed(BLANKS[0], SOLUTION[BLANKS[0]] % 9 + 1)
        assert matches(grid(BOARD).expression, twice)
        assert not matches(rows(BOARD).expression, twice)
        assert matches(rows(BOARD).expression, swapped(*in_a_row))

    def test_rows_allow_as_many_texts_as_each_line_has_orders(self):
        automaton = byte_automaton.build(rows(BOARD).expression)
        ways = {automaton.start: 1}
        for _ in range(89):
            following: dict[int, int] = {}
            for state, count in ways.items():
                for target in automaton.transitions[state]:
                    if target != automaton.states:
                        following[int(target)] = following.get(int(target), 0) + count
            ways = following
        free = (BOARD.reshape(9, 9) == 0).sum(1).tolist()
        assert sum(ways.values()) == math.prod(math.factorial(count) for count in free)


class TestRules:
    def test_nothing_is_wrong_with_a_solution(self):
        assert list(Rules(BOARD)(candidate(as_text(SOLUTION)))) == []

    def test_both_cells_that_clash_are_marked_unless_one_is_given(self):
        cell = BLANKS[0]
        wrong_digit = int(SOLUTION[cell] % 9 + 1)
        answer = changed(cell, wrong_digit)
        row, column = divmod(cell, 9)
        same = [
            other
            for other in np.flatnonzero(answer == wrong_digit).tolist()
            if other != cell
            and (other // 9 == row or other % 9 == column or (other // 27, other % 9 // 3) == (row // 3, column // 3))
        ]
        expected = sorted([cell, *(other for other in same if BOARD[other] == 0)])
        assert same
        assert Rules(BOARD).wrong_cells(answer).tolist() == expected
        marked = Rules(BOARD)(candidate(as_text(answer)))
        assert [as_text(answer)[position] for position in marked] == [str(wrong_digit)] * len(expected)
        assert [len(re.sub("\n", "", as_text(answer)[:position])) for position in marked] == expected

    def test_a_given_that_was_changed_is_marked(self):
        answer = changed(GIVEN, SOLUTION[GIVEN] % 9 + 1)
        assert GIVEN in Rules(BOARD).wrong_cells(answer)

    def test_what_is_no_grid_is_wrong_everywhere(self):
        assert list(Rules(BOARD)(candidate("12\n3"))) == [0, 1, 2, 3]

    def test_with_them_an_answer_is_verified_if_and_only_if_it_is_a_solution(self, bundled):
        seen = set()
        for number, board in enumerate(PUZZLES.boards):
            prompt = [{"role": "user", "content": as_text(board)}]
            for steps in (3, 18):
                out = bundled.generate(
                    prompt, constraint=grid(board), verifier=Rules(board), verify_rounds=1, seed=number,
                    max_tokens=90, max_denoising_steps=steps,
                )  # fmt: skip
                assert out.verified == (out.text == as_text(PUZZLES.solutions[number]))
                seen.add(out.verified)
        assert seen == {True, False}
