"""DiffusionGemma: a Gemma 4 mixture of experts that encodes causally and denoises canvases bidirectionally.

One set of weights serves both modes. Facts follow google/diffusiongemma-26B-A4B-it and its reference implementation
in ``transformers``, which the tests compare with.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redraft.canvas.corruption import UniformCorruption
from redraft.canvas.noise import UniformNoise
from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.layers.experts import Experts, Router
from redraft.layers.linear import Linear, draw
from redraft.layers.mlp import GatedMLP
from redraft.layers.norm import RMSNorm, rms_norm
from redraft.layers.readouts import read_canvases
from redraft.layers.rope import RotaryTable, rotate
from redraft.layers.vocabulary_head import VocabularyHead
from redraft.models.base import ALL_MODES, GenerationDefaults, Span, WindowPolicy
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.gemma.attention import AttentionSpec
from redraft.models.spans import SpanRows, advance, attend, lay_out, rotations, wanted_rows


class Attention(nn.Module):
    """Grouped-query attention with normed queries, keys and values; a full layer's values are its raw keys."""

    def __init__(self, config: DiffusionGemmaConfig, spec: AttentionSpec) -> None:
        super().__init__()
        hidden, kv = config.hidden_size, spec.kv_heads * spec.head_dim
        self.spec = spec
        self.eps = config.rms_norm_eps
        self.q_proj = Linear(hidden, config.num_attention_heads * spec.head_dim)
        self.k_proj = Linear(hidden, kv)
        self.v_proj = Linear(hidden, kv) if spec.window is not None else None
        self.o_proj = Linear(config.num_attention_heads * spec.head_dim, hidden)
        self.q_norm = RMSNorm(spec.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(spec.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [N, H], and cosines and sines [N, 1, D/2] -> queries [N, heads, D], keys and values [N, kv_heads, D] as
        the cache keeps them."""
        dtype = self.q_proj.weight.dtype
        raw_keys = self._heads(self.k_proj(x))
        raw_values = raw_keys if self.v_proj is None else self._heads(self.v_proj(x))
        queries = rotate(self.q_norm(self._heads(self.q_proj(x))), *angles)
        keys = rotate(self.k_norm(raw_keys), *angles)
        return queries.to(dtype), keys.to(dtype), rms_norm(raw_values, None, self.eps).to(dtype)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.spec.head_dim))


class Layer(nn.Module):
    """Attention block and feed-forward block with a dense and an expert branch, each between two norms."""

    def __init__(self, config: DiffusionGemmaConfig, spec: AttentionSpec) -> None:
        super().__init__()
        hidden, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, spec)
        self.mlp = GatedMLP(hidden, config.intermediate_size)
        self.router = Router(hidden, config.num_experts, config.top_k_experts, eps)
        self.experts = Experts(hidden, config.moe_intermediate_size, config.num_experts)
        self.input_layernorm = RMSNorm(hidden, eps)
        self.post_attention_layernorm = RMSNorm(hidden, eps)
        self.pre_feedforward_layernorm = RMSNorm(hidden, eps)
        self.post_feedforward_layernorm_1 = RMSNorm(hidden, eps)
        self.pre_feedforward_layernorm_2 = RMSNorm(hidden, eps)
        self.post_feedforward_layernorm_2 = RMSNorm(hidden, eps)
        self.post_feedforward_layernorm = RMSNorm(hidden, eps)
        # All of a layer is shared between the two modes except the scalar on its output.
        self.layer_scalar: Tensor
        self.encoder_layer_scalar: Tensor
        self.register_buffer("layer_scalar", torch.ones(1))
        self.register_buffer("encoder_layer_scalar", torch.ones(1))

    def scalar(self, causal: bool) -> Tensor:
        """Return what the layer's output is multiplied by [1], in either mode."""
        return self.encoder_layer_scalar if causal else self.layer_scalar

    def project(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Residual [N, H] -> queries [N, heads, D], keys and values [N, kv_heads, D]."""
        return self.self_attn(self.input_layernorm(x), angles)

    def finish(self, x: Tensor, context: Tensor, scalar: Tensor) -> Tensor:
        """Residual [N, H] and what attention gathered [N, heads * D] -> residual."""
        x = x + self.post_attention_layernorm(self.self_attn.o_proj(context))
        return (x + self._feed_forward(x)) * scalar

    def _feed_forward(self, x: Tensor) -> Tensor:
        dense = self.post_feedforward_layernorm_1(self.mlp(self.pre_feedforward_layernorm(x)))
        flat = x.flatten(0, -2)
        weights, chosen = self.router(flat)
        mixed = self.experts(self.pre_feedforward_layernorm_2(flat), weights, chosen).view(x.shape)
        return self.post_feedforward_layernorm(dense + self.post_feedforward_layernorm_2(mixed))


class SelfConditioning(nn.Module):
    """Adds what the previous denoising step believed to the canvas embeddings (Chen et al. 2022, as a gated MLP)."""

    def __init__(self, config: DiffusionGemmaConfig) -> None:
        super().__init__()
        self.pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.eps = config.rms_norm_eps

    def forward(self, embeddings: Tensor, believed: Tensor | None) -> Tensor:
        """embeddings and self-conditioning [..., C, H]; None is the zero vector of a canvas's first step."""
        if believed is None:
            # The block has no biases: a zero vector passes through it as zero.
            return rms_norm(embeddings, None, self.eps)
        normed = self.pre_norm(believed)
        belief = self.down_proj(F.gelu(self.gate_proj(normed), approximate="tanh") * self.up_proj(normed))
        return rms_norm(embeddings + belief, None, self.eps)


class TokenEmbedding(nn.Module):
    """The table [V, H] that embeds tokens, reads logits and mixes the self-conditioning."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))
        draw(self.weight, std=hidden_size**-0.5)


class DiffusionGemma(nn.Module):
    """The text model. ``window_policy`` says what of the cache a sliding layer shows to a canvas past its window."""

    # The encoder with the head is a language model of its own.
    modes = ALL_MODES

    def __init__(self, config: DiffusionGemmaConfig, window_policy: WindowPolicy = "shared") -> None:
        super().__init__()
        self.config = config
        self.window_policy = window_policy
        self.defaults = GenerationDefaults(end_token_ids=config.end_token_ids)
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.layers: Sequence[Layer] = nn.ModuleList(Layer(config, spec) for spec in config.layers)  # type: ignore[assignment]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        self._rotary = {spec: RotaryTable(spec.frequencies) for spec in set(config.layers)}

    @property
    def corruption(self) -> UniformCorruption:
        """The noise that the family was trained with: uniform over the whole vocabulary."""
        return UniformCorruption(UniformNoise(self.config.vocab_size))

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def kv_dtype(self) -> torch.dtype:
        """The dtype that keys and values are kept in."""
        return self.embed_tokens.weight.dtype

    @property
    def batch_independent(self) -> bool:
        """False: torch's products round a row by how many rows there are."""
        return False

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        """(kv_heads, head_dim, positions kept) of every layer; None keeps the whole context."""
        return [(s.kv_heads, s.head_dim, None if s.window is None else s.window - 1) for s in self.config.layers]

    @property
    def reread(self) -> int:
        """None: each row says what stands at its own position."""
        return 0

    @property
    def self_conditions(self) -> bool:
        """A step reads the soft embedding of the step before."""
        return True

    def forward(self, spans: Sequence[Span]) -> list[Tensor | None]:
        """Compute all spans together; see ``models.base.BlockDiffusionModel``.

        Products, norms and experts go over the rows of all spans, attention over each span's own. Every position of a
        canvas continues where its cache ends.
        """
        rows = lay_out(spans)
        x = torch.cat([self._entering(span) for span in spans])
        angles = self._angles(rows)
        for index, (layer, spec) in enumerate(zip(self.layers, self.config.layers, strict=True)):
            queries, keys, values = layer.project(x, angles[spec])
            context = [self._attend(index, one, queries, keys, values) for one in rows]
            computed = rows
            if index == len(self.layers) - 1:
                # Of what is encoded and not wanted, the last layer has to leave keys and values only.
                computed = [one for one in rows if not one.causal or one.span.wanted]
                context = [part for one, part in zip(rows, context, strict=True) if one in computed]
                x = torch.cat([x[one.own] for one in computed] or [x[:0]])
            if computed:
                scalar = torch.cat([layer.scalar(one.causal).expand(one.end - one.start) for one in computed])
                x = layer.finish(x, torch.cat(context), scalar[:, None])
        advance(rows)
        hidden = iter(self.norm(x).split([one.end - one.start for one in computed]))
        return [wanted_rows(one, next(hidden)) if one in computed else None for one in rows]

    def _entering(self, span: Span) -> Tensor:
        """Return a span's rows for the first layer, [rows, H]."""
        x = self.embed(span.tokens)
        return (x if span.mode == "encode" else self.self_conditioning(x, span.self_conditioning)).flatten(0, -2)

    def _angles(self, rows: Sequence[SpanRows]) -> dict[AttentionSpec, tuple[Tensor, Tensor]]:
        """Cosines and sines [N, 1, D/2] of all rows, for each kind of layer."""
        return {spec: rotations(table, rows, self.device) for spec, table in self._rotary.items()}

    def _attend(self, index: int, one: SpanRows, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return what a span's rows gather in one layer, [rows, heads * D]; write what is encoded to its cache."""
        window = self.config.layers[index].window
        return attend(index, one, queries, keys, values, window, window if self.window_policy == "per_query" else None)

    def rope(self, start: int, length: int) -> dict[AttentionSpec, tuple[Tensor, Tensor]]:
        """Cosines and sines [length, D/2] of positions start .. start+length-1, for each kind of layer."""
        return {spec: table.slice(start, length, self.device) for spec, table in self._rotary.items()}

    def rotary(self, spec: AttentionSpec) -> RotaryTable:
        """The angles of a kind of layer."""
        return self._rotary[spec]

    def embed(self, tokens: Tensor) -> Tensor:
        """Scaled token embeddings, float32 [..., H]."""
        return F.embedding(tokens, self.embed_tokens.weight).float() * self.config.hidden_size**0.5

    def head(self) -> VocabularyHead:
        """The tied head: what turns hidden states into logits and soft embeddings."""
        return VocabularyHead(
            self.embed_tokens.weight, self.config.final_logit_softcapping, self.config.hidden_size**0.5
        )

    def readout(self, hidden: Sequence[Tensor], specs: Sequence[ReadoutSpec]) -> list[Readout]:
        """Read each canvas's hidden rows [C, H] as its spec asks."""
        return read_canvases(self.head(), hidden, specs)

    def logits(self, hidden: Tensor, vocabulary: slice = slice(None)) -> Tensor:
        """Soft-capped float32 logits [..., V] of ``hidden`` [..., H], of all tokens or a slice of them.

        The whole [C, V] exists here: for training and tests; generation uses ``readout``.
        """
        table = self.embed_tokens.weight[vocabulary]
        cap = self.config.final_logit_softcapping
        return cap * torch.tanh(F.linear(hidden.to(table.dtype), table).float() / cap)
