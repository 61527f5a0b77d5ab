"""Tiles of a vocabulary's processed logits, those of some positions at a time."""

from typing import Protocol

import torch
from torch import Tensor


class Table(Protocol):
    """The rows [V, H] of a vocabulary: a tensor, or what makes some rows when they are asked for."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of rows."""
        ...

    @property
    def shape(self) -> torch.Size:
        """V and H."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, tokens: slice | Tensor, /) -> Tensor:
        """Return rows [n, H] of a slice of tokens, or [..., H] of ``tokens`` [...]."""
        ...


class Tiles:
    """Computes tiles of processed logits, shifted by their own row maximum.

    A kind of them says where logits come from: ``products``, ``products_of`` and ``products_at``.
    """

    def __init__(self, count: int, vocabulary: int, gain: Tensor, tile: int) -> None:
        """``count`` positions; ``gain`` [C, 1] float32 multiplies what ``products`` gives."""
        self.count, self.vocabulary, self.gain, self.tile = count, vocabulary, gain, tile

    @property
    def device(self) -> torch.device:
        """The device of all that is computed."""
        return self.gain.device

    def products(self, tokens: slice | Tensor, rows: Tensor | None) -> Tensor:
        """Return [R, n] float32 of ``tokens``, at all positions or at ``rows``; the caller may change them in place."""
        raise NotImplementedError

    def products_of(self, tokens: Tensor) -> Tensor:
        """Return [C] float32: that of one token at each position."""
        raise NotImplementedError

    def products_at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """Return [R, n] float32: those of other ``tokens`` [R, n] at each of ``rows`` [R]; they may be changed."""
        raise NotImplementedError

    def columns(self, index: int) -> slice:
        """The tokens of a tile."""
        return slice(index * self.tile, (index + 1) * self.tile)

    def shifted(self, tokens: slice | Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return (logits - peak [C, tile], peak [C], column of the peak [C]) of a tile's ``tokens``.

        They are those of all positions, or of ``rows``.
        """
        gain = self.gain if rows is None else self.gain[rows]
        logits = self.products(tokens, rows)
        peak, where = logits.max(dim=-1)
        return logits.sub_(peak[:, None]).mul_(gain), peak * gain[:, 0], where

    def picked(self, tokens: Tensor, rows: Tensor) -> Tensor:
        """[R, n]: the processed logits of other ``tokens`` [R, n] at each of ``rows`` [R]."""
        return self.products_at(tokens, rows).mul_(self.gain[rows])

    def all_logits(self, tokens: slice) -> Tensor | None:
        """[C, tile]: the logits of a tile's tokens before any were taken out; None where none are."""
        return None

    def taken_out(self, logits: Tensor, tokens: Tensor) -> Tensor | None:
        """[C, n] bool: which of the ``tokens`` with these ``logits`` are taken out; None where none are."""
        return None

    def logprob(self, tokens: Tensor, argmax: Tensor, confidence: Tensor) -> Tensor:
        """Return the log probability of ``tokens`` [C] from the probability of the likeliest ones."""
        own, best = self.products_of(tokens), self.products_of(argmax)
        return confidence.log() + (own - best) * self.gain[:, 0]


class HeadTiles(Tiles):
    """Tiles of the products of hidden states with a table, soft-capped or not."""

    def __init__(self, table: Table, softcap: float | None, hidden: Tensor, temperatures: Tensor, tile: int) -> None:
        cap = softcap or 1.0
        super().__init__(len(hidden), len(table), (cap / temperatures).float()[:, None].to(hidden.device), tile)
        self._table, self._softcap = table, softcap
        self._scaled = (hidden.float() / cap).to(table.dtype)

    @property
    def scaled(self) -> Tensor:
        """[C, H] in the table's dtype: the hidden states in units of the soft cap, which products are taken of."""
        return self._scaled

    def products(self, tokens: slice | Tensor, rows: Tensor | None) -> Tensor:
        queries = self._scaled if rows is None else self._scaled[rows]
        logits = (queries @ self._table[tokens].T).float()
        return logits if self._softcap is None else logits.tanh_()

    def products_of(self, tokens: Tensor) -> Tensor:
        logits = (self._scaled * self._table[tokens]).float().sum(-1)
        return logits if self._softcap is None else logits.tanh()

    def products_at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        logits = torch.bmm(self._scaled[rows][:, None], self._table[tokens].transpose(1, 2))[:, 0].float()
        return logits if self._softcap is None else logits.tanh_()


class GivenTiles(Tiles):
    """Tiles of logits [C, V] that somebody else computed; they are copied a tile at a time."""

    def __init__(self, logits: Tensor, temperatures: Tensor, tile: int) -> None:
        super().__init__(len(logits), logits.shape[1], (1.0 / temperatures).float()[:, None].to(logits.device), tile)
        self._logits = logits

    def products(self, tokens: slice | Tensor, rows: Tensor | None) -> Tensor:
        if rows is None:
            return self._logits[:, tokens].to(torch.float32, copy=True)
        if isinstance(tokens, slice):
            return self._logits[rows, tokens].float()
        return self._logits[rows[:, None], tokens].float()

    def products_of(self, tokens: Tensor) -> Tensor:
        return self._logits.gather(1, tokens[:, None])[:, 0].float()

    def products_at(self, tokens: Tensor, rows: Tensor) -> Tensor:
        return self._logits[rows[:, None], tokens].float()
