"""A sampler of one's own: one small class says which positions of a step are accepted."""

from dataclasses import dataclass

import torch

import redraft

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"


@dataclass(frozen=True)
class ScheduledShare:
    """Accepts the surest positions, as many as the share of the steps that are done."""

    def accept(self, view: redraft.AcceptanceView) -> torch.Tensor:
        """Return bool [..., C]."""
        count = max(1, view.entropy.shape[-1] * view.step // view.steps)
        surest = view.entropy.topk(count, largest=False).indices
        return torch.zeros_like(view.open).scatter(-1, surest, True)


with redraft.load("sudoku") as engine:
    message = [{"role": "user", "content": PUZZLE}]
    for rule in (ScheduledShare(), redraft.ConfidenceThreshold(0.9), redraft.EntropyBound(0.1)):
        result = engine.generate(message, acceptance=rule, seed=7, max_denoising_steps=16)
        print(f"{rule}: {result.usage.denoising_steps} steps, {result.text.splitlines()[0]}")
