"""A contender in a process of its own: the same answers, its memory, and its end in words."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from redraft.kernels import library
from redraft.measure.process import ContenderError, ProcessContender
from redraft.measure.worker import ContenderSpec, serve
from redraft.measure.workload import RedraftContender, Workload
from tests.random_checkpoint import random_checkpoint
from tests.serve.conftest import wait_until

WORK = Workload((20, 21, 22), 20, 3)
BAD = Workload((20, 21, 99), 20, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("model"))


def spec(folder: Path, dtype: str = "float32") -> ContenderSpec:
    return ContenderSpec("redraft", str(folder), dtype, threads=1)


def test_serve_speaks_json(folder):
    """What the process does, in this one."""
    import torch

    before, kernels_before = torch.get_num_threads(), library.status().threads
    messages: list[dict[str, Any]] = []
    try:
        serve(spec(folder), [json.dumps({"prompt": [20], "max_tokens": 4, "steps": 2, "seed": 1})], messages.append)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
        library.set_threads(kernels_before or before)
    loaded, answer = json.loads(json.dumps(messages))
    assert loaded["loaded"]["threads"] == 1
    assert (answer["run"]["denoising_steps"], len(answer["run"]["token_ids"])) == (2, 4)


@pytest.fixture
def prepared_workers(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders live in processes that have imported torch and transformers already."""
    monkeypatch.setattr(sys, "executable", str(commands / "python"))


@pytest.mark.slow
@pytest.mark.usefixtures("prepared_workers")
class TestProcess:
    def test_the_same_answer_as_here_and_memory_that_grows(self, folder):
        here = RedraftContender.load(folder, "float32").answer(WORK, 7)
        with ProcessContender("ours", spec(folder), os.environ) as there:
            first, second = there.answer(WORK, 7), there.answer(WORK, 8)
        assert first.token_ids == here.token_ids != second.token_ids
        assert (first.denoising_steps, first.canvases) == (here.denoising_steps, here.canvases)
        assert len(first.later_step_seconds) == len(here.later_step_seconds)
        assert there.loaded.threads == 1
        if sys.platform in ("linux", "darwin"):
            memory = (there.loaded.libraries_bytes, there.loaded.loaded_bytes, first.peak_bytes, second.peak_bytes)
            known = [size for size in memory if size is not None]
            assert len(known) == len(memory)
            assert sorted(known) == known
        assert there._process.poll() is not None, "the process is gone"

    def test_errors_name_the_contender(self, folder, tmp_path):
        with pytest.raises(ContenderError, match=r"^ours: .* has no config\.json"):
            ProcessContender("ours", spec(tmp_path), os.environ).__enter__()
        with ProcessContender("ours", spec(folder), os.environ) as there:
            with pytest.raises(ContenderError, match=r"^ours: prompt token 2 is 99"):
                there.answer(BAD, 0)
            with pytest.raises(ContenderError, match=r"^ours: its process ended \(exit code 0\)"):
                there.answer(WORK, 0)

    def test_a_killed_process_is_told(self, folder):
        with ProcessContender("ours", spec(folder), os.environ) as there:
            there._process.kill()
            there._process.wait()
            with pytest.raises(ContenderError, match=r"^ours: .*killed by SIGKILL.*; the machine may be out of memory"):
                there.answer(WORK, 0)

    def test_unforeseen_errors_keep_their_name(self, folder):
        unforeseen = ContenderSpec("transformers", str(folder), "no_such_dtype", 1)
        with pytest.raises(ContenderError, match=r"^theirs: AttributeError: .*no_such_dtype"):
            ProcessContender("theirs", unforeseen, os.environ).__enter__()

    def test_it_ends_with_the_one_that_started_it(self, commands, folder):
        """No process is left behind to take time from the next measurement."""
        code = f"""
import os, signal
from redraft.measure.process import ProcessContender
from redraft.measure.worker import ContenderSpec
with ProcessContender("ours", ContenderSpec("redraft", {str(folder)!r}, "float32", 1), os.environ) as there:
    print(there._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
        done = subprocess.run([commands / "python", "-c", code], capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stderr) == (1, "the command ended without an exit code\n")
        wait_until(lambda: has_ended(int(done.stdout)))


def has_ended(process: int) -> bool:
    stat = Path(f"/proc/{process}/stat")
    try:
        os.kill(process, 0)
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True
