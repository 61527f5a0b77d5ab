"""Calibration (Guo et al. 2017): are 80% of the answers right that are given with a probability of 80%?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# Probabilities may miss a sum of 1 by the rounding of float16.
_TOLERANCE = 1e-3
NORMAL_95 = 1.959964
"""Quantile of the normal distribution for an interval of 95%."""


@dataclass(frozen=True, eq=False)
class ReliabilityTable:
    """Answers by their confidence, in M bins of equal width; bin m holds those in (m / M, (m + 1) / M]."""

    edges: Floats
    """[M + 1]: the bins' borders, from 0 to 1."""
    counts: NDArray[np.int64]
    """[M]: answers in a bin."""
    confidence: Floats
    """[M]: the mean probability of the answers given; NaN in an empty bin."""
    accuracy: Floats
    """[M]: the share of them that is right; NaN in an empty bin."""

    @classmethod
    def of(cls, confidence: Floats, right: NDArray[np.bool_], bins: int) -> "ReliabilityTable":
        """Put answers [N], each with its probability and whether it is right, into bins."""
        edges = np.linspace(0.0, 1.0, bins + 1)
        place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
        counts = np.bincount(place, minlength=bins)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(place, confidence, bins) / counts
            accuracy = np.bincount(place, right, bins) / counts
        return cls(edges, counts, mean, accuracy)

    @property
    def gaps(self) -> Floats:
        """[M]: how far confidence and accuracy are apart; 0 in an empty bin."""
        return np.where(self.counts > 0, np.abs(self.confidence - self.accuracy), 0.0)

    @property
    def expected_error(self) -> float:
        """Expected calibration error: the mean gap, over the answers."""
        return float(self.gaps @ self.counts / self.counts.sum())

    @property
    def maximum_error(self) -> float:
        """Maximum calibration error: the widest gap of any bin, however few answers it holds."""
        return float(self.gaps.max())


@dataclass(frozen=True)
class Calibration:
    """Figures of N predicted distributions: how good they are, and how honest."""

    accuracy: float
    """The share of answers whose most probable option, of equals the first, is the truth."""
    negative_log_likelihood: float
    """Mean of -log p(truth), in nats; infinite where a truth was given no probability."""
    brier_score: float
    """Mean squared distance to the truth, summed over the options (Brier 1950): 0 is perfect, 2 the worst."""
    table: ReliabilityTable

    @property
    def expected_calibration_error(self) -> float:
        return self.table.expected_error

    @property
    def maximum_calibration_error(self) -> float:
        return self.table.maximum_error


def calibration(probabilities: NDArray[np.floating], truth: NDArray[np.integer], bins: int = 15) -> Calibration:
    """Measure predicted distributions [N, K] against the index of the truth [N].

    A row with fewer than K options is filled up with 0. The calibration errors depend on the number of bins: state it
    with them. Raises ValueError where rows are not distributions, or a truth is none of the options.
    """
    if bins < 1:
        raise ValueError(f"bins {bins} must be 1 or more")
    p = np.asarray(probabilities, dtype=np.float64)
    _check(p, truth)
    if not ((p >= 0) & (p <= 1 + _TOLERANCE)).all() or (np.abs(p.sum(1) - 1) > _TOLERANCE).any():
        raise ValueError("probabilities must be 0 to 1 and add up to 1 in every row")
    rows = np.arange(len(p))
    right = p.argmax(1) == truth
    with np.errstate(divide="ignore"):
        loss = -np.log(p[rows, truth])
    target = np.zeros_like(p)
    target[rows, truth] = 1.0
    return Calibration(
        accuracy=float(right.mean()),
        negative_log_likelihood=float(loss.mean()),
        brier_score=float(((p - target) ** 2).sum(1).mean()),
        table=ReliabilityTable.of(p.max(1), right, bins),
    )


def fit_temperature(log_probabilities: NDArray[np.floating], truth: NDArray[np.integer]) -> float:
    """Return the temperature T at which softmax(log_probabilities / T) [N, K] makes the truths [N] most probable.

    Temperature scaling (Guo et al. 2017, section 4.2): the negative log likelihood is convex in 1 / T, so that halving
    intervals finds where its slope is zero. A row with fewer than K options is filled up with -inf. Raises ValueError
    where no temperature is the best: a truth that is impossible, truths that are all the most probable option (the
    colder the better), or truths no more probable than the other options are (the hotter the better).
    """
    logs = np.asarray(log_probabilities, dtype=np.float64)
    _check(logs, truth)
    if np.isnan(logs).any() or (logs == np.inf).any():
        raise ValueError("log probabilities must be numbers, or -inf for what is no option")
    own = logs[np.arange(len(logs)), truth]
    if (own == -np.inf).any():
        raise ValueError(f"the truth of row {int(own.argmin())} has no probability, at any temperature")
    possible = logs > -np.inf
    # Relative to the truth, of which the slope of the negative log likelihood over 1 / T is the mean.
    score = np.where(possible, logs - own[:, None], 0.0)
    if not (score > 0).any():
        raise ValueError("every truth is the most probable option: the lower the temperature the better it fits")
    if _slope(score, possible, 0.0) >= 0:
        raise ValueError(
            "truths are no more probable than other options: the higher the temperature the better it fits"
        )
    low = high = 1.0
    while _slope(score, possible, low) > 0:
        low /= 2
    while _slope(score, possible, high) < 0:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(score, possible, middle) > 0 else (middle, high)
    return 2 / (low + high)


def wilson_interval(share: Floats, counts: NDArray[np.integer] | Floats) -> tuple[Floats, Floats]:
    """Return the ends of the 95% interval of a share of so many (Wilson 1927), which is right for few answers too.

    ``counts`` may be an effective number, which need not be whole.
    """
    z = NORMAL_95
    centre = (share + z**2 / (2 * counts)) / (1 + z**2 / counts)
    half = z * np.sqrt(share * (1 - share) / counts + z**2 / (4 * counts**2)) / (1 + z**2 / counts)
    # Rounding must not put the share itself outside.
    return np.minimum(centre - half, share), np.maximum(centre + half, share)


def _slope(score: Floats, possible: NDArray[np.bool_], inverse_temperature: float) -> float:
    """Return the slope of the mean negative log likelihood over 1 / T: the mean score under the distribution at T."""
    scaled = np.where(possible, inverse_temperature * score, -np.inf)
    weights = np.exp(scaled - scaled.max(1, keepdims=True))
    return float(((weights * score).sum(1) / weights.sum(1)).mean())


def _check(values: Floats, truth: NDArray[np.integer]) -> None:
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2:
        raise ValueError(
            f"predictions {[*values.shape]} must be [answers, options], one answer and two options at least"
        )
    if truth.shape != values.shape[:1] or not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"truth {truth.dtype} {[*truth.shape]} must be an integer for each of {len(values)} answers")
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise ValueError(f"truth has {truth.min()} to {truth.max()}; options are 0 to {values.shape[1] - 1}")
