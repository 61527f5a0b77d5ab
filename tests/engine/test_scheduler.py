"""What a scheduler promises: everybody gets the answer they would get alone, and nobody's fault is another's."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import torch

from redraft import JSONSchema, Result
from redraft.api import Engine
from redraft.engine.fairness import Client
from redraft.engine.generation import Generate
from redraft.engine.result import Chunk, OnStep
from redraft.engine.runtime import Runtime
from redraft.engine.scheduler import LATELY, Handle, Scheduler
from redraft.engine.task import Forward, Task, Waiting
from redraft.errors import BusyError, CancelledError, GenerationError, RequestError, ShuttingDownError
from redraft.loading import load
from redraft.models.base import Span
from redraft.tasks.choose import choose
from tests.engine.scripted import random_logits, scripted_engine
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint

SETTINGS = {"max_denoising_steps": 4, "t_max": 0.4, "t_min": 0.2}
PROMPTS = ["one", "two two", "three three three", "and a fourth one", "one"]
T = TypeVar("T")


@dataclass(frozen=True)
class Made(Generic[T]):
    """A task of a test's own (a ``task.Runnable``)."""

    begin: Callable[[], Task[T]]

    def task(self, on_step: OnStep | None = None) -> Task[T]:
        return self.begin()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE, canvas_length=24, generation=SETTINGS)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return scripted_engine(tmp_path_factory.mktemp("scripted"), random_logits(0), canvas_length=8).runtime


@pytest.fixture
def scheduler(runtime: Runtime) -> Iterator[Scheduler]:
    scheduler = Scheduler(runtime, max_concurrency=3)
    yield scheduler
    scheduler.close()


def ask(engine: Engine, prompt: str, **parameters: Any) -> Generate:
    return Generate(engine.runtime, engine.request(prompt, **parameters))


def test_every_request_gets_the_answer_that_it_gets_alone(folder: Path) -> None:
    alone, engine = load(folder), load(folder)
    scheduler = Scheduler(engine.runtime, max_concurrency=3)
    schema = JSONSchema({"type": "array", "items": {"type": "integer"}, "maxItems": 3})
    expected = [alone.generate(prompt, seed=i, max_tokens=60) for i, prompt in enumerate(PROMPTS)]
    constrained = alone.generate("four", seed=7, constraint=schema, max_tokens=20)
    chosen = alone.choose("is it?", ["yes", "no"], seed=3)
    handles = [scheduler.submit(ask(engine, prompt, seed=i, max_tokens=60)) for i, prompt in enumerate(PROMPTS)]
    json_handle = scheduler.submit(ask(engine, "four", seed=7, constraint=schema, max_tokens=20))
    choice = scheduler.submit(choose(engine.runtime, "is it?", ["yes", "no"], seed=3))
    assert [handle.result(600).token_ids for handle in handles] == [result.token_ids for result in expected]
    assert json_handle.result(600).text == constrained.text
    assert choice.result(600).answers == chosen.answers
    assert scheduler.load.finished == 7
    assert scheduler.load.forwards < scheduler.load.requests, "some of them shared a forward"
    scheduler.close()


