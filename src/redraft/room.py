"""Room for a model: the memory that this process may still take, by the system and by control groups, and disk.

A process that takes more than its control group allows is killed, whatever the machine has left (the kernel's
Documentation/admin-guide/cgroup-v2.rst, and cgroup-v1/memory.rst).
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from redraft.errors import RequestError, RoomError

MemoryLimit = int | Literal["auto"] | None
"""Bytes that a model may take; "auto" for what the machine has left, None for as many as it wants."""

VARIABLE = "REDRAFT_MEMORY"
"""The environment variable that says what "auto" stands for, in the place of what the machine has left."""
# File pages on the system's lists, which are given back when memory is short; shared memory is on others.
_RECLAIMABLE = {2: ("active_file", "inactive_file"), 1: ("total_active_file", "total_inactive_file")}
_FILES = {2: ("memory.max", "memory.current"), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes")}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


@dataclass(frozen=True)
class Memory:
    """The memory that may still be taken."""

    free: int
    """Bytes."""
    limit: str
    """The thing that has no more, in words."""


@dataclass(frozen=True)
class Taken:
    """Memory that something else is going to take."""

    name: str
    nbytes: int
    device: str = "cpu"


def memory(root: Path = Path("/")) -> Memory | None:
    """Return the memory that this process may still take; None where the system does not tell. ``root``: where
    ``/proc`` and ``/sys`` are."""
    found = [*_of_system(root), *_of_groups(root)]
    return min(found, key=lambda one: one.free, default=None)


def allowed(limit: MemoryLimit, device: str = "cpu", taken: Sequence[Taken] = ()) -> Memory | None:
    """Return the memory that a model may take on a device beside what is ``taken`` there; None where nothing limits it,
    or nobody can tell."""
    found, others = _allowed(meant(limit), device), [one for one in taken if _kind(one.device) == _kind(device)]
    if found is None or not others:
        return found
    shown = " and ".join(f"{one.name} ({size_text(one.nbytes)})" for one in others)
    free = found.free - sum(one.nbytes for one in others)
    return Memory(max(0, free), f"{found.limit}, beside {shown},")


def meant(limit: MemoryLimit) -> MemoryLimit:
    """Return the limit that one stands for: where the environment names one, "auto" for that."""
    if limit == "auto" and os.environ.get(VARIABLE, "").strip():
        return parse_memory(os.environ[VARIABLE])
    return limit


def _allowed(limit: MemoryLimit, device: str) -> Memory | None:
    if limit is None:
        return None
    if limit != "auto":
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise RequestError(
                f"memory {limit!r} is no number of bytes above 0; give one, 'auto', or None for no limit"
            )
        return Memory(limit, "what it was given")
    if device.startswith("cuda"):
        import torch

        return Memory(torch.cuda.mem_get_info(device)[0], f"the memory of {device}")
    if device.startswith("mps"):
        import torch

        left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return Memory(max(0, left), "what Metal lets one process have of the memory")
    return memory()


def _kind(device: str) -> str:
    return device.partition(":")[0]


def parse_memory(text: str) -> MemoryLimit:
    """Read "auto", "none", or a size such as "24GB", "1.5 GiB" or "18000000000"; RequestError for anything else."""
    word = text.strip().lower()
    if word == "auto":
        return "auto"
    if word == "none":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?|)b?", word)
    size = 0 if found is None else int(float(found[1]) * {**_UNITS, **_BINARY}[found[2]])
    if size < 1:
        raise RequestError(f"memory {text!r} is no size; give one such as 24GB or 16GiB, or auto, or none for no limit")
    return size


def disk(path: Path) -> int:
    """Return the bytes that a folder, which may not be there yet, has room for."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def check_disk(path: Path, needed: int, what: str) -> None:
    """Raise RoomError where ``what``, of so many bytes, does not fit where ``path`` lies, or will lie."""
    free = disk(path)
    if needed > free:
        raise RoomError(f"{what} takes {size_text(needed)}, and {path} has {size_text(free)} free; make room, or name "
                        "another place")  # fmt: skip


def size_text(count: int) -> str:
    """Write bytes for a message: "812 MB", "52.3 GB"."""
    for unit, number in (("TB", 10**12), ("GB", 10**9)):
        if count >= number:
            return f"{count / number:.3g} {unit}"
    return f"{count / 10**6:.3g} MB"


def _of_system(root: Path) -> Iterator[Memory]:
    """The memory that the whole machine has left; of systems that do not tell, all that it has."""
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    if found is not None:
        yield Memory(int(found[1]) * 1024, "this machine")
    elif root == Path("/") and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield Memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine, empty")


def _of_groups(root: Path) -> Iterator[Memory]:
    """The memory that each control group of the process has left, from its own up to the outermost."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            version, mount = 2, root / "sys/fs/cgroup"
        elif "memory" in controllers.split(","):
            version, mount = 1, root / "sys/fs/cgroup/memory"
        else:
            continue
        # In a container the path may be the host's, which is not to be seen: then the mount is the group itself.
        own = mount / path.strip("/")
        for folder in (own, *own.parents):
            if folder.is_relative_to(mount):
                yield from _of_group(folder, version, own == folder and folder != mount)


def _of_group(folder: Path, version: int, named: bool) -> Iterator[Memory]:
    limit_file, usage_file = _FILES[version]
    limits = [_number(folder / limit_file)]
    if version == 2:
        # Beyond this one a process is not killed, but held up until it has given memory back.
        limits.append(_number(folder / "memory.high"))
    known = [limit for limit in limits if limit is not None]
    used = _number(folder / usage_file)
    if not known or used is None:
        return
    try:
        stat = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
        given_back = sum(int(stat.get(name, "0")) for name in _RECLAIMABLE[version])
    except (OSError, ValueError):
        given_back = 0
    limit = min(known)
    where = f"its control group {folder.name}" if named else "its control group"
    yield Memory(max(0, limit - used + given_back), f"{where}, which may have {size_text(limit)}")


def _number(path: Path) -> int | None:
    """Read a file's number; None where there is none: "max", and in version 1 as many pages as 64 bits count."""
    try:
        value = int(path.read_text())
    except (OSError, ValueError):
        return None
    return value if value < 1 << 60 else None
