"""The comparison of two recorded runs in words, in a table, and as JSON."""

from collections.abc import Callable, Mapping
from difflib import unified_diff
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from redraft.errors import counted

if TYPE_CHECKING:
    from redraft.engine.result import StepEvent
    from redraft.record.compare import Comparison, Parting
    from redraft.record.recording import Recording

Piece = Callable[[int], str]
Names = tuple[str, str]

SHOWN_POSITIONS = 12
_SHOWN_VALUE = 48
_TOKENS = {"tokens_in": "saw", "argmax": "likeliest", "sample": "sampled"}
_WORDS = {
    **{"tokens_in": "what the model saw", "argmax": "its likeliest tokens", "sample": "the samples"},
    **{"accepted": "what was accepted", "tokens_out": "the next canvas", "entropy": "entropies"},
    **{"canvas_index": "the canvas", "step": "the number of the step", "temperature": "the temperature"},
    **{"finished": "whether it was the last", "length": "the length of the canvas"},
}


def place_words(parting: "Parting") -> str:
    """Say where a parting is: canvases count from 0, steps from 1."""
    place = parting.place
    attempt = f", attempt {place.attempt + 1}" if place.attempt else ""
    return f"canvas {place.canvas}{attempt}, step {place.number}"


def verdict(comparison: "Comparison", names: Names) -> str:
    """Say what came out, in a sentence or two."""
    first, parting = comparison.first, comparison.in_tokens
    largest = f"the largest difference of an entropy is {comparison.entropy_difference:.3g} nats"
    if first is None:
        steps = f"{comparison.steps[0]} denoising step{'' if comparison.steps[0] == 1 else 's'}"
        if comparison.answer:
            return f"the same {steps}, but another {' and '.join(comparison.answer)}"
        return f"identical: {steps}, every token, every entropy to the last bit, and what came of them"
    if parting is None:
        same = "the same tokens" if comparison.answer else "the same tokens and the same answer"
        return f"{same}, but other entropies from {place_words(first)} on: {largest}"
    if parting.a is None or parting.b is None:
        short, long = names if parting.a is None else names[::-1]
        but = "" if first is parting else f" but for entropies: {largest}"
        return f"{short} ends before {place_words(parting)}, which {long} has; until there they are the same{but}"
    fields = [_WORDS[name] for name in parting.fields]
    listed = fields[0] if len(fields) == 1 else f"{', '.join(fields[:-1])} and {fields[-1]}"
    count, length = len(parting.positions), len(parting.a.argmax)
    where = f" (at {count} of {length} positions)" if count else ""
    earlier = "" if first is parting else f"; entropies alone differ from {place_words(first)} on"
    return f"they part at {place_words(parting)}, in {listed}{where}{earlier}; up to there {largest}"


def draw(
    console: Console,
    comparison: "Comparison",
    runs: "tuple[Recording, Recording]",
    differing: Mapping[str, tuple[Any, Any]],
    names: Names,
    pieces: tuple[Piece, Piece],
) -> None:
    """Print what was asked otherwise, where the runs part, and how their answers differ."""
    if differing:
        console.print(_parameters(differing, names))
    # A path or a sentence is one line, however narrow the terminal.
    console.print(Text(verdict(comparison, names)), soft_wrap=True)
    parting = comparison.in_tokens or comparison.first
    if parting is not None and parting.a is not None and parting.b is not None and parting.positions:
        digits = 9 if parting.only_entropy else 4
        console.print(_positions(parting.a, parting.b, parting.positions, names, pieces, digits))
    if runs[0].result is not None and runs[1].result is not None:
        texts = [_said(run.result) if run.result is not None else "" for run in runs]
        for line in text_diff(texts[0], texts[1], names):
            style = {"+": "green", "-": "red", "@": "dim"}.get(line[:1], "")
            console.print(Text(line, style), soft_wrap=True)
    elif "error" in comparison.answer:
        for run, name in zip(runs, names, strict=True):
            ended = "an answer" if run.error is None else f"{run.error['type']}: {run.error['message']}"
            console.print(Text(f"{name} ended with {ended}"), soft_wrap=True)