class Gate:
    """A request that holds the scheduler's thread until it is opened, so that others are queued when they are."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._opened, started = threading.Event(), threading.Event()

        def blocked() -> Task[str]:
            started.set()
            self._opened.wait(600)
            yield Forward()
            return "done"

        self.handle = scheduler.submit(Made(blocked), client="gate")
        assert started.wait(600)

    def open(self) -> None:
        self._opened.set()


def turns(log: list[str], name: str, count: int) -> Made[str]:
    """A task of so many forwards, without a row in any of them."""

    def begin() -> Task[str]:
        for _ in range(count):
            log.append(name)
            yield Forward()
        return name

    return Made(begin)


def test_requests_share_forwards_and_join_and_leave_between_any_two(scheduler: Scheduler) -> None:
    log: list[str] = []
    gate = Gate(scheduler)
    counts = {"a": 9, "b": 1, "c": 2, "d": 1}
    handles = [scheduler.submit(turns(log, n, c)) for n, c in counts.items()]
    gate.open()
    assert [handle.result(600) for handle in handles] == ["a", "b", "c", "d"]
    assert log[:2] == ["a", "b"], "two join the blocked one, a third has to wait for a place"
    assert {name: log.count(name) for name in counts} == counts
    assert log.index("d") < len(log) - 1, "the last one joins before the first has finished"
    assert scheduler.load.forwards == 1 + 9, "the blocked one's, and then as many as the longest one takes"
    assert scheduler.load.requests == 1 + sum(counts.values())


def rows_of(runtime: Runtime, log: list[str], name: str, *rows: int) -> Made[str]:
    """A task whose forwards encode so many rows each."""

    def begin() -> Task[str]:
        cache, _ = runtime.pool.open()
        try:
            for count in rows:
                log.append(name)
                yield Forward((Span(torch.zeros(count, dtype=torch.int64), cache, "encode"),))
            return name
        finally:
            cache.close()

    return Made(begin)


@pytest.fixture
def batches(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of every request in every batch from now on."""
    seen: list[list[int]] = []
    forward = runtime.forward

    def counted(forwards: list[Forward]) -> Any:
        seen.append([one.rows for one in forwards])
        return forward(forwards)

    monkeypatch.setattr(runtime, "forward", counted)
    return seen


def test_clients_are_served_in_turn(runtime: Runtime) -> None:
    scheduler = Scheduler(runtime, max_concurrency=1)
    log: list[str] = []
    gate = Gate(scheduler)
    names = ("a1", "a2", "a3", "b1", "b2")
    handles = [scheduler.submit(rows_of(runtime, log, name, 5), client=name[0]) for name in names]
    gate.open()
    for handle in handles:
        handle.result(600)
    scheduler.close()
    assert log == ["a1", "b1", "a2", "b2", "a3"]


def test_the_next_to_join_is_of_the_client_that_has_had_the_fewest_rows(runtime: Runtime) -> None:
    """Long prompts of one client against short ones of another: as many rows for both, not as many requests."""
    scheduler = Scheduler(runtime, max_concurrency=1)
    log: list[str] = []
    gate = Gate(scheduler)
    handles = [scheduler.submit(rows_of(runtime, log, "long", 40), client="a") for _ in range(3)]
    handles += [scheduler.submit(rows_of(runtime, log, "short", 10), client="b") for _ in range(8)]
    gate.open()
    for handle in handles:
        handle.result(600)
    scheduler.close()
    assert log == ["long", *["short"] * 4, "long", *["short"] * 4, "long"]


def test_a_batch_is_filled_by_rows_and_by_turns_of_the_clients(runtime: Runtime, batches: list[list[int]]) -> None:
    """All run at once; a batch holds 100 rows. Of one user's many requests and another's single one both get half."""
    scheduler = Scheduler(runtime, max_concurrency=8, max_batch_rows=100)
    log: list[str] = []
    gate = Gate(scheduler)
    handles = [scheduler.submit(rows_of(runtime, log, "many", *[50] * 4), client=Client("a", "x")) for _ in range(3)]
    handles.append(scheduler.submit(rows_of(runtime, log, "one", *[50] * 4), client=Client("a", "y")))
    ended: list[int] = []
    handles[-1].future.add_done_callback(lambda _: ended.append(len(batches)))
    gate.open()
    for handle in handles:
        handle.result(600)
    scheduler.close()
    shared = [own for own in batches if sum(own)]
    assert all(sum(own) == 100 for own in shared)
    assert len(shared) == (3 * 4 + 4) * 50 // 100
    assert ended == [1 + 4], "half of each batch is the single one's: its four forwards are in the first four"


