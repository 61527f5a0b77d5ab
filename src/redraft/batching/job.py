"""A verb and what it is asked with, for every row of a data set; and the worker that asks a model."""

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from redraft.api import Engine
from redraft.batching.rows import Row
from redraft.engine.scheduler import MAX_CONCURRENCY
from redraft.errors import RedraftError, RequestError
from redraft.loading import load
from redraft.measure.evaluate.ask import outside
from redraft.tasks.objects import as_object

Verb = Literal["generate", "fill", "edit", "choose", "extract", "score"]
MAX_SEED = (1 << 64) - 1
# What tells of the steps of one answer, or keeps them, is not for thousands of them.
_NOT_OF_ROWS = ("self", "on_step", "record")
# So many that whoever ends finds the next one checked.
_AT_ONCE = 2 * MAX_CONCURRENCY


@dataclass(frozen=True)
class Job:
    """One verb, asked of every row."""

    verb: Verb
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of all rows; a row's own count before them. ``seed``, 0 by default, is the first row's: row i has
    ``seed`` + i, so that an answer does not depend on where a run was broken off, or on who gives it."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns that arguments are taken from, by argument, where they are not called alike."""
    into: str = "answer"
    """The column of answers."""
    chat: bool = False
    """True where a prompt that is a text is a user's chat message; else it is raw text, as for the verbs themselves."""

    def __post_init__(self) -> None:
        if self.verb not in get_args(Verb):
            raise RequestError(f"verb {self.verb!r} is not known; choose one of {', '.join(get_args(Verb))}")
        for name in (*self.parameters, *self.columns):
            if name not in self.arguments:
                raise RequestError(f"{name!r} is no argument of {self.verb}; known are {', '.join(self.arguments)}")
        seed = self.parameters.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MAX_SEED:
            raise RequestError(f"seed {seed!r} must be a whole number from 0 to 2^64 - 1")

    @property
    def error_column(self) -> str:
        """The column of reasons why there is no answer."""
        return f"{self.into}_error"

    @cached_property
    def arguments(self) -> dict[str, bool]:
        """The arguments of the verb by name; True for one that it must have."""
        signature = inspect.signature(getattr(Engine, self.verb))
        return {
            name: parameter.default is parameter.empty
            for name, parameter in signature.parameters.items()
            if name not in _NOT_OF_ROWS
        }

    def check(self, row: Row) -> None:
        """Raise RequestError for a row without a column that is needed, or with one that answers would take."""
        if row.fault is not None:
            return
        for name in (self.into, self.error_column):
            if name in row.values:
                raise RequestError(f"{row.where}: there is a column {name!r} already; name another for the answers")
        for name, needed in self.arguments.items():
            column = self.columns.get(name, name)
            if needed and name not in self.parameters and column not in row.values:
                raise RequestError(
                    f"{row.where}: {self.verb} needs {name!r}, and there is no column {column!r}; it has "
                    f"{', '.join(row.values) or 'none'}"
                )

    def given(self, row: Row, number: int) -> dict[str, Any]:
        """Return the arguments of row ``number``; RequestError, without its place, for one that lacks some."""
        if row.fault is not None:
            raise RequestError(row.fault)
        found = dict(self.parameters)
        for name in self.arguments:
            value = row.values.get(self.columns.get(name, name))
            if value is not None:
                found[name] = value
        for name, needed in self.arguments.items():
            if needed and name not in found:
                raise RequestError(f"{name!r} is missing")
        if self.chat and isinstance(found.get("prompt"), str):
            found["prompt"] = [{"role": "user", "content": found["prompt"]}]
        if "seed" not in self.arguments or (self.verb == "score" and "bound" not in found):
            return found
        own = row.values.get(self.columns.get("seed", "seed"))
        return {**found, "seed": (self.parameters.get("seed", 0) + number) % (MAX_SEED + 1) if own is None else own}


class Worker:
    """A model, and what it is asked; it is loaded once and answers chunk after chunk."""

    def __init__(self, job: Job, model: str, loading: Mapping[str, Any] | None = None) -> None:
        """loading: arguments of ``redraft.load``. Errors as there."""
        self._job, self._engine = job, load(model, **(loading or {}))

    @property
    def digest(self) -> str:
        """The digest that tells its weights from others'."""
        origin = self._engine.origin
        assert origin is not None, "it was loaded"
        return origin.digest

    def answers(self, rows: Sequence[Row], first: int) -> list[dict[str, Any]]:
        """Answer rows, of which the first has number ``first``: each row's columns, and its answer or the reason why
        there is none."""
        return outside(self._all(rows, first))

    def close(self) -> None:
        """Free the model's memory."""
        self._engine.close()

    async def _all(self, rows: Sequence[Row], first: int) -> list[dict[str, Any]]:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(number: int, row: Row) -> dict[str, Any]:
            async with gate:
                return {**row.values, **await self._one(row, number)}

        return await asyncio.gather(*(one(number, row) for number, row in enumerate(rows, first)))

    async def _one(self, row: Row, number: int) -> dict[str, Any]:
        try:
            given = self._job.given(row, number)
            result = await getattr(self._engine, f"a{self._job.verb}")(**given)
        except (RedraftError, TypeError) as error:
            reason = {"type": type(error).__name__, "message": f"{row.where}: {error}"}
            return {self._job.into: None, self._job.error_column: reason}
        return {self._job.into: as_object(result), self._job.error_column: None}
