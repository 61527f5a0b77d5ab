"""``redraft extract``: reads a text into JSON under a schema, with a confidence for every field."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from redraft.cli import options, printing, reading, talk
from redraft.cli.constraints import SchemaFile, check
from redraft.errors import RequestError


@options.grouped
def extract(
    *,
    file: Annotated[Path, typer.Argument(help="The text; - is standard input.")],
    schema: SchemaFile,
    instruction: Annotated[
        str | None, typer.Option(help="What the model is told before the text, in place of a sentence with the schema.")
    ] = None,
    confidence: Annotated[
        bool, typer.Option("--confidence/--no-confidence", help="One denoising step more a field, to say how sure.")
    ] = True,
    layout: Annotated[
        str | None,
        typer.Option(help="slots (all values at once) or text (JSON); by default as the checkpoint was trained."),
    ] = None,
    verbatim: Annotated[
        bool, typer.Option("--verbatim", help="Strings in slots are stretches of the text; not dates and times.")
    ] = False,
    draft: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|JSON",
            help="A value, partly wrong, that the canvas starts from, for the model to correct; - is standard input.",
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="At most so many tokens of JSON; by default what fits.")
    ] = None,
    sampling: options.Sampling,
    as_json: options.AsJson = False,
    loading: options.Loading,
    recordings: options.Recordings,
) -> None:
    """Read a text into JSON that is valid under a schema. JSON goes to standard output, confidence to standard error.

    Example: redraft extract letter.txt --schema person.json --model MODEL
    """
    from redraft.constrain.constraint import JSONSchema
    from redraft.tasks.layout import check_layout

    text = reading.piped_or_file_text(file)
    if not text.strip():
        raise RequestError("the text is empty; there is nothing to extract")
    options.check_answer(sampling, max_tokens, generates=False)
    check_layout(layout)
    wanted = reading.file_text(schema, "the file of --schema")
    check(JSONSchema(wanted))
    drafted = None if draft is None else _draft(draft)
    record = recordings.folder()
    engine = loading.engine()
    found = engine.extract(
        text, wanted, instruction=instruction, confidence=confidence, max_tokens=max_tokens, record=record,
        verbatim=verbatim, draft=drafted, layout=layout,  # type: ignore[arg-type]  # checked above
        **sampling.parameters(engine, generates=False),
    )  # fmt: skip
    if as_json:
        from redraft.tasks.objects import as_object

        shown = as_object(found)
        if not confidence:
            del shown["confidence"]
        printing.print_json(shown)
    else:
        typer.echo(found.text)
        _print_confidence(found.confidence)
    if found.fallback is not None:
        talk.note(f"JSON was written, and no slots filled: {found.fallback}")
    printing.print_cost(found)


def _draft(given: str) -> Any:
    """Read a draft, a file or else JSON; RequestError for what is neither."""
    from redraft.tasks.drafts import draft_value

    if given != "-" and not _is_file(given):
        try:
            return _not_null(draft_value(given))
        except RequestError:
            if given.lstrip()[:1] in ("{", "[", '"'):
                raise
    return _not_null(draft_value(reading.file_text(Path(given), "the draft")))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        # Longer than a name may be.
        return False


def _not_null(value: Any) -> Any:
    if value is None:
        raise RequestError("the draft is null; without --draft the canvas starts from noise")
    return value


def _print_confidence(confidence: Mapping[str, float]) -> None:
    for pointer, probability in confidence.items():
        talk.note(f"{probability:7.2%}  {pointer or '(the whole)'}")
