"""The functions on the states of a byte automaton that the tokens of a vocabulary are: its transition monoid.

Walking the vocabulary's prefix tree composes these functions byte by byte; few of them differ, so that a table by
function and byte does nearly all of the work.

This is the reference; ``kernels.monoid`` is compiled, and an engine has it ``use`` that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.limits import TokenLimits, TooLargeError
from redraft.constrain.automaton.vocabulary import PrefixTree

# Integers as small as their values allow.
_Integers = NDArray[np.integer[Any]]

# The first two functions: all states die, and nothing has been read yet.
NOWHERE, _IDENTITY = 0, 1
# So many pairs of a state and the state after it are composed at once.
_AT_ONCE = 1_000_000
BYTES_A_MOVE = 40
"""Memory for each pair of a class and a state that it is possible in, while edges are made."""


def too_large(reason: str) -> TooLargeError:
    """The error of a constraint that is too large together with a vocabulary."""
    return TooLargeError(
        f"the constraint is too large for this vocabulary: {reason}; "
        "smaller maxLength, maxItems or repeat counts, fewer options or a smaller depth would help"
    )


@dataclass(frozen=True, eq=False)
class Moves:
    """The states to which the tokens of n classes lead: T triples of class, state and the state after it, by class."""

    classes: int
    """n."""
    number: NDArray[np.int32]
    """[T]: the class, from 0 on, ascending."""
    source: NDArray[np.int32]
    target: NDArray[np.int32]

    def among(self, kept: NDArray[np.bool_]) -> tuple["Moves", NDArray[np.int32]]:
        """The moves between states that are kept, numbered anew, and the new class of each [n]; -1 for one without any.

        Classes that now do the same are one, that of the first.
        """
        inside = kept[self.source] & kept[self.target]
        renumbered = (np.cumsum(kept) - 1).astype(np.int32)
        number = self.number[inside]
        source, target = renumbered[self.source[inside]], renumbered[self.target[inside]]
        bounds = np.searchsorted(number, np.arange(self.classes + 1)).tolist()
        numbers: dict[bytes, int] = {b"": -1}
        of_class = np.empty(self.classes, dtype=np.int32)
        first = np.zeros(self.classes, dtype=bool)
        for old, (start, end) in enumerate(pairwise(bounds)):
            known = len(numbers)
            of_class[old] = numbers.setdefault(source[start:end].tobytes() + target[start:end].tobytes(), known - 1)
            first[old] = len(numbers) > known
        used = first[number]
        return Moves(len(numbers) - 1, of_class[number[used]], source[used], target[used]), of_class


@dataclass(frozen=True, eq=False)
class Walked:
    """The tokens of a vocabulary, by what they do to the states of a byte automaton."""

    token_class: NDArray[np.int32]
    """[V]: tokens that do the same from every state are one class, numbered from 1 on in the order of their first
    tokens; 0 for tokens that no state allows."""
    moves: Moves
    """The moves of the tokens of class 1, 2, ..., which are 0, 1, ... there."""
    distance: NDArray[np.int32]
    """[S]: the fewest tokens to an accepting state; -1 where there is no way."""
    reached: NDArray[np.int32]
    """[S]: the fewest tokens from the start; -1 where there is no way."""


def walk_reference(
    automaton: ByteAutomaton, tree: PrefixTree, silent: NDArray[np.bool_], limits: TokenLimits
) -> Walked:
    """Walk the tree of all tokens, of which the ``silent`` ones [V] stand for no text; see ``Walked``.

    Raises TooLargeError where the work goes beyond ``limits``.
    """
    monoid = Monoid(automaton, limits)
    token_function = monoid.walk(tree)[tree.token_node]
    token_function[silent] = NOWHERE
    token_class, moves = monoid.classes(token_function)
    ends = np.flatnonzero(automaton.accepting[: automaton.states])
    return Walked(
        token_class,
        moves,
        _min_steps(moves.target, moves.source, ends, automaton.states),
        _min_steps(moves.source, moves.target, np.array([automaton.start]), automaton.states),
    )


Implementation = Callable[[ByteAutomaton, PrefixTree, NDArray[np.bool_], TokenLimits], Walked]
_implementation: Implementation = walk_reference


def walk(automaton: ByteAutomaton, tree: PrefixTree, silent: NDArray[np.bool_], limits: TokenLimits) -> Walked:
    """Walk the tree of all tokens by the implementation in use, as ``walk_reference`` does."""
    return _implementation(automaton, tree, silent, limits)


def use(implementation: Implementation) -> None:
    """Have this process walk vocabularies by ``implementation``, which does what ``walk_reference`` does.

    The same arrays and errors must come of every automaton, so that nothing but time depends on it.
    """
    global _implementation
    _implementation = implementation


def too_many_steps(states: int, limits: TokenLimits) -> TooLargeError:
    """The error of composing functions on so many states for too long."""
    return too_large(f"how its tokens act on {states} states takes more than {limits.steps} steps")


def too_many_functions(states: int, limits: TokenLimits) -> TooLargeError:
    """The error of too many functions on so many states."""
    return too_large(f"its tokens act on {states} states in more than {limits.functions} ways")


def too_many_bytes(states: int, limits: TokenLimits) -> TooLargeError:
    """The error of functions on so many states that take too much memory."""
    return too_large(f"how its tokens act on {states} states takes more than {limits.nbytes / 1e6:.0f} MB")


def too_many_moves(moves: int, limits: TokenLimits) -> TooLargeError:
    """The error of so many moves that their edges would take too much memory."""
    return too_large(f"{moves} pairs of a state and a token class take over {limits.nbytes / 1e6:.0f} MB")


class Monoid:
    """The functions on the states that strings of bytes are, numbered as they are met.

    A function that says of many states what follows is a row [S + 1]: the state after the string, from each. Any other
    is its live states with what follows them, in one number each. Both are kept as bytes, which find themselves again
    in a dictionary.
    """

    def __init__(self, automaton: ByteAutomaton, limits: TokenLimits) -> None:
        self._limits, self._steps = limits, 0
        self._states = automaton.states
        # Half of the states live, and a row takes no more room than pairs.
        self._dense_from = -(-automaton.states // 2)
        self._bits = int(self._states).bit_length()
        self._dtype = np.min_scalar_type(self._states)
        self._pair_dtype = np.min_scalar_type((1 << 2 * self._bits) - 1)
        columns: dict[bytes, int] = {}
        by_byte = np.ascontiguousarray(automaton.transitions.T.astype(self._dtype))
        self._byte_class = np.array([columns.setdefault(column.tobytes(), len(columns)) for column in by_byte])
        self._columns = np.frombuffer(b"".join(columns), dtype=self._dtype).reshape(len(columns), -1)
        identity = np.arange(self._states + 1, dtype=self._dtype)
        self._rows = [b"", identity.tobytes()]
        self._live = [0, self._states]
        self._nbytes = len(self._rows[1])
        self._numbers = {row: number for number, row in enumerate(self._rows)}
        # [functions, byte classes]: the function that one more byte makes of a function; -1 where it is not known yet.
        self._after = np.full((64, len(columns)), -1, dtype=np.int32)
        self._after[NOWHERE] = NOWHERE

    def walk(self, tree: PrefixTree) -> NDArray[np.int32]:
        """The function of every prefix [nodes]."""
        byte_class = self._byte_class[tree.byte]
        functions = np.full(len(tree.parent), _IDENTITY, dtype=np.int32)
        for first, last in pairwise(tree.level_start[1:].tolist()):
            before = functions[tree.parent[first:last]]
            after = self._after[before, byte_class[first:last]]
            unknown = np.flatnonzero(after < 0)
            if len(unknown):
                self._compose(before[unknown], byte_class[first:last][unknown])
                after = self._after[before, byte_class[first:last]]
            functions[first:last] = after
        return functions

    def classes(self, token_function: NDArray[np.int32]) -> tuple[NDArray[np.int32], Moves]:
        """The class of each token [V], from 1 on in the order of their first tokens, and where each leads."""
        first_token = np.full(len(self._rows), len(token_function))
        # Of several assignments to one place the last one stays.
        first_token[token_function[::-1]] = np.arange(len(token_function))[::-1]
        by_first = np.argsort(first_token, kind="stable")
        used = by_first[(by_first != NOWHERE) & (first_token[by_first] < len(token_function))]
        number = np.zeros(len(self._rows), dtype=np.int32)
        number[used] = np.arange(1, len(used) + 1)
        return number[token_function], self._moves(used.tolist())

    def _moves(self, functions: list[int]) -> Moves:
        """Return the states to which functions lead. Raises ConstraintError where that takes too much memory."""
        live = np.array([self._live[function] for function in functions], dtype=np.int64)
        # As whole numbers are divided in compiled code.
        if (transitions := int(live.sum())) > self._limits.nbytes // BYTES_A_MOVE:
            raise too_many_moves(transitions, self._limits)
        source = np.empty(transitions, dtype=np.int32)
        target = np.empty(transitions, dtype=np.int32)
        end = np.cumsum(live)
        dense = live >= self._dense_from
        for at in np.flatnonzero(dense).tolist():
            row = self._row(functions[at])
            (states,) = (row[: self._states] < self._states).nonzero()
            own = slice(end[at] - live[at], end[at])
            source[own], target[own] = states, row[states]
        sparse = np.repeat(~dense, live)
        source[sparse], target[sparse] = self._pairs([functions[at] for at in np.flatnonzero(~dense).tolist()])
        number = np.repeat(np.arange(len(functions), dtype=np.int32), live)
        return Moves(len(functions), number, source, target)

    def _row(self, function: int) -> _Integers:
        return np.frombuffer(self._rows[function], dtype=self._dtype)

    def _pairs(self, functions: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The live states of functions that are not dense, and the states after them, one function after the other."""
        pairs = np.frombuffer(b"".join([self._rows[f] for f in functions]), dtype=self._pair_dtype).astype(np.int64)
        return pairs >> self._bits, pairs & ((1 << self._bits) - 1)

    def _compose(self, functions: NDArray[np.int32], byte_classes: NDArray[np.int64]) -> None:
        """Fill in the functions that byte classes make of the functions at their sides."""
        pairs = np.unique(functions.astype(np.int64) * len(self._columns) + byte_classes)
        function, byte_class = np.divmod(pairs, len(self._columns))
        live = np.array(self._live)[function]
        dense = live >= self._dense_from
        self._spend(int(np.where(dense, self._states + 1, live).sum()))
        distinct, first = np.unique(function[dense], return_index=True)
        bounds = np.append(first, dense.sum()).tolist()
        of_dense = byte_class[dense]
        for before, (start, end) in zip(distinct.tolist(), pairwise(bounds), strict=True):
            following = of_dense[start:end]
            row = self._row(before).astype(np.int64)
            self._after[before, following] = [self._of_row(self._columns[c].take(row)) for c in following]
        sparse = np.flatnonzero(~dense)
        cuts = np.searchsorted(np.cumsum(live[sparse]), np.arange(_AT_ONCE, live[sparse].sum(), _AT_ONCE))
        for part in np.split(sparse, cuts):
            if len(part):
                self._after[function[part], byte_class[part]] = self._of_pairs(
                    function[part].tolist(), byte_class[part], live[part]
                )

    def _of_pairs(self, functions: list[int], byte_class: NDArray[np.int64], live: NDArray[np.int64]) -> list[int]:
        """The functions that one byte each makes of functions that are not dense."""
        source, target = self._pairs(functions)
        moved = self._columns[np.repeat(byte_class, live), target]
        alive = moved < self._states
        counts = np.add.reduceat(alive, np.cumsum(live) - live, dtype=np.int64)
        pairs = (source[alive] << self._bits | moved[alive]).astype(self._pair_dtype)
        data, width = pairs.tobytes(), pairs.itemsize
        found = [NOWHERE] * len(functions)
        (left,) = counts.nonzero()
        ends = np.cumsum(counts[left]).tolist()
        for at, count, end in zip(left.tolist(), counts[left].tolist(), ends, strict=True):
            found[at] = self._number(data[(end - count) * width : end * width], count)
        return found

    def _of_row(self, row: _Integers) -> int:
        """The number of a function that is given as a row."""
        live = int(np.count_nonzero(row != self._states))
        if live >= self._dense_from:
            return self._number(row.tobytes(), live)
        (source,) = (row != self._states).nonzero()
        pairs = (source << self._bits | row[source]).astype(self._pair_dtype)
        return self._number(pairs.tobytes(), live)

    def _number(self, row: bytes, live: int) -> int:
        number = self._numbers.setdefault(row, len(self._rows))
        if number == len(self._rows):
            self._rows.append(row)
            self._live.append(live)
            self._nbytes += len(row)
            self._make_room()
        return number

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > self._limits.steps:
            raise too_many_steps(self._states, self._limits)

    def _make_room(self) -> None:
        """Make room for one more function; ConstraintError beyond the limits."""
        if len(self._rows) > self._limits.functions:
            raise too_many_functions(self._states, self._limits)
        if self._nbytes > self._limits.nbytes:
            raise too_many_bytes(self._states, self._limits)
        if len(self._rows) > len(self._after):
            self._after = np.concatenate([self._after, np.full_like(self._after, -1)])


def _min_steps(
    source: NDArray[np.int32], target: NDArray[np.int32], starts: NDArray[np.int64], states: int
) -> NDArray[np.int32]:
    """The fewest moves from ``starts`` to each state [S], breadth first; -1 where there is no way."""
    neighbours = target[np.argsort(source, kind="stable")]
    bounds = np.concatenate([[0], np.cumsum(np.bincount(source, minlength=states))])
    steps = np.full(states, -1, dtype=np.int32)
    depth = 0
    while len(starts):
        steps[starts] = depth
        counts = bounds[starts + 1] - bounds[starts]
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        reached = np.unique(neighbours[np.repeat(bounds[starts], counts) + within])
        starts = reached[steps[reached] < 0]
        depth += 1
    return steps
