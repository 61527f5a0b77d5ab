"""Denoising runs that no model made: from an answer, made-up steps that end at it."""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

EOS = 1
Event = tuple[str, dict[str, Any]]


class Vocabulary:
    """Ids for texts, as they come."""

    def __init__(self) -> None:
        self.ids = {"<eos>": EOS}
        self.texts = {id_: text for text, id_ in self.ids.items()}

    def encode(self, pieces: Sequence[str]) -> list[int]:
        for piece in pieces:
            if piece not in self.ids:
                self.ids[piece] = 100 + len(self.ids)
                self.texts[self.ids[piece]] = piece
        return [self.ids[piece] for piece in pieces]


def denoised(
    vocabulary: Vocabulary, answer: Sequence[int], canvas: int, steps: int, limit: int, seed: int, known: set[str]
) -> Iterator[Event]:
    """The steps of one canvas: positions settle one after the other, and a few change their mind."""
    draw = random.Random(f"{seed} {canvas}")
    others = sorted(set(vocabulary.texts) - {EOS})
    settles = [draw.randrange(steps) for _ in answer]
    before: list[int] | None = None
    kept = [False] * len(answer)
    for number in range(steps):
        last = number == steps - 1
        unsure = [0 if last else max(0, settle - number) for settle in settles]
        argmax = [
            token if left == 0 or draw.random() < 0.4 else draw.choice(others)
            for token, left in zip(answer, unsure, strict=True)
        ]
        entropy = [
            0.002 * draw.random() if left == 0 else min(2.2, 0.3 + 0.4 * left + draw.random() * 0.3) for left in unsure
        ]
        tokens = [
            previous if keep else draw.choice(others) for previous, keep in zip(before or argmax, kept, strict=True)
        ]
        accepted = [left == 0 or draw.random() < 0.1 for left in unsure]
        changed = [] if before is None else [i for i, token in enumerate(argmax) if token != before[i]]
        pieces = {str(token): vocabulary.texts[token] for token in {*argmax, *tokens} if str(token) not in known}
        known |= set(pieces)
        yield (
            "step",
            {
                "canvas": canvas,
                "step": limit - number,
                "of": limit,
                "temperature": round(1.2 - 0.8 * number / limit, 4),
                "tokens": tokens,
                "argmax": argmax,
                "entropy": entropy,
                "accepted": [int(keep) for keep in accepted],
                "finished": last,
                "changed": changed,
                "pieces": pieces,
            },
        )
        before, kept = argmax, accepted


def log_valid(constrained: bool) -> list[float]:
    """As if the model had wanted the constraint's text with probability 0.6."""
    return [math.log(0.6)] if constrained else []