def _said(result: Mapping[str, Any]) -> str:
    """Return the text of an answer, or decisions, an option a line."""
    if "answers" not in result:
        return str(result["text"])
    answers = result["answers"].items()
    return "\n".join(f"{name}: {option} {value:.9g}" for name, own in answers for option, value in own.items())


def text_diff(a: str, b: str, names: Names) -> list[str]:
    """Write a short unified diff of two texts; empty if they are equal."""
    if a == b:
        return []
    return list(unified_diff(a.splitlines(), b.splitlines(), *names, lineterm="", n=1))


def as_object(
    comparison: "Comparison", differing: Mapping[str, tuple[Any, Any]], pieces: tuple[Piece, Piece]
) -> dict[str, Any]:
    """Return the same for JSON."""
    return {
        "identical": comparison.identical,
        "parameters": {name: list(values) for name, values in differing.items()},
        "denoising_steps": list(comparison.steps),
        "first": _parting_object(comparison.first, pieces),
        "in_tokens": _parting_object(comparison.in_tokens, pieces),
        "largest_entropy_difference": comparison.entropy_difference,
        "answer": list(comparison.answer),
    }


def _parting_object(parting: "Parting | None", pieces: tuple[Piece, Piece]) -> dict[str, Any] | None:
    if parting is None:
        return None
    place = parting.place
    found: dict[str, Any] = {
        "canvas": place.canvas,
        "attempt": place.attempt,
        "step": place.number,
        "fields": list(parting.fields),
        "positions": list(parting.positions),
    }
    for name, event, piece in (("a", parting.a, pieces[0]), ("b", parting.b, pieces[1])):
        found[name] = None if event is None else _event_object(event, parting.positions, piece)
    return found


def _event_object(event: "StepEvent", positions: tuple[int, ...], piece: Piece) -> dict[str, Any]:
    own = list(positions)
    found: dict[str, Any] = {name: getattr(event, name)[own].tolist() for name in (*_TOKENS, "accepted", "entropy")}
    return {**found, "argmax_text": [piece(token) for token in found["argmax"]]}


def _parameters(differing: Mapping[str, tuple[Any, Any]], names: Names) -> Table:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    for title in ("differs", *names):
        table.add_column(title, overflow="fold")
    for name, values in differing.items():
        table.add_row(name, *(Text(_value(value)) for value in values))
    return table


def _value(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{counted(value['tokens'], 'token')}, SHA-256 {value['sha256'][:12]}..."
    if isinstance(value, dict) and isinstance(value.get("is"), str):
        inner = ", ".join(f"{name}={one!r}" for name, one in value.items() if name != "is")
        shown = f"{value['is']}({inner})"
    elif isinstance(value, dict) and "code" in value:
        shown = str(value["code"])
    else:
        shown = "-" if value is None else str(value)
    return shown if len(shown) <= _SHOWN_VALUE else f"{shown[: _SHOWN_VALUE - 3]}..."


def _positions(
    a: "StepEvent",
    b: "StepEvent",
    positions: tuple[int, ...],
    names: Names,
    pieces: tuple[Piece, Piece],
    digits: int,
) -> Table:
    left = len(positions) - SHOWN_POSITIONS
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    table.caption = f"{names[0]} | {names[1]}" + (f"; {counted(left, 'position')} more" if left > 0 else "")
    table.caption_justify = "left"
    for title in ("position", *_TOKENS.values(), "entropy", "accepted"):
        table.add_column(title, justify="right" if title == "position" else "left")
    for at in positions[:SHOWN_POSITIONS]:
        tokens = [
            _both(repr(pieces[0](int(getattr(a, name)[at]))), repr(pieces[1](int(getattr(b, name)[at]))))
            for name in _TOKENS
        ]
        entropy = _both(*(f"{float(event.entropy[at]):.{digits}g}" for event in (a, b)))
        accepted = _both(*("yes" if event.accepted[at] else "no" for event in (a, b)))
        table.add_row(str(at), *tokens, entropy, accepted)
    return table


def _both(a: str, b: str) -> Text:
    return Text(a, "dim") if a == b else Text(f"{a} | {b}")
