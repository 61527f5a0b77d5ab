"""Muon (Jordan et al. 2024) for the hidden matrices, AdamW for everything else, on one learning-rate schedule."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from redraft.layers.experts import Experts


@dataclass(frozen=True)
class OptimizerConfig:
    """Learning rates at their height, the warm-up in updates, and the share of the run after which they fall
    linearly to ``final_share`` of their height."""

    matrix_lr: float = 0.02
    other_lr: float = 3e-3
    weight_decay: float = 0.01
    warmup: int = 40
    decay_from: float = 0.4
    final_share: float = 0.02
    clip_norm: float = 1.0

    def share(self, step: int, steps: int) -> float:
        """The learning rates' share of their height at update ``step`` (from 0) of ``steps``."""
        progress = step / steps
        decay = 1.0 if progress < self.decay_from else (1 - progress) / (1 - self.decay_from)
        return min(1.0, (step + 1) / self.warmup) * max(self.final_share, decay)


class Stacked(nn.Module):
    """Presents a matrix [E * rows, columns] as the stack [E, rows, columns] that the experts read."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, flat: Tensor) -> Tensor:
        return flat.unflatten(0, (self.count, -1))

    def right_inverse(self, stack: Tensor) -> Tensor:
        return stack.flatten(0, 1)


def flatten_experts(model: nn.Module) -> None:
    """Keep the experts' 3-D weights as matrices, the only shape Muon takes."""
    for module in model.modules():
        if isinstance(module, Experts):
            for name in ("gate_up_proj", "down_proj"):
                count = len(getattr(module, name))
                parametrize.register_parametrization(module, name, Stacked(count), unsafe=True)


class Optimizer:
    """Both optimizers behind one ``step``; ``state`` restores both."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed_tokens" not in name and "router" not in name]
        muon = {id(p) for p in matrices}
        self._parameters = [p for _, p in named]
        self._config = config
        self._heights = [config.matrix_lr, config.other_lr]
        self._parts = [
            torch.optim.Muon(
                matrices, lr=config.matrix_lr, weight_decay=config.weight_decay, momentum=0.95, adjust_lr_fn="original"
            ),
            torch.optim.AdamW(
                [p for p in self._parameters if id(p) not in muon],
                lr=config.other_lr,
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        ]

    def update(self, step: int, steps: int) -> float:
        """Apply the gradients at update ``step`` of ``steps`` and clear them; returns their norm before clipping."""
        share = self._config.share(step, steps)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.clip_norm)
        for part, height in zip(self._parts, self._heights, strict=True):
            for group in part.param_groups:
                group["lr"] = height * share
            part.step()
            part.zero_grad(set_to_none=True)
        return norm.item()

    def state(self) -> list[dict[str, object]]:
        return [part.state_dict() for part in self._parts]

    def load(self, state: list[dict[str, object]]) -> None:
        for part, own in zip(self._parts, state, strict=True):
            part.load_state_dict(own)
