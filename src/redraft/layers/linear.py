"""A bias-free linear layer that keeps the residual stream's float32 outside and its own dtype inside."""

import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """``x @ weight.T`` with weight [out, in]; the input is cast to the weight's dtype, the output keeps it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights of a layer that is not loaded."""
        if self.weight.is_meta:
            # Nothing is drawn, and to find that out takes torch milliseconds.
            return
        nn.init.normal_(self.weight, std=self.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight)
