"""The head that reads hidden states over a vocabulary, one tile of it at a time.

In form it is attention of C queries (hidden states) over V keys (the embedding table) with a soft cap: the running
maximum and sum are those of a tiled softmax (Milakov & Gimelshein 2018), and the table is the values as well, whose
weighted mean is the soft embedding. Logits of size [C, V] exist only a tile at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from redraft.canvas.fixed_point import fractions
from redraft.canvas.readout import TAKEN_OUT, ClassReadout, Draw, Readout, joined
from redraft.canvas.shaping import RowShaping
from redraft.canvas.token_classes import ANY, TokenClasses
from redraft.layers.group_draw import GroupClassDraw, Groups
from redraft.layers.shaped_tiles import OUT, ShapedTiles
from redraft.layers.tiles import HeadTiles, Table, Tiles

# Columns of one tile: [256, 4096] float32 is 4 MB, which stays in a core's cache between the passes over it.
TILE = 4096
# Of other devices a tile costs launches more than memory: [256, 32768] float32 is 32 MB.
DEVICE_TILE = 1 << 15
# Logits of shaped rows that stand at a time, over the whole vocabulary: 32 MB.
TOGETHER = 1 << 23
# On other devices those of a whole canvas: 256 MB.
DEVICE_TOGETHER = 1 << 26
# Of processed logits so large, a whole vocabulary's sum still is a number in float32.
LARGEST_LOGIT = 1e32


@dataclass(frozen=True)
class VocabularyHead:
    """A table [V, H] whose products with hidden states are logits, soft-capped or not.

    Of a tied head the table is the embedding, and ``embedding_scale`` what embeddings are multiplied by. Of a head of
    its own it embeds nothing: the scale is None, and self-conditioning cannot be read.
    """

    table: Tensor
    softcap: float | None
    embedding_scale: float | None

    @torch.no_grad()
    def read(
        self,
        hidden: Tensor,
        temperature: float | Tensor,
        uniforms: Tensor | None,
        *,
        self_conditioning: bool = True,
        top_k: int = 0,
        classes: TokenClasses | None = None,
        shaping: RowShaping | None = None,
        tile: int | None = None,
    ) -> Readout:
        """Read the distribution softmax(softcap(hidden @ table^T) / temperature) of each position.

        hidden [C, H]; ``temperature`` is one for all positions, or one for each [C], on the CPU. ``uniforms`` [C]
        float64 in [0, 1) pick the samples by inverse CDF in token order, None takes the argmax as the sample.
        ``classes`` are those of the V tokens to read as well, and to draw from afterwards. ``shaping``: what is done to
        the logits of each row beyond that. ``tile``: tokens of a tile, by default TILE, on other devices than the CPU
        DEVICE_TILE; there nothing is read on the host. NaN in ``hidden`` shows as a NaN entropy. Raises ValueError for
        self-conditioning of a head whose table embeds nothing.
        """
        temperatures = temperatures_of(temperature, len(hidden), self.softcap)
        check_tied(self.embedding_scale, self_conditioning)
        on_cpu = hidden.device.type == "cpu"
        tile = (TILE if on_cpu else DEVICE_TILE) if tile is None else tile
        if tile < 1:
            raise ValueError(f"tile {tile} must be at least one column")
        check_classes(classes, len(self.table))
        embedding = None
        if self_conditioning and self.embedding_scale is not None:
            embedding = Embedding(self.table, self.embedding_scale)

        def tiles(own: slice) -> Tiles:
            return HeadTiles(self.table, self.softcap, hidden[own], temperatures[own], tile)

        count, vocabulary = len(hidden), len(self.table)
        return read_rows(tiles, count, vocabulary, hidden.device, uniforms, embedding, top_k, classes, shaping)


@dataclass(frozen=True)
class Embedding:
    """The table whose weighted mean is the soft embedding, or one process's part of it."""

    table: Table
    """[n, H]: of the tokens from ``first`` on."""
    scale: float
    """The factor of embeddings."""
    first: int = 0
    together: Callable[[Tensor], Tensor] | None = None
    """Adds up what each process has; None where this one has all."""

    def mean(self, count: int, device: torch.device) -> Tensor:
        """Return the sums of ``count`` positions before the first tile, [count, H]."""
        return torch.zeros(count, self.table.shape[1], device=device)

    def add(self, mean: Tensor, start: int, weights: Tensor, rescale: tuple[Tensor, Tensor]) -> None:
        """Take in the ``weights`` [C, tile] of the tokens from ``start`` on; ``rescale`` as ``_Accumulator.add``."""
        old, new = rescale
        mean.mul_(old[:, None])
        begin = max(start, self.first)
        end = min(start + weights.shape[1], self.first + len(self.table))
        if begin < end:
            rows = self.table[begin - self.first : end - self.first]
            own = weights[:, begin - start : end - start]
            mean.addcmul_((own.to(rows.dtype) @ rows).float(), new[:, None])

    def finish(self, mean: Tensor, total: Tensor) -> Tensor:
        """Return the soft embeddings [C, H], where ``total`` [C] is the sum of all weights."""
        mean = mean * (self.scale / total[:, None])
        return mean if self.together is None else self.together(mean)


