"""The shape of a LlamaDiffusion model: Llama's own ``config.json`` and three keys more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from redraft.canvas.corruption import MaskOrder
from redraft.errors import CheckpointError
from redraft.layers.rope import Llama3Scaling

ARCHITECTURE = "LlamaForBlockDiffusion"
# A Llama's own architecture, whose ``config.json`` has all but our keys.
BASE_ARCHITECTURE = "LlamaForCausalLM"

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "canvas_length",
)
_ONLY_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
}


@dataclass(frozen=True)
class LlamaDiffusionConfig:
    """A Llama, and how it diffuses. Names are those of ``config.json``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    canvas_length: int
    """Positions of the longest canvas that the model was trained on; shorter ones are as good."""
    mask_token_id: int
    """The token that stands for an unknown one on a canvas."""
    mask_order: MaskOrder = "any"
    """The places of masks on the canvases that it was trained on; "any" where ``config.json`` has no such key."""
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Scaling | None = None
    tie_word_embeddings: bool = False
    end_token_ids: tuple[int, ...] = (2,)
    bos_token_id: int | None = None
    pad_token_id: int | None = None

    @property
    def free_canvas_lengths(self) -> tuple[int, ...]:
        """The lengths of canvases that adapting and training go through, a step of 8 positions between them."""
        return (*range(8, self.canvas_length, 8), self.canvas_length)

    def __post_init__(self) -> None:
        for name in _SIZES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise CheckpointError(f"config.json: {name} = {value!r} must be a whole number, 1 or more")
        if self.canvas_length >= self.max_position_embeddings:
            raise CheckpointError(
                f"config.json: canvas_length = {self.canvas_length} leaves no room for a prompt in "
                f"max_position_embeddings = {self.max_position_embeddings}"
            )
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise CheckpointError(f"config.json: {name} = {value!r} must be a number above 0")
        mask = self.mask_token_id
        if isinstance(mask, bool) or not isinstance(mask, int) or not 0 <= mask < self.vocab_size:
            raise CheckpointError(
                f"config.json: mask_token_id = {mask!r} must be the id of one of the {self.vocab_size} tokens"
            )
        if self.mask_order not in get_args(MaskOrder):
            raise CheckpointError(
                f"config.json: mask_order = {self.mask_order!r} must be {' or '.join(map(repr, get_args(MaskOrder)))}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise CheckpointError(
                f"config.json: num_attention_heads = {self.num_attention_heads} is no multiple of "
                f"num_key_value_heads = {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise CheckpointError(f"config.json: head_dim = {self.head_dim} must be even, for its pairs are rotated")

    @property
    def context_length(self) -> int:
        """Positions of a context and the canvas behind it."""
        return self.max_position_embeddings

    @property
    def image_token_ids(self) -> tuple[int, ...]:
        """None: a Llama reads text."""
        return ()

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        """Ids that are no text: of the mask, the ends, the beginning and padding."""
        others = (id for id in (self.bos_token_id, self.pad_token_id) if id is not None)
        return tuple(dict.fromkeys((self.mask_token_id, *self.end_token_ids, *others)))

    @property
    def thought_syntax(self) -> None:
        """None: a Llama has no channel of its own to think in."""
        return None

    @property
    def tool_syntax(self) -> None:
        """None: what a base was taught of tools, it writes as text."""
        return None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "LlamaDiffusionConfig":
        """Read a ``config.json``; raises CheckpointError naming a field that is missing or not implemented."""
        for name, expected in _ONLY_SUPPORTED.items():
            if raw.get(name, expected[0]) not in expected:
                raise CheckpointError(
                    f"config.json: {name} = {raw[name]!r} is not supported; expected {' or '.join(map(repr, expected))}"
                )
        theta, scaling = _rope(raw)
        end = raw.get("eos_token_id")
        try:
            heads = raw["num_attention_heads"]
            return cls(
                vocab_size=raw["vocab_size"],
                hidden_size=raw["hidden_size"],
                intermediate_size=raw["intermediate_size"],
                num_hidden_layers=raw["num_hidden_layers"],
                num_attention_heads=heads,
                num_key_value_heads=_or(raw.get("num_key_value_heads"), heads),
                head_dim=_or(raw.get("head_dim"), _head_dim(raw["hidden_size"], heads)),
                max_position_embeddings=raw["max_position_embeddings"],
                canvas_length=raw["canvas_length"],
                mask_token_id=raw["mask_token_id"],
                mask_order=raw.get("mask_order", "any"),
                rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
                rope_theta=theta,
                rope_scaling=scaling,
                tie_word_embeddings=raw.get("tie_word_embeddings", False),
                end_token_ids=tuple(end) if isinstance(end, list) else (2 if end is None else end,),
                bos_token_id=raw.get("bos_token_id"),
                pad_token_id=raw.get("pad_token_id"),
            )
        except KeyError as missing:
            raise CheckpointError(
                f"config.json has no {missing}; an autoregressive Llama is made one of these by: redraft adapt"
            ) from None

    def to_json(self) -> dict[str, Any]:
        """Return a ``config.json`` that ``from_json`` reads back; all but our keys are what ``transformers`` reads."""
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling is not None:
            rope |= {"rope_type": "llama3", **self.rope_scaling.to_json()}
        return {
            "architectures": [ARCHITECTURE],
            "model_type": "llama",
            "canvas_length": self.canvas_length,
            "mask_token_id": self.mask_token_id,
            **({} if self.mask_order == "any" else {"mask_order": self.mask_order}),
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tie_word_embeddings,
            "hidden_act": "silu",
            "bos_token_id": self.bos_token_id,
            "pad_token_id": self.pad_token_id,
            "eos_token_id": list(self.end_token_ids),
        }


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _head_dim(hidden: Any, heads: Any) -> Any:
    """Return the width of a head where the file does not say it; sizes that are none are named by the check of all."""
    whole = all(isinstance(size, int) and size > 0 for size in (hidden, heads))
    if whole and hidden % heads:
        raise CheckpointError(f"config.json: hidden_size = {hidden} is no multiple of num_attention_heads = {heads}")
    return hidden // heads if whole else 1


def _rope(raw: Mapping[str, Any]) -> tuple[Any, Llama3Scaling | None]:
    """Return the base of the rotation and its scaling, from either of the two places where files have them."""
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    theta = given.get("rope_theta", raw.get("rope_theta", 10_000.0))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise CheckpointError(f"config.json: rope_type {kind!r} is not supported; expected 'default' or 'llama3'")
    try:
        return theta, Llama3Scaling.from_json(given)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"config.json: the llama3 scaling of the rotation cannot be read: {error}") from None
