"""One denoising step, written once: the engine, the recorder, the trainer and the benchmarks call it.

noise --> canvas --> [forward] --> readout --> accept --> next canvas
            ^            ^            |           |            |
            |            +- self-conditioning     +-- renoise  |
            +--------------------------------------------------+
          until the canvas is stable and sure, or the steps are used up

A constraint conditions the readout before the step sees it. Nothing here reads a tensor on the host: what the host has
to know comes back as one small tensor, so that it is read once for a whole batch.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from redraft.canvas.acceptance import AcceptanceRule, AcceptanceView
from redraft.canvas.corruption import Corruption
from redraft.canvas.draft import Draft
from redraft.canvas.readout import Readout
from redraft.canvas.stopping import StoppingRule, StoppingView


class Draws(Protocol):
    """The randomness of one step, float64 [..., C] in [0, 1)."""

    @property
    def sample(self) -> Tensor: ...
    @property
    def noise(self) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Pinned:
    """Positions of a canvas that keep the token they have."""

    mask: Tensor
    """[C] bool."""
    tokens: Tensor
    """[C] int64; what stands where ``mask`` is False does not count."""


@dataclass(frozen=True)
class StepRules:
    """The rules that decide a canvas's way from noise to its commit."""

    acceptance: AcceptanceRule
    stopping: StoppingRule
    corruption: Corruption
    steps: int
    """The limit."""


@dataclass(frozen=True, eq=False)
class CanvasState:
    """A canvas between two steps; tensors are [..., C], on the model's device."""

    tokens: Tensor
    """int64: what the model sees next."""
    open: Tensor
    """bool: positions whose token is not settled."""
    confidence: Tensor
    """float32: how sure the model was of each position when it last said so; 1 where a token stood from the start."""
    step: int = 1
    """The number of the step that is next, from 1."""
    self_conditioning: Tensor | None = None
    """[..., C, H]: the soft embedding of the step before, None at the first."""
    earlier: tuple[Tensor, ...] = ()
    """The likeliest canvases of the steps before, as many as the stopping rule looks at, newest last."""
    all_open: bool = False
    """True where it is known, without reading ``open``, that every position is."""


@dataclass(frozen=True, eq=False)
class StepOutcome:
    """The outcome of one step of a canvas."""

    state: CanvasState
    """The state that the next step begins from."""
    readout: Readout
    """Certain of the token of every position that was not open."""
    accepted: Tensor
    """[..., C] bool."""
    committed: Tensor
    """[..., C] int64: what is committed if this step is the last."""
    flags: Tensor
    """[..., 2] bool: finished by the rules, and not a number; the only thing that the host reads."""


def start(
    draws: Draws,
    rules: StepRules,
    *,
    draft: Draft | None = None,
    offset: int = 0,
    pinned: Pinned | None = None,
    device: torch.device | None = None,
) -> CanvasState:
    """Make the canvas before its first step: noise, over it the tokens of a draft that survive, over both the pins.

    ``offset``: the canvas's first position in the draft. Tensors go to ``device``, by default that of the draws.
    """
    tokens = rules.corruption.noise.tokens(draws.noise)
    open = torch.ones(tokens.shape, dtype=torch.bool)
    if draft is not None:
        stays, drafted = draft.survivors(offset, draws.sample)
        tokens = torch.where(stays, drafted, tokens)
        open = rules.corruption.open(open, stays)
    if pinned is not None:
        tokens = torch.where(pinned.mask, pinned.tokens, tokens)
        open = open & ~pinned.mask
    # Whoever stands already is certain of what it is.
    all_open = draft is None and pinned is None
    return CanvasState(tokens.to(device), open.to(device), (~open).float().to(device), all_open=all_open)


def settle(readout: Readout, state: CanvasState) -> Readout:
    """Return the readout with every position that is not open certain of the token that it has."""
    if state.all_open:
        return readout
    open, tokens = state.open, state.tokens
    return replace(
        readout,
        argmax=torch.where(open, readout.argmax, tokens),
        sample=torch.where(open, readout.sample, tokens),
        entropy=torch.where(open, readout.entropy, 0.0),
        confidence=torch.where(open, readout.confidence, 1.0),
        logprob=lambda given: torch.where(open, readout.logprob(given), (given == tokens).float().log()),
    )


def step(state: CanvasState, readout: Readout, draws: Draws, rules: StepRules) -> StepOutcome:
    """Take one denoising step: accept, renoise or reveal, and judge whether the canvas is finished.

    ``readout``: what the model said of ``state.tokens``, under whatever constraint holds. ``draws``: those that the
    readout's samples came of.
    """
    readout = settle(readout, state)
    corruption = rules.corruption
    accepted = rules.acceptance.accept(AcceptanceView(readout, state.open, state.step, rules.steps))
    accepted = corruption.admitted(state.open, accepted, readout.sample)
    kept = accepted if corruption.mask is None else accepted & corruption.settles(readout.sample)
    if not state.all_open:
        # What is settled keeps its token.
        kept = ~state.open | kept
    if corruption.monotone:
        finished = ~corruption.open(state.open, kept).any(-1)
        # After the last step nothing may stay a mask.
        kept = torch.ones_like(kept) if state.step == rules.steps else kept
    else:
        finished = rules.stopping.finished(
            StoppingView(readout.argmax, readout.entropy, state.tokens, state.open, state.earlier, state.all_open)
        )
    noise = corruption.noise.tokens(draws.noise).to(state.tokens.device)
    following = corruption.following(state.tokens, kept, readout.sample, noise)
    memory = rules.stopping.memory
    following_state = CanvasState(
        tokens=following,
        open=corruption.open(state.open, kept),
        confidence=readout.confidence
        if state.all_open
        else torch.where(state.open, readout.confidence, state.confidence),
        step=state.step + 1,
        self_conditioning=readout.self_conditioning,
        earlier=(*state.earlier, readout.argmax)[-memory:] if memory else (),
        all_open=state.all_open and not corruption.monotone,
    )
    broken = (~torch.isfinite(readout.entropy)).any(-1)
    return StepOutcome(
        following_state,
        readout,
        accepted,
        corruption.committed(readout.argmax, following),
        torch.stack((finished, broken), -1),
    )