def test_a_client_that_comes_later_gets_a_place_of_one_that_has_all(runtime: Runtime) -> None:
    """The youngest of the many is put back, and begins again once there is room; its answer is the same."""
    scheduler = Scheduler(runtime, max_concurrency=3)
    late: list[Handle[str]] = []

    class Log(list[str]):
        def append(self, name: str) -> None:
            super().append(name)
            if not late and self.count(name) == 3:
                late.append(scheduler.submit(rows_of(runtime, self, "b", 8, 8), client="b"))

    log, gate = Log(), Gate(scheduler)
    long = [scheduler.submit(rows_of(runtime, log, f"a{n}", *[8] * 40), client=Client("a", str(n))) for n in range(6)]
    gate.open()
    assert [handle.result(600) for handle in long] == [f"a{n}" for n in range(6)]
    assert late[0].result(600) == "b"
    assert scheduler.load.preempted == 1
    scheduler.close()
    assert max(log.count(f"a{n}") for n in range(6)) > 40, "one began again"
    first, last = log.index("b"), len(log) - log[::-1].index("b")
    assert first <= 3 * 3 + 3, "it is there with the next forward"
    assert last - first <= 2 + 2 * 2, "and shares its forwards with what has as many rows, and one canvas"


def test_one_client_has_not_more_of_a_batch_than_another_that_wants_something(
    runtime: Runtime, batches: list[list[int]]
) -> None:
    """Sixteen users of one owner, and another owner's only request: its forwards are not made longer than twice."""
    scheduler = Scheduler(runtime, max_concurrency=32, max_batch_rows=1000)
    log: list[str] = []
    gate = Gate(scheduler)
    many = [scheduler.submit(rows_of(runtime, log, "a", *[8] * 20), client=Client("a", str(n))) for n in range(16)]
    one = scheduler.submit(rows_of(runtime, log, "b", *[8] * 10), client="b")
    ended: list[int] = []
    one.future.add_done_callback(lambda _: ended.append(len(batches)))
    gate.open()
    for handle in [*many, one]:
        handle.result(600)
    scheduler.close()
    shared = batches[: ended[0]]
    assert len(shared) <= 1 + 10
    assert sum(map(sum, shared)) <= 10 * 8 + 10 * 8 + 8, "as much as it, and one canvas"
    after = [len(own) for own in batches[ended[0] :]]
    assert after[: LATELY - 1] == [1] * (LATELY - 1), "the other may come back while a batch is computed"
    assert max(after) == 16, "with nobody else there the batch is full"


def test_who_comes_again_and_again_waits_for_one_request_of_others_and_has_half_of_all_rows(
    runtime: Runtime, batches: list[list[int]]
) -> None:
    """An owner's single requests, each two forwards after the last one's end, against sixteen of another's."""
    scheduler = Scheduler(runtime, max_concurrency=32, max_batch_rows=1000)
    spans: list[tuple[int, int]] = []
    """The numbers of batches when a request came, and when it ended."""

    class Log(list[str]):
        def append(self, name: str) -> None:
            super().append(name)
            if name == "a" and len(spans) < 10 and len(batches) >= (spans[-1][1] + 2 if spans else 20):
                spans.append((len(batches), len(batches) + 1000))
                again = scheduler.submit(rows_of(runtime, self, "b", *[8] * 5), client="b")
                again.future.add_done_callback(lambda _: spans.append((spans.pop()[0], len(batches))))

    log, gate = Log(), Gate(scheduler)
    many = [scheduler.submit(rows_of(runtime, log, "a", *[8] * 40), client=Client("a", str(n))) for n in range(16)]
    gate.open()
    for handle in many:
        handle.result(600)
    scheduler.close()
    assert len(spans) == 10
    for came, ended in spans:
        assert ended - came <= 1 + 5, "it is in every forward but the one that was being computed"
    first, last = spans[0][1], spans[-1][1]
    between = batches[first:last]
    assert max(map(len, between)) == 2
    assert sum(map(sum, between)) <= 2 * 8 * 5 * 9 + 8 * 9, "half of all rows are its own"


