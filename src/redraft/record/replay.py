"""Runs a recorded request again, to see whether the same comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redraft.api import Engine
from redraft.engine.generation import Generation
from redraft.engine.result import Chunk, Result, StepEvent
from redraft.engine.task import Waiting, Work, no_room
from redraft.errors import GenerationError, RecordingError
from redraft.record.compare import Comparison, compare, compare_beginning
from redraft.record.described import prompt_digest, requested
from redraft.record.recorder import Recorder
from redraft.record.recording import Recording
from redraft.tasks.choose import ChooseResult, Choosing


@dataclass(frozen=True, eq=False)
class Replay:
    """A run that was repeated, and how it compares with the recorded one."""

    recording: Recording
    """Of the run just now."""
    comparison: Comparison

    @property
    def identical(self) -> bool:
        """Whether every step and the answer are the same, bit for bit."""
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

    any_model: do so with other weights than the recorded ones. changed: parameters of ``Engine.request`` in the place
    of the recorded ones: a prompt that was not kept, a verifier, another seed. A request that had failed is repeated as
    far as it came.

    Raises RecordingError for another model, and for what the recording does not hold and is not given.
    """
    if not any_model:
        check_model(recording, engine)
    _check_prompt(recording, engine, changed)
    request, reading = requested(engine, recording.request, **changed), recording.reading
    recorder = Recorder(request, engine, reading=reading)

    def listen(event: StepEvent) -> None:
        recorder(event)
        if on_step is not None:
            on_step(event)

    work: Work[Result] | Work[ChooseResult] = (
        Generation(engine, request, listen).work
        if reading is None
        else Choosing.of(engine, request, reading).work(listen)
    )
    failed_by_model = recording.error is not None and recording.error.get("type") == GenerationError.__name__
    # One forward beyond the last recorded step shows whether the model fails again.
    limit = None if recording.error is None else len(recording.events) + failed_by_model
    try:
        while limit is None or len(recorder) < limit:
            moved = next(work)
            if moved is Waiting.FOR_MEMORY:
                raise RecordingError(no_room(engine.pool))
            if isinstance(moved, Chunk) and on_chunk is not None:
                on_chunk(moved)
    except StopIteration as done:
        again = recorder.finish(done.value)
        return Replay(again, compare(recording, again))
    except GenerationError as error:
        again = recorder.fail(error)
        return Replay(again, compare(recording, again))
    finally:
        work.close()
    again = recorder.fail(RecordingError("stopped where the recorded request had ended"))
    return Replay(again, compare(recording, again) if failed_by_model else compare_beginning(recording, again))


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
        raise RecordingError(f"the recording was made without its prompt of {kept['tokens']} tokens; give the prompt")
    given = list(engine.tokenize(changed["prompt"], bool(recording.request["thinking"])))
    ending = engine.empty_thought
    if prompt_digest(given) != kept and ending and given[-len(ending) :] == ending:
        # Recorded before chat prompts ended with an empty thought.
        given = given[: -len(ending)]
    if prompt_digest(given) != kept:
        raise RecordingError(
            f"the prompt is not the recorded one: it has {len(given)} tokens, the recorded one {kept['tokens']}, and "
            "their SHA-256 differ"
        )
    changed["prompt"] = given
