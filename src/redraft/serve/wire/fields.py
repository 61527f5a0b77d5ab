"""Fields that several wire formats have."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema

from redraft.constrain.constraint import JSONSchema


def _fail_fast(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") in ("list", "tuple", "set", "frozenset", "dict"):
            schema["fail_fast"] = True
        for part in schema.values():
            _fail_fast(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _fail_fast(part)


class Body(BaseModel):
    """A body, or a part of one: every field is known, and of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Have arrays and mappings refused at their first fault: to list a million of them would take seconds."""
        schema = handler(source)
        _fail_fast(schema)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _one_unknown_field(cls, given: Any) -> Any:
        """Leave one unknown field of many, which is refused by its name; all of them would be listed."""
        if not isinstance(given, dict) or len(given) <= len(cls.model_fields):
            return given
        known = {name for own, field in cls.model_fields.items() for name in (own, field.alias or own)}
        unknown = next((name for name in given if name not in known), None)
        return {name: value for name, value in given.items() if name in known or name == unknown}


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
# What a sampler of an autoregressive model would do with these, a diffusion sampler does not.
NoPenalty = Annotated[Literal[0] | float | None, only(0, instead="penalties have no meaning for a canvas")]
WholeNucleus = Annotated[float | None, only(1, instead="use temperature, which scales the checkpoint's schedule")]
NoBias = Annotated[dict[str, float] | None, only({})]

JSON_OBJECT = JSONSchema({"type": "object"})
"""Any JSON object."""
