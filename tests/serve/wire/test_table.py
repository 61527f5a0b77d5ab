"""The table of every field in docs/serve.md is what the wire models say, and what is honoured is read."""

import ast
import re

import pytest

from redraft.serve.wire import anthropic_fields
from tests.prepared import ROOT
from tests.serve.wire.fields_table import ACCEPTED, FORMATS, HONOURED, REFUSED, said_of

WIRE = ROOT / "src" / "redraft" / "serve" / "wire"
_NAME = re.compile(r"`([^`]+)`")


def rows() -> dict[str, list[str]]:
    """The table: by a field's path the cells of its row. A first name that ends with a point begins the others."""
    page = (ROOT / "docs" / "serve.md").read_text()
    table = re.search(r"^\| field \| chat \|.*?\n\n", page, re.MULTILINE | re.DOTALL)
    assert table is not None
    found: dict[str, list[str]] = {}
    for line in table[0].strip().splitlines()[2:]:
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        names = _NAME.findall(first)
        before = names.pop(0) if names[0].endswith(".") else ""
        for name in names:
            assert before + name not in found, f"{before + name} stands there twice"
            found[before + name] = cells
    return found


@pytest.mark.parametrize(("column", "name"), list(enumerate(FORMATS)))
def test_the_table_says_of_every_field_what_the_format_does(column: int, name: str) -> None:
    written = {path: cells[column] for path, cells in rows().items() if cells[column]}
    assert written == said_of(FORMATS[name])


def test_a_refused_field_names_the_values_that_it_may_have() -> None:
    for path, cells in rows().items():
        if REFUSED in cells[:-1]:
            assert "(" in cells[-1], path


def test_there_are_fields_of_every_kind() -> None:
    said = {letter for model in FORMATS.values() for letter in said_of(model).values()}
    assert said == {HONOURED, ACCEPTED, REFUSED}


def test_what_is_honoured_is_read() -> None:
    """An attribute or a keyword pattern of that name stands in the formats' code, beside the models themselves."""
    read: set[str] = set()
    for path in WIRE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.MatchClass):
                read |= set(node.kwd_attrs)
            elif (
                path.name in ("redraft.py", "extract.py", "canvases.py")
                and isinstance(node, ast.Constant)
                and isinstance(node.value, str)
            ):
                read.add(node.value)
    names = {"schema": "schema_", "json": "json_"}
    for model in FORMATS.values():
        for field, letter in said_of(model).items():
            leaf = field.rpartition(".")[2].replace("[]", "")
            # What a discriminator chose by, and what a model dumps whole, is read without its name.
            if letter == HONOURED and leaf not in ("type", "description", "min_length", "max_length", "choices"):
                assert names.get(leaf, leaf) in read, f"{field} is honoured, says the model, but nothing reads it"


def test_a_count_of_tokens_takes_what_makes_its_prompt() -> None:
    fields = set(anthropic_fields.CountBody.model_fields)
    assert {"model", "messages", "system", "tools", "tool_choice", "thinking"} <= fields
    assert fields < set(anthropic_fields.MessagesBody.model_fields)
    assert "max_tokens" not in fields
