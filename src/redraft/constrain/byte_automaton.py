"""Expressions to minimal byte automata: NFA, subset construction, minimisation, all within stated limits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ByteAutomaton:
    """A minimal deterministic automaton over UTF-8 bytes, without states that are unreachable or dead ends.

    State ``states`` (the last row) is the dead one: it leads only to itself and accepts nothing.
    """

    transitions: NDArray[np.int32]
    """[states + 1, 256]: the state after a byte."""
    start: int
    accepting: NDArray[np.bool_]
    """[states + 1]."""

    @property
    def states(self) -> int:
        return len(self.transitions) - 1
