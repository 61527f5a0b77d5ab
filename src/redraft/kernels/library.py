"""The compiled kernels: where their library is, which instruction set it uses, and on how many threads.

Nothing here fails for want of the library: without one the torch references do the work, and `status` says why.
"""

import ctypes
import hashlib
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import redraft.kernels
from redraft.errors import RequestError
from redraft.kernels.interface import layout

TIERS = ("generic", "avx2", "avx512", "amx")  # in the order of native/dispatch.h
MAX_THREADS = 1024

_FILE = "_native" + {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class KernelStatus:
    """The library that computes the hot loops in this process, and why."""

    tier: str  # one of TIERS, or "torch" where no library is in use
    best_tier: str | None  # what this processor, its system and the compiler allow; known only to a library
    threads: int | None  # of the library's own pool
    reason: str


class Library:
    """A loaded library. Its functions release Python's lock while they run."""

    def __init__(self, path: Path) -> None:
        """Raise OSError for a file that is no library, AttributeError for a library that is not this one."""
        self._file = ctypes.CDLL(str(path))
        self.abi: str = self.function("redraft_abi", ctypes.c_char_p)().decode()
        self.reason = ""

    def layout(self, name: str) -> int:
        """Bytes of a structure, or the value of a constant, in the library; -1 where it knows none of the name."""
        return int(self.function("redraft_layout", ctypes.c_int64, ctypes.c_char_p)(name.encode()))

    def function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        """Look up an exported function by its C types. Keep what this returns: each call makes a new object."""
        return ctypes.CFUNCTYPE(result, *arguments)((name, self._file))

    @cached_property
    def tier(self) -> str:
        """One of TIERS. It is asked before every kernel, so it is kept; ``set_tier`` lowers it at any time."""
        return TIERS[self.function("redraft_tier", ctypes.c_int)()]

    @property
    def best_tier(self) -> str:
        return TIERS[self.function("redraft_best_tier", ctypes.c_int)()]

    def set_tier(self, tier: str, reason: str) -> str:
        """Use this tier, or the best there is where it is beyond that. Return which."""
        self.reason = reason
        self.tier = TIERS[self.function("redraft_set_tier", ctypes.c_int, ctypes.c_int)(TIERS.index(tier))]
        return self.tier

    @property
    def threads(self) -> int:
        return int(self.function("redraft_threads", ctypes.c_int)())

    def set_threads(self, count: int) -> None:
        self.function("redraft_set_threads", ctypes.c_int, ctypes.c_int)(count)


def native() -> Library | None:
    """Return the library, loaded at the first call, or None where torch does its work."""
    return _load()[0]


def status() -> KernelStatus:
    """Tell what is in use now, and why."""
    library, reason = _load()
    if library is None:
        return KernelStatus("torch", None, None, reason)
    return KernelStatus(library.tier, library.best_tier, library.threads, library.reason)


def set_threads(count: int) -> None:
    """Let the library use this many threads. Results do not depend on it. torch's own threads are torch's matter."""
    if not 1 <= count <= MAX_THREADS:
        raise RequestError(f"threads must be between 1 and {MAX_THREADS:,}, not {count:,}")
    library = native()
    if library is not None:
        library.set_threads(count)


def use_threads(count: int) -> None:
    """Let torch and the kernels use so many threads each."""
    import torch  # here, so that asking for the status of the kernels does not wait for it

    torch.set_num_threads(count)
    set_threads(count)


def physical_cores() -> int:
    """Count the cores this process may run on; two hardware threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    try:
        cores = {(_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text() for cpu in allowed}
    except OSError:
        cores = {str(cpu) for cpu in allowed}
    return min(len(cores), _quota() or len(cores))


def _quota() -> int | None:
    """Whole processors that a container's quota comes to. More threads than those would only be stopped in turn."""
    try:
        limit, period = _QUOTA.read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(1, math.ceil(int(limit) / int(period)))


@cache
def _load() -> tuple[Library | None, str]:
    """Return the library, or None and the reason."""
    wanted = os.environ.get("REDRAFT_KERNELS") or TIERS[-1]
    if wanted not in ("none", *TIERS):
        raise RequestError(f"REDRAFT_KERNELS={wanted} is not one of none, {', '.join(TIERS)}")
    if wanted == "none":
        return None, "REDRAFT_KERNELS=none"
    path = _find()
    if path is None:
        return None, "no compiled library (built without a C++ compiler; reinstall with one for speed)"
    try:
        library = Library(path)
        stale = _stale(library)
    except OSError as error:
        return None, f"the library cannot be loaded: {error}"
    except AttributeError:
        return None, f"{path} is not a library of redraft's kernels"
    if stale:
        return None, stale
    if TIERS.index(wanted) < TIERS.index(library.best_tier):
        library.set_tier(wanted, f"REDRAFT_KERNELS={wanted}")
    else:
        library.set_tier(library.best_tier, "the best that this processor, its system and the compiler have")
    library.set_threads(physical_cores())
    return library, library.reason


def headers() -> str | None:
    """A hash of the headers of the C++ sources, as CMakeLists.txt computes it; None of an installation without them."""
    found = sorted((Path(__file__).parent / "native").glob("*.h"), key=lambda path: path.name)
    if not found:
        return None
    hashes = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in found)
    return hashlib.sha256(hashes.encode()).hexdigest()[:16]


def _stale(library: Library) -> str:
    """Why a library is not the one that belongs to this package, or nothing."""
    wanted = headers()
    if wanted is not None and library.abi != wanted:
        return f"the library was built from other sources (of headers {library.abi}, here {wanted}); install again"
    for name, here in layout().items():
        there = library.layout(name)
        if there != here:
            return f"the library was built for another version of redraft ({name} is {there} in it, {here} here)"
    return ""


def _find() -> Path | None:
    chosen = os.environ.get("REDRAFT_KERNELS_LIBRARY")
    if chosen:
        return Path(chosen)
    # Of an editable install the package has two folders: the sources', and the one that the library is installed to.
    paths = (Path(folder) / _FILE for folder in redraft.kernels.__path__)
    return next((path for path in paths if path.exists()), None)
