"""Sums of probabilities in 64-bit whole numbers, for devices without float64; on the CPU draws stay in float64.

A weight in [0, 1] is kept in units of 2^-43, so that those of 2^19 tokens still have a sum. Such sums are exact, and
the same in whatever order a device adds them up.
"""

import torch
from torch import Tensor

_WEIGHT_BITS = 43
_FRACTION_BITS = 53
# A total, of at most 62 bits, and a fraction are multiplied in parts whose products 63 bits hold.
_LOW_OF_TOTAL, _LOW_OF_FRACTION = 31, 22
# Bits of a quotient that are found at a time: the mass of a group of tokens, of 49 bits at most, has room for so many.
_DIGIT, _DIGITS = 13, 4


def fractions(uniforms: Tensor) -> Tensor:
    """Return float64 uniforms in [0, 1), which are on the CPU, in units of 2^-53, int64."""
    return (uniforms.double() * 2.0**_FRACTION_BITS).to(torch.int64)


def fixed(weights: Tensor) -> Tensor:
    """Return float32 weights, in [0, 1] or sums of a few such, as int64; NaN weighs nothing."""
    return (weights.nan_to_num(0.0) * 2.0**_WEIGHT_BITS).to(torch.int64)


def share(total: Tensor, fraction: Tensor) -> Tensor:
    """Return ``fraction``, in units of 2^-53, of a ``total`` below 2^62: below the total, and up to 2 units too low."""
    high, low = total >> _LOW_OF_TOTAL, total & ((1 << _LOW_OF_TOTAL) - 1)
    first, second = fraction >> _LOW_OF_FRACTION, fraction & ((1 << _LOW_OF_FRACTION) - 1)
    return high * first + ((low * first) >> _LOW_OF_TOTAL) + ((high * second) >> _LOW_OF_FRACTION)


def fraction_of(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole in units of 2^-53, of whole numbers below 2^50, the part below the whole."""
    whole = whole.clamp(min=1)
    found = torch.zeros_like(part)
    for _ in range(_DIGITS):
        part = part << _DIGIT
        digit = torch.div(part, whole, rounding_mode="floor")
        part = part - digit * whole
        found = (found << _DIGIT) + digit
    return found << (_FRACTION_BITS - _DIGIT * _DIGITS)


def first_above(masses: Tensor, fraction: Tensor) -> tuple[Tensor, Tensor]:
    """Draw by inverse CDF: the column of ``masses`` [R, n] at ``fraction`` [R] of their sum, and how far into its mass
    that reaches, in units of 2^-53 -> [R, 1] each. A row without mass gives its last column."""
    cumulative = masses.cumsum(-1)
    target = share(cumulative[:, -1:], fraction[:, None])
    found = torch.searchsorted(cumulative, target, right=True).clamp(max=masses.shape[-1] - 1)
    own = masses.gather(1, found)
    return found, fraction_of((target - (cumulative.gather(1, found) - own)).clamp(min=0), own)
