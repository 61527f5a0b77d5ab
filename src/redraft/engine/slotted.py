"""A denoising step on a canvas of slots: every slot holds one of its texts, and all of them together one value."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import Readout
from redraft.canvas.step import Pinned
from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.automaton.slots import SlotAutomaton
from redraft.engine.constrained import ConstrainedStep, class_sums, conditioned
from redraft.kernels.inference import infer, infer_in_order


@dataclass(frozen=True, eq=False)
class SlotsConstraint:
    """The slots of one canvas (``constrained.OnCanvas``)."""

    automaton: SlotAutomaton
    classes: TokenClasses
    frame: Tensor
    """[L] bool: the positions of what stands between slots. Behind the last slot anything may stand."""
    reads_ahead: bool = True
    """False where gaps are revealed from their beginning on (``constrain.inference.chain.infer_in_order``)."""

    def apply(
        self,
        readout: Readout,
        draws: PositionRandom,
        greedy: bool,
        pinned: Pinned | None,
        settled: Pinned | None = None,
    ) -> ConstrainedStep:
        """Condition a step's readout, with its class sums, on every slot holding a text of its own, and end tokens.

        The frame has to be pinned. Raises ConstraintError where tokens that stay contradict the slots.
        """
        stands = pinned if settled is None else settled
        if stands is None or not bool(stands.mask[: len(self.frame)][self.frame].all()):
            raise ValueError("what stands between slots is not pinned")
        positions, frame, automaton = len(self.frame), self.frame.numpy(), self.automaton
        mask, own = stands.mask[:positions].numpy(), stands.tokens[:positions].numpy()
        numbers = np.where(frame, automaton.frame_class, automaton.token_class[own])
        sums = class_sums(readout).rows(slice(positions)).pinned(np.flatnonzero(mask), numbers[mask])
        uniforms = draws.path[:positions].numpy()
        found = (infer if self.reads_ahead else infer_in_order)(
            automaton.chain, automaton.start, automaton.ended, sums, uniforms
        )
        # No token is of the frame's class, so none can be looked for there.
        shown = replace(
            found,
            best_classes=_outside(frame, found.best_classes),
            sampled_classes=_outside(frame, found.sampled_classes),
        )
        return conditioned(readout, shown, sums, automaton.token_class, draws, greedy)

    def closing(self) -> "SlotsConstraint":
        """Return the same: at every step all slots are whole."""
        return self

    def accepts(self, state: int) -> bool:
        """Tell that the canvas may end at any step."""
        return True

    @property
    def fewest(self) -> int:
        """None: a canvas holds all of its slots."""
        return 0

    def place_after(self, state: int) -> int:
        """Return the place after the last slot, by the state that inference ended in."""
        return next(place for place, last in self.automaton.after.items() if last == state)


def _outside(frame: NDArray[np.bool_], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(frame, -1, classes)
