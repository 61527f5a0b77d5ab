"""Prints what verbs say: answers to the byte on standard output, their cost and their doubts on standard error."""

import json
import sys
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from redraft.cli import talk
from redraft.errors import counted

if TYPE_CHECKING:
    from redraft.engine.result import Result


def print_exactly(text: str) -> None:
    """Print the bytes of ``text`` and none besides, so that a pipe gets what was meant; a terminal's line is ended."""
    typer.echo(text.encode(), nl=sys.stdout.isatty() and not text.endswith("\n"))


def print_json(value: Mapping[str, object]) -> None:
    """Print a JSON object for people and programs."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_cost(result: "Result") -> None:
    """Print what an answer cost, and a warning where it may be unfinished."""
    talk.note(cost_line(result))
    if result.deadline_reached:
        talk.note("the deadline came before the answer was finished; it is the best that there was then")
        return
    if not result.converged:
        indices, several = result.unconverged_canvases, len(result.unconverged_canvases) > 1
        typer.echo(
            f"warning: {'canvases' if several else 'canvas'} {', '.join(map(str, indices))} hit the step limit before "
            f"{'they' if several else 'it'} converged; the answer may be unfinished. A higher "
            "--max-denoising-steps may help.",
            err=True,
        )


def cost_line(result: "Result") -> str:
    """Say what an answer cost, in one line."""
    usage = result.usage
    valid = f"log P(valid) {', '.join(f'{value:.3g}' for value in result.log_valid)}, " if result.log_valid else ""
    written = f"{counted(usage.completion_tokens, 'token')} in "
    if usage.forwards > usage.denoising_steps:
        written += f"{counted(usage.forwards, 'forward')} ({usage.tokens_per_forward:.1f} tokens a forward)"
        if usage.denoising_steps:
            written += f", {counted(usage.denoising_steps, 'denoising step')}"
            written += f", {counted(usage.accepted_drafts, 'drafted token')} accepted" if usage.accepted_drafts else ""
    else:
        written += (
            f"{counted(usage.denoising_steps, 'denoising step')} over {counted(usage.canvases, 'canvas', 'canvases')} "
            f"({usage.tokens_per_step:.1f} tokens a step)"
        )
    return (
        f"{written}, {usage.seconds:.2f} s, first text after {usage.time_to_first_token:.2f} s, "
        f"{valid}seed {result.seed}, finish: {result.finish_reason}"
    )


def row(name: str, value: str, name_width: int, width: int = 80) -> list[str]:
    """Write a name and a text in columns that fit a terminal; a path is not broken."""
    wrapped = textwrap.wrap(value, width - name_width - 3, break_long_words=False, break_on_hyphens=False) or [""]
    # A name that is wider than its column has a line of its own.
    above = [f"  {name}"] if len(name) > name_width else []
    first = "" if above else name
    return [
        *above,
        *(f"  {first if number == 0 else '':<{name_width}} {line}".rstrip() for number, line in enumerate(wrapped)),
    ]


def size(count: int) -> str:
    """Write a number of bytes as a person reads it: "512 bytes", "3.4 MB", "52 GB"."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return counted(count, "byte") if unit == "bytes" else f"{value:.{1 if value < 9.95 else 0}f} {unit}"


def quantity(count: int) -> str:
    """Write a count as a person reads it: "950", "135 million", "25.8 billion"."""
    for unit, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,}"