def read_rows(
    tiles_of: Callable[[slice], Tiles],
    count: int,
    vocabulary: int,
    device: torch.device,
    uniforms: Tensor | None,
    embedding: Embedding | None,
    top_k: int,
    classes: TokenClasses | None,
    shaping: RowShaping | None,
) -> Readout:
    """Read ``count`` positions off their tiles; shaped ones some at a time, for their logits stand in memory."""
    if shaping is None:
        return _read(tiles_of(slice(0, count)), uniforms, embedding, top_k, classes)
    parts, each = [], max(1, (TOGETHER if device.type == "cpu" else DEVICE_TOGETHER) // vocabulary)
    for start in range(0, count, each):
        own = slice(start, start + each)
        tiles = ShapedTiles(tiles_of(own), shaping.rows(own))
        drawn = None if uniforms is None else uniforms[own]
        parts.append(_read(tiles, drawn, embedding, top_k, classes))
        tiles.forget()
    return parts[0] if len(parts) == 1 else joined(parts)


def _read(
    tiles: Tiles, uniforms: Tensor | None, embedding: Embedding | None, top_k: int, classes: TokenClasses | None
) -> Readout:
    on_cpu = tiles.device.type == "cpu"
    groups = None if uniforms is None or on_cpu else Groups()
    accumulated = _Accumulator(tiles.count, tiles.device, top_k)
    mean = None if embedding is None else embedding.mean(tiles.count, tiles.device)
    sums = None if classes is None else _ClassAccumulator(classes, tiles.count, tiles.device)
    for start in range(0, tiles.vocabulary, tiles.tile):
        columns = tiles.columns(start // tiles.tile)
        scores, peak, where = tiles.shifted(columns)
        weights = scores.exp()
        if sums is not None:
            sums.add(start, scores, weights, peak, tiles.all_logits(columns))
        if groups is not None:
            groups.add(weights, peak)
        rescale = accumulated.add(start, scores, weights, peak, where)
        if mean is not None and embedding is not None:
            embedding.add(mean, start, weights, rescale)
    readout = accumulated.finish(tiles)
    if mean is not None and embedding is not None:
        readout = replace(readout, self_conditioning=embedding.finish(mean, accumulated.total))
    if sums is not None and classes is not None:
        draw: Draw = GroupClassDraw(tiles, classes)
        if on_cpu:
            draw = _ClassDraw(tiles, accumulated, classes, sums.tile_masses)
        readout = replace(readout, classes=sums.finish(accumulated.total, draw, tiles.taken_out))
    if uniforms is None:
        return readout
    if groups is None:
        return replace(readout, sample=_draw(tiles, accumulated, uniforms))
    every = torch.arange(tiles.count, device=tiles.device)
    return replace(readout, sample=groups.draw(tiles, every, fractions(uniforms).to(tiles.device)))


def temperatures_of(temperature: float | Tensor, count: int, softcap: float | None) -> Tensor:
    """One temperature for each of ``count`` rows, float64 [count] on the CPU.

    Raises ValueError for a number of temperatures that is not ``count``, and for one by which logits cannot be divided
    in float32.
    """
    if isinstance(temperature, Tensor):
        temperatures = temperature.double().cpu()
        if temperatures.ndim and temperatures.shape != (count,):
            raise ValueError(f"temperatures {[*temperatures.shape]} must be one, or [{count}], one for each row")
        lowest = temperatures.min().item() if temperatures.numel() else 1.0
    else:
        lowest = float(temperature)
        temperatures = torch.full((count,), lowest, dtype=torch.float64)
    if not (lowest > 0 and (softcap or 1.0) / lowest < LARGEST_LOGIT):
        raise ValueError(
            f"temperature {lowest} must be above 0 and not so small that float32 cannot add up logits divided "
            "by it; pass uniforms=None for greedy choices"
        )
    return temperatures.expand(count)


def check_tied(embedding_scale: float | None, self_conditioning: bool) -> None:
    """Raise ValueError for self-conditioning of a head whose table is not the embedding."""
    if self_conditioning and embedding_scale is None:
        raise ValueError(
            "self-conditioning is the mean of embeddings, and this head's table is not the embedding; pass "
            "self_conditioning=False"
        )


def check_classes(classes: TokenClasses | None, vocabulary: int) -> None:
    """Raise ValueError for classes of another vocabulary."""
    if classes is not None and len(classes.token_class) != vocabulary:
        raise ValueError(f"classes of {len(classes.token_class)} tokens for a vocabulary of {vocabulary}")


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

    def finish(self, tiles: Tiles) -> Readout:
        top_ids = top_logprobs = None
        if self._top_k:
            top_ids = self._top_ids
            top_logprobs = self._top_logits - (self.peak + self.total.log())[:, None]
            # What filters took out has no probability.
            top_logprobs = top_logprobs.masked_fill(self._top_logits <= OUT, float("-inf"))
        return Readout(
            argmax=self.argmax,
            sample=self.argmax,
            # Rounding can leave a certain position a hair below zero.
            entropy=(self.total.log() - self.weighted / self.total).clamp(min=0.0),
            confidence=1.0 / self.total,
            logprob=lambda tokens: tiles.logprob(tokens, self.argmax, 1.0 / self.total),
            top_ids=top_ids,
            top_logprobs=top_logprobs,
        )

    def _merge_top(self, start: int, scores: Tensor, peak: Tensor) -> None:
        best, column = scores.topk(min(self._top_k, scores.shape[1]), dim=-1)
        logits = torch.cat((self._top_logits, best + peak[:, None]), dim=-1)
        ids = torch.cat((self._top_ids, column + start), dim=-1)
        self._top_logits, order = logits.topk(min(self._top_k, logits.shape[1]), dim=-1)
        self._top_ids = ids.gather(1, order)


class _ClassAccumulator:
    """Sums over each class's tokens, tile by tile: on a running peak of the whole distribution."""

    def __init__(self, classes: TokenClasses, length: int, device: torch.device) -> None:
        self._token_class = classes.token_class.to(device)
        self._heavy = classes.heavy.to(device).long()
        shape = (length, classes.count)
        self._mass = torch.zeros(shape, device=device)
        self._weighted = torch.zeros(shape, device=device)
        self._largest = torch.full(shape, float("-inf"), device=device)
        # A position of NaN has no likeliest token, and yet must name one.
        self._argmax = classes.first.to(device).long().repeat(length, 1)
        self._peak = torch.full((length, 1), float("-inf"), device=device)
        self._tile_masses: list[Tensor] = []

    @property
    def tile_masses(self) -> Tensor:
        """[C, h, tiles]: the mass of each heavy class in each tile, relative to the tile's peak."""
        return torch.stack(self._tile_masses, dim=-1)

    def add(self, start: int, scores: Tensor, weights: Tensor, peak: Tensor, logits: Tensor | None = None) -> None:
        """Take in a tile from token ``start`` whose ``scores`` [C, tile] are relative to its own ``peak`` [C];
        ``logits``: of all tokens, where the scores do not have them."""
        index = self._token_class[start : start + scores.shape[1]].long().expand(scores.shape)
        mass = torch.zeros_like(self._mass).scatter_add_(1, index, weights)
        weighted = torch.zeros_like(self._mass).scatter_add_(1, index, weights * scores)
        self._tile_masses.append(mass[:, self._heavy])
        self._find_largest(start, index, scores + peak[:, None] if logits is None else logits)
        new = torch.maximum(self._peak, peak[:, None])
        shift = torch.where(self._mass > 0, self._peak - new, 0.0)
        down, own = (self._peak - new).exp(), peak[:, None] - new
        self._weighted = (self._weighted + shift * self._mass) * down + (weighted + own * mass) * own.exp()
        self._mass = self._mass * down + mass * own.exp()
        self._peak = new

    def _find_largest(self, start: int, index: Tensor, logits: Tensor) -> None:
        largest = torch.full_like(self._largest, float("-inf")).scatter_reduce_(1, index, logits, "amax")
        beyond = start + logits.shape[1]
        tokens = torch.arange(start, beyond, device=logits.device)
        among = torch.where(logits == largest.gather(1, index), tokens, beyond)
        first = torch.full_like(self._argmax, beyond).scatter_reduce_(1, index, among, "amin")
        self._argmax = torch.where(largest > self._largest, first, self._argmax)
        self._largest = torch.maximum(self._largest, largest)

    def finish(
        self, total: Tensor, draw_with_mass: Draw, taken_out: Callable[[Tensor, Tensor], Tensor | None]
    ) -> ClassReadout:
        """The readout, where ``total`` [C] is the sum of all weights relative to the largest logit; ``taken_out`` as in
        ``Tiles``."""
        total = total[:, None]
        out = taken_out(self._largest, self._argmax)
        if out is not None:
            forbidden = self._largest <= OUT
            self._largest = torch.where(out, self._largest - TAKEN_OUT, self._largest)
            self._largest.masked_fill_(forbidden, float("-inf"))
        return ClassReadout(
            mass=self._mass / total,
            plogp=(self._weighted - self._mass * total.log()) / total,
            peak=self._largest - self._peak - total.log(),
            argmax=self._argmax,
            draw_with_mass=draw_with_mass,
        )


def _draw(tiles: Tiles, accumulated: _Accumulator, uniforms: Tensor) -> Tensor:
    """Inverse CDF in two levels: the tile by the tiles' masses, then the token within that tile."""
    masses, peaks = torch.stack(accumulated.tile_masses, dim=-1), torch.stack(accumulated.tile_peaks, dim=-1)
    chosen, fraction = _choose_tile(masses, peaks, uniforms)
    if masses.shape[1] == 1:
        return _within(accumulated.last_weights, fraction)
    return _draw_in_tiles(tiles, torch.arange(len(chosen), device=chosen.device), chosen, fraction)


class _ClassDraw:
    """Draws from token classes: a heavy one like ``_draw``, the few tokens of a light one all together."""

    def __init__(self, tiles: Tiles, accumulated: _Accumulator, classes: TokenClasses, heavy_masses: Tensor) -> None:
        self._tiles = tiles
        self._classes = classes
        self._token_class = classes.token_class.to(heavy_masses.device)
        self._peaks = torch.stack(accumulated.tile_peaks, dim=-1)
        self._masses = {number: heavy_masses[:, index] for index, number in enumerate(classes.heavy.tolist())}
        self._masses[ANY] = torch.stack(accumulated.tile_masses, dim=-1)

    def __call__(self, positions: Tensor, classes: Tensor, uniforms: Tensor) -> Tensor:
        device = self._peaks.device
        positions, classes, uniforms = positions.to(device), classes.to(device), uniforms.to(device)
        drawn = torch.empty_like(classes)
        for number in classes.unique().tolist():
            own = classes == number
            draw = self._draw_heavy if number in self._masses else self._draw_light
            drawn[own] = draw(number, positions[own], uniforms[own])
        return drawn

    def _draw_heavy(self, number: int, positions: Tensor, uniforms: Tensor) -> Tensor:
        chosen, fraction = _choose_tile(self._masses[number][positions], self._peaks[positions], uniforms)
        members = None if number == ANY else self._token_class == number
        return _draw_in_tiles(self._tiles, positions, chosen, fraction, members)

    def _draw_light(self, number: int, positions: Tensor, uniforms: Tensor) -> Tensor:
        tokens = self._classes.tokens_of(number).to(positions.device).long()
        scores, _, _ = self._tiles.shifted(tokens, positions)
        return tokens[_within(scores.exp_(), uniforms[:, None])]


def _choose_tile(masses: Tensor, peaks: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The tile [R] at each of ``uniforms`` [R] of the masses [R, tiles], which are relative to the peaks of theirs, and
    how far into it [R, 1] the uniform reaches."""
    cumulative = (masses.double() * (peaks - peaks.amax(-1, keepdim=True)).double().exp()).cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    chosen = _first_above(cumulative, target)
    before = torch.where(chosen > 0, cumulative.gather(1, (chosen - 1).clamp(min=0)), 0.0)
    return chosen[:, 0], (target - before) / (cumulative.gather(1, chosen) - before)


def _draw_in_tiles(
    tiles: Tiles, positions: Tensor, chosen: Tensor, fraction: Tensor, members: Tensor | None = None
) -> Tensor:
    """Tokens [R] of each position's tile, at ``fraction`` [R, 1] of its mass; of ``members`` [V] alone, where given."""
    drawn = torch.empty_like(positions)
    for index in chosen.unique().tolist():
        own, part = chosen == index, tiles.columns(index)
        scores, _, _ = tiles.shifted(part, positions[own])
        if members is not None:
            scores.masked_fill_(~members[part], float("-inf"))
            # Relative to the tile's peak all of them might have lost their weight.
            scores -= scores.amax(-1, keepdim=True)
        drawn[own] = part.start + _within(scores.exp_(), fraction[own])
    return drawn


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
