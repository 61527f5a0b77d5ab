"""``redraft generate``: answers a prompt in the terminal, in a pipe, or as JSON; or a file of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redraft.cli import batch as batches
from redraft.cli import options, printing, reading, talk
from redraft.cli.answering import Answer, Writer, answer, tell
from redraft.cli.constraints import ConstraintOptions
from redraft.errors import RequestError, counted

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.engine.runtime import Prompt
    from redraft.record.recorder import RecordingFolder


@options.grouped
def generate(
    *,
    prompt: reading.Prompt = None,
    file: reading.PromptFile = None,
    raw: reading.Raw = False,
    system: reading.System = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help='Answer a file of prompts: {"prompt": ...} or {"messages": ...} a line.'
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="Of --batch: where answers are added; those there stay, and are left out."
        ),
    ] = None,
    constrained: ConstraintOptions,
    thoughts: options.Thinking,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens; by default what fits.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text at which the answer ends; may be repeated.")] = None,
    sampling: options.Sampling,
    ending: options.Ending,
    watch: Annotated[bool, typer.Option("--watch", help="Draw the canvas as it resolves (in a terminal).")] = False,
    as_json: options.AsJson = False,
    loading: options.Loading,
    recordings: options.Recordings,
) -> None:
    """Answer a prompt, freely or under a constraint that the answer is certain to keep. Ctrl-C keeps what was written.

    Example: redraft generate --watch "53..7.... 6..195... .98....6. 8...6...3 4..8.3..1 7...2...6 .6....28. ...419..5
    ....8..79"
    """
    if out is not None and batch is None:
        raise RequestError("--out is for --batch; send the answer to a file with >")
    constraint = constrained.constraint()
    options.check_answer(sampling, max_tokens, stop, watch=watch, recordings=recordings)
    more = {
        **{"max_tokens": max_tokens, "stop": stop, "constraint": constraint},
        **thoughts.parameters(),
        **ending.parameters(),
    }
    if batch is not None:
        if prompt is not None or file is not None or watch or as_json:
            raise RequestError(
                "--batch takes its prompts from its file and writes JSON lines; leave out PROMPT, --file, "
                "--watch and --json"
            )
        batches.run(batch, out, raw, system, sampling, more, loading, recordings)
        return
    question = reading.prompt(prompt, file, raw, system)
    record = recordings.folder()
    engine = loading.engine()
    written = _answer(engine, question, {**sampling.parameters(engine), **more}, record, watch, as_json)
    tell(written)
    if written.result is None:
        raise typer.Exit(talk.INTERRUPTED)


def _answer(
    engine: "Engine",
    question: "Prompt",
    parameters: dict[str, Any],
    record: "RecordingFolder | None",
    watch: bool,
    as_json: bool,
) -> Answer:
    """Answer as the options say, and print it."""
    if watch and not as_json and sys.stdout.isatty():
        from redraft.cli.watch import watch_answer

        written, trace = watch_answer(engine, question, parameters, record)
        talk.note(f"{counted(trace.corrections, 'time', 'times')} an accepted position later took another token")
        return written
    if as_json:
        written = answer(engine, question, parameters, on_chunk=lambda chunk: None, record=record)
        printing.print_json(written.as_object())
        return written
    writer = Writer()
    written = answer(engine, question, parameters, on_chunk=writer, record=record)
    writer.end()
    return written
