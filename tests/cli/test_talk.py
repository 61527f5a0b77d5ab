"""How much is logged: warnings in any case, and a server says where it listens unless it is told to be quiet."""

import logging
from collections.abc import Iterator

import pytest

from redraft.cli import talk


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    talk.set_level(talk.NORMAL)


@pytest.mark.parametrize(
    ("level", "library", "server"),
    [
        (talk.QUIET, logging.WARNING, logging.WARNING),
        (talk.NORMAL, logging.WARNING, logging.INFO),
        (talk.VERBOSE, logging.DEBUG, logging.DEBUG),
    ],
)
def test_what_is_logged_at_each_level(level: int, library: int, server: int) -> None:
    talk.set_level(level)
    assert talk.level() == level
    for name, least in (("redraft", library), ("redraft.serve", server)):
        logger = logging.getLogger(name)
        assert logger.isEnabledFor(least), name
        assert not logger.isEnabledFor(least - 1), name
