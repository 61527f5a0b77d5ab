"""Tiles of a vocabulary's processed logits, those of some positions at a time."""

import torch
from torch import Tensor


class Tiles:
    """Computes tiles of processed logits, shifted by their own row maximum."""

    def __init__(self, table: Tensor, softcap: float | None, hidden: Tensor, temperatures: Tensor, tile: int) -> None:
        self.hidden, self.tile = hidden, tile
        self.table, self.softcap = table, softcap
        cap = softcap or 1.0
        self.scaled = (hidden.float() / cap).to(table.dtype)
        self.gain = (cap / temperatures).float()[:, None].to(hidden.device)

    def columns(self, index: int) -> slice:
        """The tokens of a tile."""
        return slice(index * self.tile, (index + 1) * self.tile)

    def shifted(self, tokens: slice | Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return (logits - peak [C, tile], peak [C], column of the peak [C]) of a tile's ``tokens``.

        They are those of all positions, or of ``rows``.
        """
        queries, gain = (self.scaled, self.gain) if rows is None else (self.scaled[rows], self.gain[rows])
        logits = (queries @ self.table[tokens].T).float()
        if self.softcap is not None:
            logits = logits.tanh_()
        peak, where = logits.max(dim=-1)
        return logits.sub_(peak[:, None]).mul_(gain), peak * gain[:, 0], where

    def picked(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """[R, n]: the processed logits of other ``tokens`` [R, n] at each of ``rows`` [R]."""
        logits = torch.bmm(self.scaled[rows][:, None], self.table[tokens].transpose(1, 2))[:, 0].float()
        if self.softcap is not None:
            logits = logits.tanh_()
        return logits.mul_(self.gain[rows])

    def all_logits(self, tokens: slice) -> Tensor | None:
        """[C, tile]: the logits of a tile's tokens before any were taken out; None where none are."""
        return None

    def taken_out(self, logits: Tensor, tokens: Tensor) -> Tensor | None:
        """[C, n] bool: which of the ``tokens`` with these ``logits`` are taken out; None where none are."""
        return None

    def logprob(self, tokens: Tensor, argmax: Tensor, confidence: Tensor) -> Tensor:
        """Return the log probability of ``tokens`` [C] from the probability of the likeliest ones."""
        own, best = ((self.scaled * self.table[row]).float().sum(-1) for row in (tokens, argmax))
        if self.softcap is not None:
            own, best = own.tanh(), best.tanh()
        return confidence.log() + (own - best) * self.gain[:, 0]
