"""Cooperative tasks: what a request asks of the model, one forward after the other.

A task is a generator. It yields what it needs and is sent what came of it, so that a scheduler can put the forwards of
many tasks into one batch; it knows of no thread and of no other request.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from redraft.canvas.readout import Readout, ReadoutSpec
from redraft.engine.result import Chunk, OnStep, StepEvent
from redraft.errors import RecordingError
from redraft.models.base import Span

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, eq=False)
class EncodedRows:
    """The readout of the rows that a forward encodes in front of its canvas: of the ``wanted`` ones of the span before
    it."""

    readout: ReadoutSpec | None = None
    """The specification of what to read off them; None for their hidden states alone."""
    hidden: Tensor | None = None
    """[C, H]: hidden rows of an earlier forward, to be read in front of them."""


@dataclass(frozen=True, eq=False)
class Forward:
    """A request's share of the next batch. It is answered by a ``Reading``, or by None where nothing is read."""

    spans: tuple[Span, ...] = ()
    """On one cache, in their order; a canvas is the last of them."""
    readout: ReadoutSpec | None = None
    """The specification of what to read off the last span, a canvas or what is wanted of rows that are encoded; None
    for nothing."""
    hidden: Tensor | None = None
    """[C, H]: hidden rows of an earlier forward, to be read once more, in front of those of the last span."""

    drafting: bool = False
    """The spans are for the draft model."""
    encoded: EncodedRows | None = None
    """The readout of the span before the last one, which is wanted too; None for nothing."""

    @property
    def rows(self) -> int:
        """Rows of a batch that it takes."""
        return sum(span.rows for span in self.spans)


@dataclass(frozen=True, eq=False)
class EncodedReading:
    """The hidden rows [C, H] that were encoded in front of a canvas, behind those that were given, and what was read
    off them; None where nothing was to be read."""

    hidden: Tensor
    readout: Readout | None


@dataclass(frozen=True, eq=False)
class Reading:
    """The readout of a canvas or of encoded rows, and the hidden rows [C, H] that it was read off."""

    readout: Readout
    hidden: Tensor
    encoded: EncodedReading | None = None
    """The reading of the rows in front of the canvas, where it was wanted."""


@dataclass(frozen=True, eq=False)
class HostRead:
    """A small tensor [n] that the host has to know. It is answered by its values; a batch's are read together."""

    tensor: Tensor


class Waiting(Enum):
    """Says why a task did not ask for a forward."""

    FOR_MEMORY = "for memory"


Asked = Forward | HostRead | Waiting | Chunk
Answer = Reading | Sequence[int] | None
Task = Generator[Asked, Answer, T]
"""Yields what it asks for, and a chunk for every canvas that is finished; returns the request's result."""


class TimedListener:
    """An ``on_step`` callback that counts the seconds it takes: they are no part of an answer's cost."""

    def __init__(self, on_step: OnStep) -> None:
        self._on_step = on_step
        self.seconds = 0.0

    def __call__(self, event: StepEvent) -> None:
        """Hand on one step."""
        began = perf_counter()
        try:
            self._on_step(event)
        finally:
            self.seconds += perf_counter() - began


class StepRecorder(Protocol):
    """Keeps one request's steps, and how it ended."""

    def __call__(self, event: StepEvent) -> None: ...
    def finish(self, result: Any) -> object: ...
    def fail(self, error: BaseException) -> object: ...


class Runnable(Protocol[T_co]):
    """A request that is checked; it may be begun any number of times, each time the same."""

    def task(self, on_step: OnStep | None = None) -> "Task[T_co]":
        """Begin. ``on_step`` is called after every denoising step."""
        ...


def recorded(
    begin: Callable[[OnStep | None], Task[T]],
    recorder: StepRecorder | None,
    on_step: OnStep | None,
    result_of: Callable[[T], object] = lambda value: value,
) -> Task[T]:
    """Wrap a task so that its steps, its result or its error are kept; one that is given up leaves nothing."""
    if recorder is None:
        return (yield from begin(on_step))

    def listen(event: StepEvent) -> None:
        recorder(event)
        if on_step is not None:
            on_step(event)

    try:
        value = yield from begin(listen)
    except Exception as error:
        try:
            recorder.fail(error)
        except RecordingError as unwritten:
            error.add_note(str(unwritten))
        raise
    recorder.finish(result_of(value))
    return value


def with_chunks(task: Task[T], change: Callable[[Chunk], Chunk]) -> Task[T]:
    """Run a task whose chunks are handed on as ``change`` makes them."""
    try:
        asked = next(task)
        while True:
            if isinstance(asked, Chunk):
                asked = change(asked)
            try:
                answer = yield asked
            except Exception as error:
                asked = task.throw(error)
            else:
                asked = task.send(answer)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        task.close()


def encode(span: Span) -> Task[None]:
    """Ask for the forward of what is only encoded."""
    yield Forward((span,))


def read(forward: Forward) -> Task[Reading]:
    """Ask for a forward whose last span is read."""
    answer = yield forward
    assert isinstance(answer, Reading), "a forward with a readout is answered by what was read"
    return answer


def on_host(tensor: Tensor) -> Task[Sequence[int]]:
    """Ask for the values of a small tensor."""
    answer = yield HostRead(tensor)
    assert answer is not None, "a host read is answered by values"
    assert not isinstance(answer, Reading), "a host read is answered by values"
    return answer


class Progress(Generic[T]):
    """A task under way: what it asks for now, or what came of it."""

    def __init__(self, task: Task[T], on_chunk: Callable[[Chunk], None] | None = None) -> None:
        self._task, self._on_chunk = task, on_chunk
        self.asked: Forward | HostRead | Waiting | None = None
        """None before the task began and once it ended."""
        self.ended = False
        self.error: Exception | None = None
        self._value: T | None = None

    @property
    def value(self) -> T:
        """The result of a task that ended; its error is raised if it failed."""
        if self.error is not None:
            raise self.error
        assert self.ended, "the task has not ended"
        return self._value  # type: ignore[return-value]

    def advance(self, answer: Answer = None) -> None:
        """Send what was asked for; chunks are handed out on the way to what is asked next."""
        try:
            asked = next(self._task) if self.asked is None else self._task.send(answer)
            while isinstance(asked, Chunk):
                if self._on_chunk is not None:
                    self._on_chunk(asked)
                asked = next(self._task)
            self.asked = asked
        except StopIteration as done:
            self._end(done.value, None)
        except Exception as error:  # whatever goes wrong with one task must not end the others
            self._end(None, error)

    def fail(self, error: Exception) -> None:
        """End the task with an error of its forward, which it may clean up after."""
        try:
            self._task.throw(error)
        except StopIteration as done:
            self._end(done.value, None)
        except Exception as raised:
            self._end(None, raised)
        else:
            self._task.close()
            self._end(None, error)

    def close(self) -> None:
        """Stop here; the task gives back what it holds."""
        self._task.close()
        self.asked = None

    def _end(self, value: T | None, error: Exception | None) -> None:
        self.asked, self.ended, self.error, self._value = None, True, error, value
