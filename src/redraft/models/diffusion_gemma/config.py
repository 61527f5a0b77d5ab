"""The shape of a DiffusionGemma text model, read from and written to the hub's ``config.json``, in both dialects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redraft.errors import CheckpointError
from redraft.models.diffusion_gemma.tools import GemmaTools
from redraft.models.thoughts import ThoughtSyntax


@dataclass(frozen=True)
class AttentionSpec:
    """Attention of one layer, where sliding and full layers differ; ``window`` is None for a full layer."""

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
    def special_token_ids(self) -> tuple[int, ...]:
        """Ids that are no text: of the beginning, padding, the ends and images."""
        ends = (self.bos_token_id, self.pad_token_id)
        return (*(id for id in ends if id is not None), *self.end_token_ids, *self.image_token_ids)

    @property
    def thought_syntax(self) -> ThoughtSyntax:
        """The channel that the model thinks on before it answers."""
        return ThoughtSyntax("<|channel>", "<channel|>", name="thought\n")

    @property
    def tool_syntax(self) -> GemmaTools:
        """The syntax of tool calls."""
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
