"""The use of Triton's kernels on a device, and the reason; one that fails is left to torch from then on, said once."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import TypeVar

import torch

_LOG = logging.getLogger("redraft")
MINIMUM_VERSION = (3, 7)
"""The oldest version that the kernels were compiled with; it comes with torch 2.13."""
MINIMUM_CAPABILITY = (8, 0)
"""The compute capability that has matrix instructions for bfloat16."""
T = TypeVar("T")


@dataclass(frozen=True)
class TritonStatus:
    """The answer whether Triton's kernels compute products with packed weights on a device."""

    used: bool
    reason: str


_failed: dict[str, str] = {}


def status(device: torch.device | str) -> TritonStatus:
    """Tell whether the kernels are used on a device, and why."""
    found = _status(torch.device(device))
    if found.used and _failed:
        failed = "; ".join(f"{name} failed: {reason}" for name, reason in _failed.items())
        return TritonStatus(True, f"{found.reason}; torch for what failed here ({failed})")
    return found


@cache
def _status(device: torch.device) -> TritonStatus:
    if os.environ.get("REDRAFT_KERNELS") == "none":
        return TritonStatus(False, "REDRAFT_KERNELS=none")
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return TritonStatus(False, "Triton is not installed: pip install 'redraft[gpu]'")
    if _numbers(version) < MINIMUM_VERSION:
        needed = ".".join(map(str, MINIMUM_VERSION))
        return TritonStatus(False, f"Triton {version} is older than {needed}: pip install 'redraft[gpu]'")
    if os.environ.get("TRITON_INTERPRET") == "1":
        return TritonStatus(True, f"Triton {version}, interpreted")
    if device.type != "cuda":
        return TritonStatus(False, f"there are no kernels for device {device.type!r}")
    if not torch.cuda.is_available():
        return TritonStatus(False, f"torch {torch.__version__} finds no CUDA device here")
    capability = torch.cuda.get_device_capability(device)
    shown = ".".join(map(str, capability))
    if capability < MINIMUM_CAPABILITY:
        needed = ".".join(map(str, MINIMUM_CAPABILITY))
        return TritonStatus(False, f"compute capability {shown} is below {needed}, which has no products in bfloat16")
    return TritonStatus(True, f"Triton {version}, compute capability {shown}")


def attempt(name: str, device: torch.device, kernel: Callable[[], T], instead: Callable[[], T]) -> T:
    """Return what ``kernel`` computes, or ``instead`` where kernels are not used on the device.

    One that does not compile or cannot be launched is said once, and not tried again in this process. What else goes
    wrong, such as memory that runs out, is raised.
    """
    if name in _failed or not status(device).used:
        return instead()
    try:
        return kernel()
    except Exception as error:
        if not _is_of_triton(error):
            raise
        _failed[name] = str(error).strip().split("\n")[0] or type(error).__name__
        _LOG.warning("the kernel for %s cannot be used here (%s); torch computes it from now on", name, _failed[name])
    return instead()


def _is_of_triton(error: Exception) -> bool:
    """True of what compiling and launching a kernel raise: classes of its package, of which importing one would take
    seconds; the driver's own errors, which have none; and a package that cannot be imported."""
    of_package = any(kind.__module__.partition(".")[0] == "triton" for kind in type(error).__mro__)
    return of_package or isinstance(error, ImportError) or str(error).startswith("Triton Error")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, "3.9.0" -> (3, 9, 0)."""
    found = []
    for part in version.split("+")[0].split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
