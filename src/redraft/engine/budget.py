"""The bytes that keys and values may take: of one model, or of several that are served together."""

from collections.abc import Sequence
from typing import Protocol


class Spender(Protocol):
    """Something that takes memory of a budget."""

    @property
    def used(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def promised(self) -> int: ...

    def give_way(self) -> bool:
        """Drop what was kept longest for later; False where nothing is kept."""
        ...


class MemoryBudget:
    """A limit on what its spenders take together; one that keeps something for later gives way to one that needs it."""

    def __init__(self, nbytes: int | None) -> None:
        """``nbytes``: None for no limit."""
        self.nbytes = nbytes
        self.spenders: list[Spender] = []

    @property
    def promised(self) -> int:
        """Bytes that are promised to what is under way."""
        return sum(one.promised for one in self.spenders)

    def allows(self, more: int) -> bool:
        """Return whether so many more bytes can be promised."""
        return not more or self.nbytes is None or self.promised + more <= self.nbytes

    def make_room(self, more: int, first: Spender) -> None:
        """Have what is kept for later give way, that of ``first`` first, until ``more`` promised bytes have room."""
        if self.nbytes is None:
            return
        while sum(one.used + one.cached for one in self.spenders) + more > self.nbytes:
            if not any(one.give_way() for one in self._by_turn(first)):
                raise AssertionError("what is in use was promised, and promises fit the budget")

    def _by_turn(self, first: Spender) -> Sequence[Spender]:
        others = [one for one in self.spenders if one is not first]
        return [first, *sorted(others, key=lambda one: one.cached, reverse=True)]
