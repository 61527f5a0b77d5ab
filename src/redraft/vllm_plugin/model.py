"""A model whose forwards vLLM computes, as our tasks see it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redraft.canvas.corruption import Corruption
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.engine.runtime import Runtime
from redraft.errors import CheckpointError, GenerationError
from redraft.layers.logits_head import LogitsHead
from redraft.layers.readouts import read_canvases
from redraft.layers.vocabulary_head import TILE, Embedding
from redraft.models import checkpoint
from redraft.models.base import KV_BLOCK, GenerationDefaults, GenerationMode, Span
from redraft.models.family import FamilyConfig
from redraft.models.tokenizer import ChatTokenizer


@dataclass(eq=False)
class RemoteModel:
    """A model without weights (a ``BlockDiffusionModel``): what is read off are logits [C, V] that were given."""

    config: FamilyConfig
    defaults: GenerationDefaults
    corruption: Corruption | None
    device: torch.device
    head: LogitsHead

    modes: tuple[GenerationMode, ...] = ("diffusion",)
    self_conditions: bool = True
    reread: int = 0
    kv_dtype: torch.dtype = torch.float32
    batch_independent: bool = True
    """Nothing is known here of what is encoded, and so nothing depends on how."""

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        """Return no layers: vLLM has the keys and values."""
        return []

    def forward(self, spans: Sequence[Span]) -> list[Tensor | None]:
        """Raise GenerationError: forwards are vLLM's."""
        raise GenerationError("this model's forwards are computed by vLLM; none can be asked for here")

    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        """Read the logits [C, V] of each canvas as its spec asks."""
        # One by one: to be read together they would have to be copied together.
        return [read_canvases(self.head, [rows], [spec])[0] for rows, spec in zip(hidden, specs, strict=True)]

    def logits(self, hidden: Tensor) -> Tensor:
        """Return what was given, which are logits."""
        return hidden


def remote_runtime(
    folder: Path,
    *,
    context_length: int,
    canvas_length: int,
    device: torch.device | str = "cpu",
    embedding: Embedding | None = None,
) -> Runtime:
    """Make the ground on which tasks run whose forwards are vLLM's.

    ``folder``: the checkpoint's, of which all but the weights is read. ``context_length`` and ``canvas_length`` are
    those that vLLM serves; ``embedding`` what soft embeddings are made of, None where none are computed. Raises
    CheckpointError for a checkpoint whose canvases are not those of a family that vLLM serves.
    """
    found = checkpoint.describe(folder)
    config: Any = found.config
    if not 1 <= canvas_length <= config.canvas_length:
        raise CheckpointError(
            f"{folder} has canvases of {config.canvas_length} positions, and vLLM serves {canvas_length}; set "
            f"canvas_length in --diffusion-config to {config.canvas_length} or fewer"
        )
    config = replace(config, context_length=context_length, canvas_length=canvas_length)
    corruption = found.family.corruption(config)
    if corruption is None or corruption.monotone:
        raise CheckpointError(f"{folder}: vLLM's canvases are of uniform noise, and {found.architecture} has none")
    on = torch.device(device)
    # A GPU is kept busy by few large tiles, of which one is 64 MB for a canvas of 256.
    head = LogitsHead(embedding, TILE if on.type == "cpu" else 16 * TILE)
    model = RemoteModel(config, found.defaults, corruption, on, head)
    # The prompt is one chunk: vLLM encodes it, in chunks of its own.
    return Runtime(model, ChatTokenizer.from_checkpoint(folder), context_length, None, KV_BLOCK)
