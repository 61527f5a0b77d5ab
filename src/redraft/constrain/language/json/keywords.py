"""The supported JSON schema keywords, and the check of each schema before anything is made of it."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeGuard

from redraft.constrain.language import decimal_range
from redraft.constrain.language.decimal_range import Bound
from redraft.constrain.language.json.dialects import KEPT
from redraft.errors import ConstraintError

Schema = Mapping[str, Any] | bool
"""A schema of a checked document: each keyword's value has the type that the keyword asks for."""

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_MAX_MULTIPLE = 1000
_MAX_VALUE_DEPTH = 32
_MAX_COUNT = 2**53

_REFUSED = {
    "$dynamicRef": "write '$ref'",
    "$recursiveRef": "write '$ref'",
    "unevaluatedItems": "write 'items' after 'prefixItems'",
    "unevaluatedProperties": "name all properties in one place, with 'additionalProperties'",
    "extends": "write 'allOf'",
    "disallow": "write 'not'",
    "divisibleBy": "write 'multipleOf'",
}
"""Keywords that would say something about a value and are not honoured, and what to write instead."""


class ImpossibleError(ConstraintError):
    """No value satisfies what holds at a place."""


class ForbiddenError(ImpossibleError):
    """No value is wanted at a place: its schema is false, or recursion ends there."""


class TooDeepError(ForbiddenError):
    """A place is in itself deeper than the stated depth."""


def fail(pointer: str, problem: str, kind: type[ConstraintError] = ConstraintError) -> ConstraintError:
    """The error of the schema at a JSON pointer."""
    return kind(f"schema at {pointer}: {problem}" if pointer else f"schema: {problem}")


def joined_pointer(pointer: str, *names: str | int) -> str:
    """The JSON pointer of a part."""
    for name in names:
        pointer += "/" + str(name).replace("~", "~0").replace("/", "~1")
    return pointer


