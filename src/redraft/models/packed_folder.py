"""A checkpoint folder whose matrices are packed already, as ``redraft quantize`` writes it: mapped as they are.

``config.json`` is that of the model, with a ``quantization_config``; the weight file has the packed matrices beside the
tensors that are not packed, and says in its header what each matrix is.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.formats import safetensors
from redraft.formats.tensors import StoredTensor
from redraft.kernels.packed import FORMATS, Format, PackedMatrix, shapes

METHOD = "redraft"
# Raise a format's whenever its layout, its quantisation or the names of its packed matrices change.
LAYOUTS: dict[Format, int] = {"float32": 3, "bfloat16": 3, "int8": 3, "int4": 4}
_HEADER, _PREFIX = "redraft", "packed."
_DESCRIBED = ("format", "outputs", "inputs", "count", "activation")


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


def write(
    folder: Path,
    format: Format,
    matrices: Mapping[str, PackedMatrix],
    beside: Mapping[str, Tensor],
    packed: Mapping[str, tuple[int, ...]],
) -> None:
    """Write the weight file. ``beside``: tensors that are not packed, by stored name; ``packed``: the shapes of those
    that are."""
    parts = dict(beside)
    for name, matrix in matrices.items():
        fields = {"data": matrix.data, "scales": matrix.scales, "bias": matrix.bias}
        # What a format does not have is left out.
        parts |= {f"{_PREFIX}{name}.{key}": part for key, part in fields.items() if part is not None and part.numel()}
    header = {
        "layout": LAYOUTS[format],
        "format": format,
        "matrices": {name: {key: getattr(matrix, key) for key in _DESCRIBED} for name, matrix in matrices.items()},
        "tensors": {name: list(shape) for name, shape in packed.items()},
    }
    described = {name: (tuple(part.shape), part.dtype) for name, part in parts.items()}
    safetensors.write_each(folder, described, parts.__getitem__, {_HEADER: json.dumps(header)})


def stored_tensors(folder: Path, format: Format) -> dict[str, StoredTensor]:
    """Describe the tensors of a packed folder, those in matrices as if they lay there by themselves.

    Raises CheckpointError where the file is damaged, or packed in another way than this version does.
    """
    beside, path = safetensors.stored_tensors(folder, without=_PREFIX), folder / safetensors.WEIGHTS_FILE
    packed = {
        name: StoredTensor(path, tuple(shape), torch.float32, format)
        for name, shape in _header(folder, format)["tensors"].items()
    }
    return {**packed, **beside}


def read_matrices(folder: Path, format: Format) -> dict[str, PackedMatrix]:
    """Return the packed matrices by name, mapped from the file.

    Raises CheckpointError naming a matrix that is missing or not as the header says.
    """
    path, found = folder / safetensors.WEIGHTS_FILE, {}
    described = _header(folder, format)["matrices"]
    with safetensors.opened(path) as file:
        names = set(file.keys())
        for name, fields in described.items():
            parts = {key: f"{_PREFIX}{name}.{key}" for key in ("data", "scales", "bias")}
            own = {key: file.get_tensor(full) for key, full in parts.items() if full in names}
            found[name] = _matrix(path, name, fields, own)
    return found


def _matrix(path: Path, name: str, fields: Mapping[str, Any], own: Mapping[str, Tensor]) -> PackedMatrix:
    data, scales = shapes(
        fields["format"], fields["outputs"], fields["inputs"], fields["count"], fields["activation"] is not None
    )
    given = {key: tuple(part.shape) for key, part in own.items()}
    wanted = {"data": data, **({"scales": scales} if prod(scales) else {})}
    if {key: shape for key, shape in given.items() if key != "bias"} != wanted:
        raise CheckpointError(f"{path}: packed matrix {name} is {given}, and by the header it must be {wanted}")
    return PackedMatrix(**fields, data=own["data"], scales=own.get("scales", torch.empty(scales)), bias=own.get("bias"))


def _header(folder: Path, format: Format) -> dict[str, Any]:
    path = folder / safetensors.WEIGHTS_FILE
    text = safetensors.read_metadata(folder).get(_HEADER)
    if text is None:
        raise CheckpointError(f"{path} has no packed matrices, and config.json says it has; write it again")
    header: dict[str, Any] = json.loads(text)
    if header["format"] != format:
        raise CheckpointError(f"{path} holds {header['format']} weights, and by config.json they are {format}")
    if header["layout"] != LAYOUTS[format]:
        raise CheckpointError(
            f"{path} is packed in layout {header['layout']} of {format}, and this version of redraft reads layout "
            f"{LAYOUTS[format]}; make it again of the checkpoint that it was made of: redraft quantize"
        )
    return header
