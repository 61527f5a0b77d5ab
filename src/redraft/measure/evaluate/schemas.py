"""JSON schemas as a judge reads them: with ``jsonschema``, apart from the constraint that is made of them."""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from redraft.constrain.constraint import JSONSchema
from redraft.errors import RequestError

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

Schema = Mapping[str, Any] | str


def check_schema(schema: Schema, *, compiled: bool = False) -> None:
    """Raise RequestError for a schema that is none, and with ``compiled`` for one that no answer can be held to."""
    _validator(_text(schema))
    if compiled:
        _expression(_text(schema))


def faults(schema: Schema, value: Any) -> str | None:
    """Say why a value is not valid under a schema, draft 2020-12 with its formats; None where it is.

    Raises RequestError for a reference that leads nowhere. Nothing is fetched.
    """
    from referencing.exceptions import Unresolvable

    try:
        error = next(_validator(_text(schema)).iter_errors(value), None)
    except Unresolvable as missing:
        raise RequestError(f"the schema refers to what is not there: {missing}") from missing
    if error is None:
        return None
    place = "".join(f"/{key}" for key in error.absolute_path)
    return f"{place or 'the whole'}: {error.message}"


def enumerated(schema: Schema) -> frozenset[str]:
    """Return all texts that a schema lists in an ``enum`` or a ``const``."""
    return frozenset(_listed(json.loads(_text(schema))))


def _listed(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for part in schema:
            yield from _listed(part)
    if isinstance(schema, dict):
        for key, part in schema.items():
            if key in ("enum", "const"):
                yield from (one for one in (part if isinstance(part, list) else [part]) if isinstance(one, str))
            else:
                yield from _listed(part)


def _text(schema: Schema) -> str:
    return schema if isinstance(schema, str) else json.dumps(schema)


@lru_cache(maxsize=256)
def _expression(schema: str) -> None:
    # Built for what it raises alone.
    _ = JSONSchema(schema).expression


@lru_cache(maxsize=256)
def _validator(schema: str) -> "Draft202012Validator":
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
        from referencing import Registry
    except ImportError as error:
        raise RequestError(
            f"an item with a schema is judged by {error.name}; install it with: pip install 'redraft[evaluate]'"
        ) from error
    try:
        found = json.loads(schema)
        Draft202012Validator.check_schema(found)
    except ValueError as error:
        raise RequestError(f"the schema is not JSON: {error}") from error
    except SchemaError as error:
        raise RequestError(f"the schema is not a JSON schema: {error.message}") from error
    # A registry of its own: the default one would fetch what a reference names.
    return Draft202012Validator(found, registry=Registry(), format_checker=Draft202012Validator.FORMAT_CHECKER)
