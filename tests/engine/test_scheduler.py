"""What a service promises: everybody gets the answer they would get alone, and nobody's fault is another's."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from redraft import JSONSchema, Result
from redraft.api import Engine
from redraft.engine.result import Chunk
from redraft.engine.scheduler import Service
from redraft.engine.task import Waiting, Work
from redraft.errors import BusyError, CancelledError, GenerationError, ShuttingDownError
from redraft.loading import load
from redraft.tasks.choose import choose
from tests.random_checkpoint import LETTERS_SIZE, random_checkpoint

SETTINGS = {"max_denoising_steps": 4, "t_max": 0.4, "t_min": 0.2}
PROMPTS = ["one", "two two", "three three three", "and a fourth one", "one"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return random_checkpoint(folder, letters=True, vocab_size=LETTERS_SIZE, canvas_length=24, generation=SETTINGS)


@pytest.fixture
def engine(folder: Path) -> Engine:
    return load(folder)


@pytest.fixture
def service(engine: Engine) -> Iterator[Service]:
    service = Service(engine, max_concurrency=3)
    yield service
    service.close()


def test_every_request_gets_the_answer_that_it_gets_alone(folder: Path, engine: Engine, service: Service) -> None:
    alone = load(folder)
    schema = JSONSchema({"type": "array", "items": {"type": "integer"}, "maxItems": 3})
    expected = [alone.generate(prompt, seed=i, max_tokens=60) for i, prompt in enumerate(PROMPTS)]
    constrained = alone.generate("four", seed=7, constraint=schema, max_tokens=20)
    chosen = alone.choose("is it?", ["yes", "no"], seed=3)
    tickets = [
        service.submit(lambda i=i, prompt=prompt: engine.stream(prompt, seed=i, max_tokens=60).work)
        for i, prompt in enumerate(PROMPTS)
    ]
    json_ticket = service.submit(lambda: engine.stream("four", seed=7, constraint=schema, max_tokens=20).work)
    choice = service.submit(lambda: choose(engine, "is it?", ["yes", "no"], seed=3).work())
    assert [ticket.result(60).token_ids for ticket in tickets] == [result.token_ids for result in expected]
    assert json_ticket.result(60).text == constrained.text
    assert choice.result(60).answers == chosen.answers
    assert service.load.finished == 7


class Gate:
    """A request that holds the service's thread until it is opened, so that others are queued when they are."""

    def __init__(self, service: Service) -> None:
        self._opened, started = threading.Event(), threading.Event()

        def blocked() -> Work[str]:
            started.set()
            self._opened.wait(10)
            yield None
            return "done"

        self.ticket = service.submit(blocked)
        assert started.wait(10)

    def open(self) -> None:
        self._opened.set()


def turns(log: list[str], name: str, count: int) -> Work[str]:
    for _ in range(count):
        log.append(name)
        yield None
    return name


def test_requests_take_turns_and_join_and_leave_at_any_of_them(service: Service) -> None:
    log: list[str] = []
    gate = Gate(service)
    counts = {"a": 9, "b": 1, "c": 2, "d": 1}
    tickets = [service.submit(lambda n=n, c=c: turns(log, n, c)) for n, c in counts.items()]
    gate.open()
    assert [ticket.result(10) for ticket in tickets] == ["a", "b", "c", "d"]
    assert log[:2] == ["a", "b"], "two join the blocked one, a third has to wait for a place"
    assert {name: log.count(name) for name in counts} == counts
    assert log.index("d") < len(log) - 1, "the last one joins before the first has finished"


def test_clients_are_served_in_turn(engine: Engine) -> None:
    service = Service(engine, max_concurrency=1)
    log: list[str] = []
    gate = Gate(service)
    tickets = [service.submit(lambda n=n: turns(log, n, 1), client=n[0]) for n in ("a1", "a2", "a3", "b1", "b2")]
    gate.open()
    for ticket in tickets:
        ticket.result(10)
    service.close()
    assert log == ["a1", "b1", "a2", "b2", "a3"]


