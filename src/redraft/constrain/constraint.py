"""The constraints that a user may put on a text: a JSON schema, a regular expression, several options, a template."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from redraft.constrain.expression import Expression, any_of
from redraft.constrain.language import regex, template
from redraft.constrain.language.json import schema as json_schema
from redraft.constrain.language.json.document import Document, MissingDocumentError
from redraft.constrain.language.json.keywords import read
from redraft.constrain.language.json.references import bundle
from redraft.constrain.language.json.text import Whitespace
from redraft.constrain.language.template import Hole
from redraft.errors import ConstraintError

__all__ = ["Choice", "Constraint", "Exactly", "Hole", "JSONSchema", "Regex", "Template"]


_MAX_DOCUMENTS = 100


class Constraint(Protocol):
    """A constraint on a whole text. Equal ones are compiled once, so it must be hashable."""

    @property
    def expression(self) -> Expression:
        """The texts that are allowed. Raises ConstraintError naming what is not supported, and where."""
        ...


@dataclass(frozen=True, init=False)
class JSONSchema:
    """JSON that is valid under a schema (drafts 4 to 2020-12); ``language.json.schema`` says which keywords and
    spellings."""

    schema: str
    """JSON text, other documents that it needs inside it; members come in the order in which the schema names them."""
    whitespace: Whitespace
    depth: int

    def __init__(
        self,
        schema: Mapping[str, Any] | bool | str,
        *,
        whitespace: Whitespace = "compact",
        depth: int = 4,
        registry: Mapping[str, Any] | None = None,
        resolver: Callable[[str], Any] | None = None,
    ) -> None:
        """``schema`` is an object or JSON text, ``whitespace`` is "compact", "one-space" or "free".

        ``depth`` limits recursion by '$ref', and nesting that the schema leaves open. ``registry`` has other documents
        that '$ref' leads to, by their URI; ``resolver`` is asked for those that it lacks, and returns an object, JSON
        text or None. Nothing is fetched. Raises ConstraintError where one is missing or malformed.
        """
        if not isinstance(schema, str):
            try:
                schema = json.dumps(schema)
            except (TypeError, ValueError) as error:
                raise ConstraintError(f"the schema is not JSON: {error}") from error
        if registry is not None or resolver is not None:
            schema = _bundled(schema, registry or {}, resolver)
        if not isinstance(whitespace, str):
            raise ConstraintError(f"whitespace {whitespace!r} must be 'compact', 'one-space' or 'free'")
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "whitespace", whitespace)
        object.__setattr__(self, "depth", depth)

    @property
    def expression(self) -> Expression:
        return json_schema.expression(self.schema, whitespace=self.whitespace, depth=self.depth)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keywords and formats of the schema that are not known and change nothing, as "nullable at /properties/a".

        By the specification they are annotations. Raises ConstraintError as ``expression`` does for a malformed schema.
        """
        return json_schema.ignored(self.schema)


def _bundled(schema: str, registry: Mapping[str, Any], resolver: Callable[[str], Any] | None) -> str:
    """A schema with all other documents inside it that its '$ref' lead to, one after the other."""
    by_uri = {uri.removesuffix("#"): document for uri, document in registry.items()}
    for _ in range(_MAX_DOCUMENTS):
        try:
            Document(read(schema))
        except MissingDocumentError as missing:
            document = by_uri.get(missing.uri)
            if document is None and resolver is not None:
                document = resolver(missing.uri)
            if document is None:
                raise
            whole = read(document)
            schema = json.dumps(bundle(json.loads(schema), missing.uri, whole))
        else:
            return schema
    raise ConstraintError(f"schema: '$ref' leads to more than {_MAX_DOCUMENTS} other documents; bundle them in one")


@dataclass(frozen=True)
class Regex:
    """A text that the whole of a regular expression matches; ``language.regex`` says its syntax."""

    pattern: str

    def __post_init__(self) -> None:
        if not isinstance(self.pattern, str):
            raise ConstraintError(f"the pattern {self.pattern!r} must be a text")

    @property
    def expression(self) -> Expression:
        return regex.parse(self.pattern)


@dataclass(frozen=True, init=False)
class Choice:
    """Exactly one of several texts."""

    options: tuple[str, ...]

    def __init__(self, options: Iterable[str]) -> None:
        # A string is a sequence of strings too, and surely not meant as one.
        given = () if isinstance(options, str) or not isinstance(options, Iterable) else tuple(options)
        if not given or not all(isinstance(option, str) for option in given):
            raise ConstraintError(f"options {options!r} must be one text or more, such as ('yes', 'no')")
        object.__setattr__(self, "options", given)

    @property
    def expression(self) -> Expression:
        return any_of(*self.options)


@dataclass(frozen=True)
class Template:
    """A fixed text with named holes, ``{name}``; ``{{`` and ``}}`` stand for braces.

    A hole that is not described may hold any text.
    """

    text: str
    holes: Mapping[str, Hole] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise ConstraintError(f"the template {self.text!r} must be a text, with holes such as {{name}}")
        if not isinstance(self.holes, Mapping):
            raise ConstraintError(f"holes {self.holes!r} must be a mapping of names to Hole(...)")
        for name, hole in self.holes.items():
            if not isinstance(hole, Hole):
                raise ConstraintError(f"the hole {{{name}}} is {hole!r}; it must be a Hole(...)")
        # What was compiled once must not change afterwards.
        object.__setattr__(self, "holes", dict(self.holes))

    def __hash__(self) -> int:
        return hash((self.text, tuple(self.holes)))

    @property
    def expression(self) -> Expression:
        return template.expression(self.text, self._described)

    def values(self, produced: str) -> dict[str, str]:
        """The values in the holes of a text that was produced under this template, by name."""
        return template.values(self.text, self._described, produced)

    @property
    def _described(self) -> dict[str, Hole]:
        return {name: Hole() for name in template.names(self.text)} | dict(self.holes)


@dataclass(frozen=True)
class Exactly:
    """The texts of an expression that is there already."""

    expression: Expression
