"""The parts that answer requests in one process: a scheduler, processes that compile, the application before both."""

import gc
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from redraft.api import Engine
from redraft.engine.compiling.processes import CompileProcesses
from redraft.engine.scheduler import MAX_BATCH_ROWS, MAX_CONCURRENCY, Scheduler
from redraft.errors import ConstraintError, RequestError, ShuttingDownError
from redraft.serve.app import create_app, entry_of
from redraft.serve.http.idle import share_arenas
from redraft.serve.http.metrics import ServerMetrics
from redraft.serve.state import ServerSettings

# Seconds after which a thread that runs Python lets another one run. The one that runs the model waits for it some ten
# times a forward while others are at work.
_SWITCH = 0.0001


class Backend:
    """Models that are ready to be served."""

    def __init__(
        self,
        engines: Mapping[str, Engine],
        settings: ServerSettings,
        *,
        names: Collection[str] | None,
        max_concurrency: int = MAX_CONCURRENCY,
        max_waiting: int = 256,
        max_batch_rows: int = MAX_BATCH_ROWS,
    ) -> None:
        """``engines``: by the names that clients know them by, of which ``settings.model`` is one. ``names``: as in
        ``create_app``; the others as in ``Scheduler``, over all models.

        Raises RequestError for names that cannot be told apart, or where ``settings.model`` is none of them.
        """
        check_names(list(engines))
        if settings.model not in engines:
            raise RequestError(f"model {settings.model!r} is none of those served: {', '.join(engines)}")
        models = {name: one.runtime for name, one in engines.items()}
        self.scheduler = Scheduler(
            list(models.values()),
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            max_batch_rows=max_batch_rows,
        )
        self.processes = CompileProcesses(self.scheduler.charge)
        self.entry = entry_of(self.scheduler)
        self.models, self.metrics = models, ServerMetrics(self.scheduler, models)
        self.app = create_app(
            self.scheduler,
            settings,
            models=models,
            names=names,
            processes=self.processes,
            metrics=self.metrics,
            entry=self.entry,
        )

    def close(self, grace: float) -> None:
        """Take no more requests, and end those that still run after ``grace`` seconds."""
        # What is still being compiled could not be queued any longer.
        self.processes.close()
        self.scheduler.close(grace)

    def warm_up(self) -> None:
        """Read the vocabularies, and start the processes that compile, before somebody waits for both."""
        for runtime in self.scheduler.runtimes:
            # A tokenizer that constraints cannot use is no fault unless one is asked for.
            with suppress(ConstraintError, ShuttingDownError):
                self.processes.start(runtime.constraints.vocabulary)


def ready(backend: Backend) -> None:
    """Set this process, which does nothing else, up to serve, and warm up beside it."""
    sys.setswitchinterval(_SWITCH)
    share_arenas()
    # What is there now stays: to look through it again and again would stop everything else for as long as it takes.
    gc.collect()
    gc.freeze()
    threading.Thread(target=backend.warm_up, name="redraft-warm-up", daemon=True).start()


def check_names(names: Sequence[str]) -> None:
    """Raise RequestError for names of models of which clients could not tell which is meant."""
    for name in names:
        if not name.strip():
            raise RequestError("a model's name is empty; give it one with --name")
        if names.count(name) > 1:
            raise RequestError(
                f"two models are called {name!r}; give each a name of its own: --name, once for each --model, in order"
            )


def share_memory(engines: Sequence[Engine], kv_bytes: int | None) -> None:
    """Have the keys and values of several models take no more than ``kv_bytes`` together; None for what the one that
    was left least may take: each was loaded into what the weights of those before it had left."""
    first, *others = (pool for engine in engines for pool in engine.runtime.pools)
    limits = [pool.budget for pool in (first, *others) if pool.budget is not None]
    limit = min(limits, default=None) if kv_bytes is None else kv_bytes
    if limit is None:
        return
    first.budget = limit
    for pool in others:
        if pool.memory is not first.memory:
            pool.share(first)
