"""Expressions to minimal byte automata: NFA, subset construction, minimisation, all within stated limits.

This is the reference; ``kernels.automata`` is compiled, and an engine has it ``use`` that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.automaton.dfa import Dfa, difference, minimise, product
from redraft.constrain.automaton.limits import DEFAULT_LIMITS, Budget, Limits
from redraft.constrain.automaton.nfa import Nfa
from redraft.constrain.expression import AllOf, Expression, Without
from redraft.errors import ConstraintError

# AllOf and Without inside one another are the one thing that is built by recursion.
MAX_COMBINED_DEPTH = 20
# Looking up the state that a class of bytes leads to takes about as long as following so many transitions.
_STEPS_A_MOVE = 4


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
    steps: int = 0
    """Steps that building it took, as ``Limits.steps`` counts them."""

    @property
    def states(self) -> int:
        return len(self.transitions) - 1

    def matches(self, text: bytes) -> bool:
        """True if the whole of ``text`` is accepted."""
        state = self.start
        for byte in text:
            state = self.transitions[state, byte]
        return bool(self.accepting[state])

    def beginning(self) -> bytes:
        """The longest text with which all accepted texts begin."""
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


def build(expression: Expression, limits: Limits = DEFAULT_LIMITS, *, budget: Budget | None = None) -> ByteAutomaton:
    """The minimal automaton of the texts that match all of ``expression``; equal languages give equal arrays.

    States are numbered in the order in which a breadth-first walk in byte order meets them, so ``start`` is 0.
    ``budget``, in the place of ``limits``: one that may be spent in part. Raise ConstraintError where nothing matches
    or a limit is passed.
    """
    budget = Budget(limits) if budget is None else budget
    automaton = _implementation(expression, budget)
    if automaton is None:
        raise ConstraintError(
            "the constraint contradicts itself: no text satisfies it; look for parts that must hold together and "
            "exclude each other, or for a choice without options"
        )
    return automaton


def build_reference(expression: Expression, budget: Budget) -> ByteAutomaton | None:
    """The minimal automaton, as in ``build``; None if nothing matches."""
    automaton = _Builder(budget).compile(expression)
    return None if automaton is None else _finished(automaton, budget.steps)


Implementation = Callable[[Expression, Budget], ByteAutomaton | None]
_implementation: Implementation = build_reference


def use(implementation: Implementation) -> None:
    """Have this process build automata by ``implementation``, which does what ``build_reference`` does.

    The same arrays, steps and errors must come of every expression, so that nothing but time depends on it.
    """
    global _implementation
    _implementation = implementation


def too_deep() -> ConstraintError:
    """The error of intersections and differences inside one another."""
    return ConstraintError(f"AllOf stands inside AllOf more than {MAX_COMBINED_DEPTH} deep; write it flatter")


def check_parts(part: AllOf | Without) -> None:
    """Raise ConstraintError for an AllOf of nothing."""
    if isinstance(part, AllOf) and not part.parts:
        raise ConstraintError("an AllOf has no parts; give it at least one")


class _Builder:
    """Compiles one expression, and the parts of every AllOf and Without in it, each as an expression of its own."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        # The automata of AllOf and Without, by identity: one object can stand in many places.
        self._combinations: dict[int, Dfa | None] = {}
        self._nested = 0

    def compile(self, expression: Expression) -> Dfa | None:
        """The minimal automaton; None if nothing matches."""
        nfa = Nfa(expression, self._budget, self._combination)
        return minimise(_determinise(nfa, self._budget), self._budget)

    def _combination(self, part: AllOf | Without) -> Dfa | None:
        if id(part) not in self._combinations:
            self._combinations[id(part)] = self._combined(part)
        return self._combinations[id(part)]

    def _combined(self, part: AllOf | Without) -> Dfa | None:
        check_parts(part)
        if self._nested == MAX_COMBINED_DEPTH:
            raise too_deep()
        self._nested += 1
        both = part.parts if isinstance(part, AllOf) else (part.part, part.excluded)
        automata = [self.compile(one) for one in both]
        self._nested -= 1
        budget = self._budget
        if isinstance(part, Without):
            left, right = automata
            return left if left is None or right is None else minimise(difference(left, right, budget), budget)
        return reduce(lambda left, right: left and right and minimise(product(left, right, budget), budget), automata)


