"""The history of each position over a request's denoising steps: accepted, withdrawn, corrected."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from redraft.engine.result import StepEvent

_NOTHING = -1


@dataclass
class Trace:
    """An ``on_step`` callback that counts. Positions are those of one canvas at a time."""

    steps: int = 0
    acceptances: int = 0
    """Positions accepted, summed over steps."""
    withdrawals: int = 0
    """Times a position accepted at one step was renoised at the next; nothing is at a canvas's last step."""
    corrections: int = 0
    """Times a position that had been accepted with one token was later accepted, or committed, with another."""
    changed: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    """[C] bool of the current canvas: corrected at the last step."""
    _held: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    _was_accepted: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    _canvas: int = -1
    _previous_step: int = 0

    def __call__(self, event: StepEvent) -> None:
        """Take in one step."""
        # Steps count up within a canvas; one that does not is the first of the next request's canvas.
        if event.canvas_index != self._canvas or event.step <= self._previous_step:
            self._canvas = event.canvas_index
            self._held = torch.full_like(event.argmax, _NOTHING)
            self._was_accepted = torch.zeros_like(event.accepted)
        self._previous_step = event.step
        self.steps += 1
        self.acceptances += int(event.accepted.sum())
        # The canvas that is committed is the argmax; at the last step it has the last word on every position.
        last = event.last
        self.withdrawals += 0 if last else int((self._was_accepted & ~event.accepted).sum())
        settled, tokens = (torch.ones_like(event.accepted), event.argmax) if last else (event.accepted, event.sample)
        self.changed = settled & (self._held != _NOTHING) & (self._held != tokens)
        self.corrections += int(self.changed.sum())
        self._held = torch.where(settled, tokens, self._held)
        self._was_accepted = event.accepted
