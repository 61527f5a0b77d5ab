"""Options that say what may be written: the constraint on a whole answer, and on a hole in a text."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from redraft.cli import reading
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.constrain.constraint import Constraint, Hole
    from redraft.constrain.language.template import HoleType

C = TypeVar("C", bound="Constraint")
SchemaFile = Annotated[Path, typer.Option("--schema", help="File with the JSON schema that the answer is valid under.")]


class WhitespaceOption(StrEnum):
    """White space between the tokens of JSON."""

    compact = "compact"
    one_space = "one-space"
    free = "free"


class HoleTypeOption(StrEnum):
    """Types of what may stand in a hole."""

    integer = "integer"
    number = "number"
    boolean = "boolean"
    string = "string"
    line = "line"
    word = "word"
    json = "json"


@dataclass(frozen=True)
class ConstraintOptions:
    """The constraint on a whole answer."""

    schema: Annotated[Path | None, typer.Option(help="The answer is JSON, valid under the schema in this file.")] = None
    regex: Annotated[str | None, typer.Option(help="The whole answer matches this regular expression.")] = None
    choice: Annotated[
        list[str] | None, typer.Option(help="The answer is this text, or another --choice; to be repeated.")
    ] = None
    whitespace: Annotated[
        WhitespaceOption | None, typer.Option(help="White space in JSON under --schema; by default compact.")
    ] = None
    depth: Annotated[
        int | None, typer.Option(help="How deep a --schema may be in itself, and open values; by default 4.")
    ] = None

    def constraint(self) -> "Constraint | None":
        """Make the constraint, or None for any answer; RequestError for options that exclude each other."""
        from redraft.constrain.constraint import Choice, JSONSchema, Regex

        _check_one({"--schema": self.schema, "--regex": self.regex, "--choice": self.choice or None})
        for name, value in (("--whitespace", self.whitespace), ("--depth", self.depth)):
            if value is not None and self.schema is None:
                raise RequestError(f"{name} says how JSON is written under a schema; give --schema, or leave it out")
        if self.schema is not None:
            chosen: dict[str, Any] = {"whitespace": self.whitespace and self.whitespace.value, "depth": self.depth}
            chosen = {name: value for name, value in chosen.items() if value is not None}
            return check(JSONSchema(reading.file_text(self.schema, "the file of --schema"), **chosen))
        if self.regex is not None:
            return check(Regex(self.regex))
        return check(Choice(self.choice)) if self.choice else None


@dataclass(frozen=True)
class HoleOptions:
    """The constraint on what is written in a hole; any text if nothing is said."""

    hole_regex: Annotated[str | None, typer.Option(help="What is written matches this regular expression.")] = None
    hole_type: Annotated[HoleTypeOption | None, typer.Option(help="What is written is of this type.")] = None
    hole_choice: Annotated[
        list[str] | None, typer.Option(help="What is written is this text, or another --hole-choice; to be repeated.")
    ] = None
    min_length: Annotated[int | None, typer.Option(help="At least so many characters are written.")] = None
    max_length: Annotated[int | None, typer.Option(help="At most so many characters are written.")] = None

    def hole(self) -> "Hole | None":
        """Make the hole, or None where nothing is said about it; RequestError for options that exclude each other."""
        from redraft.constrain.constraint import Hole, Template

        choices = tuple(self.hole_choice or ()) or None
        _check_one({"--hole-regex": self.hole_regex, "--hole-type": self.hole_type, "--hole-choice": choices})
        kind: HoleType | None = None if self.hole_type is None else self.hole_type.value
        hole = Hole(self.hole_regex, choices, kind, self.min_length, self.max_length)
        if hole == Hole():
            return None
        check(Template("{hole}", {"hole": hole}))
        return hole


def check(constraint: "C") -> "C":
    """Return a constraint of which a model's vocabulary is all that is missing; ConstraintError for a fault in it."""
    _ = constraint.expression
    return constraint


def _check_one(given: dict[str, object]) -> None:
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise RequestError(f"{' and '.join(names)} exclude each other; give one of them")
