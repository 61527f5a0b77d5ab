"""Python's own types as constraints: pydantic models, dataclasses, TypedDicts, ``Literal``, enums, and types such as
``list[int]``. What JSON they are, and what reads it back, is pydantic's to say."""

import sys
import types
import typing
from enum import Enum
from typing import Any, cast, get_args, get_origin, get_type_hints

from redraft.constrain.constraint import Choice, Constraint, JSONSchema
from redraft.errors import ConstraintError, GenerationError


def is_type(value: object) -> bool:
    """Tell whether a value is a type that stands for the texts of its values, and no constraint itself."""
    if isinstance(value, type):
        return not hasattr(value, "expression")
    return get_origin(value) is not None or isinstance(value, getattr(typing, "TypeAliasType", ()))


def as_constraint(wanted: object) -> Constraint | None:
    """Return the constraint that a type stands for; what is no type stands for itself.

    A ``Literal`` or an enum of texts is a choice of these texts as they are; every other type is JSON. Raises
    ConstraintError for a type that no JSON is read as.
    """
    if not is_type(wanted):
        # What is no constraint either is told where it would be compiled.
        return cast(Constraint | None, wanted)
    texts = _texts(wanted)
    return JSONSchema(schema_of(wanted)) if texts is None else Choice(texts)


def schema_of(wanted: Any) -> dict[str, Any]:
    """Return the JSON schema of a type; ConstraintError where there is none."""
    adapter = _adapter(wanted)
    try:
        found: dict[str, Any] = adapter.json_schema()
    except Exception as error:  # pydantic has an error of its own for each way in which it does not work
        raise ConstraintError(f"{_name(wanted)} has no JSON schema: {_first_line(error)}") from error
    return found


def value_of(wanted: Any, text: str) -> Any:
    """Read JSON as a value of a type; GenerationError where the type's own validators refuse what its schema allows."""
    adapter = _adapter(wanted)
    try:
        return adapter.validate_json(text)
    except ValueError as error:
        raise GenerationError(
            f"the JSON is valid under the schema of {_name(wanted)}, but no {_name(wanted)}: {_first_line(error)}; "
            "put into the type's schema what its validators ask for"
        ) from error


def plain_of(wanted: Any, value: object) -> Any:
    """Return what JSON has for an instance of a type; ValueError for anything else."""
    adapter = _adapter(wanted)
    return adapter.dump_python(adapter.validate_python(value), mode="json", by_alias=True)


def _adapter(wanted: Any) -> Any:
    try:
        from pydantic import TypeAdapter
    except ImportError as error:
        raise ConstraintError(
            f"{_name(wanted)} as a constraint needs pydantic; install it (pip install pydantic), or give a JSON schema"
        ) from error
    try:
        return TypeAdapter(wanted if sys.version_info >= (3, 12) else _with_extensions(wanted))
    except Exception as error:
        raise ConstraintError(f"{_name(wanted)} is no type that JSON is read as: {_first_line(error)}") from error


def _texts(wanted: Any) -> tuple[str, ...] | None:
    """Return the texts that a ``Literal`` or an enum has; None for others."""
    values: tuple[Any, ...] = ()
    if get_origin(wanted) is typing.Literal:
        values = get_args(wanted)
    elif isinstance(wanted, type) and issubclass(wanted, Enum):
        values = tuple(one.value for one in wanted)
    return values if values and all(isinstance(value, str) for value in values) else None


def _with_extensions(hint: Any) -> Any:
    """Return a type whose TypedDicts are of ``typing_extensions``: before Python 3.12 pydantic takes no other."""
    from typing import NotRequired, Required

    from typing_extensions import TypedDict

    if typing.is_typeddict(hint):
        fields = {
            name: (Required if name in hint.__required_keys__ else NotRequired)[_with_extensions(_unmarked(own))]
            for name, own in get_type_hints(hint, include_extras=True).items()
        }
        return TypedDict(hint.__name__, fields)  # type: ignore[operator]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (None, typing.Literal, typing.Annotated):
        return hint
    changed = tuple(own if own is ... else _with_extensions(own) for own in arguments)
    if all(new is own for new, own in zip(changed, arguments, strict=True)):
        return hint
    return typing.Union[changed] if origin in (typing.Union, types.UnionType) else origin[changed]  # noqa: UP007


def _unmarked(hint: Any) -> Any:
    """Return what a field of a TypedDict holds, without the mark that says whether it must be there."""
    return get_args(hint)[0] if get_origin(hint) in (typing.Required, typing.NotRequired) else hint


def _name(wanted: Any) -> str:
    return getattr(wanted, "__name__", None) or repr(wanted)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())[:300]
