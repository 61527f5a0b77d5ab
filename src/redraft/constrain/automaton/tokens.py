"""A byte automaton read over the tokens of a vocabulary; tokens that do the same from every state are one class.

A token is a function on the states. Walking the vocabulary's prefix tree composes these functions byte by byte; few
of them differ (the automaton's transition monoid), so that a table by function and byte does nearly all of the work.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.chain import Chain
from redraft.constrain.automaton.limits import DEFAULT_TOKEN_LIMITS, TokenLimits
from redraft.constrain.automaton.vocabulary import PrefixTree, Vocabulary
from redraft.errors import ConstraintError

# Integers as small as their values allow.
_Integers = NDArray[np.integer[Any]]

# The first two functions: all states die, and nothing has been read yet.
_NOWHERE, _IDENTITY = 0, 1
# Memory for each live pair of a class and a state while edges are made, and what of a text an error shows.
_BYTES_A_TRANSITION = 40
_SHOWN = 60


@dataclass(frozen=True, eq=False)
class TokenAutomaton(Chain):
    """States 0 to S - 1, and END (number S), which the end tokens reach from the accepting states.

    Every state can be reached by whole tokens, and can finish. The targets of a source's edges ascend; edges with equal
    sets of classes share a group.
    """

    start: int
    accepting: NDArray[np.bool_]
    """[S]."""
    distance: NDArray[np.int32]
    """[S]: the fewest tokens to an accepting state, not counting an end token."""
    token_class: NDArray[np.int32]
    """[V]: 0 for tokens that are never allowed, n - 1 for the end tokens."""
    class_start: NDArray[np.int64]
    """[n + 1]: the tokens of class c are ``class_tokens[class_start[c] : class_start[c + 1]]``, ascending."""
    class_tokens: NDArray[np.int32]
    """[V]."""

    @property
    def end(self) -> int:
        """The number of END."""
        return self.states

    @property
    def classes(self) -> int:
        """n, with the class of tokens never allowed and that of the end tokens."""
        return len(self.class_start) - 1

    @property
    def nbytes(self) -> int:
        arrays = (getattr(self, field.name) for field in fields(self))
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))

    def tokens_of(self, token_class: int) -> NDArray[np.int32]:
        """The tokens of a class, ascending."""
        return self.class_tokens[self.class_start[token_class] : self.class_start[token_class + 1]]


def build(
    automaton: ByteAutomaton,
    vocabulary: Vocabulary,
    end_token_ids: Collection[int],
    limits: TokenLimits = DEFAULT_TOKEN_LIMITS,
) -> TokenAutomaton:
    """The token automaton of the texts that ``automaton`` accepts, however they are split into tokens.

    End tokens end the text; what bytes they may have does not count. Raise ConstraintError where the vocabulary cannot
    spell any of the texts, or where the work goes beyond ``limits``.
    """
    ends = np.array(sorted(set(end_token_ids)), dtype=np.int64)
    if len(ends) and not 0 <= ends[0] <= ends[-1] < vocabulary.size:
        raise ValueError(f"end token ids {ends.tolist()} must be ids of a vocabulary of {vocabulary.size} tokens")
    monoid = _Monoid(automaton, limits)
    token_function = monoid.walk(vocabulary.prefixes)[vocabulary.prefixes.token_node]
    token_function[np.diff(vocabulary.offsets) == 0] = _NOWHERE
    token_function[ends] = _NOWHERE
    token_class, moves = monoid.classes(token_function)
    start, accepting = automaton.start, automaton.accepting[: automaton.states]
    edges = _Edges.of(moves, accepting, limits)
    distance = edges.distance()
    kept = (distance >= 0) & (edges.reached_from(start) >= 0)
    if not kept[start]:
        example = automaton.shortest()[:_SHOWN].decode(errors="replace")
        raise ConstraintError(
            f"the model's vocabulary cannot spell any text that the constraint allows, the shortest being {example!r}; "
            "allow texts that its tokens add up to"
        )
    if not kept.all():
        token_class, moves = _restricted(token_class, moves, kept)
        start, accepting, distance = int(kept[:start].sum()), accepting[kept], distance[kept]
        edges = _Edges.of(moves, accepting, limits)
    token_class[ends] = len(moves) + 1
    edge_group, group_start, group_class = edges.groups()
    return TokenAutomaton(
        start=start,
        accepting=accepting,
        distance=distance,
        token_class=token_class,
        class_start=_starts(token_class, len(moves) + 2),
        class_tokens=_order(token_class, len(moves) + 2),
        edge_start=_starts(edges.source, len(accepting)),
        edge_target=edges.target,
        edge_group=edge_group,
        group_start=group_start,
        group_class=group_class,
    )


class _Monoid:
    """The functions on the states that strings of bytes are, numbered as they are met.

    A function is a row [S + 1]: the state after the string, from each state. Rows are kept as bytes, which find
    themselves again in a dictionary.
    """

    def __init__(self, automaton: ByteAutomaton, limits: TokenLimits) -> None:
        self._limits, self._steps = limits, 0
        self._states = automaton.states
        self._dtype = np.min_scalar_type(self._states)
        columns: dict[bytes, int] = {}
        by_byte = np.ascontiguousarray(automaton.transitions.T.astype(self._dtype))
        self._byte_class = np.array([columns.setdefault(column.tobytes(), len(columns)) for column in by_byte])
        self._columns = self._stack(columns)
        nowhere = np.full(self._states + 1, self._states, dtype=self._dtype)
        identity = np.arange(self._states + 1, dtype=self._dtype)
        self._rows = [nowhere.tobytes(), identity.tobytes()]
        self._numbers = {row: number for number, row in enumerate(self._rows)}
        # [functions, byte classes]: the function that one more byte makes of a function; -1 where it is not known yet.
        self._after = np.full((64, len(columns)), -1, dtype=np.int32)
        self._after[_NOWHERE] = _NOWHERE

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

    def classes(self, token_function: NDArray[np.int32]) -> tuple[NDArray[np.int32], _Integers]:
        """The class of each token [V], from 1 on in the order of their first tokens, and each one's states [n, S]."""
        first_token = np.full(len(self._rows), len(token_function))
        # Of several assignments to one place the last one stays.
        first_token[token_function[::-1]] = np.arange(len(token_function))[::-1]
        by_first = np.argsort(first_token, kind="stable")
        used = [f for f in by_first.tolist() if f != _NOWHERE and first_token[f] < len(token_function)]
        number = np.zeros(len(self._rows), dtype=np.int32)
        number[used] = np.arange(1, len(used) + 1)
        return number[token_function], self._stack([self._rows[f] for f in used])[:, : self._states]

    def _stack(self, rows: Collection[bytes]) -> _Integers:
        return np.frombuffer(b"".join(rows), dtype=self._dtype).reshape(len(rows), self._states + 1)

    def _compose(self, functions: NDArray[np.int32], byte_classes: NDArray[np.int64]) -> None:
        """Fill in the functions that byte classes make of the functions at their sides."""
        pairs = np.unique(functions.astype(np.int64) * len(self._columns) + byte_classes)
        function, byte_class = np.divmod(pairs, len(self._columns))
        distinct, first = np.unique(function, return_index=True)
        for before, following in zip(distinct.tolist(), np.split(byte_class, first[1:]), strict=True):
            self._spend(len(following) * (self._states + 1))
            row = np.frombuffer(self._rows[before], dtype=self._dtype).astype(np.int64)
            self._after[before, following] = [self._number(self._columns[c].take(row).tobytes()) for c in following]

    def _number(self, row: bytes) -> int:
        number = self._numbers.setdefault(row, len(self._rows))
        if number == len(self._rows):
            self._rows.append(row)
            self._make_room()
        return number

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > self._limits.steps:
            raise ConstraintError(
                _too_large(f"how its tokens act on {self._states} states takes more than {self._limits.steps} steps")
            )

    def _make_room(self) -> None:
        """Make room for one more function; ConstraintError beyond the limits."""
        if len(self._rows) > self._limits.functions:
            raise ConstraintError(
                _too_large(f"its tokens act on {self._states} states in more than {self._limits.functions} ways")
            )
        if len(self._rows) * len(self._rows[0]) > self._limits.nbytes:
            raise ConstraintError(
                _too_large(
                    f"how its tokens act on {self._states} states takes more than {self._limits.nbytes / 1e6:.0f} MB"
                )
            )
        if len(self._rows) > len(self._after):
            self._after = np.concatenate([self._after, np.full_like(self._after, -1)])


