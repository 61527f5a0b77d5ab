"""LlamaDiffusion in plain torch: causal over what is encoded, bidirectional over a canvas, in which masks are unknown.

Rows are shifted as the base's are: row i - 1 says what stands at position i. So the last token of the context is run
again as a canvas's first row, this time with sight of the whole canvas.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.layers.attention import biased_attention
from redraft.layers.linear import Linear, draw
from redraft.layers.mlp import GatedMLP
from redraft.layers.norm import RMSNorm
from redraft.layers.readouts import read_canvases
from redraft.layers.rope import RotaryTable, inverse_frequencies, rotate
from redraft.layers.vocabulary_head import VocabularyHead
from redraft.models.base import ALL_MODES, GenerationDefaults, Span
from redraft.models.llama_diffusion.config import LlamaDiffusionConfig
from redraft.models.spans import advance, attend, lay_out, rotations, wanted_rows

Angles = tuple[Tensor, Tensor]
"""Cosines and sines [..., head_dim / 2] of rows."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values [..., heads, head_dim]) -> what rows gather, [..., heads * head_dim]."""


class Attention(nn.Module):
    """The four projections; attention itself goes over each span's own rows."""

    def __init__(self, config: LlamaDiffusionConfig) -> None:
        super().__init__()
        hidden, self.head_dim = config.hidden_size, config.head_dim
        queries, kv = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj, self.k_proj, self.v_proj = Linear(hidden, queries), Linear(hidden, kv), Linear(hidden, kv)
        self.o_proj = Linear(queries, hidden)

    def project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Normed rows [..., H] -> queries, scaled by head_dim^-0.5, keys and values [..., heads, head_dim]."""
        query, key, value = (
            part(x).unflatten(-1, (-1, self.head_dim)) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        scale, dtype = self.head_dim**-0.5, query.dtype
        return (rotate(query.float(), *angles) * scale).to(dtype), rotate(key.float(), *angles).to(dtype), value


class Layer(nn.Module):
    """Attention and MLP, each on normed rows and added to the residual."""

    def __init__(self, config: LlamaDiffusionConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size, "silu")
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def project(self, x: Tensor, angles: Angles) -> tuple[Tensor, Tensor, Tensor]:
        """Residual [..., H] -> queries, keys and values."""
        return self.self_attn.project(self.input_layernorm(x), angles)

    def finish(self, x: Tensor, context: Tensor) -> Tensor:
        """Residual [..., H] and what attention gathered [..., heads * head_dim] -> the residual behind the layer."""
        x = x + self.self_attn.o_proj(context)
        return x + self.mlp(self.post_attention_layernorm(x))


class Embedding(nn.Module):
    """The table [V, H] that embeds tokens and, where the head is tied, reads logits."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))
        draw(self.weight, std=hidden_size**-0.5)


class LlamaDiffusion(nn.Module):
    """A ``models.base.BlockDiffusionModel``; parameters are called what Llama's files call them."""

    self_conditions = False
    batch_independent = False
    reread = 1
    modes = ALL_MODES

    def __init__(self, config: LlamaDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.defaults = GenerationDefaults(
            t_max=1.0, t_min=1.0, end_token_ids=config.end_token_ids, acceptance=ConfidenceThreshold()
        )
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers: Sequence[Layer] = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))  # type: ignore[assignment]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = None if config.tie_word_embeddings else Linear(config.hidden_size, config.vocab_size)
        frequencies = inverse_frequencies(config.head_dim, config.rope_theta)
        if config.rope_scaling is not None:
            frequencies = config.rope_scaling.apply(frequencies)
        self.rotary = RotaryTable(frequencies)

    @property
    def corruption(self) -> AbsorbingCorruption:
        return AbsorbingCorruption(MaskNoise(self.config.mask_token_id), self.config.mask_order)

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def kv_dtype(self) -> torch.dtype:
        """The dtype that keys and values are kept in."""
        return self.embed_tokens.weight.dtype

    @property
    def head_table(self) -> Tensor:
        """The weights [V, H] that read logits."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        """(kv_heads, head_dim, positions kept) of every layer; None keeps the whole context."""
        return [(self.config.num_key_value_heads, self.config.head_dim, None)] * self.config.num_hidden_layers

    def forward(self, spans: Sequence[Span]) -> list[Tensor | None]:
        """Compute all spans together; see ``models.base.BlockDiffusionModel``."""
        rows = lay_out(spans)
        x = torch.cat([self.embed(span.tokens).flatten(0, -2) for span in spans])
        hidden = self.through(
            x,
            rotations(self.rotary, rows, self.device),
            lambda index, *parts: torch.cat([attend(index, one, *parts) for one in rows]),
        )
        advance(rows)
        return [wanted_rows(one, hidden[one.own]) for one in rows]

    def through(self, x: Tensor, angles: Angles, attend: Attend) -> Tensor:
        """Take embedded rows [..., H] through all layers and the last norm."""
        for index, layer in enumerate(self.layers):
            x = layer.finish(x, attend(index, *layer.project(x, angles)))
        return self.norm(x)

    def rows(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Compute sequences of one length at once: tokens and positions [B, L], and which tokens each one sees, bool
        [B, L, L] -> the normed hidden states [B, L, H]."""
        count, length = tokens.shape
        return self.trees(tokens.flatten(), positions.flatten(), list(mask)).view(count, length, -1)

    def trees(
        self, tokens: Tensor, positions: Tensor, masks: Sequence[Tensor], mask_row: Tensor | None = None
    ) -> Tensor:
        """Compute token trees that stand one after the other: tokens and positions [N], and which tokens of its own
        tree each one sees, bool [L, L] a tree -> the normed hidden states [N, H].

        mask_row [H]: the embedding of the mask, where it is trained and the rest of the table is not.
        """
        x = self.embed(tokens)
        if mask_row is not None:
            x = torch.where((tokens == self.config.mask_token_id)[:, None], mask_row.float(), x)
        cos, sin = self.rotary.slice(0, int(positions.max()) + 1, self.device)
        lengths = [len(mask) for mask in masks]
        seen = list(masks)
        # torch's attention takes three times as long with bfloat16 on a processor, there and back, as the products.
        by_products = x.device.type == "cpu" and self.norm.weight.dtype == torch.bfloat16
        if by_products:
            seen = [torch.zeros(mask.shape).masked_fill(~mask, float("-inf")) for mask in masks]

        def within_trees(_: int, *parts: Tensor) -> Tensor:
            # [N, heads, D] -> [1, heads, L, D] of each tree.
            each = zip(*(part.transpose(0, 1)[None].split(lengths, 2) for part in parts), seen, strict=True)
            if by_products:
                found = [biased_attention(q, k, v, bias) for q, k, v, bias in each]
            else:
                # Queries are scaled already.
                found = [F.scaled_dot_product_attention(q, k, v, m, scale=1.0, enable_gqa=True) for q, k, v, m in each]
            return torch.cat(found, 2)[0].transpose(0, 1).flatten(1)

        return self.through(x, (cos[positions][:, None], sin[positions][:, None]), within_trees)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings, float32 [..., H]."""
        return F.embedding(tokens, self.embed_tokens.weight).float()

    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        """Read each canvas's hidden rows [C, H] as its spec asks."""
        return read_canvases(VocabularyHead(self.head_table, None, None), hidden, specs)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V] of ``hidden`` [..., H]: for training and tests."""
        table = self.head_table
        return F.linear(hidden.to(table.dtype), table).float()