def test_compiling_counts_as_rows_computed_in_that_time(runtime: Runtime) -> None:
    scheduler = Scheduler(runtime, max_concurrency=8)
    log: list[str] = []
    scheduler.submit(rows_of(runtime, log, "before", 8)).result(600)
    gate = Gate(scheduler)
    scheduler._seconds, scheduler._computed = 2.0, 1000.0
    scheduler.charge(Client("a", "u"), 0.5)
    assert scheduler._shares.of_owner("a") - scheduler._shares.of_owner("b") == 250
    assert scheduler._shares.of_user(Client("a", "u")) == 250
    gate.open()
    scheduler.close(60)


def test_who_fills_the_queue_leaves_room_for_others(runtime: Runtime) -> None:
    scheduler = Scheduler(runtime, max_concurrency=1, max_waiting=4)
    log: list[str] = []
    gate = Gate(scheduler)
    handles = [scheduler.submit(turns(log, "a", 1), client=Client("a", str(number))) for number in range(4)]
    with pytest.raises(BusyError, match="4 requests are waiting"):
        scheduler.submit(turns(log, "a", 1), client=Client("a", "another"))
    handles += [scheduler.submit(turns(log, "b", 1), client="b") for _ in range(2)]
    with pytest.raises(BusyError):
        scheduler.submit(turns(log, "b", 1), client="b")
    gate.open()
    for handle in handles:
        handle.result(600)
    scheduler.close()


def test_what_a_request_asks_is_in_a_batch_whole_or_not_at_all(runtime: Runtime, batches: list[list[int]]) -> None:
    scheduler = Scheduler(runtime, max_concurrency=8, max_batch_rows=100)
    log: list[str] = []
    gate = Gate(scheduler)
    sizes = [60, 70, 30, 250, 40, 100, 101]
    handles = [scheduler.submit(rows_of(runtime, log, str(size), size, size)) for size in sizes]
    gate.open()
    for handle in handles:
        handle.result(600)
    load = scheduler.load
    scheduler.close()
    alone = [own for own in batches if sum(own) > 100]
    assert sorted(alone) == [[101], [101], [250], [250]], "what is larger than the limit goes alone, and once"
    assert sorted(row for own in batches for row in own if row) == sorted(2 * sizes)
    assert load.rows == 2 * sum(sizes)
    assert load.forwards == len(batches)
    assert load.requests == sum(map(len, batches))


def test_many_small_requests_do_not_keep_a_large_one_out(runtime: Runtime, batches: list[list[int]]) -> None:
    """It does not fit beside the others of its client that came before it, and goes as soon as it is the first."""
    scheduler = Scheduler(runtime, max_concurrency=4, max_batch_rows=100)
    log: list[str] = []
    gate = Gate(scheduler)
    before = [scheduler.submit(rows_of(runtime, log, "small", 10, 10)) for _ in range(2)]
    large = scheduler.submit(rows_of(runtime, log, "large", 95))
    after = [scheduler.submit(rows_of(runtime, log, "small", *[10] * 5)) for _ in range(20)]
    gate.open()
    for own in (before, [large], after):
        for handle in own:
            handle.result(600)
    scheduler.close()
    assert batches.index([95]) <= 4, "the two before it take two batches; twenty that came later many more"


@pytest.mark.parametrize("error", [ValueError("a fault"), GenerationError("NaN"), MemoryError()])
def test_a_fault_ends_its_own_request_only(scheduler: Scheduler, error: Exception) -> None:
    def faulty() -> Task[None]:
        yield Forward()
        raise error

    log: list[str] = []
    handles: list[Handle[Any]] = [
        scheduler.submit(Made(faulty)),
        scheduler.submit(turns(log, "good", 5)),
        scheduler.submit(Made(faulty)),
    ]
    assert handles[1].result(600) == "good"
    for handle in (handles[0], handles[2]):
        with pytest.raises(type(error)):
            handle.result(600)
    assert scheduler.submit(turns(log, "after", 1)).result(600) == "after"
    assert (scheduler.load.finished, scheduler.load.failed) == (2, 2)


