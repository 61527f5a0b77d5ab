"""Reads a verb's texts from an argument, a file or a pipe. What is wrong with one is named in one line.

``-`` is standard input wherever a file is read, once a command.
"""

import json
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from redraft.cli import talk
from redraft.errors import RequestError

Prompt = Annotated[
    str | None,
    typer.Argument(help="The prompt; - or nothing is standard input. A pipe beside a prompt is put behind it."),
]
PromptFile = Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")]
Raw = Annotated[bool, typer.Option("--raw", help="The prompt is raw text, not a user's chat message.")]
System = Annotated[str | None, typer.Option("--system", help="What the system says before the user's message.")]
# Programs start others with a pipe that nobody ever writes to; who pipes something is there by then.
_PIPE_SECONDS = 3.0


class _Taken:
    """The uses that standard input was put to already in this command."""

    by: str | None = None


def begin() -> None:
    """Begin a command: nothing of standard input is taken."""
    _Taken.by = None


def prompt(given: str | None, file: Path | None, raw: bool, system: str | None = None) -> str | list[dict[str, str]]:
    """Read the prompt of a request: chat messages, or raw text."""
    if raw and system is not None:
        raise RequestError("--system is a chat message, and --raw says that there are none; give one of them")
    text = _prompt_text(given, file)
    if not text.strip():
        raise RequestError("the prompt is empty; give some text")
    return text if raw else [*system_message(system), message(text)]


def message(text: str) -> dict[str, str]:
    """Make a user's chat message."""
    return {"role": "user", "content": text}


def system_message(text: str | None) -> list[dict[str, str]]:
    """Make the messages that come before a user's."""
    return [] if text is None else [{"role": "system", "content": text}]


def _prompt_text(given: str | None, file: Path | None) -> str:
    if given is not None and file is not None:
        raise RequestError("give the prompt as an argument or with --file, not both")
    if file is not None and str(file) != "-":
        return _with_pipe(file_text(file, "the prompt file"))
    if given is not None and given != "-":
        return _with_pipe(given)
    if given is None and file is None and (sys.stdin is None or sys.stdin.isatty()):
        raise RequestError("there is no prompt; give one as an argument, with --file, or through a pipe")
    return standard_input("the prompt")


def _with_pipe(text: str) -> str:
    """Return a prompt with what comes through a pipe behind it, an empty line between them."""
    piped = _piped()
    return f"{text}\n\n{piped}" if piped.strip() else text


def _piped() -> str:
    """Return what a pipe, or a file in its place, holds; empty where there is none."""
    if _Taken.by is not None:
        return ""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):
        return ""
    if not (stat.S_ISFIFO(kind) or stat.S_ISREG(kind)):
        return ""
    if stat.S_ISFIFO(kind) and not select.select([sys.stdin.fileno()], [], [], _PIPE_SECONDS)[0]:
        talk.note(
            f"nothing came through standard input for {_PIPE_SECONDS:.0f} s; the prompt is the argument alone "
            "(< /dev/null says so at once)"
        )
        return ""
    return standard_input("the prompt")


def standard_input(what: str) -> str:
    """Read all of standard input as text, byte for byte."""
    try:
        return _input_bytes(what).decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"standard input is not UTF-8 text, and {what} must be: {error}") from error


def _input_bytes(what: str) -> bytes:
    if _Taken.by is not None:
        raise RequestError(f"standard input was read as {_Taken.by} already; give {what} by a file")
    if sys.stdin is None:
        raise RequestError(f"{what} is to come from standard input, and there is none")
    _Taken.by = what
    return sys.stdin.buffer.read()


def file_text(path: Path, what: str) -> str:
    """Read the text of a file, or of standard input for ``-``, byte for byte: line ends stay what they are."""
    if str(path) == "-":
        return standard_input(what)
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} {path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise RequestError(f"{what} {path} cannot be read: {error.strerror or error}") from error


def piped_or_file_text(path: Path) -> str:
    """Read the text of a file, or of standard input for ``-``, byte for byte."""
    return file_text(path, "the file")


@contextmanager
def on_disk(path: Path, what: str) -> Iterator[Path]:
    """A file that can be read by its name; for ``-`` it holds what came through standard input."""
    if str(path) != "-":
        yield path
        return
    with TemporaryDirectory(prefix="redraft-") as folder:
        # Messages name the file.
        copy = Path(folder) / "standard-input"
        copy.write_bytes(_input_bytes(what))
        yield copy


def json_file(path: Path, what: str) -> Any:
    """Read what a JSON file says."""
    text = file_text(path, what)
    try:
        return json.loads(text)
    except ValueError as error:
        raise RequestError(f"{what} {path} is not JSON: {error}") from error
