"""What a denoising step reads off the model's hidden states, one tile of the vocabulary at a time.

In form it is attention of C queries (hidden states) over V keys (the embedding table) with a soft cap: the running
maximum and sum are those of a tiled softmax (Milakov & Gimelshein 2018), and the table is the values as well, whose
weighted mean is the soft embedding. Logits of size [C, V] exist only a tile at a time.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# Columns of one tile: [256, 4096] float32 is 4 MB, which stays in a core's cache between the passes over it.
TILE = 4096
# Of processed logits so large, a whole vocabulary's sum still is a number in float32.
LARGEST_LOGIT = 1e32


@dataclass(frozen=True)
class Readout:
    """Per position of a canvas, all of the processed logits (soft-capped, divided by the temperature)."""

    argmax: Tensor
    """[C] int64: the likeliest token."""
    sample: Tensor
    """[C] int64: one token drawn from the distribution."""
    entropy: Tensor
    """[C] float32, nats."""
    confidence: Tensor
    """[C] float32: the probability of ``argmax``."""
    signal: Tensor | None = None
    """[C, H] float32: the mean embedding under the distribution, scaled as embeddings are; None unless asked for."""
    top_ids: Tensor | None = None
    """[C, k] int64: the k likeliest tokens, likeliest first; None unless asked for."""
    top_logprobs: Tensor | None = None
    """[C, k] float32: their natural log probabilities."""
    class_mass: Tensor | None = None
    """[C, n] float32: the probability of each token class; None, like the two below, unless asked for."""
    class_plogp: Tensor | None = None
    """[C, n] float32: the sum of p log p over each class's tokens."""
    class_peak: Tensor | None = None
    """[C, n] float32: the log probability of each class's likeliest token, -inf for a class of no tokens."""


@dataclass(frozen=True)
class VocabularyHead:
    """A tied embedding table [V, H] with the soft cap of its logits and the scale of its embeddings."""

    table: Tensor
    softcap: float
    embedding_scale: float

    @torch.no_grad()
    def read(
        self,
        hidden: Tensor,
        temperature: float,
        uniforms: Tensor | None,
        *,
        signal: bool = True,
        top_k: int = 0,
        classes: Tensor | None = None,
        tile: int = TILE,
    ) -> Readout:
        """Read the distribution softmax(softcap(hidden @ table^T) / temperature) of each position.

        hidden [C, H]; ``uniforms`` [C] float64 in [0, 1) pick the samples by inverse CDF in token order, None takes
        the argmax as the sample. ``classes`` [V] numbers each token's class from 0 on, for the class sums. NaN in
        ``hidden`` shows as a NaN entropy.
        """
        check_temperature(temperature, self.softcap)
        if tile < 1:
            raise ValueError(f"tile {tile} must be at least one column")
        tiles = _Tiles(self, hidden, temperature, tile)
        accumulated = _Accumulator(len(hidden), hidden.device, top_k)
        mean = torch.zeros(hidden.shape, device=hidden.device) if signal else None
        sums = None if classes is None else _ClassSums(classes.to(hidden.device), len(hidden))
        for start in range(0, len(self.table), tile):
            scores, peak, where = tiles.shifted(start)
            weights = scores.exp()
            if sums is not None:
                sums.add(start, scores, weights, peak)
            rescale_old, rescale_new = accumulated.add(start, scores, weights, peak, where)
            if mean is not None:
                rows = self.table[start : start + tile]
                mean.mul_(rescale_old[:, None])
                mean.addcmul_((weights.to(rows.dtype) @ rows).float(), rescale_new[:, None])
        readout = accumulated.finish()
        if mean is not None:
            readout = replace(readout, signal=mean * (self.embedding_scale / accumulated.total[:, None]))
        if sums is not None:
            readout = replace(readout, **sums.finish(accumulated))
        if uniforms is not None:
            readout = replace(readout, sample=_draw(tiles, accumulated, uniforms.to(hidden.device), tile))
        return readout


