"""Packed weights on disk: mapped at the next load, replaced when they are stale, and never in the way."""

import os
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from redraft.kernels.packed import FORMATS, Format
from redraft.models import checkpoint
from redraft.models.cache_folder import FOLDER
from redraft.models.packed import PackedModel
from redraft.models.packed_cache import PackingStep, load_packed
from redraft.models.packing import Packing, packed_bytes
from tests.models.driving import denoise, fresh
from tests.random_checkpoint import random_checkpoint


@pytest.fixture
def folder(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a checkpoint, and a user's cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(plain, tmp_path / "model")


@pytest.fixture(autouse=True)
def no_warning():
    """Except where a test expects one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def loaded(folder: Path, format: Format = "int8") -> PackedModel:
    return load_packed(checkpoint.read(folder), format, cached_from=0)


def logits(model: PackedModel) -> torch.Tensor:
    return model.logits(denoise(model, torch.arange(20, 28), fresh(model)))


def cached(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def packings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The formats that weights are packed to from now on."""
    packed: list[str] = []
    write = Packing.write

    def counted(packing: Packing, path: Path, *rest: Any) -> None:
        packed.append(path.name.split("-")[0])
        write(packing, path, *rest)

    monkeypatch.setattr(Packing, "write", counted)
    return packed


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_load_does_not_pack_and_gives_the_same_bits(folder: Path, format: Format, packings: list[str]):
    first, second = loaded(folder, format), loaded(folder, format)
    assert packings == [format]
    assert torch.equal(logits(first), logits(second))
    assert first.nbytes == second.nbytes


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_a_second_load_maps_the_file(folder: Path):
    loaded(folder)
    (path,) = cached(folder / FOLDER)
    assert str(path) not in Path("/proc/self/maps").read_text()
    model = loaded(folder)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert logits(model).isfinite().all()


def test_formats_lie_side_by_side(folder: Path, packings: list[str]):
    for _ in range(2):
        for format in FORMATS:
            assert loaded(folder, format).format == format
    assert packings == list(FORMATS)
    assert len(cached(folder / FOLDER)) == len(FORMATS)


def test_other_weight_files_are_packed_anew(folder: Path, packings: list[str], tmp_path: Path):
    before = logits(loaded(folder))
    weights = random_checkpoint(tmp_path / "other", seed=5) / "model.safetensors"
    shutil.copy(weights, folder)
    after = logits(loaded(folder))
    assert not torch.equal(after, before)
    assert torch.equal(after, logits(loaded(tmp_path / "other")))
    assert packings == ["int8"] * 3
    assert torch.equal(after, logits(loaded(folder)))
    assert len(packings) == 3, "the new packing is kept"


def test_a_file_of_the_same_size_and_another_time_is_packed_anew(folder: Path, packings: list[str]):
    loaded(folder)
    os.utime(folder / "model.safetensors", ns=(0, 0))
    loaded(folder)
    assert len(packings) == 2


@pytest.mark.parametrize("damage", ["cut short", "empty", "something else"])
def test_a_damaged_file_is_a_warning_and_made_again(folder: Path, damage: str, packings: list[str]):
    expected = logits(loaded(folder))
    (path,) = cached(folder / FOLDER)
    content = path.read_bytes()
    # In place: a file that is mapped must not shrink under the reader, so none is mapped here.
    path.write_bytes({"cut short": content[: len(content) // 2], "empty": b"", "something else": b"hello"}[damage])
    with pytest.warns(UserWarning, match="cannot be read and is made again"):
        model = loaded(folder)
    assert torch.equal(logits(model), expected)
    assert torch.equal(logits(loaded(folder)), expected)
    assert len(packings) == 2


def test_where_the_checkpoints_folder_cannot_be_written_the_users_cache_is(
    folder: Path, tmp_path: Path, packings: list[str]
):
    (folder / FOLDER).write_text("in the way")
    expected = logits(loaded(folder))
    assert len(cached(tmp_path / "cache" / "redraft")) == 1
    assert torch.equal(logits(loaded(folder)), expected)
    assert len(packings) == 1


def test_two_checkpoints_in_the_users_cache_do_not_meet(folder: Path, tmp_path: Path):
    other = random_checkpoint(tmp_path / "other", seed=5)
    results = []
    for _ in range(2):
        for one in (folder, other):
            if not (one / FOLDER).exists():
                (one / FOLDER).write_text("in the way")
            results.append(logits(loaded(one)))
    assert len(cached(tmp_path / "cache")) == 2
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])
    assert not torch.equal(results[0], results[1])


def test_where_nothing_can_be_written_loading_works_with_a_warning(folder: Path, tmp_path: Path):
    (folder / FOLDER).write_text("in the way")
    (tmp_path / "cache").write_text("in the way too")
    with pytest.warns(UserWarning, match="packed weights could not be kept, the next load packs again"):
        model = loaded(folder)
    assert logits(model).isfinite().all()


def test_a_small_model_leaves_no_files(folder: Path, tmp_path: Path):
    before = cached(folder)
    load_packed(checkpoint.read(folder), "int8")
    assert cached(folder) == before
    assert not (tmp_path / "cache").exists()


def test_what_is_packed_is_told_with_its_place_and_size(folder: Path):
    steps: list[PackingStep] = []
    load_packed(checkpoint.read(folder), "int8", cached_from=0, on_packing=steps.append)
    first, last = steps[0], steps[-1]
    assert (first.source, first.format, first.done, first.folder) == (folder, "int8", 0, folder / FOLDER)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    (kept,) = cached(folder / FOLDER)
    assert first.total == kept.stat().st_size
    assert 0 < first.total - packed_bytes(checkpoint.read(folder), "int8") < 1000, "the header names the weight files"
    assert 0 <= last.total - last.done < 20_000, "all but the header"
    again: list[PackingStep] = []
    load_packed(checkpoint.read(folder), "int8", cached_from=0, on_packing=again.append)
    assert not again, "what is there already is not packed"


def test_another_place_or_none_can_be_named(folder: Path, tmp_path: Path, packings: list[str]):
    before = cached(folder)
    for _ in range(2):
        load_packed(checkpoint.read(folder), "int8", cached_from=0, pack_folder=tmp_path / "packed")
    assert len(packings) == 1
    assert len(cached(tmp_path / "packed")) == 1
    steps: list[PackingStep] = []
    for _ in range(2):
        load_packed(checkpoint.read(folder), "int8", cached_from=0, pack_folder=None, on_packing=steps.append)
    assert [step.done for step in steps].count(0) == 2, "packed twice, in memory"
    assert (steps[0].folder, steps[0].reason) == (None, "as was asked for")
    assert cached(folder) == before


def test_a_place_without_room_is_left_out_before_anything_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    free = {"model": 10, "cache": 1 << 40}

    def disk_usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free["model" if path.is_relative_to(folder) else "cache"])

    monkeypatch.setattr("shutil.disk_usage", disk_usage)
    loaded(folder)
    assert not (folder / FOLDER).exists()
    assert len(cached(tmp_path / "cache")) == 1
    shutil.rmtree(tmp_path / "cache")
    free["cache"] = 10
    with pytest.warns(UserWarning, match=r"could not be kept, the next load packs again .*GB free of"):
        loaded(folder)
    assert not (tmp_path / "cache").exists()