def _determinise(nfa: Nfa, budget: Budget) -> Dfa:
    """The subset construction; a set holds only states that read a byte, and the end."""
    classes = _byte_classes(nfa.labels, budget)
    # The classes that each label is made of.
    spread = [[number for number, bytes_ in enumerate(classes) if bytes_ & mask] for mask in nfa.labels]
    subsets: list[tuple[int, ...]] = []
    numbers: dict[tuple[int, ...], int] = {}
    # The same numbers by where a byte leads before empty transitions are followed.
    known: dict[tuple[int, ...], int] = {}

    def number(targets: tuple[int, ...]) -> int:
        if targets not in known:
            members = _closure(nfa, targets, budget)
            known[targets] = numbers.setdefault(members, len(numbers))
            budget.add_members(len(targets) + len(members))
            if len(numbers) > len(subsets):
                subsets.append(members)
                budget.check_states(len(subsets))
        return known[targets]

    number((nfa.start,))
    rows = []
    for members in subsets:
        moves = _moves(nfa, members, spread, budget)
        rows.append({read: number(tuple(targets)) for read, targets in moves.items()})
    return Dfa(classes, rows, [nfa.end in members for members in subsets])


def _byte_classes(masks: dict[int, int], budget: Budget) -> list[int]:
    """Split the bytes until each mask is a union of classes, sorted by lowest byte; bytes in no mask are left out."""
    classes = [(1 << 256) - 1]
    used = 0
    for mask in masks:
        used |= mask
        budget.spend(len(classes))
        classes = [part for whole in classes for part in (whole & mask, whole & ~mask) if part]
    return sorted((part for part in classes if part & used), key=lambda part: part & -part)


def _closure(nfa: Nfa, states: tuple[int, ...], budget: Budget) -> tuple[int, ...]:
    """States that read a byte, and the end, reached from any of ``states`` by empty transitions."""
    if len(states) == 1 and not nfa.skips[states[0]]:
        budget.spend(1)
        return states if nfa.edges[states[0]] or states[0] == nfa.end else ()
    seen = set(states)
    reached, followed = list(seen), 0
    for source in reached:
        followed += 1 + len(nfa.skips[source])
        for target in nfa.skips[source]:
            if target not in seen:
                seen.add(target)
                reached.append(target)
    budget.spend(followed)
    return tuple(sorted([source for source in reached if nfa.edges[source] or source == nfa.end]))


def _moves(nfa: Nfa, members: tuple[int, ...], spread: list[list[int]], budget: Budget) -> dict[int, list[int]]:
    """The targets of each byte class from any of the members."""
    by_label: dict[int, list[int]] = {}
    followed = len(members)
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
            followed += _STEPS_A_MOVE + len(moves[read])
    budget.spend(followed)
    return moves


def _finished(automaton: Dfa, steps: int) -> ByteAutomaton:
    states = len(automaton.rows)
    by_class = np.full((states + 1, len(automaton.classes) + 1), states, dtype=np.int32)
    sources = np.repeat(np.arange(states), [len(row) for row in automaton.rows])
    reads = np.fromiter(chain.from_iterable(automaton.rows), dtype=np.int64)
    targets = np.fromiter(chain.from_iterable(row.values() for row in automaton.rows), dtype=np.int32)
    by_class[sources, reads] = targets
    # Bytes of no class have the last column, where all is dead.
    class_of = np.full(256, len(automaton.classes))
    for number, mask in enumerate(automaton.classes):
        class_of[[byte for byte in range(256) if mask >> byte & 1]] = number
    accepting = np.array([*automaton.accepting, False])
    return ByteAutomaton(by_class[:, class_of], start=0, accepting=accepting, steps=steps)
