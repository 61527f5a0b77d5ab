"""The shape of a DiffusionGemma text model, read from and written to the hub's ``config.json``, in both dialects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redraft.errors import CheckpointError
from redraft.models.gemma.attention import (
    AttentionSpec,
    check_number,
    check_supported,
    check_whole,
    layers_to_json,
    read_layers,
)
from redraft.models.gemma.tools import GemmaTools
from redraft.models.thoughts import ThoughtSyntax


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
            check_whole(_HUB_NAME.get(name, name), getattr(self, name))
        for name in ("rms_norm_eps", "final_logit_softcapping"):
            check_number(name, getattr(self, name))
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
        check_supported(text, _ONLY_SUPPORTED, "text_config.")
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
                layers=read_layers(text, k_eq_v=text.get("attention_k_eq_v", True)),
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
                "num_attention_heads": self.num_attention_heads,
                **layers_to_json(self.layers, self.context_length),
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
