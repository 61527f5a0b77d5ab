"""A file of packed weights, as ``redraft quantize`` and the first load of a large checkpoint write it: a safetensors
file with the packed matrices, the tensors that are not packed beside them, and a header that says what each is.

All that a model needs is in it: the weights that it was made of are not looked at again.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats import safetensors
from redraft.formats.streamed import read_header
from redraft.formats.tensors import Rows, StoredTensor, matrix_rows
from redraft.kernels.packed import FORMATS, Format, MatrixShape, PackedMatrix
from redraft.models.cache_folder import cache_folders
from redraft.models.looked_up import LookedUp

METHOD = "redraft"
# Raise a format's whenever its layout or the names of its packed matrices change.
LAYOUTS: dict[Format, int] = {"float32": 3, "bfloat16": 3, "int8": 3, "int4": 4}
# Of the file: 2 has checksums, and says which weights a matrix is made of.
VERSION = 2
HEADER, PREFIX = "redraft", "packed."
_AGAIN = "make it again of the checkpoint that it was made of: redraft quantize"


def packed_format(config: Mapping[str, Any]) -> Format | None:
    """Return the format that a ``config.json`` says the weights are packed in; None where they are not.

    Raises CheckpointError for a format that there is none of.
    """
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping) or quantization.get("quant_method") != METHOD:
        return None
    found = next((format for format in FORMATS if format == quantization.get("format")), None)
    if found is None:
        raise CheckpointError(f"config.json: quantization_config.format = {quantization.get('format')!r} is unknown")
    return found


def quantization_config(format: Format) -> dict[str, Any]:
    """Return what ``packed_format`` reads."""
    return {"quant_method": METHOD, "format": format}


def file_name(format: Format) -> str:
    """Return the name of a file of packed weights among those that are kept of a checkpoint."""
    return f"{format}-{LAYOUTS[format]}.safetensors"


def left_behind(path: Path) -> Path | None:
    """Return what was packed of a checkpoint whose weight files are gone, the most exact of it; None where they are
    there, or nothing was."""
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    kept = (folder / file_name(format) for format in FORMATS for folder in cache_folders(path))
    return next((file for file in kept if file.exists()), None)


class PackedFile:
    """A file of packed weights, whose header was read and checked. Tensors are mapped from it.

    It is a ``formats.tensors.TensorReader`` of all the model's tensors, packed ones as what they stand for."""

    def __init__(self, path: Path) -> None:
        """Raises CheckpointError where the file is missing, damaged, cut short, or packed in another way than this
        version reads."""
        self.path = path
        if not path.exists():
            raise CheckpointError(f"weight file {path} is missing; {_AGAIN}")
        self._described = read_header(path)
        self._header = self._checked_header()
        self.format: Format = self._header["format"]

    @property
    def origin(self) -> str | None:
        """The description of the weight files that it was made of; None of a checkpoint of its own."""
        return self._header.get("origin")

    def stored_tensors(self) -> dict[str, StoredTensor]:
        """Describe the model's tensors by stored name, those in matrices as if they lay there by themselves."""
        formats = {name: own["format"] for own in self._header["matrices"].values() for name in own.get("weights", ())}
        packed = {
            name: StoredTensor(self.path, tuple(shape), torch.float32, formats.get(name, self.format))
            for name, shape in self._header["tensors"].items()
        }
        return {**packed, **self._beside}

    @cached_property
    def _beside(self) -> dict[str, StoredTensor]:
        return safetensors.described_tensors(self.path, without=PREFIX)

    def matrices(self) -> dict[str, PackedMatrix]:
        """Return the packed matrices by name. Raises CheckpointError naming one that is not as the header says."""
        with safetensors.opened(self.path) as file:
            return {name: self._matrix(file, name) for name in self._header["matrices"]}

    def looked_up(self, name: str) -> LookedUp:
        """Map a tensor that is not packed by itself, so that what is read of it does not stay in memory."""
        ends = [one["data_offsets"][1] for key, one in self._described.items() if key != "__metadata__"]
        first = self.path.stat().st_size - max(ends) + self._described[name]["data_offsets"][0]
        return LookedUp(self.path, first, self._beside[name].shape, self._beside[name].dtype)

    def __call__(self, name: str, /) -> Tensor:
        """Return a tensor by its stored name: one that is not packed as it is, one in a matrix as what its packed
        numbers stand for, in float32.

        Raises CheckpointError for one that is not there.
        """
        with safetensors.opened(self.path) as file:
            if name in self._beside:
                return file.get_tensor(name)
            for matrix, fields in self._header["matrices"].items():
                if name in fields.get("weights", ()):
                    return self._unpacked(file, matrix, fields["weights"].index(name))
                if name in fields.get("biases", ()):
                    return self._bias(file, matrix, fields["biases"].index(name))
        raise CheckpointError(f"{self.path} does not say where tensor {name} is; {_AGAIN}")

    def rows(self, name: str, number: int, rows: Rows, /) -> Tensor:
        """Return some rows of a matrix, as ``formats.tensors.TensorReader`` says."""
        return matrix_rows(self(name), number, rows)

    def _unpacked(self, file: Any, matrix: str, index: int) -> Tensor:
        fields, shapes = self._header["matrices"][matrix], self._header["tensors"]
        own = [shapes[name] for name in fields["weights"]]
        start = sum(shape[-2] for shape in own[:index])
        rows = self._matrix(file, matrix).unpacked()[:, start : start + own[index][-2]]
        if fields["column_scale"] is not None:
            scale = file.get_tensor(fields["column_scale"]).float() * fields["column_factor"]
            rows = rows / torch.where(scale == 0, 1.0, scale)
        return rows.reshape(own[index])

    def _bias(self, file: Any, matrix: str, index: int) -> Tensor:
        fields, shapes = self._header["matrices"][matrix], self._header["tensors"]
        lengths = [shapes[name][-1] for name in fields["biases"]]
        bias = self._matrix(file, matrix).plain_bias
        assert bias is not None, "the header lists it"
        start = sum(lengths[:index])
        return bias[:, start : start + lengths[index]].reshape(shapes[fields["biases"][index]])

    def _matrix(self, file: Any, name: str) -> PackedMatrix:
        fields = self._header["matrices"][name]
        keys = ("format", "outputs", "inputs", "count", "activation")
        shape = MatrixShape(**{key: fields[key] for key in keys})
        full = {key: f"{PREFIX}{name}.{key}" for key in ("data", "scales", "bias")}
        own = {key: file.get_tensor(one) for key, one in full.items() if one in self._described}
        given = {key: tuple(part.shape) for key, part in own.items()}
        wanted = {key: part for key, (part, _) in shape.parts.items()}
        if {key: part for key, part in given.items() if key != "bias"} != wanted:
            raise CheckpointError(
                f"{self.path}: packed matrix {name} is {given}, and by the header it must be {wanted}; {_AGAIN}"
            )
        scales = own["scales"] if "scales" in own else torch.empty(shape.scales)
        return PackedMatrix(**{key: fields[key] for key in keys}, data=own["data"], scales=scales, bias=own.get("bias"))

    def _checked_header(self) -> dict[str, Any]:
        text = self._described.get("__metadata__", {}).get(HEADER)
        if text is None:
            raise CheckpointError(f"{self.path} has no packed matrices, and config.json says it has; {_AGAIN}")
        try:
            header: dict[str, Any] = json.loads(text)
            format, layout, version = header["format"], header["layout"], header.get("version", 1)
            known = LAYOUTS[format]
            for own in (header["tensors"], header["matrices"]):
                own.values()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self.path}: the header of its packed matrices is damaged ({error}); {_AGAIN}"
            ) from None
        if version > VERSION:
            raise CheckpointError(
                f"{self.path} is of version {version} of packed files, and this version of redraft reads up to "
                f"{VERSION}; take a newer one, or {_AGAIN}"
            )
        if layout != known:
            raise CheckpointError(
                f"{self.path} is packed in layout {layout} of {format}, and this version of redraft reads layout "
                f"{known}; {_AGAIN}"
            )
        return header


def open_folder(folder: Path, format: Format) -> PackedFile:
    """Open the weights of a folder that says they are packed in ``format``.

    Raises CheckpointError as ``PackedFile``, and where the file is of another format.
    """
    found = PackedFile(folder / safetensors.WEIGHTS_FILE)
    if found.format != format:
        raise CheckpointError(f"{found.path} holds {found.format} weights, and by config.json they are {format}")
    return found
