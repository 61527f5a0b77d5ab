"""The time by which an answer is wanted: what there is then is handed out, if it is valid."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from redraft.errors import DeadlineError, RequestError, counted

Clock = Callable[[], float]
"""Seconds from any moment on, never going back."""
monotonic: Clock = time.monotonic


class Looks:
    """The times that an answer looks at its deadline: what a recording keeps in the place of the clock.

    An answer looks at the same places of its way each time, so that the number of looks before the first that comes
    too late says where it ended.
    """

    def __init__(self, before: int | None = None, elapsed: float | None = None) -> None:
        """``before`` and ``elapsed``: of a replay, what was recorded; with neither the clock decides."""
        self._recorded = before
        self.before = 0
        """Looks at which the time was not over."""
        self.elapsed: float | None = None
        """Milliseconds that had gone by at the first look at which it was; None before."""
        self._elapsed = elapsed

    @property
    def repeats(self) -> bool:
        """True where what was recorded decides, and no clock."""
        return self._recorded is not None

    def late(self, elapsed: float, limit: float) -> bool:
        """Look, and tell whether the time is over."""
        if self.elapsed is not None:
            return True
        over = elapsed >= limit if self._recorded is None else self.before >= self._recorded
        if over:
            self.elapsed = elapsed if self._elapsed is None else self._elapsed
        else:
            self.before += 1
        return over


@dataclass(frozen=True)
class Deadline:
    """A moment, and the request's beginning that it counts from."""

    milliseconds: float
    began: float
    clock: Clock
    looks: Looks | None = None
    """Keeps, or repeats, what was seen of it; None where nobody records."""

    @classmethod
    def after(cls, milliseconds: object, clock: Clock) -> "Deadline":
        """Begin to count now; RequestError for what is no time."""
        try:
            value = math.nan if isinstance(milliseconds, bool) else float(milliseconds)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if isinstance(milliseconds, str) or not 0 < value < math.inf:
            raise RequestError(f"deadline_ms {milliseconds!r} must be a finite number of milliseconds above 0")
        return cls(value, clock(), clock)

    @property
    def elapsed(self) -> float:
        """Milliseconds since the beginning; once it was seen to be over, those that had gone by then."""
        if self.looks is not None and self.looks.elapsed is not None:
            return self.looks.elapsed
        return 1000 * (self.clock() - self.began)

    @property
    def passed(self) -> bool:
        late = self.elapsed >= self.milliseconds
        return late if self.looks is None else self.looks.late(self.elapsed, self.milliseconds)

    def recorded(self) -> "Deadline":
        """Return the same deadline for one answer that is recorded."""
        return replace(self, looks=Looks())

    def as_object(self) -> dict[str, Any] | None:
        """Return what a recording keeps: the looks before it was over, or None for both where it never was."""
        looks = self.looks
        if looks is None:
            return None
        over = looks.elapsed is not None
        kept = {"looks": looks.before if over else None, "elapsed": looks.elapsed}
        return {"milliseconds": self.milliseconds, **kept}

    @classmethod
    def replayed(cls, kept: Mapping[str, Any], clock: Clock) -> "Deadline":
        """Return a deadline that is over at the look at which the recorded one was, whatever the clock says."""
        looks, elapsed = kept["looks"], kept["elapsed"]
        # One that was never over is not over at any look.
        return cls(kept["milliseconds"], clock(), clock, Looks(1 << 62 if looks is None else looks, elapsed))

    def check_begun(self, what: str) -> None:
        """Raise DeadlineError where the time is over before there is anything to hand out; ``what`` names what was to
        come first."""
        # What comes before the first step depends on what is cached. Of an answer that is repeated it was in time.
        repeats = self.looks is not None and self.looks.repeats
        if not repeats and self.elapsed >= self.milliseconds:
            raise DeadlineError(
                f"deadline_ms {self.milliseconds:g} passed before {what}, after {self.elapsed:.0f} ms; there is "
                "nothing to hand out yet. Give it more time, a shorter prompt, or a server with less to do"
            )

    def unfinished(self, fewest: int, done: int, more: int, *units: str) -> DeadlineError:
        """Return the error of an answer under a constraint that cannot end where it is.

        fewest: the tokens that the shortest end takes. done, more: what is written, and what that end takes, in
        ``units``: "canvas", and its plural.
        """
        pace = f", about {self.elapsed * (done + more) / done:.0f} ms in all at the pace so far" if done else ""
        return DeadlineError(
            f"deadline_ms {self.milliseconds:g} passed behind {counted(done, *units)}, where the constraint allows no "
            f"end: the text needs {counted(fewest, 'token')} more at least, {counted(more, *units)}{pace}. Give it "
            "more time, fewer steps, or a constraint with a shorter text"
        )


def passed(deadline: Deadline | None) -> bool:
    """Tell whether there is a deadline, and it has passed."""
    return deadline is not None and deadline.passed
