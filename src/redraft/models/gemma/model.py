"""Gemma 3 and 4 in plain torch: causal, a cache behind every layer, and no canvas.

Facts follow the reference implementations in ``transformers``, which the tests compare with.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.layers.experts import Experts, Router
from redraft.layers.linear import Linear, draw
from redraft.layers.mlp import GatedMLP
from redraft.layers.norm import rms_norm
from redraft.layers.readouts import read_canvases
from redraft.layers.rope import RotaryTable, rotate
from redraft.layers.vocabulary_head import VocabularyHead
from redraft.models.base import GenerationDefaults, GenerationMode, Span
from redraft.models.gemma.attention import AttentionSpec
from redraft.models.gemma.config import GemmaConfig
from redraft.models.spans import advance, attend, lay_out, rotations, wanted_rows

Angles = tuple[Tensor, Tensor]
"""Cosines and sines [N, 1, head_dim / 2] of rows."""


class Norm(nn.Module):
    """``rms_norm`` with a weight [size], which Gemma 3 stores without its 1."""

    def __init__(self, size: int, config: GemmaConfig) -> None:
        super().__init__()
        self.offset, self.eps = config.norm_offset, config.rms_norm_eps
        self.weight = nn.Parameter(torch.ones(size) - self.offset)

    @property
    def whole(self) -> Tensor:
        """The factors of the rows, float32 [size]."""
        return self.weight.float() + self.offset

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.whole, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with normed queries and keys; in Gemma 4 the values are normed too, and may be the raw
    keys."""

    def __init__(self, config: GemmaConfig, spec: AttentionSpec) -> None:
        super().__init__()
        hidden, kv = config.hidden_size, spec.kv_heads * spec.head_dim
        self.config, self.spec = config, spec
        self.q_proj = Linear(hidden, config.num_attention_heads * spec.head_dim)
        self.k_proj = Linear(hidden, kv)
        self.v_proj = None if config.values_are_keys(spec) else Linear(hidden, kv)
        self.o_proj = Linear(config.num_attention_heads * spec.head_dim, hidden)
        self.q_norm, self.k_norm = Norm(spec.head_dim, config), Norm(spec.head_dim, config)

    def project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Normed rows [N, H] -> queries [N, heads, D], keys and values [N, kv_heads, D] as the cache keeps them."""
        dtype = self.q_proj.weight.dtype
        raw_keys = self._heads(self.k_proj(x))
        values = raw_keys if self.v_proj is None else self._heads(self.v_proj(x))
        queries = rotate(self.q_norm(self._heads(self.q_proj(x))), *angles) * self.config.attention_scale
        keys = rotate(self.k_norm(raw_keys), *angles)
        if self.config.values_normed:
            values = rms_norm(values, None, self.config.rms_norm_eps)
        return queries.to(dtype), keys.to(dtype), values.to(dtype)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.spec.head_dim))


class Layer(nn.Module):
    """Attention block and feed-forward block, each between two norms; beside the dense branch there may be experts."""

    def __init__(self, config: GemmaConfig, spec: AttentionSpec) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, spec)
        self.mlp = GatedMLP(hidden, config.intermediate_size)
        self.input_layernorm = Norm(hidden, config)
        self.post_attention_layernorm = Norm(hidden, config)
        self.pre_feedforward_layernorm = Norm(hidden, config)
        self.post_feedforward_layernorm = Norm(hidden, config)
        self.experts: Experts | None = None
        if config.num_experts:
            self.router = Router(hidden, config.num_experts, config.top_k_experts, eps)
            self.experts = Experts(hidden, config.moe_intermediate_size, config.num_experts)
            self.post_feedforward_layernorm_1 = Norm(hidden, config)
            self.pre_feedforward_layernorm_2 = Norm(hidden, config)
            self.post_feedforward_layernorm_2 = Norm(hidden, config)
        self.layer_scalar: Tensor | None
        self.register_buffer("layer_scalar", torch.ones(1) if config.scales_layers else None)

    def project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Residual [N, H] -> queries, keys and values."""
        return self.self_attn.project(self.input_layernorm(x), angles)

    def finish(self, x: Tensor, context: Tensor) -> Tensor:
        """Residual [N, H] and what attention gathered [N, heads * D] -> the residual behind the layer."""
        x = x + self.post_attention_layernorm(self.self_attn.o_proj(context))
        added = self.mlp(self.pre_feedforward_layernorm(x))
        if self.experts is not None:
            weights, chosen = self.router(x)
            mixed = self.experts(self.pre_feedforward_layernorm_2(x), weights, chosen)
            added = self.post_feedforward_layernorm_1(added) + self.post_feedforward_layernorm_2(mixed)
        x = x + self.post_feedforward_layernorm(added)
        return x if self.layer_scalar is None else x * self.layer_scalar


