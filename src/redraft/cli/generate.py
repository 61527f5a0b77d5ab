"""``redraft generate``: answer a prompt in the terminal, in a pipe, or as JSON."""

import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redraft.cli import options
from redraft.errors import RequestError

if TYPE_CHECKING:
    from redraft.engine.engine import Engine
    from redraft.engine.result import Result


class Stopping(StrEnum):
    """The two rules of when a canvas is finished."""

    stable = "stable"
    reproduces = "reproduces"


def generate(
    prompt: Annotated[str | None, typer.Argument(help="The prompt; by default standard input.")] = None,
    model: options.Model = "sudoku",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The prompt is raw text, not a user's chat message.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens; by default what fits.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer; by default a random one.")] = None,
    temperature: Annotated[float, typer.Option(help="Scales the checkpoint's schedule; 0 is greedy.")] = 1.0,
    max_denoising_steps: Annotated[int | None, typer.Option(help="Steps a canvas may take.")] = None,
    entropy_bound: Annotated[float | None, typer.Option(help="Nats a step may accept; lower is more careful.")] = None,
    confidence_threshold: Annotated[
        float | None, typer.Option(help="Accept positions at least this probable, in place of the entropy bound.")
    ] = None,
    stopping: Annotated[
        Stopping, typer.Option(help="A canvas ends when its argmax is stable and sure, or reproduces what was seen.")
    ] = Stopping.stable,
    canvas_length: Annotated[int | None, typer.Option(help="Positions denoised at once.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text at which the answer ends; may be repeated.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Draw the canvas as it resolves (in a terminal).")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer and its cost as JSON.")] = False,
    dtype: options.DTypeOption = "auto",
    threads: options.Threads = None,
    record: options.Record = None,
    record_prompt: options.RecordPrompt = True,
) -> None:
    """Answer a prompt.

    Example: redraft generate --watch "53..7.... 6..195... .98....6. 8...6...3 4..8.3..1 7...2...6 .6....28. ...419..5
    ....8..79"
    """
    text = _prompt(prompt, file)
    if not text.strip():
        raise RequestError("the prompt is empty; give some text")
    recordings = options.recordings(record, record_prompt)
    engine = options.load_engine(model, dtype, threads)
    parameters: dict[str, Any] = {
        **_rules(engine, confidence_threshold, stopping),
        "max_tokens": max_tokens,
        "seed": seed,
        "temperature": temperature,
        "max_denoising_steps": max_denoising_steps,
        "entropy_bound": entropy_bound,
        "canvas_length": canvas_length,
        "stop": stop,
        "record": recordings,
    }
    question = text if raw else [{"role": "user", "content": text}]
    if watch and not as_json and sys.stdout.isatty():
        from redraft.cli.watch import watch_generation

        result, trace = watch_generation(engine, question, parameters)
        typer.echo(f"{trace.corrections} times an accepted position later took another token", err=True)
    elif as_json:
        result = engine.generate(question, **parameters)
        typer.echo(json.dumps(as_object(result), ensure_ascii=False, indent=2))
    else:
        generation = engine.stream(question, **parameters)
        for chunk in generation:
            typer.echo(chunk.text, nl=False)
        typer.echo()
        result = generation.result()
    typer.echo(cost_line(result), err=True)
    if not result.converged:
        canvases = ", ".join(str(index) for index in result.unconverged_canvases)
        typer.echo(
            f"warning: canvas {canvases} hit the step limit before it converged; the answer may be unfinished. "
            "A higher --max-denoising-steps may help.",
            err=True,
        )


def _rules(engine: "Engine", confidence_threshold: float | None, stopping: Stopping) -> dict[str, Any]:
    from redraft.canvas.acceptance import ConfidenceThreshold
    from redraft.canvas.stopping import ReproducesCanvas

    rules: dict[str, Any] = {}
    if confidence_threshold is not None:
        try:
            rules["acceptance"] = ConfidenceThreshold(confidence_threshold)
        except ValueError as error:
            raise RequestError(str(error)) from error
    if stopping is Stopping.reproduces:
        rules["stopping"] = ReproducesCanvas(engine.model.defaults.confidence_threshold)
    return rules


def as_object(result: "Result") -> dict[str, object]:
    """A result as what ``--json`` prints."""
    usage = {**asdict(result.usage), "tokens_per_step": result.usage.tokens_per_step}
    return {**asdict(result), "converged": result.converged, "usage": usage}


def cost_line(result: "Result") -> str:
    """What an answer cost, in one line."""
    usage = result.usage
    return (
        f"{usage.completion_tokens} tokens in {usage.denoising_steps} denoising steps over {usage.canvases} "
        f"canvas{'es' if usage.canvases != 1 else ''} ({usage.tokens_per_step:.1f} tokens a step), "
        f"{usage.seconds:.2f} s, first text after {usage.time_to_first_token:.2f} s, seed {result.seed}, "
        f"finish: {result.finish_reason}"
    )


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise RequestError("give the prompt as an argument or with --file, not both")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"the prompt file {file} cannot be read: {error}") from error
    if prompt is not None:
        return prompt
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("there is no prompt; give one as an argument, with --file, or through a pipe")
    return sys.stdin.read()
