"""Sudoku: puzzles with exactly one solution, their exact solver, their symmetries and their rules.

Boards are uint8 [81], row-major, 0 for a blank. Compiled code sees a cell as the mask of the digits it may still hold.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

MIN_GIVENS = 17  # no puzzle with 16 has a single solution (McGuire, Tugemann and Civario, 2012)
MAX_GIVENS = 80
TRIES_PER_PUZZLE = 20_000

_ANY = 0b111_111_111
_SETTLED = 1 << 9  # marks a decided cell whose digit has been taken from its peers
_CELLS = np.arange(81)
_UNIT_OF_CELL = np.stack([_CELLS // 9, 9 + _CELLS % 9, 18 + _CELLS // 27 * 3 + _CELLS % 9 // 3])  # [3, 81]
_UNITS = np.argsort(_UNIT_OF_CELL, axis=1, kind="stable").reshape(27, 9)
_SHARES_UNIT = (_UNIT_OF_CELL[:, :, None] == _UNIT_OF_CELL[:, None, :]).any(axis=0)  # [81, 81]
PEERS = np.stack([np.nonzero(_SHARES_UNIT[cell] & (cell != _CELLS))[0] for cell in _CELLS])
"""[81, 20]: the other cells of each cell's row, column and box."""
_MASK_OF_DIGIT = np.array([_ANY] + [1 << digit for digit in range(9)], dtype=np.int16)
_DIGIT_OF_MASK = np.zeros(_ANY + 1, dtype=np.uint8)
_DIGIT_OF_MASK[_MASK_OF_DIGIT[1:]] = np.arange(1, 10)
_BIT_COUNT = np.array([mask.bit_count() for mask in range(_ANY + 1)])


@dataclass(frozen=True, eq=False)
class Puzzles:
    """Puzzles and their only solutions, both uint8 [N, 81]."""

    boards: NDArray[np.uint8]
    solutions: NDArray[np.uint8]


def count_solutions(board: NDArray[np.integer], limit: int = 2) -> int:
    """Number of ways to complete `board` [81], counted no further than `limit`; 0 when its givens clash.

    Raises ValueError for a board that is not 81 cells of 0..9 and for a limit below 1.
    """
    if limit < 1:
        raise ValueError(f"limit is {limit}; counting needs a limit of at least 1")
    return _complete(_MASK_OF_DIGIT[_checked_board(board)], limit)[0]


