"""Numbers between two bounds, in decimal notation, as expressions: digit by digit, exactly."""

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from redraft.constrain.expression import (
    EMPTY,
    NOTHING,
    Characters,
    Expression,
    Literal,
    Repeat,
    any_of,
    joined,
    optional,
)

MAX_DIGITS = 60
"""A bound with more digits than this, before and after the point, is refused: the expression grows with the square."""
# So many significant digits survive the way through a double, so a reader that has only doubles sees no other order.
_DOUBLE_DIGITS = 15
_EXACT = Context(prec=4 * MAX_DIGITS)


@dataclass(frozen=True)
class Bound:
    """The number on one side of a range, and whether it is outside itself."""

    value: Decimal
    exclusive: bool = False

    @property
    def digits(self) -> tuple[int, int]:
        """The number of digits before and after the decimal point."""
        exponent = self.value.as_tuple().exponent
        assert isinstance(exponent, int)
        return max(self.value.adjusted() + 1, 1), max(-exponent, 0)


def integers(lower: Bound | None, upper: Bound | None) -> Expression:
    """The integers within the bounds; NOTHING if there are none."""
    return _numbers(lower, upper, 0)


def listed(lower: Bound | None, upper: Bound | None, most: int) -> list[int] | None:
    """The integers within the bounds, ascending; None for more than ``most``."""
    if lower is None or upper is None:
        return None
    low, high = _units(lower, 0, above=True), _units(upper, 0, above=False)
    return list(range(low, high + 1)) if high - low < most else None


def decimals(lower: Bound | None, upper: Bound | None) -> Expression:
    """The decimal fractions within the bounds, with at least as many places as the bounds have; at least one bound.

    Integers are among them. Places are limited to what keeps a double on the right side of the bounds.
    """
    digits = [bound.digits for bound in (lower, upper) if bound is not None]
    whole, places = (max(counts) for counts in zip(*digits, strict=True))
    return _numbers(lower, upper, max(places + 1, _DOUBLE_DIGITS - whole))


def _numbers(lower: Bound | None, upper: Bound | None, places: int) -> Expression:
    """Numbers with up to ``places`` digits after the point: integers, when counted in units of the last of them."""
    low = None if lower is None else _units(lower, places, above=True)
    high = None if upper is None else _units(upper, places, above=False)
    options = []
    if high is None or high >= 0:
        options.append(_magnitudes(max(low or 0, 0), high, places))
    if low is None or low < 0:
        # Minus zero is left out: the magnitude is one unit or more.
        smallest = 1 if high is None else max(1, -high)
        magnitudes = _magnitudes(smallest, None if low is None else -low, places)
        options.append(NOTHING if magnitudes == NOTHING else joined("-", magnitudes))
    return any_of(*(option for option in options if option != NOTHING))


def _units(bound: Bound, places: int, *, above: bool) -> int:
    """The smallest integer of units above a bound, or the largest below it."""
    scaled = bound.value.scaleb(places, _EXACT)
    nearest = int(scaled.to_integral_value(ROUND_CEILING if above else ROUND_FLOOR, _EXACT))
    if bound.exclusive and nearest == scaled:
        return nearest + 1 if above else nearest - 1
    return nearest


def _magnitudes(lowest: int, highest: int | None, places: int) -> Expression:
    """Numbers from ``lowest`` to ``highest`` units, neither below 0, without a sign."""
    if highest is not None and highest < lowest:
        return NOTHING
    low = str(lowest).zfill(places + 1)
    whole = len(low) - places
    if highest is None:
        return any_of(_between(low, None, whole, places), _longer(whole, None, places))
    high = str(highest).zfill(places + 1)
    whole_high = len(high) - places
    if whole == whole_high:
        return _between(low, high, whole, places)
    options = [_between(low, None, whole, places)]
    if whole_high > whole + 1:
        options.append(_longer(whole, whole_high - 1, places))
    options.append(_between("1".ljust(len(high), "0"), high, whole_high, places))
    return any_of(*options)


def _longer(whole: int, max_whole: int | None, places: int) -> Expression:
    """All numbers with more than ``whole`` and at most ``max_whole`` digits before the point."""
    more = Repeat(_digits(0, 9), whole, None if max_whole is None else max_whole - 1)
    return joined(_digits(1, 9), more, _any_fraction(places))


def _between(low: str | None, high: str | None, whole: int, places: int) -> Expression:
    """Numbers with ``whole`` digits before the point, from ``low`` to ``high``, both written without the point.

    ``whole`` falls below 0 in the digits after the point. None is a bound that digits already written have decided.
    """
    low = low if low and low.strip("0") else None
    high = high if high and high.strip("9") else None
    if whole + places == 0:
        return EMPTY
    if low is None and high is None:
        return _any_rest(whole, places)
    rest = whole - 1
    options = [
        joined(_digits(first, last), _between(low_rest, high_rest, rest, places))
        for first, last, low_rest, high_rest in _branches(low, high)
    ]
    if whole > 0:
        return any_of(*options)
    more = joined(".", any_of(*options)) if whole == 0 else any_of(*options)
    return optional(more) if low is None else more


def _branches(low: str | None, high: str | None) -> list[tuple[int, int, str | None, str | None]]:
    """The next digit, from first to last, and what is left of the bounds after it."""
    first = int(low[0]) if low else 0
    last = int(high[0]) if high else 9
    low_rest = low[1:] if low else None
    high_rest = high[1:] if high else None
    if first == last:
        return [(first, last, low_rest, high_rest)]
    branches: list[tuple[int, int, str | None, str | None]] = []
    if low:
        branches.append((first, first, low_rest, None))
        first += 1
    if high:
        branches.append((last, last, None, high_rest))
        last -= 1
    return branches + ([(first, last, None, None)] if first <= last else [])


def _any_rest(whole: int, places: int) -> Expression:
    if whole < 0:
        return Repeat(_digits(0, 9), 0, whole + places)
    return joined(Repeat(_digits(0, 9), whole, whole), _any_fraction(places))


def _any_fraction(places: int) -> Expression:
    return optional(joined(".", Repeat(_digits(0, 9), 1, places))) if places else EMPTY


def _digits(first: int, last: int) -> Expression:
    if first == last:
        return Literal(str(first))
    return Characters.among("".join(map(str, range(first, last + 1))))
