"""Calibration against tables by hand, closed forms and loops over the answers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.calibrate.calibration import (
    calibration,
    fit_temperature,
    wilson_interval,
)

# Distributions with the whole number of answers of each truth, per ten, that makes them exactly right.
EXACT = {(0.7, 0.2, 0.1): (7, 2, 1), (0.5, 0.3, 0.2): (5, 3, 2), (0.1, 0.1, 0.8): (1, 1, 8), (0.4, 0.4, 0.2): (4, 4, 2)}


def exactly_calibrated() -> tuple[np.ndarray, np.ndarray]:
    rows = [(p, k) for p, counts in EXACT.items() for k, count in enumerate(counts) for _ in range(count)]
    return np.array([p for p, _ in rows]), np.array([k for _, k in rows])


class TestCalibration:
    def test_by_hand(self):
        """Five answers in four bins: 0.5 is the top of bin 1, 0.6 and 0.7 are in bin 2, 0.8 and 1 in bin 3."""
        p = np.array([[0.5, 0.5], [0.4, 0.6], [0.7, 0.3], [0.8, 0.2], [0.0, 1.0]])
        found = calibration(p, np.array([0, 1, 1, 0, 1]), bins=4)
        table = found.table
        assert table.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
        assert table.counts.tolist() == [0, 1, 2, 2]
        np.testing.assert_allclose(table.confidence, [math.nan, 0.5, 0.65, 0.9])
        np.testing.assert_allclose(table.accuracy, [math.nan, 1.0, 0.5, 1.0])
        assert found.accuracy == 0.8
        assert found.expected_calibration_error == pytest.approx((0.5 + 2 * 0.15 + 2 * 0.1) / 5)
        assert found.maximum_calibration_error == pytest.approx(0.5)
        assert found.negative_log_likelihood == pytest.approx(-math.log(0.5 * 0.6 * 0.3 * 0.8) / 5)
        assert found.brier_score == pytest.approx((0.5 + 0.32 + 0.98 + 0.08 + 0) / 5)

    @settings(deadline=None)
    @given(st.integers(1, 40), st.integers(2, 5), st.integers(1, 20), st.integers(0, 10**6))
    def test_is_what_a_loop_over_the_answers_counts(self, count, options, bins, seed):
        rng = np.random.default_rng(seed)
        p, truth = rng.dirichlet(np.full(options, 0.5), count), rng.integers(0, options, count)
        inside: dict[int, list[tuple[float, bool]]] = {}
        for row, k in zip(p.tolist(), truth.tolist(), strict=True):
            place = next(m for m in range(bins) if max(row) <= (m + 1) / bins or m == bins - 1)
            inside.setdefault(place, []).append((max(row), row.index(max(row)) == k))
        gaps = {m: abs(sum(c for c, _ in own) - sum(r for _, r in own)) for m, own in inside.items()}
        found = calibration(p, truth, bins)
        assert found.expected_calibration_error == pytest.approx(sum(gaps.values()) / count)
        assert found.maximum_calibration_error == pytest.approx(max(gaps[m] / len(inside[m]) for m in inside))
        brier = sum((q - (j == k)) ** 2 for row, k in zip(p, truth, strict=True) for j, q in enumerate(row)) / count
        assert found.brier_score == pytest.approx(brier)
        assert found.accuracy == pytest.approx(sum(r for own in inside.values() for _, r in own) / count)

    def test_what_is_exactly_as_often_right_as_it_says_has_no_error(self):
        p, truth = exactly_calibrated()
        # A tie is answered with its first option, which is right as often as the other.
        found = calibration(p, truth)
        assert found.expected_calibration_error == pytest.approx(0, abs=1e-12)
        entropy = -sum(q * math.log(q) for p in EXACT for q in p) / len(EXACT)
        assert found.negative_log_likelihood == pytest.approx(entropy)

    def test_truths_drawn_from_the_distributions_leave_little_error(self):
        rng = np.random.default_rng(0)
        p = rng.dirichlet(np.ones(4), 100_000)
        truth = (rng.random((len(p), 1)) > p.cumsum(1)).sum(1)
        assert calibration(p, np.minimum(truth, 3)).expected_calibration_error < 0.01
        assert calibration(p**3 / (p**3).sum(1, keepdims=True), truth).expected_calibration_error > 0.1

    def test_an_impossible_truth_costs_infinitely_much(self):
        assert calibration(np.array([[1.0, 0.0]]), np.array([1])).negative_log_likelihood == math.inf

    @pytest.mark.parametrize(
        ("p", "truth", "bins", "match"),
        [
            ([[0.5, 0.4]], [0], 15, "add up to 1"),
            ([[1.5, -0.5]], [0], 15, "must be 0 to 1"),
            ([[math.nan, 1.0]], [0], 15, "must be 0 to 1"),
            ([[0.5, 0.5]], [2], 15, "truth has 2 to 2; options are 0 to 1"),
            ([[0.5, 0.5]], [-1], 15, "truth has -1 to -1"),
            ([[0.5, 0.5]], [0, 1], 15, "must be an integer for each of 1 answers"),
            ([[0.5, 0.5]], [0.0], 15, "truth float64"),
            ([[1.0]], [0], 15, r"predictions \[1, 1\] must be"),
            ([0.5, 0.5], [0], 15, r"predictions \[2\] must be"),
            (np.empty((0, 2)), np.empty(0, dtype=int), 15, r"predictions \[0, 2\] must be"),
            ([[0.5, 0.5]], [0], 0, "bins 0"),
        ],
    )
    def test_what_cannot_be_measured_is_refused(self, p, truth, bins, match):
        with pytest.raises(ValueError, match=match):
            calibration(np.array(p), np.array(truth), bins)


class TestFitTemperature:
    @pytest.mark.parametrize("distortion", [0.05, 0.5, 1.0, 3.0, 40.0])
    def test_a_known_distortion_is_found(self, distortion):
        """Exactly, since the truths are exactly as frequent as the distributions say; also from scores with offsets."""
        p, truth = exactly_calibrated()
        offsets = np.arange(len(p))[:, None]
        assert fit_temperature(distortion * np.log(p), truth) == pytest.approx(distortion, rel=1e-6)
        assert fit_temperature(distortion * np.log(p) - offsets, truth) == pytest.approx(distortion, rel=1e-6)

    def test_a_known_distortion_of_drawn_truths_is_found(self):
        rng = np.random.default_rng(0)
        p = rng.dirichlet(np.ones(5), 100_000)
        truth = np.minimum((rng.random((len(p), 1)) > p.cumsum(1)).sum(1), 4)
        assert fit_temperature(2.5 * np.log(p), truth) == pytest.approx(2.5, rel=0.01)

    @settings(deadline=None)
    @given(st.integers(0, 10**6))
    def test_no_other_temperature_is_better(self, seed):
        rng = np.random.default_rng(seed)
        logits, truth = 3 * rng.standard_normal((30, 4)), rng.integers(0, 4, 30)

        def loss(temperature: float) -> float:
            rows = (logits / temperature).tolist()
            total = sum(math.log(sum(map(math.exp, row))) - row[k] for row, k in zip(rows, truth, strict=True))
            return float(total)

        # At a very high temperature the loss falls with 1 / T if the truths lie above the mean of their rows.
        if logits[np.arange(30), truth].sum() <= logits.mean(1).sum():
            with pytest.raises(ValueError, match="the higher the temperature"):
                fit_temperature(logits, truth)
            return
        found = fit_temperature(logits, truth)
        assert all(loss(found) <= loss(found * factor) + 1e-9 for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))

    def test_rows_may_have_fewer_options(self):
        p, truth = exactly_calibrated()
        padded = np.concatenate([np.full((len(p), 2), -np.inf), 4 * np.log(p)], axis=1)
        assert fit_temperature(padded, truth + 2) == pytest.approx(4, rel=1e-6)

    def test_what_no_temperature_fits_is_refused(self):
        logs = np.log([[0.9, 0.1], [0.2, 0.8]])
        with pytest.raises(ValueError, match="the lower the temperature the better"):
            fit_temperature(logs, np.array([0, 1]))
        for truth in ([1, 0], [0, 0]):
            with pytest.raises(ValueError, match="the higher the temperature the better"):
                fit_temperature(np.log([[0.5, 0.5], [0.2, 0.8]]), np.array(truth))
        with pytest.raises(ValueError, match="the truth of row 1 has no probability"):
            fit_temperature(np.array([[0.0, -1.0], [0.0, -math.inf]]), np.array([0, 1]))
        for value in (math.nan, math.inf):
            with pytest.raises(ValueError, match="must be numbers"):
                fit_temperature(np.array([[0.0, value]]), np.array([0]))


def test_wilson_intervals():
    """Of 3 right in 10, as published: 0.108 to 0.603; none and all of ten are mirror images that keep their end."""
    low, high = wilson_interval(np.array([0.3, 0.0, 1.0]), np.array([10, 10, 10]))
    np.testing.assert_allclose(low, [0.1078, 0.0, 0.7225], atol=1e-4)
    np.testing.assert_allclose(high, [0.6032, 0.2775, 1.0], atol=1e-4)
