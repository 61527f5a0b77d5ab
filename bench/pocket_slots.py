"""How many values a text model reads right, by what kind they are: the gate of the text model's training.

    redraft train merge runs/pocket/adapter --out runs/pocket/merged      # of an adapter; a full run has a checkpoint
    python -m bench.pocket_slots runs/pocket/merged                       # held-out templates; some minutes
    python -m bench.pocket_slots runs/pocket/merged --split domain --tasks extract,choose --errors errors.jsonl

Records are the training's own, of what it never sees. The engine fills their canvases, greedily, in batches. A value
is right if all its tokens are. With ``--hold types`` the slots of a schema hold what their types allow, as in
``Engine.extract``, with ``--hold verbatim`` strings are stretches of the text besides; with neither anything may stand
in them. Intervals are Wilson's, with the values of one record taken together.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redraft.api import Engine
from redraft.canvas.step import Pinned
from redraft.constrain.constraint import JSONSchema
from redraft.engine.context import open_context, prefill
from redraft.engine.denoise import CanvasPlan, Denoising, FinishedCanvas
from redraft.engine.request import generate
from redraft.engine.result import OnStep
from redraft.engine.runtime import Runtime
from redraft.engine.scheduler import Handle, Scheduler
from redraft.engine.task import Runnable, Task, Waiting
from redraft.kernels import library
from redraft.loading import load
from redraft.measure.evaluate.estimates import Sums, share
from redraft.models import checkpoint
from redraft.models.tokenizer import ChatTokenizer
from redraft.tasks.read_slots import ReadSlots, SlotReading, SlotsRead
from redraft.train.recipes.pocket.records import record
from redraft.train.recipes.pocket.snippets import Split
from redraft.train.text.encoding import EncodedQuestion, Encoder, SlotKind
from redraft.train.text.objective import stretches
from redraft.train.text.recipe import TextRecipe
from redraft.train.text.records import parse
from redraft.train.text.run import RunConfig

SEED = 1
STEPS, AT_ONCE = 32, 16


@dataclass(frozen=True)
class Slot:
    """A slot as it came out; tokens are those before the end."""

    kind: SlotKind | None
    """None where no schema says what the slot is."""
    right: tuple[int, ...]
    got: tuple[int, ...]

    @property
    def exact(self) -> bool:
        """True if both are the same."""
        return self.got == self.right


@dataclass(frozen=True)
class Judged:
    """A canvas that was taken to its end."""

    record: int
    """The number of its record among those that are held out."""
    task: str
    slots: tuple[Slot, ...]
    steps: int


@dataclass(frozen=True)
class Asked:
    """A question of a record, and what holds on its canvas."""

    encoded: EncodedQuestion
    schema: Mapping[str, Any] | None
    """The schema of the slots; None where no schema says what they are."""
    context: str
    """The text that is asked about."""


@dataclass(frozen=True, eq=False)
class Filling:
    """A question whose only canvas is filled in (``engine.task.Runnable``)."""

    runtime: Runtime
    question: EncodedQuestion

    def task(self, on_step: OnStep | None = None) -> Task[FinishedCanvas]:
        """Denoise the canvas after its prompt, from masks alone, with its pinned tokens in their places."""
        prompt, (clean,) = self.question.prompt, self.question.canvases
        length = len(clean.tokens)
        request = generate(
            self.runtime, list(prompt), seed=0, temperature=0, canvas_length=length, max_denoising_steps=STEPS
        )
        pinned = Pinned(~torch.tensor(clean.free), torch.tensor(clean.tokens))
        cache, _ = yield from open_context(self.runtime, prompt)
        try:
            rest = yield from prefill(self.runtime, prompt, cache)
            plan = CanvasPlan(0, length, prompt, pinned=pinned)
            while not cache.reserve(len(prompt)):
                yield Waiting.FOR_MEMORY
            return (yield from Denoising(self.runtime, request, plan, cache).finish(rest, on_step))
        finally:
            cache.close()


def held_out(encoder: Encoder, split: Split, tasks: Sequence[str], records: int) -> list[list[Asked]]:
    """Encode the first records of a split that ask what is wanted -> the questions of each."""
    found: list[list[Asked]] = []
    for index in count():
        raw = record(SEED, index, split)
        questions = [one for one in raw.get("questions", ()) if one["task"] in tasks]
        if questions:
            encoded = encoder.encode(parse({**raw, "questions": questions}, f"record {index}")).questions
            found.append(
                [Asked(one, said.get("schema"), raw["context"]) for one, said in zip(encoded, questions, strict=True)]
            )
        if len(found) == records:
            return found
    raise AssertionError("count() has no end")


def holding(engine: Engine, asked: Asked, verbatim: bool) -> ReadSlots:
    """Make the reading of a schema's slots that the engine does for ``extract``."""
    (clean,) = asked.encoded.canvases
    request = generate(
        engine.runtime,
        list(asked.encoded.prompt),
        seed=0,
        temperature=0,
        canvas_length=len(clean.tokens),
        max_denoising_steps=STEPS,
    )
    text = asked.context if verbatim else None
    schema = JSONSchema(dict(asked.schema or {})).schema
    return ReadSlots.of(
        engine.runtime, request, SlotReading(schema, characters=None if text is None else len(text), quoted=text)
    )


