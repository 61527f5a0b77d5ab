"""Files of requests, one JSON object a line: asked in batches, answered in their order, gone on with after a break."""

import hashlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar

import typer

from redraft.cli import options, reading, talk
from redraft.errors import RedraftError, RequestError, counted

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.engine.scheduler import Handle
    from redraft.engine.task import Runnable

T = TypeVar("T")
Check = Callable[[object], str | None]
"""Says what a field must be where it is not that, and None where it is."""

_OF_ALL = ("id", "prompt", "messages")
# Requests that wait or run at a time; more would only fill memory.
WINDOW = 64


@dataclass(frozen=True)
class Line:
    """One request of a file, checked."""

    id: str
    """The name that was given, or the number of the line, from 1."""
    where: str
    prompt: str | list[dict[str, Any]]
    given: Mapping[str, Any]
    """The verb's own fields, as far as the line has them."""
    asked: Any
    """The values that make it another request than one of the same id."""

    @property
    def digest(self) -> str:
        """Return what tells it from others."""
        return hashlib.sha256(json.dumps(self.asked, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Fields:
    """The fields of a verb's lines beside the prompt."""

    checks: Mapping[str, Check]
    needed: tuple[str, ...] = ()
    """The fields that every line has."""
    asked: tuple[str, ...] = ()
    """The fields that make a request another one, as the prompt does."""


@dataclass(frozen=True)
class Asking(Generic[T]):
    """The way in which a verb asks for lines, and writes down what comes of them."""

    noun: str
    """The word for what comes of a line."""
    request: "Callable[[Line], Runnable[T]]"
    """Checks a line; RedraftError for one that cannot be honoured."""
    shown: Callable[[Line, T], dict[str, Any]]
    window: int = WINDOW
    """Requests under way at a time."""


def whole_number(least: int, most: int) -> Check:
    """Make the check of a whole number."""

    def check(value: object) -> str | None:
        if value is None or (type(value) is int and least <= value <= most):
            return None
        return f"must be a whole number, {least} or more"

    return check


def read(file: Path, raw: bool, system: str | None, fields: Fields) -> list[Line]:
    """Read a file of requests; RequestError names the line that is none."""
    text = reading.file_text(file, "the file of --batch")
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise RequestError(f"{file} holds no prompts; give one JSON object a line")
    ids: set[str] = set()
    lines = []
    for number, line in numbered:
        found = _parse(line, f"{file}:{number}", number, raw, system, fields)
        if found.id in ids:
            raise RequestError(f"{found.where}: id {found.id!r} was there before; each line has its own")
        ids.add(found.id)
        lines.append(found)
    return lines


def left(lines: Sequence[Line], out: Path | None, noun: str) -> list[Line]:
    """Return the lines that ``out`` has no answer to; RequestError for a file that cannot be gone on with."""
    if out is None:
        return list(lines)
    options.check_output(out)
    done = _answered(out, lines)
    rest = [line for line in lines if line.id not in done]
    if done:
        talk.note(f"{counted(len(done), noun)} in {out} already, {len(rest)} to go")
    return rest


def answer(
    engine: "Engine", lines: Sequence[Line], total: int, file: Path, out: Path | None, asking: Asking[T]
) -> None:
    """Answer ``lines`` of ``total`` in all; one that fails is told, and does not stop others. RequestError, when all
    have ended, where some could not be answered."""
    with _written(out) as written, _progress(asking.noun, total, total - len(lines)) as progress:
        failed = _answer(engine, lines, asking, written, progress)
    if failed:
        raise RequestError(
            f"{counted(failed, 'line')} of {file} could not be answered; each has its 'error' in the output"
        )


def _parse(line: str, where: str, number: int, raw: bool, system: str | None, fields: Fields) -> Line:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(given, dict):
        raise RequestError(f'{where}: a line is a JSON object, such as {{"prompt": "..."}}, not {type(given).__name__}')
    known = (*_OF_ALL, *fields.checks)
    for name in given:
        if name not in known:
            raise RequestError(f"{where}: {name!r} is not read here; known are {', '.join(known)}")
    for name in fields.needed:
        if given.get(name) is None:
            raise RequestError(f"{where}: a line has {name!r}")
    for name, check in fields.checks.items():
        wrong = check(given.get(name))
        if wrong is not None:
            raise RequestError(f"{where}: {name} {given[name]!r} {wrong}")
    own = given.get("id", number)
    if not isinstance(own, str | int):
        raise RequestError(f"{where}: id {own!r} must be a text or a number")
    prompt = _prompt(given, where, raw, system)
    more = {name: given[name] for name in fields.checks if given.get(name) is not None}
    asked = [prompt, *(given[name] for name in fields.asked)] if fields.asked else prompt
    return Line(str(own), where, prompt, more, asked)


def _prompt(given: Mapping[str, Any], where: str, raw: bool, system: str | None) -> str | list[dict[str, Any]]:
    text, messages = given.get("prompt"), given.get("messages")
    if (text is None) == (messages is None):
        raise RequestError(f"{where}: a line has one of 'prompt' and 'messages'")
    if text is not None:
        if not isinstance(text, str) or not text.strip():
            raise RequestError(f"{where}: 'prompt' must be some text")
        return text if raw else [*reading.system_message(system), reading.message(text)]
    if raw:
        raise RequestError(f"{where}: --raw says that there are no chat messages; give 'prompt'")
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise RequestError(f"{where}: 'messages' must be a list of chat messages")
    return [*reading.system_message(system), *messages]


def _answered(out: Path, lines: Sequence[Line]) -> set[str]:
    """Return the ids that ``out`` has an answer to; half a line at its end, as a kill leaves it, is cut off."""
    if not out.exists() or not out.is_file():
        return set()
    by_id, done, kept = {line.id: line for line in lines}, set(), 0
    content = out.read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            found = json.loads(line)
            own, digest = str(found["id"]), found["prompt_sha256"]
        except (ValueError, KeyError, TypeError):
            raise RequestError(f"{out}:{number} is no answer of --batch; give another file to --out") from None
        if own not in by_id or by_id[own].digest != digest:
            raise RequestError(
                f"{out}:{number} answers another prompt than line {own!r} of --batch; give another --out"
            )
        kept += len(line)
        done.add(own)
    if kept < len(content):
        with out.open("rb+") as file:
            file.truncate(kept)
    return done


def _answer(engine: "Engine", lines: Sequence[Line], asking: Asking[T], written: TextIO, progress: Any) -> int:
    """Keep a window of requests under way, write each answer when it is its turn, and return how many failed."""
    from redraft.engine.scheduler import Scheduler

    scheduler = Scheduler(engine.runtime, max_waiting=WINDOW + 1)
    under_way: deque[tuple[Line, Handle[T] | RedraftError]] = deque()
    failed = 0

    def take() -> int:
        line, handle = under_way.popleft()
        try:
            if isinstance(handle, RedraftError):
                raise handle
            shown = asking.shown(line, handle.result())
        except RedraftError as error:
            shown = {"error": {"type": type(error).__name__, "message": str(error)}}
        written.write(json.dumps({"id": line.id, "prompt_sha256": line.digest, **shown}, ensure_ascii=False) + "\n")
        written.flush()
        progress(shown)
        return int("error" in shown)

    try:
        for line in lines:
            if len(under_way) == asking.window:
                failed += take()
            try:
                under_way.append((line, scheduler.submit(asking.request(line))))
            except RedraftError as error:
                under_way.append((line, error))
        while under_way:
            failed += take()
    except KeyboardInterrupt:
        while under_way and not isinstance(under_way[0][1], RedraftError) and under_way[0][1].future.done():
            take()
        talk.note("interrupted; the same command goes on from here" if written is not sys.stdout else "interrupted")
        raise typer.Exit(talk.INTERRUPTED) from None
    finally:
        scheduler.close()
    return failed


@contextmanager
def _written(out: Path | None) -> Iterator[TextIO]:
    if out is None:
        yield sys.stdout
        return
    with out.open("a", encoding="utf-8") as file:
        yield file


@contextmanager
def _progress(noun: str, total: int, done: int) -> Iterator[Any]:
    """A bar on standard error, in a terminal; and a line at the end that says what was done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    errors = Console(stderr=True)
    columns = (TextColumn(f"{noun}s"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not errors.is_terminal or talk.level() == talk.QUIET
    count = tokens = forwards = 0
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        task = bar.add_task(f"{noun}s", total=total, completed=done)

        def advance(shown: Mapping[str, Any]) -> None:
            nonlocal count, tokens, forwards
            count += 1
            tokens += shown.get("usage", {}).get("completion_tokens", 0)
            forwards += shown.get("usage", {}).get("forwards", 0)
            bar.advance(task)

        try:
            yield advance
        finally:
            talk.note(f"{counted(count, noun)}, {counted(tokens, 'token')} in {counted(forwards, 'forward')}")
