"""Expressions to minimal byte automata: NFA, subset construction, minimisation, all within stated limits."""

import time
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from redraft.constrain.expression import EMPTY, AllOf, AnyOf, Characters, Expression, Literal, Repeat, Sequence
from redraft.errors import ConstraintError

# Before it is minimised, an automaton may be so many times its limit.
_BEFORE_MINIMISING = 4
# An NFA may have so many transitions for each state that it may have.
_TRANSITIONS_A_STATE = 4
# NFA states, 8 bytes each, in all the sets of them that are deterministic states: bounds the memory.
_MEMBERS = 5_000_000
# AllOf inside AllOf is the one thing that is built by recursion.
_NESTED_ALL_OF = 20

# Code points of one UTF-8 length: first, last, the lead byte of code point 0, code points of one lead byte.
_UTF8_LENGTHS = (
    (0x0, 0x7F, 0x00, 1),
    (0x80, 0x7FF, 0xC0, 1 << 6),
    (0x800, 0xFFFF, 0xE0, 1 << 12),
    (0x10000, 0x10FFFF, 0xF0, 1 << 18),
)

_Ranges = tuple[tuple[int, int], ...]


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


@dataclass(frozen=True)
class Limits:
    """What building one automaton may take. They hold while the work goes on, so that no expression can hang it."""

    states: int = 20_000
    """Of the finished automaton; before it is minimised, four times as many."""
    nfa_states: int = 100_000
    """Of the expression with its repeats written out; there may be four times as many transitions between them."""
    seconds: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"limit {name}={value} must be above 0")


DEFAULT_LIMITS = Limits()


def build(expression: Expression, limits: Limits = DEFAULT_LIMITS) -> ByteAutomaton:
    """The minimal automaton of the texts that match all of ``expression``; equal languages give equal arrays.

    States are numbered in the order in which a breadth-first walk in byte order meets them, so ``start`` is 0.
    Raise ConstraintError where nothing matches or a limit is passed.
    """
    automaton = _compile(expression, _Work(limits))
    if automaton is None:
        raise ConstraintError(
            "the constraint contradicts itself: no text satisfies it; look for parts that must hold together and "
            "exclude each other, or for a choice without options"
        )
    return _finished(automaton)


@dataclass(frozen=True)
class _Dfa:
    """A deterministic automaton without a dead state; state 0 is the start."""

    classes: list[int]
    """Bytes that no state tells apart, as bit masks."""
    rows: list[dict[int, int]]
    """Of each state: the state after a byte of a class."""
    accepting: list[bool]


