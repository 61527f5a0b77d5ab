"""Reads a verb's texts from an argument, a file or a pipe. What is wrong with one is named in one line."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from redraft.errors import RequestError

Prompt = Annotated[str | None, typer.Argument(help="The prompt; by default standard input.")]
PromptFile = Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file.")]
Raw = Annotated[bool, typer.Option("--raw", help="The prompt is raw text, not a user's chat message.")]


def prompt(given: str | None, file: Path | None, raw: bool) -> str | list[dict[str, str]]:
    """Read the prompt of a request: a user's message, or raw text."""
    text = _prompt_text(given, file)
    if not text.strip():
        raise RequestError("the prompt is empty; give some text")
    return text if raw else [message(text)]


def message(text: str) -> dict[str, str]:
    """Make a user's chat message."""
    return {"role": "user", "content": text}


def _prompt_text(given: str | None, file: Path | None) -> str:
    if given is not None and file is not None:
        raise RequestError("give the prompt as an argument or with --file, not both")
    if file is not None:
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"the prompt file {file} cannot be read: {error}") from error
    if given is not None:
        return given
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("there is no prompt; give one as an argument, with --file, or through a pipe")
    return sys.stdin.read()


def file_text(path: Path, what: str) -> str:
    """Read the text of a file, byte for byte: line ends stay what they are."""
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{what} {path} cannot be read: {error}") from error


def piped_or_file_text(path: Path) -> str:
    """Read the text of a file, or of standard input for ``-``, byte for byte."""
    if str(path) != "-":
        return file_text(path, "the file")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"standard input is not UTF-8 text: {error}") from error


def json_file(path: Path, what: str) -> Any:
    """Read what a JSON file says."""
    text = file_text(path, what)
    try:
        return json.loads(text)
    except ValueError as error:
        raise RequestError(f"{what} {path} is not JSON: {error}") from error
