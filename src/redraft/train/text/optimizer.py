"""AdamW, or Muon (Jordan et al. 2024) for matrices, with float32 masters of weights that are computed in bfloat16."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Name = Literal["adamw", "muon"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Rates rise over ``warmup`` steps, then fall linearly to ``final_share`` of their height at the end of the run."""

    name: Name = "adamw"
    learning_rate: float = 6e-4
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.98
    warmup: int = 20
    final_share: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float | None = None
    """Decay of the moving average that is measured and exported in place of the newest weights."""

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise ValueError(f"optimizer {self.name!r} is not known; choose one of {', '.join(get_args(Name))}")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be a finite number above 0")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay {self.ema_decay} must be between 0 and 1")

    def rate(self, step: int, progress: float) -> float:
        """Return the learning rate of update ``step``, from 0, at ``progress`` of the run, from 0 to 1."""
        decay = 1 - (1 - self.final_share) * min(1.0, progress)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup)) * decay


class Optimizer:
    """Updates the trained parameters of a model."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        config: OptimizerConfig,
        beginnings: Mapping[str, Tensor] | None = None,
    ) -> None:
        """``beginnings``: the first values of parameters, float32, where they hold them rounded."""
        self._config = config
        self._parameters = dict(parameters)
        exact = {**{name: parameter.detach() for name, parameter in parameters.items()}, **(beginnings or {})}
        self.masters: dict[str, Tensor] = {
            name: parameter
            if parameter.dtype == torch.float32
            else exact[name].to(parameter.device, torch.float32, copy=True).requires_grad_()
            for name, parameter in parameters.items()
        }
        self._average: dict[str, Tensor] | None = None
        if config.ema_decay is not None:
            self._average = {name: master.detach().clone() for name, master in self.masters.items()}
        self._parts = self._make_parts()
        self.rate = 0.0
        """The learning rate of the last update."""

    @property
    def values(self) -> dict[str, Tensor]:
        """The float32 weights that a run yields: the average where one is kept."""
        return {name: value.detach() for name, value in (self._average or self.masters).items()}

    def update(self, step: int, progress: float) -> float:
        """Apply the gradients and clear them; returns their norm before clipping."""
        for name, parameter in self._parameters.items():
            master = self.masters[name]
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
                parameter.grad = None
        norm = nn.utils.clip_grad_norm_(list(self.masters.values()), self._config.clip_norm)
        self.rate = self._config.rate(step, progress)
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = self.rate
            part.step()
            part.zero_grad(set_to_none=True)
        self._copy_back()
        self._update_average(step)
        return float(norm)

    def state(self) -> dict[str, Any]:
        """Return all that ``load`` restores."""
        masters = {name: master.detach() for name, master in self.masters.items()}
        return {"masters": masters, "average": self._average, "parts": [part.state_dict() for part in self._parts]}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Take over the state of another run of the same parameters."""
        for name, master in self.masters.items():
            master.copy_(state["masters"][name])
        self._copy_back()
        if self._average is not None:
            for name, average in self._average.items():
                average.copy_(state["average"][name])
        for part, own in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(own)

    def _make_parts(self) -> list[torch.optim.Optimizer]:
        config = self._config
        muon = self.masters if config.name == "muon" else {}
        matrices = [
            master
            for name, master in muon.items()
            if master.ndim == 2 and not name.startswith(("embed_tokens.", "lm_head."))
        ]
        chosen = {id(matrix) for matrix in matrices}
        others = [master for master in self.masters.values() if id(master) not in chosen]
        parts: list[torch.optim.Optimizer] = []
        if matrices:
            # Scaled to the size of AdamW's updates, so that one learning rate is right for both.
            parts.append(
                torch.optim.Muon(
                    matrices,
                    lr=config.learning_rate,
                    weight_decay=config.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            parts.append(
                torch.optim.AdamW(
                    others,
                    lr=config.learning_rate,
                    betas=(config.beta1, config.beta2),
                    weight_decay=config.weight_decay,
                    fused=True,
                )
            )
        return parts

    @torch.no_grad()
    def _copy_back(self) -> None:
        for name, parameter in self._parameters.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    @torch.no_grad()
    def _update_average(self, step: int) -> None:
        """Move the average; over the first updates its memory is a tenth of the run, so that it forgets the start."""
        if self._average is None or self._config.ema_decay is None:
            return
        weight = 1 - min(self._config.ema_decay, (1 + step) / (10 + step))
        for name, average in self._average.items():
            average.lerp_(self.masters[name].detach(), weight)
