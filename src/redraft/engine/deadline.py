"""The time by which an answer is wanted: what there is then is handed out, if it is valid."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from redraft.errors import DeadlineError, RequestError, counted

Clock = Callable[[], float]
"""Seconds from any moment on, never going back."""
monotonic: Clock = time.monotonic


@dataclass(frozen=True)
class Deadline:
    """A moment, and the request's beginning that it counts from."""

    milliseconds: float
    began: float
    clock: Clock

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
        """Milliseconds since the beginning."""
        return 1000 * (self.clock() - self.began)

    @property
    def passed(self) -> bool:
        return self.elapsed >= self.milliseconds

    def check_begun(self, what: str) -> None:
        """Raise DeadlineError where the time is over before there is anything to hand out; ``what`` names what was to
        come first."""
        if self.passed:
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
