"""Inkwell in plain torch: pre-norm attention and a SiLU MLP, a head of its own, canvases that fill in masks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.layers.linear import Linear
from redraft.layers.norm import RMSNorm
from redraft.layers.readouts import read_canvases
from redraft.layers.rope import RotaryTable, inverse_frequencies, rotate
from redraft.layers.vocabulary_head import VocabularyHead
from redraft.models.base import GenerationDefaults, GenerationMode, Span
from redraft.models.spans import advance, attend, lay_out, rotations, wanted_rows
from tests.models.toy.config import InkwellConfig


class BiasedLinear(Linear):
    """``x @ weight.T + bias``."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class InkwellLayer(nn.Module):
    """Attention and MLP, each on normed rows and added as they are."""

    def __init__(self, config: InkwellConfig) -> None:
        super().__init__()
        width, kv = config.width, config.kv_heads * config.head_dim
        self.head_dim, self.scale = config.head_dim, config.head_dim**-0.5
        self.attention_norm = RMSNorm(width, config.norm_eps)
        self.query, self.key, self.value = BiasedLinear(width, width), BiasedLinear(width, kv), BiasedLinear(width, kv)
        self.out = Linear(width, width)
        self.mlp_norm = RMSNorm(width, config.norm_eps)
        self.gate, self.up = Linear(width, config.inner_width), Linear(width, config.inner_width)
        self.down = Linear(config.inner_width, width)

    def project(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        normed, dtype = self.attention_norm(x), self.query.weight.dtype
        query, key, value = (
            part(normed).unflatten(-1, (-1, self.head_dim)) for part in (self.query, self.key, self.value)
        )
        turned = rotate(query.float(), *angles) * self.scale, rotate(key.float(), *angles)
        return turned[0].to(dtype), turned[1].to(dtype), value

    def finish(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.out(context)
        normed = self.mlp_norm(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Embedding(nn.Module):
    """A table [V, H]."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab_size, width))


class Inkwell(nn.Module):
    """A ``models.base.BlockDiffusionModel``."""

    self_conditions = False
    # It was never trained to read on: what it encodes is context, and no text follows from it.
    modes: tuple[GenerationMode, ...] = ("diffusion",)
    reread = 0
    batch_independent = False

    def __init__(self, config: InkwellConfig) -> None:
        super().__init__()
        self.config = config
        self.defaults = GenerationDefaults(end_token_ids=(config.end_id,), acceptance=ConfidenceThreshold())
        self.embedding = Embedding(config.vocab_size, config.width)
        self.layers: Sequence[InkwellLayer] = nn.ModuleList(InkwellLayer(config) for _ in range(config.depth))  # type: ignore[assignment]
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = Linear(config.width, config.vocab_size)
        self.rotary = RotaryTable(inverse_frequencies(config.head_dim, config.rope_theta))

    @property
    def corruption(self) -> AbsorbingCorruption:
        return AbsorbingCorruption(MaskNoise(self.config.mask_id))

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def kv_dtype(self) -> torch.dtype:
        return self.head.weight.dtype

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        return [(self.config.kv_heads, self.config.head_dim, None)] * self.config.depth

    def forward(self, spans: Sequence[Span]) -> list[Tensor | None]:
        rows = lay_out(spans)
        x = F.embedding(torch.cat([span.tokens for span in spans]), self.embedding.weight).float()
        angles = rotations(self.rotary, rows, self.device)
        for index, layer in enumerate(self.layers):
            projected = layer.project(x, angles)
            x = layer.finish(x, torch.cat([attend(index, one, *projected) for one in rows]))
        advance(rows)
        hidden = self.norm(x)
        return [wanted_rows(one, hidden[one.own]) for one in rows]

    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        return read_canvases(VocabularyHead(self.head.weight, None, None), hidden, specs)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).float()
