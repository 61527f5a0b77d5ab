"""DiffusionGemma: a Gemma 4 mixture of experts that encodes causally and denoises canvases bidirectionally.

One set of weights serves both modes. Facts follow google/diffusiongemma-26B-A4B-it and its reference implementation
in ``transformers``, which the tests compare with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redraft.canvas.noise import UniformNoise
from redraft.canvas.readout import Readout, VocabularyHead
from redraft.errors import CheckpointError
from redraft.layers.attention import Segment, attention
from redraft.layers.experts import Experts, Router
from redraft.layers.linear import Linear
from redraft.layers.mlp import GatedMLP
from redraft.layers.norm import RMSNorm, rms_norm
from redraft.layers.rope import RotaryTable, inverse_frequencies, rotate
from redraft.models.base import Cache, GenerationDefaults
from redraft.models.diffusion_gemma.tools import GemmaTools

WindowPolicy = Literal["shared", "per_query"]


@dataclass(frozen=True)
class AttentionSpec:
    """What differs between sliding and full layers; ``window`` is None for a full layer."""

    head_dim: int
    kv_heads: int
    window: int | None
    rope_theta: float
    partial_rotary_factor: float = 1.0


@dataclass(frozen=True)
class DiffusionGemmaConfig:
    """Shape of the text model. ``layers`` has one ``AttentionSpec`` a layer."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_experts: int
    top_k_experts: int
    moe_intermediate_size: int
    layers: tuple[AttentionSpec, ...]
    context_length: int
    canvas_length: int = 256
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float = 30.0
    bos_token_id: int | None = 2
    pad_token_id: int | None = 0
    end_token_ids: tuple[int, ...] = (1,)
    boi_token_id: int | None = None
    eoi_token_id: int | None = None
    image_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            _check_whole(_HUB_NAME.get(name, name), getattr(self, name))
        for name in ("rms_norm_eps", "final_logit_softcapping"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise CheckpointError(f"config.json: {name} = {value!r} must be a number above 0")
        if self.top_k_experts > self.num_experts:
            raise CheckpointError(
                f"config.json: top_k_experts = {self.top_k_experts} is more than num_experts = {self.num_experts}"
            )

    @property
    def image_token_ids(self) -> tuple[int, ...]:
        """Ids that stand for images in a prompt."""
        return tuple(id for id in (self.boi_token_id, self.eoi_token_id, self.image_token_id) if id is not None)

    @property
    def thought_markers(self) -> tuple[str, str]:
        """The tokens between which the model thinks before it answers."""
        return "<|channel>", "<channel|>"

    @property
    def tool_syntax(self) -> GemmaTools:
        """How tool calls are written."""
        return GemmaTools()

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> "DiffusionGemmaConfig":
        """Read a hub ``config.json`` of either dialect (global_head_dim, or per_layer_config).

        Raises CheckpointError naming the field that is missing or has a value this model does not implement.
        """
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise CheckpointError("config.json has no 'text_config'; expected a DiffusionGemma configuration")
        if config.get("tie_word_embeddings", True) is not True:
            raise CheckpointError("config.json: tie_word_embeddings = false is not supported; expected tied weights")
        for name, expected in _ONLY_SUPPORTED.items():
            if text.get(name, expected[0]) not in expected:
                raise CheckpointError(
                    f"config.json: text_config.{name} = {text[name]!r} is not supported; "
                    f"expected {' or '.join(map(repr, expected))}"
                )
        try:
            end = text.get("eos_token_id", 1)
            return cls(
                vocab_size=text["vocab_size"],
                hidden_size=text["hidden_size"],
                intermediate_size=text["intermediate_size"],
                num_attention_heads=text["num_attention_heads"],
                num_experts=text["num_experts"],
                top_k_experts=text["top_k_experts"],
                moe_intermediate_size=text["moe_intermediate_size"],
                layers=_layers_from_json(text),
                context_length=text["max_position_embeddings"],
                canvas_length=config.get("canvas_length", 256),
                rms_norm_eps=text.get("rms_norm_eps", 1e-6),
                final_logit_softcapping=text.get("final_logit_softcapping", 30.0),
                bos_token_id=text.get("bos_token_id", 2),
                pad_token_id=text.get("pad_token_id", 0),
                end_token_ids=tuple(end) if isinstance(end, list) else (end,) if end is not None else (),
                boi_token_id=config.get("boi_token_id"),
                eoi_token_id=config.get("eoi_token_id"),
                image_token_id=config.get("image_token_id"),
            )
        except KeyError as missing:
            raise CheckpointError(f"config.json: text_config has no {missing}") from None

    def to_json(self) -> dict[str, Any]:
        """A ``config.json`` that ``from_json`` and ``transformers`` both read back to this configuration."""
        full = next(spec for spec in self.layers if spec.window is None)
        local = next((spec for spec in self.layers if spec.window is not None), full)
        different = {
            str(index): {"head_dim": spec.head_dim, "num_key_value_heads": spec.kv_heads}
            for index, spec in enumerate(self.layers)
            if (spec.head_dim, spec.kv_heads) != (local.head_dim, local.kv_heads)
        }
        return {
            "architectures": ["DiffusionGemmaForBlockDiffusion"],
            "model_type": "diffusion_gemma",
            "canvas_length": self.canvas_length,
            "boi_token_id": self.boi_token_id,
            "eoi_token_id": self.eoi_token_id,
            "image_token_id": self.image_token_id,
            "tie_word_embeddings": True,
            "text_config": {
                "model_type": "diffusion_gemma_text",
                "vocab_size": self.vocab_size,
                "hidden_size": self.hidden_size,
                "intermediate_size": self.intermediate_size,
                "num_hidden_layers": len(self.layers),
                "layer_types": ["full_attention" if s.window is None else "sliding_attention" for s in self.layers],
                "num_attention_heads": self.num_attention_heads,
                "num_key_value_heads": local.kv_heads,
                "head_dim": local.head_dim,
                "per_layer_config": different,
                "sliding_window": local.window or self.context_length,
                "rope_parameters": {
                    "sliding_attention": _rope_to_json(local),
                    "full_attention": _rope_to_json(full),
                },
                "num_experts": self.num_experts,
                "top_k_experts": self.top_k_experts,
                "moe_intermediate_size": self.moe_intermediate_size,
                "max_position_embeddings": self.context_length,
                "rms_norm_eps": self.rms_norm_eps,
                "final_logit_softcapping": self.final_logit_softcapping,
                "hidden_activation": "gelu_pytorch_tanh",
                "bos_token_id": self.bos_token_id,
                "pad_token_id": self.pad_token_id,
                "eos_token_id": list(self.end_token_ids),
            },
            # transformers builds a vision tower in any case; the smallest one it accepts.
            "vision_config": {
                "model_type": "gemma4_vision",
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "num_key_value_heads": 1,
                "head_dim": 16,
            },
        }


def _rope_to_json(spec: AttentionSpec) -> dict[str, Any]:
    if spec.partial_rotary_factor == 1.0:
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    factor = spec.partial_rotary_factor
    return {"rope_type": "proportional", "rope_theta": spec.rope_theta, "partial_rotary_factor": factor}


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_experts",
    "top_k_experts",
    "moe_intermediate_size",
    "context_length",
    "canvas_length",
)
_HUB_NAME = {"context_length": "max_position_embeddings"}
_ONLY_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "tie_word_embeddings": (True,),
    "use_bidirectional_attention": (None, "vision"),
}


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: {name} = {value!r} must be a whole number, 1 or more")


