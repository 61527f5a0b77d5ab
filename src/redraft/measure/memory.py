"""The resident set of this process."""

import re
import subprocess
import sys
from os import getpid
from pathlib import Path


def resident_bytes() -> int | None:
    """Return the memory that is mapped and present, weights mapped from files included; None where nobody can tell."""
    if sys.platform == "linux":
        return _status("VmRSS")
    if sys.platform == "darwin":
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(getpid())], capture_output=True, text=True, check=True)
        return int(shown.stdout) * 1024
    return None


def peak_bytes() -> int | None:
    """Return the largest resident set since the program started; None where it cannot be told."""
    if sys.platform == "linux":
        # getrusage's ru_maxrss is no use here: a program inherits it from the process that started it.
        return _status("VmHWM")
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return None


def _status(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return int(found[1]) * 1024
