"""Draws from a tiled vocabulary without a read on the host, for devices other than the CPU.

The vocabulary is cut into groups of a few tokens. One pass over it leaves each group's mass; a group is drawn by these,
its tokens are scored once more, and one of them is drawn. All of it is in fixed point, and of a size that no value
decides.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.canvas.fixed_point import first_above, fixed, fractions
from redraft.canvas.token_classes import ANY, TokenClasses
from redraft.layers.tiles import Tiles

# Tokens of a group. Of each row so many rows of the table are gathered, and the masses of all groups are kept.
GROUP = 32


def group_sums(weights: Tensor) -> Tensor:
    """The sum of each group's weights of a tile [R, tile] -> [R, groups]; the last group may be shorter."""
    short = -weights.shape[1] % GROUP
    return F.pad(weights, (0, short)).unflatten(1, (-1, GROUP)).sum(-1)


class Groups:
    """The masses of all groups, tile by tile, each tile's relative to a peak of its own."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._peaks: list[Tensor] = []

    def add(self, weights: Tensor, peak: Tensor) -> None:
        """Take in a tile's weights [R, tile], relative to its ``peak`` [R]."""
        self.add_sums(group_sums(weights), peak)

    def add_sums(self, sums: Tensor, peak: Tensor) -> None:
        """Take in the sums of a tile's groups [R, groups], relative to its ``peak`` [R]."""
        self._sums.append(sums)
        self._peaks.append(peak)

    def draw(self, tiles: Tiles, rows: Tensor, fraction: Tensor, members: "_Members | None" = None) -> Tensor:
        """Draw a token at each of ``rows`` [R] of ``tiles`` at ``fraction`` [R], among ``members`` if given -> [R]."""
        peaks = torch.stack(self._peaks, dim=-1)
        factors = (peaks - peaks.amax(-1, keepdim=True)).exp()
        scaled = [sums * factors[:, index : index + 1] for index, sums in enumerate(self._sums)]
        chosen, rest = first_above(fixed(torch.cat(scaled, dim=-1)), fraction)
        each = self._sums[0].shape[1]
        start = torch.div(chosen, each, rounding_mode="floor") * tiles.tile + chosen % each * GROUP
        tokens = start + torch.arange(GROUP, device=start.device)
        # A short group ends where its tile does.
        end = (torch.div(start, tiles.tile, rounding_mode="floor") + 1) * tiles.tile
        there = (tokens < end) & (tokens < tiles.vocabulary)
        tokens = tokens.clamp(max=tiles.vocabulary - 1)
        logits = tiles.picked(tokens, rows)
        there = there if members is None else there & members.among(tokens)
        logits = logits.masked_fill(~there, float("-inf"))
        weights = fixed((logits - logits.amax(-1, keepdim=True)).exp())
        return tokens.gather(1, first_above(weights, rest[:, 0])[0])[:, 0]


class _Members:
    """Which tokens each row may draw: those of its class."""

    def __init__(self, token_class: Tensor, classes: Tensor) -> None:
        self._token_class, self._classes = token_class, classes[:, None]

    def among(self, tokens: Tensor | slice) -> Tensor:
        """[R, n] bool."""
        return (self._token_class[tokens] == self._classes) | (self._classes == ANY)


class GroupClassDraw:
    """Draws from token classes (``canvas.readout.Draw``): one more pass over the vocabulary, in which each row weighs
    its own class alone."""

    def __init__(self, tiles: Tiles, classes: TokenClasses) -> None:
        self._tiles, self._classes = tiles, classes

    def __call__(self, positions: Tensor, classes: Tensor, uniforms: Tensor) -> Tensor:
        tiles, device = self._tiles, self._tiles.device
        if classes.device.type == "cpu":
            # What is on the device is not looked at: the host would have to wait for it.
            empty = classes[(classes != ANY) & (self._classes.first[classes.clamp(min=0)] < 0)]
            if len(empty):
                raise ValueError(f"class {int(empty[0])} has no tokens to draw from")
        members = _Members(self._classes.token_class.to(device), classes.to(device))
        groups = Groups()
        for index in range(-(-tiles.vocabulary // tiles.tile)):
            part = tiles.columns(index)
            scores, peak, _ = tiles.shifted(part, positions)
            scores = scores.masked_fill(~members.among(part), float("-inf"))
            highest = scores.amax(-1)
            groups.add((scores - highest[:, None].clamp(min=-1e30)).exp(), peak + highest)
        return groups.draw(tiles, positions, fractions(uniforms).to(device), members)
