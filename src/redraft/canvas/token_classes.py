"""Classes of tokens that a constraint treats alike, and what a readout says about each class at each position.

A constraint's classes are uneven: a few heavy ones hold nearly all of a vocabulary, and hundreds share the rest. What
is heavy is summed along with every tile; the tokens of light classes are picked out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# A class with more than this share of the vocabulary is heavy. Summing one costs about as much as picking out so many.
HEAVY_SHARE = 1 / 32
MOST_HEAVY = 8
# A light class of more tokens than this is one whose every token should not be scored again for a draw.
LEAST_MIDDLE = 256
MOST_MIDDLE = 16
ANY = -1  # in place of a class: any token

Draw = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(positions [R], classes [R], uniforms [R]) -> tokens [R]: draws at some of the positions, from classes with mass."""


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
    """[h] int32: the classes with a large share of the vocabulary, at most MOST_HEAVY."""
    middle: Tensor
    """[m] int32: the largest of the other, light classes, at most MOST_MIDDLE."""
    light_tokens: Tensor
    """[L] int32, ascending: the tokens of all light classes."""
    first: Tensor
    """[n] int32: the first token of each class, -1 for one without tokens."""

    @classmethod
    def of(cls, token_class: Tensor | NDArray[np.integer], count: int | None = None) -> "TokenClasses":
        """Classes by their numbers ``token_class`` [V], integers from 0 on; ``count`` of them, or those that occur.

        Raises ValueError for a class that is negative or not below ``count``.
        """
        given = np.asarray(token_class.cpu() if isinstance(token_class, Tensor) else token_class)
        if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
            raise ValueError(f"classes are one integer for each token, not {given.dtype} {[*given.shape]}")
        least, most = (int(given.min()), int(given.max())) if len(given) else (0, -1)
        if least < 0:
            raise ValueError(f"class {least} of a token; classes are numbered from 0 on")
        if count is not None and most >= count:
            raise ValueError(f"class {most} of a token; there are {count} classes, numbered from 0 on")
        numbers = torch.from_numpy(given.astype(np.int32))
        n = most + 1 if count is None else count
        sizes = numbers.bincount(minlength=n)
        start = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
        tokens = numbers.argsort(stable=True).int()
        heavy = _largest(sizes, MOST_HEAVY, HEAVY_SHARE * len(numbers))
        light = torch.ones(n, dtype=torch.bool)
        light[heavy.long()] = False
        middle = _largest(sizes * light, MOST_MIDDLE, LEAST_MIDDLE)
        first = torch.full((n,), -1, dtype=torch.int32)
        first[sizes > 0] = tokens[start[:-1][sizes > 0]]
        return cls(numbers, n, start, tokens, heavy, middle, light[numbers].nonzero()[:, 0].int(), first)

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


@dataclass(frozen=True, eq=False)
class ClassReadout:
    """Per position of a canvas and token class, all of the processed logits; n classes."""

    mass: Tensor
    """[C, n] float32: the probability of each class."""
    plogp: Tensor
    """[C, n] float32: the sum of p log p over its tokens."""
    peak: Tensor
    """[C, n] float32: the natural log probability of its likeliest token, -inf for a class of no tokens."""
    argmax: Tensor
    """[C, n] int64: its likeliest token, the first among equals; -1 for a class of no tokens."""
    draw_with_mass: Draw
    """Draws from classes that are known to have mass; ``draw`` is what to call."""

    @torch.no_grad()
    def draw(self, classes: Tensor, uniforms: Tensor) -> Tensor:
        """Draw a token of a class at every position, in proportion to the tokens' probabilities -> [C] int64.

        ``uniforms`` [C] float64 in [0, 1) pick it by inverse CDF in token order within the class. Where ``classes`` [C]
        int64 is -1 any token is drawn, as ``Readout.sample`` is. A class whose probability is too small for float32
        gives its likeliest token. Raises ValueError for a class that does not exist or has no tokens.
        """
        drawn = self._argmax_of(classes, uniforms)
        anything = classes == ANY
        mass = self.mass.gather(1, classes.clamp(min=0)[:, None])[:, 0] if self.mass.shape[1] else uniforms
        positions = (anything | (mass > 0)).nonzero()[:, 0]
        if len(positions):
            drawn[positions] = self.draw_with_mass(positions, classes[positions], uniforms[positions])
        return drawn

    def _argmax_of(self, classes: Tensor, uniforms: Tensor) -> Tensor:
        """The likeliest token of each position's class; checks what is to be drawn from."""
        length, count = self.argmax.shape
        for name, values in (("classes", classes), ("uniforms", uniforms)):
            if values.shape != (length,):
                raise ValueError(f"{name} {[*values.shape]} must be [{length}]")
        outside = (classes < ANY) | (classes >= count)
        if outside.any():
            raise ValueError(
                f"class {int(classes[outside][0])} to draw from is not one of {count}, nor -1 for any token"
            )
        if count == 0:
            return torch.full_like(classes, -1)
        likeliest = self.argmax.gather(1, classes.clamp(min=0)[:, None])[:, 0]
        empty = (likeliest < 0) & (classes != ANY)
        if empty.any():
            raise ValueError(f"class {int(classes[empty][0])} has no tokens to draw from")
        return likeliest


