"""Alternation and statistics against closed forms."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redraft.errors import RequestError
from redraft.measure.timing import Spread, alternate, check_rounds, rotated, spread, times_as_fast

SECONDS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)


class TestAlternate:
    def test_every_contender_once_a_round_each_first_in_turn(self):
        calls: list[tuple[str, int]] = []

        def contender(name: str) -> Callable[[int], None]:
            return lambda number: calls.append((name, number))

        alternate({name: contender(name) for name in "abc"}, rounds=3)
        order = ["abc", "bca", "cab", "abc"]
        assert calls == [(name, number) for number, names in enumerate(order) for name in names]

    def test_the_warm_up_is_not_counted(self):
        results = alternate({"a": lambda number: number, "b": lambda number: -number}, rounds=4)
        assert results == {"a": [1, 2, 3, 4], "b": [-1, -2, -3, -4]}

    def test_progress_counts_the_warm_up_too(self):
        ticks: list[None] = []
        alternate({"a": lambda _: 0, "b": lambda _: 0}, rounds=3, on_run=lambda: ticks.append(None))
        assert len(ticks) == 2 * (1 + 3)

    @settings(deadline=None)
    @given(st.integers(1, 7), st.integers(0, 50))
    def test_a_rotation_keeps_all_and_moves_on_by_one(self, count, number):
        names = [str(i) for i in range(count)]
        assert sorted(rotated(names, number)) == names
        assert rotated(names, number + 1)[0] == rotated(names, number)[1 % count]


@pytest.mark.parametrize("rounds", [-1, 0, 1, 2])
def test_fewer_than_three_rounds_are_refused_with_the_reason(rounds):
    with pytest.raises(RequestError, match=f"rounds {rounds} is too few: .* no spread; measure 3"):
        check_rounds(rounds)


def test_three_rounds_are_enough():
    assert check_rounds(3) == 3


class TestSpread:
    @settings(deadline=None)
    @given(SECONDS)
    def test_like_numpy(self, values):
        one = Spread(tuple(values))
        assert one.median == pytest.approx(np.median(values))
        assert one.extremes == (min(values), max(values))
        assert one.quartiles == pytest.approx(tuple(np.quantile(values, [0.25, 0.75])))

    def test_closed_form(self):
        assert Spread((5.0, 1.0, 4.0, 2.0, 3.0)).as_object() == {
            "median": 3.0,
            "min": 1.0,
            "max": 5.0,
            "lower_quartile": 2.0,
            "upper_quartile": 4.0,
            "rounds": [5.0, 1.0, 4.0, 2.0, 3.0],
        }

    def test_of_nothing(self):
        assert spread([None, None]) is None
        with pytest.raises(ValueError, match="at least one"):
            Spread(())

    def test_rounds_without_a_value_are_left_out(self):
        assert spread([1.0, None, 3.0]) == Spread((1.0, 3.0))


class TestTimesAsFast:
    @settings(deadline=None)
    @given(SECONDS, st.floats(0.1, 10))
    def test_a_machine_that_slows_down_leaves_a_constant_ratio_alone(self, own, factor):
        """The ratio of medians would depend on the rounds; that of each round does not."""
        ratio = times_as_fast(own, [factor * seconds for seconds in own])
        assert ratio is not None
        assert ratio.values == pytest.approx([factor] * len(own))

    def test_is_paired(self):
        assert times_as_fast([1.0, 2.0, 4.0], [4.0, 2.0, 1.0]) == Spread((4.0, 1.0, 0.25))

    def test_pairs_with_a_gap_are_left_out(self):
        assert times_as_fast([1.0, None, 2.0], [3.0, 3.0, None]) == Spread((3.0,))

    def test_unequal_rounds_are_an_error(self):
        with pytest.raises(ValueError, match="argument 2"):
            times_as_fast([1.0, 2.0], [1.0])
