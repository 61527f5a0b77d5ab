"""Gemma 4's ``config.json``: what a file leaves out has the defaults of the reference's class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from redraft.errors import CheckpointError
from redraft.models.gemma.attention import (
    AttentionSpec,
    check_supported,
    check_whole,
    layers_to_json,
    read_layers,
)
from redraft.models.gemma.config import GemmaConfig, common_fields, text_of
from redraft.models.gemma.tools import GemmaTools
from redraft.models.thoughts import ThoughtSyntax

CAUSAL, CONDITIONAL = "Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "sliding_window": 512,
    "final_logit_softcapping": None,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 0,
    "attention_k_eq_v": False,
    "enable_moe_block": False,
}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu_pytorch_tanh",),
    "attention_bias": (False,),
    "attention_k_eq_v": (False, True),
    "enable_moe_block": (False, True),
    # Images, of which it speaks, are refused.
    "use_bidirectional_attention": (None, "vision"),
}
# What the small models have, and their larger siblings have not.
_OF_SMALL = {
    "hidden_size_per_layer_input": "embeddings of single layers",
    "num_kv_shared_layers": "layers that share keys and values",
}


@dataclass(frozen=True)
class Gemma4Config(GemmaConfig):
    """A ``GemmaConfig``; facts follow google/gemma-4-31B and google/gemma-4-26B-A4B."""

    norm_offset: ClassVar[float] = 0.0
    values_normed: ClassVar[bool] = True
    scales_layers: ClassVar[bool] = True
    attention_scale: ClassVar[float] = 1.0
    thought_syntax: ClassVar[ThoughtSyntax] = ThoughtSyntax("<|channel>", "<channel|>", name="thought\n")
    tool_syntax: ClassVar[GemmaTools] = GemmaTools()

    attention_k_eq_v: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.num_experts, self.top_k_experts, self.moe_intermediate_size) != (0, 0, 0):
            for name in ("num_experts", "top_k_experts", "moe_intermediate_size"):
                check_whole(name, getattr(self, name))
        if self.top_k_experts > self.num_experts:
            raise CheckpointError(
                f"config.json: top_k_experts = {self.top_k_experts} is more than num_experts = {self.num_experts}"
            )

    def values_are_keys(self, spec: AttentionSpec) -> bool:
        """Full layers' are, where the file says so."""
        return self.attention_k_eq_v and spec.window is None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], architecture: str) -> "Gemma4Config":
        """Read a ``config.json`` of either dialect (global_head_dim, or per_layer_config).

        Raises CheckpointError naming a field that is not implemented.
        """
        nested = architecture == CONDITIONAL
        where = "text_config." if nested else ""
        text = text_of(raw, nested=nested, defaults=_DEFAULTS)
        check_supported(text, _SUPPORTED, where)
        for name, what in _OF_SMALL.items():
            if text[name]:
                raise CheckpointError(
                    f"config.json: {where}{name} = {text[name]!r}: {what}, as Gemma 4 E2B and E4B have them, are not "
                    "supported; take the 31B or the 26B-A4B"
                )
        names = ("num_experts", "top_k_experts", "moe_intermediate_size") if text["enable_moe_block"] else ()
        experts: dict[str, Any] = {name: text.get(name) for name in names}
        return cls(
            architecture=architecture,
            layers=read_layers(text, k_eq_v=text["attention_k_eq_v"]),
            attention_k_eq_v=text["attention_k_eq_v"],
            **common_fields(raw, text, nested=nested),
            **experts,
        )

    def to_json(self) -> dict[str, Any]:
        """A ``config.json`` of the text model alone, which is all that there is here."""
        return {
            "architectures": [CAUSAL],
            "model_type": "gemma4_text",
            **self.text_to_json(),
            **layers_to_json(self.layers, self.context_length),
            "attention_k_eq_v": self.attention_k_eq_v,
            "hidden_size_per_layer_input": 0,
            "num_kv_shared_layers": 0,
            "enable_moe_block": self.num_experts > 0,
            "num_experts": self.num_experts or None,
            "top_k_experts": self.top_k_experts or None,
            "moe_intermediate_size": self.moe_intermediate_size or None,
        }
