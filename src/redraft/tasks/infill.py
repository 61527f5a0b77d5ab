"""The common part of writing into a text: the context of a canvas, the suffix on it, and what may be written.

What must stay is part of the constraint, so that it comes back byte for byte; what comes before the canvas is encoded
as context, and so much of what follows as a canvas can show stands on it from the start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from redraft.canvas.draft import Draft
from redraft.constrain.language.template import Hole
from redraft.engine.result import Chunk, Result
from redraft.engine.runtime import Prompt, Runtime
from redraft.engine.task import Task, with_chunks
from redraft.engine.text import overlap
from redraft.errors import ConstraintError, RequestError, counted
from redraft.models.tokenizer import Check


def before_ending(task: Task[Result], ending: str) -> Task[Result]:
    """Run a task whose text has a fixed ``ending``; its chunks' texts become what surely comes before that."""
    text, given = "", 0

    def before(chunk: Chunk) -> Chunk:
        nonlocal text, given
        text += chunk.text
        safe = len(text) - overlap(text, ending)
        chunk, given = replace(chunk, text=text[given:safe]), max(given, safe)
        return chunk

    return with_chunks(task, before)


def without_ending(text: str, ending: str) -> str:
    """Return what comes before the fixed ``ending`` of a produced text."""
    if not text.endswith(ending):
        raise ConstraintError("the text was not produced from this template: it does not end as it must")
    return text[: len(text) - len(ending)]


def context_before(
    runtime: Runtime,
    prompt: Prompt | None,
    before: str,
    check: Check | None = None,
    instead: str = "a prefix of one character or more, or a prompt",
) -> list[int]:
    """Return the tokens of a prompt, and of the text before a canvas; RequestError where there are none.

    ``check`` is as in ``Runtime.tokenize``; ``instead`` names what would give the canvas something to stand behind.
    """
    if prompt is not None:
        given = runtime.tokenize(prompt, check=check)
        return [*given, *runtime.tokenizer.encode_text(before, runtime.fits(check), literal=True)]
    tokens = runtime.tokenizer.encode(before, runtime.fits(check), literal=True)
    if not tokens:
        raise RequestError(
            "there is nothing before the canvas, and this tokenizer begins no text with a token of its own: give "
            f"{instead}"
        )
    return tokens


def beginning_of(runtime: Runtime, text: str, tokens: int) -> str:
    """Return as much of the beginning of ``text`` as so many tokens hold."""
    encoded = runtime.tokenizer.encode_text(text, literal=True)
    if len(encoded) <= tokens:
        return text
    for count in range(tokens, 0, -1):
        shown = runtime.tokenizer.decode_all(encoded[:count])
        if text.startswith(shown):
            return shown
    # Not even the first character fits; or the tokenizer changes the text, and does not say where a token ends.
    return "" if runtime.tokenizer.decode_all(encoded) == text else text[:tokens]


def draft_of(runtime: Runtime, pieces: Sequence[tuple[str, float]]) -> Draft:
    """Text, piece by piece, each with the probability that one of its tokens survives, and an end token after it."""
    tokens: list[int] = []
    survival: list[float] = []
    for text, probability in pieces:
        own = runtime.tokenizer.encode_text(text, literal=True)
        tokens += own
        survival += [probability] * len(own)
    ends = runtime.model.defaults.end_token_ids[:1]
    return Draft(
        torch.tensor([*tokens, *ends], dtype=torch.int64),
        torch.tensor([*survival, *(min(survival, default=1.0) for _ in ends)], dtype=torch.float64),
    )


def check_holes(hole: Hole | Sequence[Hole] | None, count: int) -> list[Hole]:
    """Return one hole for each of ``count`` spans; RequestError where there are as many as neither one nor these."""
    if not isinstance(hole, list | tuple):
        return [check_hole(hole)] * count
    if len(hole) != count:
        raise RequestError(
            f"hole has {counted(len(hole), 'description')} for {counted(count, 'span')}; give one for each, "
            "or one for all"
        )
    return [check_hole(one) for one in hole]


def check_hole(hole: object) -> Hole:
    """Return ``hole``, any text where it is None; RequestError for anything else."""
    if hole is not None and not isinstance(hole, Hole):
        raise RequestError(f"hole {hole!r} must be a redraft.Hole(...)")
    return hole or Hole()


def one_canvas(runtime: Runtime, context: Sequence[int], needed: int) -> int:
    """Tokens that one canvas holds beside an end token, less where the context has no room for them, and in any case
    the ``needed`` that will do."""
    config = runtime.model.config
    held = min(config.canvas_length - 1, config.context_length - len(context))
    return max(1, held, needed)


def refuse(parameters: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise RequestError for a parameter of ``names`` that is given."""
    for name in names:
        if name in parameters:
            raise RequestError(f"{name} cannot be given here; it follows from what is filled in")
