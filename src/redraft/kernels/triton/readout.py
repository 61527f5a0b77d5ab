"""The readout of a vocabulary, some thousands of tokens at a time, whose logits never leave the kernel.

A tile of tokens leaves its weights, relative to its own likeliest token, in the table's dtype, and a few sums for each
row; a second kernel merges a chunk's tiles into what was read before. The weights are what the soft embedding is a
product of, and stay in the card's cache until it is taken.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 128
"""Tokens of a tile."""
GROUP = 32
"""Tokens whose weights are added up for a draw, which is ``layers.group_draw.GROUP``."""


class Chunk(NamedTuple):
    """The weights and sums that a chunk's tiles leave, of C rows, relative to each tile's own peak."""

    weights: Tensor
    """[C, tiles * TILE] in the table's dtype; 0 behind the last token."""
    sums: Tensor
    """[3, C, tiles] float32: the largest logit, the sum of weights, and that of weights times shifted logits."""
    best: Tensor
    """[C, tiles] int64: the first likeliest token, counted from the chunk's first."""
    groups: Tensor
    """[C, tiles * TILE / GROUP] float32: the sums of groups' weights."""


class Merged(NamedTuple):
    """The state of a readout behind a chunk."""

    state: Tensor
    """[3, C] float32: largest logit, sum of weights, sum of weights times shifted logits, of all chunks so far."""
    argmax: Tensor
    """[C] int64"""
    factors: Tensor
    """[C, tiles] float32: makes a tile's weights relative to the chunk's peak."""
    rescale: Tensor
    """[3, C] float32: the factors that make what was summed before, and the chunk, relative to the new peak; and the
    chunk's peak."""