@pytest.mark.parametrize("error", [ValueError("a fault"), GenerationError("NaN"), MemoryError()])
def test_a_fault_ends_its_own_request_only(service: Service, error: Exception) -> None:
    def faulty() -> Work[None]:
        yield None
        raise error

    log: list[str] = []
    tickets = [service.submit(faulty), service.submit(lambda: turns(log, "good", 5)), service.submit(faulty)]
    assert tickets[1].result(10) == "good"
    for ticket in (tickets[0], tickets[2]):
        with pytest.raises(type(error)):
            ticket.result(10)
    assert service.submit(lambda: turns(log, "after", 1)).result(10) == "after"


def test_a_fault_in_how_a_request_ends_is_its_own_too(service: Service) -> None:
    begun = threading.Event()

    def faulty() -> Work[None]:
        try:
            while True:
                begun.set()
                yield None
        finally:
            raise ValueError("while it was closed")

    ticket = service.submit(faulty)
    assert begun.wait(10)
    ticket.cancel()
    with pytest.raises(ValueError, match="while it was closed"):
        ticket.result(10)
    assert service.submit(lambda: turns([], "after", 1)).result(10) == "after"


def test_a_service_that_fails_leaves_nobody_waiting(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Service) -> None:
        raise SystemError("the service's own fault")

    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(Service, "_admit", fail)
    service = Service(engine)
    ticket = service.submit(lambda: turns([], "never", 1))
    with pytest.raises(CancelledError, match="the service ended"):
        ticket.result(10)
    with pytest.raises(ShuttingDownError):
        service.submit(lambda: turns([], "never", 1))
    service.close()


def test_a_receiver_that_fails_ends_its_own_request_only(engine: Engine, service: Service) -> None:
    def fail(chunk: Chunk) -> None:
        raise RuntimeError("the receiver's own")

    ticket = service.submit(lambda: engine.stream("one", seed=1, max_tokens=60).work, on_chunk=fail)
    with pytest.raises(RuntimeError, match="the receiver's own"):
        ticket.result(10)
    assert isinstance(service.submit(lambda: engine.stream("one", max_tokens=5).work).result(10), Result)


def test_cancelling_ends_the_work_before_its_next_turn_but_one(service: Service) -> None:
    closed, started = threading.Event(), threading.Event()

    def endless() -> Work[None]:
        try:
            while True:
                started.set()
                yield None
        finally:
            closed.set()

    ticket = service.submit(endless)
    assert started.wait(10)
    ticket.cancel()
    with pytest.raises(CancelledError):
        ticket.result(10)
    assert closed.is_set()
    assert service.load.running == 0


def test_when_all_wait_for_memory_the_youngest_gives_up_its_own_and_starts_again(service: Service) -> None:
    """Two requests that each need two of three units: without giving back, neither would ever get its second."""
    free = 3
    pieces: list[tuple[str, int]] = []

    def greedy(name: str) -> Work[str]:
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
            yield None
            return name
        finally:
            free += held

    tickets = [
        service.submit(
            lambda name=name: greedy(name), on_chunk=lambda chunk: pieces.append((chunk.text, chunk.canvas_index))
        )
        for name in ("a", "b")
    ]
    assert [ticket.result(10) for ticket in tickets] == ["a", "b"]
    assert free == 3
    assert sorted(pieces) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)], "nothing is handed out twice"


def test_a_full_queue_and_a_closing_service_refuse(engine: Engine) -> None:
    service = Service(engine, max_concurrency=1, max_waiting=1)
    gate = Gate(service)
    waiting = service.submit(lambda: turns([], "w", 1))
    with pytest.raises(BusyError, match="1 requests are waiting"):
        service.submit(lambda: turns([], "x", 1))
    closing = threading.Thread(target=service.close, args=(10,))
    closing.start()
    while not service._closing:
        pass
    with pytest.raises(ShuttingDownError):
        service.submit(lambda: turns([], "x", 1))
    gate.open()
    assert (gate.ticket.result(10), waiting.result(10)) == ("done", "w"), (
        "who was there may finish within the grace time"
    )
    closing.join(10)


def test_what_is_left_after_the_grace_time_is_cancelled(engine: Engine) -> None:
    service = Service(engine)

    def endless() -> Work[None]:
        while True:
            yield None

    ticket = service.submit(endless)
    service.close(grace=0.05)
    with pytest.raises(CancelledError, match="the service ended"):
        ticket.result(10)
