"""A bias-free linear layer that keeps the residual stream's float32 outside and its own dtype inside."""

import torch.nn.functional as F
from torch import Tensor, nn


def draw(weight: nn.Parameter, std: float) -> None:
    """Draw the values of a layer that is not loaded; on the meta device there are none to draw.

    Torch would find that out by itself, with modules of its compiler, which take seconds to import.
    """
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


class Linear(nn.Linear):
    """``x @ weight.T`` with weight [out, in]; the input is cast to the weight's dtype, the output keeps it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights of a layer that is not loaded."""
        draw(self.weight, std=self.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight)
