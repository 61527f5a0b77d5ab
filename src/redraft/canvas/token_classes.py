"""Classes of tokens that a constraint treats alike, and what a readout says about each class at each position.

A constraint's classes are uneven: a few heavy ones hold nearly all of a vocabulary, and hundreds share the rest. What
is heavy is summed along with every tile; the tokens of light classes are picked out.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A class with more than this share of the vocabulary is heavy. Summing one costs about as much as picking out so many.
HEAVY_SHARE = 1 / 32
MAX_HEAVY = 8
# A light class of more tokens than this is one whose every token should not be scored again for a draw.
MIN_MIDDLE_SIZE = 256
MAX_MIDDLE = 16
ANY = -1  # in place of a class: any token


@dataclass(frozen=True, eq=False)
class TokenClasses:
    """A partition of V tokens into n classes, checked and sorted once for all readouts. Make it with ``of``."""

    token_class: Tensor
    """[V] int32 on the CPU, contiguous: each token's class."""
    count: int
    """n; some classes may have no tokens."""
    start: Tensor
    """[n + 1] int64: the tokens of class c are ``tokens[start[c] : start[c + 1]]``, ascending."""
    tokens: Tensor
    """[V] int32."""
    heavy: Tensor
    """[h] int32: the classes with a large share of the vocabulary, at most MAX_HEAVY."""
    middle: Tensor
    """[m] int32: the largest of the other, light classes, at most MAX_MIDDLE."""
    light_tokens: Tensor
    """[L] int32, ascending: the tokens of all light classes."""
    first: Tensor
    """[n] int32: the first token of each class, -1 for one without tokens."""

    @classmethod
    def of(
        cls,
        token_class: Tensor | NDArray[np.integer],
        count: int | None = None,
        tokens: NDArray[np.integer] | None = None,
    ) -> "TokenClasses":
        """Classes by their numbers ``token_class`` [V], integers from 0 on; ``count`` of them, or those that occur.

        ``tokens`` are those of class 0, 1, ..., ascending in each, where they have been sorted before. Raises
        ValueError for a class that is negative or not below ``count``, and for tokens that are not all of them.
        """
        given = np.asarray(token_class.cpu() if isinstance(token_class, Tensor) else token_class)
        if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"classes are one integer for each token, not {given.dtype} {[*given.shape]}")
        lowest, highest = (int(given.min()), int(given.max())) if len(given) else (0, -1)
        if lowest < 0:
            raise ValueError(f"class {lowest} of a token; classes are numbered from 0 on")
        if count is not None and highest >= count:
            raise ValueError(f"class {highest} of a token; there are {count} classes, numbered from 0 on")
        numbers = torch.from_numpy(given.astype(np.int32))
        n = highest + 1 if count is None else count
        sizes = numbers.bincount(minlength=n)
        start = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
        if tokens is None:
            # Numpy sorts numbers of 16 bits in linear time.
            tokens = np.argsort(given.astype(np.min_scalar_type(n)), kind="stable")
        elif len(tokens) != len(given):
            raise ValueError(f"{len(tokens)} sorted tokens, where {len(given)} have a class")
        by_class = torch.from_numpy(tokens.astype(np.int32))
        heavy = _largest(sizes, MAX_HEAVY, HEAVY_SHARE * len(numbers))
        light = torch.ones(n, dtype=torch.bool)
        light[heavy.long()] = False
        middle = _largest(sizes * light, MAX_MIDDLE, MIN_MIDDLE_SIZE)
        first = torch.full((n,), -1, dtype=torch.int32)
        first[sizes > 0] = by_class[start[:-1][sizes > 0]]
        return cls(numbers, n, start, by_class, heavy, middle, light[numbers].nonzero()[:, 0].int(), first)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        return sum(part.nbytes for part in vars(self).values() if isinstance(part, Tensor))

    def tokens_of(self, token_class: int) -> Tensor:
        """The tokens of a class, ascending [.] int32."""
        return self.tokens[self.start[token_class] : self.start[token_class + 1]]


def _largest(sizes: Tensor, count: int, above: float) -> Tensor:
    """[.] int32, ascending: the ``count`` largest of the classes whose ``sizes`` [n] are above this."""
    largest, which = sizes.sort(descending=True, stable=True)
    return which[:count][largest[:count] > above].sort().values.int()
