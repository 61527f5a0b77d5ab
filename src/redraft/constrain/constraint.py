"""The constraints that a user may put on a text: a JSON schema, a regular expression, several options, a template."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from redraft.constrain.expression import Expression, any_of
from redraft.constrain.language import regex, template
from redraft.constrain.language.json import schema as json_schema
from redraft.constrain.language.json.text import Whitespace
from redraft.constrain.language.template import Hole
from redraft.errors import ConstraintError

__all__ = ["Choice", "Constraint", "Exactly", "Hole", "JSONSchema", "Regex", "Template"]


class Constraint(Protocol):
    """A constraint on a whole text. Equal ones are compiled once, so it must be hashable."""

    @property
    def expression(self) -> Expression:
        """The texts that are allowed. Raises ConstraintError naming what is not supported, and where."""
        ...


@dataclass(frozen=True, init=False)
class JSONSchema:
    """JSON that is valid under a schema (draft 2020-12); ``language.json.schema`` says which keywords and spellings."""

    schema: str
    """JSON text; members come in the order in which the schema names them."""
    whitespace: Whitespace
    depth: int

    def __init__(
        self, schema: Mapping[str, Any] | bool | str, *, whitespace: Whitespace = "compact", depth: int = 4
    ) -> None:
        """``schema`` is an object or JSON text, ``whitespace`` is "compact", "one-space" or "free".

        ``depth`` limits recursion by '$ref', and nesting that the schema leaves open.
        """
        if not isinstance(schema, str):
            try:
                schema = json.dumps(schema)
            except (TypeError, ValueError) as error:
                raise ConstraintError(f"the schema is not JSON: {error}") from error
        if not isinstance(whitespace, str):
            raise ConstraintError(f"whitespace {whitespace!r} must be 'compact', 'one-space' or 'free'")
        object.__setattr__(self, "schema", schema)
        object.__setattr__(self, "whitespace", whitespace)
        object.__setattr__(self, "depth", depth)

    @property
    def expression(self) -> Expression:
        return json_schema.expression(self.schema, whitespace=self.whitespace, depth=self.depth)


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