def check_temperature(temperature: float, softcap: float) -> None:
    """Raise ValueError for a temperature by which logits cannot be divided in float32."""
    if not (temperature > 0 and softcap / temperature < LARGEST_LOGIT):
        raise ValueError(
            f"temperature {temperature} must be above 0 and not so small that float32 cannot add up logits divided "
            "by it; pass uniforms=None for greedy choices"
        )


class _Tiles:
    """Computes tiles of processed logits, shifted by their own row maximum."""

    def __init__(self, head: VocabularyHead, hidden: Tensor, temperature: float, tile: int) -> None:
        self._head = head
        self._scaled = (hidden.float() / head.softcap).to(head.table.dtype)
        self._gain = head.softcap / temperature
        self._tile = tile

    def shifted(self, start: int, rows: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Tile from token ``start``: (logits - peak [C, tile], peak [C], column of the peak [C]), all positions or
        those of ``rows``."""
        queries = self._scaled if rows is None else self._scaled[rows]
        capped = (queries @ self._head.table[start : start + self._tile].T).float().tanh_()
        peak, where = capped.max(dim=-1)
        return capped.sub_(peak[:, None]).mul_(self._gain), peak * self._gain, where


class _Accumulator:
    """Running maximum, sum of weights, sum of weight * logit, argmax, top k and the mass of each tile."""

    def __init__(self, length: int, device: torch.device, top_k: int) -> None:
        self.peak = torch.full((length,), float("-inf"), device=device)
        self.total = torch.zeros(length, device=device)
        self.weighted = torch.zeros(length, device=device)
        self.argmax = torch.zeros(length, dtype=torch.int64, device=device)
        self.tile_masses: list[Tensor] = []
        self.tile_peaks: list[Tensor] = []
        self.last_weights = torch.empty(0)
        self._top_k = top_k
        self._top_logits = torch.empty(length, 0, device=device)
        self._top_ids = torch.empty(length, 0, dtype=torch.int64, device=device)

    def add(self, start: int, scores: Tensor, weights: Tensor, peak: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a tile whose ``scores`` are relative to its own ``peak``; returns the factors by which what was
        summed before, and this tile's sums, must be multiplied to stand on the new common peak."""
        mass = weights.sum(-1)
        self.tile_masses.append(mass)
        self.tile_peaks.append(peak)
        self.last_weights = weights
        if self._top_k:
            self._merge_top(start, scores, peak)
        new_peak = torch.maximum(self.peak, peak)
        old, new = (self.peak - new_peak).exp(), (peak - new_peak).exp()
        # Sum of w * (z - new_peak): each part's logits move by the difference between its peak and the common one.
        shift_old = torch.where(self.total > 0, self.peak - new_peak, 0.0)
        own = (scores.mul_(weights)).sum(-1) + (peak - new_peak) * mass
        self.weighted = (self.weighted + shift_old * self.total) * old + own * new
        self.total = self.total * old + mass * new
        self.argmax = torch.where(peak > self.peak, where + start, self.argmax)
        self.peak = new_peak
        return old, new

    def finish(self) -> Readout:
        top_ids = top_logprobs = None
        if self._top_k:
            top_ids = self._top_ids
            top_logprobs = self._top_logits - (self.peak + self.total.log())[:, None]
        return Readout(
            argmax=self.argmax,
            sample=self.argmax,
            # Rounding can leave a certain position a hair below zero.
            entropy=(self.total.log() - self.weighted / self.total).clamp(min=0.0),
            confidence=1.0 / self.total,
            top_ids=top_ids,
            top_logprobs=top_logprobs,
        )

    def _merge_top(self, start: int, scores: Tensor, peak: Tensor) -> None:
        best, column = scores.topk(min(self._top_k, scores.shape[1]), dim=-1)
        logits = torch.cat((self._top_logits, best + peak[:, None]), dim=-1)
        ids = torch.cat((self._top_ids, column + start), dim=-1)
        self._top_logits, order = logits.topk(min(self._top_k, logits.shape[1]), dim=-1)
        self._top_ids = ids.gather(1, order)


class _ClassSums:
    """Mass, sum of mass * logit and largest logit of every token class, on a running peak of their own."""

    def __init__(self, classes: Tensor, length: int) -> None:
        self._classes = classes.long()
        shape = (length, int(classes.max()) + 1)
        self._mass = torch.zeros(shape, device=classes.device)
        self._weighted = torch.zeros(shape, device=classes.device)
        self._largest = torch.full(shape, float("-inf"), device=classes.device)
        self._peak = torch.full((length, 1), float("-inf"), device=classes.device)

    def add(self, start: int, scores: Tensor, weights: Tensor, peak: Tensor) -> None:
        """Take in a tile whose ``scores`` are relative to its own ``peak``."""
        index = self._classes[start : start + scores.shape[1]].expand(scores.shape)
        mass = torch.zeros_like(self._mass).scatter_add_(1, index, weights)
        weighted = torch.zeros_like(self._mass).scatter_add_(1, index, weights * scores)
        self._largest.scatter_reduce_(1, index, scores + peak[:, None], "amax")
        new = torch.maximum(self._peak, peak[:, None])
        shift = torch.where(self._mass > 0, self._peak - new, 0.0)
        down, own = (self._peak - new).exp(), peak[:, None] - new
        self._weighted = (self._weighted + shift * self._mass) * down + (weighted + own * mass) * own.exp()
        self._mass = self._mass * down + mass * own.exp()
        self._peak = new

    def finish(self, accumulated: _Accumulator) -> dict[str, Tensor]:
        """The three fields of a ``Readout``."""
        total = accumulated.total[:, None]
        return {
            "class_mass": self._mass / total,
            "class_plogp": (self._weighted - self._mass * total.log()) / total,
            "class_peak": self._largest - self._peak - total.log(),
        }


def _draw(tiles: _Tiles, accumulated: _Accumulator, uniforms: Tensor, tile: int) -> Tensor:
    """Inverse CDF in two levels: the tile by the tiles' masses, then the token within that tile."""
    peaks = torch.stack(accumulated.tile_peaks, dim=-1)
    masses = torch.stack(accumulated.tile_masses, dim=-1).double()
    cumulative = (masses * (peaks - accumulated.peak[:, None]).double().exp()).cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    chosen = _first_above(cumulative, target)
    before = torch.where(chosen > 0, cumulative.gather(1, (chosen - 1).clamp(min=0)), 0.0)
    fraction = (target - before) / (cumulative.gather(1, chosen) - before)
    if cumulative.shape[1] == 1:
        return _within(accumulated.last_weights, fraction)
    sample = torch.empty_like(accumulated.argmax)
    for index in chosen.unique().tolist():
        rows = (chosen[:, 0] == index).nonzero()[:, 0]
        scores, _, _ = tiles.shifted(index * tile, rows)
        sample[rows] = index * tile + _within(scores.exp_(), fraction[rows])
    return sample


def _within(weights: Tensor, fraction: Tensor) -> Tensor:
    """The token of each row of ``weights`` [R, tile] at ``fraction`` [R, 1] of its mass -> [R]."""
    cumulative = weights.double().cumsum(-1)
    return _first_above(cumulative, fraction * cumulative[:, -1:])[:, 0]


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """First column whose cumulative mass exceeds ``target``; never one without mass of its own. [R, 1]."""
    found = torch.searchsorted(cumulative, target, right=True)
    # A target that rounding put at the very end belongs to the last column that has mass.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    # In a row of NaN nothing is found; its entropy says so, and its token must only be a valid column.
    return torch.minimum(found, last).clamp(max=cumulative.shape[-1] - 1)
