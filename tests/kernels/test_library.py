"""Which library and tier are used, and what is said where there is none."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from redraft.errors import RequestError
from redraft.kernels import interface, library
from redraft.kernels.library import MAX_THREADS, TIERS, native, physical_cores, set_threads, status
from tests.kernels.compiler import needs_compiler, program, shared_library

needs_library = pytest.mark.skipif(native() is None, reason=status().reason)

SHOW = """
import dataclasses, json
from redraft.kernels.library import status
print(json.dumps(dataclasses.asdict(status())))
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "REDRAFT_KERNELS"}
    return subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=600
    )


def shown(**environment: str) -> dict[str, object]:
    done = python(SHOW, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_compiler
@pytest.mark.skipif("REDRAFT_KERNELS" in os.environ, reason="REDRAFT_KERNELS is set")
def test_where_there_is_a_compiler_there_is_a_library():
    """The build falls back silently to pure Python; this is where a compile error shows."""
    assert native() is not None, status().reason


@needs_library
@pytest.mark.parametrize("tier", TIERS)
def test_each_tier_of_this_processor_can_be_chosen(tier):
    best = shown()["best_tier"]
    now = shown(REDRAFT_KERNELS=tier)
    assert now["best_tier"] == best
    if TIERS.index(tier) < TIERS.index(best):
        assert (now["tier"], now["reason"]) == (tier, f"REDRAFT_KERNELS={tier}")
    else:
        assert (now["tier"], now["reason"]) == (best, "the best that this processor, its system and the compiler have")


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_the_best_tier_is_what_the_system_reports():
    text = Path("/proc/cpuinfo").read_text()
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    needs = [
        {"avx2", "fma", "f16c"},
        {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"},
        {"amx_tile", "amx_bf16", "amx_int8"},
    ]
    expected = 0
    while expected < len(needs) and needs[expected] <= flags:
        expected += 1
    # An old compiler, or a system that refuses tiles, leaves less.
    assert TIERS.index(shown()["best_tier"]) <= expected


def test_none_is_torch():
    assert shown(REDRAFT_KERNELS="none") == {
        "tier": "torch",
        "best_tier": None,
        "threads": None,
        "reason": "REDRAFT_KERNELS=none",
    }


def test_a_wrong_tier_is_refused_by_name():
    done = python(SHOW, REDRAFT_KERNELS="sse9")
    assert done.returncode == 1
    assert done.stderr.endswith("RequestError: REDRAFT_KERNELS=sse9 is not one of none, generic, avx2, avx512, amx\n")


def test_a_library_that_is_not_there(tmp_path):
    now = shown(REDRAFT_KERNELS_LIBRARY=str(tmp_path / "nothing.so"))
    assert now["tier"] == "torch"
    assert str(tmp_path / "nothing.so") in str(now["reason"])


def test_a_file_that_is_no_library(tmp_path):
    (tmp_path / "text.so").write_text("not a library")
    now = shown(REDRAFT_KERNELS_LIBRARY=str(tmp_path / "text.so"))
    assert now["tier"] == "torch"
    assert str(now["reason"]).startswith("the library cannot be loaded: ")


def test_an_installation_without_a_library(tmp_path):
    """The package's sources alone, as a wheel built without a compiler holds them."""
    package = Path(library.__file__).parents[1]
    shutil.copytree(
        package / "kernels", tmp_path / "redraft/kernels", ignore=shutil.ignore_patterns("native", "_native*")
    )
    for name in ("__init__.py", "errors.py"):
        shutil.copy(package / name, tmp_path / "redraft" / name)
    # In front of an editable installation's import hook too.
    here = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.meta_path[:] = sys.meta_path[-3:]\n"
    done = python(here + SHOW, REDRAFT_KERNELS_LIBRARY="")
    assert done.returncode == 0, done.stderr
    now = json.loads(done.stdout)
    assert now["tier"] == "torch"
    assert now["reason"] == "no compiled library (built without a C++ compiler; reinstall with one for speed)"


def stub(folder: Path, headers: str | None, name: str, value: int) -> Path:
    """A library that says what it was built from, and that lays everything out as Python does but for one thing."""
    known = "".join(f'{{"{n}", {value if n == name else v}}},' for n, v in interface.layout().items())
    return shared_library(
        folder,
        f"""#include <cstdint>
#include <cstring>
extern "C" const char* redraft_abi() {{ return "{headers}"; }}
extern "C" int64_t redraft_layout(const char* name) {{
    struct Known {{ const char* name; int64_t value; }};
    static const Known known[] = {{{known}}};
    for (const Known& one : known) if (!std::strcmp(one.name, name)) return one.value;
    return -1;
}}
""",
    )


@needs_compiler
def test_a_library_that_was_built_from_other_sources(tmp_path):
    now = shown(REDRAFT_KERNELS_LIBRARY=str(stub(tmp_path, "0", "", 0)))
    assert now["tier"] == "torch"
    assert now["reason"] == (
        f"the library was built from other sources (of headers 0, here {library.headers()}); install again"
    )


@needs_compiler
@pytest.mark.parametrize("name", interface.layout())
def test_a_library_that_lays_a_structure_out_in_another_way(tmp_path, name):
    here = interface.layout()[name]
    found = library.Library(stub(tmp_path, library.headers(), name, here + 8))
    assert library._stale(found) == (
        f"the library was built for another version of redraft ({name} is {here + 8} in it, {here} here)"
    )


@needs_compiler
def test_an_installation_without_headers_compares_structures_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "headers", lambda: None)
    assert library._stale(library.Library(stub(tmp_path, "0", "", 0))) == ""


@needs_compiler
def test_members_are_those_of_the_headers(tmp_path):
    """The compiler says where each member lies, of every structure that Python lays out."""
    lines = [
        f'std::printf("{one.__name__[1:]} {member} %zu\\n", offsetof(redraft::{one.__name__[1:]}, {member}));'
        for one in interface.STRUCTURES
        for member, *_ in one._fields_
    ]
    source = tmp_path / "offsets.cpp"
    source.write_text(
        '#include <cstddef>\n#include <cstdio>\n#include "automaton.h"\n#include "chain.h"\n#include "forward.h"\n'
        '#include "monoid.h"\n'
        f"int main() {{ {chr(10).join(lines)} }}\n"
    )
    native_folder = Path(library.__file__).parent / "native"
    there = subprocess.run([program(tmp_path, source, "-I", native_folder)], capture_output=True, text=True, check=True)
    here = [
        f"{one.__name__[1:]} {member} {getattr(one, member).offset}"
        for one in interface.STRUCTURES
        for member, *_ in one._fields_
    ]
    assert there.stdout.splitlines() == here


@needs_compiler
def test_a_library_of_something_else(tmp_path):
    other = shared_library(tmp_path, 'extern "C" int something() { return 0; }')
    now = shown(REDRAFT_KERNELS_LIBRARY=str(other))
    assert (now["tier"], now["reason"]) == ("torch", f"{other} is not a library of redraft's kernels")


def test_importing_loads_nothing():
    done = python(
        "import sys, redraft.kernels.library\n"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux' else ''\n"
        "assert 'redraft/kernels/_native' not in maps and 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def threads():
    """Leave the number of threads as it was."""
    before = status().threads
    yield
    if before is not None:
        set_threads(before)


@needs_library
@pytest.mark.usefixtures("threads")
def test_threads_are_the_physical_cores_until_told():
    assert shown()["threads"] == physical_cores()
    for count in (1, 3, MAX_THREADS, 2):
        set_threads(count)
        assert status().threads == count


@pytest.mark.parametrize("count", [0, -1, MAX_THREADS + 1])
def test_a_number_of_threads_that_cannot_be(count):
    with pytest.raises(RequestError, match=r"threads must be between 1 and 1,024, not"):
        set_threads(count)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of six hardware threads on four cores, two of them without a sibling, and no quota."""
    for cpu, siblings in enumerate(["0,4", "1,5", "2", "3", "0,4", "1,5"]):
        topology = tmp_path / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(library, "_CPUS", tmp_path)
    monkeypatch.setattr(library, "_QUOTA", tmp_path / "cpu.max")
    allowed = set(range(6))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: allowed, raising=False)
    return tmp_path, allowed


def test_two_hardware_threads_of_a_core_count_once(machine):
    assert physical_cores() == 4


def test_only_the_cores_allowed_count(machine):
    _, allowed = machine
    allowed -= {2, 3, 5}
    assert physical_cores() == 2
    allowed -= {1}  # 0 and 4 are one core
    assert physical_cores() == 1


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)],
)
def test_a_quota_bounds_the_cores(machine, quota, cores):
    (machine[0] / "cpu.max").write_text(quota + "\n")
    assert physical_cores() == cores


def test_without_a_topology_every_hardware_thread_counts(machine):
    shutil.rmtree(machine[0] / "cpu5")
    assert physical_cores() == 6
