"""The errors a user can cause; each message says what was wrong, where, and what would work."""

from collections.abc import Mapping, Sequence
from typing import Any


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number and what it counts: "1 token", "2 tokens", "1,000 tokens"."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


class RedraftError(Exception):
    """Base of all errors that Redraft raises on purpose."""


class CheckpointError(RedraftError):
    """A checkpoint folder, file, configuration or tensor is missing, damaged or not supported."""


class RoomError(CheckpointError):
    """A model, or what is made of it, is larger than the memory or the disk; the message has the numbers."""


class RequestError(RedraftError, ValueError):
    """A prompt or a parameter that cannot be honoured."""


class ConstraintError(RequestError):
    """A pattern, schema, template or choice that is not supported, contradicts itself, or is too large."""


class GenerationError(RedraftError):
    """The model produced something that must not be handed out, such as NaN, or other answers hold the memory."""


class DeadlineError(GenerationError):
    """The time that an answer was given is over, and there is nothing valid to hand out."""


class BatchError(GenerationError):
    """Some of several prompts failed while they ran."""

    def __init__(self, message: str, results: Sequence[Any], errors: Mapping[int, Exception]) -> None:
        """``results``: one for each prompt, None where it failed; ``errors``: by the number of the prompt."""
        super().__init__(message)
        self.results, self.errors = list(results), dict(errors)


class DataError(RedraftError):
    """Training data that cannot be used; the message names the file and the line."""


class RecordingError(RedraftError):
    """A recording, or the folder for recordings, that cannot be read, written or replayed."""


class CancelledError(RedraftError):
    """The request was cancelled before it was finished."""


class BusyError(RedraftError):
    """Too many requests wait already; later there may be room."""


class ShuttingDownError(RedraftError):
    """The service takes no more requests."""