def _layers_from_json(text: Mapping[str, Any]) -> tuple[AttentionSpec, ...]:
    count = text["num_hidden_layers"]
    _check_whole("num_hidden_layers", count)
    _check_whole("num_attention_heads", text["num_attention_heads"])
    kinds = text.get("layer_types") or ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(count)]
    if len(kinds) != count:
        raise CheckpointError(f"config.json: {len(kinds)} layer_types for num_hidden_layers = {count}")
    # The reference forces the last layer to full attention whatever the file says.
    kinds = [*kinds[:-1], "full_attention"]
    per_layer = text.get("per_layer_config")
    for name, value in (("per_layer_config", per_layer), ("rope_parameters", text.get("rope_parameters"))):
        if value is not None and not isinstance(value, Mapping):
            raise CheckpointError(f"config.json: {name} = {value!r} must be an object")
    own = None if per_layer is None else _fields_by_layer(per_layer, count)
    return tuple(_layer_from_json(text, kind, index, own) for index, kind in enumerate(kinds))


def _fields_by_layer(per_layer: Mapping[str, Any], count: int) -> dict[int, Mapping[str, Any]]:
    # transformers pads the layers' numbers with zeros to one width, so that "5" may be "05".
    found = {}
    for name, own in per_layer.items():
        if not (name.isdecimal() and int(name) < count):
            raise CheckpointError(f"config.json: per_layer_config[{name!r}] names no layer from 0 to {count - 1}")
        if not isinstance(own, Mapping):
            raise CheckpointError(f"config.json: per_layer_config[{name!r}] = {own!r} must be an object")
        if unknown := set(own) - {"head_dim", "num_key_value_heads"}:
            raise CheckpointError(
                f"config.json: per_layer_config[{name!r}] sets {sorted(unknown)[0]!r}, which is not supported; "
                "supported are 'head_dim' and 'num_key_value_heads'"
            )
        found[int(name)] = own
    return found


