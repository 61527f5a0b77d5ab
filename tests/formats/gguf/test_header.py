"""A header is read as the ``gguf`` package reads it, and a damaged one is refused by name."""

from pathlib import Path

import gguf
import pytest
import torch

from redraft.errors import CheckpointError
from redraft.formats.gguf.blocks import TYPES, read_tensor
from redraft.formats.gguf.file import open_gguf
from redraft.formats.gguf.header import read_header
from tests.gguf_files import smollm2_path, write_gguf

FIELDS = {
    "a.text": "grüße",
    "a.whole": 7,
    "a.share": 0.25,
    "a.flag": True,
    "a.texts": ["one", "", "drei"],
    "a.numbers": [1, 2, 3],
    "a.flags": [True, False],
}


def small(folder: Path) -> Path:
    tensors = {"x.weight": torch.arange(12.0).view(3, 4), "norm": torch.ones(5)}
    return write_gguf(folder / "small.gguf", "llama", FIELDS, tensors)


def read_all(path: Path) -> dict[str, torch.Tensor]:
    header = read_header(path)
    return {name: read_tensor(header, name) for name in header.extents}


def test_fields_and_tensors_are_what_was_written(tmp_path: Path):
    header = read_header(small(tmp_path))
    assert header.architecture == "llama"
    assert {name: header.field(name) for name in FIELDS} == FIELDS
    assert {name: one.shape for name, one in header.extents.items()} == {"x.weight": (3, 4), "norm": (5,)}
    assert torch.equal(read_tensor(header, "x.weight"), torch.arange(12.0).view(3, 4))
    assert header.field("a.missing", 3) == 3
    with pytest.raises(CheckpointError, match=r"no 'a\.missing'"):
        header.field("a.missing")


@pytest.mark.slow
def test_a_real_header_is_read_as_the_package_reads_it():
    header, reader = read_header(smollm2_path()), gguf.GGUFReader(smollm2_path())
    theirs = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.metadata == theirs
    assert {name: (one.offset, one.type, one.shape) for name, one in header.extents.items()} == {
        tensor.name: (int(tensor.data_offset), int(tensor.tensor_type), tuple(reversed(tensor.shape.tolist())))
        for tensor in reader.tensors
    }


def test_a_file_that_is_cut_short_anywhere_is_refused(tmp_path: Path):
    path = small(tmp_path)
    whole, last = path.read_bytes(), read_header(path).extents["norm"]
    path = tmp_path / "cut.gguf"
    for length in range(last.offset + 4 * last.shape[0]):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut\.gguf"):
            read_all(path)


def test_what_is_not_read_is_named(tmp_path: Path):
    path = tmp_path / "other.gguf"
    path.write_bytes(b"GGML" + bytes(64))
    with pytest.raises(CheckpointError, match="no GGUF file"):
        read_header(path)
    path.write_bytes(b"GGUF" + (9).to_bytes(4, "little") + bytes(64))
    with pytest.raises(CheckpointError, match="version 9"):
        read_header(path)
    with pytest.raises(CheckpointError, match=r"'falcon' is not supported; supported are 'llama', .*'diffusion-gemma'"):
        open_gguf(write_gguf(path, "falcon", {}, {"x": torch.ones(4)}))
    with pytest.raises(CheckpointError, match="one of 3 parts; join them"):
        open_gguf(write_gguf(path, "llama", {"split.count": 3}, {"x": torch.ones(4)}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_gguf(tmp_path / "missing.gguf")


def test_a_tensor_of_another_type_is_named_with_those_that_are_read(tmp_path: Path):
    path = tmp_path / "ternary.gguf"
    write_gguf(path, "llama", {}, {"x.weight": torch.ones(2, 256)}, gguf.GGMLQuantizationType.TQ1_0)
    with pytest.raises(CheckpointError, match=r"x\.weight is stored as TQ1_0; read are F32, .*Q6_K") as error:
        read_tensor(read_header(path), "x.weight")
    assert all(name in str(error.value) for name in TYPES.values())
