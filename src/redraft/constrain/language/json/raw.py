"""Values of a schema that hold no others, as raw text on one line: strings as they are, all else as JSON."""

import json

from redraft.constrain.expression import AllOf, Expression, Literal, Repeat
from redraft.constrain.language.json.document import Document
from redraft.constrain.language.json.merge import Places
from redraft.constrain.language.json.schema import SchemaWriter
from redraft.constrain.language.json.text import IN_A_LINE, Layout

_LINE = Repeat(IN_A_LINE, 0, None)


class RawWriter(SchemaWriter):
    """Writes strings without quotes and escapes."""

    def string(self, min_length: int, max_length: int | None) -> Expression:
        return Repeat(IN_A_LINE, min_length, max_length)

    def string_of(self, value: Expression) -> Expression:
        return AllOf((value, _LINE))

    def fixed_value(self, value: object) -> Expression:
        return Literal(value if isinstance(value, str) else json.dumps(value))


def texts(document: Document, places: Places, types: list[str]) -> Expression:
    """Return the texts of the values of some JSON ``types`` that are valid where all ``places`` hold.

    Raises ConstraintError as ``schema.expression`` does.
    """
    of_types = places[0].beside({"type": types}, "~types", *types, derived=True)
    return RawWriter(document, Layout.of("compact"), 1).write((*places, of_types))
