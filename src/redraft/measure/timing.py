"""Contenders in alternation, medians with their spread, and ratios taken within a round."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from redraft.errors import RequestError

T = TypeVar("T")
MIN_ROUNDS = 3


def check_rounds(rounds: int) -> int:
    """Return ``rounds`` if they suffice for a median and a spread; else raise a RequestError that says why not."""
    if rounds < MIN_ROUNDS:
        raise RequestError(
            f"rounds {rounds} is too few: one or two times cannot tell the contender from the machine's mood, and "
            f"have no spread; measure {MIN_ROUNDS} rounds or more"
        )
    return rounds


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """Return the order of a round: each begins with the contender that came second in the round before."""
    first = round_number % len(names)
    return [*names[first:], *names[:first]]


def alternate(
    contenders: Mapping[str, Callable[[int], T]], rounds: int, on_run: Callable[[], None] | None = None
) -> dict[str, list[T]]:
    """Run every contender once a round, one after the other, and return its results by round.

    A contender is called with the round's number. Round 0 warms up and is not returned, rounds 1 .. ``rounds`` are.
    ``on_run`` is called after every run, those of the warm-up included.
    """
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for round_number in range(rounds + 1):
        for name in rotated(list(contenders), round_number):
            result = contenders[name](round_number)
            if round_number > 0:
                results[name].append(result)
            if on_run is not None:
                on_run()
    return results


@dataclass(frozen=True)
class Spread:
    """A median with the values it stands for; there is no way to ask for one of them alone as "the best"."""

    values: tuple[float, ...]
    """Values in the order of the rounds, one or more."""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a spread needs at least one value")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return min(self.values), max(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper, interpolated between values as ``numpy.quantile`` does."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        lower, _, upper = statistics.quantiles(self.values, n=4, method="inclusive")
        return lower, upper

    def as_object(self) -> dict[str, object]:
        """Return the spread for JSON."""
        (low, high), (lower, upper) = self.extremes, self.quartiles
        return {
            "median": self.median,
            "min": low,
            "max": high,
            "lower_quartile": lower,
            "upper_quartile": upper,
            "rounds": list(self.values),
        }


def spread(values: Sequence[float | None]) -> Spread | None:
    """Return the spread of the rounds that have a value; None if none has."""
    known = tuple(value for value in values if value is not None)
    return Spread(known) if known else None


def times_as_fast(own: Sequence[float | None], reference: Sequence[float | None]) -> Spread | None:
    """Divide reference seconds by own seconds, round by round: both met the same machine, so its drift cancels.

    Raises ValueError for different numbers of rounds.
    """
    pairs = zip(own, reference, strict=True)
    return spread([None if mine is None or theirs is None else theirs / mine for mine, theirs in pairs])
