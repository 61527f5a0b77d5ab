"""``redraft edit``: rewrites parts of a text and keeps the rest to the byte."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redraft.cli import options, printing, reading, talk
from redraft.cli.constraints import HoleOptions
from redraft.errors import RequestError
from redraft.files import write_text

if TYPE_CHECKING:
    from redraft.tasks.edit import EditResult

_SPAN = re.compile(r"(\d+):(\d+)")
Span = tuple[int, int]


@options.grouped
def edit(
    *,
    file: Annotated[Path, typer.Argument(help="The text; - is standard input.")],
    span: Annotated[
        list[str] | None, typer.Option(help="START:END, in characters from 0, is rewritten; may be repeated.")
    ] = None,
    find: Annotated[
        list[str] | None, typer.Option(help="This part of the text, which it has once, is rewritten; may be repeated.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option(help="Tell the model what to do; without --span and --find the whole is rewritten.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Share of the old text that is noise at the start, 0 to 1; less stays closer. Else 0.8."),
    ] = None,
    written: HoleOptions,
    max_tokens: Annotated[
        int | None, typer.Option(help="Where the whole is rewritten: at most so many tokens.")
    ] = None,
    sampling: options.Sampling,
    in_place: Annotated[bool, typer.Option("--in-place", help="Write the file instead of standard output.")] = False,
    as_json: options.AsJson = False,
    loading: options.Loading,
    recordings: options.Recordings,
) -> None:
    """Rewrite parts of a text. All that is not named by --span or --find stays as it is, byte for byte.

    Example: redraft edit letter.txt --find "next Tuesday" --max-length 20 --model MODEL
    """
    if in_place and str(file) == "-":
        raise RequestError("--in-place needs a file to write; standard input is none")
    options.check_answer(sampling, max_tokens, generates=False)
    if strength is not None and not 0 <= strength <= 1:
        raise RequestError(f"--strength {strength} must be from 0 (start from the old text) to 1 (start from noise)")
    text = reading.piped_or_file_text(file)
    spans = _spans(text, span or [], find or [])
    hole = written.hole()
    if not spans and hole is not None:
        raise RequestError("what is written in a part is described, but no part is named; give --span or --find")
    if spans and max_tokens is not None:
        raise RequestError("--max-tokens is for rewriting the whole; give --max-length for the parts")
    if not spans and instruction is None:
        raise RequestError("there is nothing to do; give --span or --find, an --instruction, or both")
    record = recordings.folder()
    engine = loading.engine()
    limit: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
    result = engine.edit(
        text, spans or None, instruction=instruction, strength=strength, hole=hole, **limit,
        record=record,
        **sampling.parameters(engine, generates=False),
    )  # fmt: skip
    if in_place:
        _write(file, result.text)
    if as_json:
        from redraft.tasks.objects import as_object

        printing.print_json({**as_object(result), "spans": spans})
    else:
        if not in_place:
            printing.print_exactly(result.text)
        _print_changes(text, spans, result)
    printing.print_cost(result)


def _spans(text: str, given: list[str], find: list[str]) -> list[Span]:
    """Return the parts that are rewritten, in their order; RequestError where they overlap or are not in the text."""
    spans = sorted([_span(one) for one in given] + [_found(text, one) for one in find])
    if spans:
        from redraft.tasks.edit import check_spans

        check_spans(text, spans)
    return spans


def _span(given: str) -> Span:
    match = _SPAN.fullmatch(given)
    if match is None:
        raise RequestError(f"--span {given!r} is no START:END, such as 10:25, in characters from 0")
    return int(match[1]), int(match[2])


def _found(text: str, part: str) -> Span:
    """Find where ``part`` stands, which must be once."""
    if not part:
        raise RequestError("--find is empty; give some text, or --span START:START for a place between characters")
    places = [at for at in range(len(text)) if text.startswith(part, at)]
    if not places:
        raise RequestError(f"--find {part!r}: the text does not have it")
    if len(places) > 1:
        listed = ", ".join(f"{at}:{at + len(part)}" for at in places[:5]) + (", ..." if len(places) > 5 else "")
        raise RequestError(f"--find {part!r}: the text has it {len(places)} times; name one with --span, of {listed}")
    return places[0], places[0] + len(part)


def _write(file: Path, text: str) -> None:
    try:
        write_text(file, text)
    except OSError as error:
        raise RequestError(f"the file {file} cannot be written: {error}") from error


def _print_changes(text: str, spans: Sequence[Span], result: "EditResult") -> None:
    for (start, end), new in zip(spans, result.replacements, strict=True):
        talk.note(f"{start}:{end} {_quoted(text[start:end])} -> {_quoted(new)}")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
