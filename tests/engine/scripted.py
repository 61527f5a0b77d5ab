"""An engine with a real tokenizer whose model says what a test scripts: logits are a function of the canvas."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redraft.api import Engine
from redraft.canvas.corruption import Corruption, UniformCorruption
from redraft.canvas.noise import UniformNoise
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.layers.readouts import read_canvases
from redraft.layers.vocabulary_head import VocabularyHead
from redraft.models.base import ALL_MODES, GenerationDefaults, GenerationMode, Span
from redraft.models.gemma.tools import GemmaTools
from redraft.models.spans import advance, lay_out
from redraft.models.thoughts import ThoughtSyntax
from redraft.models.tokenizer import ChatTokenizer
from redraft.models.tools import ToolSyntax
from tests.random_checkpoint import END_TOKEN_IDS, LETTERS_SIZE, THOUGHT, write_letters_tokenizer

VOCAB_SIZE = LETTERS_SIZE + 4
# So far above all logits that the cap changes nothing but their last digits.
_CAP = 1e5

Logits = Callable[[Tensor, int], Tensor]
"""(canvas [C], tokens of the context) -> logits [C, V]."""


@dataclass(frozen=True)
class ScriptedConfig:
    vocab_size: int = VOCAB_SIZE
    context_length: int = 4096
    canvas_length: int = 64
    image_token_ids: tuple[int, ...] = ()
    thought_syntax: ThoughtSyntax = field(default_factory=lambda: ThoughtSyntax(*THOUGHT, "thought\n"))
    tool_syntax: ToolSyntax = field(default_factory=GemmaTools)


@dataclass
class ScriptedModel:
    """A block-diffusion model without weights (``models.base``); its hidden states are the logits themselves."""

    script: Logits
    config: ScriptedConfig = field(default_factory=ScriptedConfig)
    defaults: GenerationDefaults = field(
        default_factory=lambda: GenerationDefaults(max_denoising_steps=2, end_token_ids=END_TOKEN_IDS)
    )
    given_corruption: Corruption | None = None
    """In the place of uniform noise over the vocabulary."""
    causal: Logits | None = None
    """(tokens [T], position of the first) -> logits [T, V] of what follows each; None of a model that cannot say."""
    encoded: list[list[int]] = field(default_factory=list)
    """What was encoded, a span each, also along with a canvas's first step."""
    canvases_seen: list[Tensor] = field(default_factory=list)
    forwards: int = 0
    readouts: int = 0

    @property
    def corruption(self) -> Corruption:
        return self.given_corruption or UniformCorruption(UniformNoise(self.config.vocab_size))

    @property
    def modes(self) -> tuple[GenerationMode, ...]:
        return ("diffusion",) if self.causal is None else ALL_MODES

    @property
    def self_conditions(self) -> bool:
        return False

    @property
    def reread(self) -> int:
        return 0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def kv_dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def batch_independent(self) -> bool:
        return True

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        return []

    def forward(self, spans: Sequence[Span]) -> list[Tensor | None]:
        self.forwards += 1
        rows = lay_out(spans)
        hidden: list[Tensor | None] = []
        for one in rows:
            tokens = one.span.tokens
            if one.causal:
                self.encoded.append(tokens.tolist())
                said = None
                if one.span.wanted:
                    assert self.causal is not None
                    said = self.causal(tokens, one.position)[-one.span.wanted :]
                hidden.append(said)
            else:
                self.canvases_seen.append(tokens.clone())
                hidden.append(self.script(tokens, one.position))
        advance(rows)
        return hidden

    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        self.readouts += 1
        return read_canvases(VocabularyHead(torch.eye(self.config.vocab_size), _CAP, 1.0), hidden, specs)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def scripted_engine(
    folder: Path,
    logits: Logits,
    *,
    ends: Sequence[int] = END_TOKEN_IDS,
    corruption: Corruption | None = None,
    causal: Logits | None = None,
    **config: Any,
) -> Engine:
    """An engine whose model says ``logits``, with the tokenizer that can spell any text."""
    write_letters_tokenizer(folder, VOCAB_SIZE)
    model = ScriptedModel(logits, ScriptedConfig(**config), given_corruption=corruption, causal=causal)
    model.defaults = GenerationDefaults(max_denoising_steps=2, end_token_ids=tuple(ends))
    return Engine(model, ChatTokenizer.from_folder(folder))


def model_of(engine: Engine) -> ScriptedModel:
    """Return the model of a scripted engine, to give it another script or to see what it was asked."""
    assert isinstance(engine.model, ScriptedModel)
    return engine.model


def random_logits(seed: int, scale: float = 3.0) -> Logits:
    """Logits that depend on the whole canvas and on how long the context is."""

    def logits(canvas: Tensor, context: int) -> Tensor:
        weights = torch.arange(1, len(canvas) + 1)
        key = (seed * 1_000_003 + context * 8191 + int((canvas * weights).sum())) % (1 << 62)
        return scale * torch.randn(len(canvas), VOCAB_SIZE, generator=torch.Generator().manual_seed(key))

    return logits
