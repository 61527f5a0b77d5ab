"""What an engine asks of a model family, and nothing more."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from redraft.canvas.acceptance import EntropyBound
from redraft.canvas.noise import Noise
from redraft.canvas.readout import Readout
from redraft.canvas.schedule import LinearTemperature
from redraft.canvas.stopping import StableAndConfident
from redraft.models.tools import ToolSyntax

KV_BLOCK = 128
"""Positions that keys and values are kept and shared by."""
PREFILL_CHUNK = 256
"""Positions of a prompt that are encoded in one forward."""


def most_blocks(positions: int, block: int) -> int:
    """In how many blocks so many positions, one after the other, lie at most."""
    return -(-(positions - 1) // block) + 1


class Cache(Protocol):
    """Keys and values of the encoded context, per layer, for B sequences of one length."""

    @property
    def length(self) -> int:
        """Tokens encoded so far; the next token's position."""
        ...

    def read(self, layer: int, rows: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [B, kv_heads, S, D] of the last tokens that were written, block by block, in order.

        As many as the layer keeps; or, for causal rows that were written last, ``rows`` more than that, and on to the
        border of a block, so that where blocks begin and end depends on positions alone.
        """
        ...

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Append keys and values [B, kv_heads, T, D]; visible to ``read`` at once."""
        ...

    def advance(self, count: int) -> None:
        """Count ``count`` tokens as encoded, after every layer wrote them."""
        ...


@dataclass(frozen=True)
class GenerationDefaults:
    """What a checkpoint says of its own sampling (``generation_config.json``); the reference's values otherwise."""

    max_denoising_steps: int = 48
    entropy_bound: float = 0.1
    t_max: float = 0.8
    t_min: float = 0.4
    stability_threshold: int = 1
    confidence_threshold: float = 0.005
    end_token_ids: tuple[int, ...] = (1,)
    choice_temperature: float | None = None
    """Fitted to make the probabilities of ``choose`` true; None where nobody has. In a file of its own, for the
    reference refuses what it does not know (``checkpoint.OWN_FILE``)."""

    def __post_init__(self) -> None:
        whole = isinstance(self.max_denoising_steps, int) and self.max_denoising_steps >= 1
        if not whole or isinstance(self.max_denoising_steps, bool):
            raise ValueError(f"max_denoising_steps {self.max_denoising_steps!r} must be a whole number, 1 or more")
        for name in ("entropy_bound", "t_max", "t_min", "stability_threshold", "confidence_threshold"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name} {getattr(self, name)!r} must be a number")
        # The rules check themselves; made here, a bad default is found when it is read, not when it is used.
        EntropyBound(self.entropy_bound)
        LinearTemperature(self.t_max, self.t_min)
        StableAndConfident(self.stability_threshold, self.confidence_threshold)
        fitted = 1.0 if self.choice_temperature is None else self.choice_temperature
        if isinstance(fitted, bool) or not isinstance(fitted, int | float) or not 0 < fitted < math.inf:
            raise ValueError(f"choice_temperature {fitted!r} must be a finite number above 0")
        if not all(isinstance(token, int) for token in self.end_token_ids):
            raise ValueError(f"end tokens {self.end_token_ids!r} must be token ids")


class BlockDiffusionConfig(Protocol):
    """The part of a family's configuration that the engine reads."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    @property
    def canvas_length(self) -> int: ...
    @property
    def image_token_ids(self) -> tuple[int, ...]: ...
    @property
    def thought_markers(self) -> tuple[str, str]: ...
    @property
    def tool_syntax(self) -> ToolSyntax: ...


class BlockDiffusionModel(Protocol):
    """A family: causal ``encode`` that writes the cache, bidirectional ``denoise`` that reads it, and a ``readout``.

    ``commit_and_denoise`` is both for a finished canvas and the next one's first step, where a family can share work.
    """

    defaults: GenerationDefaults

    @property
    def config(self) -> BlockDiffusionConfig: ...
    @property
    def noise(self) -> Noise: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def kv_dtype(self) -> torch.dtype: ...
    @property
    def chunk_independent(self) -> bool:
        """Whether a context gives the same bits however many of its tokens are encoded in one forward."""
        ...

    def cache_layout(self) -> list[tuple[int, int, int | None]]: ...
    def encode(self, tokens: Tensor, cache: Cache) -> None: ...
    def denoise(self, canvas: Tensor, cache: Cache, signal: Tensor | None) -> Tensor: ...
    def commit_and_denoise(self, tokens: Tensor, canvas: Tensor, cache: Cache) -> Tensor: ...
    def logits(self, hidden: Tensor) -> Tensor: ...
    def readout(self, hidden: Tensor, temperature: float, uniforms: Tensor | None, **wanted: Any) -> Readout: ...
