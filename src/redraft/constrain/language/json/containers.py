"""Objects and arrays in which something is counted, as networks of places: one for each count, or set, so far."""

from collections.abc import Sequence as ListOf
from itertools import accumulate, combinations
from math import comb, isqrt

from redraft.constrain.expression import EMPTY, Expression, joined
from redraft.constrain.language.json import text as json_text
from redraft.constrain.language.json.keywords import ImpossibleError, fail
from redraft.constrain.language.json.merge import Contains
from redraft.constrain.language.json.text import Layout, Member
from redraft.constrain.language.json.ways import Ways
from redraft.errors import ConstraintError

_MAX_DIFFERENT = 10
"""The most values whose sets are all kept apart; of more values, as many sets of few."""
_MAX_ADDED = _MAX_DIFFERENT * 2 ** (_MAX_DIFFERENT - 1)
"""Ways from one set to another with a value more."""
MAX_LISTED = isqrt(_MAX_ADDED)
"""The most values of which two may differ."""
MAX_COUNTED = 64
_MAX_PATTERNS = 3

_Counts = tuple[int, int | None]
_Pattern = tuple[str, str]


def pattern_sets(patterns: ListOf[_Pattern]) -> list[tuple[_Pattern, ...]]:
    """The sets of patterns that a key may match together; of many patterns no more than one."""
    sizes = range(len(patterns) + 1) if len(patterns) <= _MAX_PATTERNS else (0, 1)
    return [found for size in sizes for found in combinations(patterns, size)]


def object_text(
    layout: Layout, members: ListOf[Member], further: Expression | None, counts: _Counts, pointer: str
) -> Expression:
    """An object with ``members`` in this order, then any number of ``further`` ones, of so many members in all."""
    low, high = counts
    required = sum(one.required for one in members)
    if high is not None and (high < low or high < required):
        raise fail(pointer, f"'maxProperties' {high} is below what must be there", ImpossibleError)
    if further is None and high is not None and high >= len(members):
        high = None
    if low <= required and high is None:
        return json_text.object_text(layout, members, further)
    # Further members may have the same key, so that only one of them is certain to count.
    if low > len(members) + (further is not None):
        problem = (
            f"'minProperties' {low} is supported up to the number of 'properties', and one more; name more of them"
        )
        raise fail(pointer, problem, ImpossibleError if further is None else ConstraintError)
    if max(low, high or 0) > MAX_COUNTED:
        raise fail(pointer, f"'minProperties' and 'maxProperties' are supported up to {MAX_COUNTED}")
    return joined("{", layout.inside, _counted(layout, members, further, (low, high)), layout.inside, "}")


def _counted(layout: Layout, members: ListOf[Member], further: Expression | None, counts: _Counts) -> Expression:
    low, high = counts
    most = low if high is None else high
    places = Ways((0, 0, 0))

    def after(index: int, named: int, others: int) -> tuple[int, int, int]:
        # Beyond what is asked for, counts are one where nothing is counted.
        return (index, named, others) if high is not None else (index, min(named, most), min(others, 1))

    def edge(source: tuple[int, int, int], text: Expression, target: tuple[int, int, int]) -> None:
        places.add(source, text if sum(source[1:]) == 0 else joined(layout.comma, text), target)

    waiting, seen = [(0, 0, 0)], {(0, 0, 0)}
    while waiting:
        source = waiting.pop()
        index, named, others = source
        reached: list[tuple[Expression, tuple[int, int, int]]] = []
        full = high is not None and named + others >= high
        if index < len(members):
            if not members[index].required:
                reached.append((EMPTY, after(index + 1, named, others)))
            if not full:
                reached.append((members[index].text, after(index + 1, named + 1, others)))
        else:
            if named + min(others, 1) >= low:
                places.add(source, EMPTY, None)
            if further is not None and not full:
                reached.append((further, after(index, named, others + 1)))
        for text, target in reached:
            if text is EMPTY:
                places.add(source, EMPTY, target)
            else:
                edge(source, text, target)
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return places.network()


def different(layout: Layout, texts: ListOf[Expression], low: int, high: int, pointer: str) -> Expression:
    """An array of ``low`` to ``high`` of the texts, none of them twice; a place for each set of them."""
    count = len(texts)
    # From each set that is not full, a way leads on for each text that it lacks.
    added = accumulate(comb(count, size) * (count - size) for size in range(high))
    if high > 1 and any(ways > _MAX_ADDED for ways in added):
        raise fail(
            pointer,
            f"'uniqueItems' is supported for up to {_MAX_DIFFERENT} values, or more with a small 'maxItems'; there are "
            f"{count}, of which up to {high} may stand in the array",
        )
    places = Ways(frozenset())
    for size in range(high + 1):
        for found in map(frozenset, combinations(range(len(texts)), size)):
            if size >= low:
                places.add(found, EMPTY, None)
            for n in range(len(texts)) if size < high else ():
                if n not in found:
                    places.add(found, joined(layout.comma, texts[n]) if found else texts[n], found | {n})
    inside = places.network() if high else EMPTY
    return (
        joined("[", layout.inside, inside, layout.inside, "]") if inside != EMPTY else joined("[", layout.inside, "]")
    )


def containing(
    layout: Layout, held: Expression | None, other: Expression | None, wanted: Contains, counts: _Counts
) -> Expression:
    """An array of items for which a schema holds, so many, and of others; a place for each pair of counts."""
    low, high = counts
    if wanted.max is not None and wanted.max < wanted.min:
        problem = f"'minContains' {wanted.min} is above 'maxContains' {wanted.max}"
        raise fail(wanted.pointer, problem, ImpossibleError)
    cap = max(low if high is None else high, wanted.min)
    if cap > MAX_COUNTED:
        raise fail(wanted.pointer, f"'contains' is supported with counts of items up to {MAX_COUNTED}")
    most = wanted.min if wanted.max is None else wanted.max
    places = Ways((0, 0))
    waiting, seen = [(0, 0)], {(0, 0)}
    while waiting:
        source = waiting.pop()
        items, found = source
        if items >= low and found >= wanted.min:
            places.add(source, EMPTY, None)
        if high is not None and items >= high:
            continue
        for text, more in ((held, 1), (other, 0)):
            if text is None or (more and wanted.max is not None and found >= wanted.max):
                continue
            # Above what is asked for, one count stands for all.
            target = (min(items + 1, max(cap, 1)), min(found + more, most))
            places.add(source, joined(layout.comma, text) if items else text, target)
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return joined("[", layout.inside, places.network(), layout.inside, "]")
