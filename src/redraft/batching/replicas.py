"""Chunks answered by replicas on Ray: a stateful map of Ray Data, whose actors each load the model once."""

from collections.abc import Iterator, Sequence
from typing import Any

from redraft.batching import rows
from redraft.batching.job import Worker
from redraft.batching.work import Done, Work
from redraft.errors import CheckpointError, RedraftError, RequestError
from redraft.kernels.library import use_threads


class Replica:
    """An actor: it answers the chunks that it is given by number."""

    def __init__(self, work: Work, threads: int) -> None:
        use_threads(threads)
        self._work, self._data = work, rows.open_rows(work.data)
        self._worker: Worker | None = None
        self._fault = ""
        try:
            self._worker = Worker(work.job, work.model, work.loading)
        except RedraftError as error:
            # Ray would start the actor again and again, and then say that it died.
            self._fault = str(error)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answer a chunk and say what was done. One that was written by a replica which died afterwards is kept."""
        if self._worker is None:
            return {"fault": self._fault, **vars(Done(0, 0, ""))}
        return {"fault": "", **vars(self._work.do(int(row["chunk"]), self._worker, self._data))}


def answered(work: Work, numbers: Sequence[int], replicas: int) -> Iterator[Done]:
    """Yield chunks as they are done, in any order. A replica that dies is replaced, and its chunk done once more.

    Raises RedraftError without Ray, and CheckpointError for a model that a replica cannot load.
    """
    if not numbers:
        return
    ray = _library()
    alone = not ray.is_initialized()
    if alone:
        ray.init(log_to_driver=False)
    try:
        threads = _processors(ray, replicas)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        chunks = ray.data.from_items([{"chunk": number} for number in numbers], override_num_blocks=len(numbers))
        done = chunks.map(
            Replica,
            fn_constructor_args=(work, threads),
            compute=ray.data.ActorPoolStrategy(size=min(replicas, len(numbers))),
            num_cpus=threads,
        )
        for found in done.iter_rows():
            fault = found.pop("fault")
            if fault:
                raise CheckpointError(f"a replica could not load {work.model!r}: {fault}")
            yield Done(**found)
    finally:
        if alone:
            ray.shutdown()


def _processors(ray: Any, replicas: int) -> int:
    """Return an even share of the cluster's processors."""
    there = int(ray.cluster_resources().get("CPU", 1))
    if replicas > there:
        raise RequestError(f"{replicas} replicas need a processor each, and the cluster has {there}")
    return there // replicas


def _library() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise RedraftError("replicas need Ray; install it with: pip install 'redraft[ray]'") from error
    return ray
