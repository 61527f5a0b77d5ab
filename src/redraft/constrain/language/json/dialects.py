"""The drafts of JSON schema: one schema of any of them, in the keywords of draft 2020-12.

A keyword that a draft does not know is an annotation there (core, 6.5), and so is a format that is not known
(validation, 7): they change nothing and are reported.
"""

from collections.abc import Mapping
from typing import Any

from redraft.constrain.language import string_formats as formats

LATEST = 2020
_DRAFTS = (
    ("draft-03", 3),
    ("draft-04", 4),
    ("draft-06", 6),
    ("draft-07", 7),
    ("draft/2019-09", 2019),
    ("draft/2020-12", LATEST),
)

WITHOUT_EFFECT = frozenset(
    {"$anchor", "$comment", "$dynamicAnchor", "$id", "$recursiveAnchor", "$schema", "$vocabulary", "default"}
    | {"$defs", "definitions", "deprecated", "description", "discriminator", "examples", "id", "readOnly", "title"}
    | {"writeOnly"}
)
"""Keywords that say nothing about a value, by the specification."""
KEPT = frozenset({"default", "description", "discriminator", "title"})
"""The ones of these that others of us read."""

_SINCE = {
    **dict.fromkeys(("const", "contains", "propertyNames"), 6),
    **dict.fromkeys(("if", "then", "else"), 7),
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "minContains", "maxContains"), 2019),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), 2019),
    **dict.fromkeys(("prefixItems", "$dynamicRef"), LATEST),
}
"""The draft that brought a keyword; before it, it is unknown."""
_UNTIL = {"additionalItems": 2019, "$recursiveRef": 2019}


def draft_of(schema: Mapping[str, Any], otherwise: int) -> int:
    """The draft that '$schema' names; ``otherwise`` where it names none that is known."""
    said = schema.get("$schema")
    return next((draft for name, draft in _DRAFTS if isinstance(said, str) and name in said), otherwise)


def id_keyword(draft: int) -> str:
    """The keyword that names a schema by a URI."""
    return "id" if draft <= 4 else "$id"


def canonical(schema: Mapping[str, Any], draft: int, known: frozenset[str]) -> tuple[dict[str, Any], list[str]]:
    """The keywords of a schema, those inside it left as they are, in draft 2020-12; and what is ignored, by name.

    ``known`` keywords are those of draft 2020-12 that have an effect.
    """
    if "$ref" in schema and draft <= 7:
        # Up to draft 7, '$ref' stands alone: what is beside it says nothing.
        return {name: value for name, value in schema.items() if name == "$ref" or name in KEPT}, []
    found: dict[str, Any] = {}
    ignored: list[str] = []
    for keyword, value in schema.items():
        if keyword in WITHOUT_EFFECT:
            if keyword in KEPT:
                found[keyword] = value
        elif not _known(keyword, draft, known):
            ignored.append(keyword)
        elif keyword == "format" and isinstance(value, str) and value not in formats.NAMES:
            ignored.append(f"format {value!r}")
        else:
            found[keyword] = value
    _modernise(found, draft)
    return found, ignored


def _known(keyword: str, draft: int, known: frozenset[str]) -> bool:
    if draft < _SINCE.get(keyword, 0) or draft > _UNTIL.get(keyword, LATEST):
        return False
    return keyword in known or keyword in _UNTIL


def _modernise(schema: dict[str, Any], draft: int) -> None:
    """Rewrite what is said otherwise since."""
    if draft < LATEST:
        after = schema.pop("additionalItems", None)
        if isinstance(schema.get("items"), list | tuple):
            listed = schema.pop("items")
            if listed:
                schema["prefixItems"] = listed
            if after is not None:
                schema["items"] = after
    if draft <= 4:
        for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
            if isinstance(schema.get(exclusive), bool) and schema.pop(exclusive) and inclusive in schema:
                schema[exclusive] = schema.pop(inclusive)
    if schema.get("$recursiveRef") == "#" and "$ref" not in schema:
        schema["$ref"] = schema.pop("$recursiveRef")
    dependencies = schema.get("dependencies")
    if isinstance(dependencies, Mapping):
        del schema["dependencies"]
        names = {name: part for name, part in dependencies.items() if isinstance(part, list | tuple)}
        schemas = {name: part for name, part in dependencies.items() if not isinstance(part, list | tuple)}
        if names:
            schema["dependentRequired"] = {**names, **schema.get("dependentRequired", {})}
        if schemas:
            schema["dependentSchemas"] = {**schemas, **schema.get("dependentSchemas", {})}
