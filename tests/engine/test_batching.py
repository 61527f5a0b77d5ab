"""On the kernels every request's steps and result are those that it has alone, bit for bit, whoever shares its batches.

Random mixes of all verbs: some join late, some are cancelled or fail, some wait for memory or are put back.
"""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redraft import Candidate, Choice, Draft, Hole, JSONSchema, Regex, StepEvent
from redraft.api import Engine
from redraft.engine.generation import Generate
from redraft.engine.result import Chunk, OnStep
from redraft.engine.runtime import advance, run, start
from redraft.engine.scheduler import Handle, Scheduler
from redraft.engine.task import Forward, Progress, Runnable, Task
from redraft.errors import CancelledError
from redraft.kernels import bindings
from redraft.kernels.packed import FORMATS, Format
from redraft.loading import load
from redraft.models import packed, spans
from redraft.tasks.choose import choose
from redraft.tasks.edit import edit
from redraft.tasks.extract import extract
from redraft.tasks.fill import fill
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint
from tests.thorough import some

pytestmark = pytest.mark.skipif(bindings.kernels() is None, reason="torch rounds a row by how many rows there are")

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
# Beginnings that are alike, within blocks and across them, and lengths on both sides of a chunk and of the window.
TEXT = "in the end the one and the other is on and in an end of it " * 2
PROMPTS = ["i", "in the end", TEXT[:40], TEXT[:41], TEXT, "other " + TEXT[:30]]


def odd_positions(candidate: Candidate) -> list[int]:
    return [position for position, token in enumerate(candidate.token_ids) if token % 2]


@dataclass(frozen=True)
class Asked:
    """What one request asks for; equal ones are the same request."""

    kind: str
    prompt: str
    seed: int
    max_tokens: int
    temperature: float
    canvas_length: int

    def of(self, engine: Engine) -> Runnable[Any]:
        """The request, checked and compiled."""
        return KINDS[self.kind](engine, self)

    @property
    def settings(self) -> dict[str, Any]:
        names = ("seed", "max_tokens", "temperature", "canvas_length")
        return {name: getattr(self, name) for name in names}


def generated(engine: Engine, asked: Asked, **parameters: Any) -> Runnable[Any]:
    return Generate(engine.runtime, engine.request(asked.prompt, **(asked.settings | parameters)))


def chosen(engine: Engine, asked: Asked, steps: int) -> Runnable[Any]:
    questions = {"is": ["yes", "no"], "code": ["in", "on"]}
    own: dict[str, Any] = {"seed": asked.seed, "canvas_length": max(12, asked.canvas_length)}
    temperature = asked.temperature or None
    return choose(engine.runtime, asked.prompt, questions, max_denoising_steps=steps, temperature=temperature, **own)


DRAFT = Draft(torch.arange(280, 320) % LETTERS_SIZE, torch.full((40,), 0.6, dtype=torch.float64))
KINDS: dict[str, Callable[[Engine, Asked], Runnable[Any]]] = {
    "plain": generated,
    "top logprobs": partial(generated, top_logprobs=3),
    "constrained": partial(generated, constraint=Regex("[a-z ]{1,30}"), max_tokens=40),
    "other constraint": partial(generated, constraint=Choice(["yes", "no", "in the end"]), max_tokens=20),
    "thinking": partial(generated, thinking=True, constraint=JSONSchema({"type": "integer"}), max_tokens=40),
    "best of": partial(generated, best_of=3),
    "verified": partial(generated, verifier=odd_positions, verify_rounds=2),
    "drafted": partial(generated, draft=DRAFT),
    "filtered": partial(generated, top_p=0.8, min_p=0.01, frequency_penalty=0.5, logit_bias={290: 3.0}),
    "filtered otherwise": partial(generated, top_k=3, repetition_penalty=1.3, min_tokens=1, ignore_eos=True),
    "filtered under a constraint": partial(
        generated, top_k=2, presence_penalty=1.0, constraint=Regex("[a-z ]{1,30}"), max_tokens=40
    ),
    "one step": partial(generated, max_denoising_steps=1),
    "fill": lambda e, a: fill(e.runtime, a.prompt, " and on", seed=a.seed, temperature=a.temperature),
    "edit": lambda e, a: edit(
        e.runtime, "the one " + TEXT, [(0, 3), (100, 104)], hole=Hole(regex="[a-z]{1,9}"), strength=0.5, seed=a.seed
    ),
    "rewrite": lambda e, a: edit(e.runtime, "the end", instruction="go on", **a.settings),
    "choose": partial(chosen, steps=1),
    "choose in steps": partial(chosen, steps=3),
    "extract": lambda e, a: extract(e.runtime, a.prompt, SCHEMA, instruction="read", max_tokens=30, seed=a.seed),
}
requests = st.builds(
    Asked,
    kind=st.sampled_from(sorted(KINDS)),
    prompt=st.sampled_from(PROMPTS),
    seed=st.integers(0, 3),
    max_tokens=st.sampled_from([1, 20, 24, 50]),
    temperature=st.sampled_from([0, 0.3, 1.0, 2.5]),
    canvas_length=st.sampled_from([5, 16, 24]),
)