def _layer_from_json(
    text: Mapping[str, Any], kind: str, index: int, per_layer: Mapping[int, Mapping[str, Any]] | None
) -> AttentionSpec:
    if kind not in ("sliding_attention", "full_attention"):
        raise CheckpointError(
            f"config.json: layer_types[{index}] = {kind!r} is not supported; "
            "expected 'sliding_attention' or 'full_attention'"
        )
    head_dim, kv_heads = text["head_dim"], text["num_key_value_heads"]
    if per_layer is not None:
        own = per_layer.get(index, {})
        head_dim, kv_heads = own.get("head_dim", head_dim), own.get("num_key_value_heads", kv_heads)
    elif kind == "full_attention":
        head_dim = text.get("global_head_dim", 512)
        if text.get("attention_k_eq_v", True):
            kv_heads = text.get("num_global_key_value_heads") or kv_heads
    theta, factor = _rope_from_json(text.get("rope_parameters") or _DEFAULT_ROPE, kind)
    window = text["sliding_window"] if kind == "sliding_attention" else None
    _check_whole(f"head_dim of layer {index}", head_dim)
    _check_whole(f"num_key_value_heads of layer {index}", kv_heads)
    if kind == "sliding_attention":
        _check_whole("sliding_window", window)
    if head_dim % 2 or text["num_attention_heads"] % kv_heads:
        raise CheckpointError(
            f"config.json: layer {index} has head_dim {head_dim}, {kv_heads} key-value heads for "
            f"{text['num_attention_heads']} query heads; head_dim must be even, and the query heads a multiple of "
            "the key-value heads"
        )
    return AttentionSpec(head_dim, kv_heads, window, theta, factor)


_DEFAULT_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.25},
}


