"""``redraft generate --batch``: the prompts of a file, answered in batches, and gone on with after a break."""

import hashlib
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import typer

from redraft.cli import options, printing, reading, talk
from redraft.errors import RedraftError, RequestError, counted

if TYPE_CHECKING:
    from redraft.api import Engine
    from redraft.cli.options import Loading, Recordings, Sampling
    from redraft.engine.result import Result
    from redraft.engine.scheduler import Handle

_KNOWN = ("id", "prompt", "messages", "seed", "max_tokens")
# Requests that wait or run at a time; more would only fill memory.
_WINDOW = 64
MAX_SEED = (1 << 64) - 1


@dataclass(frozen=True)
class Line:
    """One prompt of the file, checked."""

    id: str
    """The name that was given, or the number of the line, from 1."""
    where: str
    prompt: str | list[dict[str, Any]]
    seed: int | None
    max_tokens: int | None

    @property
    def digest(self) -> str:
        """Return what tells its prompt from others."""
        return hashlib.sha256(json.dumps(self.prompt, sort_keys=True).encode()).hexdigest()[:16]


def run(
    file: Path,
    out: Path | None,
    raw: bool,
    system: str | None,
    sampling: "Sampling",
    more: Mapping[str, Any],
    loading: "Loading",
    recordings: "Recordings",
) -> None:
    """Answer all lines of ``file`` that ``out`` has no answer to; a line that fails is told, and does not stop others.

    Raises RequestError, before a model is loaded, naming the line that is no prompt.
    """
    text = reading.file_text(file, "the file of --batch")
    lines = list(_lines(text, str(file), raw, system, sampling.seed))
    if out is not None:
        options.check_output(out)
    done = _answered(out, lines) if out is not None else set()
    left = [line for line in lines if line.id not in done]
    if done:
        talk.note(f"{counted(len(done), 'answer')} in {out} already, {len(left)} to go")
    if not left:
        return
    record = recordings.folder()
    engine = loading.engine()
    parameters = {**sampling.parameters(engine), **more}
    with _written(out) as written, _progress(len(lines), len(done)) as progress:
        failed = _answer(engine, left, parameters, record, written, progress)
    if failed:
        raise RequestError(
            f"{counted(failed, 'line')} of {file} could not be answered; each has its 'error' in the output"
        )


def _lines(text: str, file: str, raw: bool, system: str | None, seed: int | None) -> Iterator[Line]:
    ids: set[str] = set()
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not numbered:
        raise RequestError(f"{file} holds no prompts; give one JSON object a line")
    for place, (number, line) in enumerate(numbered):
        where = f"{file}:{number}"
        found = _parse(line, where, number, raw, system)
        if found.seed is None and seed is not None:
            # Neighbours that ask the same are not to get the same noise.
            found = Line(found.id, where, found.prompt, (seed + place) % (MAX_SEED + 1), found.max_tokens)
        if found.id in ids:
            raise RequestError(f"{where}: id {found.id!r} was there before; each line has its own")
        ids.add(found.id)
        yield found


def _parse(line: str, where: str, number: int, raw: bool, system: str | None) -> Line:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(given, dict):
        raise RequestError(f'{where}: a line is a JSON object, such as {{"prompt": "..."}}, not {type(given).__name__}')
    for name in given:
        if name not in _KNOWN:
            raise RequestError(f"{where}: {name!r} is not read here; known are {', '.join(_KNOWN)}")
    for name in ("seed", "max_tokens"):
        value, least = given.get(name), 0 if name == "seed" else 1
        if value is not None and (type(value) is not int or not least <= value <= MAX_SEED):
            raise RequestError(f"{where}: {name} {value!r} must be a whole number, {least} or more")
    own = given.get("id", number)
    if not isinstance(own, str | int):
        raise RequestError(f"{where}: id {own!r} must be a text or a number")
    return Line(str(own), where, _prompt(given, where, raw, system), given.get("seed"), given.get("max_tokens"))


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


def _answer(
    engine: "Engine",
    lines: Sequence[Line],
    parameters: Mapping[str, Any],
    record: Any,
    written: TextIO,
    progress: Any,
) -> int:
    """Keep a window of requests under way, write each answer when it is its turn, and return how many failed."""
    from redraft.engine.generation import Generate
    from redraft.engine.scheduler import Scheduler

    scheduler = Scheduler(engine.runtime, max_waiting=_WINDOW + 1)
    under_way: deque[tuple[Line, Handle[Result] | RedraftError]] = deque()
    failed = 0

    def take() -> int:
        line, handle = under_way.popleft()
        try:
            if isinstance(handle, RedraftError):
                raise handle
            shown = printing.as_object(handle.result())
        except RedraftError as error:
            shown = {"error": {"type": type(error).__name__, "message": str(error)}}
        written.write(json.dumps({"id": line.id, "prompt_sha256": line.digest, **shown}, ensure_ascii=False) + "\n")
        written.flush()
        progress(shown)
        return int("error" in shown)

    try:
        for line in lines:
            if len(under_way) == _WINDOW:
                failed += take()
            own = {name: value for name, value in asdict(line).items() if name in ("seed", "max_tokens")}
            given = {**parameters, **{name: value for name, value in own.items() if value is not None}}
            try:
                request = engine.request(line.prompt, **given)
                under_way.append((line, scheduler.submit(Generate(engine.runtime, request, record))))
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
def _progress(total: int, done: int) -> Iterator[Any]:
    """A bar on standard error, in a terminal; and a line at the end that says what was done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    errors = Console(stderr=True)
    columns = (TextColumn("answers"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not errors.is_terminal or talk.level() == talk.QUIET
    count = tokens = forwards = 0
    with Progress(*columns, console=errors, transient=True, disable=hidden) as bar:
        task = bar.add_task("answers", total=total, completed=done)

        def advance(shown: Mapping[str, Any]) -> None:
            nonlocal count, tokens, forwards
            count += 1
            tokens += shown.get("usage", {}).get("completion_tokens", 0)
            forwards += shown.get("usage", {}).get("forwards", 0)
            bar.advance(task)

        try:
            yield advance
        finally:
            talk.note(f"{counted(count, 'answer')}, {counted(tokens, 'token')} in {counted(forwards, 'forward')}")
