"""Experts on a device other than the CPU, without a read on the host: it never knows how many rows an expert has.

Rows are sorted by expert. Where torch has a grouped product for the device and dtype, that takes them as they lie.
Elsewhere experts are ranked by their load: of N rows with k choices each, the one of rank j has N k / j at most, and N.
So batched products whose sizes no value decides compute them all: buckets of ranks, each with twice the experts of the
one before and half the rows for each, at most 1 + log2(E / k) times the k N rows that there are.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor, Tensor], Tensor]
"""Rows sorted by expert [M, I], weights [E, O, I] -> [M, O]: each row times its own expert's weights."""


def routed(x: Tensor, weights: Tensor, chosen: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The weighted sum of the chosen experts' outputs: x [N, H], weights and chosen [N, k], gate_up [E, 2I, H] and down
    [E, H, I] -> float32 [N, H]."""
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    ends = torch.searchsorted(flat[order], torch.arange(len(gate_up), device=x.device), right=True)
    product = _grouped(ends) if has_grouped(x, gate_up, down) else _bucketed(ends, *chosen.shape)
    gate, up = product(x[order // chosen.shape[-1]], gate_up).chunk(2, dim=-1)
    outputs = product(F.gelu(gate, approximate="tanh") * up, down)
    # Undoing the sort and summing over k keeps the order of additions fixed, which index_add_ would not.
    unsorted = torch.empty_like(outputs)
    unsorted[order] = outputs
    return (unsorted.view(*chosen.shape, -1).float() * weights[..., None]).sum(dim=1)


def has_grouped(x: Tensor, *weights: Tensor) -> bool:
    """True where torch's own grouped product computes these without a host read: bfloat16 on Hopper and data-centre
    Blackwell. On other cards it is a loop over experts that reads their sizes (pytorch issue 161407)."""
    if (
        x.device.type != "cuda"
        or x.dtype != torch.bfloat16
        or torch.cuda.get_device_capability(x.device)[0] not in (9, 10)
    ):
        return False
    return all(size * x.dtype.itemsize % 16 == 0 for matrix in weights for size in matrix.shape[1:])


def _grouped(ends: Tensor) -> Product:
    offsets = ends.to(torch.int32)
    return lambda rows, weights: F.grouped_mm(rows, weights.transpose(1, 2), offs=offsets)


def _bucketed(ends: Tensor, rows: int, choices: int) -> Product:
    """``ends`` [E]: where each expert's rows end among the sorted ones; ``rows`` chose ``choices`` experts each."""
    starts = F.pad(ends[:-1], (1, 0))
    ranked = (ends - starts).argsort(descending=True, stable=True)

    def product(own: Tensor, weights: Tensor) -> Tensor:
        # A last row takes what stands for no row.
        out = own.new_empty(len(own) + 1, weights.shape[1])
        for first, last, capacity in buckets(rows, choices, len(weights)):
            experts = ranked[first:last]
            place = starts[experts, None] + torch.arange(capacity, device=own.device)
            there = place < ends[experts, None]
            found = torch.bmm(own[torch.where(there, place, 0)], weights[experts].transpose(1, 2))
            out[torch.where(there, place, len(own)).flatten()] = found.flatten(0, 1)
        return out[:-1]

    return product


def buckets(rows: int, choices: int, experts: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first rank, the one after the last, rows of each expert at most), ranks from 0 in descending load."""
    first = 0
    while first < experts:
        last = min(experts, max(choices, 2 * first))
        yield first, last, min(rows, rows * choices // (first + 1))
        first = last