def _rope_from_json(parameters: Mapping[str, Any], kind: str) -> tuple[float, float]:
    rope = parameters[kind]
    rope_type, factor = rope.get("rope_type", "default"), rope.get("partial_rotary_factor", 1.0)
    if rope_type == "proportional" or (rope_type == "default" and factor == 1.0):
        return rope["rope_theta"], factor
    raise CheckpointError(
        f"config.json: rope_parameters.{kind} has rope_type {rope_type!r} with partial_rotary_factor {factor}; "
        "supported are 'default' (whole head) and 'proportional'"
    )


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

    def queries(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """[B, T, H] -> [B, heads, T, D], normed and rotated."""
        q = self.q_norm(self._heads(self.q_proj(x)))
        return rotate(q, *rope).to(self.q_proj.weight.dtype)

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """[B, T, H] -> keys and values [B, kv_heads, T, D], as the cache keeps them."""
        dtype = self.k_proj.weight.dtype
        raw_keys = self._heads(self.k_proj(x))
        raw_values = raw_keys if self.v_proj is None else self._heads(self.v_proj(x))
        keys = rotate(self.k_norm(raw_keys), *rope)
        return keys.to(dtype), rms_norm(raw_values, None, self.eps).to(dtype)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.spec.head_dim)).transpose(1, 2)


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

    def keys_values(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What this layer would write to the cache for the residual ``x`` [B, T, H]."""
        return self.self_attn.keys_values(self.input_layernorm(x), rope)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], past: Sequence[Segment], mask: Tensor | None, scalar: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Residual [B, T, H] -> (residual, keys, values); ``mask`` [T, T] limits what the tokens see of each other."""
        normed = self.input_layernorm(x)
        queries = self.self_attn.queries(normed, rope)
        keys, values = self.self_attn.keys_values(normed, rope)
        context = attention(queries, [*past, Segment(keys, values, mask)])
        x = x + self.post_attention_layernorm(self.self_attn.o_proj(context))
        x = (x + self._feed_forward(x)) * scalar
        return x, keys, values

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

    def forward(self, embeddings: Tensor, signal: Tensor | None) -> Tensor:
        """embeddings and signal [B, C, H]; None is the zero signal of a canvas's first step."""
        if signal is None:
            # The block has no biases: a zero signal passes through it as zero.
            return rms_norm(embeddings, None, self.eps)
        normed = self.pre_norm(signal)
        belief = self.down_proj(F.gelu(self.gate_proj(normed), approximate="tanh") * self.up_proj(normed))
        return rms_norm(embeddings + belief, None, self.eps)


class TokenEmbedding(nn.Module):
    """The table [V, H] that embeds tokens, reads logits and mixes the self-conditioning signal."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocab_size, hidden_size) * hidden_size**-0.5)


class DiffusionGemma(nn.Module):
    """The text model. ``window_policy`` says what of the cache a sliding layer shows to a canvas past its window:
    "shared" shows every canvas position the same last window - 1 tokens (the reference and Google's sampler),
    "per_query" slides the window along the canvas (vLLM).
    """

    def __init__(self, config: DiffusionGemmaConfig, window_policy: WindowPolicy = "shared") -> None:
        super().__init__()
        self.config = config
        self.window_policy = window_policy
        self.defaults = GenerationDefaults(end_token_ids=config.end_token_ids)
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.hidden_size)
        self.layers: Sequence[Layer] = nn.ModuleList(Layer(config, spec) for spec in config.layers)  # type: ignore[assignment]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = SelfConditioning(config)
        self._rotary = {
            spec: RotaryTable(inverse_frequencies(spec.head_dim, spec.rope_theta, spec.partial_rotary_factor))
            for spec in set(config.layers)
        }

    @staticmethod
    def hub_name(name: str) -> str:
        """What the hub's files call the parameter or buffer ``name`` of this module."""
        if name.endswith(".encoder_layer_scalar"):
            return f"model.encoder.language_model.{name.removesuffix('.encoder_layer_scalar')}.layer_scalar"
        return f"model.decoder.{name}"

    @staticmethod
    def unused_part(hub_name: str) -> str | None:
        """What a tensor that the text model does not load belongs to; None where it belongs to nothing known."""
        if hub_name.startswith(("model.encoder.vision_tower.", "model.encoder.embed_vision.")):
            return "vision"
        if hub_name == "lm_head.weight" or hub_name.startswith("model.encoder.language_model."):
            return "tied copy"
        return None

    @property
    def noise(self) -> UniformNoise:
        """The noise the family was trained with: uniform over the whole vocabulary."""
        return UniformNoise(self.config.vocab_size)

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def kv_dtype(self) -> torch.dtype:
        """What keys and values are kept in."""
        return self.embed_tokens.weight.dtype

    @property
    def chunk_independent(self) -> bool:
        """torch's products round a row by how many rows there are."""
        return False

    def cache_layout(self) -> list[tuple[int, int, int | None]]:
        """(kv_heads, head_dim, positions kept) of every layer; None keeps the whole context."""
        return [(s.kv_heads, s.head_dim, None if s.window is None else s.window - 1) for s in self.config.layers]

    def encode(self, tokens: Tensor, cache: Cache) -> None:
        """Causal forward over ``tokens`` [B, T] that follow the cache; appends their keys and values to it."""
        start, length = cache.length, tokens.shape[1]
        rope = self.rope(start, length)
        x = self.embed(tokens)
        last = len(self.layers) - 1
        for index, (layer, spec) in enumerate(zip(self.layers, self.config.layers, strict=True)):
            if index == last:
                keys, values = layer.keys_values(x, rope[spec])
            else:
                past = visible(cache.read(index), start, start, length, spec.window)
                mask = causal_mask(length, spec.window, x.device)
                x, keys, values = layer(x, rope[spec], past, mask, layer.encoder_layer_scalar)
            cache.write(index, keys, values)
        cache.advance(length)

    def denoise(self, canvas: Tensor, cache: Cache, signal: Tensor | None) -> Tensor:
        """Bidirectional forward over ``canvas`` [B, C] that follows the cache; reads the cache, writes nothing.

        ``signal`` [B, C, H] is the previous step's soft embedding, None at a canvas's first step. Returns the final
        normed hidden states [B, C, H], from which ``readout`` or ``logits`` reads.
        """
        start, length = cache.length, canvas.shape[1]
        rope, slide = self.rope(start, length), self.window_policy == "per_query"
        x = self.self_conditioning(self.embed(canvas), signal)
        for index, (layer, spec) in enumerate(zip(self.layers, self.config.layers, strict=True)):
            past = visible(cache.read(index), start, start, length, spec.window if slide else None)
            x, _, _ = layer(x, rope[spec], past, None, layer.layer_scalar)
        return self.norm(x)

    def commit_and_denoise(self, tokens: Tensor, canvas: Tensor, cache: Cache) -> Tensor:
        """``encode(tokens)``, then the first step of the canvas after them, ``denoise(canvas, cache, None)``."""
        self.encode(tokens, cache)
        return self.denoise(canvas, cache, None)

    def rope(self, start: int, length: int) -> dict[AttentionSpec, tuple[Tensor, Tensor]]:
        """Cosines and sines [length, D/2] of positions start .. start+length-1, for each kind of layer."""
        return {spec: table.slice(start, length, self.device) for spec, table in self._rotary.items()}

    def embed(self, tokens: Tensor) -> Tensor:
        """Scaled token embeddings, float32 [..., H]."""
        return F.embedding(tokens, self.embed_tokens.weight).float() * self.config.hidden_size**0.5

    def head(self) -> VocabularyHead:
        """The tied head: what turns hidden states into logits and soft embeddings."""
        return VocabularyHead(
            self.embed_tokens.weight, self.config.final_logit_softcapping, self.config.hidden_size**0.5
        )

    def readout(self, hidden: Tensor, temperature: float, uniforms: Tensor | None, **wanted: Any) -> Readout:
        """What a denoising step reads off ``hidden`` [C, H]; see ``VocabularyHead.read``."""
        return self.head().read(hidden, temperature, uniforms, **wanted)

    def logits(self, hidden: Tensor, vocabulary: slice = slice(None)) -> Tensor:
        """Soft-capped float32 logits [..., V] of ``hidden`` [..., H], of all tokens or a slice of them.

        The whole [C, V] exists here: for training and tests; generation uses ``readout``.
        """
        table = self.embed_tokens.weight[vocabulary]
        cap = self.config.final_logit_softcapping
        return cap * torch.tanh(F.linear(hidden.to(table.dtype), table).float() / cap)


def visible(
    stored: Sequence[tuple[Tensor, Tensor]],
    end: int,
    start: int,
    length: int,
    window: int | None,
    masks: dict[tuple[int, int], Tensor | None] | None = None,
) -> list[Segment]:
    """What of ``stored``, blocks of the positions up to ``end``, each of ``length`` tokens from position ``start`` on
    sees: none that come after it, and with a ``window`` none that are older. ``masks`` keeps what was made for one
    layer for others of the same window."""
    made = {} if masks is None else masks
    segments = []
    first = end - sum(keys.shape[2] for keys, _ in stored)
    for keys, values in stored:
        own = first, first + keys.shape[2]
        if own not in made:
            made[own] = _mask(own, start, length, window, keys.device)
        segments.append(Segment(keys, values, made[own]))
        first = own[1]
    return segments


def _mask(keys: tuple[int, int], start: int, length: int, window: int | None, device: torch.device) -> Tensor | None:
    """[T, S] bool for the tokens and a stretch of positions; None where all of it is seen by all."""
    youngest, oldest = start - (keys[1] - 1), start + length - 1 - keys[0]
    if youngest >= 0 and (window is None or oldest < window):
        return None
    age = torch.arange(start, start + length, device=device)[:, None] - torch.arange(*keys, device=device)
    return age >= 0 if window is None else (age >= 0) & (age < window)


def causal_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """[T, T] bool: token t sees itself and what came before, at most ``window`` tokens in all."""
    position = torch.arange(length, device=device)
    age = position[:, None] - position[None, :]
    visible = age >= 0
    return visible if window is None else visible & (age < window)
