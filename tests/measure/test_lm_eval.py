"""Without lm-eval, which has an environment of its own in tests/clients, the module says what is missing."""

import importlib.util
import subprocess
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed here")
def test_it_says_what_to_install(commands: Path) -> None:
    done = subprocess.run(
        [commands / "python", "-c", "import redraft.measure.lm_eval"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(
        'ImportError: lm-eval is not installed; pip install "lm_eval>=0.4.9" beside redraft'
    )
