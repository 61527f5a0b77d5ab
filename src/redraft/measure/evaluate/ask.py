"""Asks a model all items, in batches, and has every answer judged as soon as it is there.

An item has a seed of its own, so that its answer does not depend on what shares a batch with it.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from redraft.api import Engine
from redraft.calibrate.calibration import Floats
from redraft.engine.result import Usage
from redraft.engine.scheduler import MAX_CONCURRENCY
from redraft.errors import GenerationError, RequestError
from redraft.measure.evaluate.items import Choose, Extract, Fill, Generate, Item, is_json
from redraft.measure.evaluate.judge import Verdict, judge, judge_failed
from redraft.measure.evaluate.parameters import arguments
from redraft.tasks.choose import ChooseResult
from redraft.tasks.extract import Extraction
from redraft.tasks.fill import FillResult

T = TypeVar("T")
COMMAND_SECONDS = 60.0
# So many that whoever ends finds the next one checked.
AT_ONCE = 2 * MAX_CONCURRENCY


@dataclass(frozen=True)
class Contender:
    """A model and settings."""

    name: str
    model: str
    dtype: str = "auto"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of all items' verbs, which count before those of an item."""


@dataclass(frozen=True)
class Outcome:
    """The end of one item: its answer, the verdict on that, and what it cost."""

    item: Item
    seed: int
    answer: Any
    """The JSON, the choice of each question, the middle, or the text; None where there is no answer. JSON with a number
    that Python reads as infinite is left as a text."""
    verdict: Verdict
    usage: Usage | None = None
    converged: bool | None = None
    """None where there is no answer, and for decisions, which are read off the canvas as it is."""
    error: str | None = None
    """The reason why there is no answer."""


@dataclass(frozen=True)
class Run:
    """The outcomes of all items with one contender, in the order of the items."""

    contender: Contender
    outcomes: Sequence[Outcome]
    seconds: float
    """From the first item to the last, with judging, without loading the model."""

    @cached_property
    def weights(self) -> Floats:
        """[M]: the weight of each item."""
        return np.array([outcome.item.weight for outcome in self.outcomes])

    @property
    def failed(self) -> list[Outcome]:
        """The outcomes without an answer: the model refused the item, or failed at it."""
        return [outcome for outcome in self.outcomes if outcome.error is not None]


def run(
    engine: Engine,
    contender: Contender,
    items: Sequence[Item],
    *,
    seed: int = 0,
    command_seconds: float = COMMAND_SECONDS,
    on_item: Callable[[], None] | None = None,
    at_once: int = AT_ONCE,
) -> Run:
    """Ask ``engine``, which has the contender's model, all items. Item i gets the seed ``seed`` + i, if it has none of
    its own in its parameters. at_once: items that are asked together.

    An item that the model refuses or fails at counts as wrong, and its outcome says why. Raises RequestError without
    any item.
    """
    if not items:
        raise RequestError("there is no item to ask; give one or more")
    began = perf_counter()
    asking = _Asking(engine, contender, command_seconds, special_texts(engine), at_once)
    outcomes = outside(asking.all(items, seed, on_item))
    return Run(contender, outcomes, perf_counter() - began)


def outside(asking: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where this thread runs an event loop already, as a notebook's does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asking)
    with ThreadPoolExecutor(1) as own:
        return own.submit(asyncio.run, asking).result()


class _Asking:
    """One contender under way."""

    def __init__(
        self, engine: Engine, contender: Contender, command_seconds: float, markers: Sequence[str], at_once: int
    ) -> None:
        self._engine, self._contender, self._markers = engine, contender, markers
        self._command_seconds = command_seconds
        self._gate = asyncio.Semaphore(at_once)
        # Commands compute too.
        self._judging = asyncio.Semaphore(os.cpu_count() or 1)

    async def all(self, items: Sequence[Item], seed: int, on_item: Callable[[], None] | None) -> list[Outcome]:
        """Ask all items."""

        async def one(number: int, item: Item) -> Outcome:
            async with self._gate:
                outcome = await self._one(item, (seed + number) % (1 << 64))
            if on_item is not None:
                on_item()
            return outcome

        return await asyncio.gather(*(one(number, item) for number, item in enumerate(items)))

    async def _one(self, item: Item, seed: int) -> Outcome:
        own = arguments({**item.parameters, **self._contender.parameters})
        own.setdefault("seed", seed)
        try:
            result = await _ask(self._engine, item, own)
        except (RequestError, GenerationError) as error:
            return Outcome(item, own["seed"], None, judge_failed(item), error=str(error))
        async with self._judging:
            verdict = await asyncio.to_thread(judge, item, result, self._markers, self._command_seconds)
        converged = None if isinstance(result, ChooseResult) else result.converged
        return Outcome(item, own["seed"], _answer(result), verdict, result.usage, converged)


async def _ask(engine: Engine, item: Item, given: Mapping[str, Any]) -> Any:
    match item.asked:
        case Extract(text=text, schema=schema):
            return await engine.aextract(text, schema, **given)
        case Choose(prompt=prompt, options=options, frame=frame):
            return await engine.achoose(prompt, options, frame=frame, **given)
        case Fill(prefix=prefix, suffix=suffix, prompt=before):
            return await engine.afill(prefix, suffix, prompt=before, **given)
        case Generate(prompt=prompt):
            return await engine.agenerate(prompt, **given)


def _answer(result: Any) -> Any:
    match result:
        case Extraction():
            return result.value if is_json(result.value) else result.text
        case FillResult():
            return result.middle
        case ChooseResult():
            return {name: decision.choice for name, decision in result.answers.items()}
    return result.text


def special_texts(engine: Engine) -> list[str]:
    """Return the texts of the model's special tokens."""
    added = engine.tokenizer.tokenizer.get_added_tokens_decoder()
    return [one.content for one in added.values() if one.special]
