"""Tiles of logits that a request changes and filters: the reference of what the kernels do with them."""

import torch
from torch import Tensor

from redraft.canvas.shaping import RowShaping
from redraft.layers.tiles import Tiles

OUT = -1e30
"""In the place of a processed logit that is taken out: of a finite one nothing becomes NaN."""


class ShapedTiles(Tiles):
    """The same of shaped rows: their logits over the whole vocabulary stand in memory until ``forget``.

    Scored once more, for a draw, a logit may be rounded otherwise; then one that is within that of the last that is
    left counts as it.
    """

    def __init__(self, plain: Tiles, shaping: RowShaping) -> None:
        """``plain``: the tiles of the same positions before anything is done to them."""
        super().__init__(plain.count, plain.vocabulary, plain.gain, plain.tile)
        self._plain = plain
        self._row, self._token, self._added, self._factor = (part.to(self.device) for part in shaping.entries())
        self._logits: Tensor | None = self._computed(slice(0, self.vocabulary), None)
        self._cut, self._last = cuts(self._logits, shaping)

    def forget(self) -> None:
        """Let the logits go; they are computed again where they are needed."""
        self._logits = None

    def shifted(self, tokens: slice | Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        kept = self._logits is not None
        if self._logits is None:
            logits = self._computed(tokens, rows)
        else:
            logits = self._logits[:, tokens] if rows is None else self._logits[rows][:, tokens]
        numbers = self._numbers(tokens)
        cut, last = (self._cut, self._last) if rows is None else (self._cut[rows], self._last[rows])
        left = is_left(logits, numbers, cut[:, None], last[:, None], exact=kept)
        # NaN stays, and is seen.
        logits = torch.where(left | logits.isnan(), logits, OUT)
        peak, where = logits.max(dim=-1)
        return logits - peak[:, None], peak, where

    def all_logits(self, tokens: slice) -> Tensor:
        return self._computed(tokens, None) if self._logits is None else self._logits[:, tokens]

    def taken_out(self, logits: Tensor, tokens: Tensor) -> Tensor:
        return ~is_left(logits, tokens, self._cut[:, None], self._last[:, None], exact=True)

    def logprob(self, tokens: Tensor, argmax: Tensor, confidence: Tensor) -> Tensor:
        own, best = (self._of_tokens(which) for which in (tokens, argmax))
        left = is_left(own, tokens, self._cut, self._last, exact=False) | (tokens == argmax)
        return torch.where(left & (own > OUT) | own.isnan(), confidence.log() + own - best, float("-inf"))

    def _of_tokens(self, tokens: Tensor) -> Tensor:
        """[C]: the changed logit of one token at each position."""
        logits = self._plain.products_of(tokens) * self.gain[:, 0]
        own = self._token == tokens[self._row]
        return changed(logits, (self._row[own],), self._added[own], self._factor[own])

    def _computed(self, tokens: slice | Tensor, rows: Tensor | None) -> Tensor:
        """[R, n]: the changed logits of ``tokens``, which are ascending."""
        gain = self.gain if rows is None else self.gain[rows]
        logits, numbers = self._plain.products(tokens, rows).mul_(gain), self._numbers(tokens)
        column = torch.searchsorted(numbers, self._token).clamp(max=len(numbers) - 1)
        own = numbers[column] == self._token
        row = self._row
        if rows is not None:
            # Rows may be asked for in any order, and more than once.
            matches = own[None] & (rows[:, None] == self._row[None])
            row, entry = matches.nonzero().unbind(-1)
            return changed(logits, (row, column[entry]), self._added[entry], self._factor[entry])
        return changed(logits, (row[own], column[own]), self._added[own], self._factor[own])

    def _numbers(self, tokens: slice | Tensor) -> Tensor:
        if isinstance(tokens, Tensor):
            return tokens
        return torch.arange(tokens.start, min(tokens.stop, self.vocabulary), device=self.gain.device)


def changed(logits: Tensor, where: tuple[Tensor, ...], added: Tensor, factor: Tensor) -> Tensor:
    """Divide logits above 0 by ``factor`` and multiply others, and add; forbidden ones are OUT. In place."""
    old = logits[where]
    new = torch.where(old > 0, old / factor, old * factor) + added
    logits[where] = torch.where(added.isneginf() & ~old.isnan(), OUT, new)
    return logits


def is_left(logits: Tensor, tokens: Tensor, cut: Tensor, last: Tensor, exact: bool) -> Tensor:
    """True for ``tokens`` with these processed ``logits`` that come before the cut, or are where it is."""
    near = cut.abs().clamp(min=1.0) * (0.0 if exact else 2e-5)
    return (logits > cut + near) | (((logits - cut).abs() <= near) & (tokens <= last)) | cut.isneginf()


def cuts(logits: Tensor, shaping: RowShaping) -> tuple[Tensor, Tensor]:
    """The processed logit of the last token that the filters leave of each row of ``logits`` [R, V], and of those with
    that logit the last that is left -> [R] each; -inf where all are left."""
    device = logits.device
    cut = torch.full((len(logits),), float("-inf"), device=device)
    last = torch.zeros(len(logits), dtype=torch.int64, device=device)
    own = (shaping.filtered.to(device) & ~logits.isnan().any(-1)).nonzero()[:, 0]
    if not len(own):
        return cut, last
    ranked, order = logits[own].sort(dim=-1, descending=True, stable=True)
    weights = (ranked - ranked[:, :1]).double().exp()
    place = torch.arange(logits.shape[1], device=device)
    top_k = shaping.top_k.to(device)[own, None]
    left = (place < top_k) | (top_k == 0)
    weights = torch.where(left, weights, 0.0)
    before = weights.cumsum(-1) - weights
    top_p = shaping.top_p.to(device)[own, None]
    left &= (before < top_p * weights.sum(-1, keepdim=True)) | (top_p >= 1)
    left[:, 0] = True
    count = left.sum(-1, keepdim=True)
    own_cut, own_last = ranked.gather(1, count - 1)[:, 0], order.gather(1, count - 1)[:, 0]
    lowest = ranked[:, 0] + shaping.lowest.to(device)[own]
    cut[own] = torch.maximum(own_cut, lowest)
    last[own] = torch.where(lowest > own_cut, logits.shape[1], own_last)
    return cut, last