@dataclass(frozen=True)
class Joined:
    """A request in a mix: when it comes, and what becomes of it."""

    asked: Asked
    client: str
    after: int
    """Joins when so many steps of all requests have been taken."""
    ends: str
    """"well", or "cancelled" or "failing" after ``at`` steps of its own."""
    at: int


mixes = st.lists(
    st.builds(
        Joined,
        asked=requests,
        client=st.sampled_from(["a", "b"]),
        after=st.sampled_from([0, 0, 0, 1, 3, 10]),
        ends=st.sampled_from(["well", "well", "well", "cancelled", "failing"]),
        at=st.integers(1, 9),
    ),
    min_size=3,
    max_size=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window that prompts outgrow, experts, and canvases that take all their steps or end by chance."""
    return random_checkpoint(
        tmp_path_factory.mktemp("model"),
        letters=True,
        vocab_size=LETTERS_SIZE,
        canvas_length=24,
        generation={"max_denoising_steps": 4, "t_max": 0.4, "t_min": 0.2, "confidence_threshold": 0.5},
        sliding_window=20,
        num_experts=6,
        top_k=2,
        hidden_size=48,
    )


@dataclass(frozen=True)
class Seen:
    """All that came of a request; of tensors, their bytes."""

    events: list[tuple[Any, ...]]
    chunks: list[Any]
    result: Any


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.numpy().tobytes()
    if is_dataclass(value) and not isinstance(value, type):
        return tuple((field.name, plain(getattr(value, field.name))) for field in fields(value) if field.compare)
    return value


def outcome(result: Any) -> dict[str, Any]:
    """The result, without what it says of time and of what was cached."""
    found = asdict(result)
    for name in ("cached_prompt_tokens", "time_to_first_token", "seconds"):
        del found["usage"][name]
    return found


class FaultError(Exception):
    """A test's own."""


class Watched:
    """A request whose steps and chunks are kept, those of its last beginning (a ``task.Runnable``)."""

    def __init__(self, request: Runnable[Any], on_event: Callable[["Watched"], None] = lambda own: None) -> None:
        self.request, self.on_event = request, on_event
        self.events: list[tuple[Any, ...]] = []
        self.chunks: list[Any] = []

    def task(self, on_step: OnStep | None = None) -> Task[Any]:
        self.events.clear()

        def listen(event: StepEvent) -> None:
            self.events.append(plain(event))
            self.on_event(self)

        return self.request.task(listen)

    def hear(self, chunk: Chunk) -> None:
        self.chunks.append(plain(chunk))

    def seen(self, result: Any) -> Seen:
        return Seen(list(self.events), list(self.chunks), outcome(result))


class Alone:
    """What each request comes to by itself, on an engine of its own with nothing cached."""

    def __init__(self, folder: Path, dtype: Format) -> None:
        self.engine = load(folder, dtype=dtype)
        self._known: dict[Asked, Seen] = {}

    def __call__(self, asked: Asked) -> Seen:
        if asked not in self._known:
            self.engine.runtime.pool.forget()
            watched = Watched(asked.of(self.engine))
            result = run(self.engine.runtime, watched.task(), watched.hear)
            self._known[asked] = watched.seen(result)
        return self._known[asked]


class Mix:
    """Requests that run together; who joins when, and what becomes of each, goes by steps and not by time."""

    def __init__(self, engine: Engine, joined: list[Joined], **limits: int) -> None:
        self.joined, self.steps = joined, 0
        self.scheduler = Scheduler(engine.runtime, **limits)
        self.watched = [
            Watched(one.asked.of(engine), partial(self._stepped, index)) for index, one in enumerate(joined)
        ]
        self.handles: dict[int, Handle[Any]] = {}
        self.engine = engine

    def run(self) -> None:
        """Start them behind a request that holds the thread until all that come first are queued."""
        opened, started = threading.Event(), threading.Event()

        def blocked() -> Task[None]:
            started.set()
            opened.wait(600)
            yield Forward()

        @dataclass
        class Gate:
            def task(self, on_step: OnStep | None = None) -> Task[None]:
                return blocked()

        gate = self.scheduler.submit(Gate())
        started.wait(600)
        self._join()
        opened.set()
        gate.result(600)
        while waited := [handle for handle in dict(self.handles).values() if not handle.future.done()]:
            waited[0].future.exception(120)
            if len(self.handles) < len(self.joined) and all(one.future.done() for one in self.handles.values()):
                # Whoever waits for more steps than there are joins at the end.
                self.steps = max(one.after for one in self.joined)
                self._join()
        self.load = self.scheduler.load
        self.scheduler.close()

    def _join(self) -> None:
        for index, one in enumerate(self.joined):
            if index not in self.handles and one.after <= self.steps:
                own = self.watched[index]
                self.handles[index] = self.scheduler.submit(own, client=one.client, on_chunk=own.hear)

    def _stepped(self, index: int, own: Watched) -> None:
        self.steps += 1
        self._join()
        one = self.joined[index]
        if one.ends != "well" and len(own.events) == one.at:
            if one.ends == "failing":
                raise FaultError("after its last step")
            self.handles[index].cancel()

    def check(self, alone: Callable[[Asked], Seen]) -> None:
        """Every request's own, and nobody else's fault."""
        for index, one in enumerate(self.joined):
            expected, own, handle = alone(one.asked), self.watched[index], self.handles[index]
            error = handle.future.exception(0)
            if error is None:
                assert own.seen(handle.result(0)) == expected, one
                assert one.ends != "failing" or len(expected.events) < one.at, one
            else:
                assert isinstance(error, CancelledError if one.ends == "cancelled" else FaultError), error
                assert own.events == expected.events[: len(own.events)], one
                assert own.chunks == expected.chunks[: len(own.chunks)], one
        pool = self.engine.runtime.pool
        assert pool.used == pool.promised == 0


@pytest.mark.parametrize("dtype", FORMATS)
def test_any_mix_gives_each_request_what_it_gets_alone(folder: Path, dtype: Format) -> None:
    alone, engine = Alone(folder, dtype), load(folder, dtype=dtype, prefill_chunk=16)
    pool = engine.runtime.pool
    shared = 0

    @settings(max_examples=some(8, 4), deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(
        joined=mixes,
        rows=st.sampled_from([1024, 60, 24, 1]),
        concurrency=st.sampled_from([16, 5, 2, 1]),
        room=st.sampled_from([None, None, 320]),
        cached=st.booleans(),
    )
    def check(joined: list[Joined], rows: int, concurrency: int, room: int | None, cached: bool) -> None:
        nonlocal shared
        if not cached:
            pool.forget()
        pool.budget = None
        mix = Mix(engine, joined, max_batch_rows=rows, max_concurrency=concurrency)
        if room is not None:
            pool.forget()
            pool.budget = pool.bytes_for(room)
        mix.run()
        mix.check(alone)
        shared += mix.load.requests - mix.load.forwards

    check()
    assert shared > some(60) // 2, "mixes in which nobody shares a forward show nothing"


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_every_kind_at_once(folder: Path, dtype: Format) -> None:
    """One of each, all from the start."""
    alone, engine = Alone(folder, dtype), load(folder, dtype=dtype)
    joined = [
        Joined(Asked(kind, PROMPTS[number % 6], number, 30, (0, 0.7, 1.5)[number % 3], 24), "", 0, "well", 1)
        for number, kind in enumerate(sorted(KINDS))
    ]
    mix = Mix(engine, joined)
    mix.run()
    mix.check(alone)
    assert mix.load.finished == len(KINDS) + 1
    assert mix.load.requests > 4 * mix.load.forwards, "many share each forward"


def test_who_is_put_back_for_memory_begins_again_with_the_same(folder: Path) -> None:
    """Room for one and a half: all run, some more than once, and each says what it says alone."""
    alone, engine = Alone(folder, "float32"), load(folder, dtype="float32")
    joined = [
        Joined(Asked("plain", TEXT + name, seed, 120, 1.0, 24), "", 0, "well", 1) for seed, name in enumerate("abcd")
    ]
    mix = Mix(engine, joined)
    pool = engine.runtime.pool
    pool.budget = pool.bytes_for(len(mix.watched[0].request.request.prompt) + 96) * 3 // 2  # type: ignore[attr-defined]
    mix.run()
    mix.check(alone)
    assert mix.load.preempted > 0


def test_a_forward_that_fails_after_its_layers_wrote_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when memory runs out at its end: what was written is forgotten, and each goes on alone with the same bits."""
    alone, engine = Alone(folder, "bfloat16"), load(folder, dtype="bfloat16")
    asked = [Asked("plain", prompt, seed, 50, 1.0, 24) for seed, prompt in enumerate(PROMPTS)]
    count, failed = spans.advance, 0

    def failing(rows: Any) -> None:
        nonlocal failed
        # Of two requests or more; alone they go on.
        if len({id(one.span.cache) for one in rows}) > 1:
            failed += 1
            raise FaultError("at the end of a forward")
        count(rows)

    monkeypatch.setattr(packed, "advance", failing)
    watched = [Watched(one.of(engine)) for one in asked]
    tasks = [Progress(one.task(), one.hear) for one in watched]
    for task in tasks:
        start(task)
    while running := [task for task in tasks if not task.ended]:
        advance(engine.runtime, running)
    assert failed > 3
    for one, own, task in zip(asked, watched, tasks, strict=True):
        assert own.seen(task.value) == alone(one)
