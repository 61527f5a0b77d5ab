"""Tiles of logits that a request changes and filters: the reference of what the kernels do with them."""

import torch
from torch import Tensor

from redraft.canvas.fixed_point import fixed, fractions, share
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
        # Which of them are in a tile is known on the CPU, and need not be found out elsewhere.
        self._row, self._token, added, factor = shaping.entries()
        # Ascending: they are in the order of rows, and of tokens in each.
        self._keys = (self._row * self.vocabulary + self._token).to(self.device)
        self._added, self._factor = added.to(self.device), factor.to(self.device)
        self._logits: Tensor | None = self._computed(slice(0, self.vocabulary), None)
        self._cut, self._last = cuts(self._logits, shaping)

    def forget(self) -> None:
        """Let the logits go; they are computed again where they are needed."""
        self._logits = None

    def shifted(self, tokens: slice | Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        kept = self._logits is not None
        if self._logits is None and rows is not None and isinstance(tokens, slice) and rows.device.type != "cpu":
            logits = self._computed(tokens, None)[rows]
        elif self._logits is None:
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

    def picked(self, tokens: Tensor, rows: Tensor) -> Tensor:
        logits = self._plain.picked(tokens, rows)
        logits = self._changed(logits, tokens, rows[:, None])
        left = is_left(logits, tokens, self._cut[rows][:, None], self._last[rows][:, None], exact=False)
        return torch.where(left | logits.isnan(), logits, OUT)

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
        return self._changed(logits, tokens, torch.arange(len(tokens), device=tokens.device))

    def _computed(self, tokens: slice | Tensor, rows: Tensor | None) -> Tensor:
        """[R, n]: the changed logits of ``tokens``, which are ascending."""
        gain = self.gain if rows is None else self.gain[rows]
        logits = self._plain.products(tokens, rows).mul_(gain)
        if rows is not None or isinstance(tokens, Tensor):
            every = torch.arange(len(logits), device=logits.device) if rows is None else rows
            return self._changed(logits, self._numbers(tokens), every[:, None])
        own = ((self._token >= tokens.start) & (self._token < tokens.stop)).nonzero()[:, 0]
        where = (self._row[own].to(logits.device), (self._token[own] - tokens.start).to(logits.device))
        own = own.to(logits.device)
        return changed(logits, where, self._added[own], self._factor[own])

    def _changed(self, logits: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        """Change logits of ``tokens`` at ``rows``, both of a shape that broadcasts to theirs."""
        if not len(self._keys):
            return logits
        keys = (rows * self.vocabulary + tokens).expand(logits.shape).contiguous()
        at = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        return torch.where(self._keys[at] == keys, _after(logits, self._added[at], self._factor[at]), logits)

    def _numbers(self, tokens: slice | Tensor) -> Tensor:
        if isinstance(tokens, Tensor):
            return tokens
        return torch.arange(tokens.start, min(tokens.stop, self.vocabulary), device=self.gain.device)


def changed(logits: Tensor, where: tuple[Tensor, ...], added: Tensor, factor: Tensor) -> Tensor:
    """Divide logits above 0 by ``factor`` and multiply others, and add; forbidden ones are OUT. In place."""
    logits[where] = _after(logits[where], added, factor)
    return logits


def _after(old: Tensor, added: Tensor, factor: Tensor) -> Tensor:
    new = torch.where(old > 0, old / factor, old * factor) + added
    return torch.where(added.isneginf() & ~old.isnan(), OUT, new)


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
    own = shaping.filtered.nonzero()[:, 0].to(device)
    if not len(own):
        return cut, last
    ranked, order = logits[own].sort(dim=-1, descending=True, stable=True)
    place = torch.arange(logits.shape[1], device=device)
    top_k = shaping.top_k.to(device)[own, None]
    left = (place < top_k) | (top_k == 0)
    left &= _within_top_p(torch.where(left, (ranked - ranked[:, :1]), float("-inf")), shaping.top_p, own)
    left[:, 0] = True
    count = left.sum(-1, keepdim=True)
    own_cut, own_last = ranked.gather(1, count - 1)[:, 0], order.gather(1, count - 1)[:, 0]
    lowest = ranked[:, 0] + shaping.lowest.to(device)[own]
    # Of a row with NaN, nothing is taken out: it is seen for what it is.
    there = ~logits[own].isnan().any(-1)
    cut[own] = torch.where(there, torch.maximum(own_cut, lowest), float("-inf"))
    last[own] = torch.where(there, torch.where(lowest > own_cut, logits.shape[1], own_last), 0)
    return cut, last


def _within_top_p(logits: Tensor, top_p: Tensor, own: Tensor) -> Tensor:
    """[R, V] bool: the first tokens of descending ``logits`` [R, V], relative to the first, whose mass is less than
    their row's share ``top_p``; ``own`` [R]: the rows' places in it."""
    if logits.device.type == "cpu":
        weights = logits.double().exp()
        before = weights.cumsum(-1) - weights
        wanted = top_p[own, None]
        return (before < wanted * weights.sum(-1, keepdim=True)) | (wanted >= 1)
    masses, all_of_it = fixed(logits.exp()), (top_p >= 1).to(own.device)[own, None]
    fraction = fractions(top_p.clamp(max=1 - 2.0**-53)).to(own.device)[own, None]
    cumulative = masses.cumsum(-1)
    return (cumulative - masses < share(cumulative[:, -1:], fraction)) | all_of_it
