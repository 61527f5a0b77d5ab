"""The shape of a Gemma that writes token by token; what Gemma 3 and Gemma 4 differ in, each says in a class of its own.

``config.json`` has it at its top, or, beside a vision tower that is not loaded, in its ``text_config``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from redraft.errors import CheckpointError
from redraft.models.gemma.attention import AttentionSpec, check_number, check_whole
from redraft.models.thoughts import ThoughtSyntax
from redraft.models.tools import ToolSyntax

# Ids that stand for something else than text, under the names of both generations.
_MEDIA = (
    "boi_token_index", "eoi_token_index", "image_token_index", "boi_token_id", "eoi_token_id", "image_token_id",
    "video_token_id", "boa_token_id", "eoa_token_index", "audio_token_id",
)  # fmt: skip


@dataclass(frozen=True)
class GemmaConfig(ABC):
    """Shape of a text model. ``layers`` has one ``AttentionSpec`` a layer; a model without experts has 0 of them."""

    norm_offset: ClassVar[float]
    """Added to the stored weights of norms."""
    values_normed: ClassVar[bool]
    """True if each head of the values is normed, without a weight."""
    scales_layers: ClassVar[bool]
    """True if the rows are multiplied by a scalar at each layer's end."""
    canvas_length: ClassVar[int] = 0

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    layers: tuple[AttentionSpec, ...]
    context_length: int
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float | None = None
    """Bound of the logits; None leaves them as they are."""
    bos_token_id: int | None = 2
    pad_token_id: int | None = 0
    end_token_ids: tuple[int, ...] = (1,)
    image_token_ids: tuple[int, ...] = ()
    """Ids that stand for images, or for sounds, in a prompt."""
    num_experts: int = 0
    top_k_experts: int = 0
    moe_intermediate_size: int = 0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads"):
            check_whole(name, getattr(self, name))
        check_whole("max_position_embeddings", self.context_length)
        check_number("rms_norm_eps", self.rms_norm_eps)
        if self.final_logit_softcapping is not None:
            check_number("final_logit_softcapping", self.final_logit_softcapping)

    @property
    @abstractmethod
    def attention_scale(self) -> float:
        """The factor of the queries."""

    @abstractmethod
    def values_are_keys(self, spec: AttentionSpec) -> bool:
        """Tell whether a layer has no value projection: its values are its keys before their norm."""

    @property
    @abstractmethod
    def thought_syntax(self) -> ThoughtSyntax | None:
        """The form in which the model writes a thought."""

    @property
    @abstractmethod
    def tool_syntax(self) -> ToolSyntax | None:
        """The syntax of tool calls."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A ``config.json`` that is read back to this configuration, here and by ``transformers``."""

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        """Ids that are no text: of the beginning, padding, the ends, images and sounds."""
        ends = (self.bos_token_id, self.pad_token_id)
        return (*(id for id in ends if id is not None), *self.end_token_ids, *self.image_token_ids)

    def text_to_json(self) -> dict[str, Any]:
        """The fields that both generations call the same."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_attention_heads,
            "max_position_embeddings": self.context_length,
            "rms_norm_eps": self.rms_norm_eps,
            "final_logit_softcapping": self.final_logit_softcapping,
            "hidden_activation": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "bos_token_id": self.bos_token_id,
            "pad_token_id": self.pad_token_id,
            "eos_token_id": list(self.end_token_ids),
        }


def text_of(raw: Mapping[str, Any], *, nested: bool, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``config.json``'s text configuration, in which a field that is not there has the class's default.

    nested: it stands in ``text_config``. Raises CheckpointError where it is not, and for embeddings that are not tied.
    """
    text = raw.get("text_config") if nested else raw
    if not isinstance(text, Mapping):
        raise CheckpointError(f"config.json has no 'text_config', which a {raw.get('architectures')} has")
    if not all(own.get("tie_word_embeddings", True) is True for own in (raw, text)):
        raise CheckpointError("config.json: tie_word_embeddings = false is not supported; expected tied weights")
    return {**defaults, **text}


def common_fields(raw: Mapping[str, Any], text: Mapping[str, Any], *, nested: bool) -> dict[str, Any]:
    """Return the fields of ``GemmaConfig`` that both generations have under the same names."""
    end = text["eos_token_id"] if raw.get("eos_token_id") is None else raw["eos_token_id"]
    media = (raw.get(name) for name in _MEDIA) if nested else ()
    return {
        "vocab_size": text["vocab_size"],
        "hidden_size": text["hidden_size"],
        "intermediate_size": text["intermediate_size"],
        "num_attention_heads": text["num_attention_heads"],
        "context_length": text["max_position_embeddings"],
        "rms_norm_eps": text["rms_norm_eps"],
        "final_logit_softcapping": text["final_logit_softcapping"],
        "bos_token_id": text["bos_token_id"],
        "pad_token_id": text["pad_token_id"],
        "end_token_ids": tuple(end) if isinstance(end, list) else (end,) if end is not None else (),
        "image_token_ids": tuple(dict.fromkeys(token for token in media if token is not None)),
    }