def judge(engine: Engine, records: Sequence[Sequence[Asked]], end_token: int, hold: str | None = None) -> list[Judged]:
    """Take every canvas to its end, many at a time."""
    found = []
    scheduler = Scheduler(engine.runtime, max_concurrency=AT_ONCE)
    try:
        for number, one in enumerate(records):
            asked: list[Handle[SlotsRead | FinishedCanvas]] = [
                scheduler.submit(_runnable(engine, question, hold)) for question in one
            ]
            for question, handle in zip(one, asked, strict=True):
                got, steps = _filled(handle.result(), question.encoded, end_token)
                (clean,) = question.encoded.canvases
                places = stretches(clean.free)
                slots = tuple(
                    Slot(kind, _before(end_token, clean.tokens[own]), said)
                    for own, kind, said in zip(places, clean.kinds or (None,) * len(places), got, strict=True)
                )
                found.append(Judged(number, question.encoded.task, slots, steps))
    finally:
        scheduler.close()
    return found


def _runnable(engine: Engine, asked: Asked, hold: str | None) -> Runnable[SlotsRead | FinishedCanvas]:
    if hold is None or asked.schema is None:
        return Filling(engine.runtime, asked.encoded)
    return holding(engine, asked, hold == "verbatim")


def _filled(
    done: SlotsRead | FinishedCanvas, question: EncodedQuestion, end_token: int
) -> tuple[Sequence[tuple[int, ...]], int]:
    """The tokens of each slot, and how many steps there were."""
    if isinstance(done, SlotsRead):
        return done.tokens, done.result.usage.denoising_steps
    places = stretches(question.canvases[0].free)
    return [_before(end_token, done.tokens[own].tolist()) for own in places], done.denoising_steps


def _before(end_token: int, tokens: Sequence[int]) -> tuple[int, ...]:
    return tuple(takewhile(lambda token: token != end_token, tokens))


def table(judged: Sequence[Judged]) -> Iterator[dict[str, Any]]:
    """Yield a row for each task, each kind of value, and whole canvases."""
    slots = [(canvas, slot) for canvas in judged for slot in canvas.slots]
    for task in sorted({canvas.task for canvas in judged}):
        own = [(canvas.record, slot.exact) for canvas, slot in slots if canvas.task == task]
        yield _row(f"values, {task}", own)
    for kind in sorted({slot.kind for _, slot in slots if slot.kind is not None}):
        yield _row(f"values, {kind}", [(canvas.record, slot.exact) for canvas, slot in slots if slot.kind == kind])
    yield _row("whole canvases", [(one.record, all(slot.exact for slot in one.slots)) for one in judged])


def _row(name: str, found: Sequence[tuple[int, bool]]) -> dict[str, Any]:
    numbers = sorted({number for number, _ in found})
    right = [sum(exact for one, exact in found if one == number) for number in numbers]
    counted = [sum(one == number for one, _ in found) for number in numbers]
    estimate = share(Sums(np.array(right, float), np.array(counted, float), np.ones(len(numbers))))
    assert estimate is not None, "rows are of what was found"
    return {"name": name, "right": estimate.value, "low": estimate.low, "high": estimate.high, "count": len(found)}


def errors(judged: Sequence[Judged], tokenizer: ChatTokenizer) -> Iterator[dict[str, Any]]:
    """Yield what came out wrong, as text."""
    for canvas in judged:
        for slot in canvas.slots:
            if not slot.exact:
                right, got = (tokenizer.decode_all(list(tokens)) for tokens in (slot.right, slot.got))
                yield {"record": canvas.record, "task": canvas.task, "kind": slot.kind, "right": right, "got": got}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--split", type=Split, default=Split.templates, choices=list(Split))
    parser.add_argument("--tasks", default="extract", help="names, with commas between them")
    parser.add_argument("--records", type=int, default=100)
    parser.add_argument(
        "--hold", choices=("types", "verbatim"), help="what slots of a schema may hold; by default anything"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "int8", "int4"))
    parser.add_argument("--errors", type=Path, help="file that what came out wrong is written to, a JSON object a line")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        library.use_threads(arguments.threads)
    encoder = TextRecipe(arguments.model, RunConfig(steps=1)).encoder(checkpoint.read(Path(arguments.model)))
    records = held_out(encoder, arguments.split, arguments.tasks.split(","), arguments.records)
    with load(arguments.model, dtype=arguments.dtype) as engine:
        judged = judge(engine, records, encoder.end_token, arguments.hold)
        steps = sum(canvas.steps for canvas in judged) / len(judged)
        print(f"{len(records)} records of {arguments.split}, {len(judged)} canvases, {steps:.1f} steps each")
        for row in table(judged):
            print("{name}: {right:.1%} ({low:.1%} to {high:.1%}) of {count}".format(**row))
        if arguments.errors is not None:
            lines = (json.dumps(one, ensure_ascii=False) for one in errors(judged, engine.tokenizer))
            arguments.errors.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
