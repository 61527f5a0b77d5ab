"""Tensors are described from headers, read by name whatever file they lie in, and written in the place of others."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from redraft.errors import CheckpointError
from redraft.formats import safetensors
from redraft.formats.safetensors import INDEX_FILE, WEIGHTS_FILE, StoredTensor, reading, stored_tensors, write

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"t{i}": torch.randn(i + 1, 3, generator=generator).to(dtype) for i, dtype in enumerate(DTYPES)}


def shards(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A file a tensor, behind an index."""
    names = {name: f"part-{number}.safetensors" for number, name in enumerate(tensors)}
    for name, file in names.items():
        save_file({name: tensors[name]}, folder / file)
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": names}))
    return folder


@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_described_is_what_is_read(tmp_path: Path, tensors, sharded: bool):
    if sharded:
        shards(tmp_path, tensors)
    else:
        write(tmp_path, tensors)
    stored = stored_tensors(tmp_path)
    assert {name: (one.shape, one.dtype) for name, one in stored.items()} == {
        name: (tuple(value.shape), value.dtype) for name, value in tensors.items()
    }
    with reading(stored) as tensor:
        assert all(torch.equal(tensor(name), value) for name, value in tensors.items())


def test_only_the_files_of_what_is_wanted_are_opened(tmp_path: Path, tensors):
    stored = stored_tensors(shards(tmp_path, tensors))
    (tmp_path / "part-1.safetensors").unlink()
    wanted = {name: one for name, one in stored.items() if name != "t1"}
    with reading(wanted) as tensor:
        assert torch.equal(tensor("t2"), tensors["t2"])
    missing = pytest.raises(CheckpointError, match=r"part-1\.safetensors is missing")
    with missing, reading(stored):
        pass


def test_writing_takes_the_place_of_an_index_and_of_a_link(tmp_path: Path, tensors):
    shards(tmp_path, {"old": torch.zeros(2)})
    elsewhere = tmp_path / "shared"
    elsewhere.write_bytes(b"others read this")
    (tmp_path / WEIGHTS_FILE).symlink_to(elsewhere)
    write(tmp_path, {"t": tensors["t0"].T})
    assert stored_tensors(tmp_path) == {"t": StoredTensor(tmp_path / WEIGHTS_FILE, (3, 1), torch.float32)}
    assert elsewhere.read_bytes() == b"others read this"


def test_a_dtype_that_is_not_read_is_named_with_its_tensor(tmp_path: Path):
    save_file({"whole": torch.zeros(2, dtype=torch.int64)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="tensor whole is stored as I64; supported are F32, BF16, F16"):
        stored_tensors(tmp_path)


def test_a_folder_without_weights_says_what_it_lacks(tmp_path: Path):
    with pytest.raises(CheckpointError, match=f"neither {WEIGHTS_FILE} nor {INDEX_FILE}"):
        safetensors.stored_tensors(tmp_path)