def read(schema: Mapping[str, Any] | bool | str) -> Schema:
    """A schema that may be given as JSON text."""
    if not isinstance(schema, str):
        return schema_in(schema, "")
    try:
        return schema_in(json.loads(schema, object_pairs_hook=_without_duplicates), "")
    except json.JSONDecodeError as error:
        raise ConstraintError(f"schema: not JSON at line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ConstraintError:
        raise
    except ValueError as error:
        raise ConstraintError(f"schema: not JSON: {error}") from None
    except RecursionError:
        raise ConstraintError("schema: nested too deeply to be read; write it flatter, with '$ref'") from None


def _without_duplicates(members: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(members)
    if len(result) < len(members):
        names = [name for name, _ in members]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConstraintError(f"schema: an object has the key {twice!r} twice; keep one of them")
    return result


def schema_in(value: object, pointer: str) -> Schema:
    """The schema at a JSON pointer; ConstraintError for what is none."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return value
    raise fail(pointer, f"a schema must be an object with string keys, true or false, not {_shown(value)}")


def check(schema: Mapping[str, Any], pointer: str) -> None:
    """Check the keywords of one schema (as ``dialects.canonical`` returns it) and that none contradict each other."""
    for keyword, value in schema.items():
        if keyword in KEPT:
            continue
        if keyword in _REFUSED:
            raise fail(pointer, f"{keyword!r} is not supported; {_REFUSED[keyword]}")
        problem = _CHECKS[keyword](value)
        if problem:
            raise fail(pointer, f"{keyword!r} {problem}, not {_shown(value)}")
    _check_counts(schema, pointer)
    _check_bounds(schema, pointer)
    _check_required(schema, pointer)


def _check_counts(schema: Mapping[str, Any], pointer: str) -> None:
    for lower, upper in (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties")):
        low, high = count(schema, lower) or 0, count(schema, upper)
        if high is not None and low > high:
            raise fail(pointer, f"{lower!r} {low} is above {upper!r} {high}; nothing is possible")


def count(schema: Mapping[str, Any], keyword: str) -> int | None:
    """The value of a keyword such as 'maxItems', if it is there; it may be written with a point."""
    return int(schema[keyword]) if keyword in schema else None


def _check_bounds(schema: Mapping[str, Any], pointer: str) -> None:
    for low_name, low in bounds(schema, "minimum", "exclusiveMinimum"):
        for high_name, high in bounds(schema, "maximum", "exclusiveMaximum"):
            if low.value > high.value or (low.value == high.value and (low.exclusive or high.exclusive)):
                raise fail(
                    pointer, f"{low_name!r} {low.value} leaves nothing below {high_name!r} {high.value}; change one"
                )


def _check_required(schema: Mapping[str, Any], pointer: str) -> None:
    declared = schema.get("properties", {})
    for name in schema.get("required", ()) if "patternProperties" not in schema else ():
        if declared.get(name, schema.get("additionalProperties")) is False:
            raise fail(pointer, f"'required' names {name!r}, which 'properties' and 'additionalProperties' rule out")


def bounds(schema: Mapping[str, Any], inclusive: str, exclusive: str) -> Iterator[tuple[str, Bound]]:
    """The bounds on one side that a schema states, with the keyword."""
    for keyword in (inclusive, exclusive):
        if keyword in schema:
            yield keyword, Bound(Decimal(str(schema[keyword])), keyword == exclusive)


def subschemas(schema: Mapping[str, Any], pointer: str) -> Iterator[tuple[str, str, str | int | None, Any]]:
    """The schemas directly inside one: its JSON pointer, the keyword, its name or number there, and the schema."""
    for keyword, value in schema.items():
        if keyword in _NAMED_SCHEMAS:
            yield from ((joined_pointer(pointer, keyword, name), keyword, name, part) for name, part in value.items())
        elif keyword in _LISTED_SCHEMAS:
            yield from ((joined_pointer(pointer, keyword, n), keyword, n, part) for n, part in enumerate(value))
        elif keyword in _ONE_SCHEMA:
            yield joined_pointer(pointer, keyword), keyword, None, value


def _type(value: object) -> str | None:
    names = value if isinstance(value, list | tuple) else [value]
    if names and all(isinstance(name, str) and name in TYPES for name in names):
        return None
    return f"must be one or several of {', '.join(TYPES)}"


def _count(value: object) -> str | None:
    # 2.0 is an integer to JSON schema.
    whole = _is_number(value) and value % 1 == 0 and 0 <= value <= _MAX_COUNT
    return None if whole else f"must be an integer from 0 to {_MAX_COUNT}"


def _bound(value: object) -> str | None:
    if not _is_number(value):
        return "must be a number"
    if sum(Bound(Decimal(str(value))).digits) > decimal_range.MAX_DIGITS:
        return f"must have at most {decimal_range.MAX_DIGITS} digits when written out"
    return None


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _text(value: object) -> str | None:
    return None if isinstance(value, str) and _encodable(value) else "must be a string"


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names(value: object) -> str | None:
    return None if isinstance(value, list | tuple) and not any(map(_text, value)) else "must be an array of strings"


def _named_schemas(value: object) -> str | None:
    if isinstance(value, Mapping) and not any(map(_text, value)):
        return None
    return "must be an object whose keys are strings"


def _schema(value: object) -> str | None:
    if isinstance(value, Mapping | bool):
        return None
    hint = "; for a schema of each item write 'prefixItems'" if isinstance(value, list | tuple) else ""
    return f"must be a schema{hint}"


def _schemas(value: object) -> str | None:
    return None if isinstance(value, list | tuple) and value else "must be an array of schemas, at least one"


def _options(value: object) -> str | None:
    if not (isinstance(value, list | tuple) and value):
        return "must be an array with at least one value"
    return next(filter(None, map(_value, value)), None)


def _value(value: object) -> str | None:
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > _MAX_VALUE_DEPTH:
            return f"must not be nested more than {_MAX_VALUE_DEPTH} deep"
        if isinstance(part, Mapping):
            if any(map(_text, part)):
                return "must have only strings as keys"
            waiting += [(item, depth + 1) for item in part.values()]
        elif isinstance(part, list | tuple):
            waiting += [(item, depth + 1) for item in part]
        elif not (part is None or isinstance(part, bool) or _is_number(part) or _text(part) is None):
            return "must be made of JSON values (no NaN, no infinity, no half surrogate pair)"
    return None


def _switch(value: object) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _reference(value: object) -> str | None:
    return None if isinstance(value, str) and _encodable(value) else "must be a URI reference, such as '#/$defs/...'"


def _multiple(value: object) -> str | None:
    if not (_is_number(value) and value > 0):
        return "must be a number above 0"
    if value % 1 == 0 and value <= _MAX_MULTIPLE:
        return None
    return f"is supported only for integers up to {_MAX_MULTIPLE}; leave it out and check the result"


def _names_by_name(value: object) -> str | None:
    if isinstance(value, Mapping) and not any(map(_text, value)) and not any(map(_names, value.values())):
        return None
    return "must be an object whose values are arrays of strings"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_CHECKS: dict[str, Callable[[object], str | None]] = {
    "$ref": _reference,
    "additionalProperties": _schema,
    "allOf": _schemas,
    "anyOf": _schemas,
    "const": _value,
    "contains": _schema,
    "dependencies": _named_schemas,
    "dependentRequired": _names_by_name,
    "dependentSchemas": _named_schemas,
    "else": _schema,
    "enum": _options,
    "exclusiveMaximum": _bound,
    "exclusiveMinimum": _bound,
    "format": _text,
    "if": _schema,
    "items": _schema,
    "maxContains": _count,
    "maxItems": _count,
    "maxLength": _count,
    "maxProperties": _count,
    "maximum": _bound,
    "minContains": _count,
    "minItems": _count,
    "minLength": _count,
    "minProperties": _count,
    "minimum": _bound,
    "multipleOf": _multiple,
    "not": _schema,
    "oneOf": _schemas,
    "pattern": _text,
    "patternProperties": _named_schemas,
    "prefixItems": _schemas,
    "properties": _named_schemas,
    "propertyNames": _schema,
    "required": _names,
    "then": _schema,
    "type": _type,
    "uniqueItems": _switch,
}
SUPPORTED = frozenset(_CHECKS)
KNOWN = SUPPORTED | frozenset(_REFUSED)
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas"})
_LISTED_SCHEMAS = frozenset({"prefixItems", "anyOf", "oneOf", "allOf"})
_ONE_SCHEMA = frozenset({"items", "additionalProperties", "propertyNames", "not", "if", "then", "else", "contains"})


@dataclass(frozen=True)
class Value:
    """A JSON value that compares as JSON schema says: 1 equals 1.0, but not true; members in any order."""

    key: object

    @classmethod
    def of(cls, value: object) -> "Value":
        if isinstance(value, Mapping):
            return cls(("object", frozenset((name, cls.of(item)) for name, item in value.items())))
        if isinstance(value, list | tuple):
            return cls(("array", tuple(cls.of(item) for item in value)))
        return cls((isinstance(value, bool), value))