@pytest.mark.parametrize("error", [ValueError("a fault"), RuntimeError("no task")])
def test_a_request_that_cannot_even_begin_ends_alone(scheduler: Scheduler, error: Exception) -> None:
    def fail() -> Task[None]:
        raise error

    handle = scheduler.submit(Made(fail))
    with pytest.raises(type(error)):
        handle.result(600)
    assert scheduler.submit(turns([], "after", 1)).result(600) == "after"


def test_a_fault_in_how_a_request_ends_is_its_own_too(scheduler: Scheduler) -> None:
    begun = threading.Event()

    def faulty() -> Task[None]:
        try:
            while True:
                begun.set()
                yield Forward()
        finally:
            raise ValueError("while it was closed")

    handle = scheduler.submit(Made(faulty))
    assert begun.wait(600)
    handle.cancel()
    with pytest.raises(ValueError, match="while it was closed"):
        handle.result(600)
    assert scheduler.submit(turns([], "after", 1)).result(600) == "after"


def test_a_scheduler_that_fails_leaves_nobody_waiting(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Scheduler) -> None:
        raise SystemError("the scheduler's own fault")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(Scheduler, "_admit", fail)
    scheduler = Scheduler(runtime)
    handle = scheduler.submit(turns([], "never", 1))
    with pytest.raises(CancelledError, match="the service ended"):
        handle.result(600)
    with pytest.raises(ShuttingDownError):
        scheduler.submit(turns([], "never", 1))
    scheduler.close()


def test_a_receiver_that_fails_ends_its_own_request_only(folder: Path) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the receiver's own")

    engine = load(folder)
    scheduler = Scheduler(engine.runtime, max_concurrency=3)
    handles: list[Handle[Any]] = [
        scheduler.submit(ask(engine, "one", seed=1, max_tokens=60), on_chunk=fail),
        scheduler.submit(ask(engine, "one", seed=1, max_tokens=60), on_step=fail),
    ]
    for handle in handles:
        with pytest.raises(RuntimeError, match="the receiver's own"):
            handle.result(600)
    assert isinstance(scheduler.submit(ask(engine, "one", max_tokens=5)).result(600), Result)
    scheduler.close()
    assert engine.runtime.pool.used == engine.runtime.pool.promised == 0


def test_cancelling_ends_the_task_before_the_next_forward_but_one(scheduler: Scheduler) -> None:
    closed, started = threading.Event(), threading.Event()

    def endless() -> Task[None]:
        try:
            while True:
                started.set()
                yield Forward()
        finally:
            closed.set()

    handle = scheduler.submit(Made(endless))
    assert started.wait(600)
    handle.cancel()
    with pytest.raises(CancelledError):
        handle.result(600)
    assert closed.is_set()
    assert scheduler.load.running == 0


def test_when_all_wait_for_memory_the_youngest_gives_up_its_own_and_starts_again(scheduler: Scheduler) -> None:
    """Two requests that each need two of three units: without giving back, neither would ever get its second."""
    free = 3
    pieces: list[tuple[str, int]] = []

    def greedy(name: str) -> Task[str]:
        nonlocal free
        held = 0
        try:
            for index in range(2):
                while free == 0:
                    yield Waiting.FOR_MEMORY
                free, held = free - 1, held + 1
                yield Chunk(index, name, (), 1, True)
            while free > 0 and held < 3:
                free, held = free - 1, held + 1
            yield Forward()
            return name
        finally:
            free += held

    gate = Gate(scheduler)
    handles = [
        scheduler.submit(
            Made(partial(greedy, name)), on_chunk=lambda chunk: pieces.append((chunk.text, chunk.canvas_index))
        )
        for name in ("a", "b")
    ]
    gate.open()
    assert [handle.result(600) for handle in handles] == ["a", "b"]
    assert free == 3
    assert sorted(pieces) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)], "nothing is handed out twice"


