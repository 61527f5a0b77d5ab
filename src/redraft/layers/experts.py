"""Mixture of experts: a softmax router on the raw residual and gated experts in fused 3-D weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redraft.layers.linear import Linear, draw
from redraft.layers.norm import rms_norm


class Router(nn.Module):
    """Chooses ``top_k`` of the experts for every token.

    It reads the residual itself, not the normed input of the experts: with the latter a released
    checkpoint emits stray tokens and never converges.
    """

    def __init__(self, hidden_size: int, num_experts: int, top_k: int, eps: float) -> None:
        super().__init__()
        self.proj = Linear(hidden_size, num_experts)
        self.scale = nn.Parameter(torch.ones(hidden_size))
        self.per_expert_scale = nn.Parameter(torch.ones(num_experts))
        self.top_k = top_k
        self.eps = eps

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """residual [N, H] -> weights [N, top_k] float32 and expert indices [N, top_k]."""
        normed = rms_norm(residual, None, self.eps) * (self.scale * residual.shape[-1] ** -0.5)
        probabilities = torch.softmax(self.proj(normed), dim=-1, dtype=torch.float32)
        if self.top_k == probabilities.shape[-1]:
            chosen = torch.arange(self.top_k, device=residual.device).expand(probabilities.shape)
            return probabilities * self.per_expert_scale, chosen
        weights, chosen = probabilities.topk(self.top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        return weights * self.per_expert_scale[chosen], chosen


class Experts(nn.Module):
    """Gated experts with weights ``gate_up_proj`` [E, 2I, H] and ``down_proj`` [E, H, I]."""

    def __init__(self, hidden_size: int, intermediate_size: int, num_experts: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(num_experts, 2 * intermediate_size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        draw(self.gate_up_proj, std=hidden_size**-0.5)
        draw(self.down_proj, std=intermediate_size**-0.5)

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """x [N, H], weights and chosen [N, top_k] -> the weighted sum of the experts' outputs [N, H]."""
        x = x.to(self.gate_up_proj.dtype)
        if chosen.shape[-1] == len(self.gate_up_proj):
            return self._all_experts(x, weights)
        return self._chosen_experts(x, weights, chosen)

    def _all_experts(self, x: Tensor, weights: Tensor) -> Tensor:
        """Every expert takes part, so that two plain matmuls do (``weights`` is in expert order)."""
        experts, _, hidden = self.gate_up_proj.shape
        gate, up = F.linear(x, self.gate_up_proj.flatten(0, 1)).unflatten(-1, (experts, -1)).chunk(2, dim=-1)
        inner = F.gelu(gate, approximate="tanh") * up * weights[..., None].to(x.dtype)
        return F.linear(inner.flatten(1), self.down_proj.transpose(0, 1).reshape(hidden, -1))

    def _chosen_experts(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """Tokens are sorted by expert, so that each expert sees one contiguous block of rows."""
        order = chosen.flatten().argsort(stable=True)
        rows = order // chosen.shape[-1]
        counts = torch.bincount(chosen.flatten(), minlength=len(self.gate_up_proj)).tolist()
        gathered = x[rows]
        outputs = torch.empty_like(gathered)
        start = 0
        for expert, count in enumerate(counts):
            if count == 0:
                continue
            block = slice(start, start + count)
            gate, up = F.linear(gathered[block], self.gate_up_proj[expert]).chunk(2, dim=-1)
            outputs[block] = F.linear(F.gelu(gate, approximate="tanh") * up, self.down_proj[expert])
            start += count
        # Undoing the sort and summing over top_k keeps the order of additions fixed, which index_add_ would not.
        unsorted = torch.empty_like(outputs)
        unsorted[order] = outputs
        per_choice = unsorted.view(*chosen.shape, -1).float()
        return (per_choice * weights[..., None]).sum(dim=1)
