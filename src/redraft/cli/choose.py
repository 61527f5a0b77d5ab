"""``redraft choose``: finds the probability of every option of one question, or of several at once."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redraft.cli import options, printing, reading, talk
from redraft.errors import RequestError, counted

if TYPE_CHECKING:
    from redraft.tasks.choose import ChooseResult

_BAR = 30


@options.grouped
def choose(
    *,
    prompt: reading.Prompt = None,
    file: reading.PromptFile = None,
    raw: reading.Raw = False,
    system: reading.System = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the only question; two or more are needed.")
    ] = None,
    questions: Annotated[
        Path | None, typer.Option(help='JSON file with several questions: {"name": ["option", "option"]}.')
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(help="How the answers stand in a text: {name} for each question, {answer} for --option."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps; with 1 all is read off the first.")] = 1,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature of the logits that are read; 1 by default.")
    ] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated", help="Apply the checkpoint's fitted temperature.")
    ] = False,
    normalize: Annotated[
        str | None, typer.Option(help="length: compare options by their probability for each byte; by default the sum.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="slots (each answer in one of its own) or text; by default as the checkpoint was trained."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answer; by default a random one.")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Milliseconds by which the answer is wanted: what is read off the canvas then.")
    ] = None,
    as_json: options.AsJson = False,
    loading: options.Loading,
    recordings: options.Recordings,
) -> None:
    """Say how probable each option is. All questions are decided on one canvas, whatever their number.

    Example: redraft choose "Is a whale a fish?" --option yes --option no --model MODEL
    """
    asked = _questions(option, questions)
    question = reading.prompt(prompt, file, raw, system)
    _check(steps, temperature, normalize, layout, seed, deadline_ms)
    record = recordings.folder()
    engine = loading.engine()
    result = engine.choose(
        question, asked, frame=frame, max_denoising_steps=steps, temperature=temperature, calibrated=calibrated,
        normalize=normalize, layout=layout,  # type: ignore[arg-type]  # checked above
        seed=seed, deadline_ms=deadline_ms, record=record,
    )  # fmt: skip
    if as_json:
        from redraft.tasks.objects import as_object

        printing.print_json(as_object(result))
    else:
        _print_table(result)
    usage = result.usage
    if result.fallback is not None:
        talk.note(f"the answers were read as a text, and not in slots: {result.fallback}")
    if result.deadline_reached:
        talk.note("the deadline came before the canvas was denoised; it was read as it was then")
    talk.note(
        f"{counted(usage.denoising_steps, 'denoising step')}, {usage.seconds:.2f} s, log P(valid) "
        f"{result.log_valid:.3g}, seed {result.seed}"
    )


def _check(
    steps: int,
    temperature: float | None,
    normalize: str | None,
    layout: str | None,
    seed: int | None,
    deadline_ms: float | None,
) -> None:
    """Refuse, before a model is loaded, what no model could honour."""
    from redraft.engine import request
    from redraft.engine.deadline import Deadline, monotonic
    from redraft.tasks.choose import check_normalize
    from redraft.tasks.layout import check_layout

    check_normalize(normalize)
    check_layout(layout)
    request.check_whole("--steps", steps, 1)
    request.check_seed(seed)
    if temperature is not None:
        request.check_temperature(temperature)
    if deadline_ms is not None:
        Deadline.after(deadline_ms, monotonic)


def _questions(option: list[str] | None, file: Path | None) -> Any:
    """Read the options of one question, or of several by their name."""
    if option and file is not None:
        raise RequestError("--option and --questions exclude each other; give one of them")
    if option:
        return option
    if file is None:
        raise RequestError("there is nothing to choose from; give --option twice or more, or --questions")
    asked = reading.json_file(file, "the file of --questions")
    if not isinstance(asked, Mapping) or not all(isinstance(options, list) for options in asked.values()):
        raise RequestError(f'the file of --questions {file} must hold an object, such as {{"name": ["yes", "no"]}}')
    return asked


def _print_table(result: "ChooseResult") -> None:
    """Print every option with its probability and a bar, the likeliest of each question marked."""
    from rich.bar import Bar
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    several = len(result.answers) > 1
    for name, decision in result.answers.items():
        for number, (option, probability) in enumerate(decision.probabilities.items()):
            chosen = option == decision.choice
            cells: list[Text | Bar] = [
                Text(option if option.isprintable() else repr(option), style="bold green" if chosen else ""),
                Text(f"{math.floor(1000 * probability + 0.5) / 10:.1f} %", justify="right"),
                Bar(1.0, 0.0, probability, width=_BAR, color="green" if chosen else "default"),
            ]
            question = Text(name if several and number == 0 else "", style="bold")
            table.add_row(question, Text(">" if chosen else " "), *cells)
    console = Console(highlight=False)
    (console if console.is_terminal else Console(width=140, highlight=False)).print(table)
