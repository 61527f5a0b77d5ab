"""What ``pytest --fast`` runs: tests that cost little, and a few cases of each. ``costs.txt`` has what costs more.

``pytest --costs FILES`` measures the processor time of all tests of some files, in one process, and writes the dear
ones down.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import thorough

HERE = Path(__file__).parent
COSTS = HERE / "costs.txt"
# Not even collected: a browser, clients that take seconds to import, the documentation's examples, a vocabulary that
# takes seconds to read.
FAR = tuple(
    HERE / name
    for name in ("serve/page", "serve/wire", "clients", "docs", "constrain/automaton/test_gemma_vocabulary.py")
)
CASES = 3
DEAR = 0.2
"""Seconds of processor time above which a test is not fast. What a fixture of many tests costs is not counted."""


def pytest_addoption(parser: pytest.Parser) -> None:
    thorough.add_option(parser)
    parser.addoption(
        "--fast", action="store_true", help=f"only tests of less than {DEAR} seconds, and {CASES} cases of each"
    )
    parser.addoption("--costs", action="store_true", help=f"write the costs of what runs to {COSTS.name}")


def pytest_configure(config: pytest.Config) -> None:
    thorough.configure(config)
    if config.getoption("--costs"):
        if config.getoption("--fast") or config.getoption("numprocesses", None):
            raise pytest.UsageError("--costs measures whole tests in one process: without --fast, without -n")
        config.pluginmanager.register(Meter(), "costs")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--fast") and collection_path in FAR else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --fast, keep of every test that costs little its first, its last and a case in the middle."""
    if not config.getoption("--fast"):
        return
    dear, tests = read(), defaultdict(list)
    for item in items:
        if name(item) not in dear and not is_slow(item):
            tests[name(item)].append(item)
    kept = {cases[index * (len(cases) - 1) // (CASES - 1)] for cases in tests.values() for index in range(CASES)}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def is_slow(item: pytest.Item) -> bool:
    """Whether a test says so, starts processes, or is of a run of its own."""
    marked = any(item.get_closest_marker(one) is not None for one in ("gpu", "slow"))
    return marked or "commands" in getattr(item, "fixturenames", ())


def name(item: pytest.Item) -> str:
    """A test without its case."""
    return item.nodeid.partition("[")[0]


def read() -> dict[str, float]:
    """Seconds of the dearest case of every test that is dear."""
    lines = [line.split(" ", 1) for line in COSTS.read_text().splitlines()]
    return {test: float(seconds) for seconds, test in lines}


class Meter:
    """Measures tests, and writes down the dear ones when they have all run."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._shared = 0.0

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._shared, start = 0.0, processor_seconds()
        done = yield
        if not is_slow(item):
            spent = processor_seconds() - start - self._shared
            self._seconds[name(item)] = max(self._seconds.get(name(item), 0.0), spent)
        return done

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        start, within = processor_seconds(), self._shared
        done = yield
        if fixturedef.scope != "function":
            # Without those that it asked for, which have been added.
            self._shared = within + processor_seconds() - start
        return done

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
        start = processor_seconds()
        done = yield
        if nextitem is None or nextitem.path != item.path:
            # The end of what many tests shared, such as processes that count when they have been waited for.
            self._shared += processor_seconds() - start
        return done

    def pytest_sessionfinish(self) -> None:
        files = {test.partition("::")[0] for test in self._seconds}
        costs = {test: seconds for test, seconds in read().items() if test.partition("::")[0] not in files}
        costs |= {test: seconds for test, seconds in self._seconds.items() if seconds > DEAR}
        COSTS.write_text("".join(f"{costs[test]:.1f} {test}\n" for test in sorted(costs)))


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    return sum(os.times()[:4])
