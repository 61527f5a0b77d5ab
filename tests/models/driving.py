"""Drives a model without an engine: contexts encoded, canvases denoised, one span at a time or many together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from redraft.canvas.corruption import Corruption
from redraft.canvas.random import INITIAL, PositionRandom
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.canvas.schedule import LinearTemperature
from redraft.canvas.step import StepOutcome, StepRules, start, step
from redraft.canvas.stopping import StableAndConfident
from redraft.engine.memory import KVPool, PooledCache
from redraft.models.base import BlockDiffusionModel, Span


def fresh(model: BlockDiffusionModel) -> PooledCache:
    """An empty cache of a pool of its own."""
    return KVPool.of(model).open(())[0]


@torch.inference_mode()
def encode(model: BlockDiffusionModel, tokens: Tensor, cache: PooledCache, chunk: int = 256) -> PooledCache:
    """Encode ``tokens`` [T] after what the cache holds, in forwards of ``chunk`` tokens."""
    for part in tokens.split(chunk) if len(tokens) else ():
        model.forward([Span(part, cache, "encode")])
    return cache


def encoded(model: BlockDiffusionModel, tokens: Tensor, chunk: int = 256) -> PooledCache:
    """A new cache that holds ``tokens`` [T]."""
    return encode(model, tokens, fresh(model), chunk)


@torch.inference_mode()
def causal_rows(model: BlockDiffusionModel, tokens: Tensor, cache: PooledCache, wanted: int | None = None) -> Tensor:
    """Hidden states [wanted, H] of the last of ``tokens`` [T], by default all, encoded after what the cache holds."""
    (hidden,) = model.forward([Span(tokens, cache, "encode", wanted=len(tokens) if wanted is None else wanted)])
    assert hidden is not None
    return hidden


@torch.inference_mode()
def denoise(model: BlockDiffusionModel, canvas: Tensor, cache: PooledCache, soft: Tensor | None = None) -> Tensor:
    """Hidden states [C, H] of a canvas [C] after what the cache holds."""
    (hidden,) = model.forward([Span(canvas, cache, "denoise", soft)])
    assert hidden is not None
    return hidden


@torch.inference_mode()
def commit_and_denoise(model: BlockDiffusionModel, tokens: Tensor, canvas: Tensor, cache: PooledCache) -> Tensor:
    """Both in one forward: ``tokens`` are encoded, and the canvas after them begins."""
    _, hidden = model.forward([Span(tokens, cache, "encode"), Span(canvas, cache, "denoise")])
    assert hidden is not None
    return hidden


@torch.inference_mode()
def read(
    model: BlockDiffusionModel, hidden: Tensor, temperature: float, uniforms: Tensor | None = None, top: int = 0
) -> Readout:
    """One canvas's readout, with self-conditioning where the model has any."""
    (readout,) = model.readout([hidden], [ReadoutSpec(temperature, uniforms, model.self_conditions, top)])
    return readout


def kept(cache: PooledCache, layers: int) -> list[Tensor]:
    """All that is kept of the keys and values."""
    return [part for layer in range(layers) for blocks in cache.read(layer) for part in blocks]


@dataclass(frozen=True, eq=False)
class Step:
    """What one denoising step saw and made."""

    canvas: int
    number: int
    """From 1 up."""
    temperature: float
    tokens: Tensor
    """[C]: what the model saw."""
    logits: Tensor
    """[C, V], divided by the temperature."""
    readout: Readout
    outcome: StepOutcome

    @property
    def finished(self) -> bool:
        return bool(self.outcome.flags[0])


@torch.inference_mode()
def run(
    model: BlockDiffusionModel, prompt: Sequence[int], canvases: int, *, chunk: int = 256, seed: int = 3
) -> list[list[Step]]:
    """Denoise ``canvases`` of the model's length after ``prompt`` as its defaults say; every commit shares a forward
    with the first step of the canvas after it."""
    defaults = model.defaults
    rules = StepRules(
        defaults.acceptance_rule,
        StableAndConfident(defaults.stability_threshold, defaults.confidence_threshold),
        _corruption(model),
        defaults.max_denoising_steps,
    )
    schedule = LinearTemperature(defaults.t_max, defaults.t_min)
    cache = encoded(model, torch.tensor(prompt), chunk)
    length, committed, found = model.config.canvas_length, None, []
    for canvas in range(canvases):
        state = start(PositionRandom(seed, canvas, INITIAL, length), rules)
        steps: list[Step] = []
        while not steps or not (steps[-1].finished or steps[-1].number == rules.steps):
            if committed is None:
                hidden = denoise(model, state.tokens, cache, state.self_conditioning)
            else:
                hidden, committed = commit_and_denoise(model, committed, state.tokens, cache), None
            # The noise is keyed by steps that are counted down.
            left = rules.steps - state.step + 1
            draws = PositionRandom(seed, canvas, left, length)
            temperature = schedule.temperature(state.step, rules.steps)
            readout = read(model, hidden, temperature, draws.sample)
            outcome = step(state, readout, draws, rules)
            logits = model.logits(hidden) / temperature
            steps.append(Step(canvas, state.step, temperature, state.tokens, logits, readout, outcome))
            state = outcome.state
        committed = steps[-1].outcome.committed
        found.append(steps)
    return found


def _corruption(model: BlockDiffusionModel) -> Corruption:
    assert model.corruption is not None, "a model with a canvas"
    return model.corruption
