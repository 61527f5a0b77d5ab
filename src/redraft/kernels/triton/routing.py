"""Routing of rows to experts on the device: the choice of each row, and an order in which experts' rows lie together.

The host never learns how many rows an expert has. Tiles of ``block`` rows are laid out so that it need not: of the
choices sorted by expert, those of expert e start at s, and its tiles at number s / block + e, rounded down. Tiles that
this leaves without rows have no expert, and end at once.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Choices that are counted at a time.
_AT_A_TIME = 1024


class Routing(NamedTuple):
    """The choices of all rows, by expert."""

    order: Tensor
    """[rows * top_k] int32: the choices, sorted by expert, those of one expert as they come."""
    tiles: Tensor
    """[3, tiles] int32: the expert of each tile, -1 of one without rows; where its choices start in ``order``; and
    where those of its expert end."""
    top_k: int
    block: int
    """Choices of a tile."""


@triton.jit
def route_kernel(logits, scale, weights, chosen, experts, TOP_K: tl.constexpr, P: tl.constexpr, E: tl.constexpr):
    """A row's experts, the likeliest first, and of equal ones the lower; their shares, and each times its scale."""
    row = tl.program_id(0)
    expert, place = tl.arange(0, E), tl.arange(0, P)
    left = tl.load(logits + row * experts + expert, mask=expert < experts, other=float("-inf"))
    largest = tl.max(left, axis=0)
    found = tl.zeros((P,), tl.int32)
    shares = tl.zeros((P,), tl.float32)
    for rank in tl.static_range(TOP_K):
        best = tl.max(left, axis=0)
        # A row that is no number has no likeliest expert, and yet must name one that there is.
        own = tl.min(tl.where(left == best, expert, experts - 1), axis=0)
        found = tl.where(place == rank, own, found)
        shares = tl.where(place == rank, tl.exp(best - largest), shares)
        left = tl.where(expert == own, float("-inf"), left)
    into = row * TOP_K + place
    tl.store(chosen + into, found.to(tl.int64), mask=place < TOP_K)
    shares = shares / tl.sum(shares, axis=0) * tl.load(scale + found)
    tl.store(weights + into, shares, mask=place < TOP_K)


@triton.jit
def sort_kernel(chosen, order, tiles, tile_count, count, BLOCK: tl.constexpr, AT_A_TIME: tl.constexpr):
    """One expert's choices, put in their place, and its tiles."""
    expert = tl.program_id(0)
    before = tl.zeros((AT_A_TIME,), tl.int32)
    mine = tl.zeros((AT_A_TIME,), tl.int32)
    for start in range(0, count, AT_A_TIME):
        place = start + tl.arange(0, AT_A_TIME)
        own = tl.load(chosen + place, mask=place < count, other=1 << 30).to(tl.int32)
        before += (own < expert).to(tl.int32)
        mine += (own == expert).to(tl.int32)
    first = tl.sum(before, axis=0)
    end = first + tl.sum(mine, axis=0)
    done = first
    for start in range(0, count, AT_A_TIME):
        place = start + tl.arange(0, AT_A_TIME)
        own = tl.load(chosen + place, mask=place < count, other=1 << 30).to(tl.int32) == expert
        rank = tl.cumsum(own.to(tl.int32), axis=0)
        tl.store(order + done + rank - 1, place, mask=own)
        done += tl.sum(own.to(tl.int32), axis=0)
    base = first // BLOCK + expert
    for tile in range(base, end // BLOCK + expert + 1):
        begin = first + (tile - base) * BLOCK
        tl.store(tiles + tile, tl.where(begin < end, expert, -1))
        tl.store(tiles + tile_count + tile, begin)
        tl.store(tiles + 2 * tile_count + tile, end)


@triton.jit
def combine_kernel(products, weights, out, width, TOP_K: tl.constexpr, COLUMNS: tl.constexpr):
    """A row's weighted sum of its choices' products, in the order of the choices."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((COLUMNS,), tl.float32)
    for place in tl.static_range(TOP_K):
        own = tl.load(products + (row * TOP_K + place) * width + column, mask=column < width, other=0.0)
        total += own * tl.load(weights + row * TOP_K + place)
    tl.store(out + row * width + column, total, mask=column < width)


def route(logits: Tensor, top_k: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and experts [T, top_k] of each row of ``logits`` [T, experts], as ``kernels.layer.route`` has them."""
    rows, experts = logits.shape
    weights = torch.empty(rows, top_k, device=logits.device)
    chosen = torch.empty(rows, top_k, dtype=torch.int64, device=logits.device)
    if rows:
        route_kernel[(rows,)](
            logits, scale, weights, chosen, experts,
            TOP_K=top_k, P=triton.next_power_of_2(top_k), E=triton.next_power_of_2(experts), num_warps=1,
        )  # fmt: skip
    return weights, chosen


def sort_by_expert(chosen: Tensor, experts: int, block: int) -> Routing:
    """Sort the choices of experts [T, top_k] by expert."""
    count, top_k = chosen.numel(), chosen.shape[-1]
    order = torch.empty(count, dtype=torch.int32, device=chosen.device)
    tiles = torch.empty(3, count // block + experts, dtype=torch.int32, device=chosen.device)
    sort_kernel[(experts,)](chosen, order, tiles, tiles.shape[1], count, BLOCK=block, AT_A_TIME=_AT_A_TIME)
    return Routing(order, tiles, top_k, block)


def combine(products: Tensor, weights: Tensor) -> Tensor:
    """Sum the choices' products [T * top_k, H] float32 by their weights [T, top_k] -> [T, H]."""
    rows, top_k = weights.shape
    width = products.shape[-1]
    out = torch.empty(rows, width, device=products.device)
    if rows:
        columns = min(1024, triton.next_power_of_2(width))
        combine_kernel[rows, triton.cdiv(width, columns)](products, weights, out, width, TOP_K=top_k, COLUMNS=columns)
    return out


def block_choices(choices: int, experts: int) -> int:
    """Return how many choices a tile has: about those that an expert has on average, and what instructions take."""
    return min(64, max(16, triton.next_power_of_2(-(-choices // experts))))