def solve(board: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The only solution of `board` [81], as uint8 [81].

    Raises ValueError for a board that is not 81 cells of 0..9, has no solution, or has more than one.
    """
    found, masks = _complete(_MASK_OF_DIGIT[_checked_board(board)], 2)
    if found == 0:
        raise ValueError("the board has no solution; its givens contradict each other")
    if found > 1:
        raise ValueError("the board has more than one solution; solving needs givens that leave exactly one")
    return _DIGIT_OF_MASK[masks]


def generate(count: int, givens: tuple[int, int], seed: int) -> Puzzles:
    """`count` puzzles with one solution each; the same arguments give the same puzzles on every platform.

    A puzzle's number of givens is drawn uniformly from the inclusive range `givens`. Clues leave a random full grid in
    random order while its solution stays the only one. Where that ends short of the drawn number but within the range
    the puzzle is kept, else another grid is tried. Removal without a target ends at 23 to 26 givens nine times in ten.

    Raises ValueError for a negative count, a range outside 17..80, a seed outside 0..2**64-1, and a range so low that
    `TRIES_PER_PUZZLE` grids in a row did not reach it.
    """
    low, high = givens
    if count < 0:
        raise ValueError(f"count is {count}; it must be 0 or more")
    if not MIN_GIVENS <= low <= high <= MAX_GIVENS:
        raise ValueError(f"givens is {low}..{high}; it must be a rising range within {MIN_GIVENS}..{MAX_GIVENS}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it must be within 0..2**64-1")
    state = np.array([seed], dtype=np.uint64)
    boards = np.empty((count, 81), dtype=np.int16)
    solutions = np.empty((count, 81), dtype=np.int16)
    for board, solution in zip(boards, solutions, strict=True):
        if not _make_puzzle(low, high, TRIES_PER_PUZZLE, state, board, solution):
            raise ValueError(
                f"no puzzle with at most {high} givens in {TRIES_PER_PUZZLE} tries; raise the upper end, 24 is quick"
            )
    return Puzzles(_DIGIT_OF_MASK[boards], _DIGIT_OF_MASK[solutions])


def singles_suffice(boards: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell whether naked and hidden singles alone fill each of `boards` [N, 81], as bool [N]; False where givens clash.

    Raises ValueError for boards that are not [N, 81] of 0..9.
    """
    return _solved_by_singles(_MASK_OF_DIGIT[_checked_boards("boards", boards)])


def shuffle(
    boards: NDArray[np.integer], solutions: NDArray[np.integer], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Each puzzle and its solution, uint8 [N, 81] both, under one random symmetry of Sudoku of its own.

    Digits are relabelled, rows move within their band, bands move, columns and stacks likewise, and half the puzzles
    are transposed. The number of givens and of solutions stays as it was.

    Raises ValueError for arrays that are not [N, 81] of 0..9 or differ in N.
    """
    boards, solutions = _checked_boards("boards", boards), _checked_boards("solutions", solutions)
    _check_same_length("solutions", solutions, boards)
    count = len(boards)
    cells = 9 * _line_order(count, rng)[:, :, None] + _line_order(count, rng)[:, None, :]
    transposed = rng.random(count) < 0.5
    cells = np.where(transposed[:, None, None], cells.swapaxes(1, 2), cells).reshape(count, 81)
    labels = np.zeros((count, 10), dtype=np.uint8)
    labels[:, 1:] = rng.permuted(np.tile(np.arange(1, 10), (count, 1)), axis=1)

    def moved(grids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.take_along_axis(labels, np.take_along_axis(grids, cells, axis=1), axis=1)

    return moved(boards), moved(solutions)


def is_solution(boards: NDArray[np.integer], answers: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Tell whether each of `answers` [N, 81] solves its board by the rules, as bool [N].

    An answer must hold 1..9 in every row, column and box and keep every given. Anything else in its cells, a blank or a
    number that is no digit, makes it False.

    Raises ValueError for boards that are not [N, 81] of 0..9 and for answers of another shape.
    """
    boards, answers = _checked_boards("boards", boards), np.asarray(answers)
    _check_shape("answers", answers)
    _check_same_length("answers", answers, boards)
    complete = (np.sort(answers[:, _UNITS], axis=-1) == np.arange(1, 10)).all(axis=(1, 2))
    return complete & ((boards == 0) | (boards == answers)).all(axis=1)


def _line_order(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each of `count` puzzles, which line comes to each place when bands, and lines within a band, move; [N, 9]."""
    bands = rng.permuted(np.tile(np.arange(3), (count, 1)), axis=1)
    within = rng.permuted(np.tile(np.arange(3), (count, 3, 1)), axis=2)
    return (3 * bands[:, :, None] + within).reshape(count, 9)


def _checked_board(board: NDArray[np.integer]) -> NDArray[np.uint8]:
    board = np.asarray(board)
    if board.shape != (81,):
        raise ValueError(f"the board has shape {list(board.shape)}; it must be [81], 81 cells of 0..9")
    return _checked_digits("the board", board)


def _checked_boards(name: str, boards: NDArray[np.integer]) -> NDArray[np.uint8]:
    boards = np.asarray(boards)
    _check_shape(name, boards)
    return _checked_digits(name, boards)


def _checked_digits(name: str, cells: NDArray[np.integer]) -> NDArray[np.uint8]:
    if not np.issubdtype(cells.dtype, np.integer):
        raise ValueError(f"{name} holds {cells.dtype}; cells must be integers, 0 for a blank or a digit 1..9")
    outside = cells[(cells < 0) | (cells > 9)]
    if outside.size:
        raise ValueError(f"{name} holds {outside[0]}; a cell must be 0 for a blank or a digit 1..9")
    return cells.astype(np.uint8, order="C")


def _check_shape(name: str, boards: NDArray[np.integer]) -> None:
    if boards.ndim != 2 or boards.shape[1] != 81:
        raise ValueError(f"{name} has shape {list(boards.shape)}; it must be [N, 81], a board a row")


def _check_same_length(name: str, grids: NDArray[np.integer], boards: NDArray[np.integer]) -> None:
    if len(grids) != len(boards):
        raise ValueError(f"{name} has {len(grids)} rows for {len(boards)} boards; it must have one for each")


@njit(cache=True)
def _complete(board: NDArray[np.int16], limit: int) -> tuple[int, NDArray[np.int16]]:
    """Number of completions of the masks `board` [81] up to `limit`, and the masks of the last one found.

    The search keeps its own pile of boards: numba crashes on a recursive function loaded from its cache (issue 6061).
    """
    solution = np.zeros(81, dtype=np.int16)
    found = 0
    pile = [board.copy()]
    while pile and found < limit:
        top = pile.pop()
        if not _propagate(top):
            continue
        cell = _fewest_candidates(top)
        if cell < 0:
            solution[:] = top & _ANY
            found += 1
            continue
        untried = int(top[cell])
        while untried:
            child = top.copy()
            child[cell] = untried & -untried
            pile.append(child)
            untried &= untried - 1
    return found, solution


@njit(cache=True)
def _fewest_candidates(board: NDArray[np.int16]) -> int:
    """The undecided cell with the fewest candidates on a propagated board, -1 when every cell is decided."""
    best, fewest = -1, 10
    for cell in range(81):
        if board[cell] < _SETTLED and _BIT_COUNT[board[cell]] < fewest:
            best, fewest = cell, _BIT_COUNT[board[cell]]
            if fewest == 2:
                break
    return best


@njit(cache=True)
def _propagate(board: NDArray[np.int16]) -> bool:
    """Place naked and hidden singles until none is left; False when a cell or a digit has no place."""
    while _settle_naked_singles(board):
        placed = _place_hidden_singles(board)
        if placed <= 0:
            return placed == 0
    return False


@njit(cache=True)
def _settle_naked_singles(board: NDArray[np.int16]) -> bool:
    """Take each decided cell's digit from its peers, until nothing changes; False when a cell has no candidate left."""
    changed = True
    while changed:
        changed = False
        for cell in range(81):
            bit = board[cell]
            if bit >= _SETTLED or bit & (bit - 1):
                continue
            changed = True
            board[cell] = bit | _SETTLED
            for peer in PEERS[cell]:
                board[peer] &= ~bit
                if not board[peer] & _ANY:
                    return False
    return True


@njit(cache=True)
def _place_hidden_singles(board: NDArray[np.int16]) -> int:
    """Decide each cell that is its unit's only place for a digit; how many, or -1 when a digit has no place."""
    placed = 0
    for unit in _UNITS:
        once, twice, settled = 0, 0, 0
        for cell in unit:
            mask = board[cell]
            twice |= once & mask
            once |= mask
            settled |= mask if mask >= _SETTLED else 0
        if once & _ANY != _ANY:
            return -1
        hidden = once & ~twice & ~settled
        if not hidden:
            continue
        for cell in unit:
            bit = board[cell] & hidden
            if bit & (bit - 1):
                return -1
            if bit:
                board[cell] = bit
                placed += 1
    return placed


@njit(cache=True)
def _solved_by_singles(boards: NDArray[np.int16]) -> NDArray[np.bool_]:
    """For masks [N, 81], whether propagation alone decides every cell; bool [N]."""
    solved = np.empty(len(boards), dtype=np.bool_)
    for index in range(len(boards)):
        board = boards[index].copy()
        solved[index] = _propagate(board) and _fewest_candidates(board) < 0
    return solved


@njit(cache=True)
def _make_puzzle(
    low: int,
    high: int,
    tries: int,
    state: NDArray[np.uint64],
    board: NDArray[np.int16],
    solution: NDArray[np.int16],
) -> bool:
    """Write one puzzle's masks to `board` and `solution` [81]; False when every try ended above `high` givens."""
    target = low + _below(high - low + 1, state)
    for _ in range(tries):
        solution[:] = _random_grid(state)
        board[:] = solution
        if _remove_clues(board, target, state) <= high:
            return True
    return False


@njit(cache=True)
def _random_grid(state: NDArray[np.uint64]) -> NDArray[np.int16]:
    """A random full grid as masks [81]: guess and propagate, and start afresh on a contradiction."""
    board = np.full(81, _ANY, dtype=np.int16)
    while True:
        cell = _fewest_candidates(board)
        if cell < 0:
            return board & np.int16(_ANY)
        rest = int(board[cell])
        for _ in range(_below(_BIT_COUNT[rest], state)):
            rest &= rest - 1
        board[cell] = rest & -rest
        if not _propagate(board):
            board[:] = _ANY


@njit(cache=True)
def _remove_clues(board: NDArray[np.int16], target: int, state: NDArray[np.uint64]) -> int:
    """Blank the full grid `board` cell by cell in random order, as uniqueness allows, down to `target` givens.

    Returns the number left. One pass is enough: a clue that was needed once is needed by every board with fewer clues.
    """
    order = np.arange(81)
    left = 81
    for last in range(80, -1, -1):
        if left == target:
            break
        pick = _below(last + 1, state)
        cell = order[pick]
        order[pick] = order[last]
        # Any second solution must differ in this very cell, for with its clue the board had one solution.
        rival = board.copy()
        rival[cell] = _ANY ^ board[cell]
        if _complete(rival, 1)[0] == 0:
            board[cell] = _ANY
            left -= 1
    return left


@njit(cache=True)
def _below(bound: int, state: NDArray[np.uint64]) -> int:
    """The next draw from 0..bound-1 by splitmix64 (Steele, Lea and Flood, 2014), advancing `state` [1]."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    mixed = state[0]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return int(mixed % np.uint64(bound))
