"""Weights in safetensors files, one or many behind an index: described by their headers, read by name, written."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.files import replacing
from redraft.formats.json_objects import read_object
from redraft.formats.pointer import check_no_pointer
from redraft.formats.tensors import Part, RawReader, Rows, StoredTensor, TensorReader, matrix_rows
from redraft.kernels.whole_numbers import WholeNumbers

INDEX_FILE, WEIGHTS_FILE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Plain tensors, by the format's names."""
DTYPE_NAMES = {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
    **{dtype: name for name, dtype in DTYPES.items()},
}
"""The names that a header has for the dtypes that are written."""
Described = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor to write."""


def stored_tensors(folder: Path, without: str | None = None) -> dict[str, StoredTensor]:
    """Describe all tensors of a folder of plain ones by name, in the order of its files, from headers alone; those
    whose names begin with ``without`` are left out.

    Raises CheckpointError naming the file that is missing or damaged, or the tensor of a dtype that is not read.
    """
    return {name: plain(part) for name, part in described(folder, without).items()}


def described(folder: Path, without: str | None = None) -> dict[str, Part]:
    """Return all that the headers say, by name, in the order of the files. Raises as ``stored_tensors``, but for
    dtypes."""
    if (folder / INDEX_FILE).exists():
        index = read_object(folder / INDEX_FILE).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise CheckpointError(f"{folder / INDEX_FILE} has no 'weight_map' of tensor names to file names")
        paths = [folder / name for name in sorted(set(index.values()))]
    elif (folder / WEIGHTS_FILE).exists():
        index, paths = {}, [folder / WEIGHTS_FILE]
    else:
        raise CheckpointError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}; its weights are missing")
    found = {part.name: part for path in paths for part in parts(path, without)}
    for name in index:
        if name not in found and (without is None or not name.startswith(without)):
            raise CheckpointError(f"{folder / index[name]} lacks tensor {name}, which {INDEX_FILE} says it holds")
    return found


def plain(part: Part) -> StoredTensor:
    """Describe a tensor that is stored as it is. Raises CheckpointError for a dtype that is none of its kind."""
    if part.dtype not in DTYPES:
        raise CheckpointError(f"{part} is stored as {part.dtype}; supported are {', '.join(DTYPES)}")
    return StoredTensor(part.file, part.shape, DTYPES[part.dtype])


@contextmanager
def reading(tensors: Mapping[str, StoredTensor]) -> Iterator[TensorReader]:
    """Open the files of ``tensors`` and hand out what reads one of them by name.

    Raises CheckpointError naming the file that cannot be opened.
    """
    with opening(_files(tensors.values())) as raw:
        yield _Reader(tensors, raw)


@contextmanager
def opening(files: Iterable[Path]) -> Iterator[RawReader]:
    """Open files and hand out what reads a tensor of any of them. Raises CheckpointError as ``reading``."""
    with ExitStack() as stack:
        open_files = {path: stack.enter_context(opened(path)) for path in files}
        yield lambda file, name: open_files[file].get_tensor(name)


class _Reader:
    """A ``TensorReader`` of files that are open."""

    def __init__(self, tensors: Mapping[str, StoredTensor], raw: RawReader) -> None:
        self._tensors, self._raw = tensors, raw

    def __call__(self, name: str, /) -> Tensor:
        tensor = self._tensors[name]
        return self._plain(name) if tensor.encoding is None else tensor.encoding.values(self._raw)

    def rows(self, name: str, number: int, rows: Rows, /) -> Tensor | WholeNumbers:
        encoding = self._tensors[name].encoding
        if encoding is None:
            return matrix_rows(self._plain(name), number, rows)
        return encoding.rows(self._raw, number, rows)

    def _plain(self, name: str) -> Tensor:
        return self._raw(self._tensors[name].file, name)


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write all tensors into one file, in the place of what the folder had."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # A link, as in the hub's cache, is replaced itself: others share the file that it leads to.
    with replacing(folder / WEIGHTS_FILE, keep_link=False) as new:
        save_file(whole, new, {"format": "pt"})
    # An index left by a sharded checkpoint would be read in place of the file just written.
    (folder / INDEX_FILE).unlink(missing_ok=True)


def _files(tensors: Iterable[StoredTensor]) -> set[Path]:
    return {file for tensor in tensors for file in tensor.files}


def described_tensors(path: Path, without: str | None = None) -> dict[str, StoredTensor]:
    """Describe the tensors of one file by name; raises as ``stored_tensors``."""
    return {part.name: plain(part) for part in parts(path, without)}


def parts(path: Path, without: str | None = None) -> Iterator[Part]:
    """Yield what the header of one file says, but for names that begin with ``without``; raises as ``opened``."""
    with opened(path) as file:
        for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
            if without is None or not name.startswith(without):
                part = file.get_slice(name)
                yield Part(path, name, part.get_dtype(), tuple(part.get_shape()))


def opened(path: Path) -> Any:
    """Open one file, as the library does; raises CheckpointError where it is missing or damaged."""
    if not path.exists():
        raise CheckpointError(f"weight file {path} is missing; download the checkpoint again")
    check_no_pointer(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weight file {path} is damaged or cut short ({error}); download it again") from error
