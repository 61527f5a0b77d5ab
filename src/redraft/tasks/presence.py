"""The slots of a layout that may say nothing together: all that keeps the value of a schema whole.

A member that is absent has null in each of its slots, an array's items end at the first that is absent, and what is
required is there. The ways to say something in some slots and null in the others are a graph, a slot a level.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from redraft.tasks.layout import Fields, Items, Part, Slot, slots


@dataclass(frozen=True, eq=False)
class Fork:
    """A place before a slot, where all that has been said so far is known."""

    said: "Fork | None"
    """The place after the slot if a value stands there; None where none may."""
    silent: "Fork | None"
    """The place after the slot if null stands there."""


END = Fork(None, None)
"""The place after the last slot."""


def presence(root: Fields, possible: Callable[[Slot], bool] = lambda slot: True) -> Fork | None:
    """Return the place before the first slot of a layout, from which all its ways lead to ``END``; None where there is
    no way. ``possible``: tells the slots in which a value may stand."""
    return _Builder(possible).part(root, END, END)


def levels(start: Fork, count: int) -> Iterator[list[Fork]]:
    """Yield the places before each of ``count`` slots from ``start`` on, and those after the last."""
    places = [start]
    for _ in range(count):
        yield places
        after = [place for fork in places for place in (fork.said, fork.silent) if place is not None]
        places = list(dict.fromkeys(after))
    yield places


class _Builder:
    """Builds the graph from its end; places from which the same ways lead on are one."""

    def __init__(self, possible: Callable[[Slot], bool]) -> None:
        self._possible = possible
        self._forks: dict[tuple[Fork | None, Fork | None], Fork] = {}
        self._unions: dict[tuple[Fork, Fork], Fork] = {}

    def part(self, part: Part, said: Fork | None, silent: Fork | None) -> Fork | None:
        """Return the place before a part that is there, which leads to ``said`` where one of its slots has a value and
        to ``silent`` where all have null; None where no way does."""
        match part:
            case Slot():
                return self._fork(said if self._possible(part) else None, None)
            case Fields():
                return self._members(part, said, silent)
            case Items():
                return self._items(part, said)

    def _members(self, part: Fields, said: Fork | None, silent: Fork | None) -> Fork | None:
        for name, member in reversed([*part.members.items()]):
            required = name in part.required
            said, silent = self._member(member, required, said, said), self._member(member, required, said, silent)
        return silent

    def _member(self, part: Part, required: bool, said: Fork | None, silent: Fork | None) -> Fork | None:
        found = self.part(part, said, silent)
        return self._either(found, self._absent(part, silent)) if _may_be_absent(part, required) else found

    def _items(self, part: Items, said: Fork | None) -> Fork | None:
        """One item or more: none is an array that is absent."""
        rest, after = said, said
        for number, item in reversed(list(enumerate(part.items))):
            after = self.part(item, rest, None)
            ended = self._absent_from(part.items[number:], said)
            rest = self._either(after, ended) if number >= part.min else after
        return after

    def _absent_from(self, items: Sequence[Part], then: Fork | None) -> Fork | None:
        for item in reversed(items):
            then = self._absent(item, then)
        return then

    def _absent(self, part: Part, then: Fork | None) -> Fork | None:
        for _ in slots(part):
            then = self._fork(None, then)
        return then

    def _fork(self, said: Fork | None, silent: Fork | None) -> Fork | None:
        if said is None and silent is None:
            return None
        return self._forks.setdefault((said, silent), Fork(said, silent))

    def _either(self, one: Fork | None, other: Fork | None) -> Fork | None:
        if one is None or other is None or one is other:
            return one or other
        if (one, other) not in self._unions:
            found = self._fork(self._either(one.said, other.said), self._either(one.silent, other.silent))
            assert found is not None, "each has a way on"
            self._unions[one, other] = found
        return self._unions[one, other]


def _may_be_absent(part: Part, required: bool) -> bool:
    """Return whether a member whose slots all have null is read as one that is not there, or as what stands for that.

    A required object stands there all the same, with what its members have where nothing is said of them.
    """
    if not required or part.nullable or (isinstance(part, Items) and part.min == 0):
        return True
    return isinstance(part, Fields) and _all_may_be_absent(part.members, part.required)


def _all_may_be_absent(members: Mapping[str, Part], required: frozenset[str]) -> bool:
    return all(_may_be_absent(member, name in required) for name, member in members.items())
