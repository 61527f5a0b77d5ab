"""Figures of items with their intervals of 95%: shares, means, and paired differences of two runs on the same items.

A figure is a ratio of sums over the items: right fields over fields, steps over answers. Items have weights, and the
fields of one item stand or fall together, so that the interval is that of so many independent answers as give the same
variance (Kish 1965). Shares have Wilson's interval for that number, differences of right and wrong items that of Bonett
and Price (2012) and McNemar's exact test, all other differences the percentiles of a paired bootstrap over items.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from redraft.calibrate.calibration import NORMAL_95, Floats, wilson_interval

RESAMPLES = 2000
_CHUNK = 1_000_000


@dataclass(frozen=True, eq=False)
class Sums:
    """The parts of a figure, for M items."""

    numerators: Floats
    """[M]: what each item adds above."""
    denominators: Floats
    """[M]: what each adds below; 0 for an item that the figure is not about."""
    weights: Floats
    """[M]: above 0."""

    @property
    def ratio(self) -> float:
        """The figure itself: weighted sum over weighted sum."""
        return float(self.weights @ self.numerators / (self.weights @ self.denominators))

    def where(self, chosen: NDArray[np.bool_]) -> "Sums":
        """Return the parts of some of the items."""
        return Sums(self.numerators[chosen], self.denominators[chosen], self.weights[chosen])

    @property
    def counted(self) -> "Sums":
        """The parts of the items that the figure is about."""
        return self.where(self.denominators > 0)


@dataclass(frozen=True)
class Estimate:
    """A figure, the ends of its interval of 95%, and the number of items that it is about."""

    value: float
    low: float | None
    """None, as ``high``, where one item alone says nothing about the others."""
    high: float | None
    items: int


@dataclass(frozen=True)
class Difference:
    """A run's figure less that of the reference, on the items that both have one for."""

    value: float
    low: float
    high: float
    items: int
    only_own: int | None = None
    """Items that only this run has right; None, as the two below, where it is no share of items."""
    only_reference: int | None = None
    """Items that only the reference has right."""
    p_value: float | None = None
    """McNemar's exact test: how likely items would part as unevenly, or more, if both were equally good."""


def share(sums: Sums) -> Estimate | None:
    """Estimate a share with Wilson's interval; None where no item counts."""
    sums = sums.counted
    if not len(sums.weights):
        return None
    value = sums.ratio
    low, high = wilson_interval(np.array([value]), np.array([_effective_number(sums)]))
    return Estimate(value, float(low[0]), float(high[0]), len(sums.weights))


def mean(sums: Sums) -> Estimate | None:
    """Estimate a mean of what is not below 0, with the interval of its standard error; None where no item counts."""
    sums = sums.counted
    count = len(sums.weights)
    if not count:
        return None
    value = sums.ratio
    if count == 1:
        return Estimate(value, None, None, 1)
    half = NORMAL_95 * math.sqrt(_variance(sums) * count / (count - 1))
    return Estimate(value, max(0.0, value - half), value + half, count)


def difference_of_items(own: Sums, reference: Sums) -> Difference | None:
    """Estimate the difference of two shares of items, each right or wrong; None where no item counts in both."""
    own, reference = _paired(own, reference)
    count = len(own.weights)
    if not count:
        return None
    ours, theirs = own.numerators > 0, reference.numerators > 0
    only_own, only_reference = ours & ~theirs, theirs & ~ours
    weights = own.weights
    number = float(weights.sum() ** 2 / (weights**2).sum())
    parted = [number * float(weights[one].sum() / weights.sum()) for one in (only_own, only_reference)]
    value = (parted[0] - parted[1]) / number
    first, second = ((one + 1) / (number + 2) for one in parted)
    half = NORMAL_95 * math.sqrt((first + second - (first - second) ** 2) / (number + 2))
    low, high = max(-1.0, first - second - half), min(1.0, first - second + half)
    counts = int(only_own.sum()), int(only_reference.sum())
    return Difference(value, min(low, value), max(high, value), count, *counts, mcnemar(*counts))


def difference_by_bootstrap(own: Sums, reference: Sums, seed: int = 0) -> Difference | None:
    """Estimate the difference of two figures from items drawn again, each with both of its answers; None where no item
    counts in both.

    ``seed`` decides which items are drawn.
    """
    own, reference = _paired(own, reference)
    count = len(own.weights)
    if not count:
        return None
    weighted = [own.weights * part for one in (own, reference) for part in (one.numerators, one.denominators)]
    parts = np.stack(weighted, axis=1)
    rng = np.random.default_rng(seed)
    differences: list[Floats] = []
    left = RESAMPLES
    while left:
        rows = min(left, max(1, _CHUNK // count))
        drawn = parts[rng.integers(count, size=(rows, count))].sum(1)
        differences.append(drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3])
        left -= rows
    low, high = np.quantile(np.concatenate(differences), (0.025, 0.975))
    value = own.ratio - reference.ratio
    return Difference(value, min(float(low), value), max(float(high), value), count)


def mcnemar(only_own: int, only_reference: int) -> float:
    """Return the p-value of McNemar's exact test for two counts of discordant pairs: two-sided, binomial."""
    parted, ways, tail = only_own + only_reference, 1, 0
    for k in range(min(only_own, only_reference) + 1):
        tail += ways
        ways = ways * (parted - k) // (k + 1)
    return min(1.0, 2 * tail / 2**parted)


def _paired(own: Sums, reference: Sums) -> tuple[Sums, Sums]:
    both = (own.denominators > 0) & (reference.denominators > 0)
    return own.where(both), reference.where(both)


def _variance(sums: Sums) -> float:
    """Return the variance of the ratio over items, by its linear part (the delta method)."""
    residuals = sums.weights * (sums.numerators - sums.ratio * sums.denominators)
    return float((residuals**2).sum() / (sums.weights @ sums.denominators) ** 2)


def _effective_number(sums: Sums) -> float:
    """Return how many independent answers give a share as much variance: as many as items, as fields, or in between."""
    total = sums.weights @ sums.denominators
    fewest = float(total**2 / ((sums.weights * sums.denominators) ** 2).sum())
    most = float(total**2 / (sums.weights**2 @ sums.denominators))
    variance, value = _variance(sums), sums.ratio
    if variance == 0:
        return fewest
    return min(max(value * (1 - value) / variance, fewest), most)
