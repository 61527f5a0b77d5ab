"""How many values a text model replaces as it is told, in texts of templates that training never sees.

    python -m bench.pocket_edits                   # the text model that ships
    python -m bench.pocket_edits MODEL --count 100 --split domain

Each text has one value that an instruction replaces by another of its kind, in the words of training's own
instructions. ``Engine.edit`` is given the place of the value, and is right if it writes the new one and nothing else.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from random import Random

import numpy as np

from redraft.api import Engine
from redraft.loading import load
from redraft.measure.evaluate.estimates import Sums, share
from redraft.tasks.slots import Filled
from redraft.train.recipes.pocket.snippets import Split, snippet
from redraft.train.recipes.pocket.writing import replaced


@dataclass(frozen=True)
class Edit:
    """A value that is to be replaced."""

    text: str
    span: tuple[int, int]
    instruction: str
    new: str


def edits(split: Split, seed: int) -> Iterator[Edit]:
    """Yield edits of one value each, the same for the same seed."""
    for number in count():
        random = Random(f"{seed} {number}")
        about = snippet(random, split)
        asked = replaced(about, random, split)
        if asked is None:
            continue
        at = next(place for place, piece in enumerate(asked.pieces) if isinstance(piece, Filled))
        start = sum(len(piece.text) for piece in asked.pieces[:at])
        behind = "".join(piece.text for piece in asked.pieces[at + 1 :]) + asked.rest
        end = len(about.text) - len(behind)
        if start <= end and about.text.endswith(behind):
            yield Edit(about.text, (start, end), asked.ask, asked.pieces[at].text)


def right(engine: Engine, edit: Edit) -> tuple[bool, int]:
    """Edit, and return whether the value is the new one, and the denoising steps."""
    result = engine.edit(edit.text, [edit.span], instruction=edit.instruction, seed=0)
    return result.replacements[0].strip() == edit.new.strip(), result.usage.denoising_steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split", type=Split, choices=list(Split), default=Split.templates)
    arguments = parser.parse_args()
    engine = load(arguments.model)
    found = [right(engine, edit) for edit in islice(edits(arguments.split, arguments.seed), arguments.count)]
    ones = np.ones(len(found))
    estimate = share(Sums(np.array([hit for hit, _ in found], float), ones, ones))
    assert estimate is not None, "there are edits"
    steps = sum(own for _, own in found) / len(found)
    print(f"{estimate.value:.1%} of {len(found)} values replaced ({estimate.low:.1%} to {estimate.high:.1%})")
    print(f"{steps:.1f} steps an edit")


if __name__ == "__main__":
    main()
