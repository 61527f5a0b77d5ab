"""Draws in whole numbers are those of float64, and of exact arithmetic."""

from fractions import Fraction

import torch

from redraft.canvas.fixed_point import first_above, fixed, fraction_of, fractions, share


def _random(bits: int, count: int = 200) -> torch.Tensor:
    return torch.randint(0, 1 << bits, (count,), generator=torch.Generator().manual_seed(bits))


class TestShare:
    def test_is_the_product_and_never_more(self) -> None:
        total, fraction = _random(61) + 1, _random(53)
        found = share(total, fraction)
        exact = [t * f >> 53 for t, f in zip(total.tolist(), fraction.tolist(), strict=True)]
        assert all(0 <= want - got <= 2 for want, got in zip(exact, found.tolist(), strict=True))
        assert bool((found < total).all())

    def test_of_the_largest_fraction_stays_below_the_total(self) -> None:
        total = torch.tensor([1, 2, 1 << 40, (1 << 62) - 1])
        assert bool((share(total, torch.full_like(total, (1 << 53) - 1)) < total).all())


def test_a_quotient_is_the_exact_one_to_52_bits() -> None:
    part = _random(47)
    whole = part + _random(46) + 1
    for found, p, w in zip(fraction_of(part, whole).tolist(), part.tolist(), whole.tolist(), strict=True):
        assert 0 <= Fraction(p, w) - Fraction(found, 1 << 53) < Fraction(1, 1 << 51)


class TestFirstAbove:
    def test_is_inverse_cdf_in_float64(self) -> None:
        generator = torch.Generator().manual_seed(0)
        weights = torch.rand(300, 50, generator=generator) ** 8
        uniforms = torch.rand(300, dtype=torch.float64, generator=generator)
        cumulative = weights.double().cumsum(-1)
        expected = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)
        found, rest = first_above(fixed(weights), fractions(uniforms))
        assert torch.equal(found, expected)
        before = cumulative.gather(1, expected) - weights.double().gather(1, expected)
        inside = (uniforms[:, None] * cumulative[:, -1:] - before) / weights.double().gather(1, expected)
        # What is left of a small weight's fraction has few bits.
        heavy = weights.gather(1, expected) > 1e-3
        torch.testing.assert_close((rest.double() / 2**53)[heavy], inside[heavy], atol=1e-8, rtol=0)

    def test_never_draws_what_weighs_nothing(self) -> None:
        weights = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).repeat(3, 1)
        found, _ = first_above(fixed(weights), fractions(torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)))
        assert found[:, 0].tolist() == [1, 3, 3]

    def test_a_row_of_nan_gives_a_column_that_is_there(self) -> None:
        found, _ = first_above(fixed(torch.full((1, 4), float("nan"))), fractions(torch.tensor([0.3]).double()))
        assert found.tolist() == [[3]]
