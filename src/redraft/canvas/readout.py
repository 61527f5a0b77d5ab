"""The readout of a denoising step, and the specification of what it asks of the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from redraft.canvas.shaping import Shaping
from redraft.canvas.token_classes import ANY, TokenClasses

LogProb = Callable[[Tensor], Tensor]

Draw = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(positions [R], classes [R], uniforms [R]) -> tokens [R]: draws at some of the positions, from classes with mass."""


@dataclass(frozen=True, eq=False)
class ReadoutSpec:
    """A specification of what is wanted of the hidden rows of one canvas."""

    temperature: float
    """Divides the soft-capped logits."""
    uniforms: Tensor | None = None
    """[C] float64 in [0, 1): pick the samples; None takes the likeliest token as the sample."""
    self_conditioning: bool = False
    """The soft embedding is wanted, for the next step."""
    top_logprobs: int = 0
    """The number of the likeliest tokens that are wanted."""
    classes: TokenClasses | None = None
    """The token classes to sum by, and to draw from afterwards."""
    shaping: Shaping | None = None
    """The changes and filters of the logits; None for nothing."""


@dataclass(frozen=True, eq=False)
class Readout:
    """Per position of a canvas, all of the processed logits (soft-capped, changed, divided by the temperature, and
    those alone that the filters leave)."""

    argmax: Tensor
    """[C] int64: the likeliest token."""
    sample: Tensor
    """[C] int64: one token drawn from the distribution."""
    entropy: Tensor
    """[C] float32, nats."""
    confidence: Tensor
    """[C] float32: the probability of ``argmax``."""
    logprob: LogProb
    """Gives the natural log probability of a token at each position, float32 [C] of int64 [C]; computed when asked
    for, as a logarithm throughout: it does not underflow. -inf for a token that was taken out."""
    self_conditioning: Tensor | None = None
    """[C, H] float32: the mean embedding under the distribution, scaled as embeddings are; None unless asked for."""
    top_ids: Tensor | None = None
    """[C, k] int64: the k likeliest tokens, likeliest first; None unless asked for."""
    top_logprobs: Tensor | None = None
    """[C, k] float32: their natural log probabilities."""
    classes: "ClassReadout | None" = None
    """The same by token class; None unless asked for."""

    def probability(self, tokens: Tensor) -> Tensor:
        """Return the probability of a token at each position, float32 [C] of int64 [C]; 0 where float32 has no less."""
        return self.logprob(tokens).exp()

    def rows(self, own: slice) -> "Readout":
        """Return the readout of the positions from ``own.start`` up to ``own.stop``."""

        def logprob(tokens: Tensor) -> Tensor:
            everywhere = self.argmax.clone()
            everywhere[own] = tokens
            return self.logprob(everywhere)[own]

        parts = {name: value[own] for name, value in vars(self).items() if isinstance(value, Tensor)}
        classes = None if self.classes is None else self.classes.rows(own)
        return replace(self, **parts, logprob=logprob, classes=classes)


@dataclass(frozen=True, eq=False)
class ClassReadout:
    """Per position of a canvas and token class, all of the processed logits; n classes."""

    mass: Tensor
    """[C, n] float32: the probability of each class."""
    plogp: Tensor
    """[C, n] float32: the sum of p log p over its tokens."""
    peak: Tensor
    """[C, n] float32: the natural log probability of its likeliest token, -inf for a class of no tokens. Where filters
    leave nothing of a class it falls by TAKEN_OUT: a constraint wins over a filter, but only where it must."""
    argmax: Tensor
    """[C, n] int64: its likeliest token, the first among equals; -1 for a class of no tokens."""
    draw_with_mass: Draw
    """Draws from classes that are known to have mass; ``draw`` is what to call."""

    @torch.no_grad()
    def draw(self, classes: Tensor, uniforms: Tensor) -> Tensor:
        """Draw a token of a class at every position, in proportion to the tokens' probabilities -> [C] int64.

        ``uniforms`` [C] float64 in [0, 1), on the CPU, pick it by inverse CDF in token order within the class. Where
        ``classes`` [C] int64 is -1 any token is drawn, as ``Readout.sample`` is. A class whose probability is too small
        for float32 gives its likeliest token. Raises ValueError for a class that does not exist or has no tokens; of
        classes that are on another device than the CPU that is not looked at.
        """
        if self.argmax.device.type != "cpu":
            return self._draw_on_device(classes, uniforms)
        drawn = self._argmax_of(classes, uniforms)
        anything = classes == ANY
        mass = self.mass.gather(1, classes.clamp(min=0)[:, None])[:, 0] if self.mass.shape[1] else uniforms
        positions = (anything | (mass > 0)).nonzero()[:, 0]
        if len(positions):
            drawn[positions] = self.draw_with_mass(positions, classes[positions], uniforms[positions])
        return drawn

    def _draw_on_device(self, classes: Tensor, uniforms: Tensor) -> Tensor:
        """Draw at all positions, whatever their classes weigh: to choose among them the host would have to wait."""
        device, (length, count) = self.argmax.device, self.argmax.shape
        if classes.device.type == "cpu":
            self._check_classes(classes, uniforms)
        positions, given = torch.arange(length, device=device), classes.to(device)
        drawn = self.draw_with_mass(positions, classes, uniforms)
        if not count:
            return drawn
        own = given.clamp(min=0)[:, None]
        anything = (given == ANY) | (self.mass.gather(1, own)[:, 0] > 0)
        return torch.where(anything, drawn, self.argmax.gather(1, own)[:, 0])

    def _argmax_of(self, classes: Tensor, uniforms: Tensor) -> Tensor:
        """The likeliest token of each position's class; checks what is to be drawn from."""
        count = self.argmax.shape[1]
        self._check_classes(classes, uniforms)
        if count == 0:
            return torch.full_like(classes, -1)
        likeliest = self.argmax.gather(1, classes.clamp(min=0)[:, None])[:, 0]
        empty = (likeliest < 0) & (classes != ANY)
        if empty.any():
            raise ValueError(f"class {int(classes[empty][0])} has no tokens to draw from")
        return likeliest

    def _check_classes(self, classes: Tensor, uniforms: Tensor) -> None:
        """Raise ValueError for what is not one class and one uniform for each position."""
        length, count = self.argmax.shape
        for name, values in (("classes", classes), ("uniforms", uniforms)):
            if values.shape != (length,):
                raise ValueError(f"{name} {[*values.shape]} must be [{length}]")
        outside = (classes < ANY) | (classes >= count)
        if outside.any():
            raise ValueError(
                f"class {int(classes[outside][0])} to draw from is not one of {count}, nor -1 for any token"
            )

    def rows(self, own: slice) -> "ClassReadout":
        """Return the readout of the positions from ``own.start`` up to ``own.stop``."""

        def draw(positions: Tensor, classes: Tensor, uniforms: Tensor) -> Tensor:
            return self.draw_with_mass(positions + own.start, classes, uniforms)

        return ClassReadout(self.mass[own], self.plogp[own], self.peak[own], self.argmax[own], draw)


