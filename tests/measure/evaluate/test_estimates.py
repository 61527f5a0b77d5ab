"""Intervals and tests are what other formulas, enumeration and simulation give."""

import math
import random
import statistics
from fractions import Fraction

import numpy as np
import pytest

from redraft.measure.evaluate import estimates
from redraft.measure.evaluate.estimates import (
    Sums,
    difference_by_bootstrap,
    difference_of_items,
    mcnemar,
    mean,
    share,
)

Z = 1.959964


def sums(numerators, denominators=None, weights=None) -> Sums:
    above = np.array(numerators, dtype=np.float64)
    ones = np.ones(len(above))
    return Sums(
        above,
        ones if denominators is None else np.array(denominators, dtype=np.float64),
        ones if weights is None else np.array(weights, dtype=np.float64),
    )


def score_interval(share: float, number: float) -> list[float]:
    """Wilson's interval by what it means: the shares that a test of the observed one does not reject."""
    ends = []
    for outside in (0.0, 1.0):
        inside = share
        for _ in range(200):
            middle = (outside + inside) / 2
            rejected = abs(share - middle) > Z * math.sqrt(middle * (1 - middle) / number)
            outside, inside = (middle, inside) if rejected else (outside, middle)
        ends.append(inside)
    return ends


class TestShare:
    @pytest.mark.parametrize(("right", "count"), [(0, 5), (1, 1), (3, 7), (40, 50), (50, 50)])
    def test_of_items_has_wilsons_interval(self, right, count):
        found = share(sums([1] * right + [0] * (count - right)))
        assert found is not None
        assert (found.value, found.items) == (right / count, count)
        assert [found.low, found.high] == pytest.approx(score_interval(right / count, count), abs=1e-9)

    def test_fields_that_stand_or_fall_together_count_once_an_item(self):
        found = share(sums([4] * 30 + [0] * 10, [4] * 40))
        assert [found.low, found.high] == pytest.approx(score_interval(0.75, 40), abs=1e-9)

    def test_fields_that_are_independent_count_each(self):
        chance = np.random.default_rng(0)
        found = share(sums(chance.binomial(4, 0.75, 2000), [4] * 2000))
        low, high = score_interval(found.value, 8000)
        assert found.high - found.low == pytest.approx(high - low, rel=0.05)

    def test_fields_that_are_all_right_say_no_more_than_their_items(self):
        found = share(sums([4] * 10, [4] * 10))
        assert (found.low, found.high) == (pytest.approx(score_interval(1.0, 10)[0]), 1.0)

    def test_weights_weigh_and_count_as_kish_says(self):
        found = share(sums([1, 0, 1], weights=[1, 1, 10]))
        assert found.value == pytest.approx(11 / 12)
        assert [found.low, found.high] == pytest.approx(score_interval(11 / 12, 144 / 102), abs=1e-9)

    def test_the_scale_of_weights_does_not_matter(self):
        one, other = (share(sums([1, 0, 1, 1], weights=[w, 2 * w, w, 3 * w])) for w in (1, 7))
        assert one.value == pytest.approx(other.value)
        assert one.low == pytest.approx(other.low)

    def test_items_that_it_is_not_about_are_left_out(self):
        assert share(sums([1, 0, 0, 0], [1, 1, 0, 0])) == share(sums([1, 0]))
        assert share(sums([0, 0], [0, 0])) is None


class TestMean:
    def test_has_the_standard_error_of_the_mean(self):
        values = [3.0, 4.0, 8.0, 5.0]
        found = mean(sums(values))
        half = Z * statistics.stdev(values) / 2
        assert (found.value, found.items) == (5.0, 4)
        assert [found.low, found.high] == pytest.approx([5 - half, 5 + half])

    def test_of_one_item_has_no_interval(self):
        assert mean(sums([3.0])) == estimates.Estimate(3.0, None, None, 1)
        assert mean(sums([0.0], [0.0])) is None

    def test_is_not_below_zero(self):
        assert mean(sums([0.0, 1.0])).low == 0.0


def binomial_two_sided(only_own: int, only_reference: int) -> Fraction:
    """McNemar's exact test by adding up Pascal's triangle."""
    row = [Fraction(1)]
    for _ in range(only_own + only_reference):
        row = [(a + b) / 2 for a, b in zip([Fraction(0), *row], [*row, Fraction(0)], strict=True)]
    extreme = min(only_own, only_reference)
    return min(Fraction(1), 2 * sum(row[: extreme + 1], Fraction(0)))


