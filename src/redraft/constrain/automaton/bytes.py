"""Expressions to minimal byte automata: NFA, subset construction, minimisation, all within stated limits."""

from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.dfa import Dfa, minimise, product
from redraft.constrain.automaton.limits import DEFAULT_LIMITS, Limits, Work
from redraft.constrain.automaton.nfa import Nfa
from redraft.constrain.language.expression import AllOf, Expression
from redraft.errors import ConstraintError

# AllOf inside AllOf is the one thing that is built by recursion.
_NESTED_ALL_OF = 20


@dataclass(frozen=True, eq=False)
class ByteAutomaton:
    """A minimal deterministic automaton over UTF-8 bytes, without states that are unreachable or dead ends.

    State ``states`` (the last row) is the dead one: it leads only to itself and accepts nothing.
    """

    transitions: NDArray[np.int32]
    """[states + 1, 256]: the state after a byte."""
    start: int
    accepting: NDArray[np.bool_]
    """[states + 1]."""

    @property
    def states(self) -> int:
        return len(self.transitions) - 1

    def matches(self, text: bytes) -> bool:
        """Whether the whole of ``text`` is accepted."""
        state = self.start
        for byte in text:
            state = self.transitions[state, byte]
        return bool(self.accepting[state])

    def beginning(self) -> bytes:
        """The longest text that all accepted texts begin with."""
        found, state = bytearray(), self.start
        while not self.accepting[state]:
            following = np.flatnonzero(self.transitions[state] != self.states)
            if len(following) != 1:
                break
            found.append(following[0])
            state = int(self.transitions[state, following[0]])
        return bytes(found)

    def shortest(self) -> bytes:
        """The shortest accepted text; of several, the first in byte order."""
        before: dict[int, tuple[int, int]] = {}
        reached, seen = [self.start], {self.start, self.states}
        for state in reached:
            if self.accepting[state]:
                break
            following, first = np.unique(self.transitions[state], return_index=True)
            for byte, after in sorted(zip(first.tolist(), following.tolist(), strict=True)):
                if after not in seen:
                    seen.add(after)
                    before[after] = state, byte
                    reached.append(after)
        path = []
        while state in before:
            state, byte = before[state]
            path.append(byte)
        return bytes(reversed(path))


def build(expression: Expression, limits: Limits = DEFAULT_LIMITS) -> ByteAutomaton:
    """The minimal automaton of the texts that match all of ``expression``; equal languages give equal arrays.

    States are numbered in the order in which a breadth-first walk in byte order meets them, so ``start`` is 0.
    Raise ConstraintError where nothing matches or a limit is passed.
    """
    automaton = _Compiler(Work(limits)).compile(expression)
    if automaton is None:
        raise ConstraintError(
            "the constraint contradicts itself: no text satisfies it; look for parts that must hold together and "
            "exclude each other, or for a choice without options"
        )
    return _finished(automaton)


class _Compiler:
    """Compiles one expression, and the parts of every AllOf in it, each as an expression of its own."""

    def __init__(self, work: Work) -> None:
        self._work = work
        # What AllOf parts came to, by their identity: one object can stand in many places.
        self._intersections: dict[int, Dfa | None] = {}
        self._nested = 0

    def compile(self, expression: Expression) -> Dfa | None:
        """The minimal automaton; None if nothing matches."""
        nfa = Nfa(expression, self._work, self._intersection)
        return minimise(_determinise(nfa, self._work), self._work)

    def _intersection(self, part: AllOf) -> Dfa | None:
        if id(part) not in self._intersections:
            self._intersections[id(part)] = self._intersected(part)
        return self._intersections[id(part)]

    def _intersected(self, part: AllOf) -> Dfa | None:
        if not part.parts:
            raise ConstraintError("an AllOf has no parts; give it at least one")
        if self._nested == _NESTED_ALL_OF:
            raise ConstraintError(f"AllOf stands inside AllOf more than {_NESTED_ALL_OF} deep; write it flatter")
        self._nested += 1
        automata = [self.compile(one) for one in part.parts]
        self._nested -= 1
        work = self._work
        return reduce(lambda left, right: left and right and minimise(product(left, right, work), work), automata)


def _determinise(nfa: Nfa, work: Work) -> Dfa:
    """The subset construction; a set holds only states that read a byte, and the end."""
    classes = _byte_classes(nfa.labels)
    # Of each label: the classes that it is made of.
    spread = [[number for number, bytes_ in enumerate(classes) if bytes_ & mask] for mask in nfa.labels]
    subsets: list[tuple[int, ...]] = []
    numbers: dict[tuple[int, ...], int] = {}
    # The number again, by what a byte leads to before empty transitions are followed.
    known: dict[tuple[int, ...], int] = {}

    def number(targets: tuple[int, ...]) -> int:
        if targets not in known:
            members = _closure(nfa, targets)
            known[targets] = numbers.setdefault(members, len(numbers))
            work.add_members(len(targets) + len(members))
            if len(numbers) > len(subsets):
                subsets.append(members)
                work.check_states(len(subsets))
        return known[targets]

    number((nfa.start,))
    rows = []
    for members in subsets:
        work.check_time()
        rows.append({read: number(tuple(targets)) for read, targets in _moves(nfa, members, spread).items()})
    return Dfa(classes, rows, [nfa.end in members for members in subsets])


def _byte_classes(masks: dict[int, int]) -> list[int]:
    """Split the bytes until each mask is a union of classes, sorted by lowest byte; bytes in no mask are left out."""
    classes = [(1 << 256) - 1]
    used = 0
    for mask in masks:
        used |= mask
        classes = [part for whole in classes for part in (whole & mask, whole & ~mask) if part]
    return sorted((part for part in classes if part & used), key=lambda part: part & -part)


def _closure(nfa: Nfa, states: tuple[int, ...]) -> tuple[int, ...]:
    """States that read a byte, and the end, reached from any of ``states`` by empty transitions."""
    seen = set(states)
    reached = list(seen)
    for source in reached:
        for target in nfa.skips[source]:
            if target not in seen:
                seen.add(target)
                reached.append(target)
    return tuple(sorted([source for source in reached if nfa.edges[source] or source == nfa.end]))


def _moves(nfa: Nfa, members: tuple[int, ...], spread: list[list[int]]) -> dict[int, list[int]]:
    """By byte class: where it leads to from any of the members."""
    by_label: dict[int, list[int]] = {}
    for member in members:
        for label, target in nfa.edges[member]:
            by_label.setdefault(label, []).append(target)
    moves: dict[int, list[int]] = {}
    for label, targets in by_label.items():
        for read in spread[label]:
            if read in moves:
                moves[read] = moves[read] + targets
            else:
                moves[read] = targets
    return moves


def _finished(automaton: Dfa) -> ByteAutomaton:
    states = len(automaton.rows)
    by_class = np.full((states + 1, len(automaton.classes) + 1), states, dtype=np.int32)
    for state, row in enumerate(automaton.rows):
        by_class[state, list(row)] = list(row.values())
    # Bytes of no class have the last column, where all is dead.
    class_of = np.full(256, len(automaton.classes))
    for number, mask in enumerate(automaton.classes):
        class_of[[byte for byte in range(256) if mask >> byte & 1]] = number
    return ByteAutomaton(by_class[:, class_of], start=0, accepting=np.array([*automaton.accepting, False]))