@dataclass(frozen=True)
class _Edges:
    """The edges with their classes, sorted by source, target and class; END is the largest target."""

    source: NDArray[np.int32]
    target: NDArray[np.int32]
    first: NDArray[np.int64]
    """[E + 1]: the classes of edge e are ``classes[first[e] : first[e + 1]]``."""
    classes: NDArray[np.int32]
    accepting: NDArray[np.bool_]

    @classmethod
    def of(cls, moves: _Integers, accepting: NDArray[np.bool_], limits: TokenLimits) -> "_Edges":
        """The edges of classes 1, 2, ... that lead from states as in ``moves`` [n, S], and of the end tokens' class."""
        states, end_class = len(accepting), len(moves) + 1
        live = moves < states
        if (transitions := int(np.count_nonzero(live))) * _BYTES_A_TRANSITION > limits.nbytes:
            raise ConstraintError(
                _too_large(f"{transitions} pairs of a state and a token class take over {limits.nbytes / 1e6:.0f} MB")
            )
        row, source = np.nonzero(live)
        ending = np.flatnonzero(accepting)
        bits = end_class.bit_length()
        keys = (source * (states + 1) + moves[live]) << bits | (row + 1)
        keys = np.concatenate([keys, (ending * (states + 1) + states) << bits | end_class])
        # One sort of whole numbers is several times faster than sorting by three keys.
        keys.sort()
        pairs = keys >> bits
        first = np.flatnonzero(np.diff(pairs, prepend=-1))
        if len(first) > limits.edges:
            raise ConstraintError(_too_large(f"it has {len(first)} edges between states, of at most {limits.edges}"))
        sources, targets = np.divmod(pairs[first], states + 1)
        return cls(
            sources.astype(np.int32),
            targets.astype(np.int32),
            np.append(first, len(keys)),
            (keys & ((1 << bits) - 1)).astype(np.int32),
            accepting,
        )

    def groups(self) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int32]]:
        """The group of each edge, the start of each group's classes, and the classes."""
        data, width = self.classes.tobytes(), self.classes.itemsize
        numbers: dict[bytes, int] = {}
        bounds = pairwise((self.first * width).tolist())
        group = [numbers.setdefault(data[start:end], len(numbers)) for start, end in bounds]
        group_start = np.cumsum([0, *(len(classes) // width for classes in numbers)], dtype=np.int64)
        group_class = np.frombuffer(bytearray().join(numbers), dtype=np.int32)
        return np.array(group, dtype=np.int32), group_start, group_class

    def reached_from(self, start: int) -> NDArray[np.int32]:
        """The fewest tokens from ``start`` to each state [S]; -1 where there is no way."""
        return _min_steps(self.source, self.target, np.array([start]), len(self.accepting))

    def distance(self) -> NDArray[np.int32]:
        """The fewest tokens from each state [S] to an accepting one; -1 where there is no way."""
        return _min_steps(self.target, self.source, np.flatnonzero(self.accepting), len(self.accepting))


def _min_steps(
    source: NDArray[np.int32], target: NDArray[np.int32], starts: NDArray[np.int64], states: int
) -> NDArray[np.int32]:
    """Breadth-first search over edges [E] between ``states`` states; those from or to END do not count."""
    inner = (source < states) & (target < states)
    source, target = source[inner], target[inner]
    neighbours, bounds = target[_order(source, states)], _starts(source, states)
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


def _restricted(
    token_class: NDArray[np.int32], moves: _Integers, kept: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], _Integers]:
    """Classes of tokens [V] and their states [n, S] on the states that are kept, where fewer of them may differ."""
    states = int(kept.sum())
    # The last number is where moves to no state lead: to the new number for none.
    renumbered = np.append(np.where(kept, kept.cumsum() - 1, states), states).astype(moves.dtype)
    rows = renumbered[moves[:, kept]]
    numbers = {np.full(states, states, dtype=moves.dtype).tobytes(): 0}
    number = [0, *(numbers.setdefault(row.tobytes(), len(numbers)) for row in rows)]
    distinct = np.frombuffer(b"".join(numbers), dtype=moves.dtype).reshape(len(numbers), states)
    return np.array(number, dtype=np.int32)[token_class], distinct[1:]


def _order(values: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """The stable order of numbers below ``count``, which numpy finds in linear time where 16 bits hold them."""
    return np.argsort(values.astype(np.min_scalar_type(count)), kind="stable").astype(np.int32)


def _starts(values: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """[count + 1]: the start of each number's run in sorted numbers below ``count``, and the end of the last run."""
    return np.concatenate([[0], np.cumsum(np.bincount(values, minlength=count))]).astype(np.int64)


def _too_large(reason: str) -> str:
    return (
        f"the constraint is too large for this vocabulary: {reason}; "
        "smaller maxLength, maxItems or repeat counts, fewer options or a smaller depth would help"
    )
