"""A denoising step under a constraint: samples, argmax and entropies given that the canvas's text is valid."""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.canvas.host import on_cpu
from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import ClassReadout, Readout
from redraft.canvas.step import Pinned
from redraft.canvas.token_classes import TokenClasses
from redraft.constrain.compiler import CompiledConstraint
from redraft.constrain.inference.chain import ClassSums, Floats, Inference, end_potential
from redraft.kernels.inference import infer

# Below it sums of float32 probabilities have lost too much for an entropy.
_FAINT = 1e-25


@dataclass(frozen=True, eq=False)
class ConstrainedStep:
    """A readout in which the constraint holds, and what inference found on the way."""

    readout: Readout
    """``argmax`` is the likeliest valid canvas, ``sample`` one drawn given validity. Entropy and confidence are those
    of the model's distribution at each position over the tokens that can stand there in a valid text. The
    self-conditioning is the model's own."""
    inference: Inference
    """Over the positions that belong to the answer."""

    @property
    def log_valid(self) -> float:
        """Log probability that independent draws at each position would have been valid."""
        return self.inference.log_valid

    def end_state(self, sampled: bool) -> int:
        """Return where the sampled canvas, or else the likeliest one, leads: a state, or END."""
        states = self.inference.sampled_states if sampled else self.inference.best_states
        return int(states[-1])


class OnCanvas(Protocol):
    """A constraint on what may stand on one canvas."""

    @property
    def classes(self) -> TokenClasses:
        """The token classes that its readouts are read by."""
        ...

    def closing(self) -> "OnCanvas":
        """Return the same where all has to be whole on this canvas."""
        ...

    def accepts(self, state: int) -> bool:
        """Tell whether the answer may end with a canvas that leads to ``state``."""
        ...

    @property
    def fewest(self) -> int:
        """The tokens that the answer takes from this canvas on at least."""
        ...

    def apply(
        self,
        readout: Readout,
        draws: PositionRandom,
        greedy: bool,
        pinned: Pinned | None,
        settled: Pinned | None = None,
    ) -> ConstrainedStep:
        """Condition a step's readout, with its class sums, on what may stand there.

        ``pinned`` tokens are part of it. ``settled`` ones, the pinned among them, stay where they are too.
        """
        ...


@dataclass(frozen=True, eq=False)
class CanvasConstraint:
    """A constraint's part in one canvas: where its text stands, how far the answer goes on it, how it may end."""

    compiled: CompiledConstraint
    state: int
    """Before the first position."""
    positions: int
    """The number of the canvas's first tokens that belong to the answer; what comes after them is thrown away."""
    end: Floats
    """[S + 1] log potential of the states after these positions."""
    needs_end: bool = False
    """True where these positions have room for an end token behind the last token of the answer."""

    @classmethod
    def of(cls, compiled: CompiledConstraint, state: int, length: int, room: int) -> "CanvasConstraint":
        """For a canvas of ``length`` positions when ``room`` tokens of the answer are left, end tokens not counted."""
        # With a position to spare after the last token, the end token that belongs there shows that all is said.
        positions, needs_end = (room + 1, True) if room < length else (length, False)
        left = max(0, room - length)
        end = end_potential(compiled.automaton.distance, left, needs_end)
        return cls(compiled, state, positions, end, needs_end)

    def closing(self) -> "CanvasConstraint":
        """Return the same where the text has to be whole on this canvas."""
        return replace(self, end=end_potential(self.compiled.automaton.distance, 0, self.needs_end))

    def accepts(self, state: int) -> bool:
        """Tell whether the text may end with a canvas that leads to ``state``."""
        return self.compiled.accepts(state)

    @property
    def fewest(self) -> int:
        """The tokens that the text takes from this canvas on at least."""
        automaton = self.compiled.automaton
        return 0 if self.state == automaton.end else int(automaton.distance[self.state])

    @property
    def classes(self) -> TokenClasses:
        """The token classes that its readouts are read by."""
        return self.compiled.classes

    def apply(
        self,
        readout: Readout,
        draws: PositionRandom,
        greedy: bool,
        pinned: Pinned | None,
        settled: Pinned | None = None,
    ) -> ConstrainedStep:
        """Condition a step's readout, with its class sums, on validity.

        ``pinned`` tokens are part of the text. ``settled`` ones, the pinned among them, stay where they are too, and
        may stand behind the text's end. Raises ConstraintError where pinned tokens contradict the constraint.
        """
        positions = self.positions
        sums = class_sums(readout).rows(slice(positions))
        if settled is not None:
            sums = self._standing(sums, settled)
        elif pinned is not None:
            sums = self._standing(sums, pinned)
        if pinned is not None:
            sums = self._end_behind(sums, pinned)
        uniforms = draws.path[:positions].numpy()
        found = infer(self.compiled.automaton, self.state, self.end, sums, uniforms)

        return conditioned(readout, found, sums, self.compiled.automaton.token_class, draws, greedy)

    def _standing(self, sums: ClassSums, tokens: Pinned) -> ClassSums:
        """Return class sums [L, n] with ``tokens`` in their places."""
        mask, own = tokens.mask[: self.positions].numpy(), tokens.tokens[: self.positions].numpy()
        places = np.flatnonzero(mask)
        return sums.pinned(places, self.compiled.automaton.token_class[own[places]])

    def _end_behind(self, sums: ClassSums, pinned: Pinned) -> ClassSums:
        """Return class sums [L, n] in which the text does not end before the last pinned token."""
        mask = pinned.mask[: self.positions].numpy()
        before_last = np.flatnonzero(~mask[: np.flatnonzero(mask).max(initial=-1) + 1])
        return sums.without(before_last, self.compiled.automaton.classes - 1)


