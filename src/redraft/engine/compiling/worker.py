"""The process that compiles: it keeps the vocabulary, and forks a child for each job.

A child shares the vocabulary's memory, has the lock of its interpreter to itself, and ends with its connection: nobody
has to know its number to stop it, and none outlives the server, however that ends.
"""

import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from redraft.constrain.automaton.vocabulary import Vocabulary
from redraft.constrain.language.character_classes import in_any_dialect
from redraft.errors import ConstraintError
from redraft.kernels import automata
from redraft.kernels.library import native

# Seconds of the processor after which a job gives way to whatever else wants it.
_SHORT = 0.25
_NICE = 10


@dataclass(frozen=True)
class Answer:
    """The outcome of a job."""

    value: Any
    error: Exception | None
    seconds: float
    """Seconds of the processor that it took."""


def main() -> None:
    """Serve on the socket whose number is the last argument, until it is closed."""
    control = socket.socket(fileno=int(sys.argv[-1]))
    # Ctrl-C in a terminal goes to all processes; this one ends when the server does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    serve(control)


def serve(control: socket.socket) -> None:
    """Read the vocabulary, then fork for each connection that comes, until the other side closes."""
    reading = Connection(os.dup(control.fileno()))
    try:
        vocabulary: Vocabulary = reading.recv()
    except EOFError:
        return
    finally:
        reading.close()
    automata.use()
    # Made once here, and not by every child.
    _ = vocabulary.prefixes, vocabulary.has_text, vocabulary.silent, native()
    _ = [in_any_dialect(letter) for letter in "dsw"]
    # What is never collected is not written to, and stays shared.
    gc.collect()
    gc.freeze()
    while True:
        message, numbers, *_ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            _run(Connection(numbers[0]), vocabulary)
        os.close(numbers[0])


def _run(connection: Connection, vocabulary: Vocabulary) -> None:
    """Do the one job of a child, and end it."""
    status = 1
    try:
        _give_way()
        job = connection.recv()
        threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
        connection.send(_answer(job, vocabulary))
        status = 0
    except (EOFError, ConnectionError):
        # Nobody waits for it any longer.
        status = 0
    finally:
        # Nothing of the parent's is to be run again at the end of a child.
        os._exit(status)


def _answer(job: Any, vocabulary: Vocabulary) -> Answer:
    began = _spent()
    value: Any = None
    error: Exception | None = None
    try:
        value = job.build(vocabulary)
    except MemoryError:
        error = ConstraintError("the constraint takes more memory to compile than there is; make it smaller")
    except Exception as raised:
        error = raised
    return Answer(value, error, max(now - before for now, before in zip(_spent(), began, strict=True)))


def _spent() -> tuple[float, float]:
    """Seconds of the processor that this process, and this thread, have had. The first may lag behind by as much as a
    job takes; the second leaves other threads out."""
    return time.process_time(), time.thread_time()


def _end_with(connection: Connection) -> None:
    # Nothing more is ever sent to a child: what there is to read is the end.
    connection.poll(None)
    os._exit(0)


def _give_way() -> None:
    """Yield the processor to others once the job turns out to be long; be the first to go where memory runs out."""
    signal.signal(signal.SIGPROF, lambda *_: os.nice(_NICE))
    signal.setitimer(signal.ITIMER_PROF, _SHORT)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
