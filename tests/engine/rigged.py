"""An engine with a real tokenizer whose model says what a test wants it to say: logits are a function of the step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redraft.api import Engine
from redraft.canvas.noise import UniformNoise
from redraft.canvas.readout import Readout, VocabularyHead
from redraft.models.base import GenerationDefaults
from redraft.models.diffusion_gemma.tools import GemmaTools
from redraft.models.tokenizer import ChatTokenizer
from redraft.models.tools import ToolSyntax
from tests.random_checkpoint import END_TOKEN_IDS, LETTERS_SIZE, write_letters_tokenizer

VOCAB_SIZE = LETTERS_SIZE + 4
# So far above all logits that the cap changes nothing but their last digits.
_CAP = 1e5

Logits = Callable[[Tensor, int], Tensor]
"""(canvas [C], tokens of the context) -> logits [C, V]."""


@dataclass(frozen=True)
class RiggedConfig:
    vocab_size: int = VOCAB_SIZE
    context_length: int = 4096
    canvas_length: int = 64
    image_token_ids: tuple[int, ...] = ()
    thought_markers: tuple[str, str] = ("<|channel>", "<channel|>")
    tool_syntax: ToolSyntax = field(default_factory=GemmaTools)


@dataclass
class RiggedModel:
    """A block-diffusion model without weights (``models.base``); its hidden states are the logits themselves."""

    rigged: Logits
    config: RiggedConfig = field(default_factory=RiggedConfig)
    defaults: GenerationDefaults = field(
        default_factory=lambda: GenerationDefaults(max_denoising_steps=2, end_token_ids=END_TOKEN_IDS)
    )
    encoded: list[list[int]] = field(default_factory=list)
    """What was encoded, a call each, also along with a canvas's first step."""
    canvases_seen: list[Tensor] = field(default_factory=list)

    @property
    def noise(self) -> UniformNoise:
        return UniformNoise(self.config.vocab_size)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def kv_dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def chunk_independent(self) -> bool:
        return True

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        return []

    def encode(self, tokens: Tensor, cache: Any) -> None:
        self.encoded.append(tokens[0].tolist())
        cache.advance(tokens.shape[1])

    def denoise(self, canvas: Tensor, cache: Any, signal: Tensor | None) -> Tensor:
        self.canvases_seen.append(canvas[0].clone())
        return self.rigged(canvas[0], cache.length)[None]

    def commit_and_denoise(self, tokens: Tensor, canvas: Tensor, cache: Any) -> Tensor:
        self.encode(tokens, cache)
        return self.denoise(canvas, cache, None)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def readout(self, hidden: Tensor, temperature: float, uniforms: Tensor | None, **wanted: Any) -> Readout:
        head = VocabularyHead(torch.eye(self.config.vocab_size), _CAP, 1.0)
        return head.read(hidden, temperature, uniforms, **wanted)


def rigged_engine(folder: Path, logits: Logits, *, ends: Sequence[int] = END_TOKEN_IDS, **config: Any) -> Engine:
    """An engine whose model says ``logits``, with the tokenizer that can spell any text."""
    write_letters_tokenizer(folder, VOCAB_SIZE)
    model = RiggedModel(logits, RiggedConfig(**config))
    model.defaults = GenerationDefaults(max_denoising_steps=2, end_token_ids=tuple(ends))
    return Engine(model, ChatTokenizer.from_folder(folder))  # type: ignore[arg-type]


def random_logits(seed: int, scale: float = 3.0) -> Logits:
    """Logits that depend on the whole canvas and on how long the context is."""

    def logits(canvas: Tensor, context: int) -> Tensor:
        weights = torch.arange(1, len(canvas) + 1)
        key = (seed * 1_000_003 + context * 8191 + int((canvas * weights).sum())) % (1 << 62)
        return scale * torch.randn(len(canvas), VOCAB_SIZE, generator=torch.Generator().manual_seed(key))

    return logits
