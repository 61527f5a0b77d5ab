"""Networks whose places are named by what they stand for, such as how many items there were so far."""

from redraft.constrain.expression import Expression, Network


class Ways:
    """The ways from a first place to the end, which is None; a place is there as soon as an edge names it."""

    def __init__(self, start: object) -> None:
        self._numbers: dict[object, int] = {start: 0, None: 1}
        self._edges: list[tuple[int, Expression, int]] = []

    def add(self, source: object, text: Expression, target: object) -> None:
        """Add an edge."""
        self._edges.append((self._number(source), text, self._number(target)))

    def _number(self, place: object) -> int:
        return self._numbers.setdefault(place, len(self._numbers))

    def network(self) -> Network:
        return Network(len(self._numbers), tuple(self._edges))