TAKEN_OUT = 1e4
"""Nats by which the log probability of a class falls of which filters leave nothing."""


def joined(parts: Sequence[Readout]) -> Readout:
    """One readout of rows that were read in several parts."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part.argmax))
    spans = [slice(start, end) for start, end in pairwise(starts)]

    def logprob(tokens: Tensor) -> Tensor:
        return torch.cat([part.logprob(tokens[own]) for part, own in zip(parts, spans, strict=True)])

    def draw(positions: Tensor, classes: Tensor, uniforms: Tensor) -> Tensor:
        drawn = torch.empty_like(positions)
        if positions.device.type != "cpu":
            for part, own in zip(parts, spans, strict=True):
                assert part.classes is not None, "all parts were read by the same classes"
                within = (positions - own.start).clamp(min=0, max=own.stop - own.start - 1)
                here = (positions >= own.start) & (positions < own.stop)
                drawn = torch.where(here, part.classes.draw_with_mass(within, classes, uniforms), drawn)
            return drawn
        for part, own in zip(parts, spans, strict=True):
            here = (positions >= own.start) & (positions < own.stop)
            if part.classes is not None and here.any():
                drawn[here] = part.classes.draw_with_mass(positions[here] - own.start, classes[here], uniforms[here])
        return drawn

    by_class = [part.classes for part in parts if part.classes is not None]
    classes = None if not by_class else ClassReadout(**_concatenated(by_class), draw_with_mass=draw)
    return Readout(**_concatenated(parts), logprob=logprob, classes=classes)


def _concatenated(parts: Sequence[Readout] | Sequence[ClassReadout]) -> dict[str, Tensor]:
    names = [name for name, value in vars(parts[0]).items() if isinstance(value, Tensor)]
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in names}


# The class of all tokens that are text, and that of the mask.
_TEXT = 0


def mask_classes(vocab_size: int, mask: int) -> TokenClasses:
    """Return the classes that ``without_mask`` needs: the mask in one, all other tokens in the other."""
    numbers = torch.zeros(vocab_size, dtype=torch.int32)
    numbers[mask] = 1
    return TokenClasses.of(numbers, 2)


def _wide(values: Tensor) -> Tensor:
    """Return values in float64 on the CPU; other devices may have none."""
    return values.double() if values.device.type == "cpu" else values


def without_mask(readout: Readout, mask: int, uniforms: Tensor | None) -> Readout:
    """Condition a readout by ``mask_classes`` on every token being text.

    ``uniforms`` [C] float64 pick the samples, None takes the likeliest token. Of the likeliest tokens one fewer is
    left: the mask may have been among them. Raises ValueError for a readout without class sums.
    """
    classes = readout.classes
    if classes is None:
        raise ValueError("the readout has no class sums; pass the classes to it")
    argmax, peak, mass = (part[:, _TEXT] for part in (classes.argmax, _wide(classes.peak), _wide(classes.mass)))
    # Of a mass that float32 has lost, the likeliest token stands for all.
    log_mass = torch.maximum(mass.log(), peak)
    entropy = torch.where(mass > 0, log_mass - _wide(classes.plogp[:, _TEXT]) / mass, 0.0).clamp(min=0.0)

    def logprob(tokens: Tensor) -> Tensor:
        given = (_wide(readout.logprob(tokens)) - log_mass).clamp(max=0.0).float()
        return given.masked_fill(tokens == mask, float("-inf"))

    found = replace(
        readout,
        argmax=argmax,
        sample=argmax if uniforms is None else classes.draw(torch.full_like(argmax, _TEXT), uniforms),
        # A row of NaN stays one.
        entropy=torch.where(readout.entropy.isfinite(), entropy.float(), readout.entropy),
        confidence=(peak - log_mass).exp().clamp(max=1.0).float(),
        logprob=logprob,
    )
    if readout.top_ids is None or readout.top_logprobs is None:
        return found
    logprobs = readout.top_logprobs - log_mass[:, None].float()
    logprobs = logprobs.masked_fill(readout.top_ids == mask, float("-inf"))
    order = logprobs.argsort(dim=-1, descending=True, stable=True)[:, :-1]
    return replace(found, top_ids=readout.top_ids.gather(1, order), top_logprobs=logprobs.gather(1, order))
