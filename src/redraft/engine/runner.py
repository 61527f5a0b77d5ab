"""Denoises one canvas: the loop around the model's forward.

noise --> canvas --> denoise --> readout --> accept --> next canvas
            ^          ^           |           |            |
            |          +-- signal -+           +-- renoise  |
            +-----------------------------------------------+
          until the argmax canvas is stable and sure, or the steps are used up
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from redraft.canvas.random import INITIAL, PositionRandom
from redraft.engine.request import Request
from redraft.engine.result import StepEvent
from redraft.errors import GenerationError
from redraft.models.base import BlockDiffusionModel, Cache


@dataclass(frozen=True)
class FinishedCanvas:
    """The argmax canvas of the last step, and how it came about."""

    tokens: torch.Tensor
    """[C] int64."""
    denoising_steps: int
    converged: bool


@torch.inference_mode()
def denoise_canvas(
    model: BlockDiffusionModel,
    cache: Cache,
    request: Request,
    index: int,
    length: int,
    on_step: Callable[[StepEvent], None] | None,
    finished_before: torch.Tensor | None = None,
) -> FinishedCanvas:
    """Run canvas ``index`` of a request, ``length`` positions that follow ``cache``.

    ``finished_before`` [C] is a canvas that is still to be committed to the cache: it goes along with the first step.
    Raises GenerationError where the model yields NaN or infinities.
    """
    noise, device, steps = model.noise, model.device, request.max_denoising_steps
    canvas = noise.tokens(PositionRandom(request.seed, index, INITIAL, length).noise).to(device)
    signal = None
    earlier: list[torch.Tensor] = []
    for step in range(steps, 0, -1):
        draws = PositionRandom(request.seed, index, step, length)
        if finished_before is not None and step == steps:
            hidden = model.commit_and_denoise(finished_before.to(device)[None], canvas[None], cache)[0]
        else:
            hidden = model.denoise(canvas[None], cache, signal)[0]
        scale = request.temperature if request.temperature > 0 else 1.0
        temperature = scale * request.schedule.temperature(step, steps)
        readout = model.readout(hidden, temperature, draws.sample if request.temperature > 0 else None, signal=step > 1)
        broken = (~torch.isfinite(readout.entropy)).nonzero()
        if len(broken):
            raise GenerationError(
                f"the model's output is not a number at {len(broken)} of {length} positions of canvas {index}, "
                f"step {step} (first at position {broken[0].item()}); the checkpoint's weights are damaged, or too "
                "large for this dtype. Try dtype='float32', or load the checkpoint afresh"
            )
        accepted = request.acceptance.accepted(readout.entropy, readout.confidence)
        following = torch.where(accepted, readout.sample, noise.tokens(draws.noise).to(device))
        finished = request.stopping.finished(readout.argmax, readout.entropy, canvas, earlier)
        if on_step is not None:
            on_step(
                StepEvent(
                    canvas_index=index,
                    step=step,
                    temperature=temperature,
                    tokens_in=canvas.cpu(),
                    argmax=readout.argmax.cpu(),
                    sample=readout.sample.cpu(),
                    entropy=readout.entropy.cpu(),
                    accepted=accepted.cpu(),
                    tokens_out=following.cpu(),
                    finished=finished,
                )
            )
        if finished or step == 1:
            return FinishedCanvas(readout.argmax.cpu(), steps - step + 1, finished)
        earlier = [*earlier, readout.argmax][-request.stopping.memory :] if request.stopping.memory else []
        canvas, signal = following, readout.signal[None] if readout.signal is not None else None
    raise AssertionError("a request has at least one denoising step")
