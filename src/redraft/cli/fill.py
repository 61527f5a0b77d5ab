"""``redraft fill``: writes what stands between a prefix and a suffix."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from redraft.cli import options, printing, reading
from redraft.cli.constraints import HoleOptions
from redraft.errors import RequestError

_MARKER = "<FILL>"


@options.grouped
def fill(
    *,
    file: Annotated[
        Path | None, typer.Argument(help="Text with one marker where something is missing; - is standard input.")
    ] = None,
    marker: Annotated[str | None, typer.Option(help=f"What marks the place in FILE; by default {_MARKER}.")] = None,
    prefix: Annotated[str | None, typer.Option(help="What stands before.")] = None,
    prefix_file: Annotated[Path | None, typer.Option(help="Read the prefix from a file.")] = None,
    suffix: Annotated[str | None, typer.Option(help="What stands after.")] = None,
    suffix_file: Annotated[Path | None, typer.Option(help="Read the suffix from a file.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A user's chat message before it all: what is wanted.")] = None,
    written: HoleOptions,
    max_tokens: Annotated[
        int | None, typer.Option(help="At most so many tokens are written; by default what a canvas holds.")
    ] = None,
    sampling: options.Sampling,
    only_middle: Annotated[bool, typer.Option("--only-middle", help="Print only what was written.")] = False,
    as_json: options.AsJson = False,
    loading: options.Loading,
    recordings: options.Recordings,
) -> None:
    """Fill a gap in a text. What stood before and after it is printed as it was, byte for byte.

    Example: redraft fill --prefix "My name is " --suffix ", and I live in Rome." --max-length 30 --model MODEL
    """
    before, after = _sides(file, marker, _Side("prefix", prefix, prefix_file), _Side("suffix", suffix, suffix_file))
    if before is None and after is None and prompt is None:
        raise RequestError("nothing says what to fill; give --prefix, --suffix or both, or a file with a marker")
    options.check_answer(sampling, max_tokens, generates=False)
    hole = written.hole()
    record = recordings.folder()
    engine = loading.engine()
    result = engine.fill(
        before or "",
        after or "",
        prompt=None if prompt is None else [reading.message(prompt)],
        hole=hole,
        max_tokens=max_tokens,
        record=record,
        **sampling.parameters(engine, generates=False),
    )
    if as_json:
        from redraft.tasks.objects import as_object

        printing.print_json(as_object(result))
    else:
        printing.print_exactly(result.middle if only_middle else result.text)
    printing.print_cost(result)


@dataclass(frozen=True)
class _Side:
    """The text before or after the gap, as the options of that name say it."""

    name: str
    text: str | None
    file: Path | None

    @property
    def given(self) -> str | None:
        """The text, or None if no option says it."""
        if self.file is None:
            return self.text
        if self.text is not None:
            raise RequestError(f"--{self.name} and --{self.name}-file exclude each other; give one of them")
        return reading.file_text(self.file, f"the file of --{self.name}-file")


def _sides(file: Path | None, marker: str | None, prefix: _Side, suffix: _Side) -> tuple[str | None, str | None]:
    """Return what stands before and after the gap; None for a side of which nothing is said."""
    if file is None:
        if marker is not None:
            raise RequestError("--marker says where FILE has its gap, and there is no FILE; give one")
        return prefix.given, suffix.given
    for side in (prefix, suffix):
        if side.text is not None or side.file is not None:
            raise RequestError(f"--{side.name} and a file with a marker exclude each other; give one of them")
    return _parted(reading.piped_or_file_text(file), marker or _MARKER)


def _parted(text: str, marker: str) -> tuple[str, str]:
    count = text.count(marker)
    if count != 1:
        raise RequestError(
            f"the marker {marker!r} stands {count} times in the text; it must stand there once, or name another with "
            "--marker"
        )
    before, _, after = text.partition(marker)
    return before, after
