"""What does not fit is refused before weights are read, and what is said to fit does."""

import re
from pathlib import Path

import pytest

from redraft import loading
from redraft.errors import RequestError, RoomError
from redraft.loading import load
from redraft.models import checkpoint, published
from redraft.models.checkpoint import Checkpoint
from redraft.models.fitting import alternatives, check_fits, check_use
from redraft.models.footprint import Use, footprint
from redraft.room import Memory
from tests.conftest import WriteCheckpoint

GB = 10**9
NAME = "google/diffusiongemma-26B-A4B-it"


def shapes() -> Checkpoint:
    """The published model, of which no file is here."""
    found = published.known(NAME)
    assert found is not None
    return found[0]


@pytest.fixture(scope="module")
def folder(checkpoint_of: WriteCheckpoint) -> Path:
    return checkpoint_of(context_length=4096)


def test_a_model_larger_than_the_memory_is_refused_before_weights_are_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights are read")

    monkeypatch.setattr(loading, "_load_model", read)
    needed = footprint(checkpoint.read(folder), "float32", Use(1024)).needed
    with pytest.raises(RoomError, match=r"takes .* of memory \(weights .*, keys and values .*MB left.*memory=None"):
        load(folder, dtype="float32", memory=needed - 1)
    with pytest.raises(AssertionError, match="are read"):
        load(folder, dtype="float32", memory=needed)
    with pytest.raises(AssertionError, match="are read"):
        load(folder, dtype="float32", memory=None)


def test_the_environment_overrides_what_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDRAFT_MEMORY", "10kB")
    with pytest.raises(RoomError, match="what it was given"):
        load(folder)
    monkeypatch.setenv("REDRAFT_MEMORY", "none")
    with load(folder) as engine:
        assert engine.runtime.pool.budget is None


def test_keys_and_values_take_no_more_than_the_weights_leave(folder: Path) -> None:
    """A long prompt is refused with the number, and the engine lives on."""
    needed = footprint(checkpoint.read(folder), "float32", Use(1024)).needed
    with load(folder, dtype="float32", memory=needed) as engine:
        budget = engine.runtime.pool.budget
        assert budget is not None
        assert budget < needed
        with pytest.raises(RequestError, match=r"kv_bytes .* is too small"):
            engine.generate([20] * 4000, max_tokens=8)
        assert engine.generate([20] * 100, max_tokens=8, seed=1).token_ids


def test_kv_bytes_that_do_not_fit_are_refused_with_those_that_do(folder: Path) -> None:
    with pytest.raises(RoomError, match="kv_bytes") as refused:
        load(folder, dtype="float32", memory=50_000_000, kv_bytes=10**9)
    fits = int(re.search(r"kv_bytes ([\d,]+) or less", str(refused.value))[1].replace(",", ""))  # type: ignore[index]
    with load(folder, dtype="float32", memory=50_000_000, kv_bytes=fits) as engine:
        assert engine.runtime.pool.budget == fits


@pytest.mark.parametrize(
    ("free", "words"), [(28 * GB, ("dtype int8", "INT8-dynamic")), (18 * GB, ("dtype int4", "AWQ"))]
)
def test_what_would_fit_is_named_and_fits(free: int, words: tuple[str, ...]) -> None:
    found, memory = shapes(), Memory(free, "this machine")
    own = footprint(found, "bfloat16")
    ways = list(alternatives(found, own, memory))
    for word in words:
        assert any(word in way.words for way in ways), [way.words for way in ways]
    assert all(way.needed <= free for way in ways)
    assert not any("bfloat16" in way.words for way in ways)


def test_fewer_requests_or_a_shorter_context_are_offered() -> None:
    found = shapes()
    many = Use(8192, 64)
    left = footprint(found, "int4", many).beside_keys_values + 10 * GB
    with pytest.raises(RoomError, match=r"\d+ of 64 requests at a time"):
        check_fits(found, "int4", Memory(left, "this machine"), many)
    long = Use(262_144)
    left = footprint(found, "int4", long).beside_keys_values + 3 * GB
    with pytest.raises(RoomError, match=r"a context of [\d,]+ tokens") as refused:
        check_fits(found, "int4", Memory(left, "this machine"), long)
    tokens = int(re.search(r"a context of ([\d,]+) tokens", str(refused.value))[1].replace(",", ""))  # type: ignore[index]
    assert check_fits(found, "int4", Memory(left, "this machine"), Use(tokens)) is not None


def test_a_context_that_the_model_does_not_have_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="more than the 4,096"):
        check_use(checkpoint.read(folder), Use(5000))