def test_when_the_youngest_holds_nothing_others_give_way_until_the_oldest_can_go_on(scheduler: Scheduler) -> None:
    """Each of three needs three units of four: two hold two of them, and the youngest came too late for any."""
    free, ended = 4, []

    def needing(name: str) -> Task[str]:
        nonlocal free
        held = 0
        try:
            for wanted in (2, 1):
                while free < wanted:
                    yield Waiting.FOR_MEMORY
                free, held = free - wanted, held + wanted
                yield Forward()
            ended.append(name)
            return name
        finally:
            free += held

    # Until it is opened all of them are queued; then three run at once.
    gate = Gate(scheduler)
    handles = [scheduler.submit(Made(partial(needing, name))) for name in ("a", "b", "c")]
    gate.open()
    assert [handle.result(600) for handle in handles] == ["a", "b", "c"]
    assert ended == ["a", "b", "c"]
    assert free == 4
    assert scheduler.load.preempted > 0


def test_who_waits_for_what_nobody_here_can_give_back_is_told(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler.runtimes[0].pool, "budget", 1_000_000)

    def waiting() -> Task[None]:
        while True:
            yield Waiting.FOR_MEMORY

    with pytest.raises(GenerationError, match="other answers under way hold"):
        scheduler.submit(Made(waiting)).result(600)
    assert scheduler.submit(turns([], "after", 1)).result(600) == "after"


def test_a_full_queue_and_a_closing_scheduler_refuse(runtime: Runtime) -> None:
    scheduler = Scheduler(runtime, max_concurrency=1, max_waiting=1)
    gate = Gate(scheduler)
    waiting = scheduler.submit(turns([], "w", 1))
    with pytest.raises(BusyError, match="1 requests are waiting"):
        scheduler.submit(turns([], "x", 1))
    closing = threading.Thread(target=scheduler.close, args=(10,))
    closing.start()
    while not scheduler._closing:
        pass
    with pytest.raises(ShuttingDownError):
        scheduler.submit(turns([], "x", 1))
    gate.open()
    assert (gate.handle.result(600), waiting.result(600)) == ("done", "w"), (
        "who was there may finish within the grace time"
    )
    closing.join(600)


def test_what_is_left_after_the_grace_time_is_cancelled(runtime: Runtime) -> None:
    scheduler = Scheduler(runtime)

    def endless() -> Task[None]:
        while True:
            yield Forward()

    handle = scheduler.submit(Made(endless))
    scheduler.close(grace=0.05)
    with pytest.raises(CancelledError, match="the service ended"):
        handle.result(600)


def test_models_take_turns_and_no_batch_is_of_two(
    runtime: Runtime, batches: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One client asks both: each model's request goes on in every other batch. A row of both counts alike here."""
    other = scripted_engine(tmp_path_factory.mktemp("other"), random_logits(1), canvas_length=8).runtime
    scheduler = Scheduler([runtime, other], max_concurrency=4)
    log: list[str] = []
    gate = Gate(scheduler)
    handles = [
        scheduler.submit(Bound(rows_of(one, log, name, *[4] * 3).begin, one), client="a")
        for name, one in (("first", runtime), ("second", other), ("first", runtime))
    ]
    gate.open()
    assert [handle.result(60) for handle in handles] == ["first", "second", "first"]
    computed = [scheduler.load_of(one) for one in (runtime, other)]
    scheduler.close()
    assert [batch for batch in batches if batch != [0]] == [[4, 4]] * 3, "the second model's rows are never in them"
    assert [load.rows for load in computed] == [24, 12]
    # After the beginning of all three, a batch of one and a batch of the other.
    assert log[3:] == ["first", "first", "second"] * 2 or log[3:] == ["second", "first", "first"] * 2
    stranger = Bound(rows_of(other, log, "x", 1).begin, other)
    with pytest.raises(RequestError, match="made for a model that this scheduler does not run"):
        Scheduler(runtime).submit(stranger)


@dataclass(frozen=True)
class Bound(Made[T]):
    """A task that is for a model."""

    runtime: Runtime
