"""What a constraint makes of a denoising step: samples, argmax and entropies given that the canvas's text is valid."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from redraft.canvas.random import PositionRandom
from redraft.canvas.readout import Readout
from redraft.canvas.token_classes import ClassReadout
from redraft.constrain.compiler import CompiledConstraint
from redraft.constrain.inference.chain import Floats, Inference, end_potential, pin
from redraft.kernels.inference import infer

# Below it sums of float32 probabilities have lost too much for an entropy.
_FAINT = 1e-25


@dataclass(frozen=True, eq=False)
class Locked:
    """Positions of a canvas that keep the token they have."""

    mask: Tensor
    """[C] bool."""
    tokens: Tensor
    """[C] int64; what stands where ``mask`` is False does not count."""


@dataclass(frozen=True, eq=False)
class ConstrainedStep:
    """A readout in which the constraint holds, and what inference found on the way."""

    readout: Readout
    """``argmax`` is the likeliest valid canvas, ``sample`` one drawn given validity. Entropy and confidence are those
    of the model's distribution at each position over the tokens that can stand there in a valid text. The signal is
    the model's own."""
    inference: Inference
    """Over the positions that belong to the answer."""

    @property
    def log_valid(self) -> float:
        """Log probability that independent draws at each position would have been valid."""
        return self.inference.log_valid

    @property
    def end_state(self) -> int:
        """Where the argmax canvas leads: a state, or END."""
        return int(self.inference.best_states[-1])


@dataclass(frozen=True, eq=False)
class CanvasConstraint:
    """What a constraint asks of one canvas: where its text stands, how far the answer goes on it, how it may end."""

    compiled: CompiledConstraint
    state: int
    """Before the first position."""
    positions: int
    """Of the canvas's beginning belong to the answer; what comes after them is thrown away."""
    end: Floats
    """[S + 1] log potential of the states after these positions."""

    @classmethod
    def of(cls, compiled: CompiledConstraint, state: int, length: int, room: int) -> "CanvasConstraint":
        """For a canvas of ``length`` positions when ``room`` tokens of the answer are left, end tokens not counted."""
        # With a position to spare after the last token, the end token that belongs there shows that all is said.
        positions, needs_end = (room + 1, True) if room < length else (length, False)
        left = max(0, room - length)
        return cls(compiled, state, positions, end_potential(compiled.automaton.distance, left, needs_end))

    def apply(self, readout: Readout, draws: PositionRandom, greedy: bool, locked: Locked | None) -> ConstrainedStep:
        """Condition a step's readout, with its class sums, on validity.

        Raises ConstraintError where locked tokens contradict the constraint.
        """
        classes = _classes(readout)
        length, positions = len(readout.argmax), self.positions
        mass, plogp, peak = (values[:positions] for values in class_sums(readout))
        if locked is not None:
            mass, plogp, peak = self._pinned(mass, plogp, peak, locked)
        uniforms = draws.path[:positions].numpy()
        found = infer(self.compiled.automaton, self.state, self.end, mass, plogp, peak, uniforms)

        best = _padded(found.best_classes, length, -1).to(readout.argmax.device)
        likeliest = classes.argmax.gather(1, best.clamp(min=0)[:, None])[:, 0]
        argmax = torch.where(best >= 0, likeliest, readout.argmax)
        sample = argmax
        if not greedy:
            sample = classes.draw(_padded(found.sampled_classes, length, -1), draws.sample)
        entropy, confidence = readout.entropy.clone(), readout.confidence.clone()
        entropy[:positions], confidence[:positions] = map(torch.from_numpy, _certainty(found, mass, plogp, peak))
        constrained = replace(readout, argmax=argmax, sample=sample, entropy=entropy, confidence=confidence)
        return ConstrainedStep(constrained, found)

    def _pinned(
        self, mass: NDArray[np.floating], plogp: NDArray[np.floating], peak: NDArray[np.floating], locked: Locked
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """Class sums [L, n] with locked tokens in their places, and no end of the text before the last of them."""
        token_class = self.compiled.automaton.token_class
        mask, tokens = locked.mask[: self.positions].numpy(), locked.tokens[: self.positions].numpy()
        held = np.flatnonzero(mask)
        mass, plogp, peak = pin(mass, plogp, peak, held, token_class[tokens[held]])
        ends = self.compiled.automaton.classes - 1
        before_last = np.flatnonzero(~mask[: held.max(initial=-1) + 1])
        mass[before_last, ends], plogp[before_last, ends], peak[before_last, ends] = 0.0, 0.0, -np.inf
        return mass, plogp, peak


def class_sums(readout: Readout) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Mass, sum of p log p and peak [C, n] of each class, as inference takes them."""
    classes = _classes(readout)
    return classes.mass.cpu().numpy(), classes.plogp.cpu().numpy(), classes.peak.cpu().numpy()


def _classes(readout: Readout) -> ClassReadout:
    if readout.classes is None:
        raise ValueError("the readout has no class sums; pass the classes to it")
    return readout.classes


def hold(readout: Readout, locked: Locked) -> Readout:
    """A readout in which locked positions have their token for certain."""
    tokens, mask = locked.tokens.to(readout.argmax.device), locked.mask.to(readout.argmax.device)
    return replace(
        readout,
        argmax=torch.where(mask, tokens, readout.argmax),
        sample=torch.where(mask, tokens, readout.sample),
        entropy=torch.where(mask, 0.0, readout.entropy),
        confidence=torch.where(mask, 1.0, readout.confidence),
    )


def _certainty(
    found: Inference, mass: NDArray[np.floating], plogp: NDArray[np.floating], peak: NDArray[np.floating]
) -> tuple[Floats, Floats]:
    """[L] each: entropy, and the probability of the likeliest token, over the tokens that can stand at a position.

    Not those of the marginals given validity: in them a rule counts that the model follows by itself already, and the
    canvas would settle on what the model is not sure of (docs/sudoku.md has the measurement). Where the text may have
    ended before a position, any token can stand there, and the marginal's entropy tells how sure that is.
    """
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


def _padded(values: NDArray[np.int64], length: int, value: int) -> Tensor:
    out = torch.full((length,), value, dtype=torch.int64)
    out[: len(values)] = torch.from_numpy(values)
    return out
