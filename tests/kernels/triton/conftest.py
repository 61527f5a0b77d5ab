"""Triton's kernels, run by its interpreter on the CPU: ``script/test --gpu`` sets it up."""

import os
from importlib.util import find_spec

import pytest

# What each module here needs of this process. Its import makes kernels either for the interpreter or for a card.
INTERPRETED = pytest.mark.skipif(
    find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") != "1",
    reason="Triton's interpreter is not set up: script/test --gpu, on Linux",
)
