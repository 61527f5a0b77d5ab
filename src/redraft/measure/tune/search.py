"""The search: every combination on a part of the items first, and what is not surely worse on all of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from redraft.api import Engine
from redraft.engine.request import check_number
from redraft.errors import RequestError
from redraft.measure.evaluate.ask import COMMAND_SECONDS, Contender, Run, run
from redraft.measure.evaluate.items import Item
from redraft.measure.tune.front import TOLERANCE, Cost, Trial, Tuning, front_of, surely_worse
from redraft.measure.tune.settings import Grid, Setting

FIRST = 12
"""Items that a setting is tried on at least before it may be given up."""


def tune(
    engine: Engine,
    items: Sequence[Item],
    grid: Grid,
    *,
    model: str,
    source: str,
    by: Cost = "seconds",
    seed: int = 0,
    at_once: int = 1,
    tolerance: float = TOLERANCE,
    command_seconds: float = COMMAND_SECONDS,
    on_trial: Callable[[Setting, int], None] | None = None,
) -> Tuning:
    """Search ``grid`` for what serves ``items`` best.

    Steps and acceptance are tried together, on canvases of full length; then shorter canvases for what is worth its
    cost; then the modes that write tokens. Each on a third of the items first, ``FIRST`` at least: what is surely worse
    than another there, at no smaller cost, is given up. at_once: items that are asked together; with 1 the seconds are
    those of an answer alone. tolerance: the share of right items, 0 to 1, that what is recommended may give up for a
    smaller cost. on_trial: told of each setting and the number of items that it is about to be tried on.

    Raises RequestError where no setting has an answer to any item.
    """
    if check_number("tolerance", tolerance, 0) > 1:
        raise RequestError(f"tolerance {tolerance:g} must be a share of the items, from 0 to 1")
    searching = _Searching(engine, items, by, seed, at_once, command_seconds, on_trial, model)
    searching.try_all(grid.canvases())
    searching.try_all(grid.shorter([trial.setting for trial in front_of(searching.trials, by)]))
    searching.try_all(grid.others())
    if not front_of(searching.trials, by):
        failed = searching.trials[0].run.failed[0]
        raise RequestError(f"no setting has an answer to any item; {failed.item.place}: {failed.error}")
    return Tuning(source, model, seed, by, searching.trials, searching.dropped, tolerance)


class _Searching:
    """A search under way."""

    def __init__(
        self,
        engine: Engine,
        items: Sequence[Item],
        by: Cost,
        seed: int,
        at_once: int,
        command_seconds: float,
        on_trial: Callable[[Setting, int], None] | None,
        model: str,
    ) -> None:
        self._engine, self._items, self._by, self._seed = engine, items, by, seed
        self._at_once, self._command_seconds, self._on_trial = at_once, command_seconds, on_trial
        self._model = model
        self._first = min(len(items), max(FIRST, len(items) // 3))
        self._partial: list[Trial] = []
        """The trials on the first items, kept or not."""
        self.trials: list[Trial] = []
        self.dropped = 0

    def try_all(self, settings: Iterable[Setting]) -> None:
        """Try settings, and take those that are kept to the end."""
        tried = [Trial(setting, self._run(setting, 0, self._first)) for setting in settings]
        self._partial += tried
        for trial in tried:
            if surely_worse(trial, self._partial, self._by):
                self.dropped += 1
            elif self._first == len(self._items):
                self.trials.append(trial)
            else:
                rest = self._run(trial.setting, self._first, len(self._items))
                outcomes = [*trial.run.outcomes, *rest.outcomes]
                seconds = trial.run.seconds + rest.seconds
                self.trials.append(Trial(trial.setting, replace(rest, outcomes=outcomes, seconds=seconds)))

    def _run(self, setting: Setting, start: int, end: int) -> Run:
        if self._on_trial is not None:
            self._on_trial(setting, end - start)
        return run(
            self._engine,
            Contender(setting.name, self._model, parameters=setting.parameters),
            self._items[start:end],
            # Each item keeps its seed, in whatever part it is asked.
            seed=self._seed + start,
            command_seconds=self._command_seconds,
            at_once=self._at_once,
        )
