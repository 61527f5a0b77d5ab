"""Fields that several wire formats have, and marks that say what a server does with a field."""

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema

from redraft.constrain.constraint import JSONSchema
from redraft.serve.errors import WARNING_HEADER


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
        known = _names(cls)
        if not isinstance(given, dict) or known.issuperset(given):
            return given
        unknown = next(name for name in given if name not in known)
        return {name: value for name, value in given.items() if name in known or name == unknown}


@functools.cache
def _names(body: type[Body]) -> frozenset[str]:
    return frozenset(name for own, field in body.model_fields.items() for name in (own, field.alias or own))


class Only(BeforeValidator):
    """The mark of a field that is refused, but for values that ask for nothing."""


@dataclass(frozen=True)
class Hint:
    """The mark of a field that asks for nothing, whatever it says: it is taken, and changes no answer."""


HINT = Hint()


def only(*values: Any, instead: str = "leave it out") -> Only:
    """Accept a field where it asks for nothing, and refuse it otherwise."""

    def check(value: Any) -> Any:
        if value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values):
            return value
        shown = " or ".join(map(repr, values)) if values else "null"
        raise ValueError(f"only {shown} is supported by this server; {instead}")

    return Only(check)


class UnreadPart(BaseModel):
    """A part of a message that the model cannot be shown; one sentence says so."""

    model_config = ConfigDict(extra="allow")
    what: ClassVar[str]
    """A word for it, in the plural."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, given: Any) -> Any:
        raise ValueError(f"{cls.what} are not supported by this checkpoint or version; say in text what they show")


class OtherTool(BaseModel):
    """A tool of a kind that this server does not run, such as a web search. It is left out, and a header says so."""

    model_config = ConfigDict(extra="allow")
    type: str


_PRINTABLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def warnings_of(left_out: Iterable[OtherTool]) -> dict[str, str]:
    """Return the header that names the kinds of tools which were left out of a request; empty where none was."""
    kinds = sorted({tool.type if _PRINTABLE.fullmatch(tool.type) else "(no name)" for tool in left_out})
    if not kinds:
        return {}
    return {WARNING_HEADER: f"left out tools of kinds that this server does not run: {', '.join(kinds[:16])}"}


def random_if_negative(seed: Any) -> Any:
    """Return None, which asks for a random seed, in the place of -1, with which several clients do."""
    return None if isinstance(seed, int) and not isinstance(seed, bool) and seed == -1 else seed


ThinkingBudget = Annotated[int, Field(ge=0)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Seed = Annotated[
    Annotated[int, Field(ge=0, lt=1 << 64)] | None,
    BeforeValidator(random_if_negative, json_schema_input_type=Annotated[int, Field(ge=-1, lt=1 << 64)] | None),
]
Whole = Annotated[int, Field(ge=1)]
Stop = str | Annotated[list[str], Field(max_length=16)]

JSON_OBJECT = JSONSchema({"type": "object"})
"""Any JSON object."""
