"""Clients that other people wrote, each in an environment of its own; ``script/clients`` makes them and runs this.

A driver uses its client as its own users do, and ends with an error for what does not work. The model is noise: what an
answer must be, whoever gives it, is what a driver looks at.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redraft.loading import load
from redraft.serve.state import ServerSettings
from tests.conftest import WriteCheckpoint
from tests.prepared import ROOT
from tests.random_checkpoint import LETTERS_SIZE
from tests.serve.conftest import Served, serving

PLACE = ROOT / "build" / "clients"
DRIVERS = {path.stem: path for path in (Path(__file__).parent / "drivers").glob("*.py")}
MODULES = {path.stem: path for path in (Path(__file__).parent / "node").glob("*.mjs")}
CHOSEN = os.environ.get("CLIENTS", "").split() or [*DRIVERS, *MODULES]
# It runs a model of its own, too.
LM_EVAL = "lm_eval_"
NAME, KEY = "tiny", "secret"
SECONDS = 900
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def checkpoint(checkpoint_of: WriteCheckpoint) -> Path:
    """Room for what conformance suites and agents ask; noise that is soon given up."""
    return checkpoint_of(
        letters=True,
        vocab_size=LETTERS_SIZE,
        canvas_length=48,
        context_length=16384,
        generation={"max_denoising_steps": 3, "t_max": 0.4, "t_min": 0.2},
    )


@pytest.fixture(scope="module")
def up(checkpoint: Path) -> Iterator[Served]:
    with serving(load(checkpoint), ServerSettings(NAME)) as served:
        yield served


def run(name: str, *arguments: str) -> None:
    """A client's driver ends well, and says so."""
    if name in MODULES:
        command: list[str | Path] = ["node", PLACE / "node" / f"{name}.mjs", *arguments]
    else:
        uv = PLACE / "uv" / "bin" / "uv"
        options: list[str | Path] = ["--quiet", "--no-project", "--python", sys.executable, "--script", DRIVERS[name]]
        command = [uv, "run", *options, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip().endswith(": ok")


@pytest.mark.parametrize("name", [name for name in CHOSEN if name != LM_EVAL])
def test_a_client_works_as_it_comes(up: Served, name: str) -> None:
    run(name, up.url, NAME)


@pytest.mark.skipif(LM_EVAL not in CHOSEN, reason="not among the chosen clients")
def test_lm_eval_finds_the_same_through_the_server_and_in_process(up: Served, checkpoint: Path) -> None:
    """Its own environment has lm-eval alone; redraft and torch come from this one, behind it."""
    ours = [path for path in sys.path if path and Path(path).exists()]
    run(LM_EVAL, up.url, NAME, str(checkpoint), os.pathsep.join(ours))


@pytest.mark.skipif("jevcompat_" not in CHOSEN, reason="not among the chosen clients")
def test_system_one_conforms_where_a_key_is_asked_for(checkpoint: Path) -> None:
    with serving(load(checkpoint), ServerSettings(NAME, api_keys=[KEY])) as served:
        run("jevcompat_", served.url, NAME, KEY)
