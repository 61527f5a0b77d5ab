"""Sentences of one meaning under a heading: wordings of tasks, and phrasings of classes of text."""

from functools import cache
from importlib.resources import files
from random import Random

from redraft.train.recipes.pocket.words import held_out


@cache
def headed(text: str) -> dict[str, tuple[str, ...]]:
    """Lines by the heading ``# heading`` over them; those under equal headings together."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            lines = found.setdefault(line.removeprefix("# ").strip(), [])
        elif line.strip():
            lines.append(line.replace("\\n", "\n"))
    return {heading: tuple(dict.fromkeys(own)) for heading, own in found.items()}


@cache
def wordings() -> dict[str, tuple[str, ...]]:
    """The ways in which tasks are said."""
    return headed((files(__package__) / "wordings.txt").read_text("utf-8"))


@cache
def phrasings() -> dict[str, dict[str, tuple[str, ...]]]:
    """Read how a text shows each value of each class. The class ``distractor`` has one value, the empty one, and shows
    nothing."""
    folder = sorted((file.name, file) for file in (files(__package__) / "phrasings").iterdir())
    text = "\n".join(file.read_text("utf-8") for _, file in folder)
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for heading, lines in headed(text).items():
        name, _, value = heading.partition(" / ")
        found.setdefault(name, {})[value] = lines
    return found


@cache
def _seen(lines: tuple[str, ...], held: bool) -> tuple[str, ...]:
    own = tuple(line for line in lines if held_out(line) == held)
    return own or lines


def one_of(lines: tuple[str, ...], random: Random, held: bool) -> str:
    """One of the lines that training sees, or of the others; of all where there are none."""
    return random.choice(_seen(lines, held))


def wording(heading: str, random: Random, held: bool) -> str:
    """One of the wordings under a heading."""
    return one_of(wordings()[heading], random, held)
