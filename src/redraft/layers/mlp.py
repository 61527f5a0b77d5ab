"""The gated feed-forward block (GeGLU, tanh approximation) that Gemma uses for dense branches."""

import torch.nn.functional as F
from torch import Tensor, nn

from redraft.layers.linear import Linear


class GatedMLP(nn.Module):
    """``down(gelu_tanh(gate(x)) * up(x))``, [..., hidden] -> [..., hidden]."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size)
        self.up_proj = Linear(hidden_size, intermediate_size)
        self.down_proj = Linear(intermediate_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))
