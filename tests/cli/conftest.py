import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main

from redraft.cli.main import main
from tests.cli.hub import Hub, serving_hub
from tests.conftest import WriteCheckpoint
from tests.random_checkpoint import LETTERS_SIZE

Run = Callable[..., subprocess.CompletedProcess[str]]
# All verbs with their options are made anew for each command, which takes as long as some commands do.
get_command = cache(typer.main.get_command)


@pytest.fixture(scope="session")
def model(checkpoint_of: WriteCheckpoint) -> Path:
    """A checkpoint whose answers are noise, soon given up."""
    generation = {"max_denoising_steps": 4, "sampler_config": {"entropy_bound": 3.0}, "eos_token_id": []}
    return checkpoint_of(generation=generation)


@pytest.fixture(scope="session")
def letters(checkpoint_of: WriteCheckpoint) -> Path:
    """A checkpoint that can spell any text, and says nothing of sense."""
    generation = {"max_denoising_steps": 3, "sampler_config": {"entropy_bound": 3.0}}
    return checkpoint_of(letters=True, vocab_size=LETTERS_SIZE + 8, canvas_length=48, generation=generation)


@pytest.fixture(scope="session")
def redraft(commands: Path) -> Run:
    """The command in a process of its own."""

    def run(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(commands / "redraft"), *map(str, arguments)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=600)

    return run


@pytest.fixture
def offline() -> bool:
    """Whether the hub's client is told that there is no hub."""
    return True


@pytest.fixture(autouse=True)
def no_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user of this machine chose for all commands is not what is tested."""
    for name in ("REDRAFT_MODEL", "REDRAFT_DEVICE", "REDRAFT_PACK_FOLDER", "REDRAFT_MEMORY", "REDRAFT_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.getbasetemp() / "no-settings"))


@pytest.fixture
def sudoku_by_default(no_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that name no model ask the Sudoku model."""
    monkeypatch.setenv("REDRAFT_MODEL", "sudoku")


@pytest.fixture
def redraft_here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], offline: bool) -> Run:
    """The command in this process, which has torch already. What a user would see as a traceback is raised here."""

    def run(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
        if stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        monkeypatch.setattr(sys, "argv", ["redraft", *map(str, arguments)])
        monkeypatch.setattr(typer.main, "get_command", get_command)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code
        assert code is None or isinstance(code, int)
        return subprocess.CompletedProcess(sys.argv, code or 0, *capfd.readouterr())

    return run


def assert_one_line(failed: subprocess.CompletedProcess[str], words: str) -> None:
    """A mistake of the user's: one line on standard error that says it, nothing on standard output, exit code 1."""
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("redraft: ")
    assert failed.stderr.count("\n") == 1
    assert words in failed.stderr


@pytest.fixture(scope="module")
def running() -> Iterator[Hub]:
    with serving_hub() as hub:
        yield hub


@pytest.fixture
def hub(running: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, empty, and a cache of the client's own."""
    running.folders, running.gated, running.sent = {}, set(), []
    # The client has read its environment when it was imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
    template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return running
