"""Fields that several wire formats have."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from redraft.constrain.constraint import JSONSchema


class Body(BaseModel):
    """A body, or a part of one: every field is known, and of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, allow_inf_nan=False)


def only(*values: Any, instead: str = "leave it out") -> BeforeValidator:
    """Accept a field where it asks for nothing, and refuse it otherwise."""

    def check(value: Any) -> Any:
        if value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values):
            return value
        shown = " or ".join(map(repr, values)) if values else "null"
        raise ValueError(f"only {shown} is supported by this server; {instead}")

    return BeforeValidator(check)


Temperature = Annotated[float, Field(ge=0, le=2)]
Seed = Annotated[int, Field(ge=0, lt=1 << 64)]
Whole = Annotated[int, Field(ge=1)]
Stop = str | Annotated[list[str], Field(max_length=16)]

JSON_OBJECT = JSONSchema({"type": "object"})
"""Any JSON object."""
