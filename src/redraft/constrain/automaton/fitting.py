"""Constraints whose counts are too large to be written out, as automata that fit.

A count is a copy of its part for each number, so that 'maxLength': 524288 would take millions of states. Two things
help, and neither lets a text through that the constraint does not allow. A very large count is left out, and the answer
kept to so few bytes that it cannot be reached. A large one is lowered: longer texts are then not written; first the
largest, then those of whose part a copy takes most. Both are done only to what is refused as it stands; a constraint
that fits is built exactly.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace

from redraft.constrain.automaton import bytes as byte_automaton
from redraft.constrain.automaton.bytes import ByteAutomaton
from redraft.constrain.automaton.limits import DEFAULT_LIMITS, Budget, Limits, TooLargeError
from redraft.constrain.expression import (
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

_OPEN_FROM = 16_384
"""The least count that is left out rather than lowered."""
_LOWERED = (
    (None, None),
    (1024, None),
    (512, None),
    (256, None),
    (256, 35_000),
    (256, 20_000),
    (256, 5_000),
    (256, 1_000),
)
"""The tries, one after the other: the largest count, and the most places that one repeat may take."""
# Of places in an expression written out, so many leave a good chance that the automaton fits.
_PLACES = 80_000


@dataclass(frozen=True, eq=False)
class Fitted:
    """An automaton, and what was done to the constraint so that it fits."""

    automaton: ByteAutomaton
    max_bytes: int | None = None
    """The length of text up to which the automaton is right; None for any length."""
    lowered: bool = False
    """True if counts were lowered."""


def build(expression: Expression, limits: Limits = DEFAULT_LIMITS) -> Fitted:
    """The automaton of an expression, or of as much of it as fits; errors as in ``bytes.build``."""
    return next(attempts(expression, limits))


def attempts(expression: Expression, limits: Limits = DEFAULT_LIMITS) -> Iterator[Fitted]:
    """The automaton of an expression, then of less and less of it, as far as they fit; errors as in ``bytes.build``.

    All of them together take no more steps than one may.
    """
    budget = Budget(limits)
    fitted = 0
    refusal: TooLargeError | None = None
    try:
        yield Fitted(byte_automaton.build(expression, budget=budget))
        fitted += 1
    except TooLargeError as error:
        refusal = error
    tried: list[int | None] = []
    for most, places in _LOWERED:
        changed = _Lowered(most, places, opens=True)
        smaller = changed.of(expression)
        if smaller is expression or changed.counts == tried or _Sizes().places(smaller) > _PLACES:
            continue
        tried = changed.counts
        try:
            yield Fitted(
                byte_automaton.build(smaller, budget=budget.renewed()),
                changed.max_bytes,
                any(count is not None for count in changed.counts),
            )
            fitted += 1
        except TooLargeError:
            continue
    if refusal is not None and not fitted:
        raise refusal


def lowered(expression: Expression, most: int) -> Expression:
    """An expression whose counts are ``most`` at most: its texts are some of those that match the first."""
    return _Lowered(most, None, opens=False).of(expression)


class _Sizes:
    """Counts the places of expressions with their repeats written out, each part once."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}

    def places(self, part: Expression) -> int:
        """At most so many states as ``nfa.Nfa`` makes of a part."""
        for one in _inner_first(part, self._places):
            self._places[id(one)] = self._count(one)
        return self._places[id(part)]

    def _count(self, part: Expression) -> int:
        known = self._places
        match part:
            case Literal(text):
                return max(len(text) - 1, 0)
            case Sequence(parts):
                return max(len(parts) - 1, 0) + sum([known[id(one)] for one in parts])
            case AnyOf(options):
                # Of many texts the builder shares what they have in common.
                return sum([known[id(one)] for one in options if not isinstance(one, Literal)])
            case Network(places, edges):
                return places + sum([known[id(inner)] for _, inner, _ in edges])
            case Repeat(inner, low, high):
                copies = max(low, 1) if high is None else max(high, 0)
                return copies * (1 + known[id(inner)])
            case Characters(ranges):
                # Characters of several bytes lead through up to so many states.
                return 7 if ranges and ranges[-1][1] > 0x7F else 0
            case AllOf() | Without() | Marker():
                return 0


