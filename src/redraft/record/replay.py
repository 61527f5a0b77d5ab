"""Runs a recorded request again, to see whether the same comes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redraft.api import Engine
from redraft.engine.generation import Generate
from redraft.engine.request import Request
from redraft.engine.result import Chunk, StepEvent
from redraft.engine.runtime import Runtime, advance, no_room, start
from redraft.engine.task import Progress, Runnable, Waiting
from redraft.engine.thinking import without_switches
from redraft.errors import GenerationError, RecordingError, counted
from redraft.record.compare import Comparison, compare, compare_beginning
from redraft.record.described import prompt_digest, requested
from redraft.record.recorder import Recorder
from redraft.record.recording import Recording
from redraft.tasks.choose import ChooseRequest, Reading
from redraft.tasks.gaps import Gaps, WriteGaps
from redraft.tasks.read_slots import ReadSlots, SlotReading


@dataclass(frozen=True, eq=False)
class Replay:
    """A run that was repeated, and how it compares with the recorded one."""

    recording: Recording
    """The recording of the run just now."""
    comparison: Comparison

    @property
    def identical(self) -> bool:
        """True if every step and the answer are the same, bit for bit."""
        return self.comparison.identical


def replay(
    recording: Recording,
    engine: Engine,
    *,
    any_model: bool = False,
    on_step: Callable[[StepEvent], None] | None = None,
    on_chunk: Callable[[Chunk], None] | None = None,
    **changed: Any,
) -> Replay:
    """Run the recorded request on ``engine`` and compare every step.

    any_model: do so with other weights than the recorded ones. changed: parameters of ``Engine.generate`` in the place
    of the recorded ones: a prompt that was not kept, with the ``chat_template_kwargs`` that its messages went through
    the template with, a verifier, another seed. A request that had failed is repeated as
    far as it came.

    Raises RecordingError for another model, and for what the recording does not hold and is not given.
    """
    if not any_model:
        check_model(recording, engine)
    runtime = engine.runtime
    reading = _reading(recording, changed)
    _check_prompt(recording, engine, changed)
    request = requested(runtime, recording.request, **changed)
    recorder = Recorder(request, runtime, reading=reading)

    def listen(event: StepEvent) -> None:
        recorder(event)
        if on_step is not None:
            on_step(event)

    progress: Progress[Any] = Progress(_again(runtime, request, reading).task(listen), on_chunk)
    failed_by_model = recording.error is not None and recording.error.get("type") == GenerationError.__name__
    # One forward beyond the last recorded step shows whether the model fails again.
    limit = None if recording.error is None else len(recording.events) + failed_by_model
    try:
        start(progress)
        while not progress.ended and (limit is None or len(recorder) < limit):
            if progress.asked is Waiting.FOR_MEMORY:
                raise RecordingError(no_room(runtime))
            advance(runtime, [progress])
    finally:
        progress.close()
    if not progress.ended:
        same = recorder.fail(RecordingError("stopped where the recorded request had ended"))
        return Replay(same, compare(recording, same) if failed_by_model else compare_beginning(recording, same))
    if progress.error is not None:
        if not isinstance(progress.error, GenerationError):
            raise progress.error
        same = recorder.fail(progress.error)
    else:
        same = recorder.finish(progress.value)
    return Replay(same, compare(recording, same))


def _again(runtime: Runtime, request: Request, reading: Reading | SlotReading | Gaps | None) -> Runnable[Any]:
    match reading:
        case None:
            return Generate(runtime, request)
        case Reading():
            return ChooseRequest.of(runtime, request, reading)
        case SlotReading():
            return ReadSlots.of(runtime, request, reading)
        case Gaps():
            return WriteGaps.of(runtime, request, reading)


def _reading(recording: Recording, changed: Mapping[str, Any]) -> Reading | SlotReading | Gaps | None:
    """Return the recorded reading; where strings were held to a text that was not kept, with that text, with which the
    prompt that is given begins."""
    reading = recording.reading
    if not isinstance(reading, SlotReading) or reading.characters is None or reading.quoted is not None:
        return reading
    given = changed.get("prompt")
    if isinstance(given, Sequence) and given and isinstance(given[-1], Mapping):
        given = given[-1].get("content")
    if given is None:
        return reading
    if not isinstance(given, str):
        raise RecordingError(
            "the recording was made without its prompt, and strings are held to it: give it as text or chat messages"
        )
    return replace(reading, quoted=given[: reading.characters])


def check_model(recording: Recording, engine: Engine) -> None:
    """Raise RecordingError unless ``engine`` has the recorded weights and tokenizer."""
    origin = engine.origin
    if origin is None:
        raise RecordingError("only an engine that redraft.load has made can replay: others' weights are unknown")
    for name, own in {"weights": origin.digest, "tokenizer": origin.tokenizer}.items():
        recorded = str(recording.model.get(name))
        if recorded != own:
            raise RecordingError(
                f"{origin.source} is not the model of the recording: its {name} have SHA-256 {own[:12]}..., and those "
                f"recorded of {recording.model['name']} {recorded[:12]}...; choose another model, or replay with any"
            )


def _check_prompt(recording: Recording, engine: Engine, changed: dict[str, Any]) -> None:
    kept = recording.request["prompt"]
    if isinstance(kept, list):
        return
    if changed.get("prompt") is None:
        raise RecordingError(
            f"the recording was made without its prompt of {counted(kept['tokens'], 'token')}; give the prompt"
        )
    variables = without_switches(changed.pop("chat_template_kwargs", None))
    thinking = bool(recording.request["thinking"])
    given = list(engine.runtime.tokenize(changed["prompt"], thinking, template_variables=variables))
    ending = engine.runtime.empty_thought
    if prompt_digest(given) != kept and ending and given[-len(ending) :] == ending:
        # Recorded before chat prompts ended with an empty thought.
        given = given[: -len(ending)]
    if prompt_digest(given) != kept:
        raise RecordingError(
            f"the prompt is not the recorded one: it has {counted(len(given), 'token')}, the recorded one "
            f"{kept['tokens']}, and their SHA-256 differ"
        )
    changed["prompt"] = given
