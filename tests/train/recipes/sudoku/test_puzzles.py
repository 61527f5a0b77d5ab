"""Sudoku puzzles held against plain-Python solvers that share no code and no method with the compiled ones."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from redraft.train.recipes.sudoku import puzzles
from redraft.train.recipes.sudoku.puzzles import (
    Puzzles,
    count_solutions,
    generate,
    is_solution,
    shuffle,
    singles_suffice,
    solve,
)

EASY = "530070000600195000098000060800060003400803001700020006060000280000419005000080079"
EASY_SOLVED = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
SEVENTEEN = "000000010400000000020000000000050407008000300001090000300400200050100000000806000"
SEVENTEEN_SOLVED = "693784512487512936125963874932651487568247391741398625319475268856129743274836159"
HARD = "800000000003600000070090200050007000000045700000100030001000068008500010090000400"
HARD_SOLVED = "812753649943682175675491283154237896369845721287169534521974368438526917796318452"
EMPTY = "0" * 81
CLASH = "55" + "0" * 79
DEAD_CELL = "123456780000000009" + "0" * 63  # no clash in sight, yet the ninth cell of row one has no digit left


def board_of(text: str) -> NDArray[np.uint8]:
    return np.array([int(digit) for digit in text], dtype=np.uint8)


def text_of(board: NDArray[np.uint8]) -> str:
    return "".join(map(str, board))


def in_one_unit(a: int, b: int) -> bool:
    return a // 9 == b // 9 or a % 9 == b % 9 or (a // 27 == b // 27 and a % 9 // 3 == b % 9 // 3)


SEEN_FROM = [[other for other in range(81) if other != cell and in_one_unit(cell, other)] for cell in range(81)]


def candidates(grid: list[int], cell: int) -> set[int]:
    """Digits that no cell in the same row, column or box of `grid` holds."""
    return set(range(1, 10)).difference([grid[other] for other in SEEN_FROM[cell]])


def completions(grid: list[int]) -> Iterator[list[int]]:
    """Every completion of `grid` by backtracking, with no deduction at all."""
    if all(digit == 0 or digit in candidates(grid, cell) for cell, digit in enumerate(grid)):
        yield from extensions(grid)


def extensions(grid: list[int]) -> Iterator[list[int]]:
    """Every completion of a `grid` whose digits do not clash, trying the blank with the fewest candidates first."""
    options = [(candidates(grid, cell), cell) for cell in range(81) if grid[cell] == 0]
    if not options:
        yield grid
        return
    digits, cell = min(options, key=lambda option: len(option[0]))
    for digit in digits:
        yield from extensions([*grid[:cell], digit, *grid[cell + 1 :]])


def brute_force_count(board: NDArray[np.uint8], limit: int) -> int:
    found = completions(board.tolist())
    return sum(1 for _ in zip(range(limit), found, strict=False))


def units() -> list[list[int]]:
    rows = [[9 * row + column for column in range(9)] for row in range(9)]
    columns = [[9 * row + column for row in range(9)] for column in range(9)]
    boxes = [[9 * (top + i) + left + j for i in range(3) for j in range(3)] for top in (0, 3, 6) for left in (0, 3, 6)]
    return rows + columns + boxes


def singles_by_sets(board: NDArray[np.uint8]) -> bool:
    """Whether placing one naked or hidden single after the other, as on paper, fills the board."""
    grid = board.tolist()
    while 0 in grid:
        options = {cell: candidates(grid, cell) for cell in range(81) if grid[cell] == 0}
        naked = [(cell, min(digits)) for cell, digits in options.items() if len(digits) == 1]
        hidden = [
            (places[0], digit)
            for unit in units()
            for digit in range(1, 10)
            if len(places := [cell for cell in unit if digit in options.get(cell, ())]) == 1
        ]
        if not naked + hidden:
            return False
        cell, digit = (naked + hidden)[0]
        grid[cell] = digit
    return all({grid[cell] for cell in unit} == set(range(1, 10)) for unit in units())


@pytest.fixture(scope="module")
def hard() -> Puzzles:
    return generate(200, (22, 30), seed=3)


def test_known_puzzles_have_one_solution_and_it_is_found() -> None:
    known = [(EASY, EASY_SOLVED), (SEVENTEEN, SEVENTEEN_SOLVED), (HARD, HARD_SOLVED)]
    for puzzle, solved in known:
        assert count_solutions(board_of(puzzle)) == 1
        assert text_of(solve(board_of(puzzle))) == solved
        assert solve(board_of(puzzle)).dtype == np.uint8


def test_a_full_grid_is_its_own_solution() -> None:
    assert text_of(solve(board_of(EASY_SOLVED))) == EASY_SOLVED


@pytest.mark.parametrize("board", [CLASH, DEAD_CELL, EASY_SOLVED[:-1] + "1"])
def test_a_board_that_contradicts_itself_has_no_solution(board: str) -> None:
    assert count_solutions(board_of(board)) == 0
    with pytest.raises(ValueError, match="no solution"):
        solve(board_of(board))


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_counting_stops_at_the_limit(limit: int) -> None:
    assert count_solutions(board_of(EMPTY), limit) == limit


def test_solve_refuses_a_board_with_many_solutions() -> None:
    with pytest.raises(ValueError, match="more than one solution"):
        solve(board_of(EMPTY))


def test_counts_agree_with_brute_force(hard: Puzzles) -> None:
    """With clues missing or falsified the count is exactly what backtracking finds: none, one or several."""
    rng = np.random.default_rng(0)
    counts = set()
    for trial, board in enumerate(hard.boards[:45]):
        board = board.copy()
        clues = rng.permutation(np.flatnonzero(board))
        if trial % 3 == 1:
            board[clues[0]] = board[clues[0]] % 9 + 1
        if trial % 3 == 2:
            board[clues[:2]] = 0
        expected = brute_force_count(board, 6)
        assert count_solutions(board, 6) == expected
        counts.add(expected)
    assert {0, 1, 6} < counts, "the trials must cover none, one, a few and too many"


def test_solving_leaves_the_board_as_it_was() -> None:
    board = board_of(EASY)
    solve(board)
    count_solutions(board)
    assert text_of(board) == EASY


def test_every_generated_puzzle_has_exactly_its_stored_solution(hard: Puzzles) -> None:
    assert hard.boards.shape == hard.solutions.shape == (200, 81)
    assert hard.boards.dtype == hard.solutions.dtype == np.uint8
    assert is_solution(hard.boards, hard.solutions).all()
    for board, solution in zip(hard.boards, hard.solutions, strict=True):
        assert count_solutions(board) == 1
        assert (solve(board) == solution).all()
    for board, solution in zip(hard.boards[:30], hard.solutions[:30], strict=True):
        assert list(completions(board.tolist())) == [solution.tolist()]


@pytest.mark.parametrize("givens", [(24, 30), (30, 45), (36, 36), (80, 80)])
def test_givens_stay_within_the_range(givens: tuple[int, int]) -> None:
    filled = (generate(100, givens, seed=5).boards > 0).sum(axis=1)
    assert filled.min() >= givens[0]
    assert filled.max() <= givens[1]


def test_givens_are_uniform_where_removal_reaches_every_target() -> None:
    filled = (generate(1200, (35, 40), seed=6).boards > 0).sum(axis=1)
    shares = np.bincount(filled)[35:] / 1200
    assert shares == pytest.approx([1 / 6] * 6, abs=0.04)  # four standard deviations


def test_grids_do_not_favour_a_digit_in_any_cell() -> None:
    solutions = generate(3000, (80, 80), seed=8).solutions
    shares = np.stack([(solutions == digit).mean(axis=0) for digit in range(1, 10)])
    assert shares == pytest.approx(np.full((9, 81), 1 / 9), abs=0.029)  # five standard deviations


def test_same_seed_same_puzzles_and_other_seeds_others(hard: Puzzles) -> None:
    again, other = generate(200, (22, 30), seed=3), generate(200, (22, 30), seed=4)
    assert (again.boards == hard.boards).all()
    assert (again.solutions == hard.solutions).all()
    assert not {text_of(grid) for grid in other.solutions} & {text_of(grid) for grid in hard.solutions}
    assert len({text_of(grid) for grid in hard.solutions}) == 200


def test_a_seed_means_the_same_puzzles_everywhere() -> None:
    """Pinned, so that a change of platform, numba or code that alters what a seed means is noticed."""
    assert [text_of(board) for board in generate(2, (24, 30), seed=7).boards] == [
        "000800090060052000048000061000093000000200073307001000070100002102005040000300800",
        "000506300320047800000800000800070100070900020200018000100000060560009030040050000",
    ]


def test_the_extreme_seeds_work() -> None:
    lowest, highest = (generate(1, (30, 30), seed).boards for seed in (0, 2**64 - 1))
    assert (lowest != highest).any()


def test_code_loaded_from_the_compilation_cache_gives_the_same_puzzles(hard: Puzzles) -> None:
    """A later process, which loads what this one compiled, works and agrees."""
    program = (
        "from redraft.train.recipes.sudoku.puzzles import *\n"
        "made = generate(200, (22, 30), seed=3)\n"
        "assert is_solution(made.boards, [solve(board) for board in made.boards]).all()\n"
        "assert singles_suffice(made.boards).any()\n"
        "print(made.boards.tobytes().hex())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert bytes.fromhex(ran.stdout.strip()) == hard.boards.tobytes()


def test_singles_label_agrees_with_solving_by_sets(hard: Puzzles) -> None:
    crafted = np.stack([board_of(text) for text in (EASY, SEVENTEEN, HARD, EMPTY, CLASH, DEAD_CELL, EASY_SOLVED)])
    labels = singles_suffice(crafted)
    assert labels.dtype == np.bool_
    assert labels.tolist() == [True, True, False, False, False, False, True]
    assert labels.tolist() == [singles_by_sets(board) for board in crafted]
    labels = singles_suffice(hard.boards[:60])
    assert labels.tolist() == [singles_by_sets(board) for board in hard.boards[:60]]
    assert 0 < labels.sum() < 60, "the sample must hold puzzles of both kinds"


def test_shuffled_puzzles_keep_their_only_solution_givens_and_difficulty(hard: Puzzles) -> None:
    before = hard.boards.copy()
    boards, solutions = shuffle(hard.boards, hard.solutions, np.random.default_rng(1))
    assert boards.dtype == solutions.dtype == np.uint8
    assert (hard.boards == before).all()
    assert is_solution(boards, solutions).all()
    assert all((solve(board) == solution).all() for board, solution in zip(boards, solutions, strict=True))
    assert ((boards > 0).sum(axis=1) == (hard.boards > 0).sum(axis=1)).all()
    assert (singles_suffice(boards) == singles_suffice(hard.boards)).all()


def test_shuffle_gives_each_puzzle_its_own_symmetry() -> None:
    one = generate(1, (30, 30), seed=2)
    boards, _ = shuffle(one.boards.repeat(300, axis=0), one.solutions.repeat(300, axis=0), np.random.default_rng(2))
    assert len({text_of(board) for board in boards}) == 300
    assert len({text_of(board > 0) for board in boards}) == 300


def test_shuffle_reaches_every_cell_every_digit_and_both_orientations() -> None:
    """A pair in the first row ends up in any place, as any digits, and across as often as down."""
    pair = np.zeros((4000, 81), dtype=np.uint8)
    pair[:, [0, 1]] = [1, 2]
    boards, solutions = shuffle(pair, pair, np.random.default_rng(3))
    assert (boards == solutions).all()
    assert (boards > 0).any(axis=0).all()
    assert set(boards[boards > 0]) == set(range(1, 10))
    first, second = np.nonzero(boards)[1].reshape(4000, 2).T
    across = first // 9 == second // 9
    assert (across | (first % 9 == second % 9)).all()
    assert across.mean() == pytest.approx(0.5, abs=0.04)


def test_shuffle_follows_its_generator(hard: Puzzles) -> None:
    first, again, other = (shuffle(hard.boards, hard.solutions, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any(axis=1).all()


def test_an_answer_is_judged_by_the_rules_and_the_givens() -> None:
    """Any grid that keeps the rules and the givens is right, and each way to break one of them is wrong."""
    solved = board_of(EASY_SOLVED)
    two_in_a_row_swapped = solved.copy()
    two_in_a_row_swapped[[2, 3]] = solved[[3, 2]]
    relabelled = solved % 9 + 1
    latin = np.array([(row + column) % 9 + 1 for row in range(9) for column in range(9)])  # right but for its boxes
    one_blank = solved.copy()
    one_blank[80] = 0
    cases = [
        (EASY, solved, True),
        (EMPTY, solved, True),
        (EMPTY, relabelled, True),
        (EASY, relabelled, False),
        (EMPTY, two_in_a_row_swapped, False),
        (EMPTY, latin, False),
        (EMPTY, latin.reshape(9, 3, 3).swapaxes(0, 1).reshape(81), False),
        (EMPTY, one_blank, False),
        (EMPTY, np.full(81, 5), False),
        (EMPTY, np.where(solved == 9, 10, solved), False),
        (EMPTY, np.where(solved == 9, -1, solved), False),
    ]
    boards = np.stack([board_of(board) for board, _, _ in cases])
    right = is_solution(boards, np.stack([answer for _, answer, _ in cases]))
    assert right.dtype == np.bool_
    assert right.tolist() == [expected for _, _, expected in cases]


def test_no_puzzles_are_fine() -> None:
    none = generate(0, (24, 30), seed=1)
    assert none.boards.shape == none.solutions.shape == (0, 81)
    assert singles_suffice(none.boards).shape == is_solution(none.boards, none.solutions).shape == (0,)
    assert shuffle(none.boards, none.solutions, np.random.default_rng(0))[0].shape == (0, 81)


@pytest.mark.parametrize(
    ("board", "message"),
    [
        (np.zeros(80, dtype=int), r"shape \[80\].*81 cells of 0\.\.9"),
        (np.zeros((9, 9), dtype=int), r"shape \[9, 9\].*must be \[81\]"),
        (np.full(81, 10), r"holds 10.*0 for a blank or a digit 1\.\.9"),
        (np.full(81, -1), r"holds -1.*0 for a blank or a digit 1\.\.9"),
        (np.full(81, 256), r"holds 256"),
        (np.zeros(81), r"holds float64.*integers"),
    ],
)
def test_what_is_not_a_board_is_refused(board: NDArray[np.integer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(board)
    with pytest.raises(ValueError, match=message):
        count_solutions(board)


def test_counting_refuses_a_limit_that_counts_nothing() -> None:
    with pytest.raises(ValueError, match=r"limit is 0.*at least 1"):
        count_solutions(board_of(EASY), limit=0)


@pytest.mark.parametrize(
    ("count", "givens", "seed", "message"),
    [
        (-1, (24, 30), 0, "count is -1.*0 or more"),
        (1, (16, 30), 0, r"givens is 16\.\.30.*within 17\.\.80"),
        (1, (24, 81), 0, r"givens is 24\.\.81.*within 17\.\.80"),
        (1, (30, 24), 0, r"givens is 30\.\.24.*rising"),
        (1, (24, 30), -1, "seed is -1"),
        (1, (24, 30), 2**64, "seed is 18446744073709551616"),
    ],
)
def test_generate_refuses_what_it_cannot_make(count: int, givens: tuple[int, int], seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(count, givens, seed)


def test_generate_gives_up_on_a_range_that_removal_does_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puzzles, "TRIES_PER_PUZZLE", 20)
    with pytest.raises(ValueError, match="at most 17 givens in 20 tries; raise the upper end"):
        generate(1, (17, 17), seed=0)


def test_arrays_of_boards_must_be_rows_of_81_and_match() -> None:
    flat, boards = board_of(EASY), board_of(EASY)[None]
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"boards has shape \[81\].*\[N, 81\]"):
        singles_suffice(flat)
    with pytest.raises(ValueError, match="boards holds 11"):
        singles_suffice(boards + 11 * (boards == 0))
    with pytest.raises(ValueError, match=r"answers has shape \[81\].*\[N, 81\]"):
        is_solution(boards, flat)
    with pytest.raises(ValueError, match="answers has 2 rows for 1 boards"):
        is_solution(boards, boards.repeat(2, axis=0))
    with pytest.raises(ValueError, match="solutions has 2 rows for 1 boards"):
        shuffle(boards, boards.repeat(2, axis=0), rng)
    with pytest.raises(ValueError, match="solutions holds 12"):
        shuffle(boards, boards + 12 * (boards == 0), rng)
