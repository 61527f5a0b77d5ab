"""The shape of an Inkwell model, read from and written to its ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from redraft.errors import CheckpointError

ARCHITECTURE = "InkwellForBlockDiffusion"


@dataclass(frozen=True)
class InkwellConfig:
    """A Llama-like transformer whose queries, keys and values have biases; the names are those of its files."""

    vocab_size: int
    width: int
    inner_width: int
    depth: int
    heads: int
    kv_heads: int
    context_length: int
    canvas_length: int
    mask_id: int
    begin_id: int
    end_id: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kinds = getattr(self, field.name), (int, float) if field.type is float else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or value < 0:
                raise CheckpointError(f"config.json: {field.name} = {value!r} must be a number, 0 or more")
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise CheckpointError(f"config.json: {self.heads} heads over {self.kv_heads} do not fit width {self.width}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def image_token_ids(self) -> tuple[int, ...]:
        return ()

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        return (self.mask_id, self.begin_id, self.end_id)

    @property
    def thought_syntax(self) -> None:
        return None

    @property
    def tool_syntax(self) -> None:
        return None

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "InkwellConfig":
        names = [field.name for field in fields(cls)]
        try:
            return cls(**{name: raw[name] for name in names if name in raw})
        except TypeError:
            missing = next(name for name in names if name not in raw)
            raise CheckpointError(f"config.json has no {missing!r}") from None

    def to_json(self) -> dict[str, Any]:
        return {"architectures": [ARCHITECTURE], **{field.name: getattr(self, field.name) for field in fields(self)}}
