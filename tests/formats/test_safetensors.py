"""Tensors are described from headers, read by name whatever file they lie in, and written in the place of others."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from redraft.errors import CheckpointError
from redraft.formats import safetensors
from redraft.formats.safetensors import (
    INDEX_FILE,
    WEIGHTS_FILE,
    reading,
    stored_tensors,
    write,
)
from redraft.formats.streamed import read_header, write_each
from redraft.formats.tensors import StoredTensor

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


def test_tensors_written_one_at_a_time_are_what_the_library_reads(tmp_path: Path, tensors):
    """Asked for one after the other, in any shape and dtype; whole vectors begin with one, and no index is left."""
    shards(tmp_path, {"old": torch.zeros(2)})
    tensors |= {"bytes": torch.arange(200, dtype=torch.uint8).view(4, 50), "one": torch.tensor(3.0)}
    tensors |= {"nothing": torch.zeros(2, 0), "wide": torch.ones(16, 8), "turned": torch.arange(6.0).view(2, 3).t()}
    asked: list[str] = []

    def tensor(name: str, /) -> torch.Tensor:
        asked.append(name)
        return tensors[name]

    described = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
    write_each(tmp_path, described, tensor, {"said": "words"})
    assert sorted(asked) == sorted(tensors)
    found = load_file(tmp_path / WEIGHTS_FILE)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert torch.equal(found[name], value)
    texts = read_header(tmp_path / WEIGHTS_FILE)["__metadata__"]
    assert (texts["format"], texts["said"]) == ("pt", "words")
    assert "bytes" not in stored_tensors_without_bytes(tmp_path)
    header = (tmp_path / WEIGHTS_FILE).read_bytes()
    size = int.from_bytes(header[:8], "little")
    begins = {name: one["data_offsets"][0] for name, one in json.loads(header[8 : 8 + size]).items() if name[0] != "_"}
    assert (8 + size) % 64 == 0
    assert begins["wide"] % 64 == 0
    assert all(begins[name] % value.itemsize == 0 for name, value in tensors.items())


def stored_tensors_without_bytes(folder: Path) -> dict[str, StoredTensor]:
    """A dtype that is not read is no fault where its tensors are not asked for."""
    with pytest.raises(CheckpointError, match="tensor bytes is stored as U8"):
        stored_tensors(folder)
    return stored_tensors(folder, without="bytes")


def test_a_tensor_that_is_not_as_it_was_described_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"t is torch\.float32 \[3\], and was to be torch\.bfloat16 \[3\]"):
        write_each(tmp_path, {"t": ((3,), torch.bfloat16)}, lambda name: torch.zeros(3))
    assert not list(tmp_path.iterdir())
