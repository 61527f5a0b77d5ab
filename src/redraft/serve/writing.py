"""What is written into a text, by a fill or an edit: one answer, whose text goes out as its canvases converge."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request as HttpRequest

from redraft.engine.result import Chunk, Result
from redraft.engine.task import Work
from redraft.engine.text import overlap, stop_at
from redraft.serve.errors import bad_request, of_engine
from redraft.serve.state import Answers, Done, new_seed, serving
from redraft.tasks.infill import Edit, Fill, FillResult, Rewrite, fill


@dataclass(frozen=True)
class Ending:
    """How what was written ended."""

    result: Result
    reason: str
    """"stop" or "length"."""


class Writing:
    """One fill or edit under way, cut at the first stop string."""

    def __init__(
        self,
        http: HttpRequest,
        task: Fill | Edit | Rewrite,
        said: Callable[[Any], str],
        names: Mapping[str, str],
        client: str,
        stop: Sequence[str] = (),
    ) -> None:
        """Queue the ``task``, which is checked and compiled. ``said``: what its result says, which is what its chunks'
        texts add up to. ``names``: as in ``of_engine``."""
        record = serving(http).settings.record

        def begin() -> Work[Any]:
            return task.work(record=record)

        self._http, self._said, self._names, self._stop = http, said, names, stop
        self.answers: Answers[Any] = Answers(http, [lambda post: begin], client)

    async def whole(self) -> tuple[str, Ending]:
        """All that was written; ApiError where that fails."""
        try:
            result = (await self.answers.results(self._http.receive))[0]
        except Exception as error:
            raise of_engine(error, self._names) from error
        return self._ended(result)

    async def pieces(self) -> AsyncIterator[tuple[str, Ending | None]]:
        """New text when there is some, and the ending with the last; raises what the work fails with."""
        text, given = "", 0
        async for _, event in self.answers.events():
            if isinstance(event, Chunk):
                text += event.text
                safe = stop_at(text, self._stop)
                if safe is None:
                    safe = len(text) - max((overlap(text, stop) for stop in self._stop), default=0)
                if safe > given:
                    yield text[given:safe], None
                    given = safe
            elif isinstance(event, Done):
                whole, ending = self._ended(event.result)
                yield whole[given:], ending

    def _ended(self, result: Result) -> tuple[str, Ending]:
        said = self._said(result)
        end = stop_at(said, self._stop)
        return said[:end], Ending(result, result.finish_reason if end is None else "stop")


async def fill_gap(
    http: HttpRequest,
    prefix: str,
    suffix: str,
    parameters: Mapping[str, Any],
    stop: str | Sequence[str] | None,
    names: Mapping[str, str],
    client: str,
) -> Writing:
    """Begin to write what stands between two texts. ``parameters`` of ``infill.fill``, None where nothing is said.

    Raises ApiError for what cannot be honoured.
    """
    here = serving(http)
    stops = [stop] if isinstance(stop, str) else stop or []
    if not all(stops):
        raise bad_request("stop must be strings of at least one character", "stop")
    given = {name: value for name, value in parameters.items() if value is not None}
    given.setdefault("seed", new_seed())
    check = here.engine.fits(here.limits.before_tokenizing(names["prompt"]))
    before = await here.prepare(lambda: here.tokenizer.encode(prefix, check), names)
    here.limits.check_prompt(len(before), names["prompt"])
    task = await here.prepare(lambda: fill(here.engine, prefix, suffix, **given), names, "suffix")

    def middle(result: FillResult) -> str:
        return result.middle

    return Writing(http, task, middle, names, client, stops)
