"""Changes and filters of a canvas's logits, which a request may ask for beyond the temperature.

The filters are those of autoregressive samplers (top-k; nucleus sampling, Holtzman et al. 2020; min-p, Nguyen et al.
2024), applied to each position of a canvas, in that order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FORBIDDEN = -math.inf
"""Added to the logit of a token that must not stand at a position."""


@dataclass(frozen=True)
class Filters:
    """Filters of a position's tokens, likeliest first; of equally likely ones the lower id comes first.

    What they leave is renormalised; the likeliest token always stays.
    """

    top_k: int | None = None
    """At most so many tokens are left; None leaves all."""
    top_p: float = 1.0
    """Then the fewest whose probability together is at least this; 1 leaves all."""
    min_p: float = 0.0
    """Then those at least this many times as probable as the likeliest one; 0 leaves all."""

    @property
    def leave_all(self) -> bool:
        """True where nothing is ever taken out."""
        return self.top_k is None and self.top_p >= 1 and self.min_p <= 0


@dataclass(frozen=True, eq=False)
class LogitChanges:
    """Changes of the logits of n tokens, soft-capped and not yet divided by the temperature: a logit above 0 is divided
    by ``factor``, any other multiplied by it, and ``added`` is added."""

    tokens: Tensor
    """[n] int64, ascending, none twice."""
    added: Tensor
    """[C, n] float32, or [1, n] for the same at every position; FORBIDDEN takes a token away."""
    factor: Tensor
    """The same shape, above 0."""


@dataclass(frozen=True, eq=False)
class Shaping:
    """The filters and the changes of one canvas."""

    filters: Filters = Filters()
    changes: LogitChanges | None = None


@dataclass(frozen=True, eq=False)
class RowShaping:
    """The shapings of many canvases, row by row; all on the CPU and contiguous."""

    token: Tensor
    """int32: lists of tokens, each ascending."""
    added: Tensor
    """float32: what is added to a processed logit, which is divided by the temperature already."""
    factor: Tensor
    """float32."""
    first_token: Tensor
    """[rows] int64: where a row's list starts in ``token``."""
    first_value: Tensor
    """[rows] int64: where what is done to its tokens starts in ``added`` and ``factor``."""
    changed: Tensor
    """[rows] int64: tokens of its list."""
    top_k: Tensor
    """[rows] int64; 0 leaves all."""
    top_p: Tensor
    """[rows] float64."""
    lowest: Tensor
    """[rows] float32: the logarithm of min_p."""

    @classmethod
    def of(cls, canvases: Sequence[tuple[int, float, Shaping]]) -> "RowShaping":
        """Put together (rows, temperature, shaping) of each canvas."""
        tokens, added, factors = [torch.empty(0)], [torch.empty(0)], [torch.empty(0)]
        first_token, first_value, changed = [], [], []
        at_token = at_value = 0
        for count, temperature, shaping in canvases:
            changes = shaping.changes
            own = 0 if changes is None else len(changes.tokens)
            changed.append(torch.full((count,), own))
            first_token.append(torch.full((count,), at_token))
            step = 0 if changes is None or len(changes.added) == 1 else own
            first_value.append(at_value + step * torch.arange(count))
            if changes is None:
                continue
            if len(changes.added) not in (1, count):
                raise ValueError(f"changes of {len(changes.added)} positions for a canvas of {count}")
            tokens.append(changes.tokens.int())
            added.append((changes.added.double() / temperature).float().flatten())
            factors.append(changes.factor.float().flatten())
            at_token, at_value = at_token + own, at_value + changes.added.numel()
        filters = [(count, shaping.filters) for count, _, shaping in canvases]
        return cls(
            token=torch.cat(tokens).int(),
            added=torch.cat(added).float(),
            factor=torch.cat(factors).float(),
            first_token=torch.cat(first_token),
            first_value=torch.cat(first_value),
            changed=torch.cat(changed),
            top_k=torch.cat([torch.full((count,), one.top_k or 0) for count, one in filters]),
            top_p=torch.cat([torch.full((count,), one.top_p, dtype=torch.float64) for count, one in filters]),
            lowest=torch.cat([torch.full((count,), _logarithm(one.min_p)) for count, one in filters]),
        )

    @property
    def filtered(self) -> Tensor:
        """[rows] bool: rows whose tokens are not all left."""
        return (self.top_k > 0) | (self.top_p < 1) | (self.lowest > -math.inf)

    def rows(self, own: slice) -> "RowShaping":
        """Return the shaping of some of the rows."""
        by_row = (self.first_token, self.first_value, self.changed, self.top_k, self.top_p, self.lowest)
        return RowShaping(self.token, self.added, self.factor, *(part[own].contiguous() for part in by_row))

    def entries(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Row, token, what is added and factor of each change [m]."""
        rows = torch.repeat_interleave(torch.arange(len(self.changed)), self.changed)
        within = torch.arange(len(rows)) - (self.changed.cumsum(0) - self.changed)[rows]
        value = self.first_value[rows] + within
        return rows, self.token[self.first_token[rows] + within].long(), self.added[value], self.factor[value]


def _logarithm(min_p: float) -> float:
    return math.log(min_p) if min_p > 0 else -math.inf
