"""Gemma 3's ``config.json``: what a file leaves out has the defaults of the reference's class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from redraft.errors import CheckpointError
from redraft.models.gemma.attention import (
    FULL,
    FULL_EVERY,
    SLIDING,
    AttentionSpec,
    check_layer,
    check_number,
    check_supported,
    check_whole,
    layer_kinds,
)
from redraft.models.gemma.config import GemmaConfig, common_fields, text_of

CAUSAL, CONDITIONAL = "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"
# Small files say little: google/gemma-3-4b-it gives five sizes and the scaling of the rotation.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "final_logit_softcapping": None,
}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "attn_logit_softcapping": (None,),
    # Models that embed texts see them whole; they write nothing.
    "use_bidirectional_attention": (False, None),
}
# (where older files have it, default) of the rotation's base.
_THETA = {FULL: ("rope_theta", 1_000_000.0), SLIDING: ("rope_local_base_freq", 10_000.0)}


@dataclass(frozen=True)
class Gemma3Config(GemmaConfig):
    """A ``GemmaConfig``; facts follow google/gemma-3-270m and its larger siblings."""

    norm_offset: ClassVar[float] = 1.0
    values_normed: ClassVar[bool] = False
    scales_layers: ClassVar[bool] = False
    thought_syntax: ClassVar[None] = None
    tool_syntax: ClassVar[None] = None

    query_pre_attn_scalar: float = 256.0
    """Queries are divided by its square root."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("query_pre_attn_scalar", self.query_pre_attn_scalar)

    @property
    def attention_scale(self) -> float:
        """The factor of the queries."""
        return float(self.query_pre_attn_scalar**-0.5)

    def values_are_keys(self, spec: AttentionSpec) -> bool:
        """No layer's are."""
        return False

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], architecture: str) -> "Gemma3Config":
        """Read a ``config.json``; raises CheckpointError naming a field that is not implemented."""
        nested = architecture == CONDITIONAL
        text = text_of(raw, nested=nested, defaults=_DEFAULTS)
        check_supported(text, _SUPPORTED, "text_config." if nested else "")
        pattern = text.get("sliding_window_pattern", text.get("_sliding_window_pattern", FULL_EVERY))
        kinds = layer_kinds(text, pattern)
        ropes = {kind: _rope(text, kind) for kind in (SLIDING, FULL)}
        layers = []
        for index, kind in enumerate(kinds):
            theta, factor = ropes[kind]
            window = text["sliding_window"] if kind == SLIDING else None
            if kind == SLIDING:
                check_whole("sliding_window", window)
            spec = AttentionSpec(text["head_dim"], text["num_key_value_heads"], window, theta, 1.0, factor)
            layers.append(check_layer(index, spec, text["num_attention_heads"]))
        return cls(
            architecture=architecture,
            layers=tuple(layers),
            query_pre_attn_scalar=text["query_pre_attn_scalar"],
            **common_fields(raw, text, nested=nested),
        )

    def to_json(self) -> dict[str, Any]:
        """A ``config.json`` of the text model alone, which is all that there is here."""
        full = next((spec for spec in self.layers if spec.window is None), None)
        local = next((spec for spec in self.layers if spec.window is not None), None)
        first = self.layers[0]
        return {
            "architectures": [CAUSAL],
            "model_type": "gemma3_text",
            **self.text_to_json(),
            "num_hidden_layers": len(self.layers),
            "layer_types": [FULL if spec.window is None else SLIDING for spec in self.layers],
            "num_key_value_heads": first.kv_heads,
            "head_dim": first.head_dim,
            "sliding_window": self.context_length if local is None else local.window,
            "query_pre_attn_scalar": self.query_pre_attn_scalar,
            "rope_parameters": {kind: _rope_to_json(spec or first) for kind, spec in ((SLIDING, local), (FULL, full))},
        }


def _rope(text: Mapping[str, Any], kind: str) -> tuple[float, float]:
    """Return (theta, factor) of a kind of layer, from where new or older files have them."""
    parameters, scaling = text.get("rope_parameters") or {}, text.get("rope_scaling") or {}
    if not (isinstance(parameters, Mapping) and isinstance(scaling, Mapping)):
        raise CheckpointError(f"config.json: rope_parameters = {parameters!r} must be an object")
    own = {**(parameters.get(kind) or {}), **(scaling if kind == FULL else {})}
    name, default = _THETA[kind]
    rope_type = own.get("rope_type", own.get("type", "default"))
    if rope_type not in ("default", "linear"):
        raise CheckpointError(
            f"config.json: {kind} has rope_type {rope_type!r}, which is not supported; expected 'default' or 'linear'"
        )
    return own.get("rope_theta", text.get(name, default)), own.get("factor", 1.0) if rope_type == "linear" else 1.0


def _rope_to_json(spec: AttentionSpec) -> dict[str, Any]:
    if spec.rope_factor == 1.0:
        return {"rope_type": "default", "rope_theta": spec.rope_theta}
    return {"rope_type": "linear", "rope_theta": spec.rope_theta, "factor": spec.rope_factor}
