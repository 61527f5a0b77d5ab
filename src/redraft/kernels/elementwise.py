"""What stands between the products of a layer: heads split off, normed and rotated; branches normed and added."""

import torch
from torch import Tensor

from redraft.kernels import bindings
from redraft.layers.norm import rms_norm
from redraft.layers.rope import rotate


def split_heads(
    projected: Tensor,
    head_dim: int,
    weight: Tensor | None,
    epsilon: float,
    rope: tuple[Tensor, Tensor] | None,
    dtype: torch.dtype,
) -> Tensor:
    """projected [T, heads * D] float32 (columns of a wider tensor will do) -> [1, heads, T, D] in ``dtype``.

    Each head is RMS-normed with ``weight`` [D] or none, then rotated by the cosines and sines [T, D/2] of ``rope``.
    """
    if bindings.kernels() is None or dtype not in (torch.float32, torch.bfloat16):
        return split_heads_twin(projected, head_dim, weight, epsilon, rope, dtype)
    count, heads = len(projected), projected.shape[1] // head_dim
    out = torch.empty(1, heads, count, head_dim, dtype=dtype)
    cosines, sines = (None, None) if rope is None else (part.contiguous() for part in rope)
    bindings.entry("redraft_split_heads")(
        projected.data_ptr(), projected.stride(0), count, heads, head_dim, bindings.pointer(weight), epsilon,
        bindings.pointer(cosines), bindings.pointer(sines),
        bindings.format_number(str(dtype).removeprefix("torch.")), out.data_ptr(), count * head_dim,
    )  # fmt: skip
    return out


def split_heads_twin(
    projected: Tensor,
    head_dim: int,
    weight: Tensor | None,
    epsilon: float,
    rope: tuple[Tensor, Tensor] | None,
    dtype: torch.dtype,
) -> Tensor:
    """``split_heads`` in plain torch."""
    heads = rms_norm(projected.unflatten(-1, (-1, head_dim)).transpose(0, 1), weight, epsilon)
    return (heads if rope is None else rotate(heads, *rope)).to(dtype)[None]


def add_normed(
    residual: Tensor,
    branch: Tensor,
    weight: Tensor,
    epsilon: float,
    scalar: float = 1.0,
    other: Tensor | None = None,
    branch_weight: Tensor | None = None,
    other_weight: Tensor | None = None,
) -> None:
    """In place: ``residual = (residual + norm(branch) * weight) * scalar``, all [T, H] float32 and contiguous.

    With ``other``, the branch is the sum of the two, each normed with a weight of its own first.
    """
    if bindings.kernels() is None:
        add_normed_twin(residual, branch, weight, epsilon, scalar, other, branch_weight, other_weight)
        return
    bindings.entry("redraft_add_normed")(
        residual.data_ptr(), branch.data_ptr(), bindings.pointer(branch_weight), bindings.pointer(other),
        bindings.pointer(other_weight), weight.data_ptr(), epsilon, scalar, *residual.shape,
    )  # fmt: skip


def add_normed_twin(
    residual: Tensor,
    branch: Tensor,
    weight: Tensor,
    epsilon: float,
    scalar: float = 1.0,
    other: Tensor | None = None,
    branch_weight: Tensor | None = None,
    other_weight: Tensor | None = None,
) -> None:
    """``add_normed`` in plain torch."""
    if other is not None:
        branch = rms_norm(branch, branch_weight, epsilon) + rms_norm(other, other_weight, epsilon)
    residual.add_(rms_norm(branch, weight, epsilon)).mul_(scalar)
