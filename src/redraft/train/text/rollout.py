"""The sampler in training: canvases are carried on by ``canvas.step``, as in serving, and then scored as they stand."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.canvas.readout import ReadoutSpec
from redraft.canvas.step import CanvasState, StepRules, step
from redraft.canvas.stopping import ReproducesCanvas
from redraft.train.text.adapters import TrainedModel
from redraft.train.text.batch import Batch, PlacedCanvas


@dataclass(frozen=True)
class GreedyDraws:
    """No randomness: samples are the likeliest tokens, and a mask is a mask (``canvas.step.Draws``)."""

    length: int

    @property
    def sample(self) -> Tensor:
        return torch.zeros(self.length, dtype=torch.float64)

    @property
    def noise(self) -> Tensor:
        return torch.zeros(self.length, dtype=torch.float64)


@dataclass(frozen=True)
class Sampler:
    """Reveals every token that is likelier than a threshold, and always the surest one."""

    model: TrainedModel
    threshold: float
    steps: int
    """The limit; at the last of so many steps everything is revealed."""

    @property
    def rules(self) -> StepRules:
        """The rules of a step."""
        model = self.model.model
        assert model.corruption is not None, "what is trained has canvases"
        return StepRules(ConfidenceThreshold(self.threshold), ReproducesCanvas(), model.corruption, self.steps)

    @torch.no_grad()
    def advance(self, batch: Batch, canvases: Sequence[PlacedCanvas], number: int) -> None:
        """Take step ``number``, from 1 on, on some canvases of a batch, in place."""
        hidden, flat = self.model.hidden(batch), batch.tokens
        rows = [hidden[canvas.first : canvas.first + len(canvas.clean)] for canvas in canvases]
        readouts = self.model.model.readout(rows, [ReadoutSpec(1.0)] * len(rows)) if rows else []
        for canvas, readout in zip(canvases, readouts, strict=True):
            # The first row is the end of the context.
            own = slice(canvas.first + 1, canvas.first + 1 + len(canvas.clean))
            open = canvas.hidden.to(hidden.device)
            state = CanvasState(flat[own].to(hidden.device), open, (~open).float(), number)
            outcome = step(state, readout, GreedyDraws(len(canvas.clean)), self.rules)
            flat[own] = outcome.state.tokens.cpu()
            canvas.hidden = outcome.state.open.cpu()


def roll_out(sampler: Sampler, batch: Batch) -> None:
    """Take the steps that canvases of a batch are to take before they are scored."""
    for number in range(1, 1 + max((canvas.sampled_steps for canvas in batch.canvases), default=0)):
        sampler.advance(batch, [canvas for canvas in batch.canvases if canvas.sampled_steps >= number], number)
