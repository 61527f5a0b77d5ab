"""What computes in a kernel test: every tier that this processor has, and on any number of threads."""

from collections.abc import Callable, Iterator

import pytest

from redraft.kernels import bindings
from redraft.kernels.library import TIERS, native, set_threads, status


def tiers_here() -> tuple[str, ...]:
    """The tiers with kernels, lowest first."""
    best = status().best_tier
    return () if best is None else TIERS[1 : TIERS.index(best) + 1]


def use(tier: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let ``tier``, or the torch references, do the work for as long as the test runs."""
    library = native()
    if tier == "torch":
        monkeypatch.setattr(bindings, "kernels", lambda: None)
        yield tier
        return
    assert library is not None
    before = library.tier, library.reason
    library.set_tier(tier, "chosen by a test")
    yield tier
    library.set_tier(*before)


@pytest.fixture(params=tiers_here())
def tier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each tier of this processor in turn."""
    yield from use(request.param, monkeypatch)


@pytest.fixture(params=("torch", *tiers_here()))
def tier_or_reference(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each tier of this processor in turn, and the torch references."""
    yield from use(request.param, monkeypatch)


@pytest.fixture
def with_threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads, which is put back afterwards."""
    before = status().threads
    yield set_threads
    if before is not None:
        set_threads(before)
