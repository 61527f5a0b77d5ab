"""The machine's C++ compiler, for tests that build something of their own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on the path")

# script/sanitize preloads a sanitizer into Python; compilers and programs of their own do without.
OUTSIDE = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def compile_cpp(*arguments: object) -> subprocess.CompletedProcess[str]:
    assert COMPILER is not None
    command = [COMPILER, "-std=c++17", "-Wall", "-Wextra", *map(str, arguments)]
    return subprocess.run(command, env=OUTSIDE, capture_output=True, text=True, timeout=300)


def program(folder: Path, *arguments: object) -> Path:
    """The program that this compiles to."""
    done = compile_cpp(*arguments, "-pthread", "-o", folder / "program")
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "program"


def shared_library(folder: Path, source: str) -> Path:
    """A library of this source."""
    (folder / "source.cpp").write_text(source)
    done = compile_cpp("-shared", "-fPIC", folder / "source.cpp", "-o", folder / "library.so")
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "library.so"