class _Work:
    """The limits of one build, and what AllOf parts came to: one object can stand in many places."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.intersections: dict[int, _Dfa | None] = {}
        self.nested = 0
        self._deadline = time.monotonic() + limits.seconds
        self._members = 0

    def check_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise ConstraintError(
                f"the constraint took more than {self.limits.seconds} s to build; {_SIMPLER} or raise Limits.seconds"
            )

    def check_nfa(self, states: int, transitions: int) -> None:
        limit = self.limits.nfa_states
        if states > limit or transitions > limit * _TRANSITIONS_A_STATE:
            raise ConstraintError(
                f"the constraint is too large: with its repeats written out it has more than {limit} places or "
                f"{limit * _TRANSITIONS_A_STATE} transitions between them; {_SIMPLER} or raise Limits.nfa_states"
            )

    def check_states(self, states: int) -> None:
        """Of an automaton that is not minimal yet."""
        limit = self.limits.states * _BEFORE_MINIMISING
        if states > limit:
            raise ConstraintError(
                f"the constraint needs more than {limit} states before it is minimised, where "
                f"{self.limits.states} may be left; {_SIMPLER} or raise Limits.states"
            )

    def check_minimal_states(self, states: int) -> None:
        if states > self.limits.states:
            raise ConstraintError(
                f"the constraint needs {states} states and may have {self.limits.states}; {_SIMPLER} or raise "
                "Limits.states"
            )

    def add_members(self, count: int) -> None:
        self._members += count
        if self._members > _MEMBERS:
            raise ConstraintError(
                "a text can stand at too many places of the constraint at once; make fewer parts in a row optional, "
                "and let no count apply to parts that match the same text in several ways, as in (a|aa){0,1000}"
            )


_SIMPLER = "make the counts (as in {0,1000} or maxLength) smaller, leave out alternatives,"


def _compile(expression: Expression, work: _Work) -> _Dfa | None:
    """The minimal automaton; None if nothing matches."""
    return _minimise(_determinise(_Nfa(expression, work), work), work)


class _Nfa:
    """Thompson's construction with fewer empty transitions: a part is wired between two states that are there already.

    No part adds a transition into its entry or out of its exit, which is why parts can share them.
    """

    start, end = 0, 1

    def __init__(self, expression: Expression, work: _Work) -> None:
        self.edges: list[list[tuple[int, int]]] = []
        """Of each state: (label, target)."""
        self.skips: list[list[int]] = []
        """Of each state: the targets of its empty transitions."""
        self.labels: dict[int, int] = {}
        """The number of each set of bytes, a bit mask."""
        self._work = work
        self._transitions = 0
        self._characters: dict[_Ranges, list[tuple[int, int, int]]] = {}
        # Parts that wait for being wired: (part, entry, exit).
        self._waiting: list[tuple[Expression, int, int]] = []
        self._add_states(2)
        self._wire(expression, self.start, self.end)
        while self._waiting:
            work.check_time()
            self._wire(*self._waiting.pop())

    def _add_states(self, count: int) -> range:
        first = len(self.edges)
        self._work.check_nfa(first + count, self._transitions)
        self.edges.extend([] for _ in range(count))
        self.skips.extend([] for _ in range(count))
        return range(first, first + count)

    def _add_edge(self, source: int, mask: int, target: int) -> None:
        self.edges[source].append((self.labels.setdefault(mask, len(self.labels)), target))
        self._count_transition()

    def _skip(self, source: int, target: int) -> None:
        self.skips[source].append(target)
        self._count_transition()

    def _count_transition(self) -> None:
        self._transitions += 1
        if not self._transitions & 0xFFF:
            self._work.check_nfa(len(self.edges), self._transitions)

    def _wire(self, part: Expression, entry: int, leave: int) -> None:
        match part:
            case Literal(text):
                self._wire_bytes(_encoded(text), entry, leave)
            case Characters(ranges):
                self._wire_characters(ranges, entry, leave)
            case Sequence(parts):
                self._wire_sequence(parts, entry, leave)
            case AnyOf(options):
                self._waiting.extend((option, entry, leave) for option in options)
            case Repeat(repeated, least, most):
                self._wire_repeat(repeated, least, most, entry, leave)
            case AllOf():
                self._wire_intersection(part, entry, leave)

    def _wire_bytes(self, text: bytes, entry: int, leave: int) -> None:
        if not text:
            self._skip(entry, leave)
            return
        path = [entry, *self._add_states(len(text) - 1), leave]
        for byte, (source, target) in zip(text, pairwise(path), strict=True):
            self._add_edge(source, 1 << byte, target)

    def _wire_characters(self, ranges: _Ranges, entry: int, leave: int) -> None:
        edges = self._characters.get(ranges)
        if edges is None:
            edges = self._characters[ranges] = _utf8_edges(ranges)
        inner = max((target for _, _, target in edges), default=1) - 1
        states = [entry, leave, *self._add_states(inner)]
        for source, mask, target in edges:
            self._add_edge(states[source], mask, states[target])

    def _wire_sequence(self, parts: tuple[Expression, ...], entry: int, leave: int) -> None:
        if not parts:
            self._skip(entry, leave)
            return
        path = [entry, *self._add_states(len(parts) - 1), leave]
        position = 0
        while position < len(parts):
            part, source = parts[position], path[position]
            separator = _separator(part, parts[position + 1]) if position + 1 < len(parts) else None
            if separator is None:
                self._waiting.append((part, source, path[position + 1]))
                position += 1
            else:
                self._wire_list(part, separator, source, path[position + 2])
                position += 2

    def _wire_list(self, item: Expression, separator: Expression, entry: int, leave: int) -> None:
        """item (separator item)*, with one item instead of two: in nested lists they would double at every level."""
        before, after = self._add_states(2)
        self._skip(entry, before)
        self._skip(after, leave)
        self._waiting += [(item, before, after), (separator, after, before)]

    def _wire_repeat(self, part: Expression, least: int, most: int | None, entry: int, leave: int) -> None:
        if most is None and least <= 0:
            self._wire_list(EMPTY, part, entry, leave)
        elif most is None:
            path = [entry, *self._add_states(least - 1)]
            self._wire_path(part, path)
            self._wire_list(part, EMPTY, path[-1], leave)
        elif most <= 0 and least <= 0:
            self._skip(entry, leave)
        elif most >= least:
            path = [entry, *self._add_states(most - 1), leave]
            self._wire_path(part, path)
            for state in path[max(least, 0) : -1]:
                self._skip(state, leave)

    def _wire_path(self, part: Expression, path: list[int]) -> None:
        self._waiting.extend((part, source, target) for source, target in pairwise(path))

    def _wire_intersection(self, part: AllOf, entry: int, leave: int) -> None:
        work = self._work
        if id(part) not in work.intersections:
            work.intersections[id(part)] = _intersection(part, work)
        automaton = work.intersections[id(part)]
        if automaton is None:
            return
        states = self._add_states(len(automaton.rows))
        self._skip(entry, states[0])
        for state, row, accepting in zip(states, automaton.rows, automaton.accepting, strict=True):
            masks: dict[int, int] = {}
            for number, target in row.items():
                masks[target] = masks.get(target, 0) | automaton.classes[number]
            for target, mask in masks.items():
                self._add_edge(state, mask, states[target])
            if accepting:
                self._skip(state, leave)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ConstraintError(
            f"a text of the constraint holds {text[error.start]!a} at position {error.start}, half a surrogate "
            "pair, which is no character; write the character itself"
        ) from None


def _separator(item: Expression, following: Expression) -> Expression | None:
    """What separates the items of a list, if that is what ``item`` and the part after it are."""
    match following:
        case Repeat(Sequence((*separator, last)), 0, None) if last is item and separator:
            return Sequence(tuple(separator))
    return None


def _utf8_edges(ranges: _Ranges) -> list[tuple[int, int, int]]:
    """The smallest automaton of the characters, as (source, byte mask, target); it leads from 0 to 1, others above."""
    edges: list[tuple[int, int, int]] = []
    # By how many code points are still possible and which of them are meant, both counted from the first possible one.
    states: dict[tuple[int, _Ranges], int] = {(1, ((0, 0),)): 1}

    def add(source: int, lead: int, size: int, within: list[tuple[int, int]]) -> None:
        masks: dict[int, int] = {}
        for group, rest in _groups(within, size).items():
            target = state(size, rest)
            masks[target] = masks.get(target, 0) | 1 << (lead + group)
        edges.extend((source, mask, target) for target, mask in masks.items())

    def state(size: int, rest: _Ranges) -> int:
        if (size, rest) not in states:
            number = states[size, rest] = len(states) + 1
            add(number, 0x80, size >> 6, list(rest))
        return states[size, rest]

    for first, last, lead, size in _UTF8_LENGTHS:
        add(0, lead, size, [(max(a, first), min(b, last)) for a, b in ranges if a <= last and b >= first])
    return edges


def _groups(ranges: list[tuple[int, int]], size: int) -> dict[int, _Ranges]:
    """Cut ranges at the multiples of ``size``: by the number of the piece, what lies in it, counted from its start."""
    cut: dict[int, list[tuple[int, int]]] = {}
    for first, last in ranges:
        for group in range(first // size, last // size + 1):
            start = group * size
            cut.setdefault(group, []).append((max(first - start, 0), min(last - start, size - 1)))
    return {group: tuple(within) for group, within in cut.items()}


def _determinise(nfa: _Nfa, work: _Work) -> _Dfa:
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
    return _Dfa(classes, rows, [nfa.end in members for members in subsets])


def _byte_classes(masks: dict[int, int]) -> list[int]:
    """Split the bytes until each mask is a union of classes, sorted by lowest byte; bytes in no mask are left out."""
    classes = [(1 << 256) - 1]
    used = 0
    for mask in masks:
        used |= mask
        classes = [part for whole in classes for part in (whole & mask, whole & ~mask) if part]
    return sorted((part for part in classes if part & used), key=lambda part: part & -part)


def _closure(nfa: _Nfa, states: tuple[int, ...]) -> tuple[int, ...]:
    """States that read a byte, and the end, reached from any of ``states`` by empty transitions."""
    seen = set(states)
    reached = list(seen)
    for source in reached:
        for target in nfa.skips[source]:
            if target not in seen:
                seen.add(target)
                reached.append(target)
    return tuple(sorted([source for source in reached if nfa.edges[source] or source == nfa.end]))


def _moves(nfa: _Nfa, members: tuple[int, ...], spread: list[list[int]]) -> dict[int, list[int]]:
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


def _intersection(expression: AllOf, work: _Work) -> _Dfa | None:
    if not expression.parts:
        raise ConstraintError("an AllOf has no parts; give it at least one")
    if work.nested == _NESTED_ALL_OF:
        raise ConstraintError(f"AllOf stands inside AllOf more than {_NESTED_ALL_OF} deep; write it flatter")
    work.nested += 1
    automata = [_compile(part, work) for part in expression.parts]
    work.nested -= 1
    return reduce(lambda left, right: left and right and _minimise(_product(left, right, work), work), automata)


def _product(left: _Dfa, right: _Dfa, work: _Work) -> _Dfa:
    """The automaton of what both accept, from the pairs of states that a text can lead to."""
    shared = [(a & b, i, j) for i, a in enumerate(left.classes) for j, b in enumerate(right.classes) if a & b]
    pairs = [(0, 0)]
    numbers = {(0, 0): 0}
    rows: list[dict[int, int]] = []
    for a, b in pairs:
        work.check_time()
        from_left, from_right, row = left.rows[a], right.rows[b], dict[int, int]()
        for read, (_, i, j) in enumerate(shared):
            if i in from_left and j in from_right:
                pair = from_left[i], from_right[j]
                row[read] = numbers.setdefault(pair, len(numbers))
                if len(numbers) > len(pairs):
                    pairs.append(pair)
        work.check_states(len(pairs))
        rows.append(row)
    accepting = [left.accepting[a] and right.accepting[b] for a, b in pairs]
    return _Dfa([mask for mask, _, _ in shared], rows, accepting)


def _minimise(automaton: _Dfa, work: _Work) -> _Dfa | None:
    """The equivalent automaton without dead ends and with the fewest states, numbered breadth first, class by class."""
    predecessors: list[list[int]] = [[] for _ in automaton.rows]
    for state, row in enumerate(automaton.rows):
        for target in set(row.values()):
            predecessors[target].append(state)
    live = _leading_to(automaton.accepting, predecessors)
    if not live[0]:
        return None
    rows = [
        {read: row[read] for read in sorted(row) if live[row[read]]} if alive else {}
        for row, alive in zip(automaton.rows, live, strict=True)
    ]
    block = _equivalence(rows, automaton.accepting, predecessors, work)
    number = {block[0]: 0}
    representatives = [0]
    for state in representatives:
        for target in rows[state].values():
            if block[target] not in number:
                number[block[target]] = len(number)
                representatives.append(target)
    work.check_minimal_states(len(representatives))
    return _Dfa(
        automaton.classes,
        [{read: number[block[target]] for read, target in rows[state].items()} for state in representatives],
        [automaton.accepting[state] for state in representatives],
    )


def _leading_to(accepting: list[bool], predecessors: list[list[int]]) -> list[bool]:
    """The states from which an accepting one is reached."""
    live = list(accepting)
    waiting = [state for state, accepts in enumerate(accepting) if accepts]
    while waiting:
        for state in predecessors[waiting.pop()]:
            if not live[state]:
                live[state] = True
                waiting.append(state)
    return live


def _equivalence(
    rows: list[dict[int, int]], accepting: list[bool], predecessors: list[list[int]], work: _Work
) -> list[int]:
    """A number for each state, the same for two that accept the same texts. Dead ends must be gone from ``rows``.

    Partition refinement. When a block is split, its largest part keeps the number: a state then changes its own at
    most log2(states) times, and only the predecessors of those that changed are looked at again.
    """
    first: dict[tuple[bool, tuple[int, ...]], int] = {}
    block = [first.setdefault((accepts, tuple(row)), len(first)) for row, accepts in zip(rows, accepting, strict=True)]
    members: list[set[int]] = [set() for _ in first]
    for state, number in enumerate(block):
        members[number].add(state)
    targets = [tuple(row.values()) for row in rows]
    suspects: set[int] = set(range(len(rows)))
    while suspects:
        work.check_time()
        groups: dict[int, dict[tuple[int, ...], list[int]]] = {}
        for state in suspects:
            after = tuple([block[target] for target in targets[state]])
            groups.setdefault(block[state], {}).setdefault(after, []).append(state)
        suspects = set()
        for number, by_target in groups.items():
            for part in _leaving(members[number], list(by_target.values())):
                members[number].difference_update(part)
                for state in part:
                    block[state] = len(members)
                    suspects.update(predecessors[state])
                members.append(set(part))
    return block


def _leaving(block: set[int], parts: list[list[int]]) -> list[list[int]]:
    """All parts of a block but the largest; what is in none of ``parts`` is a part as well.

    That rest leads to no state that changed, and each of the parts does, so they differ.
    """
    rest = len(block) - sum(map(len, parts))
    largest = max(parts, key=len)
    if rest >= len(largest):
        return parts
    others = [part for part in parts if part is not largest]
    return [*others, list(block.difference(*parts))] if rest else others


def _finished(automaton: _Dfa) -> ByteAutomaton:
    states = len(automaton.rows)
    by_class = np.full((states + 1, len(automaton.classes) + 1), states, dtype=np.int32)
    for state, row in enumerate(automaton.rows):
        by_class[state, list(row)] = list(row.values())
    # Bytes of no class have the last column, where all is dead.
    class_of = np.full(256, len(automaton.classes))
    for number, mask in enumerate(automaton.classes):
        class_of[[byte for byte in range(256) if mask >> byte & 1]] = number
    return ByteAutomaton(by_class[:, class_of], start=0, accepting=np.array([*automaton.accepting, False]))
