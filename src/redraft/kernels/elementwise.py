"""The work between the products of a layer: heads split off, normed and rotated; branches normed and added."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from redraft.kernels import bindings, interface
from redraft.kernels.linear import norm_for_c
from redraft.kernels.norm import Norm
from redraft.layers.rope import rotate


def split_heads(
    projected: Tensor,
    head_dim: int,
    norm: Norm | None,
    rope: tuple[Tensor, Tensor] | None,
    dtype: torch.dtype,
    positions: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """projected [T, heads * D] float32 (columns of a wider tensor will do) -> [1, heads, T, D] in ``dtype``.

    Each head is normed, or not, then rotated by the cosines and sines [P, D/2] of ``rope``, a table whose row for each
    of the T rows stands in ``positions`` [T] int64; without them P is T. Then it is multiplied by ``scale``.
    """
    if not bindings.compute(projected) or dtype not in (torch.float32, torch.bfloat16):
        return split_heads_reference(projected, head_dim, norm, rope, dtype, positions, scale)
    count, heads = len(projected), projected.shape[1] // head_dim
    out = torch.empty(1, heads, count, head_dim, dtype=dtype)
    cosines, sines = (None, None) if rope is None else (part.contiguous() for part in rope)
    positions = None if positions is None else positions.contiguous()
    call = interface.CHeads(
        heads=heads,
        dim=head_dim,
        norm=_pointer(norm),
        cosines=bindings.pointer(cosines),
        sines=bindings.pointer(sines),
        positions=bindings.pointer(positions),
        scale=scale,
        format=bindings.format_number(str(dtype).removeprefix("torch.")),
    )
    bindings.entry("redraft_split_heads")(
        ctypes.byref(call), projected.data_ptr(), projected.stride(0), count, out.data_ptr()
    )
    return out


def split_heads_reference(
    projected: Tensor,
    head_dim: int,
    norm: Norm | None,
    rope: tuple[Tensor, Tensor] | None,
    dtype: torch.dtype,
    positions: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    """``split_heads`` in plain torch."""
    heads = _normed(projected.unflatten(-1, (-1, head_dim)).transpose(0, 1), norm)
    if rope is not None:
        heads = rotate(heads, *(rope if positions is None else (part[positions] for part in rope)))
    return (heads if scale == 1.0 else heads * scale).to(dtype)[None]


def add_normed(
    residual: Tensor,
    branch: Tensor,
    norm: Norm | None,
    scalar: float = 1.0,
    other: Tensor | None = None,
    branch_norm: Norm | None = None,
    other_norm: Norm | None = None,
) -> None:
    """In place: ``residual = (residual + norm(branch)) * scalar``, all [T, H] float32 and contiguous.

    With ``other``, the branch is the sum of the two, each normed by itself first. None is no norm.
    """
    if not bindings.compute(residual):
        add_normed_reference(residual, branch, norm, scalar, other, branch_norm, other_norm)
        return
    call = interface.CBranches(
        branch=branch.data_ptr(),
        branch_norm=_pointer(branch_norm),
        other=bindings.pointer(other),
        other_norm=_pointer(other_norm),
        norm=_pointer(norm),
        scalar=scalar,
    )
    bindings.entry("redraft_add_normed")(ctypes.byref(call), residual.data_ptr(), *residual.shape)


def add_normed_reference(
    residual: Tensor,
    branch: Tensor,
    norm: Norm | None,
    scalar: float = 1.0,
    other: Tensor | None = None,
    branch_norm: Norm | None = None,
    other_norm: Norm | None = None,
) -> None:
    """``add_normed`` in plain torch."""
    if other is not None:
        branch = _normed(branch, branch_norm) + _normed(other, other_norm)
    residual.add_(_normed(branch, norm)).mul_(scalar)


def _normed(x: Tensor, norm: Norm | None) -> Tensor:
    return x if norm is None else norm(x.float())


def _pointer(norm: Norm | None) -> Any:
    given = norm_for_c(norm)
    return None if given is None else ctypes.pointer(given)
