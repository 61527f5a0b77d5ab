"""What many folders test with, made once a run: the bundled model, checkpoints by what they consist of, commands."""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.fast import pytest_addoption, pytest_collection_modifyitems, pytest_configure, pytest_ignore_collect
from tests.imports import import_cheaply, imported
from tests.prepared import IMPORTED_BY_TESTS, prepared

if TYPE_CHECKING:
    from tests.quantised_copies import Copy

__all__ = ["pytest_addoption", "pytest_collection_modifyitems", "pytest_configure", "pytest_ignore_collect"]

WriteCheckpoint = Callable[..., Path]
COMMANDS = pytest.StashKey[Path]()


import_cheaply()


def pytest_collection_finish() -> None:
    imported()


def pytest_runtest_setup() -> None:
    """Seeds what torch draws without a generator, so that a test draws the same whichever ran before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def bundled() -> Any:
    """The engine of the bundled Sudoku model, in its own dtype. Tests that change an engine load their own."""
    from redraft.loading import load

    return load("sudoku")


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> WriteCheckpoint:
    """`random_checkpoint` without its folder; the same parameters give the same folder.

    Tests that change a checkpoint work on a copy.
    """
    # Here, since it imports torch, which the process that only hands out tests has no need of.
    from tests.random_checkpoint import random_checkpoint

    written: dict[str, Path] = {}

    def write(**parameters: Any) -> Path:
        call = inspect.signature(random_checkpoint).bind(Path(), **parameters)
        call.apply_defaults()
        key = repr(sorted(call.arguments.items()))
        if key not in written:
            written[key] = random_checkpoint(tmp_path_factory.mktemp("checkpoint"), **parameters)
        return written[key]

    return write


@pytest.fixture(scope="session")
def copy_of(checkpoint_of: WriteCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "Copy"]:
    """A quantised copy of a checkpoint whose matrices are a multiple of 64 wide, by its name in ``KINDS``.

    Tests that change one work on a copy of it.
    """
    from tests.quantised_copies import KINDS, SHAPE

    written: dict[str, Copy] = {}

    def write(name: str) -> "Copy":
        if name not in written:
            folder = tmp_path_factory.mktemp("copy") / "quantised"
            written[name] = KINDS[name].write(checkpoint_of(**SHAPE), folder)
        return written[name]

    return write


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let the processes that tests are shared out among come, with what they import, from one that imports it once.

    Their commands come from there too.
    """
    config = session.config
    given = getattr(config, "workerinput", None)
    if given is not None:
        # Not the client that takes Python's place for commands.
        sys.executable = given["python"]
    elif "popen" in (config.getoption("tx", None) or []):
        up = contextlib.ExitStack()
        folder = config.stash[COMMANDS] = up.enter_context(prepared(*IMPORTED_BY_TESTS))
        config.add_cleanup(up.close)
        ours = f"popen//python={folder / 'python'}"
        config.option.tx = [ours if spec == "popen" else spec for spec in config.option.tx]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    if COMMANDS in node.config.stash:
        node.workerinput |= {"commands": str(node.config.stash[COMMANDS]), "python": sys.executable}


@pytest.fixture(scope="session")
def commands(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of ``redraft`` and ``python``, whose processes need not import torch."""
    shared = getattr(request.config, "workerinput", {}).get("commands")
    if shared is not None:
        yield Path(shared)
        return
    with prepared() as folder:
        yield folder
