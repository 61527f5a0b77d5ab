from pathlib import Path

import pytest

from tests.random_checkpoint import random_checkpoint


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in one file. Tests that change it work on a copy."""
    return random_checkpoint(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in several files behind an index."""
    return random_checkpoint(tmp_path_factory.mktemp("sharded"), shard_bytes=20_000)