class TestDifferenceOfItems:
    def test_counts_what_each_has_alone(self):
        own, reference = [1] * 5 + [0] * 2 + [1] * 3, [0] * 5 + [1] * 2 + [1] * 3
        found = difference_of_items(sums(own), sums(reference))
        assert (found.only_own, found.only_reference, found.items) == (5, 2, 10)
        assert found.value == pytest.approx(0.3)
        assert found.p_value == pytest.approx(0.453125)
        # Bonett and Price (2012): one is added to each of the two counts, two to the number.
        centre, spread = (6 - 3) / 12, (6 + 3) / 12
        half = Z * math.sqrt((spread - centre**2) / 12)
        assert [found.low, found.high] == pytest.approx([centre - half, centre + half])

    def test_the_interval_holds_the_truth_nineteen_times_in_twenty(self):
        chance = np.random.default_rng(1)
        truth = 0.75 - 0.6
        held = 0
        for _ in range(1000):
            common = chance.random(60)
            own, reference = (common < 0.75).astype(float), np.where(chance.random(60) < 0.5, common, 1 - common) < 0.6
            found = difference_of_items(sums(own), sums(reference))
            held += found.low <= truth <= found.high
        assert 0.93 <= held / 1000 <= 0.985

    def test_without_any_difference_the_interval_still_has_a_width_that_falls_with_the_number(self):
        few, many = (difference_of_items(sums([1] * n), sums([1] * n)) for n in (5, 500))
        assert few.value == many.value == 0
        assert -1 < few.low < many.low < 0 < many.high < few.high < 1
        assert few.p_value == 1

    def test_swapped_it_has_the_other_sign(self):
        own, reference = sums([1, 1, 0, 1], weights=[1, 2, 1, 3]), sums([0, 1, 1, 0], weights=[1, 2, 1, 3])
        one, other = difference_of_items(own, reference), difference_of_items(reference, own)
        assert one.value == pytest.approx(-other.value)
        assert one.value == pytest.approx((1 + 3 - 1) / 7)
        assert [one.low, one.high] == pytest.approx([-other.high, -other.low])


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (5, 2), (10, 1), (30, 30), (90, 60)])
def test_mcnemar_is_the_binomial_test(counts):
    assert mcnemar(*counts) == pytest.approx(float(binomial_two_sided(*counts)))


class TestDifferenceByBootstrap:
    def test_is_what_a_loop_over_drawn_items_gives(self):
        chance = random.Random(0)
        pairs = [(chance.random() * 3, 1 + chance.randrange(4), chance.random(), 1.0) for _ in range(30)]
        own, reference = (
            sums([p[k] for p in pairs], [p[k + 1] for p in pairs], [1 + n % 2 for n in range(30)]) for k in (0, 2)
        )
        found = difference_by_bootstrap(own, reference)
        drawn = []
        for _ in range(4000):
            picked = chance.choices(range(30), k=30)
            ratios = [
                sum(s.weights[n] * s.numerators[n] for n in picked)
                / sum(s.weights[n] * s.denominators[n] for n in picked)
                for s in (own, reference)
            ]
            drawn.append(ratios[0] - ratios[1])
        quantiles = statistics.quantiles(drawn, n=40, method="inclusive")
        width = quantiles[-1] - quantiles[0]
        assert found.value == pytest.approx(own.ratio - reference.ratio)
        assert found.low == pytest.approx(quantiles[0], abs=0.08 * width)
        assert found.high == pytest.approx(quantiles[-1], abs=0.08 * width)

    def test_items_are_paired(self):
        """Items that differ much among themselves, and by the same between the two: what they share cancels."""
        values = [1.0, 100.0, 7.0, 1000.0]
        found = difference_by_bootstrap(sums([v + 2 for v in values]), sums(values))
        assert [found.value, found.low, found.high] == pytest.approx([2.0, 2.0, 2.0])

    def test_is_about_items_that_both_have(self):
        found = difference_by_bootstrap(sums([1, 5, 0], [1, 1, 0]), sums([0, 1, 9], [0, 1, 1]))
        assert (found.value, found.items) == (4.0, 1)
        assert difference_by_bootstrap(sums([1.0]), sums([0.0], [0.0])) is None

    def test_many_items_are_drawn_in_parts(self, monkeypatch):
        own, reference = sums(range(50)), sums([1.0] * 50)
        whole = difference_by_bootstrap(own, reference, seed=3)
        monkeypatch.setattr(estimates, "_CHUNK", 120)
        assert difference_by_bootstrap(own, reference, seed=3) == whole
        assert difference_by_bootstrap(own, reference, seed=4) != whole
