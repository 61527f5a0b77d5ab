"""The gated feed-forward block of dense branches: GeGLU (tanh approximation) in Gemma, SwiGLU in Llama."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from redraft.layers.linear import Linear


class GatedMLP(nn.Module):
    """``down(activation(gate(x)) * up(x))``, [..., hidden] -> [..., hidden]."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, activation: Literal["gelu_tanh", "silu"] = "gelu_tanh"
    ) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size)
        self.up_proj = Linear(hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, hidden_size)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = F.silu(gate) if self.activation == "silu" else F.gelu(gate, approximate="tanh")
        return self.down_proj(gate * self.up_proj(x))
