"""``python -m redraft.train.recipes.pocket.gather``: takes excerpts from installed packages, and their licences."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from random import Random
from typing import Annotated

import typer

from redraft.files import replacing
from redraft.train.recipes.pocket.excerpts import CODE, PACKAGES, PROSE
from redraft.train.recipes.pocket.values import held_out_words

_LENGTHS = (120, 420)
_LINES = (4, 14)
_WIDEST = 84
_NOT_PROSE = re.compile(r"[`|<>{}\[\]=_*\\]|::|\.\.|--|(?m:^\s*([:>*\-+]|\d+\.))")


def sources(of: Distribution) -> Iterator[tuple[str, ast.Module, str]]:
    """The modules of a package, but its tests: name, tree and text."""
    for path in sorted(str(file) for file in of.files or ()):
        if path.endswith(".py") and not re.search(r"(^|/)(tests?|conftest|_vendor)\b", path):
            text = Path(str(of.locate_file(path))).read_text("utf-8")
            yield path, ast.parse(text), text


def paragraphs(tree: ast.Module) -> Iterator[str]:
    """Paragraphs of English in docstrings, each on one line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(ast.get_docstring(node) or "")):
                if not _NOT_PROSE.search(paragraph) and re.fullmatch(r"[A-Z].*[.]", paragraph, re.DOTALL):
                    yield " ".join(paragraph.split())


def functions(tree: ast.Module, text: str) -> Iterator[str]:
    """Short functions without their docstrings, from the margin on."""
    whole = text.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0]
        documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
        if documented and (len(node.body) == 1 or first.lineno == node.lineno):
            continue
        last = node.end_lineno or node.lineno
        without = range(first.lineno, (first.end_lineno or first.lineno) + 1) if documented else range(0)
        kept = [whole[number - 1] for number in range(node.lineno, last + 1) if number not in without]
        kept = [line for line in kept if line.strip()]
        if _LINES[0] <= len(kept) <= _LINES[1] and max(map(len, kept)) <= _WIDEST:
            yield textwrap.dedent("\n".join(kept))


def gathered(name: str, each: int, seed: int) -> Iterator[dict[str, str]]:
    """``each`` excerpts of either kind, of those that have no word which training must not see."""
    package = distribution(name)
    found: dict[str, dict[str, str]] = {PROSE: {}, CODE: {}}
    for path, tree, text in sources(package):
        for kind, own in ((PROSE, paragraphs(tree)), (CODE, functions(tree, text))):
            for one in own:
                if _LENGTHS[0] <= len(one) <= _LENGTHS[1] and not held_out_words().search(one):
                    found[kind].setdefault(one, path)
    for kind, texts in found.items():
        chosen = Random(f"{seed} {name} {kind}").sample(sorted(texts), min(each, len(texts)))
        for one in chosen:
            yield {"package": name, "version": package.version, "file": texts[one], "kind": kind, "text": one}


def licence(name: str) -> str:
    """Return all that a package says of its licence."""
    package = distribution(name)
    paths = [file for file in package.files or () if re.search(r"\.dist-info/.*LICEN[CS]E", str(file))]
    texts = "\n\n".join(Path(str(package.locate_file(path))).read_text("utf-8").strip() for path in paths)
    return f"{name} {package.version}\n\n{texts}\n"


app = typer.Typer(add_completion=False)


@app.command()
def main(
    write: Annotated[Path, typer.Option(help="Folder that excerpts.jsonl and NOTICE.txt are written into.")],
    each: Annotated[int, typer.Option(min=1, help="Excerpts of each kind, of each package.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Decides which.")] = 0,
) -> None:
    """Take excerpts from installed packages, with their licences.

    Example: python -m redraft.train.recipes.pocket.gather --write excerpts
    """
    lines = [line for name in PACKAGES for line in gathered(name, each, seed)]
    said = "excerpts.jsonl has short excerpts of these packages, which stand under their own licences.\n"
    write.mkdir(parents=True, exist_ok=True)
    with replacing(write / "excerpts.jsonl") as path:
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
    with replacing(write / "NOTICE.txt") as path:
        path.write_text("\n\n".join([said, *map(licence, PACKAGES)]), "utf-8")
    typer.echo(f"{len(lines)} excerpts of {len(PACKAGES)} packages: {write}")


if __name__ == "__main__":
    app()
