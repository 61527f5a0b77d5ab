"""Promises of the house that import-linter cannot keep: rooms say what they are for, docstrings open with a subject."""

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "redraft"
# A docstring has its subject first.
DANGLING = re.compile(r"(Of|What|How|Whether|Where|By|As|So|That|Those|For whom|In which)\b")


def docstrings(path: Path) -> list[tuple[str, int, str]]:
    """Module, classes, functions, and strings below a field: (name, line, text)."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = "module" if isinstance(node, ast.Module) else node.name
        text = ast.get_docstring(node)
        if text is not None:
            found.append((name, getattr(node, "lineno", 1), text))
        for field, after in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign | ast.Assign) and isinstance(after, ast.Expr):
                value = after.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found.append((name, after.lineno, value.value))
    return found


ROOMS = sorted(path.name for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())


def files(room: str) -> list[Path]:
    """The modules of a room, or the module itself."""
    place = SOURCE / room
    return sorted(place.rglob("*.py")) if place.is_dir() else [place]


@pytest.mark.parametrize("room", ROOMS)
def test_no_docstring_opens_with_a_dangling_clause(room: str) -> None:
    opened = [
        f"{path.relative_to(SOURCE)}:{line} {name}: {text.splitlines()[0]}"
        for path in files(room)
        for name, line, text in docstrings(path)
        if DANGLING.match(text.strip())
    ]
    assert opened == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_is_for(room: str) -> None:
    silent = [
        str(path.relative_to(SOURCE))
        for path in files(room)
        if path.name == "__init__.py" and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


def test_the_check_finds_what_it_is_for(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""What it is."""\n\nclass A:\n    """A thing."""\n\n    size: int\n    """Of the canvas."""\n')
    assert [text for _, _, text in docstrings(path) if DANGLING.match(text)] == ["What it is.", "Of the canvas."]