@triton.jit
def chunk_kernel(
    hidden, table, gain, weights, sums, best, groups, rows, width, tokens, tiles,
    CAPPED: tl.constexpr, EXACT: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, G: tl.constexpr,
):  # fmt: skip
    """The logits of N tokens at M rows, ``cap * tanh`` where CAPPED, and what a chunk keeps of them."""
    tile = tl.program_id(1)
    row = tl.program_id(0) * M + tl.arange(0, M)
    token = tile * N + tl.arange(0, N)
    live, there = row < rows, token < tokens
    product = tl.zeros((N, M), tl.float32)
    for start in range(0, width, K):
        place = start + tl.arange(0, K)
        inside = place < width
        known = there[:, None] & inside[None, :]
        own = tl.load(table + token.to(tl.int64)[:, None] * width + place[None, :], mask=known, other=0.0)
        known = live[None, :] & inside[:, None]
        values = tl.load(hidden + row[None, :] * width + place[:, None], mask=known, other=0.0)
        if EXACT:
            product = tl.dot(own.to(tl.float32), values.to(tl.float32), product, input_precision="ieee")
        else:
            product = tl.dot(own, values, product)
    if CAPPED:
        product = 2.0 * tl.sigmoid(2.0 * product) - 1.0
    logits = product * tl.load(gain + row, mask=live, other=0.0)[None, :]
    logits = tl.where(there[:, None], logits, float("-inf"))
    peak = tl.max(logits, axis=0)
    # A row that is no number has no likeliest token, and yet must name one that there is.
    first = tl.min(tl.where(logits == peak[None, :], token[:, None], tokens - 1), axis=0)
    shifted = tl.where(there[:, None], logits - peak[None, :], 0.0)
    weight = tl.where(there[:, None], tl.exp(shifted), 0.0)
    at = row * tiles + tile
    tl.store(sums + at, peak, mask=live)
    tl.store(sums + rows * tiles + at, tl.sum(weight, axis=0), mask=live)
    tl.store(sums + 2 * rows * tiles + at, tl.sum(weight * shifted, axis=0), mask=live)
    tl.store(best + at, first.to(tl.int64), mask=live)
    into = weights + row.to(tl.int64)[None, :] * (tiles * N) + token[:, None]
    tl.store(into, weight.to(weights.dtype.element_ty), mask=live[None, :])
    of_group = tl.sum(tl.reshape(weight, (N // G, G, M)), axis=1)
    number = tile * (N // G) + tl.arange(0, N // G)
    tl.store(groups + row[None, :] * (tiles * (N // G)) + number[:, None], of_group, mask=live[None, :])


@triton.jit
def merge_kernel(
    sums, best, state, argmax, new_state, new_argmax, factors, rescale, rows, tiles, first, T: tl.constexpr
):
    """A row's tiles of a chunk from token ``first`` on, merged into its state."""
    row = tl.program_id(0)
    tile = tl.arange(0, T)
    at, there = row * tiles + tile, tile < tiles
    peaks = tl.load(sums + at, mask=there, other=float("-inf"))
    peak = tl.max(peaks, axis=0)
    away = tl.where(there, peaks - peak, 0.0)
    factor = tl.where(there, tl.exp(away), 0.0)
    mass = tl.load(sums + rows * tiles + at, mask=there, other=0.0)
    weighted = tl.load(sums + 2 * rows * tiles + at, mask=there, other=0.0)
    own_weighted = tl.sum(factor * (weighted + away * mass), axis=0)
    own_mass = tl.sum(factor * mass, axis=0)
    # Tokens ascend with tiles: the first of equal peaks is the lowest. NaN is equal to none.
    tokens = tl.load(best + at, mask=there, other=0)
    last = tl.max(tokens, axis=0)
    token = tl.min(tl.where((peaks == peak) & there, tokens, last), axis=0)
    old_peak, old_mass = tl.load(state + row), tl.load(state + rows + row)
    old_weighted = tl.load(state + 2 * rows + row)
    new_peak = tl.maximum(old_peak, peak)
    down, up = tl.exp(old_peak - new_peak), tl.exp(peak - new_peak)
    moved = tl.where(old_mass > 0, old_peak - new_peak, 0.0)
    total = (old_weighted + moved * old_mass) * down + (own_weighted + (peak - new_peak) * own_mass) * up
    tl.store(new_state + row, new_peak)
    tl.store(new_state + rows + row, old_mass * down + own_mass * up)
    tl.store(new_state + 2 * rows + row, total)
    tl.store(new_argmax + row, tl.where(peak > old_peak, token + first, tl.load(argmax + row)))
    tl.store(factors + at, factor, mask=there)
    tl.store(rescale + row, down)
    tl.store(rescale + rows + row, up)
    tl.store(rescale + 2 * rows + row, peak)


def read_chunk(hidden: Tensor, table: Tensor, gain: Tensor, capped: bool) -> Chunk:
    """Read the tokens of ``table`` [n, H], contiguous and in the dtype of ``hidden`` [C, H], times ``gain`` [C]."""
    rows, width = hidden.shape
    made = empty_chunk(hidden, table)
    block = 16 if rows <= 16 else 32 if rows <= 32 else 64
    exact = triton.knobs.runtime.interpret or table.dtype == torch.float32
    chunk_kernel[triton.cdiv(rows, block), made.best.shape[1]](
        hidden, table, gain, made.weights, made.sums, made.best, made.groups, rows, width, len(table),
        made.best.shape[1], CAPPED=capped, EXACT=exact, M=block, N=TILE, K=32 if exact else 64, G=GROUP,
        num_warps=8 if block > 32 else 4, num_stages=3,
    )  # fmt: skip
    return made


def empty_chunk(hidden: Tensor, table: Tensor) -> Chunk:
    """Return room for what ``read_chunk`` finds."""
    rows, tiles = len(hidden), -(-len(table) // TILE)
    return Chunk(
        hidden.new_empty(rows, tiles * TILE),
        hidden.new_empty(3, rows, tiles, dtype=torch.float32),
        hidden.new_empty(rows, tiles, dtype=torch.int64),
        hidden.new_empty(rows, tiles * TILE // GROUP, dtype=torch.float32),
    )


def merge(sums: Tensor, best: Tensor, state: Tensor, argmax: Tensor, first: int) -> Merged:
    """Merge a chunk from token ``first`` on, its ``sums`` and ``best``, into the state [3, C] and argmax [C]."""
    made = empty_merged(sums, state, argmax)
    rows, tiles = best.shape
    merge_kernel[(rows,)](
        sums, best, state, argmax, *made, rows, tiles, first, T=triton.next_power_of_2(tiles), num_warps=1
    )
    return made


def empty_merged(sums: Tensor, state: Tensor, argmax: Tensor) -> Merged:
    """Return room for what ``merge`` finds."""
    return Merged(
        torch.empty_like(state), torch.empty_like(argmax), sums.new_empty(sums.shape[1:]), torch.empty_like(state)
    )
