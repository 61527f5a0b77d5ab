"""Expressions to nondeterministic automata over UTF-8 bytes: Thompson's construction."""

from collections.abc import Callable
from itertools import pairwise

from redraft.constrain.automaton.dfa import Dfa
from redraft.constrain.automaton.limits import Budget
from redraft.constrain.expression import (
    EMPTY,
    AllOf,
    AnyOf,
    Characters,
    Expression,
    Literal,
    Marker,
    Network,
    Repeat,
    Sequence,
    Without,
)
from redraft.errors import ConstraintError

# Code points of one UTF-8 length: first, last, the lead byte of code point 0, code points of one lead byte.
_UTF8_LENGTHS = (
    (0x0, 0x7F, 0x00, 1),
    (0x80, 0x7FF, 0xC0, 1 << 6),
    (0x800, 0xFFFF, 0xE0, 1 << 12),
    (0x10000, 0x10FFFF, 0xF0, 1 << 18),
)

# So many texts are looked through for what they have in common.
_MANY = 64

# Wiring a part takes about as long as following so many transitions.
_STEPS_A_PART = 10

_Ranges = tuple[tuple[int, int], ...]


class Nfa:
    """Thompson's construction with fewer empty transitions: a part is wired between two states that are there already.

    No part adds a transition into its entry or out of its exit, which is why parts can share them.
    """

    start, end = 0, 1

    def __init__(
        self, expression: Expression, budget: Budget, combination: Callable[[AllOf | Without], Dfa | None]
    ) -> None:
        """``combination`` builds the deterministic automaton of a part, or returns None if nothing matches it."""
        self.edges: list[list[tuple[int, int]]] = []
        """[states]: the (label, target) of each transition that reads a byte."""
        self.skips: list[list[int]] = []
        """[states]: the targets of each state's empty transitions."""
        self.labels: dict[int, int] = {}
        """The number of each set of bytes, a bit mask."""
        self._budget = budget
        self._combination = combination
        self._transitions = 0
        self._characters: dict[_Ranges, list[tuple[int, int, int]]] = {}
        # Parts that wait for being wired: (part, entry, exit).
        self._waiting: list[tuple[Expression, int, int]] = []
        self._add_states(2)
        self._wire(expression, self.start, self.end)
        while self._waiting:
            budget.spend(_STEPS_A_PART)
            self._wire(*self._waiting.pop())

    def _add_states(self, count: int) -> range:
        first = len(self.edges)
        self._budget.check_nfa(first + count, self._transitions)
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
            self._budget.check_nfa(len(self.edges), self._transitions)

    def _wire(self, part: Expression, entry: int, leave: int) -> None:
        match part:
            case Literal(text):
                self._wire_bytes(encoded(text), entry, leave)
            case Characters(ranges):
                self._wire_characters(ranges, entry, leave)
            case Marker():
                self._add_edge(entry, 1 << part.byte, leave)
            case Sequence(parts):
                self._wire_sequence(parts, entry, leave)
            case AnyOf(options) if len(options) >= _MANY and all(isinstance(one, Literal) for one in options):
                self._wire_texts([encoded(one.text) for one in options if isinstance(one, Literal)], entry, leave)
            case AnyOf(options):
                self._waiting.extend((option, entry, leave) for option in options)
            case Repeat(repeated, low, high):
                self._wire_repeat(repeated, low, high, entry, leave)
            case Network(places, edges):
                self._wire_network(places, edges, entry, leave)
            case AllOf() | Without():
                self._wire_combination(part, entry, leave)

    def _wire_bytes(self, text: bytes, entry: int, leave: int) -> None:
        if not text:
            self._skip(entry, leave)
            return
        path = [entry, *self._add_states(len(text) - 1), leave]
        for byte, (source, target) in zip(text, pairwise(path), strict=True):
            self._add_edge(source, 1 << byte, target)

    def _wire_texts(self, texts: list[bytes], entry: int, leave: int) -> None:
        """Wire many texts with what they begin and end with in common wired once."""
        nodes = _shared(texts)
        self._budget.spend(sum(map(len, texts)))
        states = self._add_states(len(nodes))
        for state, (ends, edges) in zip(states, nodes, strict=True):
            for byte, target in edges:
                self._add_edge(state, 1 << byte, states[target])
            if ends:
                self._skip(state, leave)
        self._skip(entry, states[-1])

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
        """Wire item (separator item)* with one item, not two: in nested lists they would double at every level."""
        before, after = self._add_states(2)
        self._skip(entry, before)
        self._skip(after, leave)
        self._waiting += [(item, before, after), (separator, after, before)]

    def _wire_repeat(self, part: Expression, low: int, high: int | None, entry: int, leave: int) -> None:
        if high is None and low <= 0:
            self._wire_list(EMPTY, part, entry, leave)
        elif high is None:
            path = [entry, *self._add_states(low - 1)]
            self._wire_path(part, path)
            self._wire_list(part, EMPTY, path[-1], leave)
        elif high <= 0 and low <= 0:
            self._skip(entry, leave)
        elif high >= low:
            path = [entry, *self._add_states(high - 1), leave]
            self._wire_path(part, path)
            for state in path[max(low, 0) : -1]:
                self._skip(state, leave)

    def _wire_path(self, part: Expression, path: list[int]) -> None:
        self._waiting.extend((part, source, target) for source, target in pairwise(path))

    def _wire_network(
        self, places: int, edges: tuple[tuple[int, Expression, int], ...], entry: int, leave: int
    ) -> None:
        # Ways may lead back to the first place and on from the last one, so these are states of its own.
        states = self._add_states(places)
        self._skip(entry, states[0])
        self._skip(states[1], leave)
        self._waiting.extend((part, states[source], states[target]) for source, part, target in edges)

    def _wire_combination(self, part: AllOf | Without, entry: int, leave: int) -> None:
        automaton = self._combination(part)
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


def _shared(texts: list[bytes]) -> list[tuple[bool, tuple[tuple[int, int], ...]]]:
    """The smallest automaton of the texts, each node as whether a text ends there and its (byte, node); the start last.

    Sorted texts are added one after the other, and what can no longer grow is shared (Daciuk et al. 2000).
    """
    numbers: dict[tuple[bool, tuple[tuple[int, int], ...]], int] = {}
    ends, edges = [False], [list[tuple[int, int]]()]
    before = b""

    def close(length: int) -> None:
        for depth in range(len(before), length, -1):
            node = ends.pop(), tuple(edges.pop())
            edges[-1].append((before[depth - 1], numbers.setdefault(node, len(numbers))))

    for text in sorted(set(texts)):
        common = 0
        for one, other in zip(before, text, strict=False):
            if one != other:
                break
            common += 1
        close(common)
        ends += [False] * (len(text) - common)
        edges += [[] for _ in range(len(text) - common)]
        ends[-1] = True
        before = text
    close(0)
    return [*numbers, (ends[0], tuple(edges[0]))]


def encoded(text: str) -> bytes:
    """The UTF-8 of a text; ConstraintError for half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ConstraintError(
            f"a text of the constraint holds {text[error.start]!a} at position {error.start}, half a surrogate "
            "pair, which is no character; write the character itself"
        ) from None


def _separator(item: Expression, following: Expression) -> Expression | None:
    """The separator of a list's items, if ``item`` and the part after it make a list; else None."""
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
