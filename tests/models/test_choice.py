"""Dtype "auto": exact where that is little, as stored where that can be kept, else the most exact that fits."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from redraft.errors import CheckpointError
from redraft.kernels.triton.status import TritonStatus
from redraft.models import checkpoint
from redraft.models.choice import choose
from redraft.models.footprint import Use, footprint
from redraft.models.quantize import quantize
from redraft.room import Memory
from tests.quantised_copies import Copy

PLENTY = Memory(1 << 40, "this machine")


@pytest.fixture
def large(plain: Path, monkeypatch: pytest.MonkeyPatch) -> checkpoint.Checkpoint:
    """A checkpoint that counts as large."""
    monkeypatch.setattr("redraft.models.choice.AUTO_FLOAT32", 0)
    monkeypatch.setattr("redraft.models.checkpoint.AUTO_FLOAT32", 0)
    return checkpoint.read(plain)


def test_a_small_model_is_exact(plain: Path):
    choice = choose(checkpoint.read(plain), memory=Memory(0, "this machine"))
    assert (choice.format, choice.usual) == ("float32", True)


def test_what_the_makers_measured_comes_before_what_is_exact(plain: Path, tmp_path: Path):
    own = shutil.copytree(plain, tmp_path / "own")
    (own / "redraft.json").write_text('{"dtype": "int8", "choice_temperature": 1.5}')
    found = checkpoint.read(own)
    assert found.defaults.choice_temperature == 1.5
    choice = choose(found)
    assert (choice.format, choice.usual) == ("int8", True)
    assert choose(found, "float32").format == "float32"
    # There are no kernels for it.
    assert choose(found, use=Use(device="mps")).format == "float32"
    (own / "redraft.json").write_text('{"dtype": "int3"}')
    with pytest.raises(CheckpointError, match="dtype 'int3' must be one of"):
        checkpoint.read(own)


def test_a_large_model_is_as_its_file_where_that_fits_else_in_fewer_bits(large: checkpoint.Checkpoint):
    assert choose(large, memory=PLENTY).format == "float32"
    for format, less in (("float32", "bfloat16"), ("bfloat16", "int8"), ("int8", "int4")):
        memory = Memory(footprint(large, format).needed - 1, "this machine")  # type: ignore[arg-type]
        if footprint(large, less).needed > memory.free:  # type: ignore[arg-type]
            continue
        choice = choose(large, memory=memory)
        assert (choice.format, choice.usual) == (less, False)
        assert "this machine has" in choice.reason


def test_where_nothing_fits_it_is_the_smallest(large: checkpoint.Checkpoint):
    assert choose(large, memory=Memory(1, "this machine")).format == "int4"


@pytest.mark.parametrize(("name", "kept"), [("W4A16", "int4"), ("INT8", "int8")])
def test_a_quantised_copy_is_as_stored(
    copy_of: Callable[[str], Copy], monkeypatch: pytest.MonkeyPatch, name: str, kept: str
):
    monkeypatch.setattr("redraft.models.choice.AUTO_FLOAT32", 0)
    monkeypatch.setattr("redraft.models.checkpoint.AUTO_FLOAT32", 0)
    found = checkpoint.read(copy_of(name).folder)
    choice = choose(found, memory=PLENTY)
    assert (choice.format, choice.usual) == (kept, False)
    assert "keeps the numbers that it is stored in" in choice.reason
    assert choose(found, memory=PLENTY, use=Use(device="cuda")).format == "bfloat16"
    # Where a card has kernels for it, it is what it is on the CPU.
    monkeypatch.setattr("redraft.models.choice.status", lambda device: TritonStatus(True, "a card"))
    assert choose(found, memory=PLENTY, use=Use(device="cuda")).format == kept


def test_packed_weights_are_what_they_are_and_dequantised_elsewhere(tmp_path: Path):
    quantize(checkpoint.read(checkpoint.find("sudoku")), tmp_path / "out", "int4")
    found = checkpoint.read(tmp_path / "out")
    assert choose(found).format == "int4"
    elsewhere = choose(found, use=Use(device="cuda"))
    assert (elsewhere.format, elsewhere.usual) == ("bfloat16", False)


def test_what_is_asked_for_is_taken(large: checkpoint.Checkpoint):
    choice = choose(large, "int8", Memory(1, "this machine"))
    assert (choice.format, choice.reason) == ("int8", "as was asked for")
