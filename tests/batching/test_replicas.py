"""Replicas on Ray answer as one process does, also where one dies. Run where Ray is installed: ``redraft[ray]``."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from redraft.batching.run import batch
from redraft.errors import CheckpointError
from tests.batching.test_run import SETTINGS, model, read, timeless, write

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
__all__ = ["model", "write"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Any:
    """Two processors, of which each replica gets one."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def replicas() -> list[int]:
    """The processes that answer."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"MapWorker" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_rows_are_those_of_one_process_also_where_a_replica_is_killed(model: Path, write: Any, tmp_path: Path) -> None:
    data = write([{"prompt": f"row {number}"} for number in range(12)])
    killed: list[int] = []

    def kill_one(done: int, _: int) -> None:
        if not killed:
            killed.append(replicas()[0])
            os.kill(killed[0], signal.SIGKILL)

    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    batch(data, one, model=model, parameters=SETTINGS, chunk=1)
    done = batch(data, two, model=model, parameters=SETTINGS, chunk=1, replicas=2, on_progress=kill_one)
    assert (done.rows, done.failed, len(killed)) == (12, 0, 1)
    for here, there in zip(read(one), read(two), strict=True):
        assert here["prompt"] == there["prompt"]
        assert timeless(here["answer"]) == timeless(there["answer"])


def test_what_a_replica_cannot_load_is_named(write: Any, tmp_path: Path) -> None:
    data = write([{"prompt": "a"}])
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"a replica could not load .*broken.*its weights are missing"):
        batch(data, tmp_path / "out.jsonl", model=folder, parameters=SETTINGS, replicas=1)
