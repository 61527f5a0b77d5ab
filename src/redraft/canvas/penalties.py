"""Penalties for repeating tokens, and other changes of logits that a position's place decides.

An autoregressive sampler penalises what was written before a token. Here the text before a position is the answer so
far, and what stands on the canvas before it; of what stands behind it only what stays for good counts. So of two
positions that would repeat each other the later one is penalised: were both, neither token would stand at the next
step, both would come back at the one after it, and the canvas would never come to rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.shaping import FORBIDDEN, LogitChanges


@dataclass(frozen=True)
class Penalties:
    """The loss of a token's logit by the number of times that the token counts at a position."""

    presence: float = 0.0
    """Subtracted if it counts at all."""
    frequency: float = 0.0
    """Subtracted for each time."""
    repetition: float = 1.0
    """Divides a logit above 0 and multiplies any other, if it counts at all."""

    @property
    def none(self) -> bool:
        """True where nothing is penalised."""
        return self == Penalties()


@dataclass(frozen=True, eq=False)
class Standing:
    """The tokens that stand on a canvas; tensors are [C], on the CPU."""

    tokens: Tensor
    """int64."""
    stands: Tensor
    """bool: not noise, nor a mask: accepted at the step before, or there from the start."""
    stays: Tensor
    """bool: those that stand for good."""


@dataclass(frozen=True, eq=False)
class Counts:
    """The number of times that each of n tokens counts at each position."""

    tokens: Tensor
    """[n] int64, ascending."""
    times: Tensor
    """[C, n] float32."""

    @classmethod
    def of(cls, answer: Sequence[int], canvas: Standing, ends: Iterable[int]) -> "Counts":
        """Count the tokens of the ``answer`` so far and of the canvas. ``ends`` never count, and behind the first of
        them that stands nothing counts: it is no part of the answer."""
        ending = torch.tensor(sorted(ends), dtype=torch.int64)
        is_end = torch.isin(canvas.tokens, ending)
        ending_here = (canvas.stands & is_end).long()
        beyond = ending_here.cumsum(0) > ending_here
        own = canvas.stands & ~beyond & ~is_end
        so_far = torch.tensor(answer, dtype=torch.int64)
        so_far = so_far[~torch.isin(so_far, ending)]
        tokens = torch.cat([so_far, canvas.tokens[own]]).unique()
        once = ((canvas.tokens[:, None] == tokens) & own[:, None]).float()
        before = once.cumsum(0) - once
        staying = once * canvas.stays[:, None]
        behind = staying.sum(0) - staying.cumsum(0)
        base = torch.zeros(len(tokens)).index_add_(
            0, torch.searchsorted(tokens, so_far), torch.ones(len(so_far), dtype=torch.float32)
        )
        return cls(tokens, torch.where(beyond[:, None], 0.0, base + before + behind))


@dataclass(frozen=True)
class Forbidden:
    """Tokens that must not stand at a canvas's first positions."""

    tokens: tuple[int, ...]
    positions: int


def logit_changes(
    length: int,
    bias: Sequence[tuple[int, float]],
    forbidden: Sequence[Forbidden],
    counts: Counts | None = None,
    penalties: Penalties = Penalties(),
) -> LogitChanges | None:
    """Put together what is done to the logits of a canvas of ``length`` positions; None for nothing."""
    forbidden = [one for one in forbidden if one.tokens and one.positions > 0]
    named = [token for token, _ in bias] + [token for one in forbidden for token in one.tokens]
    tokens = torch.tensor(named, dtype=torch.int64)
    if counts is not None:
        tokens = torch.cat([tokens, counts.tokens])
    tokens = tokens.unique()
    if not len(tokens):
        return None
    everywhere = counts is None and all(one.positions >= length for one in forbidden)
    added = torch.zeros(1 if everywhere else length, len(tokens))
    factor = torch.ones_like(added)
    if counts is not None:
        own, times = torch.searchsorted(tokens, counts.tokens), counts.times
        added[:, own] -= penalties.frequency * times + penalties.presence * (times > 0)
        factor[:, own] = torch.where(times > 0, penalties.repetition, 1.0)
    for token, value in bias:
        added[:, torch.searchsorted(tokens, token)] += value
    for one in forbidden:
        at = torch.searchsorted(tokens, torch.tensor(one.tokens))
        added[: one.positions, at] = FORBIDDEN
    return LogitChanges(tokens, added, factor)
