"""The contrary of a schema: schemas of which one holds, keyword by keyword (De Morgan's laws).

They are written in the keywords of schemas and some of our own, which begin with ~ and no document has.
"""

from collections.abc import Callable, Mapping
from typing import Any

from redraft.constrain.language.json.dialects import KEPT
from redraft.constrain.language.json.keywords import Schema, fail

KINDS = frozenset({"array", "boolean", "fraction", "integer", "null", "object", "string"})
"""The kinds of values: JSON schema's types, with the numbers that are no integers as a kind of their own."""
KINDS_OF_TYPE = {name: frozenset({name}) for name in KINDS} | {"number": frozenset({"integer", "fraction"})}

NOT_VALUES = "~values"
"""None of these values."""
NOT_PATTERN = "~pattern"
"""A string that no reader finds this pattern in."""
NOT_FORMAT = "~format"
"""A string that every reader knows not to be of this format; as some test none, there is no such string for sure."""
BREAKS = "~breaks"
"""An object with a member that these 'properties', 'patternProperties' and 'additionalProperties', or these
'propertyNames', do not allow, and that no 'properties' describe."""

_FLIPPED = {
    "minimum": "exclusiveMaximum",
    "exclusiveMinimum": "maximum",
    "maximum": "exclusiveMinimum",
    "exclusiveMaximum": "minimum",
}
_COUNTS = {
    "minLength": ("string", "maxLength", -1),
    "maxLength": ("string", "minLength", 1),
    "minItems": ("array", "maxItems", -1),
    "maxItems": ("array", "minItems", 1),
    "minProperties": ("object", "maxProperties", -1),
    "maxProperties": ("object", "minProperties", 1),
}
_MAX_PAIRS = 30

Options = list[Schema]


def options(schema: Mapping[str, Any], pointer: str) -> Options:
    """Schemas of which one holds for every value that ``schema``, without its '$ref', does not allow, and for no other.

    Raises ConstraintError, with the pointer, for a keyword whose contrary cannot be said.
    """
    found: Options = []
    for keyword, value in schema.items():
        if keyword in KEPT or keyword == "$ref" or (keyword, value) == ("uniqueItems", False):
            continue
        if keyword in _COUNTS:
            type_, flipped, step = _COUNTS[keyword]
            if value + step >= 0:
                found.append({"type": type_, flipped: int(value) + step})
        elif keyword in _FLIPPED:
            found.append({"type": "number", _FLIPPED[keyword]: value})
        elif keyword in _CONTRARIES:
            found += _CONTRARIES[keyword](value, schema)
        elif keyword not in _WITH_OTHERS:
            raise fail(
                pointer, f"the contrary of {keyword!r}, which 'not', 'if' or 'oneOf' needs here, is not supported"
            )
    if {"patternProperties", "additionalProperties", "propertyNames"} & set(schema):
        found.append({"type": "object", BREAKS: dict(schema)})
    return found


def _not(schema: Schema) -> Schema:
    return {"not": schema}


def _type(value: Any, _: Mapping[str, Any]) -> Options:
    names = value if isinstance(value, list | tuple) else [value]
    others = KINDS.difference(*(KINDS_OF_TYPE[name] for name in names))
    return [{"type": sorted(others)}] if others else []


def _properties(value: Any, _: Mapping[str, Any]) -> Options:
    return [
        {"type": "object", "required": [name], "properties": {name: _not(part)}}
        for name, part in value.items()
        if part is not True and part != {}
    ]


def _required(value: Any, _: Mapping[str, Any]) -> Options:
    return [{"type": "object", "properties": {name: False}} for name in value]


def _items(value: Any, schema: Mapping[str, Any]) -> Options:
    before = len(schema.get("prefixItems", ()))
    if value is True or value == {}:
        return []
    if value is False:
        return [{"type": "array", "minItems": before + 1}]
    if before:
        raise fail("", "the contrary of 'items' after 'prefixItems' is not supported")
    return [{"type": "array", "contains": _not(value)}]


def _prefix(value: Any, _: Mapping[str, Any]) -> Options:
    return [
        {"type": "array", "minItems": n + 1, "prefixItems": [*[True] * n, _not(part)], "items": True}
        for n, part in enumerate(value)
    ]


def _contains(value: Any, schema: Mapping[str, Any]) -> Options:
    if schema.get("minContains", 1) != 1 or "maxContains" in schema:
        raise fail("", "the contrary of 'contains' with 'minContains' or 'maxContains' is not supported")
    return [{"type": "array", "items": _not(value)}]


def _one_of(value: Any, _: Mapping[str, Any]) -> Options:
    pairs = [{"allOf": [one, other]} for n, one in enumerate(value) for other in value[:n]]
    if len(pairs) > _MAX_PAIRS:
        raise fail("", "the contrary of a 'oneOf' with so many options is not supported")
    return [{"allOf": [_not(part) for part in value]}, *pairs]


def _if(value: Any, schema: Mapping[str, Any]) -> Options:
    found: Options = []
    if "then" in schema:
        found.append({"allOf": [value, _not(schema["then"])]})
    if "else" in schema:
        found.append({"allOf": [_not(value), _not(schema["else"])]})
    return found


def _dependent_required(value: Any, _: Mapping[str, Any]) -> Options:
    return [
        {"type": "object", "required": [name], "properties": {other: False}}
        for name, others in value.items()
        for other in others
    ]


def _dependent_schemas(value: Any, _: Mapping[str, Any]) -> Options:
    return [{"type": "object", "required": [name], "not": part} for name, part in value.items()]


_CONTRARIES: dict[str, Callable[[Any, Mapping[str, Any]], Options]] = {
    "type": _type,
    "enum": lambda value, _: [{NOT_VALUES: list(value)}],
    "const": lambda value, _: [{NOT_VALUES: [value]}],
    "properties": _properties,
    "required": _required,
    "items": _items,
    "prefixItems": _prefix,
    "contains": _contains,
    "pattern": lambda value, _: [{"type": "string", NOT_PATTERN: value}],
    "format": lambda value, _: [{"type": "string", NOT_FORMAT: value}],
    "anyOf": lambda value, _: [{"allOf": [_not(part) for part in value]}],
    "oneOf": _one_of,
    "allOf": lambda value, _: [_not(part) for part in value],
    "not": lambda value, _: [value],
    "if": _if,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    # Of our own: what they say of one is said of all that make it up.
    NOT_VALUES: lambda value, _: [{"enum": value}],
    NOT_PATTERN: lambda value, _: [{"type": "string", "pattern": value}],
}
# What is said together with another keyword, or says nothing by itself.
_WITH_OTHERS = frozenset(
    {"additionalProperties", "patternProperties", "propertyNames", "then", "else", "minContains", "maxContains"}
)