def conditioned(
    readout: Readout,
    found: Inference,
    sums: ClassSums,
    token_class: NDArray[np.int32],
    draws: PositionRandom,
    greedy: bool,
) -> ConstrainedStep:
    """Condition a readout [C] on what inference found for its first L positions; ``token_class`` [V] is by whose
    classes. Where a class is -1 the readout's own token stays."""
    classes, length, positions = _classes(readout), len(readout.argmax), sums.positions
    best = _padded(found.best_classes, length, -1).to(readout.argmax.device)
    likeliest = classes.argmax.gather(1, best.clamp(min=0)[:, None])[:, 0]
    argmax = torch.where(best >= 0, likeliest, readout.argmax)
    sample = argmax
    if not greedy:
        sample = classes.draw(_padded(found.sampled_classes, length, -1), draws.sample)
    entropy, confidence = readout.entropy.clone(), readout.confidence.clone()
    # Rounded here: not every device has float64.
    certainty = (torch.from_numpy(part).float() for part in _certainty(found, sums))
    entropy[:positions], confidence[:positions] = (part.to(entropy.device) for part in certainty)

    def logprob(tokens: Tensor) -> Tensor:
        given, place = readout.logprob(tokens).clone(), np.arange(positions)
        read = on_cpu(tokens[:positions], given[:positions], classes.argmax[:positions])
        of_text, likeliest = read[0].numpy(), read[2].numpy()
        number, own = token_class[of_text], read[1].double().numpy()
        # A class of which filters leave nothing stands, where nothing else may, for its likeliest token.
        stands = np.isneginf(own) & (likeliest[place, number] == of_text)
        own = np.where(stands, sums.peak[place, number], own)
        there = np.minimum(own + _log_factors(found, sums)[place, number], 0.0)
        given[:positions] = torch.from_numpy(there).float().to(given.device)
        return given

    constrained = replace(
        readout, argmax=argmax, sample=sample, entropy=entropy, confidence=confidence, logprob=logprob
    )
    return ConstrainedStep(constrained, found)


def class_sums(readout: Readout) -> ClassSums:
    """The readout's class sums of all C positions, as inference takes them."""
    classes = _classes(readout)
    return ClassSums(*(part.numpy() for part in on_cpu(classes.mass, classes.plogp, classes.peak)))


def _classes(readout: Readout) -> ClassReadout:
    if readout.classes is None:
        raise ValueError("the readout has no class sums; pass the classes to it")
    return readout.classes


def _certainty(found: Inference, sums: ClassSums) -> tuple[Floats, Floats]:
    """[L] each: entropy, and the probability of the likeliest token, over the tokens that can stand at a position.

    Not those of the marginals given validity: in them a rule counts that the model follows by itself already, and the
    canvas would settle on what the model is not sure of (docs/sudoku.md has the measurement). Where the text may have
    ended before a position, any token can stand there, and the marginal's entropy tells how sure that is.
    """
    mass, plogp, peak = sums.mass, sums.plogp, sums.peak
    possible = np.isfinite(found.log_multiplier)
    allowed = np.where(possible, mass, 0.0).sum(1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = np.log(allowed) - np.where(possible, plogp, 0.0).sum(1, dtype=np.float64) / allowed
        confidence = np.exp(np.where(possible, peak, -np.inf).max(1).astype(np.float64) - np.log(allowed))
    ended = found.tail > 0
    # Of so little mass float32 has lost the digits; the classes' likeliest tokens, in logarithms, stand for all.
    faint = ~ended & (allowed < _FAINT)
    logs = np.where(possible[faint], peak[faint], -np.inf).astype(np.float64)
    shares = np.exp(logs - logs.max(1, initial=-np.inf, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    entropy[faint] = -(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares))).sum(1)
    confidence[faint] = shares.max(1, initial=0.0)
    log_ratio = np.logaddexp(found.log_multiplier[ended], np.log(found.tail[ended])[:, None])
    confidence[ended] = np.exp((log_ratio + peak[ended]).max(1))
    # Rounding can leave a certain position a hair outside.
    return np.maximum(np.where(ended, found.entropy, entropy), 0.0), np.minimum(confidence, 1.0)


def _log_factors(found: Inference, sums: ClassSums) -> Floats:
    """[L, n]: what is added to the model's log probability of a class's token over the tokens that can stand at a
    position."""
    possible = np.isfinite(found.log_multiplier)
    allowed = np.where(possible, sums.mass, 0.0).sum(1, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_allowed = np.log(allowed)
        # As for the entropy: the classes' likeliest tokens stand for a mass that float32 has lost.
        faint = allowed < _FAINT
        log_allowed[faint] = np.logaddexp.reduce(
            np.where(possible, sums.peak, -np.inf)[faint].astype(np.float64), axis=1
        )
        factors = np.where(possible, -log_allowed[:, None], -np.inf)
        ended = found.tail > 0
        factors[ended] = np.logaddexp(found.log_multiplier[ended], np.log(found.tail[ended])[:, None])
    return factors


def _padded(values: NDArray[np.int64], length: int, value: int) -> Tensor:
    out = torch.full((length,), value, dtype=torch.int64)
    out[: len(values)] = torch.from_numpy(values)
    return out
