"""The machine that is measured on: processor, threads, load, versions, and the C library's malloc settings."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from redraft.errors import RequestError
from redraft.models.checkpoint import Checkpoint

MallocChoice = Literal["tuned", "default"]
# Above glibc's own limit of 32 MiB every larger temporary is mapped, faulted in and given back each time.
_TUNED = {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
# Other work on more than this share of the usable cores disturbs medians.
BUSY_SHARE = 0.25


@dataclass(frozen=True)
class Malloc:
    """The way in which the contenders' processes allocate memory."""

    description: str
    environment: Mapping[str, str]
    """The whole environment of a contender's process."""


@dataclass(frozen=True)
class Machine:
    """Facts about the machine at the start of a measurement."""

    processor: str
    cores: int
    """Cores that this process may use."""
    system: str
    python: str
    torch: str
    transformers: str | None
    kernels: str
    load_average: float | None
    """Runnable processes, mean of the last minute; None where the system does not tell."""

    @property
    def warning(self) -> str | None:
        """A warning of what a busy machine means for the figures; None for a quiet one."""
        if self.load_average is None or self.load_average <= BUSY_SHARE * self.cores:
            return None
        return (
            f"the machine is busy: {self.load_average:.1f} processes want to run on {self.cores} "
            f"core{'s' if self.cores != 1 else ''}. Times are longer and spread wider than on a quiet machine, and "
            "several threads suffer more than one; trust ratios more than seconds, or measure again when it is quiet"
        )


def describe() -> Machine:
    """The machine as it is now."""
    import torch

    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        system=platform.platform(),
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=version("transformers") if find_spec("transformers") else None,
        kernels=_kernels(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


def transformers_fault(found: Checkpoint) -> str | None:
    """Return why ``transformers`` cannot be measured against with this checkpoint; None if it can."""
    package = found.family.transformers_package
    if package is None:
        return f"transformers does not generate with {found.architecture}"
    if found.path.is_file() or found.packed is not None:
        return f"transformers does not read {found.path}; measure the folder that it was made of"
    spec = find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return "transformers is not installed; install it with: pip install transformers"
    # Looked for as a folder: importing the package takes seconds.
    if not any((Path(path) / "models" / package).is_dir() for path in spec.submodule_search_locations):
        return (
            f"transformers {version('transformers')} has no {found.architecture}; "
            "install a newer one with: pip install --upgrade transformers"
        )
    return None


def malloc(choice: MallocChoice | None) -> Malloc:
    """Settings for ``choice``; None takes "tuned" where there is glibc, which favours the reference.

    Raises RequestError for "tuned" where there is none.
    """
    glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    if choice == "tuned" and not glibc:
        raise RequestError(
            f"--malloc tuned sets glibc's thresholds, and this is {sys.platform}"
            f"{' without glibc' if sys.platform == 'linux' else ''}; leave it out"
        )
    inherited = {name: value for name, value in os.environ.items() if name not in _TUNED}
    if not glibc:
        return Malloc("the system's own", inherited)
    if choice == "default":
        return Malloc("glibc's default thresholds", inherited)
    settings = " ".join(f"{name}={value}" for name, value in _TUNED.items())
    return Malloc(f"glibc tuned for all contenders ({settings})", {**inherited, **_TUNED})


def _kernels() -> str:
    from redraft.kernels import library

    status = library.status()
    return f"{status.tier} ({status.reason})"


def _processor() -> str:
    if sys.platform == "linux":
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found is not None:
            return found[1].strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()
