"""``redraft generate``: answers a prompt in the terminal, in a pipe, or as JSON."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options, printing, reading
from redraft.cli.constraints import ConstraintOptions

if TYPE_CHECKING:
    from redraft.api import Generation


@options.grouped
def generate(
    *,
    prompt: reading.Prompt = None,
    file: reading.PromptFile = None,
    raw: reading.Raw = False,
    constrained: ConstraintOptions,
    thinking: Annotated[bool, typer.Option("--thinking", help="Let the model think first, on standard error.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many tokens; by default what fits.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text at which the answer ends; may be repeated.")] = None,
    sampling: options.Sampling,
    ending: options.Ending,
    watch: Annotated[bool, typer.Option("--watch", help="Draw the canvas as it resolves (in a terminal).")] = False,
    as_json: options.AsJson = False,
    loading: options.Loading,
    recordings: options.Recordings,
) -> None:
    """Answer a prompt, freely or under a constraint that the answer is certain to keep.

    Example: redraft generate --watch "53..7.... 6..195... .98....6. 8...6...3 4..8.3..1 7...2...6 .6....28. ...419..5
    ....8..79"
    """
    question = reading.prompt(prompt, file, raw)
    constraint = constrained.constraint()
    record = recordings.folder()
    engine = loading.engine()
    parameters = {
        **sampling.parameters(engine),
        "max_tokens": max_tokens,
        "stop": stop,
        **ending.parameters(),
        "thinking": thinking,
        "constraint": constraint,
        "record": record,
    }
    if watch and not as_json and sys.stdout.isatty():
        from redraft.cli.watch import watch_generation

        result, trace = watch_generation(engine, question, parameters)
        typer.echo(f"{trace.corrections} times an accepted position later took another token", err=True)
    elif as_json:
        result = engine.generate(question, **parameters)
        printing.print_json(printing.as_object(result))
    else:
        generation = engine.stream(question, **parameters)
        _print_as_it_comes(generation)
        result = generation.result()
    printing.print_cost(result)


def _print_as_it_comes(generation: "Generation") -> None:
    """Print the answer on standard output, a thought before it on standard error."""
    thinking = False
    for chunk in generation:
        if chunk.thought:
            thinking = True
            typer.echo(chunk.thought, nl=False, err=True)
        if chunk.text and thinking:
            thinking = False
            typer.echo(err=True)
        typer.echo(chunk.text, nl=False)
    if thinking:
        typer.echo(err=True)
    typer.echo()