class _Lowered:
    """Lowers the counts of expressions, and notes what that means."""

    def __init__(self, most: int | None, places: int | None, opens: bool) -> None:
        """``most`` is the largest count, ``places`` what one repeat may take; ``opens`` leaves the largest out."""
        self._most, self._opens = most, opens
        self._places, self._sizes = places, _Sizes()
        self._made: dict[int, Expression] = {}
        self.max_bytes: int | None = None
        self.counts: list[int | None] = []
        """The counts that were put in the place of larger ones; None for any number."""

    def of(self, part: Expression) -> Expression:
        """A part with lower counts: it matches no text of ``max_bytes`` or fewer that the part did not match."""
        for one in _inner_first(part, self._made):
            self._made[id(one)] = self._change(one)
        return self._made[id(part)]

    def _change(self, part: Expression) -> Expression:
        match part:
            case Sequence(parts):
                return _same(part, parts, self.of, lambda found: Sequence(found))
            case AnyOf(options):
                return _same(part, options, self.of, lambda found: AnyOf(found))
            case AllOf(parts):
                return _same(part, parts, self.of, lambda found: AllOf(found))
            case Without(inner, _):
                # What is excluded must not become less.
                changed = self.of(inner)
                return part if changed is inner else replace(part, part=changed)
            case Network(places, edges):
                changed_edges = tuple((source, self.of(inner), target) for source, inner, target in edges)
                same = all(new[1] is old[1] for new, old in zip(changed_edges, edges, strict=True))
                return part if same else Network(places, changed_edges)
            case Repeat(inner, low, high):
                return self._repeated(part, self.of(inner), low, high)
            case _:
                return part

    def _repeated(self, part: Repeat, inner: Expression, low: int, high: int | None) -> Expression:
        if self._opens and high is not None and high >= _OPEN_FROM and low < _OPEN_FROM:
            # Each time is a byte or more, so that no text of so many bytes has more of them.
            self.max_bytes = min(high, high if self.max_bytes is None else self.max_bytes)
            self.counts.append(None)
            return Repeat(inner, low, None)
        most = self._max_count(inner)
        if most is not None and high is not None and high > max(most, low):
            self.counts.append(max(most, low))
            return Repeat(inner, low, max(most, low))
        return part if inner is part.part else Repeat(inner, low, high)

    def _max_count(self, part: Expression) -> int | None:
        """The largest count of a part; None for any."""
        if self._places is None:
            return self._most
        fits = max(self._places // (1 + self._sizes.places(part)), 1)
        return fits if self._most is None else min(fits, self._most)


def _inner_first(expression: Expression, known: Container[int]) -> Iterator[Expression]:
    """The expression and all inside it, but for what is excluded and ``known`` by identity; the inner ones first.

    Expressions may be nested deeper than Python's stack holds.
    """
    waiting = [expression]
    opened = set[int]()
    while waiting:
        part = waiting[-1]
        if id(part) in known:
            waiting.pop()
        elif id(part) in opened:
            waiting.pop()
            yield part
        else:
            opened.add(id(part))
            waiting += [inner for inner in _inside(part) if id(inner) not in known]


def _inside(part: Expression) -> tuple[Expression, ...]:
    match part:
        case Sequence(parts) | AnyOf(parts) | AllOf(parts):
            return parts
        case Without(inner, _) | Repeat(inner, _, _):
            return (inner,)
        case Network(_, edges):
            return tuple(inner for _, inner, _ in edges)
        case _:
            return ()


def _same(
    part: Expression,
    parts: tuple[Expression, ...],
    change: Callable[[Expression], Expression],
    make: Callable[[tuple[Expression, ...]], Expression],
) -> Expression:
    """The part itself where none inside it changes, so that what is shared stays shared."""
    found = tuple(change(one) for one in parts)
    return part if all(new is old for new, old in zip(found, parts, strict=True)) else make(found)
