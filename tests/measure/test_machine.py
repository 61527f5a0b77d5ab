"""What is said of the machine, malloc and memory."""

import os
import platform
import subprocess
import sys
from dataclasses import replace
from mmap import PAGESIZE, mmap
from types import SimpleNamespace
from typing import Any

import pytest

from redraft.errors import RequestError
from redraft.measure import machine
from redraft.measure.machine import Machine
from redraft.measure.memory import peak_bytes, resident_bytes
from redraft.models import checkpoint
from tests.random_checkpoint import random_checkpoint

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
QUIET = Machine("Abacus", 4, "Linux", "3.11", "2.13", None, "none", 0.5)


def test_describe():
    here = machine.describe()
    assert here.processor
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert here.torch == __import__("torch").__version__
    assert here.transformers == __import__("transformers").__version__


class TestWarning:
    @pytest.mark.parametrize(("load", "cores"), [(0.5, 4), (1.0, 4), (0.25, 1), (None, 4)])
    def test_none_on_a_quiet_machine(self, load, cores):
        assert replace(QUIET, load_average=load, cores=cores).warning is None

    @pytest.mark.parametrize(("load", "cores"), [(1.1, 4), (0.6, 2), (9.0, 4)])
    def test_a_busy_machine_in_words(self, load, cores):
        warning = replace(QUIET, load_average=load, cores=cores).warning
        assert warning is not None
        assert f"the machine is busy: {load:.1f} processes want to run on {cores} cores" in warning


class TestMalloc:
    @pytest.mark.skipif(not GLIBC, reason="needs glibc")
    def test_with_glibc(self, monkeypatch):
        monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1")
        tuned, unsaid, default = machine.malloc("tuned"), machine.malloc(None), machine.malloc("default")
        assert tuned == unsaid
        assert tuned.environment["MALLOC_MMAP_THRESHOLD_"] == "4000000000"
        assert tuned.environment["MALLOC_TRIM_THRESHOLD_"] == "8000000000"
        assert "MALLOC_MMAP_THRESHOLD_=4000000000" in tuned.description
        assert "MALLOC_MMAP_THRESHOLD_" not in default.environment
        assert default.environment["PATH"] == os.environ["PATH"]

    @pytest.mark.parametrize(
        ("system", "libc", "named"), [("darwin", "", "darwin"), ("linux", "musl", "linux without")]
    )
    def test_elsewhere(self, monkeypatch, system, libc, named):
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(platform, "libc_ver", lambda: (libc, ""))
        assert machine.malloc(None).description == machine.malloc("default").description == "the system's own"
        with pytest.raises(RequestError, match=f"--malloc tuned .* {named}"):
            machine.malloc("tuned")


class TestTransformers:
    @pytest.fixture
    def found(self, tmp_path):
        return checkpoint.read(random_checkpoint(tmp_path))

    def test_is_there(self, found):
        assert machine.transformers_fault(found) is None

    def test_is_not_installed(self, monkeypatch, found):
        monkeypatch.setattr(machine, "find_spec", lambda _: None)
        assert "pip install transformers" in str(machine.transformers_fault(found))

    def test_has_no_such_family(self, found):
        other: Any = SimpleNamespace(architecture="Other", family=SimpleNamespace(transformers_package=None))
        assert machine.transformers_fault(other) == "transformers does not generate with Other"

    def test_is_too_old(self, monkeypatch, tmp_path, found):
        (tmp_path / "models").mkdir()
        spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
        monkeypatch.setattr(machine, "find_spec", lambda _: spec)
        fault = str(machine.transformers_fault(found))
        assert "has no DiffusionGemmaForBlockDiffusion; install a newer one" in fault


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="not told by this system")
class TestMemory:
    def test_the_peak_is_this_programs_own_and_not_what_started_it(self):
        """``ru_maxrss`` on Linux would show the 300 MB of the parent."""
        ballast = bytearray(os.urandom(1)) * 300_000_000
        code = "from redraft.measure.memory import peak_bytes; print(peak_bytes())"
        peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        assert len(ballast) == 300_000_000
        assert 5_000_000 < peak < 250_000_000

    def test_resident_and_peak_follow_an_allocation(self):
        before, size = resident_bytes(), 200_000_000
        # Not by the allocator, which may have so much at hand.
        with mmap(-1, size) as ballast:
            for page in range(0, size, PAGESIZE):
                ballast[page] = 1
            during = resident_bytes()
        peak = peak_bytes()
        assert before is not None
        assert during is not None
        assert peak is not None
        assert during >= before + 0.9 * size
        assert peak >= during
