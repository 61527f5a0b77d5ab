"""Draws a canvas in the terminal as it resolves: accepted, changed and unsettled positions in their own colours."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from redraft.api import Engine
from redraft.cli.answering import Answer, answer
from redraft.engine.generation import Recorders
from redraft.engine.result import Chunk, StepEvent
from redraft.engine.runtime import Prompt
from redraft.engine.trace import Trace

ACCEPTED, CHANGED, UNSETTLED = "green", "bold black on yellow", "dim"
# A tiny model denoises faster than an eye follows; each step stays at least this long.
SECONDS_PER_STEP = 0.15


class Watcher:
    """An ``on_step`` callback that redraws the current canvas: the model's likeliest token at every position."""

    def __init__(self, engine: Engine, live: Live) -> None:
        self._engine, self._live = engine, live
        self.trace = Trace()
        self.settled = ""
        """Text of the canvases that are finished, drawn above the one under way."""

    def __call__(self, event: StepEvent) -> None:
        self.trace(event)
        self._live.update(
            Group(Text(self.settled, end=""), canvas_text(self._engine, event, self.trace), self._legend(event)),
            refresh=True,
        )
        time.sleep(SECONDS_PER_STEP)

    def _legend(self, event: StepEvent) -> Text:
        steps = (
            f"\ncanvas {event.canvas_index}, step {event.step} of at most {event.steps}, "
            f"mean entropy {event.entropy.mean():.4f} nats, "
        )
        return Text.assemble(steps, ("accepted", ACCEPTED), " ", ("changed", CHANGED), " ", ("unsettled", UNSETTLED))


def canvas_text(engine: Engine, event: StepEvent, trace: Trace) -> Text:
    """Draw the canvas of one step up to its first end token, coloured by what happened to each position."""
    drawn = Text()
    ends = engine.model.defaults.end_token_ids
    tokens: Sequence[int] = event.argmax.tolist()
    for position, token in enumerate(tokens):
        if token in ends:
            break
        changed, accepted = bool(trace.changed[position]), bool(event.accepted[position]) or event.finished
        style = CHANGED if changed else ACCEPTED if accepted else UNSETTLED
        drawn.append(engine.tokenizer.piece(token), style=style)
    return drawn


def watch_answer(
    engine: Engine, prompt: Prompt, parameters: Mapping[str, Any], record: Recorders | None = None
) -> tuple[Answer, Trace]:
    """Generate and draw every step, then print the answer, or what there is of it after Ctrl-C."""
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        watcher = Watcher(engine, live)

        def settle(chunk: Chunk) -> None:
            watcher.settled += chunk.thought + chunk.text

        written = answer(engine, prompt, parameters, on_chunk=settle, on_step=watcher, record=record)
    # Printed only now: what stands on the line of a live drawing is erased with it.
    whole = written.result
    thought, text = (written.thought, written.text) if whole is None else (whole.thought, whole.text)
    if thought:
        console.print(Text(thought, style=UNSETTLED))
    console.print(Text(text))
    return written, watcher.trace
