"""Python types as constraints: what they allow is what pydantic reads back, and what none is read as is refused."""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
import typing_extensions
from pydantic import BaseModel, Field, field_validator

from redraft.constrain.constraint import Choice, JSONSchema
from redraft.constrain.python_types import as_constraint, schema_of, value_of
from redraft.errors import ConstraintError, GenerationError


class Colour(Enum):
    red, green = "red", "green"


class Number(Enum):
    one, two = 1, 2


@dataclass
class Point:
    x: int
    y: int = 0


class Line(TypedDict):
    sku: str
    count: NotRequired[int]


class Item(typing_extensions.TypedDict):
    """Before Python 3.12 a pydantic model takes no others."""

    sku: str


class Page(TypedDict, total=False):
    lines: list[Line]
    more: "Line | None"


class Order(BaseModel):
    colour: Colour
    place: Point
    lines: list[Item]
    size: Annotated[int, Field(ge=1, le=9)] | None = None


class Even(BaseModel):
    count: int

    @field_validator("count")
    @classmethod
    def even(cls, count: int) -> int:
        if count % 2:
            raise ValueError("count is odd")
        return count


LINES = {"lines": [{"sku": "a", "count": 2}], "more": None}
ORDER = {"colour": "red", "place": {"x": 1, "y": 2}, "lines": [{"sku": "a"}], "size": 3}
VALUES: list[tuple[Any, Any, Any]] = [
    (Order, ORDER, Order(colour=Colour.red, place=Point(1, 2), lines=[{"sku": "a"}], size=3)),
    (Point, {"x": 1, "y": 2}, Point(1, 2)),
    (Page, LINES, LINES),
    (Number, 2, Number.two),
    (Literal[1, "a"], "a", "a"),
    (list[Line], [{"sku": "b"}], [{"sku": "b"}]),
    (dict[str, int], {"a": 1}, {"a": 1}),
    (int, 3, 3),
    (int | None, None, None),
]


@pytest.mark.parametrize(("wanted", "written", "value"), VALUES)
def test_json_of_a_type_is_read_back_as_it(wanted: Any, written: Any, value: Any) -> None:
    constraint = as_constraint(wanted)
    assert isinstance(constraint, JSONSchema)
    assert constraint == JSONSchema(schema_of(wanted))
    _ = constraint.expression
    found = value_of(wanted, json.dumps(written))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(("wanted", "texts"), [(Literal["yes", "no"], ("yes", "no")), (Colour, ("red", "green"))])
def test_texts_stand_for_themselves(wanted: Any, texts: tuple[str, ...]) -> None:
    assert as_constraint(wanted) == Choice(texts)


def test_what_is_no_type_stands_for_itself() -> None:
    own = JSONSchema({"type": "integer"})
    assert as_constraint(own) is own
    assert as_constraint(None) is None
    # A constraint's class is a mistake for one of them, which is told where it is compiled.
    given: object = JSONSchema
    found: object = as_constraint(given)
    assert found is given


def test_a_type_that_no_json_is_read_as_is_refused_by_name() -> None:
    class Wire:
        pass

    with pytest.raises(ConstraintError, match="Wire is no type that JSON is read as"):
        as_constraint(Wire)


def test_what_only_a_validator_refuses_is_an_error_of_the_answer() -> None:
    with pytest.raises(GenerationError, match=r"valid under the schema of Even, but no Even: .*count is odd"):
        value_of(Even, '{"count": 3}')
