"""The URIs of schemas: which schema a '$ref' means, and other documents bundled into one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from redraft.constrain.language.json.dialects import LATEST, draft_of, id_keyword
from redraft.constrain.language.json.keywords import fail
from redraft.errors import ConstraintError

BUNDLED = "$defs"
"""The key under which other documents stand in the one that needs them."""
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"})
_SCHEMAS = frozenset(
    {"additionalItems", "additionalProperties", "allOf", "anyOf", "contains", "contentSchema", "else", "if", "items"}
    | {"not", "oneOf", "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"}
)
_LATEST_URI = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class Resource:
    """A schema that has a URI of its own: a document, or one inside it."""

    uri: str
    draft: int
    pointer: str
    """The JSON pointer of it in the outermost document."""


class References:
    """All URIs and anchors of a document."""

    def __init__(self, schema: Mapping[str, Any] | bool, max_places: int) -> None:
        self._root = schema
        self._max_places = max_places
        self._resources: dict[str, Resource] = {}
        self._anchors: dict[tuple[str, str], str] = {}
        self._own: dict[str, Resource] = {}
        uri = ""
        outermost = Resource(uri, LATEST, "")
        if isinstance(schema, Mapping):
            outermost = self._declared(schema, outermost, "") or Resource(uri, draft_of(schema, LATEST), "")
        self._own[""] = outermost
        self._resources.setdefault(outermost.uri, outermost)
        self._scan(schema, outermost)

    def resource(self, pointer: str) -> Resource:
        """The resource that the schema at a JSON pointer belongs to."""
        around = pointer
        while around not in self._own:
            around = around.rpartition("/")[0]
        # Kept, since what is inside asks next: for every level anew takes minutes where there are thousands.
        return self._own.setdefault(pointer, self._own[around])

    def target(self, reference: str, pointer: str) -> str:
        """The JSON pointer, in the whole document, of the schema that a '$ref' at ``pointer`` means.

        Raises LookupError with the URI of another document, or with nothing where this one has no such schema.
        """
        resource: Resource | None = self.resource(pointer)
        assert resource is not None
        uri, fragment = urldefrag(reference)
        if uri:
            uri = urljoin(resource.uri, uri)
            resource = self._resources.get(uri)
            if resource is None:
                raise LookupError(uri)
        fragment = unquote(fragment)
        if not fragment or fragment.startswith("/"):
            return resource.pointer + fragment
        if (resource.uri, fragment) in self._anchors:
            return self._anchors[resource.uri, fragment]
        raise LookupError

    def at(self, pointer: str) -> Any:
        """Return what stands at a JSON pointer; LookupError for nothing."""
        part: Any = self._root
        for name in pointer.split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            if isinstance(part, list | tuple):
                if not (name.isascii() and name.isdigit()) or int(name) >= len(part):
                    raise LookupError
                part = part[int(name)]
            elif isinstance(part, Mapping) and name in part:
                part = part[name]
            else:
                raise LookupError
        return part

    def _scan(self, schema: Any, outermost: Resource) -> None:
        # Schemas alone have names: what looks like one in a value or an unknown keyword is none.
        waiting: list[tuple[str, Any, Resource | None]] = [("", schema, outermost)]
        places, around = 0, set[int]()
        while waiting:
            pointer, part, resource = waiting.pop()
            if resource is None:
                # All inside has been looked at.
                around.remove(id(part))
                continue
            places += 1
            if places > self._max_places:
                raise ConstraintError(f"schema: has more than {self._max_places} parts; write less")
            if isinstance(part, Mapping):
                if id(part) in around:
                    raise fail(pointer, "this object stands inside itself, which no JSON can; refer to it by '$ref'")
                if pointer:
                    resource = self._declared(part, resource, pointer) or resource
                self._note_anchors(part, resource, pointer)
                around.add(id(part))
                waiting.append((pointer, part, None))
                waiting += [(f"{pointer}/{at}", inner, resource) for at, inner in _schemas_in(part)]

    def _declared(self, schema: Mapping[str, Any], outer: Resource, pointer: str) -> Resource | None:
        """The resource that begins at a schema, if one does."""
        draft = draft_of(schema, outer.draft)
        named = schema.get(id_keyword(draft))
        if not isinstance(named, str) or named.startswith("#") or ("$ref" in schema and draft <= 7):
            return None
        try:
            uri, _ = urldefrag(urljoin(outer.uri, named))
        except ValueError:
            return None
        resource = Resource(uri, draft, pointer)
        self._resources.setdefault(uri, resource)
        self._own[pointer] = resource
        return resource

    def _note_anchors(self, schema: Mapping[str, Any], resource: Resource, pointer: str) -> None:
        names = [schema.get("$anchor"), schema.get("$dynamicAnchor")]
        named = schema.get(id_keyword(resource.draft))
        if isinstance(named, str) and named.startswith("#"):
            names.append(named[1:])
        for name in names:
            if isinstance(name, str) and name:
                self._anchors.setdefault((resource.uri, name), pointer)


def _schemas_in(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside one of any draft, with their JSON pointers in it."""
    for keyword, value in schema.items():
        if keyword in _NAMED and isinstance(value, Mapping):
            yield from ((f"{keyword}/{_escaped(name)}", part) for name, part in value.items())
        elif keyword in _SCHEMAS and isinstance(value, list | tuple):
            yield from ((f"{keyword}/{index}", part) for index, part in enumerate(value))
        elif keyword in _SCHEMAS:
            yield keyword, value


def _escaped(name: object) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")


def bundle(schema: Mapping[str, Any], uri: str, document: Any) -> dict[str, Any]:
    """A schema with another document inside it, under the URI of that."""
    if not isinstance(document, Mapping):
        inner: dict[str, Any] = {"$id": uri, "allOf": [document]}
    else:
        draft = draft_of(document, LATEST)
        inner = {"$schema": _LATEST_URI, **document, id_keyword(draft): uri}
        if draft <= 7 and "$ref" in inner:
            # Beside a '$ref', the name would say nothing.
            inner = {"$schema": inner["$schema"], id_keyword(draft): uri, "allOf": [{"$ref": inner["$ref"]}]}
    bundled = schema.get(BUNDLED)
    return {**schema, BUNDLED: {**(bundled if isinstance(bundled, Mapping) else {}), uri: inner}}
