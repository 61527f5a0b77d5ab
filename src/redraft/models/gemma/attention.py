"""Attention layer by layer, as ``config.json`` says it of Gemma 4 and DiffusionGemma, in both dialects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from redraft.errors import CheckpointError
from redraft.layers.rope import inverse_frequencies

SLIDING, FULL = "sliding_attention", "full_attention"
# Every sixth layer sees the whole context, where a file does not say which do.
FULL_EVERY = 6


@dataclass(frozen=True)
class AttentionSpec:
    """Attention of one layer, where sliding and full layers differ; ``window`` is None for a full layer."""

    head_dim: int
    kv_heads: int
    window: int | None
    rope_theta: float
    partial_rotary_factor: float = 1.0
    rope_factor: float = 1.0
    """Rotations are slowed down by it: what was learned of shorter contexts is stretched over longer ones."""

    @property
    def frequencies(self) -> Tensor:
        """Angular velocities [head_dim / 2], radians per position."""
        return inverse_frequencies(self.head_dim, self.rope_theta, self.partial_rotary_factor) / self.rope_factor


def check_whole(name: str, value: object) -> None:
    """Raise CheckpointError for what is no whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"config.json: {name} = {value!r} must be a whole number, 1 or more")


def check_number(name: str, value: object) -> None:
    """Raise CheckpointError for what is no number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"config.json: {name} = {value!r} must be a number above 0")


def check_supported(raw: Mapping[str, Any], supported: Mapping[str, tuple[Any, ...]], where: str = "") -> None:
    """Raise CheckpointError for a field, its name behind ``where``, whose value is none of those that are supported; a
    field that is not there has the first."""
    for name, expected in supported.items():
        if raw.get(name, expected[0]) not in expected:
            raise CheckpointError(
                f"config.json: {where}{name} = {raw[name]!r} is not supported; "
                f"expected {' or '.join(map(repr, expected))}"
            )


def layer_kinds(text: Mapping[str, Any], pattern: int = FULL_EVERY) -> list[str]:
    """Return "sliding_attention" or "full_attention" for each layer; by default one in ``pattern`` is full.

    Raises CheckpointError for another kind, and for a list of another length than there are layers.
    """
    count = text["num_hidden_layers"]
    check_whole("num_hidden_layers", count)
    kinds = text.get("layer_types") or [SLIDING if (index + 1) % pattern else FULL for index in range(count)]
    if len(kinds) != count:
        raise CheckpointError(f"config.json: {len(kinds)} layer_types for num_hidden_layers = {count}")
    for index, kind in enumerate(kinds):
        if kind not in (SLIDING, FULL):
            raise CheckpointError(
                f"config.json: layer_types[{index}] = {kind!r} is not supported; expected {SLIDING!r} or {FULL!r}"
            )
    return list(kinds)


def check_layer(index: int, spec: AttentionSpec, heads: int) -> AttentionSpec:
    """Return ``spec``; raises CheckpointError for sizes that do not fit each other, or ``heads`` query heads."""
    check_whole(f"head_dim of layer {index}", spec.head_dim)
    check_whole(f"num_key_value_heads of layer {index}", spec.kv_heads)
    if spec.window is not None:
        check_whole("sliding_window", spec.window)
    for name in ("rope_theta", "partial_rotary_factor", "rope_factor"):
        check_number(f"{name} of layer {index}", getattr(spec, name))
    if spec.head_dim % 2 or heads % spec.kv_heads:
        raise CheckpointError(
            f"config.json: layer {index} has head_dim {spec.head_dim}, {spec.kv_heads} key-value heads for "
            f"{heads} query heads; head_dim must be even, and the query heads a multiple of the key-value heads"
        )
    return spec


def read_layers(text: Mapping[str, Any], *, k_eq_v: bool) -> tuple[AttentionSpec, ...]:
    """Read the layers of a text configuration that has ``per_layer_config``, or ``global_head_dim`` and
    ``num_global_key_value_heads``, of which the latter counts where full layers' keys are their values.

    Raises CheckpointError naming the field that is not supported, KeyError for one that is missing.
    """
    check_whole("num_attention_heads", text["num_attention_heads"])
    # The reference forces the last layer to full attention whatever the file says.
    kinds = [*layer_kinds(text)[:-1], FULL]
    per_layer = text.get("per_layer_config")
    for name, value in (("per_layer_config", per_layer), ("rope_parameters", text.get("rope_parameters"))):
        if value is not None and not isinstance(value, Mapping):
            raise CheckpointError(f"config.json: {name} = {value!r} must be an object")
    own = None if per_layer is None else _fields_by_layer(per_layer, len(kinds))
    return tuple(_layer(text, kind, index, own, k_eq_v) for index, kind in enumerate(kinds))


def layers_to_json(layers: Sequence[AttentionSpec], context_length: int) -> dict[str, Any]:
    """Return the fields that ``read_layers`` and ``transformers`` read."""
    full = next(spec for spec in layers if spec.window is None)
    local = next((spec for spec in layers if spec.window is not None), full)
    different = {
        str(index): {"head_dim": spec.head_dim, "num_key_value_heads": spec.kv_heads}
        for index, spec in enumerate(layers)
        if (spec.head_dim, spec.kv_heads) != (local.head_dim, local.kv_heads)
    }
    return {
        "num_hidden_layers": len(layers),
        "layer_types": [FULL if spec.window is None else SLIDING for spec in layers],
        "num_key_value_heads": local.kv_heads,
        "head_dim": local.head_dim,
        "per_layer_config": different,
        "sliding_window": local.window or context_length,
        "rope_parameters": {SLIDING: _rope_to_json(local), FULL: _rope_to_json(full)},
    }


def _rope_to_json(spec: AttentionSpec) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": spec.rope_theta}
    if spec.partial_rotary_factor != 1.0 or spec.rope_factor != 1.0:
        rope |= {"rope_type": "proportional", "partial_rotary_factor": spec.partial_rotary_factor}
    return rope if spec.rope_factor == 1.0 else {**rope, "factor": spec.rope_factor}


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


def _layer(
    text: Mapping[str, Any], kind: str, index: int, per_layer: Mapping[int, Mapping[str, Any]] | None, k_eq_v: bool
) -> AttentionSpec:
    head_dim, kv_heads = text["head_dim"], text["num_key_value_heads"]
    if per_layer is not None:
        own = per_layer.get(index, {})
        head_dim, kv_heads = own.get("head_dim", head_dim), own.get("num_key_value_heads", kv_heads)
    elif kind == FULL:
        head_dim = text.get("global_head_dim", 512)
        if k_eq_v:
            kv_heads = text.get("num_global_key_value_heads") or kv_heads
    theta, share, factor = _rope(text.get("rope_parameters") or _DEFAULT_ROPE, kind)
    window = text["sliding_window"] if kind == SLIDING else None
    if kind == SLIDING:
        check_whole("sliding_window", window)
    return check_layer(
        index, AttentionSpec(head_dim, kv_heads, window, theta, share, factor), text["num_attention_heads"]
    )


_DEFAULT_ROPE = {
    SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
    FULL: {"rope_type": "proportional", "rope_theta": 1_000_000.0, "partial_rotary_factor": 0.25},
}


def _rope(parameters: Mapping[str, Any], kind: str) -> tuple[float, float, float]:
    """Return (theta, share of a head that is rotated, factor)."""
    rope = parameters[kind]
    rope_type, share = rope.get("rope_type", "default"), rope.get("partial_rotary_factor", 1.0)
    if rope_type == "proportional":
        return rope["rope_theta"], share, rope.get("factor", 1.0)
    if rope_type == "default" and share == 1.0:
        return rope["rope_theta"], share, 1.0
    raise CheckpointError(
        f"config.json: rope_parameters.{kind} has rope_type {rope_type!r} with partial_rotary_factor {share}; "
        "supported are 'default' (whole head) and 'proportional'"
    )
