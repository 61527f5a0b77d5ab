"""The thread pool, driven from C++ (pool.cpp): short jobs, nested calls, several callers, fork, exit."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.compiler import OUTSIDE, compile_cpp, needs_compiler, program

HERE = Path(__file__).parent
NATIVE = HERE.parents[1] / "src/redraft/kernels/native"
SOURCES = ("-I", NATIVE, HERE / "pool.cpp", NATIVE / "threads.cpp")

pytestmark = [needs_compiler, pytest.mark.skipif(sys.platform == "win32", reason="pool.cpp forks")]


def run(pool: Path, what: str, times: int) -> None:
    for _ in range(times):
        done = subprocess.run([pool, what], env=OUTSIDE, capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return program(tmp_path_factory.mktemp("pool"), "-O2", *SOURCES)


@pytest.mark.parametrize("what", ["work", "fork"])
def test_every_index_runs_once(pool, what):
    run(pool, what, times=4)


def test_no_data_race(tmp_path):
    (tmp_path / "empty.cpp").write_text("int main() { return 0; }")
    sanitize = ("-fsanitize=thread", "-O1", "-g")
    if compile_cpp(*sanitize, tmp_path / "empty.cpp", "-o", tmp_path / "empty").returncode:
        pytest.skip("the compiler has no thread sanitizer")
    # Without fork: the sanitizer does not follow threads into a child.
    run(program(tmp_path, *sanitize, *SOURCES), "work", times=2)
