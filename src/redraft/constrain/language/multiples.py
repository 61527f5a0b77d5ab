"""The multiples of an integer in decimal notation: a place for each remainder (an automaton that divides)."""

from functools import lru_cache

from redraft.constrain.expression import EMPTY, Characters, Expression, Literal, Network, optional


@lru_cache(64)
def integers(divisor: int) -> Expression:
    """The multiples of ``divisor``, which is above 0, without leading zeros and without -0."""
    # Place 0 is the start, 1 the end, 2 what follows a sign, 3 + r a number with the remainder r.
    edges: list[tuple[int, Expression, int]] = [(0, optional(Literal("-")), 2), (0, Literal("0"), 1), (3, EMPTY, 1)]
    for remainder in (None, *range(divisor)):
        reached: dict[int, str] = {}
        for digit in range(remainder is None, 10):
            after = (10 * (remainder or 0) + digit) % divisor
            reached[after] = reached.get(after, "") + str(digit)
        source = 2 if remainder is None else 3 + remainder
        edges += [(source, Characters.among(digits), 3 + after) for after, digits in reached.items()]
    return Network(3 + divisor, tuple(edges))
