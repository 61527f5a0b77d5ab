"""The uniform-state denoising objective with self-conditioning, trained on the model's own trajectories.

Plain training corrupts a target with fresh noise (Austin et al. 2021) and guesses one self-conditioning pass (Chen et
al. 2022). Here each canvas is carried through several denoising steps by the sampler itself, and the loss is taken at
every one of them: the model learns on the half-right canvases that it will meet, mistakes of its own among them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from redraft.canvas.acceptance import EntropyBound
from redraft.canvas.corruption import UniformCorruption
from redraft.canvas.noise import UniformNoise
from redraft.canvas.readout import Readout
from redraft.canvas.step import CanvasState, StepRules, step
from redraft.canvas.stopping import ReproducesCanvas
from redraft.models.base import Span
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.train.data import Examples, ExampleSource


@dataclass(frozen=True)
class ObjectiveConfig:
    """``target_vocabulary``: every target token has an id below it. The cross-entropy is taken over those tokens
    only, and a penalty on ``penalised_fraction`` of the batch keeps the mass of all others down: with a small target
    vocabulary this is several times faster than the whole softmax."""

    target_vocabulary: int
    steps_per_update: int = 3
    fully_noised: float = 0.5
    """Share of fresh canvases that start from noise alone; the others keep a uniform share of their target."""
    keep_belief: float = 0.9
    """Probability that a step is conditioned on the previous one's distribution; else the self-conditioning is zero."""
    max_age: int = 16
    """Denoising steps after which a canvas is replaced, solved or not."""
    refresh_solved: float = 0.8
    refresh_any: float = 0.05
    penalised_fraction: float = 1 / 16
    t_min: float = 0.4
    t_max: float = 0.8
    entropy_bound: float = 0.1
    """The bound of the trajectories. A tight one makes what is accepted mostly right, so that the model learns to build
    on it; trained at a bound of one nat it learns to doubt its own guesses, and solves fewer puzzles at any bound."""

    def __post_init__(self) -> None:
        for name in ("fully_noised", "keep_belief", "refresh_solved", "refresh_any", "penalised_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} must be a share from 0 to 1")
        for name in ("target_vocabulary", "steps_per_update", "max_age"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")


@dataclass(frozen=True)
class _Draws:
    """A step's randomness from torch's own generator (``canvas.step.Draws``); the sample is drawn already."""

    sample: Tensor
    noise: Tensor


class PromptCache:
    """Keys and values of B encoded prompts as plain tensors that gradients flow through (a ``models.base.Cache``)."""

    def __init__(self, segments: list[tuple[Tensor, Tensor]] | None = None, length: int = 0) -> None:
        self.segments = segments if segments is not None else []
        self._length = length

    @property
    def length(self) -> int:
        return self._length

    def read(self, layer: int, rows: int = 0) -> list[tuple[Tensor, Tensor]]:
        return [self.segments[layer]] if self._length else []

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        self.segments.append((keys, values))

    def advance(self, count: int) -> None:
        self._length += count

    def rewind(self) -> None:
        """A failed forward ends the training; there is nothing to go back to."""


@dataclass
class Trajectories:
    """The B canvases under way; each is B rows of a tensor, so that a checkpoint can hold them."""

    prompts: Tensor
    targets: Tensor
    weights: Tensor
    canvases: Tensor
    beliefs: Tensor
    """[B, C, target_vocabulary]: the previous step's distribution, zero where the step starts without one."""
    ages: Tensor
    """[B] int64: denoising steps taken."""

    def state(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name).clone() for f in fields(self)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what ``state`` of another run of the same shape gave."""
        for f in fields(self):
            setattr(self, f.name, state[f.name])


class UniformStateObjective:
    """Draws, advances and scores trajectories. One ``loss`` is one optimizer step's worth of denoising steps."""

    def __init__(
        self, model: DiffusionGemma, source: ExampleSource, config: ObjectiveConfig, batch: int, compile_model: bool
    ) -> None:
        windows = [spec.window for spec in model.config.layers if spec.window is not None]
        self._model, self._source, self._config, self._batch = model, source, config, batch
        self._noise = UniformNoise(model.config.vocab_size)
        # Trajectories are replaced by their age; a canvas that its rules call finished goes on until then.
        self._rules = StepRules(
            EntropyBound(config.entropy_bound), ReproducesCanvas(), UniformCorruption(self._noise), config.max_age
        )
        self._shortest_window = min(windows, default=None)
        self._encode: Callable[[Tensor], list[tuple[Tensor, Tensor]]] = self._encode_prompts
        self._score: Callable[..., tuple[Tensor, Tensor]] = self._score_canvases
        if compile_model:
            self._encode, self._score = torch.compile(self._encode_prompts), torch.compile(self._score_canvases)

    def start(self, rng: np.random.Generator) -> Trajectories:
        """Fresh trajectories for the whole batch."""
        examples = self._source.draw(self._batch, rng)
        prefix = examples.prompts.shape[1]
        if self._shortest_window is not None and prefix >= self._shortest_window:
            raise ValueError(
                f"prompts of {prefix} tokens do not fit the sliding window of {self._shortest_window}; "
                "training beyond the window is not supported"
            )
        shape = (*examples.targets.shape, self._config.target_vocabulary)
        trajectories = Trajectories(
            prompts=torch.empty_like(examples.prompts),
            targets=torch.empty_like(examples.targets),
            weights=torch.empty_like(examples.weights),
            canvases=torch.empty_like(examples.targets),
            beliefs=torch.zeros(shape),
            ages=torch.zeros(self._batch, dtype=torch.int64),
        )
        self._restart(trajectories, torch.arange(self._batch), examples)
        return trajectories

    def loss(self, trajectories: Trajectories, rng: np.random.Generator) -> tuple[Tensor, float]:
        """Advance every trajectory by ``steps_per_update`` denoising steps and replace those that are done.

        Returns the mean loss (nats per weighted position, with its graph) and the share of canvases whose argmax was
        wholly right at the last of the steps.
        """
        config = self._config
        segments = self._encode(trajectories.prompts)
        losses, logits = [], torch.empty(0)
        for _ in range(config.steps_per_update):
            loss, logits = self._score(
                trajectories.canvases, segments, trajectories.beliefs, trajectories.targets, trajectories.weights
            )
            losses.append(loss)
            if not torch.isfinite(loss):
                break  # nothing can be sampled from NaN; the trainer says what happened
            self._advance(trajectories, logits.detach())
        right = (logits.argmax(-1) == trajectories.targets).all(-1)
        self._replace_done(trajectories, right, rng)
        return torch.stack(losses).mean(), right.float().mean().item()

    def _encode_prompts(self, prompts: Tensor) -> list[tuple[Tensor, Tensor]]:
        cache = PromptCache()
        self._model([Span(prompts, cache, "encode")])
        return cache.segments

    def _score_canvases(
        self, canvases: Tensor, segments: list[tuple[Tensor, Tensor]], beliefs: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Weighted loss of one denoising step and its logits over the target vocabulary [B, C, n]."""
        model, count = self._model, self._config.target_vocabulary
        table = model.embed_tokens.weight
        soft = (beliefs @ table[:count]).float() * model.config.hidden_size**0.5
        cache = PromptCache(segments, segments[0][0].shape[2])
        (hidden,) = model([Span(canvases, cache, "denoise", soft)])
        logits = model.logits(hidden, slice(0, count))
        nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(weights)
        loss = (nll * weights).mean()
        if count < len(table):
            rows = max(1, math.ceil(len(canvases) * self._config.penalised_fraction))
            others = model.logits(hidden[:rows], slice(count, None)).logsumexp(-1)
            loss = loss + F.softplus(others - logits[:rows].logsumexp(-1)).mean()
        return loss, logits

    @torch.no_grad()
    def _advance(self, trajectories: Trajectories, logits: Tensor) -> None:
        """Take one step of the sampler, and carry the distribution on as the next belief."""
        config, (batch, length) = self._config, trajectories.canvases.shape
        temperature = config.t_min + (config.t_max - config.t_min) * torch.rand(batch, 1, 1)
        logprobs = F.log_softmax(logits.float() / temperature, dim=-1)
        probabilities = logprobs.exp()
        sample = torch.multinomial(probabilities.flatten(0, 1), 1).view(batch, length)
        readout = Readout(
            argmax=probabilities.argmax(-1),
            sample=sample,
            entropy=-(probabilities * logprobs).sum(-1),
            confidence=probabilities.amax(-1),
            logprob=lambda tokens: logprobs.gather(-1, tokens[..., None])[..., 0],
        )
        canvases = trajectories.canvases
        state = CanvasState(canvases, torch.ones_like(canvases, dtype=torch.bool), torch.zeros_like(readout.entropy))
        draws = _Draws(torch.empty(0), torch.rand(batch, length, dtype=torch.float64))
        trajectories.canvases = step(state, readout, draws, self._rules).state.tokens
        trajectories.beliefs = probabilities * (torch.rand(batch, 1, 1) < config.keep_belief)
        trajectories.ages += 1

    def _replace_done(self, trajectories: Trajectories, right: Tensor, rng: np.random.Generator) -> None:
        config = self._config
        solved = right & (torch.rand(self._batch) < config.refresh_solved)
        done = solved | (trajectories.ages >= config.max_age) | (torch.rand(self._batch) < config.refresh_any)
        rows = done.nonzero()[:, 0]
        if len(rows):
            self._restart(trajectories, rows, self._source.draw(len(rows), rng))

    def _restart(self, trajectories: Trajectories, rows: Tensor, examples: Examples) -> None:
        count, length = examples.targets.shape
        share = torch.where(torch.rand(count) < self._config.fully_noised, 1.0, torch.rand(count))
        noise = self._noise.tokens(torch.rand(count, length, dtype=torch.float64))
        noised = torch.rand(count, length) < share[:, None]
        # Out of place: the graph of the step before still holds the old targets.
        fresh = Trajectories(
            prompts=examples.prompts,
            targets=examples.targets,
            weights=examples.weights,
            canvases=torch.where(noised, noise, examples.targets),
            beliefs=trajectories.beliefs.new_zeros(count, *trajectories.beliefs.shape[1:]),
            ages=trajectories.ages.new_zeros(count),
        )
        for f in fields(trajectories):
            setattr(trajectories, f.name, getattr(trajectories, f.name).index_copy(0, rows, getattr(fresh, f.name)))
