"""Runs one answer and keeps what was written of it, also where Ctrl-C ends it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from redraft.cli import printing, talk
from redraft.errors import counted

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.engine.generation import Recorders
    from redraft.engine.result import Chunk, OnStep, Result
    from redraft.engine.runtime import Prompt


@dataclass
class Answer:
    """The part of an answer that was written: all, or the canvases that were finished before it was interrupted."""

    seed: int
    result: "Result | None" = None
    """None where it was interrupted."""
    text: str = ""
    thought: str = ""
    token_ids: list[int] = field(default_factory=list)
    canvases: int = 0
    denoising_steps: int = 0

    def add(self, chunk: "Chunk") -> None:
        """Take in one canvas."""
        self.text += chunk.text
        self.thought += chunk.thought
        self.token_ids += chunk.token_ids
        # A token that was written by itself is no canvas.
        self.canvases += chunk.denoising_steps > 0
        self.denoising_steps += chunk.denoising_steps

    @property
    def cost(self) -> str:
        """Return what there is of it and what it took, in one line."""
        if self.result is not None:
            return printing.cost_line(self.result)
        tokens = counted(len(self.token_ids), "token")
        if not self.denoising_steps:
            return f"interrupted: {tokens}, seed {self.seed}"
        finished = counted(self.canvases, "finished canvas", "finished canvases")
        steps = counted(self.denoising_steps, "denoising step")
        return f"interrupted: {tokens} in {steps} over {finished}, seed {self.seed}"

    def as_object(self) -> dict[str, object]:
        """Return it as ``--json`` prints it."""
        if self.result is not None:
            from redraft.tasks.objects import as_object

            return as_object(self.result)
        usage = {
            "completion_tokens": len(self.token_ids),
            "canvases": self.canvases,
            "denoising_steps": self.denoising_steps,
        }
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": "interrupted",
            "seed": self.seed,
            **({"thought": self.thought} if self.thought else {}),
            "usage": usage,
        }


def answer(
    engine: "Engine",
    prompt: "Prompt",
    parameters: Mapping[str, Any],
    *,
    on_chunk: "Callable[[Chunk], None]",
    on_step: "OnStep | None" = None,
    record: "Recorders | None" = None,
) -> Answer:
    """Generate; ``on_chunk`` is told of every finished canvas. Ctrl-C ends it, and what was written is kept."""
    request = engine.request(prompt, **parameters)
    written = Answer(request.seed)
    generation = engine.begin(request, on_step, record)
    try:
        for chunk in generation:
            written.add(chunk)
            on_chunk(chunk)
        written.result = generation.result()
    except KeyboardInterrupt:
        generation.close()
    return written


class Writer:
    """Writes an answer as it comes: its text on standard output, a thought before it on standard error."""

    def __init__(self) -> None:
        self._thinking = False

    def __call__(self, chunk: "Chunk") -> None:
        """Write one canvas."""
        if chunk.thought:
            self._thinking = True
            typer.echo(chunk.thought, nl=False, err=True)
        if chunk.text and self._thinking:
            self._thinking = False
            typer.echo(err=True)
        typer.echo(chunk.text, nl=False)
        sys.stdout.flush()

    def end(self) -> None:
        """End the last line."""
        if self._thinking:
            typer.echo(err=True)
        typer.echo()


def tell(written: Answer) -> None:
    """Say what an answer cost, and whether it may be unfinished."""
    if written.result is not None:
        printing.print_cost(written.result)
    else:
        talk.note(written.cost)