class Embedding(nn.Module):
    """The table [V, H] that embeds tokens and reads logits."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))
        draw(self.weight, std=hidden_size**-0.5)


class Gemma(nn.Module):
    """A ``models.base.BlockDiffusionModel`` that encodes and never denoises; parameters are called what files call
    them."""

    self_conditions = False
    batch_independent = False
    reread = 0
    corruption = None
    modes: tuple[GenerationMode, ...] = ("autoregressive",)

    def __init__(self, config: GemmaConfig) -> None:
        super().__init__()
        self.config = config
        self.defaults = GenerationDefaults(end_token_ids=config.end_token_ids)
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers: Sequence[Layer] = nn.ModuleList(Layer(config, spec) for spec in config.layers)  # type: ignore[assignment]
        self.norm = Norm(config.hidden_size, config)
        self._rotary = {spec: RotaryTable(spec.frequencies) for spec in set(config.layers)}

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def kv_dtype(self) -> torch.dtype:
        """The dtype that keys and values are kept in."""
        return self.embed_tokens.weight.dtype

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        """(kv_heads, head_dim, positions kept) of every layer; None keeps the whole context."""
        return [(s.kv_heads, s.head_dim, None if s.window is None else s.window - 1) for s in self.config.layers]

    def forward(self, spans: Sequence[Span]) -> list[Tensor | None]:
        """Compute all spans together; see ``models.base.BlockDiffusionModel``. Raises ValueError for a canvas."""
        if any(span.mode == "denoise" for span in spans):
            raise ValueError("a Gemma has no canvas; its spans are encoded")
        rows = lay_out(spans)
        x = torch.cat([self.embed(span.tokens).flatten(0, -2) for span in spans])
        angles = {spec: rotations(table, rows, self.device) for spec, table in self._rotary.items()}
        computed = rows
        for index, (layer, spec) in enumerate(zip(self.layers, self.config.layers, strict=True)):
            parts = layer.project(x, angles[spec])
            context = [attend(index, one, *parts, spec.window) for one in rows]
            if index == len(self.layers) - 1:
                # Of what nobody wants, the last layer has to leave keys and values only.
                computed = [one for one in rows if one.span.wanted]
                context = [part for one, part in zip(rows, context, strict=True) if one.span.wanted]
                x = torch.cat([x[one.own] for one in computed] or [x[:0]])
            if computed:
                x = layer.finish(x, torch.cat(context))
        advance(rows)
        hidden = iter(self.norm(x).split([one.span.rows for one in computed]))
        return [wanted_rows(one, next(hidden)) if one.span.wanted else None for one in rows]

    def rotary(self, spec: AttentionSpec) -> RotaryTable:
        """The angles of a kind of layer."""
        return self._rotary[spec]

    def embed(self, tokens: Tensor) -> Tensor:
        """Scaled token embeddings, float32 [..., H]."""
        return F.embedding(tokens, self.embed_tokens.weight).float() * self.config.hidden_size**0.5

    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        """Read hidden rows [C, H] as each spec asks."""
        head = VocabularyHead(self.embed_tokens.weight, self.config.final_logit_softcapping, None)
        return read_canvases(head, hidden, specs)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V] of ``hidden`` [..., H]: for tests, and comparisons."""
        table, cap = self.embed_tokens.weight, self.config.final_logit_softcapping
        logits = F.linear(hidden.to(table.dtype), table).float()
        return logits if cap is None else cap * torch.tanh(logits / cap)
