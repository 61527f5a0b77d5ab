"""How many random cases a test goes through: a few at every run, and all of them with ``pytest --thorough``."""

import pytest

OF = 4
"""One case in so many is run at every run."""
_thorough = False


def add_option(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="all random cases, of which other runs take a few")


def configure(config: pytest.Config) -> None:
    """Decide it before any test is imported; properties that name no number of their own have hypothesis's hundred."""
    from hypothesis import settings

    global _thorough
    _thorough = config.getoption("--thorough")
    settings.register_profile("redraft", max_examples=some(100), deadline=None)
    settings.load_profile("redraft")


def some(count: int, at_least: int = 1) -> int:
    """The number of random cases out of ``count`` to run now, but no fewer than ``at_least``."""
    return count if _thorough else min(count, max(at_least, -(-count // OF)))
