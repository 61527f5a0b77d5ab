"""``redraft score``: finds how likely the model holds texts to be behind a prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from redraft.cli import options, printing, reading, score_batch, talk
from redraft.errors import RequestError, counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from redraft.tasks.score import ScoreResult

_SHOWN = 60


@options.grouped
def score(
    *,
    prompt: reading.Prompt = None,
    file: reading.PromptFile = None,
    raw: reading.Raw = False,
    system: reading.System = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A text behind the prompt; may be repeated to compare texts.")
    ] = None,
    text_file: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="The same from a file, - for standard input; may be repeated."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=0, max=20, help="Show so many of the likeliest tokens at each position.")
    ] = None,
    bound: Annotated[
        str | None,
        typer.Option(help="monte_carlo: a lower bound of the diffusion's likelihood, for models that write masks."),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Of --bound: masked canvases; by default 128.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of --bound: draws the masks; by default a random one.")] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Score every line of a file, a JSON object with a prompt and a text each; JSON out."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Of --batch: where scores are appended, one a line; what is there is left out.")
    ] = None,
    as_json: options.AsJson = False,
    loading: options.Loading,
) -> None:
    """Say how likely texts are behind a prompt, in nats: exactly, token by token, by the model's causal mode.

    Example: redraft score --raw "The capital of France is" --text " Paris" --text " Rome" --model MODEL
    """
    _check(bound, samples, seed)
    if batch is not None:
        if prompt is not None or file is not None or text or text_file or as_json:
            raise RequestError(
                "--batch takes prompts and texts from its file and writes JSON lines; leave out PROMPT, --file, "
                "--text, --text-file and --json"
            )
        parameters = {"top_logprobs": top, "bound": bound, "samples": samples, "seed": seed}
        score_batch.run(batch, out, raw, system, parameters, loading)
        return
    if out is not None:
        raise RequestError("--out is for --batch; send scores to a file with >")
    # The texts first: what comes through a pipe is theirs where one of them is -.
    texts = [*(text or ()), *(reading.file_text(path, "the text") for path in text_file or ())]
    if not texts:
        raise RequestError("there is no text to score; give --text or --text-file")
    for number, own in enumerate(texts):
        if not own:
            raise RequestError(f"text {number + 1} is empty; give at least one character to score")
    question = reading.prompt(prompt, file, raw, system)
    engine = loading.engine()
    results = [
        engine.score(
            question, own, top_logprobs=top, bound=bound,  # type: ignore[arg-type]  # checked above
            samples=samples, seed=seed,
        )
        for own in texts
    ]  # fmt: skip
    piece = engine.tokenizer.piece
    if as_json:
        from redraft.tasks.objects import score_object

        shown = [score_object(own, one, piece) for own, one in zip(texts, results, strict=True)]
        printing.print_json({"scores": shown})
    else:
        _print_tables(texts, results, piece)
    seconds = sum(one.usage.seconds for one in results)
    tokens = sum(len(one.token_ids) for one in results)
    talk.note(f"{counted(tokens, 'token')} scored in {seconds:.2f} s")


def _check(bound: str | None, samples: int | None, seed: int | None) -> None:
    """Refuse, before a model is loaded, what no model could honour."""
    from redraft.tasks.score import check_bound

    check_bound(bound, samples, seed)


def _print_tables(texts: Sequence[str], results: "Sequence[ScoreResult]", piece: "Callable[[int], str]") -> None:
    """Print a row a text; of a single one whose tokens are known a row a token before it."""
    from rich.console import Console

    console = Console(highlight=False)
    console = console if console.is_terminal else Console(width=140, highlight=False)
    if len(results) == 1 and results[0].token_logprobs:
        _print_tokens(console, results[0], piece)
    _print_texts(console, texts, results)


def _print_tokens(console: "Console", result: "ScoreResult", piece: "Callable[[int], str]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for column in ("token", "", "nats", "greedy", *(["likeliest"] if result.logprobs else [])):
        table.add_column(column, justify="right" if column in ("token", "nats") else "left")
    tops = [one.top for one in result.logprobs] or [()] * len(result.token_ids)
    rows = zip(result.token_ids, result.token_logprobs, result.greedy, tops, strict=True)
    for token, logprob, greedy, top in rows:
        likeliest = Text(", ".join(f"{piece(one)!r} {value:.3f}" for one, value in top))
        cells: list[str | Text] = [str(token), Text(repr(piece(token))), f"{logprob:.4f}", "yes" if greedy else "no"]
        table.add_row(*cells, *([likeliest] if result.logprobs else []))
    console.print(table)


def _print_texts(console: "Console", texts: Sequence[str], results: "Sequence[ScoreResult]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    bounded = results[0].bound is not None
    names = ("standard error",) if bounded else ("greedy",)
    for column in ("text", "tokens", "lower bound, nats" if bounded else "nats", "nats a token", *names):
        table.add_column(column, justify="left" if column in ("text", "greedy") else "right")
    for text, one in zip(texts, results, strict=True):
        shown = repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}...")
        count, error = len(one.token_ids), one.standard_error
        last = ("-" if error is None else f"{error:.4f}") if bounded else "yes" if one.is_greedy else "no"
        table.add_row(Text(shown), str(count), f"{one.log_likelihood:.4f}", f"{one.log_likelihood / count:.4f}", last)
    console.print(table)
