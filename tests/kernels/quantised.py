"""What the formats make of numbers, recomputed in float64."""

import torch
from torch import Tensor

from redraft.kernels.norm import Norm
from redraft.kernels.packed import Activation, Format


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def normed(x: Tensor, norm: Norm | None) -> Tensor:
    """``x`` in float64, divided by its root mean square where there is a norm."""
    x = x.double()
    if norm is None:
        return x
    x = x / (x.square().mean(-1, keepdim=True) + norm.epsilon).sqrt()
    return x if norm.weight is None else x * norm.weight.double()


def operand(rows: Tensor, format: Format) -> Tensor:
    """The numbers, float64, that a product in ``format`` takes for ``rows``."""
    if format == "float32":
        return rows.float().double()
    if format == "bfloat16":
        return rows.float().bfloat16().double()
    most = rows.float().abs().amax(-1, keepdim=True)
    whole = torch.where(most > 0, rows.double() * (127 / most).double(), 0.0).round()
    return whole * (most / 127).double()


def one_step(rows: Tensor, format: Format) -> Tensor:
    """How far apart two neighbours of ``operand`` lie at most, one a row: rounding decides between them."""
    most = rows.abs().amax(-1, keepdim=True)
    return most * {"float32": 0.0, "bfloat16": 2.0**-7, "int8": 1 / 127, "int4": 1 / 127}[format]


def gated(product: Tensor, activation: Activation | None = "gelu_tanh") -> Tensor:
    """The tanh form of GELU, or SiLU, of the first half, spelled out, times the second half."""
    gate, up = product.chunk(2, dim=-1)
    if activation == "silu":
        return gate / (1 + (-gate).exp()) * up
    return 0.5 * gate * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3))) * up


def assert_within(actual: Tensor, expected: Tensor, tolerance: Tensor | float) -> None:
    """Each element within a tolerance of its own."""
    assert actual.shape == expected.shape
    excess = (actual.double() - expected).abs() - tolerance
    worst = excess.max().item() if excess.numel() else 0.0
    assert worst <= 0, f"{worst:.3g} beyond the tolerance, at {excess.argmax().item()}"
