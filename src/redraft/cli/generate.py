"""``redraft generate``: answers a prompt in the terminal, in a pipe, or as JSON; or a file of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redraft.cli import generate_batch, options, printing, reading, talk
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
    draft: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Text that the canvas starts from, for the model to correct; - is standard input."
        ),
    ] = None,
    survival: Annotated[
        float, typer.Option(help="Of --draft: the probability that a token stands there at the start, from 0 to 1.")
    ] = 1.0,
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
    drafted = _draft(draft, survival)
    if batch is not None:
        if draft is not None:
            raise RequestError("--draft is one answer's; leave it out with --batch")
        if prompt is not None or file is not None or watch or as_json:
            raise RequestError(
                "--batch takes its prompts from its file and writes JSON lines; leave out PROMPT, --file, "
                "--watch and --json"
            )
        generate_batch.run(batch, out, raw, system, sampling, more, loading, recordings)
        return
    question = reading.prompt(prompt, file, raw, system)
    record = recordings.folder()
    engine = loading.engine()
    if drafted is not None:
        from redraft.tasks.infill import draft_of

        more["draft"] = draft_of(engine.runtime, [(drafted, survival)])
    written = _answer(engine, question, {**sampling.parameters(engine), **more}, record, watch, as_json)
    tell(written)
    if written.result is None:
        raise typer.Exit(talk.INTERRUPTED)


def _draft(path: Path | None, survival: float) -> str | None:
    """Read the text of a draft, without the line end that a file has at its end; RequestError for none."""
    if not 0 <= survival <= 1:
        raise RequestError(f"--survival {survival} must be a probability from 0 to 1")
    if path is None:
        if survival != 1:
            raise RequestError("--survival is of a draft; give one with --draft")
        return None
    text = reading.file_text(path, "the draft").removesuffix("\n")
    if not text:
        raise RequestError("the draft is empty; without --draft the canvas starts from noise")
    return text


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
