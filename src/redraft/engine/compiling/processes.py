"""Compiles constraints in processes of their own: one at a time for each client, and ended when nobody waits for it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.job import Job
from redraft.engine.compiling.worker import Answer
from redraft.engine.fairness import Client, Turns
from redraft.errors import CancelledError, GenerationError, ShuttingDownError

T = TypeVar("T")

AT_ONCE = 4
"""Jobs that are compiled at once, for different clients."""
MAX_WAITING, MAX_WAITING_OF_EACH = 256, 64
# Seconds between two looks whether somebody still waits for a job.
_LOOK = 0.05
_LAST_WORDS = 5.0
_COMMAND = "from redraft.engine.compiling.worker import main; main()"
# Fork copies one thread alone, so that no library may have started others.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def never() -> bool:
    """Tell of a client that it has not gone."""
    return False


@dataclass(frozen=True, eq=False)
class ClientBuilder:
    """Builds one client's jobs (a ``job.Builder``)."""

    processes: "CompileProcesses"
    client: Client
    gone: Callable[[], bool] = never
    """Tells that nobody waits for the jobs any longer."""
    elsewhere: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """Held while the caller only waits, so that others can have its own place."""

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the client's place; BusyError where too many wait, CancelledError once the client has gone."""
        with self.elsewhere(), self.processes.turns.turn(self.client.owner, self.gone):
            yield

    def build(self, job: Job[T], vocabulary: Vocabulary) -> T:
        """Build a job; CancelledError once the client has gone, GenerationError where the process failed."""
        return self.processes.build(job, vocabulary, self.client, self.gone)


class _Process:
    """A process that keeps one vocabulary and forks for each job; started when it is needed."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Its number; None while it does not run."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def started(self) -> socket.socket:
        """Start it unless it runs, and return where it is told to fork."""
        if self._control is not None and self.pid is not None:
            return self._control
        self.stop()
        own, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
            )
        self._control = own
        _ = self.vocabulary.prefixes
        sending = Connection(os.dup(own.fileno()))
        with contextlib.closing(sending):
            sending.send(self.vocabulary)
        return own

    def stop(self) -> None:
        """End it."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(_LAST_WORDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


class CompileProcesses:
    """A process for each vocabulary, which forks for each job. Its methods may be called from any thread."""

    def __init__(self, charge: Callable[[Client, float], None] = lambda client, seconds: None) -> None:
        """``charge`` is told how many seconds a client's job took."""
        self.turns = Turns(
            "compilations",
            at_once=AT_ONCE,
            of_each=1,
            waiting=MAX_WAITING,
            waiting_of_each=MAX_WAITING_OF_EACH,
        )
        self._charge = charge
        self._lock = threading.Lock()
        self._processes: dict[int, _Process] = {}
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The numbers of the processes that run."""
        with self._lock:
            return [process.pid for process in self._processes.values() if process.pid is not None]

    def start(self, vocabulary: Vocabulary) -> None:
        """Start the process of a vocabulary, unless it runs."""
        with self._lock:
            self._of(vocabulary).started()

    def build(self, job: Job[T], vocabulary: Vocabulary, client: Client, gone: Callable[[], bool] = never) -> T:
        """Build a job in a process of its own.

        Raises what the job raises, CancelledError once ``gone`` is true, ShuttingDownError after ``close``, and
        GenerationError where the process ended without an answer.
        """
        began = time.monotonic()
        try:
            answer = self._answer(job, vocabulary, gone)
        except Exception:
            # How much it has computed is not known; no more than what has passed.
            self._count(client, time.monotonic() - began)
            raise
        self._count(client, answer.seconds)
        if answer.error is not None:
            raise answer.error
        value: T = answer.value
        return value

    def close(self) -> None:
        """End the processes and all jobs."""
        self.turns.close()
        with self._lock:
            self._closed = True
            for process in self._processes.values():
                process.stop()

    def _count(self, client: Client, seconds: float) -> None:
        self.turns.charge(client.owner, seconds)
        self._charge(client, seconds)

    def _answer(self, job: Job[T], vocabulary: Vocabulary, gone: Callable[[], bool]) -> Answer:
        with contextlib.closing(self._connect(vocabulary)) as connection:
            # Closed, also by an error here, it ends the child.
            try:
                connection.send(job)
                while not connection.poll(_LOOK):
                    if gone():
                        raise CancelledError("nobody waits for the constraint any longer")
                    if self._closed:
                        raise ShuttingDownError("the server is shutting down; it takes no more requests")
                answer: Answer = connection.recv()
            except (EOFError, ConnectionError) as error:
                raise GenerationError(
                    "the process that compiled the constraint ended before it was done; it may have run out of memory"
                ) from error
            return answer

    def _connect(self, vocabulary: Vocabulary) -> Connection:
        """Have a child forked, and return the connection to it."""
        with self._lock:
            process = self._of(vocabulary)
            for attempt in (0, 1):
                own, theirs = socket.socketpair()
                try:
                    with theirs:
                        socket.send_fds(process.started(), [b"j"], [theirs.fileno()])
                    return Connection(own.detach())
                except OSError as error:
                    own.close()
                    # Somebody has ended it; a new one does as well.
                    process.stop()
                    if attempt:
                        raise GenerationError(
                            f"no process that compiles constraints can be started: {error}"
                        ) from error
        raise AssertionError("one of the attempts returns or raises")

    def _of(self, vocabulary: Vocabulary) -> _Process:
        if self._closed:
            raise ShuttingDownError("the server is shutting down; it takes no more requests")
        # Two models never share one, even where their vocabularies are equal.
        return self._processes.setdefault(id(vocabulary), _Process(vocabulary))
