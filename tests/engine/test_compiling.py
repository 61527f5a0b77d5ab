"""Compilation in processes of their own: the same result, one at a time for each client, and nothing left of it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest

from redraft.constrain import Choice, Constraint, JSONSchema, Regex, Template
from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.job import ConstraintJob, DecisionsJob
from redraft.engine.compiling.processes import ClientBuilder, CompileProcesses
from redraft.engine.fairness import Client
from redraft.errors import CancelledError, ConstraintError, GenerationError, ShuttingDownError

END = 256
WORDS = Vocabulary.from_tokens([*(bytes([value]) for value in range(256)), b"", b"yes", b'{"', b'":', b"true"])
A, B = Client("a"), Client("b")


@dataclass(frozen=True)
class Endless:
    """A job that ends only with its process; it tells of itself in a file."""

    path: str

    def build(self, vocabulary: Vocabulary) -> None:
        Path(self.path).write_text(str(os.getpid()))
        while True:
            pass


@dataclass(frozen=True)
class Deadly:
    """A job whose process is killed."""

    def build(self, vocabulary: Vocabulary) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Modules:
    """A job that tells which modules its process has."""

    def build(self, vocabulary: Vocabulary) -> list[str]:
        return sorted(sys.modules)


@pytest.fixture(scope="module")
def processes() -> Iterator[CompileProcesses]:
    # The jobs of this file are unpickled by name.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    processes = CompileProcesses()
    processes.start(WORDS)
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    yield processes
    processes.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until(condition: Callable[[], bool]) -> None:
    for _ in range(60_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def job(constraint: Constraint, *stop: str) -> ConstraintJob:
    return ConstraintJob(constraint, (END,), stop, None)


@pytest.mark.parametrize(
    "constraint",
    [
        JSONSchema({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}),
        Regex("[a-c]{2,5}"),
        Choice(["yes", "no"]),
        Template("is it {answer}?"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_is_built_is_what_is_built_here(processes: CompileProcesses, constraint: Constraint) -> None:
    there, here = processes.build(job(constraint, "zz"), WORDS, A), job(constraint, "zz").build(WORDS)
    assert there.beginning == here.beginning
    for field in fields(here.automaton):
        np.testing.assert_array_equal(getattr(there.automaton, field.name), getattr(here.automaton, field.name))


def test_decisions_are_built_as_well(processes: CompileProcesses) -> None:
    decisions = DecisionsJob("{q}", (("q", ("yes", "no")),), (END,))
    there, here = processes.build(decisions, WORDS, A), decisions.build(WORDS)
    assert there.min_tokens == here.min_tokens
    np.testing.assert_array_equal(there.token_class, here.token_class)


def test_what_is_refused_is_refused_in_the_same_words(processes: CompileProcesses) -> None:
    with pytest.raises(ConstraintError) as here:
        job(JSONSchema({"type": "wrong"})).build(WORDS)
    with pytest.raises(ConstraintError) as there:
        processes.build(job(JSONSchema({"type": "wrong"})), WORDS, A)
    assert str(there.value) == str(here.value)


def test_the_process_has_no_torch(processes: CompileProcesses) -> None:
    found = processes.build(Modules(), WORDS, A)
    assert "numpy" in found
    assert not {name.partition(".")[0] for name in found} & {"torch", "transformers", "fastapi"}


def test_a_client_that_goes_ends_its_compilation(processes: CompileProcesses, tmp_path: Path) -> None:
    gone, told, path = threading.Event(), list[BaseException](), tmp_path / "pid"
    builder = ClientBuilder(processes, A, gone.is_set)

    def compile() -> None:
        try:
            with builder.turn():
                builder.build(Endless(str(path)), WORDS)
        except CancelledError as error:
            told.append(error)

    thread = threading.Thread(target=compile)
    thread.start()
    until(lambda: path.exists() and path.read_text() != "")
    # Another client is not kept waiting meanwhile.
    assert processes.build(job(Choice(["yes"])), WORDS, B).automaton.states > 0
    gone.set()
    thread.join(600)
    assert len(told) == 1
    until(lambda: not alive(int(path.read_text())))
    assert processes.turns.running == 0


def test_a_process_that_is_killed_is_an_error_of_its_job_alone(processes: CompileProcesses) -> None:
    with pytest.raises(GenerationError, match="ended before it was done"):
        processes.build(Deadly(), WORDS, A)
    assert processes.build(job(Choice(["yes"])), WORDS, A).automaton.states > 0


def test_a_new_process_is_started_where_the_old_one_was_killed() -> None:
    processes = CompileProcesses()
    processes.start(WORDS)
    (first,) = processes.pids
    os.kill(first, signal.SIGKILL)
    until(lambda: not processes.pids)
    assert processes.build(job(Choice(["yes"])), WORDS, A).automaton.states > 0
    (last,) = processes.pids
    assert last != first
    processes.close()
    assert not alive(last)
    with pytest.raises(ShuttingDownError):
        processes.build(job(Choice(["yes"])), WORDS, A)


_SERVER = """
import os, signal, sys, threading, time
from redraft.engine.compiling.processes import CompileProcesses
from redraft.engine.fairness import Client
from tests.engine.test_compiling import Endless, WORDS
# Whoever runs tests in the background of a shell has Ctrl-C ignored by all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
processes = CompileProcesses()
threading.Thread(target=processes.build, args=(Endless(sys.argv[1]), WORDS, Client("a")), daemon=True).start()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
print(*processes.pids, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_a_server_however_that_ends(tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "pid"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    assert server.stdout is not None
    try:
        worker = int(server.stdout.readline())
        until(lambda: path.read_text() != "")
        job_pid = int(path.read_text())
        server.send_signal(how)
        server.wait(600)
    finally:
        server.kill()
        server.stdout.close()
    until(lambda: not alive(worker) and not alive(job_pid))