class ClassSums:
    """Sums over each class's tokens, tile by tile: on a running peak of the whole distribution."""

    def __init__(self, classes: TokenClasses, length: int, device: torch.device) -> None:
        self._token_class = classes.token_class.to(device)
        self._heavy = classes.heavy.to(device).long()
        shape = (length, classes.count)
        self._mass = torch.zeros(shape, device=device)
        self._weighted = torch.zeros(shape, device=device)
        self._largest = torch.full(shape, float("-inf"), device=device)
        # A position of NaN has no likeliest token, and yet must name one.
        self._argmax = classes.first.to(device).long().repeat(length, 1)
        self._peak = torch.full((length, 1), float("-inf"), device=device)
        self._tile_masses: list[Tensor] = []

    @property
    def tile_masses(self) -> Tensor:
        """[C, h, tiles]: the mass of each heavy class in each tile, relative to the tile's peak."""
        return torch.stack(self._tile_masses, dim=-1)

    def add(self, start: int, scores: Tensor, weights: Tensor, peak: Tensor) -> None:
        """Take in a tile from token ``start`` whose ``scores`` [C, tile] are relative to its own ``peak`` [C]."""
        index = self._token_class[start : start + scores.shape[1]].long().expand(scores.shape)
        mass = torch.zeros_like(self._mass).scatter_add_(1, index, weights)
        weighted = torch.zeros_like(self._mass).scatter_add_(1, index, weights * scores)
        self._tile_masses.append(mass[:, self._heavy])
        self._find_largest(start, index, scores + peak[:, None])
        new = torch.maximum(self._peak, peak[:, None])
        shift = torch.where(self._mass > 0, self._peak - new, 0.0)
        down, own = (self._peak - new).exp(), peak[:, None] - new
        self._weighted = (self._weighted + shift * self._mass) * down + (weighted + own * mass) * own.exp()
        self._mass = self._mass * down + mass * own.exp()
        self._peak = new

    def _find_largest(self, start: int, index: Tensor, logits: Tensor) -> None:
        largest = torch.full_like(self._largest, float("-inf")).scatter_reduce_(1, index, logits, "amax")
        beyond = start + logits.shape[1]
        tokens = torch.arange(start, beyond, device=logits.device)
        among = torch.where(logits == largest.gather(1, index), tokens, beyond)
        first = torch.full_like(self._argmax, beyond).scatter_reduce_(1, index, among, "amin")
        self._argmax = torch.where(largest > self._largest, first, self._argmax)
        self._largest = torch.maximum(self._largest, largest)

    def finish(self, total: Tensor, draw_with_mass: Draw) -> ClassReadout:
        """The readout, where ``total`` [C] is the sum of all weights relative to the largest logit."""
        total = total[:, None]
        return ClassReadout(
            mass=self._mass / total,
            plogp=(self._weighted - self._mass * total.log()) / total,
            peak=self._largest - self._peak - total.log(),
            argmax=self._argmax,
            draw_with_mass=draw_with_mass,
        )
