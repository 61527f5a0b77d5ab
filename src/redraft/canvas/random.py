"""Counter-based randomness: every number is a pure function of (seed, canvas, step, position).

Philox 4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), as numpy implements it: the same bits
on every platform, with no state to carry between steps, requests or machines.
"""

import numpy as np
import torch
from torch import Tensor

# The step number under which a canvas's initial noise is drawn; denoising steps count from N down to 1.
INITIAL = 0


class PositionRandom:
    """The draws of one denoising step: four uniforms for each position.

    A position's draws do not depend on how long the canvas is.
    """

    def __init__(self, seed: int, canvas: int, step: int, length: int) -> None:
        """``seed`` 0 .. 2**64-1; ``canvas`` and ``step`` count from 0; ``length`` positions.

        Raises ValueError for a seed outside its range.
        """
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed {seed} is out of range; it must be from 0 to {(1 << 64) - 1}")
        # One counter value yields four 64-bit words, so that position p owns row p.
        generator = np.random.Philox(
            key=np.array([seed, canvas], dtype=np.uint64), counter=np.array([0, step, 0, 0], dtype=np.uint64)
        )
        words = generator.random_raw(4 * length).reshape(length, 4)
        # The top 53 bits as a float64 in [0, 1).
        self._uniforms = torch.from_numpy((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)

    @property
    def sample(self) -> Tensor:
        """Float64 [C] in [0, 1): picks the token sampled at each position."""
        return self._uniforms[:, 0]

    @property
    def noise(self) -> Tensor:
        """Float64 [C] in [0, 1): picks the noise token at each position."""
        return self._uniforms[:, 1]

    @property
    def path(self) -> Tensor:
        """Float64 [C, 2] in [0, 1): where a constraint holds, the edge and the class of each position's sample."""
        return self._uniforms[:, 2:]
