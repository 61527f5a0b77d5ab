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
from redraft.formats.tensors import StoredTensor, TensorReader

INDEX_FILE, WEIGHTS_FILE = "model.safetensors.index.json", "model.safetensors"
_TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
DTYPE_NAMES = {
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
    **{dtype: name for name, dtype in _TORCH_DTYPES.items()},
}
"""What a header calls the dtypes that are written."""
Described = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor to write."""


def stored_tensors(folder: Path, without: str | None = None) -> dict[str, StoredTensor]:
    """Describe all tensors of a folder by name, in the order of its files, from headers alone; those whose names begin
    with ``without`` are left out.

    Raises CheckpointError naming the file that is missing or damaged, or the tensor of a dtype that is not read.
    """
    if (folder / INDEX_FILE).exists():
        index = read_object(folder / INDEX_FILE).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise CheckpointError(f"{folder / INDEX_FILE} has no 'weight_map' of tensor names to file names")
        paths = [folder / name for name in sorted(set(index.values()))]
    elif (folder / WEIGHTS_FILE).exists():
        index, paths = {}, [folder / WEIGHTS_FILE]
    else:
        raise CheckpointError(f"{folder} has neither {WEIGHTS_FILE} nor {INDEX_FILE}; its weights are missing")
    stored = {name: tensor for path in paths for name, tensor in described_tensors(path, without).items()}
    for name in index:
        if name not in stored:
            raise CheckpointError(f"{folder / index[name]} lacks tensor {name}, which {INDEX_FILE} says it holds")
    return stored


@contextmanager
def reading(tensors: Mapping[str, StoredTensor]) -> Iterator[TensorReader]:
    """Open the files of ``tensors`` and hand out what reads one of them by name.

    Raises CheckpointError naming the file that cannot be opened.
    """
    with ExitStack() as files:
        open_files = {path: files.enter_context(opened(path)) for path in _files(tensors.values())}
        yield lambda name: open_files[tensors[name].file].get_tensor(name)


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write all tensors into one file, in the place of what the folder had."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # A link, as in the hub's cache, is replaced itself: others share the file that it leads to.
    with replacing(folder / WEIGHTS_FILE, keep_link=False) as new:
        save_file(whole, new, {"format": "pt"})
    # An index left by a sharded checkpoint would be read in place of the file just written.
    (folder / INDEX_FILE).unlink(missing_ok=True)


def _files(tensors: Iterable[StoredTensor]) -> set[Path]:
    return {tensor.file for tensor in tensors}


def described_tensors(path: Path, without: str | None = None) -> dict[str, StoredTensor]:
    """Describe the tensors of one file by name; raises as ``stored_tensors``."""
    return dict(_described(path, without))


def _described(path: Path, without: str | None) -> Iterator[tuple[str, StoredTensor]]:
    with opened(path) as file:
        for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
            if without is not None and name.startswith(without):
                continue
            part = file.get_slice(name)
            if part.get_dtype() not in _TORCH_DTYPES:
                supported = ", ".join(_TORCH_DTYPES)
                raise CheckpointError(
                    f"{path}: tensor {name} is stored as {part.get_dtype()}; supported are {supported}"
                )
            yield name, StoredTensor(path, tuple(part.get_shape()), _TORCH_DTYPES[part.get_dtype()])


def opened(path: Path) -> Any:
    """Open one file, as the library does; raises CheckpointError where it is missing or damaged."""
    if not path.exists():
        raise CheckpointError(f"weight file {path} is missing; download the checkpoint again")
    check_no_pointer(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"weight file {path} is damaged or cut short ({error}); download it again") from error
