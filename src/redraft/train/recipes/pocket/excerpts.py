"""Excerpts of packages, which ``gather`` made: paragraphs of their docstrings, and short functions.

Nothing is known of them but their text, so that only gaps in it are asked for.
"""

import json
from functools import cache
from importlib.resources import files
from random import Random
from typing import Any

from redraft.train.recipes.pocket.snippets import Snippet, Split
from redraft.train.recipes.pocket.values import Hand

PROSE, CODE = "prose", "code"
"""The styles of excerpts."""
PACKAGES = ("attrs", "click", "networkx", "jinja2")
HELD_OUT_PACKAGE = "jinja2"
_EVERY = 10
"""One excerpt of so many, of each package that training sees, is held out."""


@cache
def lines() -> tuple[dict[str, Any], ...]:
    """The excerpts that the package has."""
    text = (files(__package__) / "excerpts" / "excerpts.jsonl").read_text("utf-8")
    return tuple(json.loads(line) for line in text.splitlines())


@cache
def excerpts_of(split: Split) -> tuple[dict[str, Any], ...]:
    """The excerpts of a split. Of ``values`` there are none: in those of training nothing would be held out."""
    if split is Split.domain:
        return tuple(line for line in lines() if line["package"] == HELD_OUT_PACKAGE)
    own = enumerate(line for line in lines() if line["package"] != HELD_OUT_PACKAGE)
    held = {Split.train: False, Split.templates: True}.get(split)
    return tuple(line for number, line in own if (number % _EVERY == _EVERY - 1) is held)


def excerpt(random: Random, split: Split) -> Snippet | None:
    """An excerpt of the split, of which nothing is known but its text; None where it has none."""
    if not excerpts_of(split):
        return None
    line = random.choice(excerpts_of(split))
    return Snippet(line["text"], (), line["package"], "", line["kind"], -1, Hand(random, split.held))
